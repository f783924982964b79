package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/steps"
)

// What the steps of a run work with, made of configuration and command line.

// begin takes the jail, tells that the run starts, ends what an earlier one left,
// and opens what the run needs. Its error has been told.
func (s *session) begin(ctx context.Context, open ...func(*steps.Env) error) (*steps.Env, error) {
	if err := s.takeServer(ctx); err != nil {
		return nil, s.refuse(err)
	}
	s.events.RunStart(event.RunStart{Verb: s.verb, Server: s.asked, Jail: s.root.Path(), Version: version()})
	if err := s.recoverFirst(ctx); err != nil {
		return nil, s.fail(err)
	}
	e, err := s.env()
	if err != nil {
		return nil, s.fail(err)
	}
	for _, o := range open {
		if err := o(e); err != nil {
			return nil, s.fail(err)
		}
	}
	return e, nil
}

// env makes what the steps work with. The source is added where one is needed.
func (s *session) env() (*steps.Env, error) {
	policy := checks.DefaultPolicy()
	policy.Soak, policy.Deadline = s.set.Soak.D(), s.set.StartTimeout.D()
	policy.AcceptInconclusive = *s.set.AcceptInconclusive
	var looks time.Duration
	if sys.FaultPoints {
		// A test that upgrades a thousand times looks more often, and as many times.
		if looks, _ = time.ParseDuration(os.Getenv("JAILUP_FAULT_LOOKS")); looks > 0 {
			policy.Period = looks
		}
	}
	e := &steps.Env{
		Run: s.run, JailID: s.id, Root: s.root, Recipe: s.recipe, Outside: s.onHost, StateDir: s.stateDir(),
		StoreDir: *s.set.Snapshots, Events: s.events, Recipes: s.recipes,
		Options: steps.Options{
			Named: s.asked, With: *s.set.With, Drop: *s.set.DropModule,
			Downgrade: *s.set.Version != "" || s.named == nil && *s.set.Suite != "" || s.a.flags.Suite != nil,
			Version:   *s.set.Version, ConfNew: *s.set.Conf == "new", Rehearse: *s.set.Rehearse, Hold: *s.set.Hold,
			Keep: *s.set.Keep, Exclude: *s.set.Snapshot.Exclude, StopTimeout: s.set.StopTimeout.D(), Policy: policy, Looks: looks,
		},
	}
	var err error
	if e.Options.Checks, err = s.checks(); err != nil {
		if s.verb != "recover" {
			return nil, err
		}
		s.events.Notice(event.Warning, err.Error(), "")
		e.Options.Checks = checks.Config{}
	}
	return e, nil
}

// checks reads the user's own checks out of the configuration.
func (s *session) checks() (checks.Config, error) {
	node := s.conf.Checks
	if s.named != nil && !s.named.Checks.IsZero() {
		node = s.named.Checks
	}
	c, err := checks.ReadConfig(&node)
	if err != nil {
		return c, &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot read the checks of the configuration: %w", err)}
	}
	return c, nil
}

// openStore opens the snapshots' folder, and makes it.
func (s *session) openStore(e *steps.Env) error {
	store, err := backup.NewCopy(e.StoreDir)
	if err != nil {
		return err
	}
	e.Store = store
	return nil
}

// openRecord begins the run's own record of events.
func (s *session) openRecord(e *steps.Env) error {
	f, err := recordOf(e)
	if err != nil {
		return err
	}
	s.record = f
	s.events.Attach(event.JSONLines(f))
	return nil
}

// recordOf opens the record of events of e's run, to append to.
func recordOf(e *steps.Env) (*os.File, error) {
	// Durably: what recovery needs goes into it.
	if err := sys.MkdirAll(e.RunDir(), 0o700); err != nil {
		return nil, e.NoRoom(fmt.Errorf("cannot make the run's folder: %w", err))
	}
	f, err := os.OpenFile(filepath.Join(e.RunDir(), "events.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make the run's record: %w", err)
	}
	return f, nil
}

// bounded applies --timeout to forward work.
func (s *session) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if d := s.set.Timeout.D(); d > 0 {
		return context.WithTimeoutCause(ctx, d, fmt.Errorf("the time limit of %s is over", d))
	}
	return context.WithCancel(ctx)
}

// facts are those that are known before the first step.
func (s *session) facts() steps.Facts {
	return steps.Facts{Verb: s.verb, Server: s.asked, Jail: s.root.Path(), Grace: s.set.StopTimeout.D(), Soak: s.set.Soak.D(), Deadline: s.set.StartTimeout.D(), Keep: *s.set.Keep}
}
