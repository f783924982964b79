package steps

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/manifest"
)

// The states of a run whose record has no end: it was cut off, by SIGKILL or by
// a power cut, or it is under way.
const (
	UnderWay = "under-way" // a living process holds the jail's lock for it
	CutOff   = "cut-off"   // nobody has ended yet what it began
	Undone   = "undone"    // cut off, and undone by a recovery
	Finished = "finished"  // cut off after its commit, and finished by a recovery
	Died     = "died"      // cut off, with nothing in the jail to take back
)

// RunRecord is what a run's own record tells of it. All text in it is clean.
type RunRecord struct {
	Run          string            `json:"run"`
	Verb         string            `json:"verb"`
	Server       string            `json:"server"`
	Jail         string            `json:"jail"`
	Program      string            `json:"jailup_version"`
	Started      time.Time         `json:"started"`
	Ended        *time.Time        `json:"ended"`  // nil where the record has no end
	Result       string            `json:"result"` // of run.done, or one of the states above
	Exit         *int              `json:"exit"`
	From         map[string]string `json:"from"`
	To           map[string]string `json:"to"`
	Snapshot     string            `json:"snapshot"`
	DowntimeMS   *int64            `json:"downtime_ms"`
	ChangedFiles int               `json:"changed_files"`
	DurationMS   int64             `json:"duration_ms"`
	Error        string            `json:"error"`
	Hint         string            `json:"hint"`
	Evidence     string            `json:"evidence,omitempty"`
}

// StepRecord is one step of a run's record.
type StepRecord struct {
	Name       string `json:"name"`
	State      string `json:"state"` // done, skipped, failed, cut-off
	DurationMS int64  `json:"duration_ms"`
	Detail     string `json:"detail,omitempty"`
}

// Story is a run's record in full.
type Story struct {
	RunRecord
	Steps   []StepRecord  `json:"steps"`
	Failed  string        `json:"failed_step"` // "" where none did
	Why     string        `json:"why"`
	Undid   []string      `json:"undone_steps"`
	Checks  []event.Check `json:"checks"` // those that are not well, as last seen
	Notices []string      `json:"notices"`
	Folder  string        `json:"folder"`
	Files   []string      `json:"files"` // kept in the folder for a person
}

// Runs returns the runs that were recorded in the jail's state folder, oldest
// first. busy is who holds the jail's lock now, nil for nobody. A run whose
// record cannot be read is listed all the same.
func Runs(stateDir string, busy *journal.Holder) ([]RunRecord, error) {
	names, err := runNames(stateDir)
	if err != nil {
		return nil, err
	}
	var out []RunRecord
	for _, n := range names {
		st, err := ReadRun(stateDir, n, busy)
		if err != nil {
			return nil, err
		}
		out = append(out, st.RunRecord)
	}
	// The ids of runs that began in one second are in no order.
	slices.SortStableFunc(out, func(a, b RunRecord) int { return a.Started.Compare(b.Started) })
	return out, nil
}

func runNames(stateDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, "runs")) // sorted: run ids begin with their time
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the runs of the jail: %w", err)
	}
	var out []string
	for _, d := range entries {
		if d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			out = append(out, d.Name())
		}
	}
	return out, nil
}

// FindRuns returns the ids of the jail's runs that begin with prefix.
func FindRuns(stateDir, prefix string) ([]string, error) {
	names, err := runNames(stateDir)
	if slices.Contains(names, prefix) {
		return []string{prefix}, err
	}
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) }), err
}

// ReadRun reads the record of one run. What a crash has cut off of it is told as
// cut off; a run without any record is one that was cut off at its beginning.
func ReadRun(stateDir, run string, busy *journal.Holder) (*Story, error) {
	dir := filepath.Join(stateDir, "runs", run)
	st := &Story{RunRecord: RunRecord{Run: event.Clean(run, 100), Started: runTime(run), From: map[string]string{}, To: map[string]string{}},
		Steps: []StepRecord{}, Undid: []string{}, Checks: []event.Check{}, Notices: []string{}, Files: []string{}, Folder: dir}
	f, err := os.Open(filepath.Join(dir, "events.jsonl"))
	switch {
	case err == nil:
		defer f.Close()
		t := teller{st: st}
		if err := event.Read(f, t.take); err != nil {
			return nil, fmt.Errorf("cannot read the record of run %s: %w", st.Run, err)
		}
		t.end()
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("cannot read the record of run %s: %w", st.Run, err)
	}
	if st.Result == "" {
		if err := st.fate(stateDir, run, busy); err != nil {
			return nil, err
		}
	}
	st.Files = append(st.Files, evidenceFiles(dir)...)
	return st, nil
}

// fate tells what became of a run whose record has no end: by the lock, by the
// journal, and by what is installed.
func (st *Story) fate(stateDir, run string, busy *journal.Holder) error {
	if busy != nil && busy.Run == run {
		st.Result = UnderWay
		return nil
	}
	rec, open, err := Interrupted(stateDir)
	if err != nil {
		return fmt.Errorf("cannot tell what became of run %s: %w", st.Run, err)
	}
	if rec.Run == run {
		if f, err := FactsOf(rec); err == nil && f.From != nil && f.To != nil {
			st.From, st.To = f.From, f.To
		}
	}
	if open && rec.Run == run && busy != nil {
		st.Result = UnderWay // it is being recovered
		return nil
	}
	if open && rec.Run == run {
		st.Result = CutOff
		st.Failed, st.Why = event.Clean(rec.Step, 100), event.Clean(rec.Cause, 1000)
		return nil
	}
	switch st.Verb {
	case "upgrade", "rollback":
		st.Result = Undone
		st.wanted()
	default:
		st.Result = Died
		return nil
	}
	if last, err := LoadLast(stateDir); err == nil && last != nil && last.Run == run {
		st.Result, st.From, st.To, st.Snapshot = Finished, last.From, last.To, last.Snapshot
	}
	return nil
}

// wanted tells from what to what a run went that has no end, by the manifests that
// it has kept: the journal tells it of the last run only.
func (st *Story) wanted() {
	if len(st.From)+len(st.To) > 0 {
		return
	}
	to, err := manifest.LoadFile(filepath.Join(st.Folder, "manifest.json"))
	if err != nil {
		return // it was cut off before it knew
	}
	st.To = to.Packages
	if from, err := manifest.LoadFile(filepath.Join(st.Folder, "manifest.old.json")); err == nil {
		st.From = from.Packages
	}
}

// evidenceFiles lists what was kept for a person to look at.
func evidenceFiles(dir string) []string {
	var out []string
	for _, pattern := range []string{"evidence/*", "rehearsal.txt", "checks.json", "guardian.log"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern)) // the patterns are well formed
		for _, f := range files {
			if info, err := os.Lstat(f); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
				rel, _ := filepath.Rel(dir, f)
				out = append(out, rel)
			}
		}
	}
	return out
}

// teller makes a story out of events.
type teller struct {
	st      *Story
	current int // index of the step under way, plus one
	began   time.Time
	checks  map[string]event.Check
	order   []string
}

func (t *teller) take(e event.Event) bool {
	st := t.st
	switch e.Kind {
	case event.KindRunStart:
		if e.Start != nil {
			st.Verb, st.Server, st.Jail, st.Program, st.Started = e.Start.Verb, e.Start.Server, e.Start.Jail, e.Start.Version, e.Time
		}
	case event.KindStepStart:
		st.Steps = append(st.Steps, StepRecord{Name: e.Step})
		t.current, t.began = len(st.Steps), e.Time
	case event.KindStepDone:
		t.close("done", e.Took, e.Message)
	case event.KindStepSkip:
		if t.current == 0 {
			st.Steps = append(st.Steps, StepRecord{Name: e.Step})
			t.current = len(st.Steps)
		}
		t.close("skipped", 0, e.Message)
	case event.KindStepUndo:
		if t.current > 0 {
			st.Failed = st.Steps[t.current-1].Name
			t.close("failed", e.Time.Sub(t.began), e.Message)
		}
		if st.Failed == "" {
			st.Failed = e.Step
		}
		if e.Message != "" && st.Why == "" {
			st.Why = e.Message
		}
		st.Undid = append(st.Undid, e.Step)
	case event.KindCheck:
		if e.Check != nil {
			t.check(*e.Check)
		}
	case event.KindNotice:
		if e.Level == event.Warning && len(st.Notices) < 50 {
			st.Notices = append(st.Notices, e.Message)
		}
	case event.KindRunDone:
		t.done(e)
		return false
	}
	return true
}

func (t *teller) check(c event.Check) {
	if t.checks == nil {
		t.checks = map[string]event.Check{}
	}
	if _, ok := t.checks[c.Name]; !ok {
		t.order = append(t.order, c.Name)
	}
	t.checks[c.Name] = c
}

// close ends the step under way. One that was skipped inside is also told as
// done afterwards: the first word counts.
func (t *teller) close(state string, took time.Duration, detail string) {
	if t.current == 0 {
		return
	}
	s := &t.st.Steps[t.current-1]
	s.State, s.DurationMS, s.Detail = state, max(took, 0).Milliseconds(), detail
	t.current = 0
}

func (t *teller) done(e event.Event) {
	st, d := t.st, e.Done
	at := e.Time
	st.Ended = &at
	st.Result, st.Exit = d.Result, &d.Exit
	st.From, st.To, st.Snapshot, st.DowntimeMS = d.From, d.To, d.Snapshot, d.DowntimeMS
	st.ChangedFiles, st.DurationMS, st.Error, st.Hint, st.Evidence = d.ChangedFiles, d.DurationMS, d.Error, d.Hint, d.Evidence
	if st.Server == "" {
		st.Server = d.Server
	}
	if st.Jail == "" {
		st.Jail = d.Jail
	}
	if t.current > 0 {
		if d.Exit == 0 {
			t.close("done", at.Sub(t.began), "")
		} else {
			if st.Failed == "" {
				st.Failed = st.Steps[t.current-1].Name
			}
			t.close("failed", at.Sub(t.began), "")
		}
	}
	if d.Error != "" && st.Why == "" {
		st.Why = d.Error
	}
}

func (t *teller) end() {
	t.close(CutOff, 0, "")
	for _, name := range t.order {
		if c := t.checks[name]; c.Status != event.CheckOK {
			t.st.Checks = append(t.st.Checks, c)
		}
	}
}
