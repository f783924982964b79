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

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/recipes"
)

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
		return fail(nil, "see what there is: jailup snapshot list --jail "+event.Clean(e.Root.Path(), 300), "cannot roll back to snapshot %s: it is of another jail", id)
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
	if err := e.chosen(ctx, &run.Facts); err != nil {
		return err
	}
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
	dirs := e.confDirs()
	in := &changeset.Input{MtimeNS: time.Now().UnixNano(), DirTimes: map[string]int64{}}
	there := map[string]bool{}
	for entry, err := range snap.Manifest() {
		if err != nil {
			return nil, err
		}
		p := entry.Path
		if entry.Type == backup.Dir {
			in.DirTimes[p] = entry.MtimeNS // also of those that no package owns
		}
		_, changed := added[p]
		mine := (owned[p] || changed || slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(p, d+"/") })) && !recipes.Match(e.Recipe.State, p)
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
