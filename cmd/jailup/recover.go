package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/steps"
)

func (a *app) recoverVerb() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "recover --jail DIR | --all",
		Short: "End what an interrupted run began",
		Long: `End what an interrupted run began: before its commit it goes back, after it forward.
Every verb that changes a jail does this first by itself. Doing it again changes
nothing.

With --boot, which jailup-recover.service gives, a server that belongs to a unit of
the host is left to init, which starts it when the recovery has ended.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.boot {
				if err := a.flags.Set("lock-wait", "10m"); err != nil {
					return err
				}
			}
			if all {
				return a.recoverAll(cmd.Context())
			}
			return a.recoverOne(cmd.Context())
		},
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), "snapshots")
	cmd.Flags().BoolVar(&all, "all", false, "of all jails that jailup knows")
	cmd.Flags().BoolVar(&a.boot, "boot", false, "at boot: leave the start of units to init")
	return cmd
}

func (a *app) recoverOne(ctx context.Context) error {
	s, err := a.open("recover")
	if err != nil {
		return err
	}
	return s.recoverJail(ctx)
}

func (s *session) recoverJail(ctx context.Context) error {
	known, err := s.openJail()
	if err != nil {
		s.tellTrouble()
		return s.fail(err)
	}
	if !known && s.trouble != nil {
		return s.fail(s.trouble) // it may name the state that knows this jail
	}
	if !known {
		s.tellTrouble()
		s.events.Notice(event.Info, "jailup does not know this jail: there is nothing to recover", "")
		if err := errors.Join(s.registry.Sweep(ctx), source.SweepCache(*s.set.CacheDir)); err != nil {
			s.events.Notice(event.Warning, err.Error(), "")
		}
		return s.finish(nil, steps.Outcome{Result: event.Recovered, Nothing: true})
	}
	if err := s.take(ctx); err != nil {
		return s.fail(err)
	}
	s.events.RunStart(event.RunStart{Verb: s.verb, Jail: s.root.Path(), Version: version()})
	out, err := s.recoverNow(ctx)
	if err != nil {
		return s.fail(err)
	}
	if err := s.sweepStore(ctx); err != nil {
		s.events.Notice(event.Warning, err.Error(), "")
	}
	return s.finish(nil, out)
}

// sweepStore removes copies that have no name yet and that nobody makes any more.
func (s *session) sweepStore(ctx context.Context) error {
	if _, err := os.Stat(*s.set.Snapshots); err != nil {
		return nil
	}
	store, err := backup.NewCopy(*s.set.Snapshots)
	if err != nil {
		return err
	}
	_, err = store.Sweep(ctx)
	return err
}

// recoverAll goes on where one jail cannot be recovered; the worst exit status
// is the program's.
func (a *app) recoverAll(ctx context.Context) error {
	s, err := a.open("recover")
	if err != nil {
		return err
	}
	jails, err := s.registry.List()
	if err != nil {
		return s.fail(&steps.Error{Kind: steps.ErrStuck, Err: err,
			Hint: "recover each jail by its folder once it is mended: jailup recover --jail DIR"})
	}
	if len(jails) == 0 && s.trouble != nil {
		return s.fail(s.trouble)
	}
	if len(jails) > 0 && os.Geteuid() == 0 {
		if err := s.behindWall(ctx, func() wall.Spec { return s.allWall(jails) }); err != nil {
			return s.fail(err)
		}
	}
	s.releaseStrays(ctx, jails)
	s.ui.Close()
	worst := 0
	for _, j := range jails {
		one := *a
		one.jail, one.code = j.Path, 0
		if there, why := isThere(j); there {
			_ = one.recoverOne(ctx)
		} else {
			_ = one.absent(ctx, j, filepath.Join(*s.set.StateDir, j.ID), why)
		}
		worst = worse(worst, one.code)
	}
	a.code = worst
	if worst != 0 {
		return errTold
	}
	return nil
}

// worse is the exit status that tells of both: 4 first, for a person is needed.
func worse(a, b int) int {
	if a == exitStuck || b == exitStuck {
		return exitStuck
	}
	return max(a, b)
}

// isThere tells whether the jail of the registry is at its path now: not an empty
// mount point, nor something else that has the name.
func isThere(j journal.Jail) (there bool, why string) {
	d, err := os.Open(j.Path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return false, err.Error()
	}
	defer d.Close()
	who, err := journal.Identify(int(d.Fd()), j.Path)
	if err != nil {
		return false, err.Error()
	}
	if who.Inode != j.Inode || j.Birth != 0 && who.Birth != 0 && j.Birth != who.Birth {
		return false, "another folder is in its place"
	}
	return true, ""
}

// absent tells of a jail that is not at its path now, not mounted perhaps. Where
// a run of it is open a person is needed; else there is nothing to recover.
func (a *app) absent(ctx context.Context, j journal.Jail, state, why string) error {
	s, err := a.open("recover")
	if err != nil {
		return err
	}
	s.path, s.id = j.Path, j.ID
	path := event.Clean(j.Path, 300)
	rec, open, err := steps.Interrupted(state)
	switch {
	case err != nil:
		err = fmt.Errorf("cannot recover jail %s: it is not there (%s), and its state cannot be read: %w", path, why, err)
	case open:
		err = fmt.Errorf("cannot recover jail %s: it is not there (%s), and run %s was cut off in step %s", path, why, rec.Run, rec.Step)
	default:
		s.events.Notice(event.Warning, fmt.Sprintf("jail %s is not there (%s): no run of it is open", path, why), "")
		s.release(ctx)
		return s.finish(nil, steps.Outcome{Result: event.Recovered, Nothing: true})
	}
	return s.fail(&steps.Error{Kind: steps.ErrStuck, Err: err, Hint: "mount it, then: jailup recover --jail " + path})
}
