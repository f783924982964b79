package webconf

import (
	"path"
	"slices"
	"strings"
)

// static are the modules that Debian's apache2 has built in: by name, and by
// the name of their source file, as <IfModule> takes them.
func static() []string {
	return []string{
		"core_module", "core.c", "so_module", "mod_so.c", "http_module", "http_core.c",
		"log_config_module", "mod_log_config.c", "logio_module", "mod_logio.c", "version_module", "mod_version.c",
		"unixd_module", "mod_unixd.c", "watchdog_module", "mod_watchdog.c",
	}
}

// sourceOf is the source file that a module calls itself by: mod_NAME.c but
// for those few.
func sourceOf(symbol string) string {
	switch name := strings.TrimSuffix(symbol, "_module"); name {
	case "mpm_prefork", "mpm_worker", "mpm_event":
		return strings.TrimPrefix(name, "mpm_") + ".c"
	case "mpm_itk":
		return "mpm_itk.c"
	case "ldap":
		return "util_ldap.c"
	default:
		return "mod_" + name + ".c"
	}
}

// loadModule notes a module. One that is loaded already is passed over.
func (r *apacheReader) loadModule(d *Directive) {
	name := d.Arg(0)
	if name == "" || d.Arg(1) == "" || r.loaded[name] {
		return
	}
	file := d.Arg(1)
	r.modules = append(r.modules, Module{Name: name, Path: r.library(file), File: d.File, Line: d.Line})
	r.loaded[name] = true
	r.loaded[sourceOf(name)] = true
	// What others call their symbol and their source need not agree; the file
	// is mostly named after the source.
	if base := strings.TrimSuffix(path.Base(file), ".so"); strings.HasPrefix(base, "mod_") && !strings.HasPrefix(base, "mod_mpm_") && base != "mod_ldap" {
		r.loaded[base+".c"] = true
	}
}

// library is the path of what LoadModule and LoadFile name. A bare file name
// that is not in ServerRoot is left to the loader's own search.
func (r *apacheReader) library(file string) string {
	if !strings.Contains(file, "/") {
		if names, err := r.readDir(r.root); err != nil || !slices.Contains(names, file) {
			return file
		}
	}
	return r.underRoot(file)
}

// Modules returns what LoadModule and LoadFile name, in their order. The
// modules that are built in are not among them.
func (a *Apache) Modules() []Module { return slices.Clone(a.modules) }

// MPM returns how the server handles connections: "prefork", "worker" or
// "event"; "" where no such module is loaded, so that it is built in.
func (a *Apache) MPM() string { return a.mpm }

func (a *Apache) findMPM() string {
	for _, m := range a.modules {
		switch name := strings.TrimSuffix(m.Name, "_module"); name {
		case "mpm_prefork", "mpm_worker", "mpm_event":
			return strings.TrimPrefix(name, "mpm_")
		case "mpm_itk":
			return "prefork" // which it needs and builds on
		}
	}
	return ""
}

// modPHP tells whether PHP is a module within the server. Its symbol was
// php5_module, php7_module, and is php_module since.
func (a *Apache) modPHP() bool {
	for _, version := range []string{"", "8", "7", "5"} {
		if a.loaded["php"+version+"_module"] {
			return true
		}
	}
	return false
}
