package steps

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/recipes"
)

// Compose makes the recipe of the jail: of the packages that have files in it, and,
// unless the server is meant alone, of the companions that lie in it. m is the
// server's own recipe.
func (o *Outside) Compose(set *recipes.Set, m *recipes.Recipe, root *jail.Root, alone bool) *recipes.Recipe {
	main := m.OnHost(o.Exe, heldPackages(m, root, hostInfo))
	if alone {
		return main
	}
	var parts []*recipes.Recipe
	for _, c := range set.Companions(m) {
		if !c.HasProcesses() {
			continue // the server has loaded it, on the host
		}
		if ed, ok := editionIn(viewOf(root), c); ok {
			parts = append(parts, c.At(ed))
		}
	}
	return recipes.Join(main, parts...)
}

// heldPackages are the packages that a jail has files of, as far as the host's
// dpkg database in info tells: most likely they were copied from there. Of what
// the recipe names, that comes first; what the host has not installed is asked
// for all the same.
func heldPackages(r *recipes.Recipe, root *jail.Root, info string) []string {
	names := namesIn(root)
	held := map[string]bool{}
	installed := owners(info, func(canonical string) bool {
		return names[canonical] || isShared(canonical) && names[path.Base(canonical)]
	}, func(_, pkg string) { held[pkg] = true })
	var out []string
	for i, p := range r.Outside.Packages {
		if i == 0 || held[p] || !installed[p] {
			out = append(out, p)
		}
		delete(held, p)
	}
	return append(out, sortedKeys(held)...)
}

// maxNames bounds how many entries of a jail are looked at.
const maxNames = 200_000

// namesIn are the files of a jail where packages have theirs, by canonical path;
// those of libraries also by name alone, for a hand may have put them elsewhere.
func namesIn(root *jail.Root) map[string]bool {
	out := map[string]bool{}
	seen := 0
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := root.ReadDir(dir)
		if err != nil {
			return
		}
		for _, n := range entries {
			if seen++; seen > maxNames {
				return
			}
			p := path.Join(dir, n)
			info, err := root.Lstat(p)
			switch {
			case err != nil || info.MountID != root.MountID():
			case info.IsDir():
				walk(p)
			case info.IsRegular() || info.IsSymlink():
				out[fileset.Canonical(p)] = true
				if strings.Contains(n, ".so") {
					out[n] = true
				}
			}
		}
	}
	tops, _ := root.ReadDir("/")
	for _, n := range tops {
		info, err := root.Lstat("/" + n)
		if err == nil && info.IsDir() && (slices.Contains([]string{"bin", "sbin", "etc", "usr"}, n) || strings.HasPrefix(n, "lib")) {
			walk("/" + n)
		}
	}
	return out
}

// isShared tells whether a path is one in which ld.so looks for libraries.
func isShared(canonical string) bool {
	dir := path.Dir(canonical)
	own := path.Dir(dir) == "/usr" && strings.HasPrefix(path.Base(dir), "lib") || path.Dir(dir) == "/usr/lib" && strings.Contains(path.Base(dir), "-linux-")
	return own && strings.Contains(path.Base(canonical), ".so")
}

// owners calls found for each file of the host's dpkg database that is wanted, with
// its canonical path and its package. It returns which packages are there at all.
func owners(info string, wanted func(canonical string) bool, found func(canonical, pkg string)) map[string]bool {
	installed := map[string]bool{}
	lists, _ := filepath.Glob(filepath.Join(info, "*.list"))
	for _, l := range lists {
		pkg, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(l), ".list"), ":")
		installed[pkg] = true
		f, err := os.Open(l)
		if err != nil {
			continue
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			if p := sc.Text(); strings.HasPrefix(p, "/") && p != "/." {
				if p = fileset.Canonical(p); wanted(p) {
					found(p, pkg)
				}
			}
		}
		f.Close()
	}
	return installed
}

// ownersOf finds the packages of files of the host, by the paths given.
func ownersOf(info string, files []string) map[string]string {
	asked := map[string][]string{}
	for _, f := range files {
		for _, p := range []string{f, realFile(f)} {
			asked[fileset.Canonical(p)] = append(asked[fileset.Canonical(p)], f)
		}
	}
	out := map[string]string{}
	owners(info, func(p string) bool { return asked[p] != nil }, func(p, pkg string) {
		for _, f := range asked[p] {
			out[f] = pkg
		}
	})
	return out
}

func realFile(p string) string {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		return real
	}
	return p
}

// outside is the server outside of the jail, nil where there is none.
func (e *Env) outside() *unit {
	for _, u := range e.servers() {
		if u.facts.Outside != nil {
			return u
		}
	}
	return nil
}

// hostOnly refuses what can only be done to the host's packages.
func (e *Env) hostOnly() error {
	u := e.outside()
	if u == nil {
		return nil
	}
	pkg := u.hostPackage()
	if e.versioned(u.name()) {
		return fail(ErrUsage, "apt-get install "+pkg+"=VERSION", "cannot choose the version of %s: it is the host's; jail %s holds only what its children load", u.name(), e.Root.Path())
	}
	if len(e.Options.With) > 0 && len(e.Recipe.Parts()) == 1 {
		return fail(ErrUsage, "look for it on the host: apt-cache search "+event.Clean(e.Options.With[0], 60), "cannot add module %s: %s and its modules are the host's", e.Options.With[0], u.name())
	}
	return nil
}

// hostPackage is the package of the server's program; the recipe's own where that
// is not known.
func (u *unit) hostPackage() string {
	o := u.facts.Outside
	if pkg := ownersOf(hostInfo, []string{o.Exe})[o.Exe]; pkg != "" {
		return pkg
	}
	return u.name()
}

// version tells which version runs: that of its package, else what the program
// says; "" where neither is known.
func (u *unit) hostVersion() string {
	o := u.facts.Outside
	if pkg := ownersOf(hostInfo, []string{o.Exe})[o.Exe]; pkg != "" {
		return hostVersions()[pkg]
	}
	return ""
}

// tellHost says what of the server belongs to the host's package manager, and what
// is newer there.
func (e *Env) tellHost() {
	u := e.outside()
	if u == nil || e.told || e.index == nil {
		return
	}
	e.told = true
	o := u.facts.Outside
	files := []string{o.Exe}
	if conf, err := u.configuration(); err == nil {
		for _, m := range conf.modules() {
			files = append(files, m.Path)
		}
	}
	e.tellBundle()
	of, installed := ownersOf(hostInfo, files), hostVersions()
	if of[o.Exe] != "" {
		// The package by whose name people know it depends on that of the program.
		for _, name := range append([]string{u.name()}, u.recipe[before].Aliases...) {
			if installed[name] != "" {
				of[o.Exe+" "] = name
			}
		}
	}
	text, hint := hostText(o.Exe, of, installed, func(pkg string) string {
		if offered := e.index.Versions(pkg); len(offered) > 0 {
			return offered[0].Version
		}
		return ""
	})
	if text == "" {
		e.note(event.Warning, fmt.Sprintf("%s of jail %s runs on the host, from %s, which is of no package there: whoever installed it upgrades it", u.name(), e.Root.Path(), event.Clean(o.Exe, 200)), "")
		return
	}
	level := event.Info
	if hint != "" {
		level = event.Warning
	}
	e.note(level, text, hint)
}

// hostText says which packages of the host a server and its modules are of, and
// which of them are offered in a newer version, with the command that takes them.
// It is empty where the program is of none. of has the package of each file, and
// under the program's name with a blank that by which the server is known.
func hostText(exe string, of, installed map[string]string, offered func(pkg string) string) (text, hint string) {
	pkg := of[exe]
	if pkg == "" {
		return "", ""
	}
	if of[exe+" "] != "" {
		pkg = of[exe+" "]
	}
	var newer, names []string
	for _, p := range slices.Compact(sortedValues(of)) {
		if v := offered(p); v != "" && compareVersions(v, installed[p]) > 0 {
			newer = append(newer, p+" "+v)
			names = append(names, p)
		}
	}
	text = fmt.Sprintf("%s %s itself is the host's, and so are its modules: ", pkg, installed[pkg])
	if len(newer) == 0 {
		return text + "the sources offer nothing newer of them", ""
	}
	return text + "they are not upgraded here; the sources offer " + event.Clean(strings.Join(newer, ", "), 300),
		"apt-get install --only-upgrade " + event.Clean(strings.Join(names, " "), 300)
}

func sortedValues(m map[string]string) []string {
	var out []string
	for _, v := range m {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}

// bundle is the one file of certificates that programs look for; no package has
// it, the host makes it.
const bundle = "/etc/ssl/certs/ca-certificates.crt"

// tellBundle says that the jail's certificates are no longer the host's.
func (e *Env) tellBundle() {
	if e.outside() == nil {
		return
	}
	theirs, err := os.ReadFile(bundle)
	if err != nil {
		return
	}
	ours, err := e.Root.ReadFile(bundle, 16<<20)
	if err == nil && string(ours) != string(theirs) {
		e.note(event.Warning, fmt.Sprintf("%s of the jail is not that of the host, where update-ca-certificates makes it: copy it again", bundle), "")
	}
}
