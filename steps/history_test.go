package steps

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/manifest"
)

// recorded writes the record of a run that tell tells, and returns its bytes.
func recorded(t *testing.T, stateDir, run string, tell func(*event.Stream)) []byte {
	t.Helper()
	dir := filepath.Join(stateDir, "runs", run)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	var b bytes.Buffer
	tell(event.New(run, nil, event.JSONLines(&b)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "events.jsonl"), b.Bytes(), 0o600))
	return b.Bytes()
}

// failedUpgrade is one whose server was not well.
func failedUpgrade(s *event.Stream) {
	s.RunStart(event.RunStart{Verb: "upgrade", Server: "nginx", Jail: "/j", Version: "dev"})
	for _, n := range []string{"preflight", "stop"} {
		s.StepStart(n)
		s.StepDone(n, time.Second, "")
	}
	s.StepStart("verify")
	s.Check("http 127.0.0.1:80", event.CheckOK, "200")
	s.Check("http 127.0.0.1:80", event.CheckFailed, "502\x1b[2J")
	s.Check("process", event.CheckOK, "")
	s.StepUndo("verify", "nginx is not well: 502")
	s.StepUndo("stop", "")
	s.Notice(event.Warning, "something else", "")
	ms := int64(120)
	s.RunDone(event.RunDone{Result: event.RolledBack, Exit: 3, Server: "nginx", Jail: "/j", From: map[string]string{"nginx": "1"},
		To: map[string]string{"nginx": "2"}, DowntimeMS: &ms, Error: "nginx is not well: 502", Hint: "mend it"})
}

func TestStoryOfAFailedRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const run = "20260102T030405Z-00ff00"
	recorded(t, dir, run, failedUpgrade)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "runs", run, "evidence"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "runs", run, "evidence/error-0.log"), []byte("x"), 0o600))
	st, err := ReadRun(dir, run, nil)
	require.NoError(t, err)
	require.Equal(t, "verify", st.Failed)
	require.Equal(t, "nginx is not well: 502", st.Why)
	require.Equal(t, []string{"verify", "stop"}, st.Undid)
	require.Equal(t, []event.Check{{Name: "http 127.0.0.1:80", Status: event.CheckFailed, Detail: "502"}}, st.Checks)
	require.Equal(t, []string{"something else"}, st.Notices)
	require.Equal(t, []string{"evidence/error-0.log"}, st.Files)
	require.Equal(t, event.RolledBack, st.Result)
	require.Equal(t, 3, *st.Exit)
	require.EqualValues(t, 120, *st.DowntimeMS)
	var states []string
	for _, s := range st.Steps {
		states = append(states, s.Name+" "+s.State)
	}
	require.Equal(t, []string{"preflight done", "stop done", "verify failed"}, states)
}

// A record cut off at any byte is read, and never told as one that has ended.
func TestTornRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const run = "20260102T030405Z-00ff00"
	whole := recorded(t, dir, run, failedUpgrade)
	file := filepath.Join(dir, "runs", run, "events.jsonl")
	done := bytes.LastIndexByte(bytes.TrimSpace(whole), '\n') + 1
	for n := 0; n < len(whole)-1; n += 7 {
		require.NoError(t, os.WriteFile(file, whole[:n], 0o600))
		st, err := ReadRun(dir, run, nil)
		require.NoError(t, err)
		require.Nil(t, st.Exit, n)
		require.Contains(t, []string{Undone, Died}, st.Result, n)
		require.Equal(t, "2026-01-02T03:04:05Z", runTime(run).Format(time.RFC3339))
		for _, s := range st.Steps {
			require.NotEmpty(t, s.State)
		}
	}
	require.Less(t, done, len(whole))
	require.NoError(t, os.Remove(file))
	runs, err := Runs(dir, nil)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	require.Equal(t, Died, runs[0].Result)
}

func TestWhatBecameOfARunThatWasCutOff(t *testing.T) {
	t.Parallel()
	begun := func(s *event.Stream) {
		s.RunStart(event.RunStart{Verb: "upgrade", Server: "nginx", Jail: "/j"})
		s.StepStart("install")
	}
	const run = "20260102T030405Z-00ff00"
	save := func(t *testing.T, dir string, phase journal.Phase) {
		j, err := journal.Open(dir)
		require.NoError(t, err)
		defer j.Close()
		require.NoError(t, j.Save(journal.Record{Run: run, Plan: "upgrade", Phase: phase, Step: "install", Cause: "a\x1b[31mcause"}))
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string)
		busy    *journal.Holder
		want    string
	}{
		"open":         {func(t *testing.T, dir string) { save(t, dir, journal.Forward) }, nil, CutOff},
		"going back":   {func(t *testing.T, dir string) { save(t, dir, journal.Back) }, nil, CutOff},
		"ended":        {func(t *testing.T, dir string) { save(t, dir, journal.Ended) }, nil, Undone},
		"no journal":   {func(*testing.T, string) {}, nil, Undone},
		"under way":    {func(t *testing.T, dir string) { save(t, dir, journal.Forward) }, &journal.Holder{Run: run}, UnderWay},
		"recovering":   {func(t *testing.T, dir string) { save(t, dir, journal.Back) }, &journal.Holder{Run: "x"}, UnderWay},
		"another runs": {func(t *testing.T, dir string) { save(t, dir, journal.Ended) }, &journal.Holder{Run: "x"}, Undone},
		"committed": {func(t *testing.T, dir string) {
			save(t, dir, journal.Ended)
			require.NoError(t, (&Last{Run: run, To: map[string]string{"nginx": "2"}}).save(dir))
		}, nil, Finished},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			recorded(t, dir, run, begun)
			c.prepare(t, dir)
			st, err := ReadRun(dir, run, c.busy)
			require.NoError(t, err)
			require.Equal(t, c.want, st.Result)
			if c.want == CutOff {
				require.Equal(t, "install", st.Failed)
				require.Equal(t, "acause", st.Why)
			}
		})
	}
}

// The journal tells of the last run only; what an older one that was cut off was to
// do its own folder tells.
func TestVersionsOfAnOlderRunThatWasCutOff(t *testing.T) {
	t.Parallel()
	const run = "20260102T030405Z-00ff00"
	dir := t.TempDir()
	recorded(t, dir, run, func(s *event.Stream) {
		s.RunStart(event.RunStart{Verb: "upgrade", Server: "nginx", Jail: "/j"})
		s.StepStart("install")
	})
	own := filepath.Join(dir, "runs", run)
	require.NoError(t, (&manifest.Manifest{Packages: map[string]string{"nginx": "2"}}).SaveAs(filepath.Join(own, "manifest.json")))
	require.NoError(t, (&manifest.Manifest{Packages: map[string]string{"nginx": "1"}}).SaveAs(filepath.Join(own, "manifest.old.json")))
	st, err := ReadRun(dir, run, nil)
	require.NoError(t, err)
	require.Equal(t, Undone, st.Result)
	require.Equal(t, map[string]string{"nginx": "1"}, st.From)
	require.Equal(t, map[string]string{"nginx": "2"}, st.To)
}

func TestRunsAreFoundByTheirBeginning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	none, err := FindRuns(dir, "2026")
	require.NoError(t, err)
	require.Empty(t, none)
	for _, r := range []string{"20260101T000000Z-aa", "20260101T000000Z-ab", "20260102T000000Z-aa"} {
		recorded(t, dir, r, failedUpgrade)
	}
	for prefix, want := range map[string]int{"20260101T000000Z-aa": 1, "20260101": 2, "2026": 3, "20260102": 1, "x": 0, "../": 0} {
		found, err := FindRuns(dir, prefix)
		require.NoError(t, err)
		require.Len(t, found, want, prefix)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.Nil(t, Busy(dir, "id"))
	lock, err := journal.Acquire(context.Background(), dir, "id", journal.Holder{Run: "r", Verb: "upgrade"}, 0)
	require.NoError(t, err)
	who := Busy(dir, "id")
	require.NotNil(t, who)
	require.Equal(t, "r", who.Run)
	require.Equal(t, os.Getpid(), who.PID)
	lock.Release()
	require.Nil(t, Busy(dir, "id"), "the file stays, the lock does not")
}

func TestHolds(t *testing.T) {
	t.Parallel()
	st := &unix.Stat_t{Dev: unix.Mkdev(8, 17), Ino: 5678}
	for line, want := range map[string]int{
		"1: FLOCK  ADVISORY  WRITE 1234 08:11:5678 0 EOF":    1234,
		"1: FLOCK  ADVISORY  WRITE 42 00:22:5678 0 EOF":      42, // btrfs: the process is known
		"1: FLOCK  ADVISORY  WRITE 43 00:22:5678 0 EOF":      0,
		"1: FLOCK  ADVISORY  READ 1234 08:11:5678 0 EOF":     0,
		"1: POSIX  ADVISORY  WRITE 1234 08:11:5678 0 EOF":    0,
		"1: -> FLOCK  ADVISORY  WRITE 1234 08:11:5678 0 EOF": 0, // waits
		"1: FLOCK  ADVISORY  WRITE 1234 08:11:567 0 EOF":     0,
		"": 0, "nonsense": 0, "1: FLOCK a WRITE x y z": 0,
	} {
		pid, ok := holds(strings.NewReader(line+"\n"), st, 42)
		require.Equal(t, want, pid, line)
		require.Equal(t, want != 0, ok, line)
	}
}

// What JSON documents hold are lists and objects, never null in their place.
func TestNoNullLists(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	recorded(t, dir, "20260101T000000Z-aa", func(*event.Stream) {})
	st, err := ReadRun(dir, "20260101T000000Z-aa", nil)
	require.NoError(t, err)
	for _, v := range []any{st, newStatus("/j", "", "nginx")} {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		var m map[string]any
		require.NoError(t, json.Unmarshal(data, &m))
		for key, value := range m {
			switch key {
			case "exit", "ended", "downtime_ms", "last_run", "interrupted", "busy":
			default:
				require.NotNil(t, value, key)
			}
		}
	}
}
