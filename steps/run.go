package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/pipeline"
	"github.com/jailup/jailup/internal/sys"
)

// Outcome is how a run ended, as the disk says.
type Outcome struct {
	Result   string // of event.RunDone
	Err      error  // nil when it is done
	Facts    Facts
	Step     string // that failed
	Downtime *int64 // ms
	Evidence string
	// Whole says, where the run is stuck, that the jail is wholly old or wholly new
	// all the same: nothing needs to be kept from starting.
	Whole bool
	// Units are for init to start, see Env.InitUnits.
	Units   []string
	Verdict string // of the last checks: a checks.Verdict; "" where none were made
	Nothing bool   // a recovery found no run that was cut off
}

// story tells the engine's steps to the stream.
type story struct {
	s       *event.Stream
	failed  string
	nothing bool // the run ends because there is nothing to do: that is no failure
}

func (o *story) StepStart(name string) {
	sys.Point("do " + name)
	o.s.StepStart(name)
}
func (o *story) StepDone(name string, took time.Duration) { o.s.StepDone(name, took, "") }
func (o *story) StepFailed(name string, err error) {
	o.failed = name
	if errors.Is(err, ErrCurrent) {
		o.nothing = true
		o.s.StepDone(name, 0, err.Error())
	}
}
func (o *story) Warn(message string) { o.s.Notice(event.Warning, message, "") }
func (o *story) StepUndo(name string, cause error) {
	sys.Point("undo " + name)
	if o.nothing {
		return
	}
	why := ""
	if name == o.failed {
		why = cause.Error()
	}
	o.s.StepUndo(name, why)
}

// Execute runs a plan on the jail of e, whose lock the caller holds. What an
// earlier run left open must have been recovered before.
func Execute(ctx context.Context, e *Env, plan Plan, facts Facts) Outcome {
	if err := sys.MkdirAll(e.StateDir, 0o700); err != nil {
		return Outcome{Result: event.Failed, Err: e.NoRoom(err), Facts: facts}
	}
	j, err := journal.Open(e.StateDir)
	if err != nil {
		return Outcome{Result: event.Failed, Err: e.NoRoom(err), Facts: facts}
	}
	defer j.Close()
	if _, err := j.Load(); err != nil { // the sequence number goes on
		return Outcome{Result: event.Stuck, Err: stuck(e, err), Facts: facts}
	}
	if err := e.keepRecipes(); err != nil {
		return Outcome{Result: event.Failed, Err: e.NoRoom(err), Facts: facts}
	}
	run := pipeline.NewRun(e.Run, facts, j, &story{s: e.Events})
	res := pipeline.Execute(ctx, plan, run)
	if err := e.pruneRuns(context.WithoutCancel(ctx)); err != nil {
		e.note(event.Warning, err.Error(), "")
	}
	return e.outcome(run.Facts, res)
}

// outcome turns the engine's result into what is told, with the last word left
// to the disk.
func (e *Env) outcome(f Facts, res pipeline.Result) Outcome {
	if !f.Sealed {
		f.Snapshot = "" // it was dropped again
	}
	out := Outcome{Err: e.NoRoom(res.Err), Facts: f, Step: res.Step, Downtime: e.Downtime(), Evidence: e.evidence, Verdict: e.Verdict()}
	for _, err := range res.Left {
		e.note(event.Warning, "something is left over: "+err.Error(), "once the cause is gone: jailup recover --jail "+e.Root.Path())
	}
	for _, err := range res.After {
		e.note(event.Warning, "after the commit: "+err.Error(), "")
	}
	switch res.Outcome {
	case pipeline.Committed:
		e.disarm() // where a step after the commit failed before prune could
		out.Result, out.Err, out.Step = event.Upgraded, nil, ""
		if f.Verb == "rollback" {
			out.Result = event.RolledBack
		}
		return out
	case pipeline.Stuck:
		out.Result, out.Err = event.Stuck, stuckUndo(e, f, res)
		if v, err := e.State(&f); err == nil && (v.AllOld() || v.AllNew()) {
			out.Whole = true
			e.disarm()
		}
		return out
	case pipeline.Ambiguous:
		out.Result = event.Stuck
		out.Err = &Error{Kind: ErrStuck, Err: fmt.Errorf("cannot tell whether run %s is committed: %w", e.Run, res.Err),
			Hint: "nothing more was touched; decide it by: jailup recover --jail " + e.Root.Path()}
		return out
	}
	if f.Signalled {
		v, err := e.State(&f)
		if err == nil && !v.AllOld() {
			out.Result = event.Stuck
			out.Err = stuck(e, fmt.Errorf("%d paths are still new after %w", v.New, res.Err))
			return out
		}
	}
	out.Result = resultOf(res, f.Signalled)
	what := "nothing is changed"
	if f.Signalled {
		what = "the old version is back"
	}
	switch {
	case out.Result == event.Interrupted:
		out.Err = &Error{Kind: ErrInterrupted, Err: fmt.Errorf("interrupted in step %s; %s", res.Step, what)}
	case res.Cancelled != nil && errors.Is(res.Err, res.Cancelled):
		out.Err = &Error{Err: fmt.Errorf("cannot go on in step %s: %w; %s", res.Step, res.Cancelled, what), Hint: "give it more time: --timeout"}
	}
	if n := len(e.foreign); n > 0 {
		out.Err = &Error{Kind: kindOf(out.Err), Err: fmt.Errorf("%w; %d files that someone else wrote meanwhile are kept: %s", out.Err, n, e.foreign[0]), Hint: HintOf(out.Err)}
	}
	return out
}

// kindOf returns the kind of an Error, nil for others.
func kindOf(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return nil
}

func resultOf(res pipeline.Result, signalled bool) string {
	err := res.Err
	switch {
	case errors.Is(res.Cancelled, ErrInterrupted):
		return event.Interrupted
	case signalled:
		return event.RolledBack
	case errors.Is(err, ErrCurrent):
		return event.Current
	case errors.Is(err, ErrStale):
		return event.Stale
	case errors.Is(err, ErrSkipped):
		return event.Skipped
	}
	return event.Failed
}

// ErrInterrupted is the cause of a context that a signal cancelled.
var ErrInterrupted = errors.New("interrupted")

func stuck(e *Env, err error) error {
	return &Error{Kind: ErrStuck, Err: err, Hint: "look at " + e.StateDir + ", then: jailup recover --jail " + e.Root.Path()}
}

func stuckUndo(e *Env, f Facts, res pipeline.Result) error {
	cause := "the run was cut off"
	if res.Err != nil {
		cause = res.Err.Error()
	}
	state := "the jail is in an unknown state"
	if v, err := e.State(&f); err == nil {
		switch {
		case v.AllOld():
			state = "every file of the jail is the old one"
		case v.AllNew():
			state = "every file of the jail is the new one"
		default:
			state = fmt.Sprintf("of the jail's files %d are old and %d new", v.Old, v.New)
		}
	}
	return &Error{Kind: ErrStuck,
		Err:  fmt.Errorf("cannot undo %s: %w (it went back because %s); %s", res.Step, res.UndoErr, cause, state),
		Hint: "mend the cause, then: jailup recover --jail " + e.Root.Path()}
}

// Interrupted returns the record of a run that was cut off, or ok false.
func Interrupted(stateDir string) (rec journal.Record, ok bool, err error) {
	j, err := journal.OpenReadOnly(stateDir)
	if errors.Is(err, os.ErrNotExist) {
		return rec, false, lostJournal(stateDir, "")
	}
	if err != nil {
		return rec, false, err
	}
	defer j.Close()
	rec, err = j.Load()
	if err == nil {
		err = lostJournal(stateDir, rec.Run)
	}
	return rec, err == nil && rec.Open(), err
}

// lostJournal is an error where the record is of another run than it must be, or
// there is none: the last run of the jail has computed what it changes, which comes
// after its first record, and nobody has noted its end.
func lostJournal(stateDir, recorded string) error {
	runs, err := runNames(stateDir)
	if err != nil || len(runs) == 0 {
		return err
	}
	last := runs[len(runs)-1]
	if last == recorded {
		return nil
	}
	if retired, err := os.ReadFile(filepath.Join(stateDir, retiredFile)); err == nil && last <= strings.TrimSpace(string(retired)) {
		return nil
	}
	dir := filepath.Join(stateDir, "runs", last)
	if _, err := os.Stat(filepath.Join(dir, "changeset.json")); err != nil {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		return nil
	}
	defer f.Close()
	changes, ended := false, false
	err = event.Read(f, func(e event.Event) bool {
		changes = changes || e.Start != nil && (e.Start.Verb == "upgrade" || e.Start.Verb == "rollback")
		ended = ended || e.Kind == event.KindRunDone
		return true
	})
	if err != nil || ended || !changes {
		return nil
	}
	return fmt.Errorf("cannot tell how run %s ended: the journal is not of that run: %w", last, journal.ErrDamaged)
}

// retiredFile names the last run of a jail that is no more.
const retiredFile = "retired"

// doubted is rec where the record after it is lost. What that may have begun is
// undone as well: an undo accepts a step that never began.
func (e *Env) doubted(plan Plan, rec journal.Record) (journal.Record, error) {
	if rec.Phase != journal.Forward || rec.Next < 0 || rec.Next >= plan.Commit {
		return rec, nil
	}
	if rec.Next+1 == plan.Commit {
		// The lost one may be the commit. What comes after it tells.
		last, err := LoadLast(e.StateDir)
		if err != nil {
			return rec, err
		}
		if rec.Plan == "upgrade" && last != nil && last.Run == rec.Run || rec.Plan == "rollback" && last == nil {
			rec.Phase, rec.Next, rec.Step = journal.Committed, plan.Commit, "commit"
		}
		return rec, nil
	}
	rec.Next++
	rec.Step = plan.Steps[rec.Next].Name()
	f, err := FactsOf(rec)
	if err != nil {
		return rec, err
	}
	stopped := slices.IndexFunc(plan.Steps, func(s Step) bool { return s.Name() == "stop" })
	if rec.Next >= stopped {
		f.Signalled = true // with the lost record it may have been
		if rec.Facts, err = json.Marshal(f); err != nil {
			return rec, err
		}
	}
	rec.Cause = "the run was cut off in step " + plan.Steps[rec.Next-1].Name() + " or after it"
	return rec, nil
}

// contradiction is an error where the tree is not what the record says: of a run
// that is committed nothing may be old.
func (e *Env) contradiction(rec journal.Record) error {
	f, err := FactsOf(rec)
	if err != nil || rec.Phase != journal.Committed {
		return err
	}
	v, err := e.State(&f)
	if err != nil && rec.Plan == "upgrade" && e.stageGone(&f) {
		e.note(event.Warning, fmt.Sprintf("the stage %s is gone: the run is finished as its journal says, and jailup rollback cannot go back by it", event.Clean(f.Stage, 300)),
			"the snapshots stay: jailup snapshot list --jail "+event.Clean(e.Root.Path(), 300))
		return nil
	}
	if err != nil && rec.Plan == "upgrade" { // its stage stays, for the rollback
		return fmt.Errorf("cannot finish run %s: its journal says that it is committed, and the jail cannot be compared: %w", rec.Run, err)
	}
	if err == nil && !v.AllNew() {
		return fmt.Errorf("cannot finish run %s: its journal says that it is committed, and %d of its paths are old, %d new", rec.Run, v.Old, v.New)
	}
	return nil
}

// stageGone tells whether the run's stage, and nothing else that tells old from new,
// is missing: somebody needed the room. There is nothing then to go back to.
func (e *Env) stageGone(f *Facts) bool {
	if _, err := e.changes(); err != nil {
		return false
	}
	_, err := e.openStage(f)
	return errors.Is(err, os.ErrNotExist)
}

// mustBeOld keeps a stage from being removed as long as it holds files that the
// jail should have back.
func (e *Env) mustBeOld(f *Facts) error {
	v, err := e.State(f)
	if err != nil || v.AllOld() {
		return nil // without a changeset, or a stage, nothing was exchanged
	}
	return fmt.Errorf("cannot remove the stage: %d paths of the jail are new, and their old files lie there", v.New)
}

// Recover ends what an interrupted run of the jail began: back before its commit,
// forward after it. e.Run must be the record's run; e.Options what Facts leave
// out. It may be called again, and does nothing then.
func Recover(ctx context.Context, e *Env) Outcome {
	j, err := journal.Open(e.StateDir)
	if err != nil {
		return Outcome{Result: event.Stuck, Err: stuck(e, err)}
	}
	defer j.Close()
	rec, err := j.Load()
	if err != nil {
		return Outcome{Result: event.Stuck, Err: stuck(e, err)}
	}
	if !rec.Open() {
		return Outcome{Result: event.Recovered}
	}
	if f, err := FactsOf(rec); err == nil {
		e.Servers = f.Servers
		if f.Deadline > 0 {
			e.Options.Policy.Deadline = f.Deadline
		}
	}
	var plan Plan
	switch rec.Plan {
	case "upgrade":
		plan = Upgrade(e)
	case "rollback":
		plan = Rollback(e)
	default:
		return Outcome{Result: event.Stuck, Err: stuck(e, fmt.Errorf("cannot recover run %s: its plan %q is not known", rec.Run, rec.Plan))}
	}
	if rec.Doubt {
		e.note(event.Warning, "the journal is damaged in its last record or the one before; what both began is ended", "")
		if rec, err = e.doubted(plan, rec); err != nil {
			return Outcome{Result: event.Stuck, Err: stuck(e, err)}
		}
	}
	if err := e.contradiction(rec); err != nil {
		return Outcome{Result: event.Stuck, Err: stuck(e, err)}
	}
	run, res := pipeline.Recover(ctx, plan, rec, j, &story{s: e.Events})
	if res.Outcome == pipeline.Committed {
		if err := e.startAtBoot(ctx); err != nil {
			e.note(event.Warning, err.Error(), "jailup start "+e.Recipe.Name+" --jail "+e.Root.Path())
		}
	}
	out := e.outcome(run.Facts, res)
	if run.Facts.Signalled {
		out.Units = e.InitUnits(ctx)
	}
	switch {
	case out.Result == event.Stuck:
	case res.Outcome == pipeline.Committed && len(res.After) > 0:
		out.Result = event.Stuck
		out.Err = stuck(e, fmt.Errorf("cannot finish run %s, whose changes are in force: %w", rec.Run, res.After[0]))
	default:
		out.Result, out.Err = event.Recovered, nil
		if res.Outcome != pipeline.Committed {
			out.Facts.From, out.Facts.To = nil, nil // nothing came of it
		}
	}
	return out
}

// Retire ends what is remembered of a jail whose folder is gone, so that none of
// it is applied to a new one that takes its name: an open run, and what a
// rollback would need. Snapshots and the story stay.
func Retire(stateDir string) error {
	d, err := sys.OpenDir(stateDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	// What those runs began is nothing to the next jail.
	if runs, err := runNames(stateDir); err == nil && len(runs) > 0 {
		if err := sys.WriteFileAt(int(d.Fd()), retiredFile, []byte(runs[len(runs)-1]+"\n"), 0o600); err != nil {
			return err
		}
	}
	for _, name := range []string{"journal", "last.json"} {
		if err := sys.RemoveTree(int(d.Fd()), name); err != nil {
			return err
		}
	}
	return sys.FsyncDir(int(d.Fd()))
}

// FactsOf reads the facts of a record.
func FactsOf(rec journal.Record) (Facts, error) {
	var f Facts
	if len(rec.Facts) == 0 {
		return f, nil
	}
	err := json.Unmarshal(rec.Facts, &f)
	return f, err
}
