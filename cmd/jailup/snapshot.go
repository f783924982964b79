package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/steps"
)

func (a *app) snapshotVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Take, list, check, compare, restore and prune snapshots",
		Long: `Snapshots are complete copies of a jail in another folder, made by every upgrade
before it changes anything, and by "snapshot create".`,
		Args: a.noSnapshotVerb,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{
		a.snapshotCreate(), a.snapshotList(), a.snapshotShow(), a.snapshotVerify(), a.snapshotDiff(), a.snapshotPrune(), a.snapshotRestore(),
	} {
		a.common(sub, true)
		a.settings(sub.Flags(), "snapshots")
		if sub.Name() == "prune" {
			a.settings(sub.Flags(), "keep")
		}
		cmd.AddCommand(sub)
	}
	return cmd
}

func (a *app) noSnapshotVerb(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return noSuchVerb(cmd, args[0], "snapshot "+event.Clean(args[0], 60))
	}
	return nil
}

func (a *app) snapshotCreate() *cobra.Command {
	return &cobra.Command{
		Use:   "create --jail DIR",
		Short: "Copy the jail as it is now",
		Long: `Copy the jail as it is now, with the server running or not: what is written
meanwhile may be in the copy or not. Its name is that of the run.`,
		Example: `  jailup snapshot create --jail /chroot
  jailup snapshot create --jail /chroot --snapshots /mnt/backup/jails`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open("snapshot create")
			if err != nil {
				return err
			}
			ctx, cancel := s.bounded(cmd.Context())
			defer cancel()
			e, err := s.begin(ctx, s.openStore, s.openRecord)
			if err != nil {
				return err
			}
			return s.finish(e, steps.Save(ctx, e, s.facts()))
		},
	}
}

// store is the session's store for a verb that only looks: where no folder is
// made yet, there is none, and no snapshot either.
func (s *session) store() (backup.Store, error) {
	if _, err := os.Stat(*s.set.Snapshots); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	e := &steps.Env{StoreDir: *s.set.Snapshots}
	err := s.openStore(e)
	return e.Store, err
}

// onSnapshots runs a verb that looks at the snapshots of a jail.
func (a *app) onSnapshots(ctx context.Context, verb string, do func(context.Context, *session, backup.Store) error) error {
	s, err := a.open("snapshot " + verb)
	if err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if _, err := s.findJail(); err != nil {
		return s.refuse(err)
	}
	store, err := s.store()
	if err != nil {
		return s.refuse(err)
	}
	err = do(ctx, s, store)
	if ctx.Err() != nil && err != nil && !errors.Is(err, errTold) {
		err = context.Cause(ctx)
	}
	return err
}

// snapshot opens one of the jail's snapshots by its id.
func (s *session) snapshot(ctx context.Context, store backup.Store, id string) (*backup.Snapshot, error) {
	err := fmt.Errorf("cannot open snapshot %s: %w", event.Clean(id, 100), backup.ErrNotFound)
	var snap *backup.Snapshot
	if store != nil && s.id != "" {
		snap, err = steps.OpenSnapshot(ctx, store, s.id, id)
	}
	if err != nil {
		return nil, &steps.Error{Err: err, Hint: "see what there is: jailup snapshot list --jail " + s.jailPath()}
	}
	return snap, nil
}

// prunedDoc is the JSON document of snapshot prune.
type prunedDoc struct {
	Schema int      `json:"schema"`
	Jail   string   `json:"jail"`
	Pruned []string `json:"pruned"`
}

func (a *app) snapshotPrune() *cobra.Command {
	return &cobra.Command{
		Use:   "prune --jail DIR [--keep N]",
		Short: "Remove all but the newest snapshots of a jail",
		Long: `Remove all but the newest snapshots of a jail. The newest that is whole stays in any
case, and so does the newest that was made with the server stopped.`,
		Example: `  jailup snapshot prune --jail /chroot --keep 2`,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open("snapshot prune")
			if err != nil {
				return err
			}
			return s.prune(cmd.Context())
		},
	}
}

func (s *session) prune(ctx context.Context) error {
	if err := s.needJail(); err != nil {
		return s.refuse(err)
	}
	if err := s.needRoot(); err != nil {
		return s.refuse(err)
	}
	known, err := s.openJail()
	if err != nil {
		return s.refuse(err)
	}
	doc := prunedDoc{documentSchema, s.root.Path(), []string{}}
	store, err := s.store()
	if err == nil && known && store != nil {
		err = s.take(ctx)
	}
	if err != nil {
		return s.refuse(err)
	}
	if known && store != nil {
		if _, open, err := steps.Interrupted(s.stateDir()); err != nil || open {
			return s.refuse(&steps.Error{Err: fmt.Errorf("cannot prune the snapshots of jail %s: a run was cut off and may need them", s.root.Path()),
				Hint: "jailup recover --jail " + s.root.Path()})
		}
		s.release(ctx)
		pruned, err := backup.Prune(ctx, store, s.id, backup.Policy{Keep: *s.set.Keep}, time.Now())
		for _, m := range pruned {
			doc.Pruned = append(doc.Pruned, m.ID)
		}
		if err != nil {
			return s.refuse(err)
		}
	}
	if len(doc.Pruned) == 0 {
		s.talk("nothing to prune")
	}
	return s.show(doc, exitOK, func(w io.Writer) error {
		for _, id := range doc.Pruned {
			fmt.Fprintln(w, "removed "+id)
		}
		return nil
	})
}

func (a *app) snapshotRestore() *cobra.Command {
	var into string
	var all bool
	cmd := &cobra.Command{
		Use:   "restore ID --jail DIR --into NEW",
		Short: "Write a snapshot as a whole tree into a new folder",
		Long: `Write a snapshot, whole, into a new folder, which gets its name when all of it is
there and compared with the manifest. It is a jail of its own; the jail that was
copied stays as it is. To bring a jail itself back, see "jailup rollback --to".`,
		Example: `  jailup snapshot restore 20260101T020000Z-0a1b2c --jail /chroot --into /chroot.restored`,
		Args:    exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all:
				return &steps.Error{Kind: steps.ErrUsage, Err: errors.New("cannot restore over the jail itself: --all-data is not in this version"),
					Hint: "restore --into a new folder, or take back what packages and configuration own: jailup rollback --to " + event.Clean(args[0], 100)}
			case into == "":
				return &steps.Error{Kind: steps.ErrUsage, Err: errors.New("cannot restore: no new folder given (--into DIR)"), Hint: "see: " + cmd.CommandPath() + " --help"}
			}
			return a.onSnapshots(cmd.Context(), "restore", func(ctx context.Context, s *session, store backup.Store) error {
				return s.restore(ctx, store, args[0], into)
			})
		},
	}
	cmd.Flags().StringVar(&into, "into", "", "the new `folder`")
	cmd.Flags().BoolVar(&all, "all-data", false, "over the jail itself, data included")
	return cmd
}

// restoredDoc is the JSON document of snapshot restore.
type restoredDoc struct {
	Schema   int    `json:"schema"`
	Jail     string `json:"jail"`
	Snapshot string `json:"snapshot"`
	Into     string `json:"into"`
	Files    int    `json:"files"`
	Bytes    int64  `json:"bytes"`
}

func (s *session) restore(ctx context.Context, store backup.Store, id, into string) error {
	if err := s.needRoot(); err != nil {
		return s.refuse(err)
	}
	abs, err := filepath.Abs(into)
	if err == nil {
		err = s.outside(abs, "new folder")
	}
	if err == nil {
		err = placeOf(abs)
	}
	if err != nil {
		return s.refuse(err)
	}
	snap, err := s.snapshot(ctx, store, id)
	if err != nil {
		return s.refuse(err)
	}
	defer snap.Close()
	if err := s.behindWall(ctx, func() wall.Spec {
		return s.placeWall(abs, []string{`^\.` + regexp.QuoteMeta(filepath.Base(abs)) + `\.tmp-`})
	}); err != nil {
		return s.refuse(err)
	}
	if err := snap.Restore(ctx, abs); err != nil {
		return s.refuse(&steps.Error{Err: err, Hint: "nothing was written there; choose a folder that is new or empty, or look at the disk: df -h"})
	}
	m := snap.Meta()
	doc := restoredDoc{documentSchema, s.jailPath(), m.ID, abs, m.Files, m.Bytes}
	return s.show(doc, exitOK, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "restored snapshot %s into %s: %d files, %s\n", m.ID, event.Clean(abs, 300), m.Files, ui.Bytes(m.Bytes))
		return err
	})
}
