package webconf

import (
	"net/netip"
	"path"
	"strings"
)

// Modules returns the files that load_module names. Relative ones start at the
// prefix, as nginx has it.
func (n *Nginx) Modules() []Module {
	var list []Module
	for _, d := range n.Directives {
		if d.is("load_module") && d.Arg(0) != "" {
			p := n.underPrefix(d.Arg(0))
			list = append(list, Module{Name: strings.TrimSuffix(path.Base(p), ".so"), Path: p, File: d.File, Line: d.Line})
		}
	}
	return list
}

// fastCGILevel is what an inner block takes over from the one around it.
type fastCGILevel struct {
	script string // the value of SCRIPT_FILENAME
	root   string
	php    bool // requests for .php files get here
}

// FastCGI returns where fastcgi_pass hands requests to, in the order of the
// files; for a group of servers (upstream), each of them. What goes to an
// address made of variables is left out.
//
// As nginx has it, a block takes over the fastcgi_param directives of the one
// around it only if it has none itself; root and alias are taken over where
// there is neither.
func (n *Nginx) FastCGI() []FastCGI {
	var all []FastCGI
	for _, http := range n.Directives {
		if !http.IsBlock || http.Name != "http" {
			continue
		}
		groups := n.upstreams(http)
		n.eachPass(http, fastCGILevel{}, func(pass *Directive, in fastCGILevel) {
			targets, ok := groups[pass.Arg(0)]
			if !ok {
				targets = fastCGIAddress(pass.Arg(0), "")
			}
			for _, t := range targets {
				if len(all) < maxListens {
					t.ScriptFilename, t.Root, t.File, t.Line = in.script, in.root, pass.File, pass.Line
					all = append(all, t)
				}
			}
		})
	}
	return all
}

// servesPHP tells whether a server hands requests for .php files to FastCGI.
func (n *Nginx) servesPHP(server *Directive) bool {
	php := false
	n.eachPass(server, fastCGILevel{php: true}, func(_ *Directive, in fastCGILevel) { php = php || in.php })
	return php
}

// eachPass visits each fastcgi_pass within a block, with what is in force there.
func (n *Nginx) eachPass(block *Directive, around fastCGILevel, visit func(pass *Directive, in fastCGILevel)) {
	in := n.level(block, around)
	for _, d := range block.Block {
		if d.is("fastcgi_pass") && d.Arg(0) != "" {
			visit(d, in)
		}
		if d.IsBlock {
			switch d.Name {
			case "server", "location", "if", "limit_except":
				n.eachPass(d, in, visit)
			}
		}
	}
}

func (n *Nginx) level(block *Directive, in fastCGILevel) fastCGILevel {
	script, own := "", false
	for _, d := range block.Block {
		switch {
		case d.is("fastcgi_param"):
			own = true
			if d.Arg(0) == "SCRIPT_FILENAME" {
				script = d.Arg(1)
			}
		case d.is("root"), d.is("alias"):
			in.root = n.underPrefix(d.Arg(0))
			if strings.Contains(in.root, "$") {
				in.root = ""
			}
		}
	}
	if own {
		in.script = script
	}
	if block.Name == "location" {
		in.php = in.php && takesPHP(block)
	}
	return in
}

// takesPHP tells whether requests for .php files may get into a location.
func takesPHP(location *Directive) bool {
	switch modifier, text := location.Arg(0), location.Arg(1); {
	case modifier == "~":
		return matches(text, "/"+phpName) || matches(text, "/x/y.php")
	case modifier == "~*":
		return matches("(?i:"+text+")", "/"+phpName) || matches("(?i:"+text+")", "/x/y.php")
	case modifier == "=":
		return strings.HasSuffix(text, ".php") || strings.HasSuffix(text, "/")
	case strings.HasPrefix(modifier, "="):
		return strings.HasSuffix(modifier, ".php") || strings.HasSuffix(modifier, "/")
	case strings.HasPrefix(modifier, "~"):
		expression := strings.TrimPrefix(strings.TrimPrefix(modifier, "~"), "*")
		return matches("(?i:"+expression+")", "/"+phpName)
	}
	return true // by prefix, or by name
}

// upstreams are the servers of the groups of a http block, by name.
func (n *Nginx) upstreams(http *Directive) map[string][]FastCGI {
	groups := map[string][]FastCGI{}
	for _, d := range http.Block {
		if !d.IsBlock || d.Name != "upstream" {
			continue
		}
		list := []FastCGI{}
		for _, s := range d.Block {
			if s.is("server") {
				list = append(list, fastCGIAddress(s.Arg(0), "80")...)
			}
		}
		groups[d.Arg(0)] = list
	}
	return groups
}

// fastCGIAddress reads "unix:PATH" or "HOST:PORT".
func fastCGIAddress(text, defaultPort string) []FastCGI {
	if text == "" || strings.Contains(text, "$") {
		return nil
	}
	if p, ok := strings.CutPrefix(text, "unix:"); ok {
		if p, _, _ = strings.Cut(p, ":"); p == "" {
			return nil
		}
		return []FastCGI{{Network: "unix", Address: p}}
	}
	i := strings.LastIndexByte(text, ':')
	if _, err := netip.ParseAddrPort(text); err != nil && (i < 0 || strings.HasSuffix(text, "]")) {
		if defaultPort == "" {
			return nil
		}
		text += ":" + defaultPort
	}
	return []FastCGI{{Network: "tcp", Address: text}}
}
