package webconf

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// VHost is one server block of nginx, one virtual host of Apache.
type VHost struct {
	Context string   `json:"context"` // "http", "stream" or "mail"
	Names   []string `json:"names,omitempty"`
	Listens []Listen `json:"listens,omitempty"`
	Root    string   `json:"root,omitempty"` // document root in force, absolute in the jail; "" where none is set
	// Certificates and Keys are files in the jail, or what else the server
	// takes there ("data:", "pkcs11:", a name with variables).
	Certificates []string `json:"certificates,omitempty"`
	Keys         []string `json:"keys,omitempty"`
	// PHP tells that requests for .php files are handed to PHP.
	PHP bool `json:"php,omitempty"`
	// Return holds the arguments of the server's own return directive.
	Return []string `json:"return,omitempty"`
	File   string   `json:"file"`
	Line   int      `json:"line"`
}

const hostChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.*"

// HostName returns a name under which the server can be asked: the first of
// its names that is a plain host name. A wildcard is filled in; regular
// expressions and the catch-all names give none, "" if nothing is left.
func (v VHost) HostName() string {
	for _, name := range v.Names {
		switch {
		case name == "" || name == "_" || strings.Trim(name, hostChars) != "":
			continue // regular expressions and variables among them
		case strings.HasPrefix(name, "*."):
			name = "www" + name[1:]
		case strings.HasPrefix(name, "."):
			name = name[1:]
		case strings.HasSuffix(name, ".*"):
			name = name[:len(name)-1] + "invalid"
		}
		if name != "" && !strings.ContainsRune(name, '*') {
			return name
		}
	}
	return ""
}

// Servers returns the server blocks of http, stream and mail, in the order of
// the files.
func (n *Nginx) Servers() []VHost {
	var all []VHost
	ports := 0
	for _, context := range n.Directives {
		if !context.IsBlock || (context.Name != "http" && context.Name != "stream" && context.Name != "mail") {
			continue
		}
		for _, d := range context.Block {
			if !d.IsBlock || d.Name != "server" {
				continue
			}
			v := n.server(d, context)
			if ports += len(v.Listens); ports > maxListens {
				return all
			}
			all = append(all, v)
		}
	}
	return all
}

func (n *Nginx) server(block, context *Directive) VHost {
	v := VHost{Context: context.Name, File: block.File, Line: block.Line}
	root := lastSimple(context.Block, "root")
	// "ssl on" and "http2 on" stand beside the listens, also one level up.
	ssl := isOn(context.Block, "ssl")
	http2 := isOn(context.Block, "http2")
	listened := false
	for _, d := range block.Block {
		if d.IsBlock {
			continue
		}
		switch d.Name {
		case "server_name":
			v.Names = append(v.Names, d.Args...)
		case "listen":
			listened = true
			v.Listens = append(v.Listens, parseListen(d, context.Name)...)
		case "root":
			root = d
		case "return":
			if v.Return == nil {
				v.Return = d.Args
			}
		case "ssl_certificate":
			v.Certificates = append(v.Certificates, n.underConf(d.Arg(0)))
		case "ssl_certificate_key":
			v.Keys = append(v.Keys, n.underConf(d.Arg(0)))
		case "ssl":
			ssl = d.Arg(0) == "on"
		case "http2":
			http2 = d.Arg(0) == "on"
		}
	}
	if root != nil {
		v.Root = n.underPrefix(root.Arg(0))
	}
	v.PHP = context.Name == "http" && n.servesPHP(block)
	if !listened && context.Name == "http" {
		v.Listens = []Listen{{
			Context: "http", Network: "tcp", Address: "0.0.0.0", Port: 80,
			File: block.File, Line: block.Line,
		}}
	}
	for i := range v.Listens {
		v.Listens[i].SSL = v.Listens[i].SSL || ssl
		v.Listens[i].HTTP2 = v.Listens[i].HTTP2 || http2
	}
	return v
}

func lastSimple(block []*Directive, name string) *Directive {
	for _, d := range slices.Backward(block) {
		if d.is(name) {
			return d
		}
	}
	return nil
}

func isOn(block []*Directive, name string) bool {
	on := false
	for _, d := range block {
		if d.is(name) {
			on = d.Arg(0) == "on"
		}
	}
	return on
}

// main returns the first directive of this name outside all blocks.
func (n *Nginx) main(name string) *Directive {
	for _, d := range n.Directives {
		if d.is(name) {
			return d
		}
	}
	return nil
}

// walk visits every directive, outer before inner.
func walk(list []*Directive, parent *Directive, visit func(d, parent *Directive)) {
	for _, d := range list {
		visit(d, parent)
		walk(d.Block, d, visit)
	}
}

// PIDFile returns the pid file's path in the jail, "" where the configuration
// leaves it to the server's own default.
func (n *Nginx) PIDFile() string {
	if d := n.main("pid"); d != nil {
		return n.underPrefix(d.Arg(0))
	}
	return ""
}

// User returns the user and group of the workers as configured; user is ""
// where it is left to the server's own default, group where it is the user's.
func (n *Nginx) User() (user, group string) {
	if d := n.main("user"); d != nil {
		return d.Arg(0), d.Arg(1)
	}
	return "", ""
}

// WorkerUser returns the workers' user, "" for the server's own default.
func (n *Nginx) WorkerUser() string {
	user, _ := n.User()
	return user
}

// Daemon reports whether the server puts itself into the background.
func (n *Nginx) Daemon() bool {
	d := n.main("daemon")
	return d == nil || d.Arg(0) != "off"
}

// Master reports whether there are workers beside the master.
func (n *Nginx) Master() bool {
	d := n.main("master_process")
	return d == nil || d.Arg(0) != "off"
}

// ErrorLogs returns where errors are written, once each, from every block:
// absolute paths in the jail, "stderr", "syslog:...", "memory:...". Nginx
// also writes to its built-in path when no error_log stands outside all
// blocks, and always while it reads its configuration: the caller knows it.
func (n *Nginx) ErrorLogs() []string {
	return n.logs("error_log", func(arg string) bool {
		return arg == "stderr" || strings.HasPrefix(arg, "syslog:") || strings.HasPrefix(arg, "memory:")
	})
}

// AccessLogs returns where requests are written, once each: absolute paths in
// the jail, which may hold variables, or "syslog:...". "off" is left out.
func (n *Nginx) AccessLogs() []string {
	return n.logs("access_log", func(arg string) bool { return strings.HasPrefix(arg, "syslog:") })
}

func (n *Nginx) logs(name string, verbatim func(string) bool) []string {
	var list []string
	walk(n.Directives, nil, func(d, _ *Directive) {
		if !d.is(name) || d.Arg(0) == "" || (name == "access_log" && d.Arg(0) == "off") {
			return
		}
		where := d.Arg(0)
		if !verbatim(where) {
			where = n.underPrefix(where)
		}
		list = append(list, where)
	})
	return unique(list)
}

// passes are the directives whose first argument names another server.
func passes(name string) bool {
	switch name {
	case "proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass", "mirror_pass":
		return true
	}
	return false
}

// Upstreams returns where requests are passed on to, as written and once
// each: the arguments of proxy_pass and its kin, and the servers of upstream
// blocks.
func (n *Nginx) Upstreams() []string {
	var list []string
	walk(n.Directives, nil, func(d, parent *Directive) {
		if d.Arg(0) == "" || d.IsBlock {
			return
		}
		if passes(d.Name) || (d.Name == "server" && parent != nil && parent.Name == "upstream") {
			list = append(list, d.Arg(0))
		}
	})
	return unique(list)
}

// HostNames returns the host names that nginx resolves by itself, most of
// them while it starts: a start fails where one of them is unknown. Names of
// upstream blocks, addresses, and names that hold variables are left out.
// They are in lower case, once each.
func (n *Nginx) HostNames() []string {
	groups := map[string]bool{}
	walk(n.Directives, nil, func(d, _ *Directive) {
		if d.IsBlock && d.Name == "upstream" {
			groups[strings.ToLower(d.Arg(0))] = true
		}
	})
	var list []string
	add := func(text string) {
		if host := hostOf(text); host != "" && !groups[host] {
			list = append(list, host)
		}
	}
	for _, u := range n.Upstreams() {
		add(u)
	}
	walk(n.Directives, nil, func(d, _ *Directive) {
		if d.IsBlock {
			return
		}
		switch d.Name {
		case "resolver":
			for _, a := range d.Args {
				if !strings.Contains(a, "=") {
					add(a)
				}
			}
		case "set_real_ip_from", "ssl_stapling_responder", "ssl_ocsp_responder", "auth_http", "debug_connection":
			add(d.Arg(0))
		case "error_log", "access_log":
			if rest, ok := strings.CutPrefix(d.Arg(0), "syslog:"); ok {
				for _, option := range strings.Split(rest, ",") {
					if server, ok := strings.CutPrefix(option, "server="); ok {
						add(server)
					}
				}
			}
		}
	})
	for _, l := range n.Listens() {
		if l.ByName {
			add(l.Address)
		}
	}
	return unique(list)
}

// hostOf takes the host name out of "scheme://host:port/path" and the like,
// "" where there is an address, a unix socket, a variable or nothing.
func hostOf(text string) string {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	if strings.HasPrefix(text, "unix:") || strings.HasPrefix(text, "[") {
		return ""
	}
	if i := strings.IndexAny(text, "/?"); i >= 0 {
		text = text[:i]
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return ""
	}
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		text = text[:i]
	}
	if text == "" || text == "all" || strings.ContainsAny(text, "$ \t:\\") {
		return ""
	}
	if _, err := netip.ParseAddr(text); err == nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(text, "."))
}

// underPrefix makes a path absolute as nginx does for logs, roots, modules
// and the pid file; underConf as it does for certificates.
func (n *Nginx) underPrefix(p string) string { return absolute(p, n.prefix) }

func (n *Nginx) underConf(p string) string {
	for _, scheme := range []string{"data:", "engine:", "store:"} {
		if strings.HasPrefix(p, scheme) {
			return p
		}
	}
	if len(n.Files) == 0 {
		return p
	}
	return absolute(p, path.Dir(n.Files[0]))
}

func absolute(p, dir string) string {
	if p == "" || strings.HasPrefix(p, "$") {
		return p
	}
	if !path.IsAbs(p) {
		p = dir + "/" + p
	}
	return path.Clean(p)
}

func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(s string) bool {
		if seen[s] {
			return true
		}
		seen[s] = true
		return false
	})
}
