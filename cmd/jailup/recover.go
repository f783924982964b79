package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/guard"
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
		return s.finish(nil, steps.Outcome{Result: event.Recovered})
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
		return s.finish(nil, steps.Outcome{Result: event.Recovered})
	}
	return s.fail(&steps.Error{Kind: steps.ErrStuck, Err: err, Hint: "mount it, then: jailup recover --jail " + path})
}

// hold is the persistent guard of the session's jail.
func (s *session) hold() guard.Hold {
	return guard.Hold{Etc: guard.EtcUnits, StateDir: s.stateDir(), JailID: s.id, Jail: s.path}
}

// release takes away what is left of a persistent guard, once nothing is open that
// it would have to hold.
func (s *session) release(ctx context.Context) {
	h := s.hold()
	if !h.Held() {
		return
	}
	args := []string{"guardian", "--release", "--jail", s.path, "--jail-id", s.id, "--state-dir", *s.set.StateDir}
	if s.a.boot {
		args = append(args, "--boot")
	}
	if err := guard.Run(args, guardianEnv()); err != nil {
		s.events.Notice(event.Warning, "cannot take the guard of the jail away: "+err.Error(),
			"remove "+filepath.Join(h.StateDir, "in-flight")+", then: systemctl start UNIT")
	}
}

// releaseStrays takes away the guards of jails that the registry does not know any
// more, and of which no run is open: nobody else would.
func (s *session) releaseStrays(ctx context.Context, jails []journal.Jail) {
	if os.Geteuid() != 0 || !guard.Booted() {
		return
	}
	var known []string
	for _, j := range jails {
		known = append(known, j.ID)
	}
	for _, id := range guard.Strays(guard.EtcUnits, *s.set.StateDir, known) {
		one := *s
		one.id = id
		if _, open, err := steps.Interrupted(one.stateDir()); err == nil && !open {
			one.release(ctx)
		}
	}
}

// guardianFlags are those of the guardian process.
type guardianFlags struct {
	id      string
	hold    bool
	release bool
	boot    bool
	units   []string
}

// guardianVerb is no verb for people: it is what the guardian process runs.
func (a *app) guardianVerb() *cobra.Command {
	var f guardianFlags
	cmd := &cobra.Command{
		Use:    "guardian --jail DIR",
		Hidden: true,
		Args:   exactArgs(),
		RunE:   func(cmd *cobra.Command, _ []string) error { return a.guardian(cmd.Context(), f) },
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), "snapshots")
	cmd.Flags().StringVar(&f.id, "jail-id", "", "")
	cmd.Flags().BoolVar(&f.hold, "hold", false, "make the persistent guard, and take it away")
	cmd.Flags().BoolVar(&f.release, "release", false, "only take the persistent guard away")
	cmd.Flags().BoolVar(&f.boot, "boot", false, "init is starting units at this moment")
	cmd.Flags().StringArrayVar(&f.units, "unit", nil, "what the persistent guard holds")
	return cmd
}

func (a *app) guardian(ctx context.Context, f guardianFlags) error {
	ctx = context.WithoutCancel(ctx)
	say := func(text string) {
		fmt.Fprintf(a.stderr, "%s %s\n", time.Now().UTC().Format(time.RFC3339), text)
	}
	state := ""
	if a.flags.StateDir != nil {
		state = *a.flags.StateDir
	}
	h := guard.Hold{Etc: guard.EtcUnits, StateDir: filepath.Join(state, f.id), JailID: f.id, Jail: a.jail, Units: f.units}
	release := func() error {
		err := h.Release()
		if f.boot {
			return err // the units that are being started were read before; their condition passes now
		}
		if rerr := guard.Reload(ctx); rerr != nil {
			say(rerr.Error())
		}
		return err
	}
	if f.release {
		return release()
	}
	if wall.Inside() != nil { // it has watched, and has built its wall since
		guard.Endure()
		return a.recoverDead(ctx)
	}
	end, err := guard.Watch(f.id, say, func() error {
		if !f.hold {
			return nil
		}
		if !guard.BootUnitEnabled(h.Etc) || !a.usualState() {
			h.Recover = a.recoverArgv()
		}
		if err := h.Arm(); err != nil {
			return errors.Join(err, h.Release())
		}
		// For a unit that starts itself again. At the next boot it holds anyway.
		if err := guard.Reload(ctx); err != nil {
			say(err.Error())
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case end == guard.Done && f.hold:
		return release()
	case end != guard.Died:
		return nil
	}
	say("the run died; recovering")
	return a.recoverDead(ctx)
}

// recoverDead is the guardian's recovery of a run that has died.
func (a *app) recoverDead(ctx context.Context) error {
	a.flags.LockWait = nil
	if err := a.flags.Set("lock-wait", "1000h"); err != nil {
		return err
	}
	return a.recoverOne(ctx)
}

// recoverArgv is how this program recovers the jail at the next boot.
func (a *app) recoverArgv() []string {
	self, err := os.Executable()
	argv := []string{self}
	if _, serr := os.Stat(self); err != nil || serr != nil {
		argv = []string{"/usr/bin/env", "jailup"} // its file was replaced meanwhile
	}
	argv = append(argv, "recover", "--boot", "--jail", a.jail)
	if a.flags.StateDir != nil {
		argv = append(argv, "--state-dir", *a.flags.StateDir)
	}
	if a.flags.Snapshots != nil {
		argv = append(argv, "--snapshots", *a.flags.Snapshots)
	}
	if a.config != "" {
		argv = append(argv, "--config", a.config)
	}
	return argv
}

// usualState tells whether the state lies where the unit for all jails looks.
func (a *app) usualState() bool {
	dirs, err := config.DefaultDirs(os.Geteuid(), a.getenv)
	if err != nil || a.flags.StateDir == nil {
		return err == nil
	}
	return realPath(*a.flags.StateDir) == realPath(*config.Defaults(dirs).StateDir)
}
