package webconf

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/lazyregexp"
)

// handler is a directive that hands requests to somebody: a name of a handler
// ("application/x-httpd-php"), or FastCGI servers.
type handler struct {
	name    string
	targets []FastCGI
	php     bool // requests for .php files are among them
	dir     string
}

// servesPHP tells whether a request for a .php file gets to PHP: by a module
// within the server, or by FastCGI or CGI.
func (s *apacheServer) servesPHP() bool {
	return slices.ContainsFunc(s.handlers(), func(h handler) bool {
		if !h.php {
			return false
		}
		switch {
		case len(h.targets) > 0:
			return true
		case strings.HasPrefix(h.name, "application/x-httpd-php") && !strings.HasSuffix(h.name, "-source"), phpScript.MatchString(h.name):
			return s.a.modPHP() && !s.engineOff()
		}
		return h.name == "fcgid-script" || h.name == "fastcgi-script"
	})
}

var phpScript = lazyregexp.New(`^php[0-9]*-script$`)

// engineOff tells whether PHP as a module is switched off for all of a server.
func (s *apacheServer) engineOff() bool {
	off := s.vhost && s.a.phpOff
	for _, d := range s.own {
		if d.IsBlock || !strings.EqualFold(d.Arg(0), "engine") {
			continue
		}
		switch strings.ToLower(d.Name) {
		case "php_flag", "php_admin_flag", "php_value", "php_admin_value":
			value := strings.ToLower(d.Arg(1))
			off = value == "off" || value == "0" || value == "false" || value == "no"
		}
	}
	return off
}

// handlers are those in force somewhere in the server: its own and the main
// server's.
func (s *apacheServer) handlers() []handler {
	list := s.a.handlers
	if s.vhost {
		list = slices.Concat(s.a.handlersOf(s.own), list)
	}
	root := s.docRoot()
	return slices.DeleteFunc(slices.Clone(list), func(h handler) bool {
		return h.dir != "" && root != "" && !within(h.dir, root) && !within(root, h.dir)
	})
}

// within tells whether a path lies in a directory, or is it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// scope is what the sections around a directive let through.
type scope struct {
	php bool   // a file of the name index.php
	dir string // the innermost <Directory>, if it is a plain path
}

// maxHandlers bounds the handlers of one server, and maxExpression the length of
// an expression that is tried.
const (
	maxHandlers   = 200
	maxExpression = 4 << 10
)

// handlersOf finds the handlers in a list, but not in virtual hosts below it.
func (a *Apache) handlersOf(list []*Directive) []handler {
	var all []handler
	var visit func(list []*Directive, in scope)
	visit = func(list []*Directive, in scope) {
		for _, d := range list {
			if d.section("VirtualHost") || len(all) >= maxHandlers {
				continue
			}
			if d.IsBlock {
				visit(d.Block, inner(in, d))
			} else if h, ok := a.handler(d); ok {
				h.php, h.dir = h.php && in.php, in.dir
				all = append(all, h)
			}
		}
	}
	visit(list, scope{php: true})
	return all
}

const phpName = "index.php"

// inner is the scope within a section.
func inner(in scope, d *Directive) scope {
	arg, isRegexp := d.Arg(0), false
	if arg == "~" {
		arg, isRegexp = d.Arg(1), true
	}
	switch strings.ToLower(d.Name) {
	case "filesmatch":
		in.php = in.php && matches(arg, phpName)
	case "locationmatch":
		in.php = in.php && (matches(arg, "/"+phpName) || matches(arg, "/"))
	case "files":
		if isRegexp {
			in.php = in.php && matches(arg, phpName)
		} else {
			ok, err := path.Match(arg, phpName)
			in.php = in.php && (ok || err != nil)
		}
	case "directory":
		in.dir = ""
		if !isRegexp && !strings.ContainsAny(arg, "*?[") && path.IsAbs(arg) {
			in.dir = path.Clean(arg)
		}
	case "proxy", "proxymatch":
		in.php = false // it describes a server, not what goes there
	}
	return in
}

// matches looks whether an expression finds something; one that this language
// has not is taken to.
func matches(expression, text string) bool {
	if len(expression) > maxExpression {
		return true
	}
	re, err := regexp.Compile(expression)
	return err != nil || re.MatchString(text)
}

// handler reads a directive; ok is false for all that are none.
func (a *Apache) handler(d *Directive) (h handler, ok bool) {
	target := ""
	h.php = true
	switch strings.ToLower(d.Name) {
	case "sethandler":
		h.name, target = d.Arg(0), d.Arg(0)
	case "addhandler", "addtype":
		h.name, target = d.Arg(0), d.Arg(0)
		h.php = slices.ContainsFunc(d.Args[min(1, len(d.Args)):], func(ext string) bool {
			return strings.EqualFold(strings.TrimPrefix(ext, "."), "php")
		})
	case "fcgidwrapper":
		h.name = "fcgid-script"
		h.php = len(d.Args) < 2 || d.Arg(1) == ".php" || d.Arg(1) == "virtual"
	case "proxypass", "proxypassmatch":
		target = d.Arg(0)
		if !proxied(target) {
			target = d.Arg(1)
			h.php = !d.named("ProxyPassMatch") || matches(d.Arg(0), "/"+phpName)
		}
	case "rewriterule":
		target = d.Arg(1)
		pattern := strings.TrimPrefix(d.Arg(0), "!")
		h.php = matches(pattern, phpName) || matches(pattern, "/"+phpName)
	case "balancermember":
		target = d.Arg(0)
		if !proxied(target) {
			target = d.Arg(1)
		}
	case "fastcgiexternalserver":
		for i, arg := range d.Args {
			if arg == "-socket" || arg == "-host" {
				target = "fcgi://" + d.Arg(i+1)
				if arg == "-socket" {
					target = "unix:" + d.Arg(i+1) + "|fcgi://localhost"
				}
			}
		}
		h.php = false // its handler is named elsewhere
	default:
		return h, false
	}
	if t, ok := a.fastCGITarget(target); ok {
		t.File, t.Line = d.File, d.Line
		h.targets = []FastCGI{t}
	} else if name, ok := strings.CutPrefix(strings.TrimPrefix(target, "proxy:"), "balancer://"); ok {
		name, _, _ = strings.Cut(strings.ToLower(name), "/")
		h.targets = a.balancers[name]
	}
	return h, h.name != "" || len(h.targets) > 0
}

func proxied(s string) bool { return strings.Contains(s, "://") }

// findBalancers finds the FastCGI servers of each <Proxy balancer://NAME>.
func (a *Apache) findBalancers() map[string][]FastCGI {
	all := map[string][]FastCGI{}
	walk(a.Directives, nil, func(d, parent *Directive) {
		if !d.named("BalancerMember") || parent == nil || !parent.section("Proxy") {
			return
		}
		name, ok := strings.CutPrefix(strings.ToLower(parent.Arg(0)), "balancer://")
		name = strings.TrimSuffix(name, "/")
		if h, is := a.handler(d); ok && is && len(all[name]) < maxHandlers {
			all[name] = append(all[name], h.targets...)
		}
	})
	return all
}

// fcgiPort is mod_proxy_fcgi's own default.
const fcgiPort = "8000"

// fastCGITarget reads "proxy:unix:/run/x.sock|fcgi://localhost/",
// "fcgi://127.0.0.1:9000/path" and the like.
func (a *Apache) fastCGITarget(text string) (FastCGI, bool) {
	text = strings.TrimPrefix(text, "proxy:")
	if socket, ok := strings.CutPrefix(text, "unix:"); ok {
		socket, scheme, ok := strings.Cut(socket, "|")
		if !ok || !strings.HasPrefix(strings.ToLower(scheme), "fcgi:") || socket == "" {
			return FastCGI{}, false
		}
		dir := a.root
		if runtime := a.setting("DefaultRuntimeDir"); runtime != "" {
			dir = absoluteIn(a.root, runtime)
		}
		return FastCGI{Network: "unix", Address: absoluteIn(dir, socket)}, true
	}
	const scheme = "fcgi://"
	if len(text) < len(scheme) || !strings.EqualFold(text[:len(scheme)], scheme) {
		return FastCGI{}, false
	}
	address := text[len(scheme):]
	if i := strings.IndexAny(address, "/?"); i >= 0 {
		address = address[:i]
	}
	if address == "" || strings.ContainsAny(address, "$%") {
		return FastCGI{}, false
	}
	if strings.LastIndexByte(address, ':') <= strings.LastIndexByte(address, ']') {
		address += ":" + fcgiPort
	}
	return FastCGI{Network: "tcp", Address: address}, true
}

// FastCGI returns where requests are handed to FastCGI servers, in the order
// of the servers and files: once for each document root in which it is so.
func (a *Apache) FastCGI() []FastCGI {
	var all []FastCGI
	seen := map[FastCGI]bool{}
	add := func(t FastCGI) {
		if !seen[t] && len(all) < maxListens {
			seen[t] = true
			all = append(all, t)
		}
	}
	rooted := map[FastCGI]bool{}
	servers := a.servers()
	for i, s := range append(servers[1:], servers[0]) {
		if i == len(servers)-1 && len(servers) > 1 {
			// With virtual hosts, the main server is one only in name.
			break
		}
		if len(all) >= maxListens {
			break
		}
		for _, h := range s.handlers() {
			for _, t := range h.targets {
				rooted[t] = true
				t.Root = s.docRoot()
				add(t)
			}
		}
	}
	// What is in force in no document root: behind an alias, say.
	for _, s := range servers {
		list := a.handlers
		if s.vhost {
			list = a.handlersOf(s.own)
		}
		for _, h := range list {
			for _, t := range h.targets {
				if !rooted[t] {
					add(t)
				}
			}
		}
	}
	return all
}
