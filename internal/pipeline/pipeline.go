// Package pipeline runs steps that can be undone, and ends what a crash left
// half done. It knows nothing of jails.
//
//	Do a ─▶ Do b ─▶ Do c ─▶ commit ─▶ Do d …        all well
//	Do a ─▶ Do b ✗
//	Undo a ◀─ Undo b ◀┘                              failure
//	Do a ─▶ Do b ⚡ … Undo b ─▶ Undo a                crash, then Recover
//
// Failure and crash share one road: the step that failed is undone too, then
// those before it, in reverse. What is durable is the journal record, saved
// before each step begins; a step saves the facts that its undo needs before the
// side effect they describe.
package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jailup/jailup/internal/journal"
)

// Step is one do and undo. F is the type of the facts that a plan keeps.
type Step[F any] interface {
	Name() string
	// Do is idempotent: it may be run again after a crash.
	Do(ctx context.Context, run *Run[F]) error
	// Undo accepts a Do that never began, stopped half-way, or completed, and may
	// be run again. Its context is never the one that was cancelled.
	Undo(ctx context.Context, run *Run[F]) error
}

// Plan is a named list of steps. Those before Commit are undone when one of them
// fails; those from Commit on run after the commit, only forward.
type Plan[F any] struct {
	Name   string
	Steps  []Step[F]
	Commit int
}

// Store keeps the record; *journal.Journal is one.
type Store interface {
	Save(journal.Record) error
}

// Observer is told what happens, for the story; nil is none.
type Observer interface {
	StepStart(name string)
	StepDone(name string, took time.Duration)
	StepUndo(name string, cause error)
	StepFailed(name string, err error)
	Warn(message string)
}

// Run is one execution of a plan.
type Run[F any] struct {
	ID    string
	Facts F

	store Store
	obs   Observer
	rec   journal.Record
	// going back, an error of the journal does not stop the undoing
	back bool
}

// NewRun begins a run. obs may be nil.
func NewRun[F any](id string, facts F, store Store, obs Observer) *Run[F] {
	if obs == nil {
		obs = silent{}
	}
	return &Run[F]{ID: id, Facts: facts, store: store, obs: obs, rec: journal.Record{Run: id}}
}

// Save makes the facts durable. A step calls it before the side effect that the
// facts describe.
func (r *Run[F]) Save() error {
	facts, err := json.Marshal(r.Facts)
	if err != nil {
		return fmt.Errorf("cannot save the journal: %w", err)
	}
	r.rec.Facts = facts
	r.rec.Time = time.Now().UTC()
	err = r.store.Save(r.rec)
	if err != nil && r.back {
		r.obs.Warn(err.Error())
		return nil
	}
	return err
}

func (r *Run[F]) mark(phase journal.Phase, next int, step string) error {
	r.rec.Phase, r.rec.Next, r.rec.Step = phase, next, step
	r.back = phase == journal.Back
	err := r.Save()
	// What decides the run is worth more than one try. The write is repeated, and not
	// the sync alone: a kernel drops what it could not write.
	for try := 1; try < attempts && err != nil && (phase == journal.Committed || phase == journal.Ended); try++ {
		time.Sleep(time.Duration(try) * 100 * time.Millisecond)
		err = r.Save()
	}
	return err
}

// Outcome is how a run ended.
type Outcome int

const (
	// Committed: all steps up to the commit are done, and that is durable.
	Committed Outcome = iota
	// RolledBack: every step that had begun is undone.
	RolledBack
	// Stuck: an undo failed three times; a person is needed.
	Stuck
	// Ambiguous: the commit record could not be saved. Nothing was touched after
	// that; whether the run counts as committed is decided by what is on disk.
	Ambiguous
)

func (o Outcome) String() string {
	return [...]string{"committed", "rolled back", "stuck", "ambiguous"}[o]
}

// Result tells how a run ended and why.
type Result struct {
	Outcome Outcome
	Step    string // that failed, or whose undo failed
	Err     error  // why the run went back; nil when it committed
	// Cancelled is the cause of the context's end, if that is why it went back.
	Cancelled error
	UndoErr   error   // why an undo is stuck
	After     []error // of the steps after the commit: for the report, they undo nothing
	// Left are what the steps that went back could not remove; see LeftoverError.
	Left []error
}

// LeftoverError is the error of an Undo that has put everything right and could only
// not remove what it no longer needs. It holds nothing up: the steps before it are
// undone as well, and the record stays open at that step, so that the next recovery
// removes the rest.
type LeftoverError struct{ Err error }

func (e *LeftoverError) Error() string { return e.Err.Error() }
func (e *LeftoverError) Unwrap() error { return e.Err }

// Leftover makes a LeftoverError of err; nil stays nil.
func Leftover(err error) error {
	if err == nil {
		return nil
	}
	return &LeftoverError{err}
}

// attempts is how often an undo is tried before a person is asked.
const attempts = 3

// Execute runs the plan from its first step. ctx cancels forward work; what is
// then undone is undone with a context of its own.
func Execute[F any](ctx context.Context, plan Plan[F], run *Run[F]) Result {
	run.rec.Plan = plan.Name
	for i, step := range plan.Steps[:plan.Commit] {
		err := ctx.Err()
		if err == nil {
			err = run.mark(journal.Forward, i, step.Name())
		}
		if err == nil {
			err = run.do(ctx, step)
		}
		if err == nil {
			// A signal during a step that took no notice of it still counts.
			err = ctx.Err()
		}
		if err != nil {
			var cancelled error
			if ctx.Err() != nil {
				cancelled = context.Cause(ctx)
			}
			// Not where a step had a time limit of its own: that is its failure.
			if cancelled != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
				err = cancelled
			}
			run.rec.Cause = err.Error()
			res := goBack(context.WithoutCancel(ctx), plan, run, i)
			res.Err, res.Cancelled = err, cancelled
			if res.Step == "" {
				res.Step = step.Name()
			}
			return res
		}
	}
	return commit(ctx, plan, run)
}

func (r *Run[F]) do(ctx context.Context, step Step[F]) error {
	r.obs.StepStart(step.Name())
	began := time.Now()
	if err := step.Do(ctx, r); err != nil {
		r.obs.StepFailed(step.Name(), err)
		return err
	}
	r.obs.StepDone(step.Name(), time.Since(began))
	return nil
}

func commit[F any](ctx context.Context, plan Plan[F], run *Run[F]) Result {
	if err := run.mark(journal.Committed, plan.Commit, "commit"); err != nil {
		return Result{Outcome: Ambiguous, Step: "commit", Err: err}
	}
	return afterCommit(ctx, plan, run)
}

func afterCommit[F any](ctx context.Context, plan Plan[F], run *Run[F]) Result {
	res := Result{Outcome: Committed}
	ctx = context.WithoutCancel(ctx)
	for _, step := range plan.Steps[plan.Commit:] {
		if err := run.do(ctx, step); err != nil {
			// The record stays open: what is left is done by the next recovery.
			res.After = append(res.After, fmt.Errorf("%s: %w", step.Name(), err))
			return res
		}
	}
	if err := run.mark(journal.Ended, len(plan.Steps), ""); err != nil {
		res.After = append(res.After, err)
	}
	return res
}

func goBack[F any](ctx context.Context, plan Plan[F], run *Run[F], from int) Result {
	cause := errors.New(run.rec.Cause)
	var left []error
	leftAt := -1
	for i := from; i >= 0; i-- {
		step := plan.Steps[i]
		_ = run.mark(journal.Back, i, step.Name()) // warned of; it does not stop the undoing
		run.obs.StepUndo(step.Name(), cause)
		var err error
		for try := range attempts {
			if try > 0 {
				time.Sleep(time.Duration(try) * 100 * time.Millisecond)
			}
			if err = step.Undo(ctx, run); err == nil {
				break
			}
		}
		var rest *LeftoverError
		if errors.As(err, &rest) {
			left, leftAt = append(left, err), max(leftAt, i)
			continue
		}
		if err != nil {
			run.rec.Attempts++
			_ = run.Save()
			return Result{Outcome: Stuck, Step: step.Name(), UndoErr: err}
		}
	}
	if leftAt >= 0 {
		_ = run.mark(journal.Back, leftAt, plan.Steps[leftAt].Name())
		return Result{Outcome: RolledBack, Left: left}
	}
	if err := run.mark(journal.Ended, 0, ""); err != nil {
		run.obs.Warn(err.Error()) // the next recovery undoes what is undone, and tries again
	}
	return Result{Outcome: RolledBack}
}

// Recover ends what rec began: back before the commit, forward after it. A
// record that is ended is RolledBack or Committed already and does nothing. One
// that does not fit the plan, of another version of the program perhaps, is
// Stuck with nothing touched: what it means is never guessed.
func Recover[F any](ctx context.Context, plan Plan[F], rec journal.Record, store Store, obs Observer) (*Run[F], Result) {
	var facts F
	run := NewRun(rec.Run, facts, store, obs)
	run.rec = rec
	if len(rec.Facts) > 0 {
		if err := json.Unmarshal(rec.Facts, &run.Facts); err != nil {
			return run, Result{Outcome: Stuck, Step: rec.Step, UndoErr: fmt.Errorf("cannot read the journal: %w", err)}
		}
	}
	switch {
	case rec.Plan != plan.Name || rec.Next < 0 || rec.Next > len(plan.Steps):
		return run, Result{Outcome: Stuck, Step: rec.Step, UndoErr: fmt.Errorf("cannot recover run %s: its plan %q has no step %d", rec.Run, rec.Plan, rec.Next)}
	case rec.Phase == journal.Ended && rec.Next > 0 && rec.Next >= plan.Commit:
		return run, Result{Outcome: Committed}
	case rec.Phase == journal.Ended:
		return run, Result{Outcome: RolledBack}
	case rec.Phase == journal.Committed:
		return run, afterCommit(ctx, plan, run)
	case rec.Phase == journal.Forward, rec.Phase == journal.Back:
		if rec.Next >= plan.Commit || plan.Steps[rec.Next].Name() != rec.Step {
			return run, Result{Outcome: Stuck, Step: rec.Step, UndoErr: fmt.Errorf("cannot recover run %s: step %d of its plan %q is not %q", rec.Run, rec.Next, rec.Plan, rec.Step)}
		}
		if rec.Cause == "" {
			run.rec.Cause = "the run was cut off in step " + rec.Step
		}
		res := goBack(context.WithoutCancel(ctx), plan, run, rec.Next)
		res.Err = errors.New(run.rec.Cause)
		return run, res
	}
	return run, Result{Outcome: Stuck, Step: rec.Step, UndoErr: fmt.Errorf("cannot recover run %s: its phase %q is not known", rec.Run, rec.Phase)}
}

type silent struct{}

func (silent) StepStart(string)               {}
func (silent) StepDone(string, time.Duration) {}
func (silent) StepUndo(string, error)         {}
func (silent) StepFailed(string, error)       {}
func (silent) Warn(string)                    {}
