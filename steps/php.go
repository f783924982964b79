package steps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/recipes"
)

// phpPart is the part of the jail whose PHP a server runs: its own, or that which
// is loaded into it.
func phpPart(all *recipes.Recipe, server string) (*recipes.Recipe, bool) {
	for _, p := range all.Parts() {
		if p.PHP.INI != "" && (p.Name == server || p.Within == server) {
			return p, true
		}
	}
	return nil, false
}

func (e *Env) recipeOn(s side) *recipes.Recipe {
	if s == after {
		return e.next()
	}
	return e.Recipe
}

// askPHP lets the checks ask the server's PHP what it is. It is run in a sandbox:
// what lies in a jail never runs as root with the host in reach.
func (u *unit) askPHP(t *checks.Target, s side) {
	part, ok := phpPart(u.e.recipeOn(s), u.name())
	if !ok || len(part.PHP.Modules) == 0 {
		return
	}
	t.Dropped = u.e.droppedExtensions()
	t.Runtime = func(ctx context.Context) (checks.Runtime, error) { return u.e.runtime(ctx, part) }
}

// runtime runs PHP in a sandbox and returns what it says of itself.
func (e *Env) runtime(ctx context.Context, part *recipes.Recipe) (checks.Runtime, error) {
	if !e.Root.Exists(part.PHP.Modules[0]) {
		return checks.Runtime{}, fmt.Errorf("there is no %s in the jail to ask: %w", part.PHP.Modules[0], errors.ErrUnsupported)
	}
	var r checks.Runtime
	res, err := e.Root.Run(ctx, jail.Box{Argv: loud(part.PHP.Modules), Env: part.PHP.Env})
	switch {
	case errors.Is(err, jail.ErrNoSandbox):
		return r, fmt.Errorf("%w: %w", err, errors.ErrUnsupported)
	case err != nil:
		return r, err
	case res.TimedOut || res.Exit != 0:
		return r, fmt.Errorf("cannot ask PHP for its modules: %s", ending(res))
	}
	r.Modules = phpconf.ParseModules(res.Output)
	for _, w := range phpconf.ParseWarnings(res.Output) {
		r.Warnings = append(r.Warnings, w.Text)
	}
	res, err = e.Root.Run(ctx, jail.Box{Argv: part.PHP.Version, Env: part.PHP.Env})
	if err != nil {
		return r, err
	}
	r.Version = phpVersion(res.Output)
	return r, nil
}

// loud is a command of PHP that says all it has to say on its error output.
func loud(argv []string) []string {
	return slices.Concat(argv[:1], phpconf.Loud(), argv[1:])
}

// phpVersion reads the line "PHP 8.2.36 (fpm-fcgi) (built: ...)".
func phpVersion(out []byte) string {
	for line := range bytes.Lines(out) {
		if rest, ok := bytes.CutPrefix(line, []byte("PHP ")); ok {
			if f := bytes.Fields(rest); len(f) > 0 && f[0][0] >= '0' && f[0][0] <= '9' {
				return event.Clean(string(f[0]), 40)
			}
		}
	}
	return ""
}

func ending(res *jail.BoxResult) string {
	what := fmt.Sprintf("exit status %d", res.Exit)
	if res.TimedOut {
		what = "no end within its time"
	}
	if res.Ended != "" {
		what = "ended by force, for it used " + res.Ended
	}
	if lines := event.CleanLines(string(res.Output), 5, 200); len(lines) > 0 {
		what += ": " + strings.Join(lines, "; ")
	}
	return what
}

// loadedModules are the names of the extensions that the PHP of a part loads.
func (e *Env) loadedModules(part *recipes.Recipe) ([]string, error) {
	if part.PHP.INI == "" {
		return nil, nil
	}
	ini, err := phpconf.ReadIni(rootTree{e.Root}, part.PHP.INI, part.PHP.Scan, part.PHP.Extensions)
	if err != nil {
		return nil, fmt.Errorf("cannot read the settings of PHP: %w", err)
	}
	var out []string
	for _, x := range ini.Extensions {
		out = append(out, x.Name)
	}
	return out, nil
}

// removedDirectives tells of settings that the PHP to come no longer knows, with
// file and line: it would pass over them in silence. Both PHPs are asked for all
// that they know.
func (e *Env) removedDirectives(ctx context.Context) error {
	view, err := e.viewNow()
	if err != nil {
		return err
	}
	for _, next := range e.next().Parts() {
		was, ok := e.Recipe.Part(next.Name)
		if next.PHP.INI == "" || !ok || was.Edition() == next.Edition() {
			continue
		}
		now, err := e.directives(ctx, was, nil)
		if err != nil {
			return err
		}
		then, err := e.directives(ctx, next, boxChanges(e.set))
		if err != nil {
			return err
		}
		if now == nil || then == nil {
			e.note(event.Info, fmt.Sprintf("whether PHP %s still knows all settings was not looked at: it cannot be asked here", next.Edition().Series), "")
			continue
		}
		ini, err := phpconf.ReadIni(view, next.PHP.INI, next.PHP.Scan, next.PHP.Extensions)
		if err != nil {
			return fmt.Errorf("cannot read the settings of PHP: %w", err)
		}
		gone := phpconf.Removed(ini, now, then)
		if u := e.unit(next.Name); u != nil {
			if conf, err := readSite(view, next, u.argv(after), nil); err == nil {
				if fpm, ok := conf.(fpmSite); ok {
					gone = append(gone, phpconf.RemovedFPM(fpm.FPM, now, then)...)
				}
			}
		}
		for _, d := range gone {
			e.note(event.Warning, fmt.Sprintf("PHP %s no longer knows %s, which is set in %s line %d", next.Edition().Series, event.Clean(d.Name, 80), event.Clean(d.File, 200), d.Line), "")
		}
	}
	return nil
}

// directives are the settings that a PHP knows; nil where it cannot be asked.
func (e *Env) directives(ctx context.Context, part *recipes.Recipe, changes []jail.Change) (map[string]bool, error) {
	if len(part.PHP.Info) == 0 {
		return nil, nil
	}
	box := jail.Box{Argv: part.PHP.Info, Env: part.PHP.Env, Changes: changes}
	if changes != nil {
		box.Stage = e.stage.Dir()
	}
	res, err := e.Root.Run(ctx, box)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil || res.Exit != 0 || res.TimedOut {
		return nil, nil
	}
	known := phpconf.ParseInfo(res.Output)
	if len(known) == 0 {
		return nil, nil
	}
	return known, nil
}

// listens keeps the address of each pool where it is while its file moves: the web
// server's configuration names it, in this jail or outside.
func (e *Env) listens(canonical string) (value string, ok bool) {
	u := e.unit("php-fpm")
	if u == nil || u.recipe[before] == u.recipe[after] {
		return "", false
	}
	conf, err := u.configuration()
	if err != nil {
		return "", false
	}
	fpm, isFPM := conf.(fpmSite)
	if !isFPM {
		return "", false
	}
	for _, p := range fpm.Pools {
		if carried([]string{p.File}, e.carry())[0] == canonical {
			return p.Address, true
		}
	}
	return "", false
}

func (e *Env) carry() [][2]string { return carryPairs(e.Recipe, e.next()) }
