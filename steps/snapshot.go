package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/event"
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
		return err
	}
	if e.Store == nil || run.Facts.Snapshot == "" {
		return nil
	}
	_, err := e.Store.Sweep(ctx)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
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
	return snap.Close()
}

func (s *seal) Undo(context.Context, *Run) error { return nil }

// arm looks once more whether the jail is what the changeset was computed from,
// and starts the guardian. After it the server may be stopped.
type arm struct{ e *Env }

func (s *arm) Name() string { return "arm" }

func (s *arm) Do(_ context.Context, run *Run) error {
	e := s.e
	w, err := e.worker(&run.Facts)
	if err != nil {
		return err
	}
	defer w.Close()
	drift, err := w.Drift()
	if err != nil {
		return err
	}
	if len(drift) > 0 {
		return fail(ErrStale, "run it again: it begins anew from what is there now",
			"cannot go on: %s was changed while the upgrade was prepared (%d paths in all)", drift[0], len(drift))
	}
	if e.Guard == nil || e.guardian != nil {
		return nil
	}
	e.guardian, err = e.Guard()
	return err
}

func (s *arm) Undo(context.Context, *Run) error {
	s.e.guardian.Disarm()
	s.e.guardian = nil
	return nil
}

// install exchanges what changes.
type install struct{ e *Env }

func (s *install) Name() string { return "install" }

func (s *install) Do(ctx context.Context, run *Run) error {
	w, err := s.e.worker(&run.Facts)
	if err != nil {
		return err
	}
	defer w.Close()
	return w.Install(ctx)
}

func (s *install) Undo(_ context.Context, run *Run) error {
	e := s.e
	if _, err := os.Stat(filepath.Join(e.RunDir(), "changeset.json")); errors.Is(err, os.ErrNotExist) {
		return nil // it was never computed
	}
	w, err := e.worker(&run.Facts)
	if err != nil {
		return fmt.Errorf("cannot put the old files back: %w", err)
	}
	defer w.Close()
	kept, err := w.Undo()
	if err != nil {
		return err
	}
	for _, p := range kept {
		e.note(event.Warning, fmt.Sprintf("%s was written by someone else meanwhile and is kept; the version before it is in %s", p, run.Facts.Stage), "")
	}
	e.foreign = kept
	return nil
}
