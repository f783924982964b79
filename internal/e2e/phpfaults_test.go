//go:build faultpoints

package e2e

import (
	"bufio"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// tracePHP is the list of the fault points of an undisturbed upgrade, after which
// the jail is as before.
func tracePHP(t *testing.T, s *stack) []string {
	t.Helper()
	file := filepath.Join(s.h.dir, "trace")
	for _, env := range []string{"", "JAILUP_FAULT_TRACE=" + file} { // the first one fills the cache
		s.h.env = []string{env, "GOGC=800"}
		s.upgrade(0, "upgraded")
		s.h.env = []string{"GOGC=800"}
		s.rollback()
		s.h.offerWhatIsNeeded()
	}
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// at is the number of the point that has the text.
func at(t *testing.T, trace []string, text string) int {
	t.Helper()
	for i, line := range trace {
		if strings.Contains(line, text) {
			return i + 1
		}
	}
	t.Fatalf("no point %s", text)
	return 0
}

// kill -9 of an upgrade of two servers: both come back by themselves, with nobody
// typing anything, and the page of PHP with them.
func TestFaultsOfTwoServers(t *testing.T) {
	t.Parallel()
	if apart(t) {
		return
	}
	s, _ := handStackOf(t, lab.Light(t, phpPair(t)))
	s.h.bin = program(t, true)
	trace := tracePHP(t, s)
	before, version := quiet(t, s.Dir), s.requireUp(t)
	f := &faultRun{t: t, h: s.h, j: s.Jail}
	y := lab.NewTally(t, "crash")
	y.Cases(1)
	socket := filepath.Join(s.Dir, s.FastCGI)
	whole := func(what string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			status, body, err := s.TryGet("/index.php")
			if err == nil && status == 200 && strings.Contains(body, "version "+version) {
				break
			}
			require.Less(t, time.Since(began), 10*time.Second, "%s: the page does not answer: %d %v; %s", what, status, err, guardianLog(t, s))
		}
		f.noGuardian(what)
		require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)), what)
		s.requireUp(t)
		r := s.h.must(0, "recovered", "recover", "--jail", s.Dir)
		require.Empty(t, r.steps("step.undo"), "%s: the guardian has left something to do", what)
		noStage(t, s.Dir)
		y.Point("old")
	}

	install, start := at(t, trace, `"do install"`), at(t, trace, `"do start"`)
	for what, n := range map[string]int{
		"both stopped":        at(t, trace, `point "stopped"`),
		"begin of install":    install + 8,
		"middle of install":   (install + start) / 2,
		"before both started": start + 1,
		"verify":              at(t, trace, `"do verify"`) + 6,
	} {
		killAfter(t, s, at(t, trace, `"do arm"`), n, what)
		whole(what)
	}

	// Between the two stops, and between the two starts, there is no such point: what
	// is seen from outside tells the instant.
	for what, now := range map[string]func(masters []int) bool{
		"between the stops": func(m []int) bool { return unix.Kill(m[1], 0) != nil },
		"between the starts": func(m []int) bool {
			return unix.Kill(m[0], 0) != nil && exists(socket)
		},
	} {
		masters := s.masters()
		cmd := s.h.command("upgrade", "nginx", "--jail", s.Dir, "--soak", "5s")
		killAt(t, cmd, func() bool { return now(masters) })
		whole(what)
	}
}

// guardianLog is what the guardian of the last run has said.
func guardianLog(t *testing.T, s *stack) string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(s.h.dir, "state/*/runs/*/guardian.log"))
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	text, err := os.ReadFile(slices.Max(logs))
	require.NoError(t, err)
	return string(text)
}

// killAfter runs an upgrade and kills it at point n of the trace. What is counted
// before step arm differs from run to run, by what lies in earlier snapshots: so the
// count is set when that step begins.
func killAfter(t *testing.T, s *stack, arm, n int, what string) {
	t.Helper()
	const far = 1 << 40 // no run gets there by counting
	counter := filepath.Join(s.h.dir, "counter")
	require.NoError(t, os.WriteFile(counter, make([]byte, 8), 0o600))
	cmd := s.h.command("upgrade", "nginx", "--jail", s.Dir, "--soak", "0s")
	cmd.Env = append(cmd.Env, "JAILUP_FAULT=kill:"+strconv.Itoa(far+n), "JAILUP_FAULT_COUNTER="+counter)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if !strings.Contains(lines.Text(), `"kind":"step.start","step":"arm"`) {
			continue
		}
		file, err := os.OpenFile(counter, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = file.Write(binary.NativeEndian.AppendUint64(nil, uint64(far+arm)))
		require.NoError(t, err)
		require.NoError(t, file.Close())
	}
	_ = cmd.Wait()
	require.Equal(t, -1, cmd.ProcessState.ExitCode(), what)
}

// steps are the names of the steps that a run began, with what they did.
func (r result) steps(kind string) []string {
	var out []string
	for _, e := range r.Events {
		if e["kind"] == kind {
			out = append(out, e["step"].(string))
		}
	}
	return out
}

// killAt runs a command and kills it as soon as now says yes.
func killAt(t *testing.T, cmd *exec.Cmd, now func() bool) {
	t.Helper()
	require.NoError(t, cmd.Start())
	deadline := time.Now().Add(time.Minute)
	for !now() {
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			t.Fatal("the instant did not come")
		}
		time.Sleep(100 * time.Microsecond)
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Equal(t, -1, cmd.ProcessState.ExitCode())
}
