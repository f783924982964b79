package webconf

import (
	"net/netip"
	"strconv"
	"strings"
)

// Listens returns the addresses that the servers of http, stream and mail
// listen on, one for each listen directive, a range of ports unfolded. A
// server of http without one listens on *:80, as documented for a master that
// runs as root. A directive that nginx itself would refuse is left out.
func (n *Nginx) Listens() []Listen {
	var all []Listen
	for _, v := range n.Servers() {
		all = append(all, v.Listens...)
		if len(all) > maxListens {
			return all[:maxListens]
		}
	}
	return all
}

// parseListen reads the arguments of a listen directive. It returns nil for
// what nginx would refuse.
func parseListen(d *Directive, context string) []Listen {
	base := Listen{Context: context, Network: "tcp", IPv6Only: true, File: d.File, Line: d.Line}
	for _, option := range d.Args[min(1, len(d.Args)):] {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "ssl":
			base.SSL = true
		case "http2":
			base.HTTP2 = true
		case "quic":
			base.QUIC = true
			base.Network = "udp"
		case "udp":
			base.Network = "udp"
		case "proxy_protocol":
			base.ProxyProtocol = true
		case "default_server", "default":
			base.Default = true
		case "reuseport":
			base.ReusePort = true
			base.Bind = true
		case "ipv6only":
			base.IPv6Only = value != "off"
			base.Bind = true
		case "bind", "backlog", "rcvbuf", "sndbuf", "accept_filter", "deferred", "fastopen", "so_keepalive", "setfib":
			// All of these need a call on a socket of their own.
			base.Bind = true
		}
	}
	return parseAddress(d.Arg(0), base)
}

// parseAddress reads "unix:PATH", "PORT", "ADDRESS", "ADDRESS:PORT", with "*"
// for every IPv4 address, IPv6 in brackets, and FIRST-LAST for PORT.
func parseAddress(text string, base Listen) []Listen {
	if text == "" || strings.Contains(text, "$") {
		return nil
	}
	if p, ok := strings.CutPrefix(text, "unix:"); ok {
		if p == "" {
			return nil
		}
		base.Network, base.Address, base.IPv6Only = "unix", p, false
		return []Listen{base}
	}
	host, ports := splitListen(text)
	if host == "" {
		return nil
	}
	switch address, err := netip.ParseAddr(host); {
	case host == "*":
		base.Address = "0.0.0.0"
	case err == nil && address.Zone() == "":
		base.Address = address.String()
	case strings.ContainsAny(host, ":/ \t\n") || strings.Trim(host, "0123456789") == "":
		return nil // also a number that is no port
	default:
		base.Address, base.ByName = host, true
	}
	if !strings.Contains(base.Address, ":") {
		base.IPv6Only = false
	}
	first, last, isRange := strings.Cut(ports, "-")
	low, ok := portNumber(first)
	high := low
	if ok && isRange {
		high, ok = portNumber(last)
	}
	if !ok || high < low {
		return nil
	}
	var list []Listen
	for port := low; port <= high && len(list) < maxListens; port++ {
		base.Port = port
		list = append(list, base)
	}
	return list
}

// splitListen parts host and ports; a missing port is 80, a missing host "*".
func splitListen(text string) (host, ports string) {
	if strings.HasPrefix(text, "[") {
		end := strings.IndexByte(text, ']')
		if end < 0 {
			return "", ""
		}
		host = text[1:end]
		if !strings.Contains(host, ":") {
			return "", ""
		}
		switch rest := text[end+1:]; {
		case rest == "":
			return host, "80"
		case rest[0] == ':':
			return host, rest[1:]
		}
		return "", ""
	}
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		if i == 0 {
			return "", ""
		}
		return text[:i], text[i+1:]
	}
	first, last, isRange := strings.Cut(text, "-")
	if _, ok := portNumber(first); ok {
		if !isRange {
			return "*", text
		}
		if _, ok := portNumber(last); ok {
			return "*", text
		}
	}
	return text, "80"
}

func portNumber(s string) (int, bool) {
	if s == "" || len(s) > 5 {
		return 0, false
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 1 && n <= 65535
}
