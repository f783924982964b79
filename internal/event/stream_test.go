package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

// golden compares got with a file of testdata, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// clock is a time that passes only when told.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock {
	return &clock{at: time.Date(2031, 2, 3, 4, 5, 6, 789e6, time.FixedZone("far", 7200))}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// list is a sink that keeps what it is told.
type list struct {
	mu     sync.Mutex
	events []Event
}

func (l *list) Emit(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *list) kinds() []Kind {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kinds []Kind
	for _, e := range l.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// tellAll tells one event of each kind.
func tellAll(s *Stream, c *clock) {
	s.RunStart(RunStart{Verb: "upgrade", Server: "nginx", Jail: "/srv/web", Version: "1.0"})
	s.StepStart("fetch")
	s.Progress("nginx.deb", Bytes, 10, 2000)
	c.pass(1500 * time.Millisecond)
	s.StepDone("fetch", 1500*time.Millisecond, "1 package")
	s.StepSkip("stage", "nothing to do")
	s.StepStart("verify")
	s.Check("http", CheckFailed, "502 <html>")
	s.Notice(Warning, "php needs a restart\nand so does cron", "jailup status")
	s.StepUndo("verify", "cannot verify nginx: 502")
	ms := int64(84)
	s.RunDone(RunDone{Result: RolledBack, Exit: 3, Server: "nginx", Jail: "/srv/web",
		From: map[string]string{"nginx": "1-1"}, To: map[string]string{"nginx": "2-1"},
		Snapshot: "s1", DowntimeMS: &ms, ChangedFiles: 12, Error: "cannot verify nginx: 502", Hint: "jailup explain r1"})
}

func TestJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := newClock()
	tellAll(New("r1", c.now, JSONLines(&out)), c)
	golden(t, "one_of_each_kind.jsonl", out.String())

	var back []Event
	require.NoError(t, Read(&out, func(e Event) bool { back = append(back, e); return true }))
	want := new(list)
	c = newClock()
	tellAll(New("r1", c.now, want), c)
	require.Equal(t, want.events, back, "what is read back is what was told")
}

// A run.done has every field, also where nothing is known.
func TestRunDoneIsWhole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	New("r1", newClock().now, JSONLines(&out)).RunDone(RunDone{})
	golden(t, "nothing_known.jsonl", out.String())
	var fields map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &fields))
	for _, name := range strings.Fields(`schema time run kind result exit server jail from to snapshot
		downtime_ms changed_files duration_ms error hint`) {
		require.Contains(t, fields, name)
	}
	require.Nil(t, fields["downtime_ms"])
	require.Equal(t, map[string]any{}, fields["from"])
}

func TestNothingAfterRunDone(t *testing.T) {
	t.Parallel()
	l, c := new(list), newClock()
	s := New("r1", c.now, l)
	s.StepStart("a")
	c.pass(3 * time.Second)
	s.RunDone(RunDone{Result: Upgraded})
	s.RunDone(RunDone{Result: Failed})
	s.Notice(Info, "late", "")
	require.Equal(t, []Kind{KindStepStart, KindRunDone}, l.kinds())
	require.Equal(t, Upgraded, l.events[1].Done.Result)
	require.Equal(t, int64(3000), l.events[1].Done.DurationMS)
}

func TestProgressIsPaced(t *testing.T) {
	t.Parallel()
	l, c := new(list), newClock()
	s := New("r1", c.now, l)
	s.StepStart("fetch")
	for i := int64(1); i <= 1000; i++ { // one second
		s.Progress("a", Bytes, i, 1000)
		s.Progress("b", Files, i, 0)
		c.pass(time.Millisecond)
	}
	s.Progress("a", Bytes, 1000, 1000)
	of := map[string][]int64{}
	for _, e := range l.events[1:] {
		require.Equal(t, "fetch", e.Step)
		of[e.Progress.What] = append(of[e.Progress.What], e.Progress.Done)
	}
	require.Equal(t, []int64{1, 101, 201, 301, 401, 501, 601, 701, 801, 901, 1000}, of["a"])
	require.Len(t, of["b"], 10)

	c.pass(-time.Hour) // the clock was set back: no silence for an hour
	s.Progress("b", Files, 2000, 0)
	require.Equal(t, int64(2000), l.events[len(l.events)-1].Progress.Done)
}

func TestHostileText(t *testing.T) {
	t.Parallel()
	const evil = "\x1b]0;x\a\u202e\u009b1mnginx\xff\x00"
	l := new(list)
	s := New(evil, newClock().now, l)
	s.RunStart(RunStart{evil, evil, evil, evil})
	s.StepStart(evil)
	s.StepDone(evil, 0, evil)
	s.StepUndo(evil, evil)
	s.StepSkip(evil, evil)
	s.Progress(evil, evil, -1, -1)
	s.Check(evil, evil, evil)
	s.Notice(evil, evil+strings.Repeat("\nx", 1000), evil)
	s.Emit(Event{Kind: evil + "x", Message: evil})
	s.RunDone(RunDone{Result: evil, Server: evil, Jail: evil, From: map[string]string{evil: evil},
		To: map[string]string{evil: evil}, Snapshot: evil, Error: evil, Hint: evil, Evidence: evil})
	require.Len(t, l.events, 10)
	for _, e := range l.events {
		line, err := json.Marshal(e)
		require.NoError(t, err)
		for _, bad := range []string{`\u001b`, `\u0000`, `\u0007`, "\u202e", "\u009b", "0;x"} {
			require.NotContains(t, string(line), bad)
		}
		require.LessOrEqual(t, strings.Count(e.Message, "\n"), maxLines)
	}
}

func TestEmitOfHalfAnEvent(t *testing.T) {
	t.Parallel()
	for _, k := range []Kind{KindRunStart, KindProgress, KindCheck, KindNotice, KindRunDone, "later.kind", ""} {
		l := new(list)
		New("r1", newClock().now, l).Emit(Event{Kind: k})
		for _, e := range l.events {
			_, err := json.Marshal(e)
			require.NoError(t, err)
		}
	}
}

type panics struct{}

func (panics) Emit(Event) { panic("no room\x1b[2J") }

type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) { f.n++; return 0, errors.New("no space left") }

func TestSinkThatFails(t *testing.T) {
	t.Parallel()
	l, f := new(list), new(failing)
	s := New("r1", newClock().now, panics{}, JSONLines(f), l)
	s.StepStart("a")
	s.Attach(panics{})
	s.StepStart("b")
	require.Equal(t, []Kind{KindNotice, KindStepStart, KindStepStart}, l.kinds())
	require.Equal(t, "cannot show events: no room", l.events[0].Message)
	require.Equal(t, 3, f.n)
}

func TestAttach(t *testing.T) {
	t.Parallel()
	early, late, c := new(list), new(list), newClock()
	s := New("r1", c.now, early)
	s.RunStart(RunStart{Verb: "upgrade"})
	s.Progress("a", Bytes, 1, 2)
	s.Attach(late)
	s.StepStart("fetch")
	require.Equal(t, []Kind{KindRunStart, KindProgress, KindStepStart}, early.kinds())
	require.Equal(t, []Kind{KindRunStart, KindStepStart}, late.kinds())
}

func TestNilStream(t *testing.T) {
	t.Parallel()
	var s *Stream
	tellAll(s, newClock())
	s.Attach(new(list))
	s.Emit(Event{})
	require.Empty(t, s.Run())
}

// stutter writes only half of every second line, and fails.
type stutter struct {
	bytes.Buffer
	n int
}

func (s *stutter) Write(p []byte) (int, error) {
	if s.n++; s.n%2 == 0 {
		n, _ := s.Buffer.Write(p[:len(p)/2])
		return n, errors.New("no space left")
	}
	return s.Buffer.Write(p)
}

func TestTornLineSpoilsNoOther(t *testing.T) {
	t.Parallel()
	out := new(stutter)
	s := New("r1", newClock().now, JSONLines(out))
	for range 6 {
		s.StepStart("a")
	}
	n := 0
	require.NoError(t, Read(&out.Buffer, func(Event) bool { n++; return true }))
	require.Equal(t, 3, n)
}

func TestRead(t *testing.T) {
	t.Parallel()
	const line = `{"schema":1,"time":"2031-01-01T00:00:00Z","run":"r","kind":"notice","message":"a\u001b[1mb"}` + "\n"
	n := 0
	each := func(e Event) bool { n++; require.Equal(t, "ab", e.Message); return n < 2 }
	require.NoError(t, Read(strings.NewReader("junk\n{}\n[]\n"+line+line+line), each))
	require.Equal(t, 2, n)
	require.Error(t, Read(strings.NewReader(strings.Repeat("x", longestLine+1)), each))
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer // not safe by itself: the stream sees to that
	s := New("r1", nil, JSONLines(&out))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range int64(100) {
				s.Progress("a", Files, i, 100)
				s.Notice(Info, "x", "")
			}
		})
	}
	s.Attach(new(list))
	wg.Wait()
	s.RunDone(RunDone{})
	n := 0
	require.NoError(t, Read(&out, func(e Event) bool {
		if e.Kind == KindNotice {
			n++
		}
		return true
	}))
	require.Equal(t, 800, n)
}
