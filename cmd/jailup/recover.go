package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/guard"
	"github.com/jailup/jailup/steps"
)

func (a *app) recoverVerb() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "recover --jail DIR | --all",
		Short: "End what an interrupted run began",
		Long: `End what an interrupted run began: before its commit it goes back, after it forward.
Every verb that changes a jail does this first by itself. Doing it again changes
nothing.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				return a.recoverAll(cmd.Context())
			}
			return a.recoverOne(cmd.Context())
		},
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), "snapshots")
	cmd.Flags().BoolVar(&all, "all", false, "of all jails that jailup knows")
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
		return s.fail(err)
	}
	if !known && s.trouble != nil {
		return s.fail(s.trouble) // it may name the state that knows this jail
	}
	if !known {
		s.events.Notice(event.Info, "jailup does not know this jail: there is nothing to recover", "")
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
	return s.finish(nil, out)
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
		return s.fail(err)
	}
	if len(jails) == 0 && s.trouble != nil {
		return s.fail(s.trouble)
	}
	s.ui.Close()
	worst := 0
	for _, j := range jails {
		if _, err := os.Stat(j.Path); err != nil {
			continue // not mounted now, or gone: another call finds it
		}
		one := *a
		one.jail, one.code = j.Path, 0
		_ = one.recoverOne(ctx)
		worst = max(worst, one.code)
	}
	a.code = worst
	if worst != 0 {
		return errTold
	}
	return nil
}

// guardianVerb is no verb for people: it is what the guardian process runs.
func (a *app) guardianVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "guardian --jail DIR",
		Hidden: true,
		Args:   exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			died, err := guard.Watch()
			if err != nil || !died {
				return err
			}
			fmt.Fprintf(a.stderr, "%s the run died; recovering\n", time.Now().UTC().Format(time.RFC3339))
			a.flags.LockWait = nil
			if err := a.flags.Set("lock-wait", "1000h"); err != nil {
				return err
			}
			return a.recoverOne(context.WithoutCancel(cmd.Context()))
		},
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), "snapshots")
	return cmd
}
