package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/steps"
)

func (a *app) checkVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check SERVER --jail DIR",
		Short: "Run the health checks now",
		Long: `Run the checks that an upgrade runs, now: processes, ports, HTTP answers, log, and
those of the configuration. The server is judged by itself; one that is down is
unhealthy. One of which no answer could be seen is neither: inconclusive, exit 5 as
well unless --accept-inconclusive. Nothing is locked or written.`,
		Example: `  jailup check nginx --jail /chroot
  jailup check nginx --jail /chroot --quiet || mail -s unhealthy root`,
		Args: exactArgs("SERVER"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.check(cmd.Context(), args[0]) },
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), "accept-inconclusive")
	return cmd
}

func (a *app) check(ctx context.Context, server string) error {
	s, err := a.open("check")
	if err != nil {
		return err
	}
	if err := s.server(server); err != nil {
		return s.refuse(err)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if err := s.needJail(); err != nil {
		return s.refuse(err)
	}
	known, err := s.openJail()
	if err == nil {
		err = steps.CheckJail(s.root, s.recipe)
	}
	if err != nil {
		return s.refuse(err)
	}
	s.events.RunStart(event.RunStart{Verb: s.verb, Server: s.asked, Jail: s.root.Path(), Version: version()})
	if known {
		s.tellWhatIsOpen()
	}
	e, err := s.env()
	if err != nil {
		return s.fail(err)
	}
	_, err = steps.Check(ctx, e)
	if err != nil && !errors.Is(err, steps.ErrUnhealthy) {
		return s.fail(err)
	}
	return s.finish(e, steps.Outcome{Result: event.Checked, Err: err, Verdict: e.Verdict()})
}

// cutOff tells whether the last run on the jail was cut off: it is open, and nobody is
// at work on it. A run that ends meanwhile was not.
func (s *session) cutOff() (rec journal.Record, open bool, err error) {
	if steps.Busy(s.dirs.Run, s.id) != nil {
		return rec, false, nil
	}
	if rec, open, err = steps.Interrupted(s.stateDir()); err == nil && !open {
		return rec, false, nil
	}
	if steps.Busy(s.dirs.Run, s.id) != nil {
		return rec, false, nil
	}
	return rec, open, err
}

// tellWhatIsOpen says that a run is under way or was cut off: the checks judge
// what such a run has left.
func (s *session) tellWhatIsOpen() {
	busy := steps.Busy(s.dirs.Run, s.id)
	rec, open, err := s.cutOff()
	switch {
	case busy != nil:
		s.events.Notice(event.Warning, orElse(busy.Verb, "a run")+" is under way on this jail (run "+orElse(busy.Run, "unknown")+")", "")
	case err != nil:
		s.events.Notice(event.Warning, err.Error(), "jailup recover --jail "+s.root.Path())
	case open:
		s.events.Notice(event.Warning, "run "+rec.Run+" was cut off in step "+rec.Step, "jailup recover --jail "+s.root.Path())
	}
}
