package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/journal"
)

// The machine of the crash test: what steps have made in the world, and what of
// the journal is durable. It dies at the n-th instant: before and after each
// effect and each save.
type machine struct {
	world   []string // things that steps made, in order
	wrong   []string // what must never happen
	durable []byte   // the record, as JSON
	late    []byte   // of the mutant: saved, and durable only with the next effect
	lazy    bool
	left    int // instants until death; < 0 is never
	instant int // passed so far
	serial  int // no thing has the name of another
}

type died struct{}

func (m *machine) tick() {
	m.instant++
	if m.left == 0 {
		m.left = -1
		m.late = nil
		panic(died{})
	}
	if m.left > 0 {
		m.left--
	}
}

func (m *machine) Save(rec journal.Record) error {
	m.tick()
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if m.lazy {
		m.flush()
		m.late = data
	} else {
		m.durable = data
	}
	m.tick()
	return nil
}

func (m *machine) flush() {
	if m.late != nil {
		m.durable, m.late = m.late, nil
	}
}

func (m *machine) effect(f func()) {
	m.tick()
	f()
	m.tick()
	m.flush()
}

// mutation is a fault of the engine that the test must notice.
type mutation string

const (
	none         mutation = ""
	journalAfter mutation = "the journal becomes durable after the next effect"
	undoForward  mutation = "steps are undone in forward order"
	undoNotLast  mutation = "the step that failed is not undone"
)

const (
	crashSteps  = 4 // before the commit
	crashCommit = crashSteps
	crashAfter  = 2
)

// plan makes a plan of steps that make two things each, under names that only
// the facts know; a step of the number fails makes one and fails.
func (m *machine) plan(fails int, mut mutation) Plan[notes] {
	p := Plan[notes]{Name: "crash", Commit: crashCommit}
	for i := range crashSteps {
		p.Steps = append(p.Steps, &fake{name: fmt.Sprint("s", i),
			do: func(_ context.Context, run *Run[notes]) error { return m.do(i, fails, run) },
			undo: func(_ context.Context, run *Run[notes]) error {
				at := i
				if mut == undoForward {
					at = min(fails, crashSteps-1) - i
				}
				if mut == undoNotLast && i == fails {
					return nil
				}
				return m.undo(at, run)
			}})
	}
	for i := range crashAfter {
		p.Steps = append(p.Steps, &fake{name: fmt.Sprint("after", i),
			do: func(context.Context, *Run[notes]) error {
				thing := fmt.Sprint("after", i)
				if !slices.Contains(m.world, thing) {
					m.effect(func() { m.world = append(m.world, thing) })
				}
				return nil
			},
			undo: func(context.Context, *Run[notes]) error {
				m.wrong = append(m.wrong, "a step after the commit is undone")
				return nil
			}})
	}
	return p
}

func (m *machine) do(i, fails int, run *Run[notes]) error {
	for k := range 2 {
		m.serial++
		key, thing := fmt.Sprintf("%d.%d", i, k), fmt.Sprintf("thing%d of %d", m.serial, i)
		if run.Facts.Names == nil {
			run.Facts.Names = map[string]string{}
		}
		run.Facts.Names[key] = thing
		if err := run.Save(); err != nil {
			return err
		}
		m.effect(func() { m.world = append(m.world, thing) })
		if i == fails {
			return fmt.Errorf("step %d fails", i)
		}
	}
	return nil
}

// undo takes away what the facts name, newest first, and notices when a later
// step's things are still there.
func (m *machine) undo(i int, run *Run[notes]) error {
	for k := 1; k >= 0; k-- {
		thing := run.Facts.Names[fmt.Sprintf("%d.%d", i, k)]
		at := slices.Index(m.world, thing)
		if thing == "" || at < 0 {
			continue
		}
		if at != len(m.world)-1 {
			m.wrong = append(m.wrong, fmt.Sprintf("%s is undone before %s", thing, m.world[len(m.world)-1]))
		}
		m.effect(func() { m.world = slices.DeleteFunc(m.world, func(s string) bool { return s == thing }) })
	}
	return nil
}

// alive runs f; false is a death.
func alive(f func()) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, is := r.(died); !is {
				panic(r)
			}
		}
	}()
	f()
	return true
}

// crash dies at instant first of a run and at instant second of its recovery,
// recovers once more, and returns what is wrong then.
func crash(first, second, fails int, mut mutation) []string {
	m := &machine{left: first, lazy: mut == journalAfter}
	res := Result{Outcome: Outcome(-1)}
	ran := alive(func() {
		res = Execute(context.Background(), m.plan(fails, mut), NewRun("r", notes{}, m, nil))
	})
	for n := 0; n < 4 && !ran; n++ {
		if m.left = -1; n == 0 {
			m.left = second
		}
		var rec journal.Record
		if len(m.durable) > 0 {
			if err := json.Unmarshal(m.durable, &rec); err != nil {
				return []string{err.Error()}
			}
		}
		if !rec.Open() {
			break
		}
		committed := rec.Phase == journal.Committed
		ran = alive(func() { _, res = Recover(context.Background(), m.plan(fails, mut), rec, m, nil) })
		if ran && committed != (res.Outcome == Committed) {
			m.wrong = append(m.wrong, fmt.Sprintf("recovered from %s: %s", rec.Phase, res.Outcome))
		}
	}
	m.flush()
	begun := len(m.world)
	whole := 2*crashSteps + crashAfter
	if begun != 0 && begun != whole {
		m.wrong = append(m.wrong, fmt.Sprintf("neither undone nor whole: %q", m.world))
	}
	if fails < crashSteps && begun != 0 {
		m.wrong = append(m.wrong, fmt.Sprintf("a failed run left %q", m.world))
	}
	var end journal.Record
	_ = json.Unmarshal(m.durable, &end)
	if end.Open() {
		m.wrong = append(m.wrong, "the journal is still open")
	}
	return m.wrong
}

// everyInstant counts the instants of a run and of its recoveries, and dies at
// all of them. Of a mutant the first proof is enough.
func everyInstant(fails int, mut mutation) (points int, wrong []string) {
	for first := 0; ; first++ {
		wrong = append(wrong, crash(first, -1, fails, mut)...)
		if !reaches(first, -1, fails, mut) || mut != none && len(wrong) > 0 {
			return points, wrong
		}
		points++
		for second := 0; reaches(first, second, fails, mut); second++ {
			wrong = append(wrong, crash(first, second, fails, mut)...)
			points++
		}
	}
}

// reaches tells whether the instant exists.
func reaches(first, second, fails int, mut mutation) bool {
	m := &machine{left: first, lazy: mut == journalAfter}
	if alive(func() { Execute(context.Background(), m.plan(fails, mut), NewRun("r", notes{}, m, nil)) }) {
		return false
	}
	if second < 0 {
		return true
	}
	var rec journal.Record
	if len(m.durable) == 0 || json.Unmarshal(m.durable, &rec) != nil || !rec.Open() {
		return false
	}
	m.left = second
	return !alive(func() { Recover(context.Background(), m.plan(fails, mut), rec, m, nil) })
}

func TestDieAtEveryInstant(t *testing.T) {
	t.Parallel()
	total := 0
	for fails := range crashSteps + 1 { // the last: none fails
		points, wrong := everyInstant(fails, none)
		require.Empty(t, wrong, "step %d fails", fails)
		total += points
	}
	t.Logf("died at %d instants", total)
	require.Greater(t, total, 1000, "too few instants to mean anything")
}

// The test above is only worth something if it fails on a broken engine.
func TestMutantsAreCaught(t *testing.T) {
	t.Parallel()
	for _, mut := range []mutation{journalAfter, undoForward, undoNotLast} {
		t.Run(string(mut), func(t *testing.T) {
			t.Parallel()
			caught := 0
			for fails := range crashSteps + 1 {
				_, wrong := everyInstant(fails, mut)
				caught += len(wrong)
			}
			require.Positive(t, caught)
			t.Logf("caught %d times", caught)
		})
	}
}
