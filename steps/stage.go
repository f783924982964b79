package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/pipeline"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// stage unpacks the target beside the jail, decides what becomes of each file,
// and computes the changeset.
type stage struct{ e *Env }

func (s *stage) Name() string { return "stage" }

func (s *stage) Do(ctx context.Context, run *Run) error {
	err := s.e.fitting(ctx, run, s)
	if pe, ok := err.(*fs.PathError); ok { //nolint:errorlint // only one that nobody has put into a sentence
		return fmt.Errorf("cannot prepare the new files: cannot %s %s: %w", pe.Op, event.Clean(pe.Path, 300), pe.Err)
	}
	return err
}

func (s *stage) prepare(ctx context.Context, run *Run) error {
	e := s.e
	if err := e.makeStage(&run.Facts); err != nil {
		return err
	}
	if err := e.trial(); err != nil {
		return err
	}
	world, err := e.unpack(ctx)
	if err != nil {
		return err
	}
	known := newKnown(ctx, e)
	if err := e.checkExecutables(ctx, world, known); err != nil {
		return err
	}
	provided, err := e.provided(ctx)
	if err != nil {
		return err
	}
	e.sel, err = fileset.Select(ctx, fileset.Input{
		Root: e.Root, Recipe: inJail(e.next()), Provided: provided, World: world, Stage: e.stage, Old: e.old,
		ConfNew: e.Options.ConfNew, Known: known.identify, Shipped: known.shipped, Pristine: known.pristine,
		Carry: e.carriedPrefixes(), KeepListen: e.listens, Wanted: e.wanted(world), ReadByServer: e.readByServer,
	})
	if err != nil {
		return setIDHint(e.moduleHint(err))
	}
	if err := e.dropModules(); err != nil {
		return err
	}
	return e.finishStage(ctx, run)
}

// setIDHint tells how to go on where a package brings a program with more rights.
func setIDHint(err error) error {
	if !errors.Is(err, fileset.ErrSetID) {
		return err
	}
	return &Error{Err: err, Hint: "see who signed that package, and with hold: in the configuration stay at the version that is there"}
}

// moduleHint tells how to go on where it is a module that cannot be had.
func (e *Env) moduleHint(err error) error {
	for _, part := range e.next().Parts() {
		before, after, ok := strings.Cut(part.Modules.Files, "{module}")
		if !ok {
			continue
		}
		_, rest, found := strings.Cut(err.Error(), before)
		if name, _, end := strings.Cut(rest, after); found && end && moduleName.MatchString(name) {
			return &Error{Err: err, Hint: "to go without it: --drop-module " + name}
		}
	}
	return err
}

// trial exchanges two files of the stage: a file system that cannot is found out
// now, and not in the window.
func (e *Env) trial() error {
	info, err := jail.Fstat(int(e.stage.Dir().Fd()))
	if err != nil {
		return err
	}
	if info.MountID != e.Root.MountID() && e.Scratch == "" {
		return fail(nil, "", "cannot upgrade jail %s: no folder beside it or in it lies on its mount", e.Root.Path())
	}
	var names [2]string
	for i := range names {
		if names[i], _, err = e.stage.Put(strings.NewReader(""), 0, fileset.Meta{Perm: 0o600}); err != nil {
			return err
		}
	}
	dir := int(e.stage.Dir().Fd())
	if err := sys.Renameat2(dir, names[0], dir, names[1], unix.RENAME_EXCHANGE); err != nil {
		return fail(nil, "", "cannot upgrade jail %s: its file system cannot exchange two files: %w", e.Root.Path(), err)
	}
	return nil
}

// finishStage computes the changeset of the selection and makes both durable.
func (e *Env) finishStage(ctx context.Context, run *Run) error {
	if err := e.computeSet(ctx); err != nil {
		return err
	}
	set := e.set
	run.Facts.From, run.Facts.To = e.versions()
	if set.Empty() {
		return fail(ErrCurrent, "", "%s: no file differs", e.current(e.Recipe.Name+" is what the sources offer"))
	}
	if err := e.notBack(run.Facts.From, run.Facts.To); err != nil {
		return err
	}
	if err := e.checkELF(ctx); err != nil {
		return e.moduleHint(err)
	}
	if err := e.gate(); err != nil {
		return err
	}
	if err := e.findAffected(ctx); err != nil {
		return err
	}
	if err := e.keepAside(); err != nil {
		return err
	}
	if err := e.keepStage(); err != nil {
		return err
	}
	if e.Next != nil && e.Next != e.Recipe && e.Scratch == "" {
		if err := e.keepRecipes(); err != nil {
			return err
		}
	}
	e.saveServers(&run.Facts)
	run.Facts.Changed = set.Changed()
	m := e.sel.Manifest
	m.Run, m.Target, m.Time = e.Run, run.Facts.Target, time.Now().UTC()
	e.noteParts(m)
	if err := m.SaveAs(e.file("manifest.json")); err != nil {
		return err
	}
	if e.old != nil {
		if err := e.old.SaveAs(e.file("manifest.old.json")); err != nil {
			return err
		}
	}
	if err := set.Save(e.RunDir(), "changeset.json"); err != nil {
		return err
	}
	e.tell()
	return run.Save()
}

// notBack refuses to go to older versions unasked: a jail that was moved to another
// release, say, while the sources are still those of the old one.
func (e *Env) notBack(from, to map[string]string) error {
	if e.Options.Downgrade {
		return nil
	}
	back := func(what, was, will string) error {
		return fail(ErrSkipped, "to stay with the release that the jail is of: --suite, or suite: in its file in jails.d; to go back on purpose: jailup rollback, or --version",
			"cannot upgrade %s: the sources offer only an older %s: %s, the jail has %s", e.Recipe.Name, what, event.Clean(will, 80), event.Clean(was, 80))
	}
	for _, r := range e.next().Parts() {
		if was, ok := e.Recipe.Part(r.Name); ok && compareVersions(r.Edition().Series, was.Edition().Series) < 0 {
			return back(r.Name, was.Edition().Series, r.Edition().Series)
		}
	}
	watched := []string{"libc6"}
	for _, r := range e.next().Servers() {
		watched = append(watched, r.Server())
	}
	for _, name := range watched {
		if from[name] != "" && to[name] != "" && compareVersions(to[name], from[name]) < 0 {
			return back(name, from[name], to[name])
		}
	}
	return nil
}

// computeSet computes the changeset of the selection. A library that no package has
// any more stays where something else in the jail needs it.
func (e *Env) computeSet(ctx context.Context) error {
	view := func(set *changeset.Set) elfdeps.FS { return viewFS{changeset.NewView(e.Root, e.stage.Dir(), set)} }
	set, kept, err := e.sel.KeepNeeded(ctx, e.Root, view, func(ctx context.Context, set *changeset.Set) ([]string, error) {
		e.set = set
		return e.programs(ctx, viewFS{changeset.NewView(e.Root, e.stage.Dir(), set)}, maxWalk)
	})
	if err != nil {
		return e.unblock(err)
	}
	e.set = set
	for _, k := range kept {
		e.note(event.Info, fmt.Sprintf("%s stays, though no package has it any more: %s needs it", event.Clean(k.Path, 200), event.Clean(k.By, 200)), "")
	}
	return nil
}

// unblock tells how to take out of the way what no rename can change.
func (e *Env) unblock(err error) error {
	var b *changeset.BlockedError
	if !errors.As(err, &b) {
		return err
	}
	at := event.Clean(path.Join(e.Root.Path(), b.Path), 300)
	hint := "look what is mounted there: findmnt -T " + at
	if b.Flagged() {
		hint = "look at it with lsattr -d; if it may be changed: chattr -ia " + at
	}
	return &Error{Err: err, Hint: hint}
}

// versions tells, of the packages that the jail holds files of, which version is
// there and which will be.
func (e *Env) versions() (from, to map[string]string) {
	from, to = map[string]string{}, map[string]string{}
	for _, f := range e.sel.Manifest.Files {
		if f.Package == "" {
			continue
		}
		to[f.Package] = e.sel.Manifest.Packages[f.Package]
		if e.old != nil && e.old.Packages[f.Package] != "" {
			from[f.Package] = e.old.Packages[f.Package]
		} else if v, ok := e.sel.From[f.Package]; ok {
			from[f.Package] = v
		}
	}
	// A package whose files are the same in both versions was there in the version
	// of its siblings, which were built together with it.
	for p, v := range from {
		for q, w := range from {
			if e.old == nil && v == to[p] && to[q] == to[p] && w != to[q] {
				from[p] = w
			}
		}
	}
	return from, to
}

// keepStage makes durable what the changeset takes out of the stage, and removes
// the rest.
func (e *Env) keepStage() error {
	if e.Scratch != "" {
		return nil // it is thrown away
	}
	keep := map[string]bool{}
	for _, op := range e.set.Ops {
		if (op.Kind == changeset.Replace || op.Kind == changeset.Add) && !op.Hold {
			keep[op.Stage] = true
		}
	}
	return e.stage.Keep(keep)
}

func (s *stage) Undo(_ context.Context, run *Run) error {
	if run.Facts.Stage != "" && !run.Facts.KeepStage {
		if err := s.e.mustBeOld(&run.Facts); err != nil {
			return err
		}
	}
	if s.e.stage != nil {
		s.e.stage.Close()
		s.e.stage = nil
	}
	if run.Facts.Stage == "" || run.Facts.KeepStage {
		return nil
	}
	return pipeline.Leftover(s.e.dropStage(run.Facts.Stage))
}

// unpack makes the tree of the target's packages.
func (e *Env) unpack(ctx context.Context) (*fileset.World, error) {
	layout := fileset.NewLayout(e.Root)
	zone := e.zone()
	recipe := e.withEnabled(e.next())
	world := fileset.NewWorld(e.stage, func(canonical string) bool {
		return zone != "" && canonical == "/usr/share/zoneinfo/"+zone || len(layout.Existing(canonical)) > 0
	})
	for i, p := range e.target.Packages {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		blob, ok := e.blobs[p.SHA256]
		if !ok {
			return nil, fmt.Errorf("cannot stage %s: it was not fetched", p)
		}
		err := withDeb(p, blob, func(d *pkgs.Deb) error { return world.Unpack(d, recipe) })
		if err != nil {
			return nil, unpackError(err)
		}
		e.Events.Progress("unpack", event.Files, int64(i+1), int64(len(e.target.Packages)))
	}
	if err := world.Finish(recipe); err != nil {
		return nil, err
	}
	return world, e.checkEnabled(world)
}

// unpackError gives a package that cannot be read its hint. Trouble with the disk
// has one of its own.
func unpackError(err error) error {
	var no syscall.Errno
	var known *Error
	if errors.As(err, &no) || errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &Error{Err: err, Hint: "the package was signed as it is, and is damaged or hostile; nothing of it was used: ask whoever made it"}
}

// checkEnabled refuses a name to switch on that no package knows.
func (e *Env) checkEnabled(world *fileset.World) error {
	for _, name := range e.enable {
		if !slices.ContainsFunc(world.Files(), func(n *fileset.Node) bool { return e.enables(n.Path, name) }) {
			hint := "see what the sources offer: apt-cache search " + name
			if e.old != nil && slices.Contains(e.old.Enabled, name) {
				hint = "it was switched on by an earlier --with; to go without it: --drop-module " + name
			}
			return fail(nil, hint, "cannot find module %s: the sources offer no package of that name, and the server's own have nothing of it to switch on", event.Clean(name, 60))
		}
	}
	return nil
}

// enables tells whether a path is a link that switches on what is called name.
func (e *Env) enables(p, name string) bool {
	for _, n := range e.next().Effects.Enable {
		base := path.Base(p)
		if path.Dir(p) == path.Clean(n.To) && strings.TrimSuffix(base, path.Ext(base)) == name {
			return true
		}
	}
	return false
}

// wanted names what modules bring that are newly asked for.
func (e *Env) wanted(world *fileset.World) func(string) bool {
	if len(e.Options.With) == 0 {
		return nil
	}
	of := map[string]string{}
	for _, n := range world.Files() {
		of[n.Path] = n.Package
	}
	var fresh []string
	for _, name := range e.Options.With {
		if m, _ := e.findModule(name, ""); m.pkg != "" {
			fresh = append(fresh, m.pkg)
		}
	}
	return func(canonical string) bool {
		return slices.Contains(fresh, of[canonical]) || slices.ContainsFunc(e.enable, func(name string) bool { return slices.Contains(e.Options.With, name) && e.enables(canonical, name) })
	}
}

func (e *Env) carriedPrefixes() []fileset.Carried {
	var out []fileset.Carried
	for _, c := range e.carry() {
		out = append(out, fileset.Carried{New: c[1], Old: c[0]})
	}
	return out
}

// noteParts notes in a manifest what the jail was made of.
func (e *Env) noteParts(m *manifest.Manifest) {
	m.Servers, m.Modules, m.Editions, m.Enabled, m.Dropped = nil, e.modules, nil, e.enable, e.dropped()
	for _, p := range e.next().Parts() {
		m.Servers = append(m.Servers, p.Name)
		if ed := p.Edition(); ed.Series != "" {
			if m.Editions == nil {
				m.Editions = map[string]manifest.Edition{}
			}
			m.Editions[p.Name] = manifest.Edition{Series: ed.Series, API: ed.API}
		}
	}
}

// zone is the time zone of the jail: the one that its /etc/localtime names.
func (e *Env) zone() string {
	target, err := e.Root.Readlink("/etc/localtime")
	if err != nil {
		return ""
	}
	_, zone, _ := strings.Cut(path.Join("/etc", target), "/zoneinfo/")
	return zone
}

// checkExecutables refuses to replace a program that is nobody's package: one
// built from source or by another vendor may have what the package has not.
func (e *Env) checkExecutables(ctx context.Context, world *fileset.World, known *known) error {
	for _, x := range inJail(e.Recipe).Executables {
		d, base, err := e.Root.OpenParent(x)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if errors.Is(err, unix.EXDEV) {
			err = e.unblock(changeset.OtherMount(x))
		}
		if err != nil {
			return err
		}
		cur, err := changeset.ReadState(int(d.Fd()), base)
		d.Close()
		if errors.Is(err, unix.EXDEV) {
			return e.unblock(changeset.OtherMount(x))
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", x, err)
		}
		if cur == nil || world.Holds(x, cur) || e.recorded(x, cur) {
			continue
		}
		if _, _, ok := known.identify(fileset.Canonical(x), cur); ok {
			continue
		}
		if e.Options.Adopt {
			e.note(event.Warning, fmt.Sprintf("%s is of no package that the sources or this host know; it is replaced (--adopt), and kept in the stage", x), "")
			continue
		}
		return fail(nil, "to replace it by the package's all the same: --adopt",
			"cannot upgrade %s: %s is of no package that the sources or this host know%s", e.Recipe.Name, x, e.buildDiff(ctx, world, x))
	}
	return nil
}

func (e *Env) recorded(p string, st *changeset.State) bool {
	rec, ok := e.old.Index()[p]
	return ok && rec.SHA256 == st.SHA256
}
