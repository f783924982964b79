package steps

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/recipes"
)

// resolve asks the source for the target: one consistent set of packages.
type resolve struct{ e *Env }

func (s *resolve) Name() string { return "resolve" }

func (s *resolve) Do(ctx context.Context, run *Run) error {
	e := s.e
	if !e.Recipe.IsOnHost() && slices.Contains(e.Options.Hold, e.Recipe.Server()) {
		return fail(ErrSkipped, "take it out of hold: in the configuration", "%s is held", e.Recipe.Server())
	}
	if err := e.resolveTarget(ctx); err != nil {
		return err
	}
	e.tellHost()
	server, _ := e.target.Get(e.Recipe.Server())
	run.Facts.To = map[string]string{server.Package: server.Version}
	run.Facts.Target = e.target.Digest()
	if e.old != nil {
		run.Facts.From = map[string]string{e.Recipe.Server(): e.old.Packages[e.Recipe.Server()]}
		if e.old.Target == run.Facts.Target && !e.asksForMore() && !e.strayed() {
			return fail(ErrCurrent, "", "%s", e.current(e.Recipe.Name+" "+e.old.Packages[e.Recipe.Server()]+" is what the sources offer"))
		}
	}
	return nil
}

// asksForMore tells whether --with or --drop-module names something that no earlier
// run has seen to.
func (e *Env) asksForMore() bool {
	for _, d := range e.Options.Drop {
		if !e.old.Drops(d) {
			return true
		}
	}
	for _, name := range e.Options.With {
		m, _ := e.findModule(name, "")
		if !slices.Contains(e.old.Enabled, name) && (m.pkg == "" || !slices.Contains(e.old.Modules, m.pkg)) {
			return true
		}
		if m.pkg != "" && e.lacks(m.pkg) {
			return true
		}
	}
	return false
}

// lacks tells whether something that a package brought is no longer there: a link
// that switched it on, say.
func (e *Env) lacks(pkg string) bool {
	return slices.ContainsFunc(e.old.Files, func(f manifest.File) bool { return f.Package == pkg && !e.Root.Exists(f.Path) })
}

// strayed tells whether programs or libraries are no longer what was installed: a
// backup that was restored, a hand in the jail. They are put back. A page or
// another file that an administrator changed is no reason to stop a server.
func (e *Env) strayed() bool {
	var list []string
	for _, f := range e.old.Files {
		loaded := strings.Contains(path.Base(f.Path), ".so") || f.Link == "" && f.Mode&0o111 != 0
		if f.Package == "" || f.Conf || !loaded || recipes.Match(e.Recipe.State, f.Path) {
			continue
		}
		d, base, err := e.Root.OpenParent(f.Path)
		var got *changeset.State
		if err == nil {
			got, err = changeset.ReadState(int(d.Fd()), base)
			d.Close()
		}
		if err != nil || got == nil || got.SHA256 != f.SHA256 || got.Link != f.Link {
			list = append(list, f.Path)
		}
	}
	if len(list) == 0 {
		return false
	}
	e.note(event.Warning, fmt.Sprintf("%s no longer what was installed; what the new version has of them is put back: %s", counted(len(list), "program or library is", "programs or libraries are"), strings.Join(list[:min(5, len(list))], ", ")), "")
	return true
}

func (s *resolve) Undo(context.Context, *Run) error { return nil }

var rangeRE = lazyregexp.New(`[<>=!~, ]`)

// Wants turns the recipe's packages and --version into what is asked of the
// source; the version is that of the server named, the main one where that is "".
// What comes beside the servers is needed only in a jail that jailup built. A
// version with an operator is a constraint on the upstream version, one without
// is exact.
func Wants(r *recipes.Recipe, named, version string, whole bool) []source.Want {
	needed := map[string]bool{}
	of := r.Server()
	for _, part := range r.Parts() {
		needed[part.Server()] = true
		if part.Name == named {
			of = part.Server()
		}
	}
	var out []source.Want
	for _, p := range r.Packages {
		w := source.Want{Name: p}
		if p == of {
			w = wanted(p, version)
		}
		w.Optional = !needed[p] && !whole
		out = append(out, w)
	}
	return out
}

// wanted is a package with what --version says of it.
func wanted(name, version string) source.Want {
	w := source.Want{Name: name}
	switch {
	case version == "":
	case rangeRE.MatchString(strings.TrimSpace(version)) && strings.ContainsAny(version[:1], "<>=!~"):
		w.Constraint = version
	default:
		w.Exact = version
	}
	return w
}

// sourceError gives a source's error its kind and hint.
func sourceError(err error) error {
	switch {
	case errors.Is(err, source.ErrStale):
		return &Error{Kind: ErrSkipped, Err: err, Hint: "the mirror will catch up; try again later"}
	case errors.Is(err, source.ErrSources):
		return &Error{Kind: ErrUsage, Err: err, Hint: "look at /etc/apt/sources.list and /etc/apt/sources.list.d, or give --apt-sources and --keyring"}
	case errors.Is(err, source.ErrUnreachable):
		return &Error{Err: err, Hint: "look at the network, at http_proxy, and at the sources: apt-get update"}
	case errors.Is(err, source.ErrUnresolved):
		return &Error{Err: err, Hint: "see what the sources offer: apt-cache policy; of dir:PATH what lies in PATH"}
	case errors.Is(err, source.ErrExpired):
		return &Error{Err: err, Hint: "look at this machine's clock: date; else the mirror sends an index that is too old"}
	case errors.Is(err, source.ErrKeyring):
		return &Error{Err: err, Hint: "nothing was used; name a keyring that can be read: Signed-By in the sources, or --keyring"}
	case errors.Is(err, source.ErrNoKey):
		return &Error{Err: err, Hint: "nothing was used; if --keys, keys: or Signed-By names fingerprints, see whether they are those of the mirror's key (gpg --show-keys FILE); else the keyring is too old, or somebody changed what the mirror sends"}
	case errors.Is(err, source.ErrSignature), errors.Is(err, source.ErrHash), errors.Is(err, source.ErrRelease):
		return &Error{Err: err, Hint: "somebody changed what the mirror sends, or the keyring is too old; nothing of it was used"}
	}
	return err
}
