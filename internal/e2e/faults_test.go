//go:build faultpoints

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// A fault run takes a jail made by hand through one kill after another. What
// must hold after each: the jail is wholly old or wholly new, the server
// answers, nothing outside was touched, nothing is left over.
type faultRun struct {
	t      *testing.T
	h      *host
	j      *lab.Jail
	old    map[string]string
	new    map[string]string
	canary string
	can    map[string]string
}

func newFaultRun(t *testing.T, base string) *faultRun {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	pair := lab.NginxPair(t)
	f := &faultRun{t: t}
	f.j = lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(base, "chroot")))
	require.NoError(t, os.WriteFile(filepath.Join(f.j.Dir, "srv/unknown"), []byte("mine"), 0o640))
	f.canary = filepath.Join(base, "canary")
	require.NoError(t, os.MkdirAll(filepath.Join(f.canary, "etc/nginx"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(f.canary, "etc/nginx/nginx.conf"), []byte("not the jail's\n"), 0o644))
	f.j.Start(t)
	f.h = newHost(t, pair.Old, pair.New)
	f.h.bin = program(t, true)
	f.old, f.can = stateless(t, f.j.Dir), lab.TreeDigest(t, f.canary)
	return f
}

// upgrade runs one upgrade with a fault and returns whether it was killed.
func (f *faultRun) upgrade(fault string, env ...string) (killed bool) {
	f.t.Helper()
	counter := filepath.Join(f.h.dir, "counter")
	os.Remove(counter)
	cmd := f.h.command("upgrade", "nginx", "--jail", f.j.Dir, "--soak", "0s")
	cmd.Env = append(cmd.Env, append(env, "JAILUP_FAULT="+fault, "JAILUP_FAULT_COUNTER="+counter)...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	require.Equal(f.t, -1, cmd.ProcessState.ExitCode(), "%s: %s", fault, out)
	return true
}

// trace returns the points of an undisturbed upgrade, and goes back.
func (f *faultRun) trace() []string {
	f.t.Helper()
	// The first one makes folders and fills the cache: it is not like the others.
	require.False(f.t, f.upgrade(""))
	f.h.must(0, "rolled-back", "rollback", "--jail", f.j.Dir, "--soak", "0s")
	file := filepath.Join(f.h.dir, "trace")
	require.False(f.t, f.upgrade("", "JAILUP_FAULT_TRACE="+file))
	data, err := os.ReadFile(file)
	require.NoError(f.t, err)
	f.new = stateless(f.t, f.j.Dir)
	require.NotEmpty(f.t, lab.DiffTrees(f.old, f.new))
	f.h.must(0, "rolled-back", "rollback", "--jail", f.j.Dir, "--soak", "0s")
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// answers waits until the server answers, and says how long that took.
func (f *faultRun) answers(within time.Duration, what string) time.Duration {
	f.t.Helper()
	began := time.Now()
	for {
		status, _, err := f.j.TryGet("/")
		if err == nil && status == 200 {
			return time.Since(began)
		}
		if time.Since(began) > within {
			f.t.Fatalf("%s: the server does not answer after %s: %v", what, within, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// whole checks the jail after a recovery and brings it back to old.
func (f *faultRun) whole(what string) {
	f.t.Helper()
	require.Empty(f.t, lab.DiffTrees(f.can, lab.TreeDigest(f.t, f.canary)), "%s: touched outside of the jail", what)
	now := stateless(f.t, f.j.Dir)
	if len(lab.DiffTrees(f.old, now)) == 0 {
		return
	}
	require.Empty(f.t, lab.DiffTrees(f.new, now), "%s: neither old nor new; against old: %v", what, lab.DiffTrees(f.old, now))
	f.h.must(0, "rolled-back", "rollback", "--jail", f.j.Dir, "--soak", "0s")
	require.Empty(f.t, lab.DiffTrees(f.old, stateless(f.t, f.j.Dir)), "%s: the rollback is not wholly old", what)
}

func (f *faultRun) noGuardian(what string) {
	f.t.Helper()
	lab.Eventually(f.t, 10*time.Second, what+": the guardian has gone", func() bool {
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		require.NoError(f.t, err)
		require.NotEmpty(f.t, lines)
		for _, file := range lines {
			text, err := os.ReadFile(file) // of one that ended meanwhile there is none
			if err == nil && strings.HasPrefix(string(text), "jailup-guardian") && strings.Contains(string(text), f.j.Dir) {
				return false
			}
		}
		return true
	})
}

// points picks what is killed: everything between arm and the end, and of what
// comes before (the server is up, and nothing of the jail is touched) each kind
// of call in each step, thinned out. JAILUP_FAULTS=all takes every point, and
// JAILUP_FAULTS=some three of five, in a pattern that meets calls of each kind
// before and after.
func points(trace []string) []int {
	mode := os.Getenv("JAILUP_FAULTS")
	all := mode == "all"
	var out []int
	step, seen := "", map[string]int{}
	for i, line := range trace {
		fields := strings.Fields(line)
		if fields[2] == "point" {
			step = line[strings.Index(line, `"`):]
		}
		key := step + fields[1] + fields[2]
		seen[key]++
		prepared := strings.Contains(step, "preflight") || strings.Contains(step, "fetch") || strings.Contains(step, "resolve") ||
			strings.Contains(step, "stage") || strings.Contains(step, "snapshot") || step == ""
		if all || !prepared || seen[key] <= 2 {
			out = append(out, i+1)
		}
	}
	if mode != "some" {
		return out
	}
	var some []int
	for i, n := range out {
		if i%5 < 3 {
			some = append(some, n)
		}
	}
	return some
}

// kill -9 of the runner at every instant: the server answers again by itself,
// nobody typing anything, and the jail is wholly old or wholly new. Two jails
// share the instants, for there are many.
func TestKilledAtEveryInstant(t *testing.T) {
	t.Parallel()
	for shard := range 2 {
		t.Run(strconv.Itoa(shard), func(t *testing.T) {
			t.Parallel()
			killEverywhere(t, shard, 2)
		})
	}
}

func killEverywhere(t *testing.T, shard, shards int) {
	f := newFaultRun(t, lab.ShmDir(t))
	trace := f.trace()
	chosen := points(trace)
	t.Logf("%d points, %d of them killed at", len(trace), len(chosen))
	require.GreaterOrEqual(t, len(chosen), 200, "too few points to mean anything")
	const others = 5 * time.Second // and its own start, which takes milliseconds here
	killed, tried, worst := 0, 0, time.Duration(0)
	for i := shard; i < len(chosen); i += shards {
		n := chosen[i]
		tried++
		what := fmt.Sprintf("killed at %s", trace[min(n, len(trace))-1])
		if !f.upgrade("kill:" + strconv.Itoa(n)) {
			f.whole(what) // a run is not the same to the call: this one was shorter
			continue
		}
		killed++
		worst = max(worst, f.answers(others, what))
		f.noGuardian(what)
		f.h.must(0, "recovered", "recover", "--jail", f.j.Dir)
		f.whole(what)
		f.answers(others, what)
	}
	t.Logf("%d kills; the longest time without an answer afterwards was %s", killed, worst)
	require.Greater(t, killed, tried*9/10)
}

// The recovery is killed as well, at every instant, and ends all the same.
func TestRecoveryIsKilledToo(t *testing.T) {
	t.Parallel()
	f := newFaultRun(t, lab.ShmDir(t))
	trace := f.trace()
	var install []int
	for i, line := range trace {
		if strings.Contains(line, `point "do install"`) || strings.Contains(line, `point "do start"`) {
			install = append(install, i+1)
		}
	}
	require.Len(t, install, 2)
	kills, thin := 0, 12
	if os.Getenv("JAILUP_FAULTS") == "some" {
		thin = 6
	}
	for _, n := range []int{install[0], (install[0] + install[1]) / 2, install[1] - 1, install[1] + 3} {
		for k := 1; ; k += 1 + k/thin {
			if !f.upgrade("kill:"+strconv.Itoa(n), "JAILUP_FAULT_GUARD=off") {
				t.Fatalf("point %d was not reached", n)
			}
			cmd := f.h.command("recover", "--jail", f.j.Dir)
			counter := filepath.Join(f.h.dir, "counter2")
			os.Remove(counter)
			cmd.Env = append(cmd.Env, "JAILUP_FAULT=kill:"+strconv.Itoa(k), "JAILUP_FAULT_COUNTER="+counter)
			out, err := cmd.CombinedOutput()
			what := fmt.Sprintf("upgrade killed at %d, recovery at %d", n, k)
			f.h.must(0, "recovered", "recover", "--jail", f.j.Dir)
			f.answers(time.Second, what)
			f.whole(what)
			if err == nil {
				break // the recovery has no more points
			}
			require.Equal(t, -1, cmd.ProcessState.ExitCode(), "%s: %s", what, out)
			kills++
		}
	}
	t.Logf("%d kills of a recovery", kills)
	require.Greater(t, kills, 50)
}

// The new version brings a configuration with one more port and is killed while
// it is watched: the guardian judges the old one by the old configuration, and a
// mistake that somebody made in a file of jailup's own meanwhile is no hindrance.
func TestFaultGuardianKnowsTheOldConfiguration(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.bin = program(t, true)
	main, err := os.ReadFile(filepath.Join(j.Dir, "etc/nginx/nginx.conf"))
	require.NoError(t, err)
	more := strings.Replace(string(main), "http {", "http {\n\tserver { listen 127.0.0.1:"+strconv.Itoa(lab.FreePort(t))+"; }", 1)
	h.debs = newHost(t, commonWith(t, pair, "etc/nginx/nginx.conf", more), pair.Old).debs
	conf := filepath.Join(h.dir, "config.yaml")
	require.NoError(t, os.WriteFile(conf, []byte("keep: 3\n"), 0o644))
	before := stateless(t, j.Dir)
	cmd, end := started(t, h, j, "verify", "--soak", "30s", "--config", conf)
	require.NoError(t, os.WriteFile(conf, []byte("keep: three\n"), 0o644))
	require.NoError(t, cmd.Process.Kill())
	end()
	f := &faultRun{t: t, h: h, j: j}
	f.noGuardian("killed in verify")
	f.answers(time.Second, "killed in verify")
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	r := h.must(0, "recovered", "recover", "--jail", j.Dir)
	for _, e := range r.Events {
		require.NotEqual(t, "step.undo", e["kind"], "the guardian has left something to do")
	}
}
