package checks

import (
	"net"
	"strconv"
	"strings"

	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

// contextFastCGI is the kind of server that a pool's address belongs to.
const contextFastCGI = "fastcgi"

// poolTitle is how the command line of a pool's worker begins.
const poolTitle = "php-fpm: pool "

// FPM fills in what the configuration of PHP-FPM tells.
func (t *Target) FPM(f *phpconf.FPM) {
	t.Pools = f.Pools
	t.Listens, t.VHosts, t.ErrorLogs = nil, nil, nil
	// Pools may start their workers with the first request, and end them when
	// they idle; which of them run is no matter, but that each answers is.
	t.Workers = Workers{Title: poolTitle, Few: true, Varied: true}
	for _, p := range f.Pools {
		if l, ok := poolListen(p); ok {
			t.Listens = append(t.Listens, l)
		}
		if l, ok := fastCGIListen(p.StatusNetwork, p.StatusAddress); ok {
			t.Listens = append(t.Listens, l)
		}
		t.Workers.MayBeRoot = t.Workers.MayBeRoot || isRoot(p.User)
		if p.Chroot != "" {
			t.Workers.Roots = append(t.Workers.Roots, WorkerRoot{poolTitle + p.Name, p.Chroot})
		}
	}
	if strings.HasPrefix(f.ErrorLog, "/") {
		t.ErrorLogs = []ErrorLog{{f.ErrorLog, LogFPM}}
	}
}

// poolListen is a pool's address as a listen; false if it is none.
func poolListen(p phpconf.Pool) (webconf.Listen, bool) {
	l, ok := fastCGIListen(p.Network, p.Address)
	l.File, l.Line = p.File, p.Line
	switch {
	case !p.Wildcard:
	case strings.HasPrefix(p.Listen, "0.0.0.0:"):
		l.Address = "0.0.0.0"
	default: // a bare port, too
		l.Address, l.Any = "::", true
	}
	return l, ok
}

func fastCGIListen(network, address string) (webconf.Listen, bool) {
	l := webconf.Listen{Context: contextFastCGI, Network: network, Address: address}
	if network == "unix" {
		return l, address != ""
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || network != "tcp" {
		return l, false
	}
	l.Address, l.ByName = host, net.ParseIP(host) == nil
	l.Port, err = strconv.Atoi(port)
	return l, err == nil
}
