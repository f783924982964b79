package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/journal"
)

// notes are the facts of the plans below.
type notes struct {
	Names map[string]string `json:"names,omitempty"`
}

// fake is a step of function fields; those that are nil do nothing.
type fake struct {
	name string
	do   func(context.Context, *Run[notes]) error
	undo func(context.Context, *Run[notes]) error
}

func (f *fake) Name() string { return f.name }

func (f *fake) Do(ctx context.Context, run *Run[notes]) error {
	if f.do == nil {
		return nil
	}
	return f.do(ctx, run)
}

func (f *fake) Undo(ctx context.Context, run *Run[notes]) error {
	if f.undo == nil {
		return nil
	}
	return f.undo(ctx, run)
}

// memory is a store; save may be nil.
type memory struct {
	recs []journal.Record
	save func(journal.Record) error
}

func (m *memory) Save(rec journal.Record) error {
	if m.save != nil {
		if err := m.save(rec); err != nil {
			return err
		}
	}
	m.recs = append(m.recs, rec)
	return nil
}

func (m *memory) last() journal.Record {
	if len(m.recs) == 0 {
		return journal.Record{}
	}
	return m.recs[len(m.recs)-1]
}

// watcher writes down what the engine tells.
type watcher struct {
	silent
	failed, warned []string
	undone         map[string]string
}

func (w *watcher) StepFailed(name string, _ error) { w.failed = append(w.failed, name) }
func (w *watcher) Warn(message string)             { w.warned = append(w.warned, message) }
func (w *watcher) StepUndo(name string, cause error) {
	if w.undone == nil {
		w.undone = map[string]string{}
	}
	w.undone[name] = cause.Error()
}

// script is a plan and what must come of it, in one line of words:
//
//	a:do a:undo      the step does, undoes
//	a:error          its do fails; a:undo-error: one try of its undo fails
//	a:cancel         the context is cancelled while it does, and it takes no notice
//	a:never          the step is in the plan, and must not be called
//	a:save-error     the record before it cannot be saved; "commit:save-error" that of the commit
//	|                the commit stands here in the plan
type script struct {
	plan   Plan[notes]
	store  *memory
	cancel context.CancelFunc
	want   []string
	got    []string
}

func parseScript(t *testing.T, text string) (*script, context.Context) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &script{plan: Plan[notes]{Name: "test", Commit: -1}, store: &memory{}, cancel: cancel}
	steps := map[string]*fake{}
	undoErrors, saveErrors := map[string]int{}, map[string]bool{}
	for word := range strings.FieldsSeq(text) {
		if word == "|" {
			s.plan.Commit = len(s.plan.Steps)
			continue
		}
		name, what, ok := strings.Cut(word, ":")
		require.True(t, ok, word)
		if name == "commit" {
			saveErrors[name] = true
			continue
		}
		step := steps[name]
		if step == nil {
			step = &fake{name: name}
			steps[name] = step
			s.plan.Steps = append(s.plan.Steps, step)
			step.undo = func(ctx context.Context, _ *Run[notes]) error {
				require.NoError(t, ctx.Err(), "an undo must not inherit a cancelled context")
				if undoErrors[name] > 0 {
					undoErrors[name]--
					s.got = append(s.got, name+":undo-error")
					return errors.New("undo of " + name)
				}
				s.got = append(s.got, name+":undo")
				return nil
			}
		}
		if what != "never" && what != "save-error" {
			s.want = append(s.want, word)
		}
		switch what {
		case "do", "error", "cancel":
			step.do = func(context.Context, *Run[notes]) error {
				s.got = append(s.got, word)
				if what == "cancel" {
					cancel()
				}
				if what == "error" {
					return errors.New("do of " + name)
				}
				return nil
			}
		case "never", "save-error":
			step.do = func(context.Context, *Run[notes]) error {
				s.got = append(s.got, name+":do")
				return nil
			}
			saveErrors[name] = what == "save-error"
		case "undo":
		case "undo-error":
			undoErrors[name]++
		default:
			t.Fatalf("what is %q?", word)
		}
	}
	if s.plan.Commit < 0 {
		s.plan.Commit = len(s.plan.Steps)
	}
	s.store.save = func(rec journal.Record) error {
		if saveErrors[rec.Step] && rec.Phase != journal.Back && rec.Phase != journal.Ended {
			return errors.New("save of " + rec.Step)
		}
		return nil
	}
	return s, ctx
}

func TestExecute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		script  string
		outcome Outcome
		step    string
		err     string
	}{
		{"a:do b:do", Committed, "", ""},
		{"a:do b:do | c:do d:do", Committed, "", ""},
		{"| a:do", Committed, "", ""},
		{"a:error a:undo", RolledBack, "a", "do of a"},
		{"a:do b:error b:undo a:undo", RolledBack, "b", "do of b"},
		{"a:do b:error c:never b:undo a:undo | d:never", RolledBack, "b", "do of b"},
		{"a:do b:do c:error c:undo b:undo-error b:undo-error b:undo a:undo", RolledBack, "c", "do of c"},
		{"a:do b:do c:error c:undo b:undo-error b:undo-error b:undo-error", Stuck, "b", "do of c"},
		{"a:cancel b:never a:undo", RolledBack, "a", "context canceled"},
		{"a:do b:cancel b:undo a:undo", RolledBack, "b", "context canceled"},
		{"a:save-error b:never a:undo", RolledBack, "a", "save of a"},
		{"a:do b:save-error c:never b:undo a:undo", RolledBack, "b", "save of b"},
		{"a:do b:do commit:save-error | c:never", Ambiguous, "commit", "save of commit"},
		{"a:do | b:error", Committed, "", ""}, // what is left is done by the next recovery
		{"a:do | b:cancel c:do", Committed, "", ""},
	} {
		t.Run(c.script, func(t *testing.T) {
			t.Parallel()
			s, ctx := parseScript(t, c.script)
			defer s.cancel()
			obs := &watcher{}
			res := Execute(ctx, s.plan, NewRun("r1", notes{}, s.store, obs))
			require.Equal(t, s.want, s.got)
			require.Equal(t, c.outcome, res.Outcome, res.Outcome.String())
			require.Equal(t, c.step, res.Step)
			if c.err == "" {
				require.NoError(t, res.Err)
			} else {
				require.EqualError(t, res.Err, c.err)
			}
			rec := s.store.last()
			switch res.Outcome {
			case Stuck:
				require.ErrorContains(t, res.UndoErr, "undo of "+c.step)
				require.Equal(t, journal.Back, rec.Phase)
				require.Equal(t, c.step, rec.Step)
				require.Equal(t, 1, rec.Attempts)
			case Ambiguous:
				require.Equal(t, journal.Forward, rec.Phase, "nothing may be written after it")
			case Committed:
				if len(res.After) > 0 { // what is left is done by the next recovery
					require.Equal(t, journal.Committed, rec.Phase)
					break
				}
				fallthrough
			default:
				phase := journal.Ended
				if len(res.After) > 0 {
					phase = journal.Committed // the next recovery goes on from here
				}
				require.Equal(t, phase, rec.Phase)
				require.Equal(t, "r1", rec.Run)
				require.Equal(t, "test", rec.Plan)
			}
			require.NotContains(t, obs.failed, "commit")
			for _, cause := range obs.undone {
				require.Equal(t, c.err, cause)
			}
		})
	}
}

// What a signal said is the cause of going back; a time limit that a step had of
// its own is that step's failure, and no cancellation.
func TestCancelled(t *testing.T) {
	t.Parallel()
	why := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	fails := func(err error) Plan[notes] {
		return Plan[notes]{Name: "p", Commit: 1, Steps: []Step[notes]{&fake{name: "a", do: func(context.Context, *Run[notes]) error { return err }}}}
	}
	own := fmt.Errorf("cannot fetch: %w", context.DeadlineExceeded)
	res := Execute(ctx, fails(own), NewRun("r", notes{}, &memory{}, nil))
	require.Equal(t, RolledBack, res.Outcome)
	require.Equal(t, own, res.Err)
	require.NoError(t, res.Cancelled)
	cancel(why)
	store := &memory{}
	res = Execute(ctx, fails(nil), NewRun("r", notes{}, store, nil))
	require.Equal(t, RolledBack, res.Outcome)
	require.Equal(t, why, res.Err)
	require.Equal(t, why, res.Cancelled)
	require.Equal(t, "told to stop", store.last().Cause)
}

// After the commit a step that fails is tried again by the next recovery, and
// those before it too.
func TestRecoverAfterCommit(t *testing.T) {
	t.Parallel()
	store := &memory{}
	var calls []string
	broken := true
	step := func(name string) Step[notes] {
		return &fake{name: name, do: func(context.Context, *Run[notes]) error {
			calls = append(calls, name)
			if name == "c" && broken {
				return errors.New("no space")
			}
			return nil
		}}
	}
	plan := Plan[notes]{Name: "p", Commit: 1, Steps: []Step[notes]{step("a"), step("b"), step("c"), step("d")}}
	res := Execute(t.Context(), plan, NewRun("r", notes{}, store, nil))
	require.Equal(t, Committed, res.Outcome)
	require.Len(t, res.After, 1)
	require.EqualError(t, res.After[0], "c: no space")
	require.True(t, store.last().Open())
	broken = false
	_, res = Recover(t.Context(), plan, store.last(), store, nil)
	require.Equal(t, Committed, res.Outcome)
	require.Empty(t, res.After)
	require.Equal(t, []string{"a", "b", "c", "b", "c", "d"}, calls)
	require.Equal(t, journal.Ended, store.last().Phase)
}

// Each begun step is on record before it begins.
func TestRecordComesFirst(t *testing.T) {
	t.Parallel()
	store := &memory{}
	var plan Plan[notes]
	for i, name := range []string{"a", "b", "c"} {
		plan.Steps = append(plan.Steps, &fake{name: name, do: func(context.Context, *Run[notes]) error {
			require.Equal(t, journal.Forward, store.last().Phase)
			require.Equal(t, i, store.last().Next)
			require.Equal(t, name, store.last().Step)
			return nil
		}})
	}
	plan.Commit = 2
	plan.Steps[2] = &fake{name: "c", do: func(context.Context, *Run[notes]) error {
		require.Equal(t, journal.Committed, store.last().Phase)
		return nil
	}}
	require.Equal(t, Committed, Execute(t.Context(), plan, NewRun("r", notes{}, store, nil)).Outcome)
}

// Going back, a journal that cannot be written stops nothing, and is told.
func TestSaveErrorWhileUndoing(t *testing.T) {
	t.Parallel()
	var undone []string
	store := &memory{save: func(rec journal.Record) error {
		if rec.Phase != journal.Forward {
			return errors.New("no space")
		}
		return nil
	}}
	step := func(name string, err error) Step[notes] {
		return &fake{name: name, do: func(context.Context, *Run[notes]) error { return err },
			undo: func(_ context.Context, run *Run[notes]) error {
				require.NoError(t, run.Save(), "an undo is not told of the journal's errors")
				undone = append(undone, name)
				return nil
			}}
	}
	plan := Plan[notes]{Name: "p", Steps: []Step[notes]{step("a", nil), step("b", errors.New("no"))}, Commit: 2}
	obs := &watcher{}
	res := Execute(t.Context(), plan, NewRun("r", notes{}, store, obs))
	require.Equal(t, RolledBack, res.Outcome)
	require.Equal(t, []string{"b", "a"}, undone)
	require.Len(t, obs.warned, 5, "two marks, two saves of steps, and the end: %q", obs.warned)
}

// A run that is stuck goes on where it stuck, as often as it is asked.
func TestStuckIsTriedAgain(t *testing.T) {
	t.Parallel()
	store := &memory{}
	mend, undone := false, 0
	plan := Plan[notes]{Name: "p", Commit: 2, Steps: []Step[notes]{
		&fake{name: "a", undo: func(context.Context, *Run[notes]) error {
			if !mend {
				return errors.New("not yet")
			}
			undone++
			return nil
		}},
		&fake{name: "b", do: func(context.Context, *Run[notes]) error { return errors.New("no") }},
	}}
	require.Equal(t, Stuck, Execute(t.Context(), plan, NewRun("r", notes{}, store, nil)).Outcome)
	for n := 2; n < 4; n++ {
		_, res := Recover(t.Context(), plan, store.last(), store, nil)
		require.Equal(t, Stuck, res.Outcome)
		require.EqualError(t, res.Err, "no", "the first cause is kept")
		require.Equal(t, n, store.last().Attempts)
	}
	mend = true
	_, res := Recover(t.Context(), plan, store.last(), store, nil)
	require.Equal(t, RolledBack, res.Outcome)
	require.Equal(t, 1, undone)
	require.False(t, store.last().Open())
}

// A committed record is only ever ended forward, an ended one is left alone, and
// one that does not fit the plan is refused with nothing touched.
func TestRecover(t *testing.T) {
	t.Parallel()
	facts, err := json.Marshal(notes{Names: map[string]string{"a": "x"}})
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		rec     journal.Record
		outcome Outcome
		calls   string
	}{
		{"committed", journal.Record{Plan: "p", Phase: journal.Committed, Next: 2, Step: "commit"}, Committed, "c:do"},
		{"forward in the first step", journal.Record{Plan: "p", Phase: journal.Forward, Next: 0, Step: "a"}, RolledBack, "a:undo"},
		{"forward", journal.Record{Plan: "p", Phase: journal.Forward, Next: 1, Step: "b"}, RolledBack, "b:undo a:undo"},
		{"back", journal.Record{Plan: "p", Phase: journal.Back, Next: 0, Step: "a"}, RolledBack, "a:undo"},
		{"rolled back", journal.Record{Plan: "p", Phase: journal.Ended}, RolledBack, ""},
		{"ended", journal.Record{Plan: "p", Phase: journal.Ended, Next: 3}, Committed, ""},
		{"of another plan", journal.Record{Plan: "q", Phase: journal.Forward, Next: 1, Step: "b"}, Stuck, ""},
		{"beyond the plan", journal.Record{Plan: "p", Phase: journal.Forward, Next: 4, Step: "b"}, Stuck, ""},
		{"before the plan", journal.Record{Plan: "p", Phase: journal.Forward, Next: -1, Step: "b"}, Stuck, ""},
		{"forward after the commit", journal.Record{Plan: "p", Phase: journal.Forward, Next: 2, Step: "c"}, Stuck, ""},
		{"of a step with another name", journal.Record{Plan: "p", Phase: journal.Forward, Next: 1, Step: "bb"}, Stuck, ""},
		{"of an unknown phase", journal.Record{Plan: "p", Phase: "sideways", Next: 1, Step: "b"}, Stuck, ""},
		{"of other facts", journal.Record{Plan: "p", Phase: journal.Forward, Next: 1, Step: "b", Facts: []byte(`{"names":7}`)}, Stuck, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var calls []string
			step := func(name string) Step[notes] {
				call := func(what string) func(context.Context, *Run[notes]) error {
					return func(_ context.Context, run *Run[notes]) error {
						require.Equal(t, "x", run.Facts.Names["a"])
						calls = append(calls, name+":"+what)
						return nil
					}
				}
				return &fake{name: name, do: call("do"), undo: call("undo")}
			}
			plan := Plan[notes]{Name: "p", Steps: []Step[notes]{step("a"), step("b"), step("c")}, Commit: 2}
			c.rec.Run = "r7"
			if c.rec.Facts == nil {
				c.rec.Facts = facts
			}
			store := &memory{}
			run, res := Recover(t.Context(), plan, c.rec, store, nil)
			require.Equal(t, c.outcome, res.Outcome, res.Outcome.String())
			require.Equal(t, c.calls, strings.Join(calls, " "))
			require.Equal(t, "r7", run.ID)
			if c.outcome == Stuck {
				require.ErrorContains(t, res.UndoErr, "cannot ")
			}
			if c.calls == "" {
				require.Empty(t, store.recs, "nothing is written where nothing is done")
			} else {
				require.Equal(t, journal.Ended, store.last().Phase)
			}
			if c.outcome == RolledBack && c.calls != "" {
				require.ErrorContains(t, res.Err, "cut off in step "+c.rec.Step)
			}
		})
	}
}

// A recovery is not stopped by a context that is cancelled already.
func TestRecoverCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	plan := Plan[notes]{Name: "p", Commit: 1, Steps: []Step[notes]{
		&fake{name: "a", undo: func(ctx context.Context, _ *Run[notes]) error { return ctx.Err() }},
	}}
	_, res := Recover(ctx, plan, journal.Record{Plan: "p", Phase: journal.Forward, Step: "a"}, &memory{}, nil)
	require.Equal(t, RolledBack, res.Outcome)
}

func TestOutcomeNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "committed, rolled back, stuck, ambiguous", fmt.Sprintf("%s, %s, %s, %s", Committed, RolledBack, Stuck, Ambiguous))
	obs := silent{}
	obs.StepDone("a", time.Second)
}
