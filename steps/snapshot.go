package steps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pipeline"
	"github.com/jailup/jailup/internal/sys"
)

// stageInside is the stage's name where the jail is a mount point.
const stageInside = backup.StageName

// snapshot copies the jail elsewhere while the server runs.
type snapshot struct{ e *Env }

func (s *snapshot) Name() string { return "snapshot" }

func (s *snapshot) Do(ctx context.Context, run *Run) error {
	e := s.e
	if e.pending != nil {
		return nil
	}
	if err := e.roomForSnapshot(ctx); err != nil {
		return err
	}
	run.Facts.Snapshot, run.Facts.Snapshots = e.Run, e.StoreDir
	if err := run.Save(); err != nil {
		return err
	}
	p, err := e.Store.Begin(ctx, e.Root, e.Run, backup.CopyOptions{
		Exclude:  e.Options.Exclude,
		Progress: func(files int, bytes int64) { e.Events.Progress("snapshot", event.Files, int64(files), 0) },
	})
	if err != nil {
		return err
	}
	e.pending = p
	return nil
}

// Undo drops the copy where it is not whole. A sealed one stays: it is good.
func (s *snapshot) Undo(ctx context.Context, run *Run) error {
	e := s.e
	if e.pending != nil {
		err := e.pending.Drop(ctx)
		e.pending = nil
		return pipeline.Leftover(err)
	}
	if e.Store == nil || run.Facts.Snapshot == "" {
		return nil
	}
	_, err := e.Store.Sweep(ctx)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return pipeline.Leftover(err)
}

// settle brings the copy to the state of the stopped jail. What it costs is what
// changed since the copy.
type settle struct{ e *Env }

func (s *settle) Name() string { return "settle" }

func (s *settle) Do(ctx context.Context, _ *Run) error {
	if s.e.pending == nil {
		return nil // sealed already
	}
	_, err := s.e.pending.Settle(ctx, s.e.Root)
	return err
}

func (s *settle) Undo(context.Context, *Run) error { return nil }

// seal writes the snapshot's manifest, which costs what the jail weighs, and
// gives it its name: the server is up again meanwhile.
type seal struct{ e *Env }

func (s *seal) Name() string { return "seal" }

func (s *seal) Do(ctx context.Context, run *Run) error {
	e := s.e
	if e.pending == nil {
		return nil
	}
	snap, err := e.pending.Seal(ctx, backup.Meta{
		JailID: e.JailID, Jail: e.Root.Path(), Consistency: backup.Stopped,
		Packages: run.Facts.From, Reason: "before " + run.Facts.Verb, Run: e.Run,
	})
	if err != nil {
		return err
	}
	e.pending = nil
	run.Facts.Sealed = true
	return errors.Join(snap.Close(), run.Save())
}

func (s *seal) Undo(context.Context, *Run) error { return nil }

// install exchanges what changes.
type install struct{ e *Env }

func (s *install) Name() string { return "install" }

func (s *install) Do(ctx context.Context, run *Run) error {
	e := s.e
	w, err := e.worker(&run.Facts)
	if err != nil {
		return err
	}
	defer w.Close()
	w.Taken = func() error { return e.stopAgain(ctx, run.Facts.Grace) }
	return w.Install(ctx)
}

// stopAgain ends what somebody else (a service manager that restarts, a watchdog in
// cron) started of the servers since they were stopped. It would go on with the old
// files in memory, be taken for the new server, or hold its port.
func (e *Env) stopAgain(ctx context.Context, grace time.Duration) error {
	again := func(u *unit) bool {
		server, err := u.find(ctx, before)
		if err == nil && server.Running() {
			e.note(event.Warning, u.name()+" was started by somebody else while it was to be down; it is stopped again", "")
			return true
		}
		return false
	}
	return e.stopAll(ctx, before, grace, again)
}

// Undo puts the old files back and proves it: every path is the old one then, or
// one that someone else wrote meanwhile, which is kept.
func (s *install) Undo(ctx context.Context, run *Run) error {
	e := s.e
	// What the new configuration said counts no more.
	e.forget()
	set, err := e.changes()
	if errors.Is(err, os.ErrNotExist) {
		return nil // it was never computed
	}
	if err != nil {
		return err
	}
	w, err := e.worker(&run.Facts)
	if errors.Is(err, os.ErrNotExist) {
		// An undo that was done already, and could not be noted, took the stage away.
		return e.allOld(set)
	}
	if err != nil {
		return fmt.Errorf("cannot put the old files back: %w", err)
	}
	defer w.Close()
	if run.Facts.Signalled {
		w.Taken = func() error { return e.stopAgain(ctx, min(run.Facts.Grace, 5*time.Second)) }
	}
	kept, err := w.Undo()
	if err != nil {
		return err
	}
	e.keepForeign(set, kept, &run.Facts)
	v, err := w.Inspect()
	if err == nil && !v.AllOld() {
		err = fmt.Errorf("cannot put the old files back: %d paths are still new", v.New)
	}
	return err
}

// allOld proves, where no stage tells, that no path is the new one. What is
// neither new nor old is somebody else's, and kept.
func (e *Env) allOld(set *changeset.Set) error {
	for _, op := range set.Ops {
		if op.Hold || op.New == nil || op.Kind == changeset.Mkdir {
			continue
		}
		d, base, err := e.Root.OpenParent(op.Path)
		if err != nil {
			continue // without its directory it is not there
		}
		got, err := changeset.ReadState(int(d.Fd()), base)
		d.Close()
		if err != nil {
			return err
		}
		if got.Same(op.New) && !got.Same(e.oldAt(set, op.Path)) {
			return fmt.Errorf("cannot put the old files back: the stage is gone, and %s is the new one", op.Path)
		}
	}
	return nil
}

// oldAt is what a path held before the set; nil for nothing.
func (e *Env) oldAt(set *changeset.Set, p string) *changeset.State {
	for _, op := range set.Ops {
		if op.Path == p && op.Old != nil {
			return op.Old
		}
	}
	return nil
}

// maxKept bounds what is copied of one file that somebody else wrote meanwhile.
const maxKept = 64 << 20

// keepForeign brings the old versions of files that someone else wrote meanwhile
// out of the stage, which goes away, into the run's evidence. It never fails the
// undo: what cannot be copied keeps the stage.
func (e *Env) keepForeign(set *changeset.Set, kept []string, f *Facts) {
	for n, p := range kept {
		for _, op := range set.Ops {
			if op.Path != p || op.Old == nil || op.Stage == "" {
				continue
			}
			lies, err := changeset.ReadState(int(e.stage.Dir().Fd()), op.Stage)
			if err != nil || !lies.Same(op.Old) {
				continue // the old one is in the jail, or nowhere
			}
			if !slices.Contains(e.foreign, p) {
				e.foreign = append(e.foreign, p)
			}
			name := filepath.Join("evidence", fmt.Sprintf("old-%02d-%s", n, filepath.Base(event.Clean(p, 60))))
			if err := e.keepOld(op, name); err != nil {
				f.KeepStage = true
				e.note(event.Warning, fmt.Sprintf("%s was written by someone else meanwhile and is kept; the version before it lies as %s in %s until the next run (%v)", p, op.Stage, f.Stage, err), "")
				continue
			}
			e.note(event.Warning, fmt.Sprintf("%s was written by someone else meanwhile and is kept; the version before it is %s", p, e.file(name)), "")
		}
	}
}

func (e *Env) keepOld(op changeset.Op, name string) error {
	if err := sys.MkdirAll(e.file("evidence"), 0o700); err != nil {
		return err
	}
	if op.Old.Link != "" {
		return e.saveText(name, []byte(op.Old.Link+"\n"))
	}
	if op.Old.Size > maxKept {
		return fmt.Errorf("it has %d bytes", op.Old.Size)
	}
	in, err := e.stage.Open(op.Stage)
	if err != nil {
		return err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxKept))
	if err != nil {
		return err
	}
	return e.saveText(name, data)
}
