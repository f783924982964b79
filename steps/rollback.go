package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/webconf"
	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// Rollback is the pipeline of `jailup rollback`: to the last version by the same
// changeset backwards, to an older one by a changeset made from its snapshot.
func Rollback(e *Env) Plan {
	return Plan{
		Name: "rollback",
		Steps: []Step{
			&preflight{e},
			&choose{e},
			&rehearse{e},
			&arm{e},
			&stop{e},
			&install{e},
			&start{e},
			&verify{e},
			// — commit —
			&unrecord{e},
			&prune{e},
		},
		Commit: 8,
	}
}

// choose finds what to go back to and makes the changeset that leads there.
type choose struct{ e *Env }

func (s *choose) Name() string { return "choose" }

func (s *choose) Do(ctx context.Context, run *Run) error {
	e := s.e
	last, err := LoadLast(e.StateDir)
	if err != nil {
		return err
	}
	if to := e.Options.ToSnapshot; to != "" && (last == nil || to != last.Run || last.Snapshot != "") {
		return s.fromSnapshot(ctx, run, to)
	}
	if last == nil {
		return fail(nil, "see what there is: jailup snapshot list --jail "+e.Root.Path(),
			"cannot roll back jail %s: nothing was upgraded, or it was rolled back already", e.Root.Path())
	}
	set, err := changeset.Load(filepath.Join(e.StateDir, "runs", last.Run, "changeset.json"))
	if err != nil {
		return err
	}
	run.Facts.Reverts, run.Facts.Stage = last.Run, last.Stage
	run.Facts.From, run.Facts.To = last.To, last.From
	if err := run.Save(); err != nil {
		return err
	}
	_, err = e.openStage(&run.Facts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil {
		return fail(nil, "go back to its snapshot: jailup rollback --jail "+e.Root.Path()+" --to "+last.Snapshot,
			"cannot roll back run %s: its stage is gone: %w", last.Run, err)
	}
	e.set = set.Reverse()
	if err := s.edits(); err != nil {
		return err
	}
	e.judgeByView()
	run.Facts.Changed = e.set.Changed()
	if err := s.oldManifest(last.Run); err != nil {
		return err
	}
	return e.set.Save(e.RunDir(), "changeset.json")
}

// judgeByView has the server that is gone back to judged by the configuration
// that comes back with it, where that has other ports than today's.
func (e *Env) judgeByView() {
	main := e.mainConf()
	view := viewFS{changeset.NewView(e.Root, e.stage.Dir(), e.set)}
	then, err := webconf.ReadNginx(view, main, filepath.Dir(main))
	if err != nil {
		return // the rehearsal says more of it
	}
	now, err := e.configuration()
	if err == nil && slices.EqualFunc(now.Listens(), then.Listens(), func(a, b webconf.Listen) bool { return a.String() == b.String() }) {
		return
	}
	e.conf, e.judge = then, withoutPorts(e.before())
}

// oldManifest keeps the manifest of before the reverted run with this run; a
// jail that had none then has none again.
func (s *choose) oldManifest(reverted string) error {
	m, err := manifest.LoadFile(filepath.Join(s.e.StateDir, "runs", reverted, "manifest.old.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.SaveAs(s.e.file("manifest.json"))
}

// edits deals with files that were edited since the upgrade: refused by name, or
// laid beside with --keep-edits.
func (s *choose) edits() error {
	e := s.e
	w, err := changeset.NewWorker(e.Root, e.stage.Dir(), e.set)
	if err != nil {
		return err
	}
	drift, err := w.Drift()
	w.Close()
	if err != nil || len(drift) == 0 {
		return err
	}
	if !e.Options.KeepEdits {
		return fail(ErrStale, "to lay the edited files beside the old ones: --keep-edits",
			"cannot roll back: edited since the upgrade: %s", strings.Join(drift[:min(len(drift), 5)], ", "))
	}
	for _, p := range drift {
		if err := s.beside(p); err != nil {
			return err
		}
	}
	return e.keepStage()
}

// beside lets the operation on p take what is there now, and adds a copy of it
// under another name.
func (s *choose) beside(p string) error {
	e := s.e
	d, base, err := e.Root.OpenParent(p)
	if err != nil {
		return err
	}
	defer d.Close()
	cur, err := changeset.ReadState(int(d.Fd()), base)
	if err != nil {
		return err
	}
	if cur != nil && cur.Mode&unix.S_IFMT != unix.S_IFREG && cur.Mode&unix.S_IFMT != unix.S_IFLNK {
		return fmt.Errorf("cannot roll back: %s is now neither file nor link", p)
	}
	var kept []changeset.Op
	for _, op := range e.set.Ops {
		if op.Path == p && op.Old != nil {
			switch {
			case cur != nil:
				op.Old = cur
			case op.Kind == changeset.Replace:
				op.Kind, op.Old = changeset.Add, nil
			case op.Kind == changeset.Remove:
				continue
			}
		} else if op.Path == p && op.Kind == changeset.Add && cur != nil && !e.removed(p) {
			// Somebody made what the upgrade had removed: his goes aside.
			op.Kind, op.Old = changeset.Replace, cur
		}
		kept = append(kept, op)
	}
	e.set.Ops = kept
	if cur == nil {
		return nil
	}
	name, st, err := s.copyOf(p, cur)
	if err != nil {
		return err
	}
	target := s.room(p)
	if e.Root.Exists(target) {
		target = fmt.Sprintf("%s-%s", target, e.Run)
	}
	s.lay(changeset.Op{Kind: changeset.Add, Path: target, Stage: name, New: &st})
	e.note(event.Info, fmt.Sprintf("%s was edited since the upgrade; the edited version will lie beside it as %s", p, path.Base(target)), "")
	return nil
}

// edited ends the names under which edited files are laid beside.
const edited = ".jailup-edited"

// room returns the name under which the edited version of p is to lie: beside
// it, or, where its directory becomes a link or a file again, beside that.
func (s *choose) room(p string) string {
	at := p
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		if s.e.has(changeset.Rmdir, d) && s.e.has(changeset.Add, d) {
			at = d + strings.ReplaceAll(strings.TrimPrefix(p, d), "/", "~")
		}
	}
	return at + edited
}

// lay adds a file to the changeset, before the server's executables come back.
// The directories that hold it stay.
func (s *choose) lay(add changeset.Op) {
	set, dir := s.e.set, path.Dir(add.Path)
	set.Ops = slices.DeleteFunc(set.Ops, func(op changeset.Op) bool {
		return op.Kind == changeset.Rmdir && (op.Path == dir || strings.HasPrefix(dir, op.Path+"/"))
	})
	i := len(set.Ops)
	for i > 0 && set.Ops[i-1].Kind == changeset.Add && s.e.isExecutable(set.Ops[i-1].Path) {
		i--
	}
	set.Ops = slices.Insert(set.Ops, i, add)
	// Its name is made durable with its directory.
	if info, err := s.e.Root.Lstat(dir); err == nil && !slices.ContainsFunc(set.Dirs, func(d changeset.Dir) bool { return d.Path == dir }) {
		set.Dirs = append(set.Dirs, changeset.Dir{Path: dir, OldMtimeNS: info.MtimeNS, NewMtimeNS: time.Now().UnixNano()})
	}
}

func (s *choose) copyOf(p string, cur *changeset.State) (string, changeset.State, error) {
	e := s.e
	meta := fileset.Meta{Perm: cur.Mode & 0o7777, UID: int(cur.UID), GID: int(cur.GID), MtimeNS: cur.MtimeNS}
	if cur.Link != "" {
		return e.stage.PutLink(cur.Link, meta)
	}
	f, err := e.Root.OpenFile(p)
	if err != nil {
		return "", changeset.State{}, err
	}
	defer f.Close()
	return e.stage.Put(f, cur.Size, meta)
}

// fromSnapshot makes a changeset over what packages and configuration own; what
// the server writes, and files that nobody knows, stay as they are.
func (s *choose) fromSnapshot(ctx context.Context, run *Run, id string) error {
	e := s.e
	snap, err := e.Store.Open(ctx, id)
	if err != nil {
		return &Error{Err: err, Hint: "see what there is: jailup snapshot list --jail " + e.Root.Path()}
	}
	defer snap.Close()
	if snap.Meta().JailID != e.JailID {
		return fmt.Errorf("cannot roll back to snapshot %s: it is of another jail", id)
	}
	then, err := manifest.LoadFile(filepath.Join(e.StateDir, "runs", snap.Meta().Run, "manifest.old.json"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	owned := map[string]bool{}
	for p := range e.old.Index() {
		owned[p] = true
	}
	for p := range then.Index() {
		owned[p] = true
	}
	added, err := s.since(snap.Meta().Run)
	if err != nil {
		return err
	}
	run.Facts.Reverts = id
	run.Facts.From, run.Facts.To = nil, snap.Meta().Packages
	if e.old != nil {
		run.Facts.From = e.old.Holds()
	}
	if err := run.Save(); err != nil {
		return err
	}
	if err := e.makeStage(&run.Facts); err != nil {
		return err
	}
	in, err := s.wants(snap, owned, added)
	if err != nil {
		return err
	}
	if e.set, err = changeset.Compute(e.Root, *in); err != nil {
		return err
	}
	if e.set.Empty() {
		return fail(ErrCurrent, "", "the jail is as snapshot %s has it", id)
	}
	if err := e.checkELF(ctx); err != nil {
		return err
	}
	if err := e.keepStage(); err != nil {
		return err
	}
	e.judgeByView()
	run.Facts.Changed = e.set.Changed()
	if then != nil {
		if err := then.SaveAs(e.file("manifest.json")); err != nil {
			return err
		}
	}
	return e.set.Save(e.RunDir(), "changeset.json")
}

// since returns the paths that the runs since a snapshot were to change, with
// all that they were to bring there. How far each of them came does not count:
// what lies there today is compared.
func (s *choose) since(first string) (map[string][]*changeset.State, error) {
	out := map[string][]*changeset.State{}
	runs, err := runNames(s.e.StateDir)
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		// The ids of runs that began in one second are in no order.
		if r != first && runTime(r).Before(runTime(first)) {
			continue
		}
		set, err := changeset.Load(filepath.Join(s.e.StateDir, "runs", r, "changeset.json"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			s.e.note(event.Warning, fmt.Sprintf("run %s is not looked at: %v", event.Clean(r, 100), err), "")
			continue
		}
		for _, op := range set.Ops {
			if !strings.Contains(path.Base(op.Path), edited) {
				out[op.Path] = append(out[op.Path], op.New)
			}
		}
	}
	return out, nil
}

func (s *choose) wants(snap *backup.Snapshot, owned map[string]bool, added map[string][]*changeset.State) (*changeset.Input, error) {
	e := s.e
	tree, err := snap.Tree()
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	conf := path.Dir(e.Recipe.Configuration.Main)
	in := &changeset.Input{MtimeNS: time.Now().UnixNano()}
	there := map[string]bool{}
	for entry, err := range snap.Manifest() {
		if err != nil {
			return nil, err
		}
		p := entry.Path
		_, changed := added[p]
		mine := (owned[p] || changed || strings.HasPrefix(p, conf+"/")) && !recipes.Match(e.Recipe.State, p)
		if !mine {
			continue
		}
		there[p] = true
		meta := fileset.Meta{Perm: entry.Mode, UID: int(entry.UID), GID: int(entry.GID), MtimeNS: entry.MtimeNS, Xattrs: entry.Xattrs}
		w := changeset.Want{Path: p, Exec: e.isExecutable(p), Meta: true}
		switch entry.Type {
		case backup.Dir:
			in.Dirs = append(in.Dirs, changeset.WantDir{Path: p, Mode: entry.Mode, UID: entry.UID, GID: entry.GID, MtimeNS: entry.MtimeNS})
			continue
		case backup.Symlink:
			w.Stage, w.State, err = e.stage.PutLink(entry.Link, meta)
		case backup.File:
			f, ferr := tree.OpenFile(p)
			if ferr != nil {
				return nil, ferr
			}
			w.Stage, w.State, err = e.stage.Put(f, entry.Size, meta)
			f.Close()
			if err == nil && entry.Size < backup.PieceFrom && w.State.SHA256 != entry.Digest {
				err = fmt.Errorf("cannot roll back: %s in the snapshot is not what was copied then", p)
			}
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		in.Wants = append(in.Wants, w)
	}
	for p := range owned {
		if !there[p] && !recipes.Match(e.Recipe.State, p) {
			if info, err := e.Root.Lstat(p); err == nil && (info.IsRegular() || info.IsSymlink()) {
				in.Remove = append(in.Remove, p)
			}
		}
	}
	for p, states := range added {
		if owned[p] || there[p] || recipes.Match(e.Recipe.State, p) {
			continue
		}
		// No manifest has it: it goes only if it is what a run has brought.
		cur := e.stateAt(p)
		switch {
		case cur == nil || !slices.ContainsFunc(states, cur.Same):
		case cur.Mode&unix.S_IFMT == changeset.DirMode:
			in.Rmdir = append(in.Rmdir, p) // if nothing else is in it
		default:
			in.Remove = append(in.Remove, p)
		}
	}
	return in, nil
}

// stateAt is what is at a path now; nil where that is nothing, or nothing that
// can be read.
func (e *Env) stateAt(p string) *changeset.State {
	d, base, err := e.Root.OpenParent(p)
	if err != nil {
		return nil
	}
	defer d.Close()
	cur, err := changeset.ReadState(int(d.Fd()), base)
	if err != nil {
		return nil
	}
	return cur
}

// Undo removes the stage if it was made for this run.
func (s *choose) Undo(_ context.Context, run *Run) error {
	e := s.e
	if e.stage != nil {
		e.stage.Close()
		e.stage = nil
	}
	if filepath.Base(run.Facts.Stage) != e.Run {
		return nil
	}
	return e.dropStage(run.Facts.Stage)
}

// unrecord makes the old manifest the jail's again.
type unrecord struct{ e *Env }

func (s *unrecord) Name() string { return "record" }

func (s *unrecord) Do(_ context.Context, run *Run) error {
	e := s.e
	m, err := manifest.LoadFile(e.file("manifest.json"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = manifest.Remove(e.StateDir)
	case err == nil:
		err = m.Save(e.StateDir)
	}
	if err != nil {
		return err
	}
	d, err := sys.OpenDir(e.StateDir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := sys.RemoveTree(int(d.Fd()), "last.json"); err != nil {
		return err
	}
	if err := sys.FsyncDir(int(d.Fd())); err != nil {
		return err
	}
	if e.stage != nil {
		e.stage.Close()
		e.stage = nil
	}
	return e.dropStage(run.Facts.Stage)
}

func (s *unrecord) Undo(context.Context, *Run) error { return nil }
