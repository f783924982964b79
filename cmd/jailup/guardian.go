package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/guard"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/steps"
)

// The guardian: how a run starts it, what it runs itself (a hidden verb), and how
// what it leaves on the host is taken away.

// guardian starts the guardian of this run, which holds the units.
func (s *session) guardian(units []string) (*guard.Guardian, error) {
	if sys.FaultPoints && os.Getenv("JAILUP_FAULT_GUARD") == "off" {
		return nil, nil // a test of recovery by hand
	}
	args := []string{"guardian", "--jail", s.root.Path(), "--jail-id", s.id, "--state-dir", *s.set.StateDir, "--snapshots", *s.set.Snapshots}
	if s.a.config != "" {
		args = append(args, "--config", s.a.config)
	}
	if guard.Booted() {
		args = append(args, "--hold")
		for _, u := range units {
			args = append(args, "--unit", u)
		}
	}
	log, err := os.OpenFile(filepath.Join(s.stateDir(), "runs", s.run, "guardian.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot start the guardian: %w", err)
	}
	defer log.Close()
	return guard.Start(args, guardianEnv(), log)
}

// guardianEnv leaves out what a test uses to kill the run itself.
func guardianEnv() []string {
	var out []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "JAILUP_") {
			out = append(out, v)
		}
	}
	if sys.FaultPoints {
		// What is to happen to the guardian itself.
		for _, name := range []string{"JAILUP_FAULT", "JAILUP_FAULT_COUNTER", "JAILUP_FAULT_TRACE"} {
			if v := os.Getenv(strings.Replace(name, "FAULT", "FAULT_GUARDIAN", 1)); v != "" {
				out = append(out, name+"="+v)
			}
		}
		out = append(out, "JAILUP_FAULT_LOOKS="+os.Getenv("JAILUP_FAULT_LOOKS"))
	}
	return out
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
	return jail.RealPath(*a.flags.StateDir) == jail.RealPath(*config.Defaults(dirs).StateDir)
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
