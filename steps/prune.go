package steps

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/sys"
)

// record makes the new manifest the jail's, and notes what a rollback needs.
type record struct{ e *Env }

func (s *record) Name() string { return "record" }

func (s *record) Do(_ context.Context, run *Run) error {
	e := s.e
	e.freeReserve(&run.Facts) // what is written now may need it
	m, err := manifest.LoadFile(e.file("manifest.json"))
	if err != nil {
		return err
	}
	if err := m.Save(e.StateDir); err != nil {
		return err
	}
	last := &Last{Run: e.Run, Stage: run.Facts.Stage, Snapshot: run.Facts.Snapshot, From: run.Facts.From, To: run.Facts.To}
	return last.save(e.StateDir)
}

func (s *record) Undo(context.Context, *Run) error { return nil }

// prune disarms, and removes what no rollback needs any more.
type prune struct{ e *Env }

func (s *prune) Name() string { return "prune" }

// keepRuns is how many runs' folders are kept.
const keepRuns = 50

func (s *prune) Do(ctx context.Context, run *Run) error {
	e := s.e
	e.disarm()
	if prev := run.Facts.PrevStage; prev != "" && filepath.Base(prev) != filepath.Base(run.Facts.Stage) {
		if err := e.dropStage(prev); err != nil {
			e.note(event.Warning, err.Error(), "")
		}
	}
	// What cannot be removed now is no reason to hold anything up: the run is done.
	if err := e.pruneSnapshots(ctx, run.Facts.Keep); err != nil {
		e.note(event.Warning, err.Error(), "")
	}
	return nil
}

func (s *prune) Undo(context.Context, *Run) error { return nil }

// pruneSnapshots keeps the newest snapshots of this jail.
func (e *Env) pruneSnapshots(ctx context.Context, keep int) error {
	if e.Store == nil || keep <= 0 {
		return nil
	}
	_, err := backup.Prune(ctx, e.Store, e.JailID, backup.Policy{Keep: keep}, time.Now())
	return err
}

// pruneRuns removes the folders of the oldest runs. Those that a snapshot or the
// next rollback needs stay.
func (e *Env) pruneRuns(ctx context.Context) error {
	needed := map[string]bool{e.Run: true}
	last, err := LoadLast(e.StateDir)
	if err != nil {
		return err // which one the next rollback needs nobody can tell
	}
	if last != nil {
		needed[last.Run] = true
	}
	if e.Store != nil {
		list, err := e.Store.List(ctx)
		if err != nil {
			return err
		}
		for _, m := range list {
			needed[m.Run] = true
		}
	}
	dir := filepath.Join(e.StateDir, "runs")
	entries, err := os.ReadDir(dir) // sorted; run ids begin with their time
	if err != nil || len(entries) <= keepRuns {
		return err
	}
	d, err := sys.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, old := range entries[:len(entries)-keepRuns] {
		if needed[old.Name()] {
			continue
		}
		if err := sys.RemoveTree(int(d.Fd()), old.Name()); err != nil {
			return err
		}
	}
	return nil
}
