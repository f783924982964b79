package checks

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/webconf"
)

// Processes are a server's processes.
type Processes struct {
	Master int   // 0 if there is none
	All    []int // the master and all others
}

// Files opens regular files of the jail for reading and never follows a link
// out of it; *jail.Root does.
type Files interface {
	OpenFile(path string) (*os.File, error)
}

// Parents opens the folder that holds a path of the jail and returns the
// path's last name; *jail.Root does. Unix sockets are reached by it.
type Parents interface {
	OpenParent(path string) (*os.File, string, error)
}

// Workers tells what is known about the processes beside the master.
type Workers struct {
	// None tells that the server has no workers.
	None bool
	// Title is how a worker's command line begins ("nginx: worker process");
	// "" takes every child for one.
	Title string
	// Stable tells that workers come and go only with a reload, so that
	// other changes are crashes.
	Stable bool
	// MayBeRoot tells that the configuration has the workers run as root.
	MayBeRoot bool
}

// Target is the server to look at.
type Target struct {
	// Server finds the processes; none is not an error.
	Server func(ctx context.Context) (Processes, error)
	// RootDev and RootIno are the jail's root.
	RootDev, RootIno uint64
	// Files reads logs, Parents reaches unix sockets. Where one is nil, what
	// needs it is inconclusive.
	Files   Files
	Parents Parents
	// Listens and VHosts are derived from the configuration; ErrorLogs are
	// paths in the jail, of nginx's format.
	Listens   []webconf.Listen
	VHosts    []webconf.VHost
	ErrorLogs []string
	Workers   Workers
	// Dial connects to "tcp" addresses and, by path in the jail, to "unix"
	// ones; nil dials from where jailup runs.
	Dial DialFunc
}

// DialFunc is the signature of net.Dialer.DialContext.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Nginx fills in what the configuration of nginx tells.
func (t *Target) Nginx(n *webconf.Nginx) {
	t.Listens = n.Listens()
	t.VHosts = n.Servers()
	t.ErrorLogs = nil
	for _, log := range n.ErrorLogs() {
		if strings.HasPrefix(log, "/") {
			t.ErrorLogs = append(t.ErrorLogs, log)
		}
	}
	t.Workers = Workers{
		None: !n.Master(), Title: "nginx: worker process", Stable: true,
		MayBeRoot: n.WorkerUser() == "root" || !n.Master(),
	}
}

// maxHTTP bounds the sites that are asked, so that a server of thousands is not
// under load from its checks.
const maxHTTP = 200

// Set is the list of checks for one server.
type Set struct {
	checks []Check
	logs   []*logCheck
	notes  []string
}

// Checks returns the checks, the most telling ones first.
func (s *Set) Checks() []Check { return s.checks }

// Notes tells what is not looked at, in words.
func (s *Set) Notes() []string { return s.notes }

// Mark notes the ends of the error logs. Called after the stop, before the
// start, and saved with the run.
func (s *Set) Mark() []Mark {
	var marks []Mark
	for _, l := range s.logs {
		marks = append(marks, l.mark())
	}
	return marks
}

// Since has the log checks look at what came after the marks; without it, they
// only record what the logs complain about anyway, for a baseline. Marks of
// other logs are ignored; a log without a mark is read from its begin.
func (s *Set) Since(marks []Mark) {
	for _, l := range s.logs {
		m := Mark{Path: l.path}
		for _, known := range marks {
			if known.Path == l.path {
				m = known
			}
		}
		l.since(m)
	}
}

// Standard makes the checks for a target: the server's own, then the user's.
// The error names the key of the configuration that is wrong.
func Standard(t Target, user Config) (*Set, error) {
	if err := user.Validate(); err != nil {
		return nil, err
	}
	if t.Dial == nil {
		t.Dial = dialer(t.Parents)
	}
	set := &Set{}
	add := func(c Check) {
		if !user.skips(c.Name()) {
			set.checks = append(set.checks, c)
		}
	}
	if t.Server != nil {
		add(&processCheck{target: t})
		if len(t.Listens) > 0 {
			add(&portCheck{target: t})
		}
	}
	for _, c := range t.network(set) {
		add(c)
	}
	for _, path := range t.ErrorLogs {
		l := &logCheck{files: t.Files, path: path}
		if !user.skips(l.Name()) {
			set.logs = append(set.logs, l)
			set.checks = append(set.checks, l)
		}
	}
	for _, u := range user.Checks {
		c, err := u.check(t)
		if err != nil {
			return nil, err
		}
		add(c)
	}
	return set, nil
}

// network makes one HTTP check for each address and site, and a connect for
// every other TCP address.
func (t *Target) network(set *Set) []Check {
	var list []Check
	flags := map[string]webconf.Listen{}
	own := slices.Clone(t.Listens)
	for _, v := range t.VHosts {
		own = append(own, v.Listens...)
	}
	for _, l := range own {
		f, ok := flags[l.String()]
		if ok {
			l.SSL, l.HTTP2, l.ProxyProtocol = l.SSL || f.SSL, l.HTTP2 || f.HTTP2, l.ProxyProtocol || f.ProxyProtocol
		}
		flags[l.String()] = l
	}
	made := map[string]bool{}
	left := 0
	site := func(l webconf.Listen, host string) {
		h := newHTTPCheck(flags[l.String()], host, t.Dial)
		switch {
		case made[h.Name()]:
		case len(list) >= maxHTTP:
			left++
		default:
			list = append(list, h)
		}
		made[h.Name()] = true
	}
	for _, v := range t.VHosts {
		for _, l := range v.Listens {
			if l.Context == "http" && l.Network != "udp" {
				site(l, v.HostName())
			}
		}
	}
	asked := map[string]bool{}
	for _, v := range t.VHosts {
		for _, l := range v.Listens {
			asked[l.String()] = true
		}
	}
	for _, l := range t.Listens {
		if l.Network == "udp" || asked[l.String()] && l.Context == "http" {
			continue
		}
		if l.Context == "http" {
			site(l, "")
			continue
		}
		c := &tcpCheck{name: "tcp " + l.String(), network: l.Network, address: dialAddress(l), dial: t.Dial}
		if !made[c.name] && len(list) < maxHTTP {
			list = append(list, c)
		}
		made[c.name] = true
	}
	if left > 0 {
		set.notes = append(set.notes, fmt.Sprintf("%d sites are not asked: only the first %d are", left, maxHTTP))
	}
	return list
}
