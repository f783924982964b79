package steps

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/recipes"
)

// chooseNext decides in which edition each part of the jail will be: the one that
// it is in, where the sources still offer it; else the one that they mean.
func (e *Env) chooseNext() error {
	all := e.Recipe.Parts()
	var parts []*recipes.Recipe
	for _, was := range all {
		raw := was
		if e.Recipes != nil && was.Series.Package != "" {
			if r, ok := e.Recipes.Find(was.Name); ok {
				raw = r
			}
		}
		if !raw.Versioned() {
			parts = append(parts, was)
			continue
		}
		ed, err := e.editionFor(raw, was.Edition())
		if err != nil {
			return err
		}
		if ed == was.Edition() {
			parts = append(parts, was)
			continue
		}
		parts = append(parts, raw.At(ed))
	}
	if slices.Equal(parts, all) {
		e.Next = e.Recipe
		return nil
	}
	next := recipes.Join(parts[len(parts)-1], parts[:len(parts)-1]...)
	e.setNext(next, carryPairs(e.Recipe, next))
	return nil
}

func (e *Env) editionFor(raw *recipes.Recipe, was recipes.Edition) (recipes.Edition, error) {
	template := raw.Series.Package
	var offered []string
	for _, name := range e.index.Matching(strings.ReplaceAll(template, "{series}", "*")) {
		if s, ok := fill(template, "{series}", name); ok {
			offered = append(offered, s)
		}
	}
	if len(offered) == 0 {
		return recipes.Edition{}, sourceError(fmt.Errorf("%w: cannot find %s: the sources offer no package %s",
			source.ErrUnresolved, raw.Name, strings.ReplaceAll(template, "{series}", "*")))
	}
	slices.SortFunc(offered, compareVersions)
	series := offered[len(offered)-1]
	if meant := e.meant(raw); slices.Contains(offered, meant) {
		series = meant
	}
	if slices.Contains(offered, was.Series) {
		series = was.Series
	}
	if e.versioned(raw.Name) && !e.offers(template, series) {
		for _, s := range offered {
			if e.offers(template, s) {
				series = s // the newest that --version allows
			}
		}
	}
	name := strings.ReplaceAll(template, "{series}", series)
	for _, p := range e.index.Versions(name) {
		for provided := range strings.SplitSeq(p.Provides, ",") {
			provided, _, _ = strings.Cut(strings.TrimSpace(provided), " ")
			if api, ok := fill(raw.Series.API, "{api}", provided); ok {
				return recipes.Edition{Series: series, API: api}, nil
			}
		}
	}
	return recipes.Edition{Series: series, API: was.API}, nil
}

// offers tells whether the sources have a version of a series that --version allows.
func (e *Env) offers(template, series string) bool {
	want := wanted(strings.ReplaceAll(template, "{series}", series), e.Options.Version)
	return slices.ContainsFunc(e.index.Versions(want.Name), func(p source.Package) bool {
		ok, err := want.Takes(p)
		return err == nil && ok
	})
}

// meant is the series that the sources mean: that on which the package depends
// that has no series in its name.
func (e *Env) meant(raw *recipes.Recipe) string {
	for _, p := range e.index.Versions(raw.Series.Default) {
		d, err := pkgs.ParseDependency(p.Depends)
		if err != nil {
			continue
		}
		for _, alt := range d.For(e.index.Arch()) {
			for _, r := range alt {
				if s, ok := fill(raw.Series.Package, "{series}", r.Name); ok {
					return s
				}
			}
		}
	}
	return ""
}

// versioned tells whether --version is said of this part.
func (e *Env) versioned(name string) bool {
	named := e.Options.Named
	if named == "" {
		named = e.Recipe.Name
	}
	return name == named && e.Options.Version != ""
}

// module is what --with names, or what a jail has: "mysql", "imap".
type module struct {
	name string
	part *recipes.Recipe // of the jail as it shall be
	pkg  string          // "" where the sources offer none
}

// findModule looks for the package of a module: by the names that the recipes
// say, by what is known to lie in one package, by what packages provide, and by
// its own name. of is the part that it is a module of; "" is any.
func (e *Env) findModule(name, of string) (module, []string) {
	var tried []string
	for _, part := range e.next().Parts() {
		if of != "" && part.Name != of {
			continue
		}
		names := []string{name}
		for in, brings := range part.Modules.Within {
			if slices.Contains(brings, name) {
				names = append([]string{in}, names...)
			}
		}
		for _, n := range names {
			for _, template := range part.Modules.Packages {
				pkg := strings.ReplaceAll(template, "{module}", n)
				tried = append(tried, pkg)
				if found := e.index.Providing(pkg); len(found) > 0 {
					return module{name, part, found[0].Package}, nil
				}
			}
		}
		for _, template := range part.Modules.Packages {
			if _, ok := moduleOf(template, name); ok && len(e.index.Versions(name)) > 0 {
				return module{name, part, name}, nil
			}
		}
	}
	return module{name: name}, tried
}

// moduleOf tells which module a package name is of.
func moduleOf(template, pkg string) (string, bool) {
	head, tail, ok := strings.Cut(template, "{module}")
	if !ok || len(pkg) <= len(head)+len(tail) || !strings.HasPrefix(pkg, head) || !strings.HasSuffix(pkg, tail) {
		return "", false
	}
	return pkg[len(head) : len(pkg)-len(tail)], true
}

// moduleWants are the packages of the modules that the jail has, and of those that
// are asked for.
func (e *Env) moduleWants(whole bool) ([]source.Want, error) {
	var out []source.Want
	add := func(pkg string, optional bool) {
		if !slices.ContainsFunc(out, func(w source.Want) bool { return w.Name == pkg }) {
			out = append(out, source.Want{Name: pkg, Optional: optional})
			e.modules = append(e.modules, pkg)
		}
	}
	for _, name := range e.Options.With {
		m, tried := e.findModule(name, "")
		if m.pkg == "" {
			if e.canEnable(name) {
				if !slices.Contains(e.enable, name) {
					e.enable = append(e.enable, name)
				}
				continue
			}
			return nil, fail(nil, "see what the sources offer: apt-cache search "+event.Clean(name, 60),
				"cannot find module %s: the sources offer no %s", event.Clean(name, 60), strings.Join(tried, ", "))
		}
		add(m.pkg, false)
	}
	have, err := e.presentModules(whole)
	if err != nil {
		return nil, err
	}
	for _, h := range have {
		if e.drops(h.name) {
			continue
		}
		m, tried := e.findModule(h.name, h.part)
		switch {
		case m.pkg != "":
			add(m.pkg, false)
		case h.needed:
			return nil, fail(nil, "to go without it: --drop-module "+h.name,
				"cannot upgrade %s: the sources offer no package for its module %s (%s)", e.Recipe.Name, h.name, strings.Join(tried, ", "))
		}
	}
	return out, nil
}

// drops tells whether a module, or what lies in one package with it, is to go.
func (e *Env) drops(name string) bool {
	for _, d := range e.dropped() {
		if d == name {
			return true
		}
		for _, part := range e.Recipe.Parts() {
			if slices.Contains(part.Modules.Within[d], name) {
				return true
			}
		}
	}
	return false
}

// canEnable tells whether a name may be that of something that the server's own
// packages hold and that is only switched on: Apache's rewrite.
func (e *Env) canEnable(name string) bool {
	if !moduleName.MatchString(name) {
		return false
	}
	return slices.ContainsFunc(e.next().Effects.Enable, func(n recipes.Enable) bool { return len(n.Names) > 0 })
}

var moduleName = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_.+-]*$`)

// presentModule is a module that the jail has.
type presentModule struct {
	name   string
	part   string // the recipe that it is a module of
	needed bool   // the configuration loads it: without it the server does not start, or is another one
}

// presentModules lists the modules of the jail: those that jailup was asked for,
// and in a jail made by hand those that lie there.
func (e *Env) presentModules(whole bool) ([]presentModule, error) {
	if e.Root == nil {
		return nil, nil
	}
	if whole {
		var out []presentModule
		for _, pkg := range e.oldModules() {
			name, part := e.nameOf(pkg)
			out = append(out, presentModule{name, part, true})
		}
		return out, nil
	}
	var out []presentModule
	for _, part := range e.Recipe.Parts() {
		dir := path.Dir(part.Modules.Files)
		if part.Modules.Files == "" || strings.Contains(dir, "{") {
			continue
		}
		names, err := e.Root.ReadDir(dir)
		if err != nil {
			continue // it has none
		}
		loaded, err := e.loadedModules(part)
		if err != nil {
			return nil, err
		}
		slices.Sort(names)
		for _, n := range names {
			name, ok := moduleOf(path.Base(part.Modules.Files), n)
			if !ok || !moduleName.MatchString(name) {
				continue
			}
			out = append(out, presentModule{shortName(name), part.Name, part.Modules.ABI == "php" && slices.Contains(loaded, name)})
		}
	}
	return out, nil
}

// shortName is how the package of a module of nginx calls it:
// ngx_http_geoip2_module is of libnginx-mod-http-geoip2.
func shortName(name string) string {
	if rest, ok := strings.CutPrefix(name, "ngx_"); ok {
		return strings.ReplaceAll(strings.TrimSuffix(rest, "_module"), "_", "-")
	}
	return name
}

// nameOf takes what surrounds the module's name off a package's, and tells of
// which part it is.
func (e *Env) nameOf(pkg string) (name, part string) {
	for _, part := range e.Recipe.Parts() {
		for _, template := range part.Modules.Packages {
			if name, ok := moduleOf(template, pkg); ok {
				return name, part.Name
			}
		}
	}
	return pkg, ""
}

func (e *Env) oldModules() []string {
	if e.old == nil {
		return nil
	}
	return e.old.Modules
}

// resolveTarget asks the source for the packages of the jail as it shall be.
func (e *Env) resolveTarget(ctx context.Context) error {
	if err := e.hostOnly(); err != nil {
		return err
	}
	ix, err := e.Source.Index(ctx)
	if err != nil {
		return sourceError(err)
	}
	for _, n := range ix.Notices {
		e.note(event.Warning, n.Message, "")
	}
	e.index, e.Arch, e.modules, e.enable = ix, ix.Arch(), nil, nil
	if e.old != nil {
		for _, name := range e.old.Enabled { // asked for by an earlier --with
			if !e.drops(name) {
				e.enable = append(e.enable, name)
			}
		}
	}
	if err := e.chooseNext(); err != nil {
		return err
	}
	whole := e.Root == nil || e.old != nil && e.old.Whole
	more, err := e.moduleWants(whole)
	if err != nil {
		return err
	}
	next := e.next()
	roots := Wants(next, e.Options.Named, e.Options.Version, whole)
	for _, w := range more {
		if !slices.ContainsFunc(roots, func(r source.Want) bool { return r.Name == w.Name }) {
			roots = append(roots, w)
		}
	}
	target, err := source.Resolve(ix, source.Request{Roots: roots, Without: next.Without, Arch: e.Arch, Held: e.heldVersions()})
	if err != nil {
		return sourceError(err)
	}
	for _, n := range target.Notes {
		e.note(event.Warning, n, "")
	}
	e.target = target
	for _, s := range next.Servers() {
		if _, ok := target.Get(s.Server()); !ok {
			return fmt.Errorf("cannot resolve %s: the target holds no package %s", s.Name, s.Server())
		}
	}
	return nil
}

func (e *Env) heldVersions() map[string]string {
	held := maps.Clone(e.fits)
	if held == nil {
		held = map[string]string{}
	}
	for _, p := range e.Options.Hold {
		if e.old == nil || e.old.Packages[p] == "" {
			e.note(event.Warning, p+" is to be held, but which version the jail has is not known", "")
			continue
		}
		held[p] = e.old.Packages[p]
	}
	return held
}
