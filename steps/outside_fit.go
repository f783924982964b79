package steps

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/recipes"
)

// hostLibs are the libraries that the processes of a server on the host have loaded
// before their root changes, by SONAME. What they load out of the jail afterwards
// is linked to these, whatever the jail has of that name.
type hostLibs struct {
	exe  elfdeps.Object
	libs map[string]elfdeps.Object
}

func (h *hostLibs) has(soname string) bool {
	_, ok := h.libs[soname]
	return ok
}

// hostLibs reads which they are: of a server that runs out of its memory map, of
// one that is down out of what its program and its modules need.
func (e *Env) hostLibs(ctx context.Context, u *unit) (*hostLibs, error) {
	if e.loaded != nil {
		return e.loaded, nil
	}
	host, err := e.hostTree()
	if err != nil {
		return nil, err
	}
	o := u.facts.Outside
	res := elfdeps.New(rootTree{host})
	h := &hostLibs{libs: map[string]elfdeps.Object{}}
	if h.exe, err = res.Object(o.Exe); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", o.Exe, err)
	}
	var files []string
	if server, err := u.find(ctx, before); err == nil && server.Master != nil {
		files = mappedFiles(server.Master.PID)
	}
	if len(files) == 0 {
		roots := []string{o.Exe}
		if conf, err := u.configuration(); err == nil {
			for _, m := range conf.modules() {
				roots = append(roots, m.Path)
			}
		}
		c, err := res.Closure(ctx, roots)
		if err != nil {
			return nil, fmt.Errorf("cannot find what %s loads: %w", o.Exe, err)
		}
		files = sortedKeys(c.Objects)
	}
	for _, f := range files {
		// Where a file was replaced since, the restart loads the new one.
		obj, err := res.Object(f)
		if err != nil || obj.Type != elf.ET_DYN {
			continue
		}
		h.libs[nameOfLib(obj)] = obj
	}
	e.loaded = h
	return h, nil
}

func nameOfLib(o elfdeps.Object) string {
	if o.SONAME != "" {
		return o.SONAME
	}
	return path.Base(o.Path)
}

// mappedFiles lists what a process has mapped; the sixth field of a line of
// /proc/PID/maps is the path (proc_pid_maps(5)).
func mappedFiles(pid int) []string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		_, p, ok := strings.Cut(sc.Text(), "/")
		p = "/" + strings.TrimSuffix(p, " (deleted)")
		if ok && strings.Contains(p, ".so") && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// provided names what the server's processes have loaded before; nil where the
// server is in the jail.
func (e *Env) provided(ctx context.Context) (func(string) bool, error) {
	u := e.outside()
	if u == nil {
		return nil, nil
	}
	h, err := e.hostLibs(ctx, u)
	if err != nil {
		return nil, err
	}
	return h.has, nil
}

// unfit is a library of the jail that the processes of the host's server could not
// load.
type unfit struct {
	path    string // in the jail
	needs   string // library
	version string // of its symbols; "" where the library itself is missing
	by      string // the file that was found under that name
	has     string // what that one has instead
	host    bool   // by is a file of the host
}

func (m unfit) String() string {
	p, where := event.Clean(m.path, 200), "jail's "
	if m.host {
		where = "host's "
	}
	switch {
	case m.version == "":
		return fmt.Sprintf("%s needs %s, which neither the host's server has loaded nor the jail holds", p, event.Clean(m.needs, 100))
	case m.has == "":
		return fmt.Sprintf("%s needs %s of %s, and the %s%s has none of it", p, event.Clean(m.version, 60), event.Clean(m.needs, 100), where, event.Clean(m.by, 200))
	}
	return fmt.Sprintf("%s needs %s of %s, and the %s%s has %s", p, event.Clean(m.version, 60), event.Clean(m.needs, 100), where, event.Clean(m.by, 200), event.Clean(m.has, 60))
}

// fitter looks at one view of the jail.
type fitter struct {
	host    *hostLibs
	res     *elfdeps.Resolver
	seen    map[string]bool
	found   []unfit
	private func(path string) (jail, host string, ok bool) // versions of the packages of a file and of the host's C library
}

// fit finds what of the files of a view the server's processes may load, after
// their root has changed, and could not. That is what the recipe names, and where
// the jail has no programs, every library: there is nobody else to load it.
func (e *Env) fit(h *hostLibs, v elfdeps.FS, files []string, private func(string) (string, string, bool)) []unfit {
	f := &fitter{host: h, res: elfdeps.New(v), seen: map[string]bool{}, private: private}
	var libs []elfdeps.Object
	programs := false
	for _, p := range files {
		o, err := f.res.Object(p)
		switch {
		case err != nil || o.Type != elf.ET_DYN && o.Type != elf.ET_EXEC:
		case o.Type == elf.ET_EXEC || o.Interp != "" && !strings.Contains(path.Base(p), ".so"):
			programs = true
		case o.Machine == h.exe.Machine && o.Class == h.exe.Class:
			libs = append(libs, o)
		}
	}
	for _, o := range libs {
		if e.late(o) || !programs {
			f.look(o)
		}
	}
	return f.found
}

// late tells whether a library is one that is loaded after the root has changed.
func (e *Env) late(o elfdeps.Object) bool {
	canonical := fileset.Canonical(o.Path)
	if recipes.Match(e.Recipe.Outside.Runtime, canonical) {
		return true
	}
	// A hand may have put it elsewhere.
	return slices.ContainsFunc(e.Recipe.Outside.Runtime, func(glob string) bool {
		ok, err := path.Match(path.Base(glob), path.Base(canonical))
		return err == nil && ok && !strings.HasPrefix(path.Base(glob), "*")
	})
}

// look follows what one library needs.
func (f *fitter) look(o elfdeps.Object) {
	if f.host.has(nameOfLib(o)) || f.seen[o.Path] {
		return // that one is loaded, and this never will be
	}
	f.seen[o.Path] = true
	from := map[string]elfdeps.Object{}
	for _, n := range o.Needed {
		if got, ok := f.host.libs[n]; ok {
			from[n] = got
			continue
		}
		got, ok := f.inJail(o, n)
		if !ok {
			f.found = append(f.found, unfit{path: o.Path, needs: n})
			continue
		}
		from[n] = got
		f.look(got)
	}
	for _, lib := range sortedKeys(o.VersionsNeeded) {
		got, ok := from[lib]
		if !ok {
			if got, ok = f.host.libs[lib]; !ok {
				continue // told as missing, or not needed at all
			}
		}
		for _, version := range o.VersionsNeeded[lib] {
			f.version(o, lib, version, got)
		}
	}
}

func (f *fitter) version(o elfdeps.Object, lib, version string, got elfdeps.Object) {
	m := unfit{path: o.Path, needs: lib, version: version, by: got.Path, host: f.host.has(lib)}
	if version == "GLIBC_PRIVATE" && m.host && f.private != nil {
		// What it holds is another thing in each build of the C library.
		if inJail, onHost, ok := f.private(o.Path); ok && inJail != onHost {
			m.version, m.has = version+" of "+inJail, onHost
			f.found = append(f.found, m)
		}
		return
	}
	if got.VersionsDefined == nil || slices.Contains(got.VersionsDefined, version) || o.Weakly(lib, version) {
		return
	}
	family, _, _ := strings.Cut(version, "_")
	most := ""
	for _, v := range got.VersionsDefined {
		if n, ok := strings.CutPrefix(v, family+"_"); ok && n != "PRIVATE" && (most == "" || compareVersions(n, most) > 0) {
			most = n
		}
	}
	if most != "" {
		m.has = family + "_" + most + " at most"
	}
	f.found = append(f.found, m)
}

// inJail finds a library where ld.so looks for it in the jail.
func (f *fitter) inJail(o elfdeps.Object, name string) (elfdeps.Object, bool) {
	for _, dir := range f.res.SearchPath(o) {
		got, err := f.res.Object(path.Join(dir, name))
		if err == nil && got.Machine == o.Machine && got.Class == o.Class {
			return got, true
		}
	}
	return elfdeps.Object{}, false
}

// fitError refuses a package that does not fit the host.
type fitError struct {
	pkg string
	err error
}

func (e *fitError) Error() string { return e.err.Error() }
func (e *fitError) Unwrap() error { return e.err }

// withHost judges the libraries of the jail by what the host's server has loaded,
// where there is one, and returns what is missing besides. What could not be loaded
// before either is not blamed.
func (e *Env) withHost(ctx context.Context, then viewFS, files []string, missing []elfdeps.Missing) ([]elfdeps.Missing, error) {
	u := e.outside()
	if u == nil {
		return missing, nil
	}
	h, err := e.hostLibs(ctx, u)
	if err != nil {
		return nil, err
	}
	now := e.jailFS()
	var there []string
	for _, f := range files {
		if _, err := now.Lstat(f); err == nil {
			there = append(there, f)
		}
	}
	was := e.fit(h, now, there, e.privately(false))
	for _, m := range e.fit(h, then, files, e.privately(true)) {
		before := slices.ContainsFunc(was, func(o unfit) bool {
			return o.path == m.path && o.needs == m.needs && (o.version == m.version || strings.HasPrefix(m.version, "GLIBC_PRIVATE"))
		})
		if !before {
			return nil, e.misfit(u, m)
		}
		e.note(event.Warning, fmt.Sprintf("%s cannot load it, now as before: %s", u.name(), m), "")
	}
	res := elfdeps.New(then)
	return slices.DeleteFunc(missing, func(m elfdeps.Missing) bool {
		root := m.By
		if len(m.Chain) > 0 {
			root = m.Chain[0]
		}
		o, err := res.Object(root)
		if err != nil || o.Type == elf.ET_EXEC || o.Interp != "" && !strings.Contains(path.Base(root), ".so") {
			return false
		}
		return e.late(o) || h.has(path.Base(m.Name))
	}), nil
}

func (e *Env) misfit(u *unit, m unfit) error {
	pkg, hint := "", ""
	for _, f := range e.sel.Manifest.Files {
		if f.Path == m.path {
			pkg = f.Package
		}
	}
	if m.host {
		if owner := ownersOf(hostInfo, []string{m.by})[m.by]; owner != "" {
			hint = "upgrade the host first: apt-get install --only-upgrade " + owner
		} else {
			hint = "upgrade the host first: what " + event.Clean(m.by, 200) + " is of"
		}
	}
	return &fitError{pkg, fail(nil, hint, "cannot go on: %s of the host, whose children run in jail %s, could not load it: %s", u.name(), e.Root.Path(), m.String())}
}

// privately tells the versions of the packages that a file of the jail, as it is or
// as it will be, and the host's C library are of.
func (e *Env) privately(then bool) func(string) (string, string, bool) {
	if e.sel == nil {
		return nil
	}
	host := hostVersions()
	return func(p string) (string, string, bool) {
		for _, f := range e.sel.Manifest.Files {
			if f.Path != p || f.Package == "" {
				continue
			}
			from, to := e.versions()
			inJail := from[f.Package]
			if then {
				inJail = to[f.Package]
			}
			return inJail, host[f.Package], host[f.Package] != ""
		}
		return "", "", false
	}
}

// fitting stages again and again, each time with an older version of a package that
// does not fit the host's server, as long as there is one: the host's own first.
func (e *Env) fitting(ctx context.Context, run *Run, s *stage) error {
	for {
		err := s.prepare(ctx, run)
		var m *fitError
		if !errors.As(err, &m) {
			return err
		}
		chosen, _ := e.target.Get(m.pkg)
		version := e.olderThan(chosen.Version, m.pkg)
		if version == "" {
			return err
		}
		e.note(event.Warning, fmt.Sprintf("%s %s does not fit the host, %s is taken: %s", m.pkg, chosen.Version, version, m.Error()), HintOf(err))
		if e.fits == nil {
			e.fits = map[string]string{}
		}
		e.fits[m.pkg] = version
		if err := s.Undo(ctx, run); err != nil {
			return err
		}
		for _, again := range []Step{&resolve{e}, &fetch{e}} {
			if err := again.Do(ctx, run); err != nil {
				return err
			}
		}
	}
}

// olderThan chooses a version that the sources offer: the one that the host has,
// else the next one below; never one below what the jail has. "" is none.
func (e *Env) olderThan(version, pkg string) string {
	if pkg == "" || version == "" {
		return ""
	}
	from, _ := e.versions()
	host, best := hostVersions()[pkg], ""
	for _, p := range e.index.Versions(pkg) {
		v := p.Version
		if compareVersions(v, version) >= 0 || from[pkg] != "" && compareVersions(v, from[pkg]) < 0 {
			continue
		}
		if v == host {
			return v
		}
		if best == "" || compareVersions(v, best) > 0 {
			best = v
		}
	}
	return best
}

// fitNow tells what of the jail as it is the host's server could not load.
func (e *Env) fitNow(ctx context.Context) []string {
	u := e.outside()
	if u == nil {
		return nil
	}
	h, err := e.hostLibs(ctx, u)
	if err != nil {
		return []string{err.Error()}
	}
	files, err := e.walk(ctx, e.jailFS(), maxWalk)
	if err != nil {
		return nil // it is very large: the upgrade looks where it is to be expected
	}
	var out []string
	for _, m := range e.fit(h, e.jailFS(), files, nil) {
		out = append(out, fmt.Sprintf("%s of the host could not load it: %s", u.name(), m))
	}
	return out
}
