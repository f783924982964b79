package webconf

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// maxApacheListens bounds the sockets, each of which is compared with the
// addresses of all virtual hosts; of those maxListens count.
const maxApacheListens = 1000

// vhostAddr is one address of a <VirtualHost>. Every address that means all
// of them is a wildcard, "[::]" included; port 0 is any.
type vhostAddr struct {
	host     string
	wildcard bool
	byName   bool
	port     int
}

// parseVHostAddr reads "ADDRESS", "ADDRESS:PORT", "ADDRESS:*", IPv6 in
// brackets, "*" or "_default_" for every address.
func parseVHostAddr(text string) (vhostAddr, bool) {
	host, port := splitApacheAddr(text)
	a := vhostAddr{host: host}
	if port != "" && port != "*" {
		var ok bool
		if a.port, ok = portNumber(port); !ok {
			return a, false
		}
	}
	if host == "*" || strings.EqualFold(host, "_default_") {
		a.wildcard = true
		return a, true
	}
	ok := a.address()
	return a, ok
}

// address tells an IP address from a name.
func (a *vhostAddr) address() bool {
	switch ip, err := netip.ParseAddr(a.host); {
	case err == nil:
		a.host, a.wildcard = ip.String(), ip.IsUnspecified()
	case a.host == "" || strings.ContainsAny(a.host, ":/*$[] \t") || strings.Trim(a.host, "0123456789") == "":
		return false
	default:
		a.host, a.byName = strings.ToLower(a.host), true
	}
	return true
}

// splitApacheAddr parts "HOST:PORT"; either may be missing, and is "".
func splitApacheAddr(text string) (host, port string) {
	if rest, ok := strings.CutPrefix(text, "["); ok {
		host, rest, ok = strings.Cut(rest, "]")
		port, colon := strings.CutPrefix(rest, ":")
		if !ok || !strings.Contains(host, ":") || rest != "" && (!colon || port == "") {
			return "", ""
		}
		return host, port
	}
	i := strings.LastIndexByte(text, ':')
	switch {
	case i >= 0:
		if i == len(text)-1 {
			return "", ""
		}
		return text[:i], text[i+1:]
	case strings.Trim(text, "0123456789") == "":
		return "", text
	}
	return text, ""
}

// apacheListen reads a Listen directive; ok is false for what httpd refuses.
func apacheListen(d *Directive) (l Listen, ok bool) {
	text := d.Arg(0)
	host, port := splitApacheAddr(text)
	l = Listen{Context: "http", Network: "tcp", Bind: true, File: d.File, Line: d.Line}
	if l.Port, ok = portNumber(port); !ok || strings.HasPrefix(text, ":") {
		return l, false
	}
	// Another protocol than these belongs to a module that speaks it.
	if p := strings.ToLower(d.Arg(1)); p != "" && p != "http" && p != "https" && !strings.Contains(p, "=") {
		l.Context = "stream"
	}
	if host == "" || host == "*" {
		l.Address, l.Any = "::", true
		return l, true
	}
	a := vhostAddr{host: host}
	if !a.address() {
		return l, false
	}
	l.Address, l.ByName, l.Any = a.host, a.byName, a.host == "::"
	l.IPv6Only = l.IPv6() && !l.Any
	return l, true
}

// Listens returns the addresses that the server listens on, one for each
// Listen directive. One without an address, or on [::], is a single socket for
// IPv6 and IPv4 alike (Any); a 0.0.0.0 beside it gets no socket of its own. A
// directive that httpd would refuse is left out.
//
// SSL is what the first virtual host of the address has, or the main server:
// it is their SSLEngine alone that counts, not the protocol behind the port.
func (a *Apache) Listens() []Listen {
	list := a.sockets()
	servers := a.servers()
	for i, l := range list {
		for _, r := range route(l, servers) {
			if r.listen.Address == l.Address {
				servers[r.servers[0]].flags(&list[i])
				break
			}
		}
	}
	return list
}

func (a *Apache) sockets() []Listen {
	var list []Listen
	anyPort := map[int]bool{}
	seen := map[string]bool{}
	for _, d := range a.Directives {
		if !d.named("Listen") || len(list) >= maxApacheListens {
			continue
		}
		if l, ok := apacheListen(d); ok && !seen[l.String()] {
			seen[l.String()] = true
			anyPort[l.Port] = anyPort[l.Port] || l.Any
			list = append(list, l)
		}
	}
	return slices.DeleteFunc(list, func(l Listen) bool { return l.Address == "0.0.0.0" && anyPort[l.Port] })
}

// apacheServer is the main server or a virtual host.
type apacheServer struct {
	a     *Apache
	own   []*Directive // its directives, without the main server's
	addrs []vhostAddr
	vhost bool
	file  string
	line  int
}

// servers returns the main server and then the virtual hosts.
func (a *Apache) servers() []*apacheServer {
	main := &apacheServer{a: a, line: 1}
	if len(a.files) > 0 {
		main.file = a.files[0]
	}
	list := []*apacheServer{main}
	addrs := 0
	for _, d := range a.Directives {
		if !d.section("VirtualHost") {
			main.own = append(main.own, d)
			continue
		}
		s := &apacheServer{a: a, own: d.Block, vhost: true, file: d.File, line: d.Line}
		for _, arg := range d.Args {
			if addr, ok := parseVHostAddr(arg); ok && addrs < maxListens {
				addrs++
				s.addrs = append(s.addrs, addr)
			}
		}
		list = append(list, s)
	}
	return list
}

// inherited is a directive of the server, else the main server's.
func (s *apacheServer) inherited(name string) *Directive {
	if s.vhost {
		if d := last(s.own, name); d != nil {
			return d
		}
	}
	return s.a.main[strings.ToLower(name)]
}

func (s *apacheServer) on(name string) bool {
	d := s.inherited(name)
	return d != nil && strings.EqualFold(d.Arg(0), "on")
}

// flags says on a listen how the server speaks there.
func (s *apacheServer) flags(l *Listen) {
	has := s.a.loaded
	l.SSL = has["ssl_module"] && s.on("SSLEngine") || has["gnutls_module"] && s.on("GnuTLSEnable")
	l.ProxyProtocol = has["remoteip_module"] && s.on("RemoteIPProxyProtocol")
	// Without TLS a connection begins as HTTP/1.1 and may be upgraded; and
	// mod_http2 does not work with prefork.
	if d := s.inherited("Protocols"); d != nil && l.SSL && has["http2_module"] && s.a.MPM() != "prefork" {
		l.HTTP2 = slices.Contains(d.Args, "h2")
	}
}

// routed is an address on which requests arrive, and the servers among which
// the Host header chooses, as indices; the first is the default.
type routed struct {
	listen  Listen
	servers []int
}

// route finds who serves what comes in on a socket. On an address, virtual
// hosts of exactly that address come before all wildcards, and then those of
// exactly that port before those of any; the hosts that name it in the same
// way are chosen from by name. A socket of all addresses has several such
// groups.
func route(l Listen, servers []*apacheServer) []routed {
	type key struct {
		host string
		port int
	}
	members := map[key][]int{}
	var order []vhostAddr // as they first appear
	for i, s := range servers {
		for _, a := range s.addrs {
			if a.port != 0 && a.port != l.Port || !a.wildcard && !mayReach(l, a) {
				continue
			}
			if a.wildcard {
				a.host = ""
			}
			k := key{a.host, a.port}
			group := members[k]
			if group == nil {
				order = append(order, a)
			}
			if n := len(group); n == 0 || group[n-1] != i {
				members[k] = append(group, i)
			}
		}
	}
	// Of one address, hosts that name the port come before those of any port.
	slices.SortStableFunc(order, func(a, b vhostAddr) int { return min(b.port, 1) - min(a.port, 1) })
	rest := routed{listen: l}
	var exact []routed
	certain := false
	done := map[string]bool{}
	for _, a := range order {
		if done[a.host] {
			continue
		}
		done[a.host] = true
		group := members[key{a.host, a.port}]
		if a.wildcard {
			rest.servers = group
			continue
		}
		on := l
		if !a.byName || l.Wildcard() {
			on.Address, on.ByName, on.Any, on.Bind = a.host, a.byName, false, false
			on.IPv6Only = on.IPv6()
		}
		certain = certain || a.host == l.Address
		exact = append(exact, routed{on, group})
	}
	if certain {
		return exact // the wildcards are never asked here
	}
	if rest.servers == nil {
		rest.servers = []int{0}
	}
	return append([]routed{rest}, exact...)
}

// mayReach tells whether what comes in on a socket may have come to this
// address. To which addresses a name leads is not known.
func mayReach(l Listen, a vhostAddr) bool {
	switch {
	case l.ByName || a.byName:
		return l.Address == a.host || l.Wildcard() || l.ByName != a.byName && (a.host != "localhost" || loopback(l.Address)) && (l.Address != "localhost" || loopback(a.host))
	case l.Any:
		return true
	case l.Wildcard():
		return !strings.Contains(a.host, ":")
	}
	return l.Address == a.host
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Servers returns the virtual hosts in the order of the files, and then the
// main server if there is an address on which it is the one to answer. A
// host's listens are the addresses at which it is reached: for one that names
// an address of its own, that address. On each the first host is the default.
func (a *Apache) Servers() []VHost {
	servers := a.servers()
	listens := make([][]Listen, len(servers))
	count := 0
	for _, l := range a.sockets() {
		if count > maxListens {
			break
		}
		for _, r := range route(l, servers) {
			servers[r.servers[0]].flags(&r.listen)
			for n, i := range r.servers {
				r.listen.Default = n == 0
				if count++; count <= maxListens {
					listens[i] = append(listens[i], r.listen)
				}
			}
		}
	}
	var list []VHost
	for i, s := range append(servers[1:], servers[0]) {
		if i = (i + 1) % len(servers); s.vhost || len(listens[i]) > 0 {
			list = append(list, s.describe(listens[i]))
		}
	}
	return list
}

func (s *apacheServer) describe(listens []Listen) VHost {
	v := VHost{Context: "http", Listens: listens, Root: s.docRoot(), File: s.file, Line: s.line}
	if len(listens) > 0 {
		v.Context = listens[0].Context
	}
	if d := last(s.own, "ServerName"); d != nil {
		v.Names = append(v.Names, hostPart(d.Arg(0)))
		if !s.vhost {
			v.File, v.Line = d.File, d.Line
		}
	}
	for _, d := range s.own {
		switch {
		case d.named("ServerAlias"):
			v.Names = append(v.Names, d.Args...)
		case d.named("SSLCertificateFile"):
			v.Certificates = append(v.Certificates, s.a.keyFile(d.Arg(0)))
		case d.named("SSLCertificateKeyFile"):
			v.Keys = append(v.Keys, s.a.keyFile(d.Arg(0)))
		}
	}
	// A host that has no certificate itself takes the main server's.
	if d := s.a.main["sslcertificatefile"]; d != nil && v.Certificates == nil {
		v.Certificates = []string{s.a.keyFile(d.Arg(0))}
	}
	if d := s.a.main["sslcertificatekeyfile"]; d != nil && v.Keys == nil {
		v.Keys = []string{s.a.keyFile(d.Arg(0))}
	}
	v.PHP = s.servesPHP()
	return v
}

// hostPart takes the name out of "https://NAME:PORT".
func hostPart(name string) string {
	if _, rest, ok := strings.Cut(name, "://"); ok {
		name = rest
	}
	if i := strings.LastIndexByte(name, ':'); i >= 0 && strings.Trim(name[i+1:], "0123456789") == "" {
		name = name[:i]
	}
	return name
}

// keyFile leaves a key in a token ("pkcs11:...") as it is.
func (a *Apache) keyFile(name string) string {
	if name == "" || strings.HasPrefix(name, "pkcs11:") {
		return name
	}
	return absoluteIn(a.root, name)
}

// docRoot is the DocumentRoot in force, "" where none is set.
func (s *apacheServer) docRoot() string {
	if d := s.inherited("DocumentRoot"); d != nil && d.Arg(0) != "" {
		return path.Clean(absoluteIn(s.a.root, d.Arg(0)))
	}
	return ""
}
