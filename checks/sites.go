package checks

import (
	"fmt"
	"slices"

	"github.com/jailup/jailup/internal/webconf"
)

// maxHTTP bounds the sites that are asked, so that a server of thousands is not
// under load from its checks.
const maxHTTP = 200

// flags are the addresses by name, each with what all that name it say of it:
// servers share an address and how it is spoken to.
func (t *Target) flags() map[string]webconf.Listen {
	flags := map[string]webconf.Listen{}
	own := slices.Clone(t.Listens)
	for _, v := range t.VHosts {
		own = append(own, v.Listens...)
	}
	for _, l := range own {
		if f, ok := flags[l.String()]; ok {
			l.SSL, l.HTTP2, l.ProxyProtocol = l.SSL || f.SSL, l.HTTP2 || f.HTTP2, l.ProxyProtocol || f.ProxyProtocol
		}
		flags[l.String()] = l
	}
	return flags
}

// network makes one HTTP check for each address and site, and a connect for
// every other TCP address.
func (t *Target) network(set *Set) []Check {
	var list []Check
	flags := t.flags()
	made := map[string]bool{}
	left := 0
	site := func(l webconf.Listen, host string) {
		h := newHTTPCheck(flags[l.String()], host, t.Dial)
		h.name = t.name(KindHTTP, l.String(), host)
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
		if l.Network == "udp" || l.Context == contextFastCGI || asked[l.String()] && l.Context == "http" {
			continue
		}
		if l.Context == "http" {
			site(l, "")
			continue
		}
		c := &tcpCheck{name: t.name(KindTCP, l.String()), network: l.Network, address: dialAddress(l), dial: t.Dial}
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
