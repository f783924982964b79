package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/manifest"
)

// Saved is the result of a run that took a snapshot.
const Saved = "saved"

// Save takes a snapshot of the jail under the run's id, with the server as it is:
// "live" where it runs, "stopped" where it is down from begin to end.
func Save(ctx context.Context, e *Env, f Facts) Outcome {
	f.Snapshot, f.Snapshots = e.Run, e.StoreDir
	out := Outcome{Result: Saved, Facts: f}
	e.Events.StepStart("snapshot")
	began := time.Now()
	meta, err := e.saveNow(ctx)
	if err != nil {
		out.Facts.Snapshot = ""
		out.Result, out.Err, out.Step = event.Failed, err, "snapshot"
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), ErrInterrupted) {
			out.Result = event.Interrupted
		}
		return out
	}
	e.Events.StepDone("snapshot", time.Since(began), fmt.Sprintf("%d files, %s", meta.Files, meta.Consistency))
	return out
}

func (e *Env) saveNow(ctx context.Context) (backup.Meta, error) {
	old, err := manifest.Load(e.StateDir)
	if err != nil {
		return backup.Meta{}, err
	}
	packages := map[string]string{}
	if old != nil {
		packages = old.Packages
		// A rollback to this snapshot makes it the jail's manifest again.
		if err := old.SaveAs(e.file("manifest.old.json")); err != nil {
			return backup.Meta{}, err
		}
	}
	if _, err := e.Store.Sweep(ctx); err != nil {
		e.note(event.Warning, err.Error(), "")
	}
	down := e.isDown(ctx)
	p, err := e.Store.Begin(ctx, e.Root, e.Run, backup.CopyOptions{
		Exclude:  e.Options.Exclude,
		Progress: func(files int, _ int64) { e.Events.Progress("snapshot", event.Files, int64(files), 0) },
	})
	if err != nil {
		return backup.Meta{}, err
	}
	meta := backup.Meta{JailID: e.JailID, Jail: e.Root.Path(), Packages: packages, Reason: "asked for", Run: e.Run, Consistency: backup.Live}
	_, err = p.Settle(ctx, e.Root)
	if down && e.isDown(ctx) {
		meta.Consistency = backup.Stopped
	}
	var snap *backup.Snapshot
	if err == nil {
		snap, err = p.Seal(ctx, meta)
	}
	if err != nil {
		return backup.Meta{}, errors.Join(err, p.Drop(context.WithoutCancel(ctx)))
	}
	defer snap.Close()
	for _, s := range snap.Meta().Skipped {
		e.note(event.Warning, "not in the snapshot: "+s.Path+": "+s.Reason, "")
	}
	return snap.Meta(), nil
}

// isDown tells whether the server is known to be down.
func (e *Env) isDown(ctx context.Context) bool {
	if e.Recipe == nil {
		return false
	}
	for _, u := range e.servers() {
		if server, err := u.find(ctx, before); err != nil || server.Running() {
			return false
		}
	}
	return true
}

// Snapshots returns the snapshots of the jail with that id, oldest first, and
// those of the store that cannot be read, which may be anybody's.
func Snapshots(ctx context.Context, store backup.Store, jailID string) (mine, broken []backup.Meta, err error) {
	all, err := store.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range all {
		switch {
		case m.Broken != "":
			broken = append(broken, m)
		case m.JailID == jailID:
			mine = append(mine, m)
		}
	}
	return mine, broken, nil
}

// OpenSnapshot opens a snapshot of the jail with that id. Those of other jails
// are not there.
func OpenSnapshot(ctx context.Context, store backup.Store, jailID, id string) (*backup.Snapshot, error) {
	snap, err := store.Open(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		err = backup.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if snap.Meta().JailID != jailID {
		snap.Close()
		return nil, fail(nil, "", "cannot open snapshot %s: it is of another jail: %s", id, snap.Meta().Jail)
	}
	return snap, nil
}
