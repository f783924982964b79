package steps

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/abi"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/recipes"
)

// gate compares every module that the configuration to come loads with the program
// to come, third-party ones as well: what they were built for, by reading files
// only. What did not fit before either is not the upgrade's fault.
func (e *Env) gate() error {
	view, err := e.viewNow()
	if err != nil {
		return err
	}
	now, err := e.misfits(view, after)
	if err != nil {
		return err
	}
	if len(now) == 0 {
		return nil
	}
	then, err := e.misfits(rootTree{e.Root}, before)
	if err != nil {
		then = nil // the program that runs cannot be read: nothing is excused by it
	}
	var bad []abi.Misfit
	for _, m := range now {
		was := slices.ContainsFunc(then, func(o abi.Misfit) bool { return o.Name == m.Name && o.Reason == m.Reason && o.Has == m.Has })
		if was || m.Loads {
			e.note(event.Warning, misfitText(m), "")
			e.excused = append(e.excused, m.Name)
			continue
		}
		bad = append(bad, m)
	}
	if len(bad) == 0 {
		return e.saveJSON(excusedFile, e.excused)
	}
	for _, m := range bad[1:] {
		e.note(event.Warning, misfitText(m), "")
	}
	return fail(nil, e.misfitHint(bad[0]), "cannot go on: %s", misfitText(bad[0]))
}

// excusedFile holds, with the run, the modules that did not fit before either.
const excusedFile = "excused.json"

// excusedModules are those of the run, from memory or from its folder.
func (e *Env) excusedModules() []string {
	if e.excused == nil {
		_ = e.loadJSON(excusedFile, &e.excused) // none, where nothing was excused
	}
	return e.excused
}

func misfitText(m abi.Misfit) string {
	text := "module " + event.Clean(m.Name, 80)
	if m.File != "" {
		text += fmt.Sprintf(" (%s line %d)", event.Clean(m.File, 200), m.Line)
	}
	text += " does not fit: it " + event.Clean(m.Reason, 300)
	if m.Has != "" {
		text += fmt.Sprintf("; it was built for %s, the program to come wants %s", event.Clean(m.Has, 120), event.Clean(m.Needs, 120))
	}
	return text
}

// misfitHint names the package that would fit.
func (e *Env) misfitHint(m abi.Misfit) string {
	drop := "to go without it: --drop-module " + event.Clean(m.Name, 80)
	if e.index == nil {
		return drop
	}
	found, _ := e.findModule(shortName(strings.TrimSuffix(m.Name, "_module")), "")
	if found.pkg == "" {
		return drop
	}
	if p, ok := e.target.Get(found.pkg); ok {
		return fmt.Sprintf("%s %s, which comes along, should bring one that fits: look at %s; %s", p.Package, p.Version, event.Clean(m.Path, 200), drop)
	}
	return fmt.Sprintf("the package that fits is %s: --with %s; %s", found.pkg, event.Clean(found.name, 80), drop)
}

// misfits looks at all servers and their PHP in a tree.
func (e *Env) misfits(t tree, s side) ([]abi.Misfit, error) {
	var out []abi.Misfit
	for _, u := range e.servers() {
		if u.facts.Affected || u.facts.Outside != nil {
			continue
		}
		r := u.recipe[s]
		conf, err := u.site(filesOf(t), s)
		if err != nil {
			continue // the rehearsal says more of it
		}
		var mods []abi.Module
		for _, m := range conf.modules() {
			if !m.LoadFile {
				mods = append(mods, abi.Module{Name: m.Name, Path: m.Path, File: m.File, Line: m.Line})
			}
		}
		found, err := checkModules(t, r, mods)
		if err != nil {
			return nil, fmt.Errorf("cannot compare the modules of %s: %w", u.name(), err)
		}
		out = append(out, found...)
	}
	for _, part := range e.recipeOn(s).Parts() {
		if part.PHP.INI == "" {
			continue
		}
		ini, err := phpconf.ReadIni(filesOf(t), part.PHP.INI, part.PHP.Scan, part.PHP.Extensions)
		if err != nil {
			return nil, fmt.Errorf("cannot read the settings of PHP: %w", err)
		}
		var mods []abi.Module
		for _, x := range ini.Extensions {
			mods = append(mods, abi.Module{Name: x.Name, Path: x.Path, File: x.File, Line: x.Line})
		}
		found, err := abi.CheckPHP(t, part.Executables[0], mods)
		if err != nil {
			return nil, fmt.Errorf("cannot compare the modules of PHP: %w", err)
		}
		out = append(out, found...)
	}
	return out, nil
}

func checkModules(t tree, r *recipes.Recipe, mods []abi.Module) ([]abi.Misfit, error) {
	if len(mods) == 0 {
		return nil, nil
	}
	switch r.Modules.ABI {
	case "nginx":
		return abi.CheckNginx(t, r.Executables[0], mods)
	case "apache":
		return abi.CheckApache(t, r.Executables[0], mods)
	}
	return nil, nil
}

// filesOf is a tree for the readers of configuration.
func filesOf(t tree) confFiles {
	f, ok := t.(confFiles)
	if !ok {
		panic("steps: a tree that reads no files") // both kinds do
	}
	return f
}

// dropModules takes out of the jail what --drop-module names: the module, and what
// switches it on.
func (e *Env) dropModules() error {
	names := e.droppedExtensions()
	gone := map[string]bool{}
	found := map[string]bool{}
	for _, name := range names {
		re := regexp.MustCompile(`^([0-9]+-)?` + regexp.QuoteMeta(name) + `\.(ini|conf|load|so)$`)
		for _, dir := range e.moduleDirs() {
			entries, err := e.Root.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, n := range entries {
				if re.MatchString(n) {
					gone[path.Join(dir, n)], found[name] = true, true
				}
			}
		}
		in := &e.sel.Input
		in.Wants = slices.DeleteFunc(in.Wants, func(w changeset.Want) bool {
			hit := re.MatchString(path.Base(w.Path)) && slices.Contains(e.moduleDirs(), path.Dir(w.Path))
			found[name] = found[name] || hit
			return hit
		})
	}
	for _, d := range e.Options.Drop {
		if e.old.Drops(d) {
			continue // an earlier run dropped it
		}
		brings := []string{d}
		for _, p := range e.Recipe.Parts() {
			brings = append(brings, p.Modules.Within[d]...)
		}
		if !slices.ContainsFunc(brings, func(n string) bool { return found[n] }) {
			return fail(ErrUsage, "see which there are: jailup status --jail "+e.Root.Path(), "cannot drop module %s: the jail has none of that name", event.Clean(d, 60))
		}
	}
	for _, p := range sortedKeys(gone) {
		p, err := e.Root.Physical(p)
		if err != nil {
			return err
		}
		if !slices.Contains(e.sel.Input.Remove, p) {
			e.sel.Input.Remove = append(e.sel.Input.Remove, p)
		}
		m := e.sel.Manifest
		m.Files = slices.DeleteFunc(m.Files, func(f manifest.File) bool { return f.Path == p })
	}
	return nil
}

// dropped are the modules that are to go, and those that went before and were not
// asked for since.
func (e *Env) dropped() []string {
	out := slices.Clone(e.Options.Drop)
	if e.old != nil {
		for _, d := range e.old.Dropped {
			if !slices.Contains(out, d) && !e.askedFor(d) {
				out = append(out, d)
			}
		}
	}
	return out
}

// askedFor tells whether --with names a module, or something of its package.
func (e *Env) askedFor(d string) bool {
	same := func(a, b string) bool { return a == b || shortName(a) == shortName(b) }
	return slices.ContainsFunc(e.Options.With, func(w string) bool {
		return same(w, d) || slices.ContainsFunc(e.Recipe.Parts(), func(p *recipes.Recipe) bool {
			return slices.Contains(p.Modules.Within[d], w) || slices.Contains(p.Modules.Within[w], d)
		})
	})
}

// droppedExtensions are these with all that their packages bring.
func (e *Env) droppedExtensions() []string {
	var out []string
	for _, d := range e.dropped() {
		out = append(out, d)
		for _, p := range e.Recipe.Parts() {
			out = append(out, p.Modules.Within[d]...)
		}
	}
	return out
}

// moduleDirs are the directories of modules and of what switches them on, before
// and after the run.
func (e *Env) moduleDirs() []string {
	var out []string
	add := func(p string) {
		if phys, err := e.Root.Physical(path.Join(p, "x")); err == nil {
			p = path.Dir(phys)
		}
		if p != "." && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, r := range []*recipes.Recipe{e.Recipe, e.next()} {
		for _, p := range r.Parts() {
			if p.Modules.Files != "" {
				add(path.Dir(p.Modules.Files))
			}
			for _, n := range p.Effects.Enable {
				add(path.Dir(n.From))
				add(path.Clean(n.To))
			}
		}
	}
	return out
}

// withEnabled is a recipe that switches on what was asked for besides.
func (e *Env) withEnabled(r *recipes.Recipe) *recipes.Recipe {
	if len(e.enable) == 0 {
		return r
	}
	out := *r
	out.Effects.Enable = slices.Clone(r.Effects.Enable)
	for i, n := range out.Effects.Enable {
		if len(n.Names) > 0 {
			out.Effects.Enable[i].Names = append(slices.Clone(n.Names), e.enable...)
		}
	}
	return &out
}
