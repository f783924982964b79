package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/guard"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/steps"
	"golang.org/x/sys/unix"
)

// recoverFirst ends what an interrupted run began, before anything else is done,
// and sweeps what an earlier one left on the host.
func (s *session) recoverFirst(ctx context.Context) error {
	rec, open, err := steps.Interrupted(s.stateDir())
	if err == nil && open {
		s.events.Notice(event.Warning, "run "+rec.Run+" was cut off in step "+rec.Step+"; it is ended first", "")
	}
	out, err := s.recoverNow(ctx)
	if err != nil {
		return err
	}
	return out.Err
}

// recoverNow runs the recovery on a locked jail: first the files are made whole,
// then what held the units goes, then init is told of them.
func (s *session) recoverNow(ctx context.Context) (steps.Outcome, error) {
	rec, open, err := steps.Interrupted(s.stateDir())
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		// This process lacks something, and not the jail: nothing was begun.
		return steps.Outcome{Result: event.Failed}, &steps.Error{Err: fmt.Errorf("cannot look where jail %s stands: %w", event.Clean(s.root.Path(), 200), err),
			Hint: "allow more open files: ulimit -n 1024"}
	}
	if err != nil {
		return steps.Outcome{Result: event.Stuck}, &steps.Error{Kind: steps.ErrStuck,
			Err: fmt.Errorf("cannot tell where jail %s stands: %w", event.Clean(s.root.Path(), 200), err), Hint: s.journalHint(err)}
	}
	out := steps.Outcome{Result: event.Recovered, Nothing: !open}
	if open {
		if out, err = s.recoverRun(ctx, rec); err != nil {
			return out, err
		}
	}
	if out.Result == event.Recovered || out.Whole {
		held := s.hold().Held()
		s.release(ctx)
		// Where nothing is held an earlier recovery has told init, or the run has started
		// the server: what an administrator disabled since stays so.
		if !held {
			out.Units = nil
		}
		if err := guard.Queue(ctx, out.Units); err != nil {
			s.events.Notice(event.Warning, err.Error(), "systemctl start "+out.Units[0])
		}
		// The server is up, and what is left over only takes room.
		(&steps.Env{JailID: s.id, Root: s.root, StateDir: s.stateDir(), Events: s.events}).SweepStages()
	}
	return out, nil
}

// journalHint says what to do where the journal does not tell.
func (s *session) journalHint(err error) string {
	jail := event.Clean(s.root.Path(), 200)
	if errors.Is(err, journal.ErrNewer) {
		return "let the newer jailup end it: jailup recover --jail " + jail
	}
	return "nothing is touched; state: " + s.stateDir() + ", a whole tree to go back to: jailup snapshot list --jail " + jail
}

// recoverRun ends one run. What it tells is added to the run's own record.
func (s *session) recoverRun(ctx context.Context, rec journal.Record) (steps.Outcome, error) {
	facts, err := steps.FactsOf(rec)
	if err != nil {
		return steps.Outcome{}, &steps.Error{Kind: steps.ErrStuck, Err: err}
	}
	keep, asked := s.recipe, s.asked
	if keep == nil {
		if err := s.server(facts.Server); err != nil {
			return steps.Outcome{}, err
		}
		s.compose()
	}
	e, err := s.env()
	if err != nil {
		return steps.Outcome{}, err
	}
	e.Run, e.Boot = rec.Run, s.a.boot
	if f, err := recordOf(e); err == nil {
		defer f.Close()
		story := &chapter{}
		s.events.Attach(story)
		story.to = event.JSONLines(f)
		defer func() { story.to = nil }()
	} else {
		s.events.Notice(event.Warning, err.Error(), "")
	}
	if err := e.UseRecipesOf(rec.Run); err != nil {
		s.events.Notice(event.Warning, err.Error()+"; today's recipes are used", "")
	}
	s.recipe, s.asked = e.Recipe, facts.Server
	if facts.Snapshots != "" {
		e.StoreDir = facts.Snapshots
		if err := s.openStore(e); err != nil {
			s.events.Notice(event.Warning, err.Error(), "")
			e.Store = nil
		}
	}
	out := steps.Recover(ctx, e)
	e.Close()
	if keep != nil {
		s.recipe, s.asked = keep, asked
	}
	return out, nil
}

// chapter is a sink for a part of a story, which neither what was told before it
// nor what comes after belongs to. To is nil outside of it.
type chapter struct{ to event.Sink }

// Emit passes on what belongs to it.
func (c *chapter) Emit(e event.Event) {
	if c.to != nil {
		c.to.Emit(e)
	}
}

// finish tells how the run ended, gives the lock back and sets the exit status.
func (s *session) finish(e *steps.Env, out steps.Outcome) error {
	if e != nil {
		e.Close()
	}
	done := event.RunDone{
		Result: out.Result, Jail: s.path, From: out.Facts.From, To: out.Facts.To, Snapshot: out.Facts.Snapshot,
		DowntimeMS: out.Downtime, ChangedFiles: out.Facts.Changed, Evidence: out.Evidence, Verdict: out.Verdict, Nothing: out.Nothing,
	}
	if s.root != nil {
		done.Jail = s.root.Path()
	}
	done.Server = s.asked
	if errors.Is(out.Err, steps.ErrCurrent) {
		done.Result = event.Current
		s.events.Notice(event.Info, out.Err.Error(), "")
		out.Err = nil
	}
	code := exitOf(done.Result, out.Err, *s.set.SkipOK)
	if out.Err != nil {
		// Of several errors joined each has a line of its own: here they share one.
		done.Error, done.Hint = strings.ReplaceAll(out.Err.Error(), "\n", "; "), s.a.hint(out.Err, code)
	}
	if out.Err != nil || done.Result != event.Upgraded && done.Result != event.RolledBack {
		done.ChangedFiles = 0
	}
	done.Exit = code
	s.events.RunDone(done)
	s.close()
	s.a.code = code
	if code != 0 {
		return errTold
	}
	return nil
}

// errTold is an error that was told already.
var errTold = errors.New("told")

// fail ends a session before its run began.
func (s *session) fail(err error) error {
	result := event.Failed
	switch {
	case errors.Is(err, steps.ErrStuck), exitOf("", err, false) == exitStuck:
		result = event.Stuck
	case errors.Is(err, steps.ErrStale):
		result = event.Stale
	case errors.Is(err, steps.ErrSkipped):
		result = event.Skipped
	case errors.Is(err, steps.ErrInterrupted):
		result = event.Interrupted
	}
	return s.finish(nil, steps.Outcome{Result: result, Err: err})
}

func (s *session) close() {
	s.lock.Release()
	s.place.Release()
	s.ui.Close()
	if s.record != nil {
		s.record.Close()
	}
	if s.root != nil {
		s.root.Close()
	}
}
