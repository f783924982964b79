//go:build faultpoints

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/jailup/jailup/internal/sys"
)

// A fault run takes a jail made by hand through one fault after another. What
// must hold after each: the jail is wholly old or wholly new, the server
// answers, nothing outside was touched, nothing is left over.
//
// To make thousands of them affordable the packages are those of the pair without
// compression, only those that the upgrade needs are offered, everything lies in
// memory, and the looks of baseline and checks come every 10 ms instead of every
// 50 and 200: as many looks, the same verdicts.
type faultRun struct {
	t      *testing.T
	h      *host
	j      *lab.Jail
	old    map[string]string
	new    map[string]string
	canary string
	can    map[string]string
	mine   map[string]string // planted in state: folders, which no upgrade touches
	fourth bool              // the second wall stands at every fourth point only; it has tests of its own
	points int
}

// newFaultRun makes the jail base/chroot with the older nginx running in it, a
// canary beside it, and a place to call the program from, with fault points. In
// the jail lie files that no package knows: a hard-link group, attributes, a file
// in a folder of the state: globs, a folder with a time of its own.
func newFaultRun(t *testing.T, base string) *faultRun {
	t.Helper()
	return newFaultRunOf(t, base, lab.Light(t, lab.NginxPair(t)))
}

// sameLibraries is the pair with the large libraries of the older side on both: the
// server and some libraries change, in two thirds of the time.
func sameLibraries(t *testing.T) lab.Pair {
	t.Helper()
	pair := lab.Light(t, lab.NginxPair(t))
	pair.New = lab.ReplaceDebs(t, pair.New, lab.FindDeb(t, pair.Old, "libc6"), lab.FindDeb(t, pair.Old, "libssl3"))
	return pair
}

func newFaultRunOf(t *testing.T, base string, pair lab.Pair) *faultRun {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	f := &faultRun{t: t}
	f.j = lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(base, "chroot")))
	f.plant()
	f.canary = filepath.Join(base, "canary")
	require.NoError(t, os.MkdirAll(filepath.Join(f.canary, "etc/nginx"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(f.canary, "etc/nginx/nginx.conf"), []byte("not the jail's\n"), 0o644))
	f.j.Start(t)
	f.h = newHost(t, pair.Old, pair.New)
	f.h.bin = program(t, true)
	f.h.env = []string{"JAILUP_FAULT_LOOKS=10ms", "GOGC=800"}
	f.old, f.can = stateless(t, f.j.Dir), lab.TreeDigest(t, f.canary)
	return f
}

func (f *faultRun) plant() {
	f.t.Helper()
	at := func(p string) string { return filepath.Join(f.j.Dir, p) }
	require.NoError(f.t, os.WriteFile(at("srv/unknown"), []byte("mine"), 0o640))
	require.NoError(f.t, os.Link(at("srv/unknown"), at("srv/the-same")))
	if err := unix.Setxattr(at("srv/unknown"), "trusted.mine", []byte("kept"), 0); err != unix.ENOTSUP { // ramfs has none
		require.NoError(f.t, err)
	}
	require.NoError(f.t, os.MkdirAll(at("srv/odd"), 0o711))
	long := time.Unix(1_000_000_000, 123456789)
	require.NoError(f.t, os.Chtimes(at("srv/odd"), long, long))
	// Beside the files that an upgrade exchanges, and inside the state: globs.
	require.NoError(f.t, os.WriteFile(at("usr/sbin/mine"), []byte("#!/bin/sh\n"), 0o755))
	require.NoError(f.t, os.Chtimes(at("usr/sbin"), long, long))
	f.mine = map[string]string{"var/log/nginx/mine": "a log of mine\n", "tmp/mine": "state of mine\n"}
	for p, text := range f.mine {
		require.NoError(f.t, os.WriteFile(at(p), []byte(text), 0o600))
	}
}

// warm upgrades once and goes back, so that the cache is full, offers only those
// packages from then on that were needed, and learns what the new jail is like.
func (f *faultRun) warm() {
	f.t.Helper()
	f.h.must(0, "upgraded", "upgrade", "nginx", "--jail", f.j.Dir, "--soak", "0s")
	f.new = stateless(f.t, f.j.Dir)
	require.NotEmpty(f.t, lab.DiffTrees(f.old, f.new))
	f.h.must(0, "rolled-back", "rollback", "--jail", f.j.Dir, "--soak", "0s")
	f.h.offerWhatIsNeeded()
	f.fresh()
	require.Empty(f.t, lab.DiffTrees(f.old, stateless(f.t, f.j.Dir)))
}

// offerWhatIsNeeded takes away the packages of which none is in the cache.
func (h *host) offerWhatIsNeeded() {
	h.t.Helper()
	cached, err := filepath.Glob(filepath.Join(h.dir, "cache/sha256/*/*"))
	require.NoError(h.t, err)
	require.NotEmpty(h.t, cached)
	debs, err := filepath.Glob(filepath.Join(h.debs, "*.deb"))
	require.NoError(h.t, err)
	needed := map[string]bool{}
	for _, d := range debs {
		in, err := os.Open(d)
		require.NoError(h.t, err)
		sum, err := sys.HashFile(in)
		in.Close()
		require.NoError(h.t, err)
		if slices.ContainsFunc(cached, func(c string) bool { return filepath.Base(c) == sum }) {
			name, _, _ := strings.Cut(filepath.Base(d), "_")
			needed[name] = true
		}
	}
	for _, d := range debs {
		if name, _, _ := strings.Cut(filepath.Base(d), "_"); !needed[name] {
			require.NoError(h.t, os.Remove(d))
		}
	}
}

// fresh forgets earlier runs and snapshots, so that each run has the same points:
// what is left of others would be pruned by it. The jail must be the old one, with
// nothing of jailup's open.
func (f *faultRun) fresh() {
	f.t.Helper()
	f.points++
	for _, glob := range []string{"state/*/runs", "state/snapshots/*"} {
		list, err := filepath.Glob(filepath.Join(f.h.dir, glob))
		require.NoError(f.t, err)
		for _, p := range list {
			require.NoError(f.t, os.RemoveAll(p)) //nolint:forbidigo // of the test's own
		}
	}
}

// cold forgets everything, the cache included.
func (f *faultRun) cold() {
	f.t.Helper()
	for _, p := range []string{"state", "cache"} {
		require.NoError(f.t, os.RemoveAll(filepath.Join(f.h.dir, p))) //nolint:forbidigo // of the test's own
	}
}

// run calls the program with a fault (see faults_on.go of package sys; "" is
// none), for a minute at most.
func (f *faultRun) run(fault string, env []string, args ...string) faulted {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	plain := f.h.command(args...)
	cmd := exec.CommandContext(ctx, plain.Path, plain.Args[1:]...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(append(plain.Env, env...), "JAILUP_FAULT="+fault)
	if f.fourth && f.points%4 != 0 {
		cmd.Env = append(cmd.Env, "JAILUP_FAULT_WALL=off")
	}
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	began := time.Now()
	err := cmd.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		f.t.Fatalf("%s %v: %v", fault, args, err)
	}
	require.NoError(f.t, ctx.Err(), "%s %v hangs: %s", fault, args, out.String())
	r := faulted{result: result{Exit: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: talk.String(), Took: time.Since(began)}}
	r.result.parse()
	r.Killed = r.Exit == -1
	return r
}

type faulted struct {
	result
	Killed bool
}

// upgrade runs one upgrade with a fault and returns whether it was killed.
func (f *faultRun) upgrade(fault string, env ...string) (killed bool) {
	f.t.Helper()
	r := f.run(fault, env, f.upgrading()...)
	if r.Exit != 0 {
		require.True(f.t, r.Killed, "%s: %s", fault, r)
	}
	return r.Killed
}

func (f *faultRun) upgrading() []string {
	return []string{"upgrade", "nginx", "--jail", f.j.Dir, "--soak", "0s"}
}

func (f *faultRun) rollingBack(more ...string) []string {
	return append([]string{"rollback", "--jail", f.j.Dir, "--soak", "0s"}, more...)
}

// A place is one fault point, told by the step that it lies in: what a run does
// before and beside is not the same each time, what a step does is.
type place struct {
	Step string // "do install", "undo stop"; "" before the first one
	N    int    // the how many-th point after Step
	When string // "before", "after", "at"
	Op   string // "renameat2", "point"
	Name string // of the file, quoted
}

// at is the place as JAILUP_FAULT wants it; plus, where a fault stays: "+".
func (p place) at(plus string) string {
	if p.Step == "" {
		return strconv.Itoa(p.N) + plus
	}
	return strconv.Itoa(p.N) + plus + "@" + p.Step
}

func (p place) String() string {
	return fmt.Sprintf("%s, point %d: %s %s %s", p.Step, p.N, p.When, p.Op, p.Name)
}

// passes runs the program without a fault and lists the points that it passes.
func (f *faultRun) passes(args ...string) []place {
	f.t.Helper()
	return placesOf(f.traced(args...))
}

// trace is the list of the points of an undisturbed upgrade, one line each, after
// which the jail is as before.
func (f *faultRun) trace() []string {
	f.t.Helper()
	if f.new == nil {
		f.warm()
	}
	lines := strings.Split(strings.TrimSpace(f.traced(f.upgrading()...)), "\n")
	f.h.must(0, "rolled-back", f.rollingBack()...)
	return lines
}

func (f *faultRun) traced(args ...string) string {
	f.t.Helper()
	file := filepath.Join(f.h.dir, "trace")
	_ = os.Remove(file)
	r := f.run("", []string{"JAILUP_FAULT_TRACE=" + file, "JAILUP_FAULT_COUNTER=" + filepath.Join(f.h.dir, "counter")}, args...)
	require.Zero(f.t, r.Exit, r.String())
	_ = os.Remove(filepath.Join(f.h.dir, "counter"))
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return "" // it changed nothing
	}
	require.NoError(f.t, err)
	return string(data)
}

func placesOf(trace string) []place {
	var out []place
	step, n := "", 0
	for line := range strings.SplitSeq(strings.TrimSpace(trace), "\n") {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) < 4 {
			continue
		}
		n++
		out = append(out, place{step, n, fields[1], fields[2], fields[3]})
		if name, err := strconv.Unquote(fields[3]); err == nil && fields[2] == "point" && (strings.HasPrefix(name, "do ") || strings.HasPrefix(name, "undo ")) {
			step, n = name, 0
		}
	}
	return out
}

// calls are the places before a mutating call: where one can be made to fail.
func calls(all []place) []place {
	return slices.DeleteFunc(slices.Clone(all), func(p place) bool { return p.When != "before" })
}

// distinct leaves out what is the same instant twice: between the end of a call and
// the beginning of the next one of its step nothing happens to the disk. Where the
// server is stopped, changed, started and looked at both are kept, since there
// something else may have happened.
func distinct(all []place) (out []place) {
	for i, p := range all {
		if p.When == "after" && !inWindow(p) && i+1 < len(all) && all[i+1].Step == p.Step && all[i+1].When == "before" {
			continue
		}
		out = append(out, p)
	}
	return out
}

// in picks the places of some steps.
func in(all []place, steps ...string) []place {
	return slices.DeleteFunc(slices.Clone(all), func(p place) bool { return !slices.Contains(steps, p.Step) })
}

// early are the steps that also write to the cache, which is empty before them in
// the test.
func (p place) early() bool {
	return slices.Contains([]string{"", "do preflight", "do resolve", "do fetch", "do stage"}, p.Step)
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

// tree tells what the jail is: "old" or "new"; "" and the differences where it is
// neither.
func (f *faultRun) tree() (is string, diff []string) {
	f.t.Helper()
	now := stateless(f.t, f.j.Dir)
	if diff = lab.DiffTrees(f.old, now); len(diff) == 0 {
		return "old", nil
	}
	if f.new != nil && len(lab.DiffTrees(f.new, now)) == 0 {
		return "new", nil
	}
	return "", diff
}

// whole checks that the jail is wholly old or wholly new, that nothing else was
// touched and nothing is left over, and tells which it is. It counts, and ends
// the test where nothing that follows would mean anything.
func (f *faultRun) whole(y *lab.Tally, what string) string {
	f.t.Helper()
	if diff := lab.DiffTrees(f.can, lab.TreeDigest(f.t, f.canary)); len(diff) > 0 {
		y.Outside("%s: touched outside of the jail: %v", what, diff)
		f.t.FailNow()
	}
	is, diff := f.tree()
	if is == "" {
		y.Mixed("%s: neither old nor new; against old: %v", what, diff)
		f.t.FailNow()
	}
	for p, text := range f.mine {
		if got, err := os.ReadFile(filepath.Join(f.j.Dir, p)); err != nil || string(got) != text {
			y.Mixed("%s: %s is not as it was: %q %v", what, p, got, err)
			f.t.FailNow()
		}
	}
	if left := f.leftovers(is); len(left) > 0 {
		f.t.Errorf("%s: left over: %v", what, left)
		f.sweep()
	}
	return is
}

// leftovers lists what should not be there when no run is open: processes, stages
// but the one that the next rollback needs, temporary files and half copies.
func (f *faultRun) leftovers(is string) (left []string) {
	f.t.Helper()
	beside, err := os.ReadDir(filepath.Dir(f.j.Dir))
	require.NoError(f.t, err)
	for _, e := range beside {
		stages := strings.HasPrefix(e.Name(), ".jailup-stage-")
		runs, _ := os.ReadDir(filepath.Join(filepath.Dir(f.j.Dir), e.Name()))
		switch {
		case e.Name() == filepath.Base(f.j.Dir), e.Name() == filepath.Base(f.canary), e.Name() == filepath.Base(f.h.dir):
		case stages && is == "new" && len(runs) == 1:
		default:
			left = append(left, e.Name()+" beside the jail, which is "+is+fmt.Sprint(runs))
		}
	}
	err = filepath.WalkDir(f.h.dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(f.h.dir, p)
		if e.IsDir() && e.Name() == "tree" {
			return fs.SkipDir
		}
		if strings.Contains(e.Name(), ".tmp-") || strings.HasSuffix(e.Name(), ".partial") || strings.HasPrefix(rel, "cache/partial/") {
			left = append(left, rel)
		}
		return nil
	})
	require.NoError(f.t, err)
	return append(left, f.ours()...)
}

// sweep removes what leftovers found, so that each is told once.
func (f *faultRun) sweep() {
	for _, left := range f.leftovers("new") {
		if p := filepath.Join(f.h.dir, left); strings.Contains(left, "/") {
			_ = os.RemoveAll(p) //nolint:forbidigo // of the test's own
		}
	}
}

// ours are the processes of the program that work on this jail.
func (f *faultRun) ours() (list []string) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(f.t, err)
	require.NotEmpty(f.t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)    // of one that ended meanwhile there is none
		if err == nil && len(text) == 0 { // none yet, while it begins another program, or none at all
			exe, _ := os.Readlink(filepath.Join(filepath.Dir(file), "exe"))
			if lab.IsApart() && strings.HasPrefix(exe, f.h.bin) { // " (deleted)" where another test has built it anew
				list = append(list, file+" "+exe)
			}
			continue
		}
		if err == nil && strings.Contains(string(text), "jailup") && strings.Contains(string(text), "--jail\x00"+f.j.Dir+"\x00") {
			list = append(list, strings.ReplaceAll(file+" "+string(text), "\x00", " "))
		}
	}
	return list
}

// noGuardian waits until no process of the program is left.
func (f *faultRun) noGuardian(what string) {
	f.t.Helper()
	none := func() bool { return len(f.ours()) == 0 }
	lab.Eventually(f.t, 20*time.Second, what+": the guardian has gone", func() bool {
		if !none() {
			return false
		}
		time.Sleep(5 * time.Millisecond) // one that begins another program shows nothing of itself
		return none()
	})
}

// masters are the processes of the server that nobody of the server has started.
func (f *faultRun) master() int {
	all := f.j.Processes()
	for _, p := range all {
		if !slices.ContainsFunc(all, func(q lab.Process) bool { return q.PID == p.PPID }) {
			return p.PID
		}
	}
	return 0
}

// recovered runs recover twice: it is quick, and the second time it changes
// nothing, neither in the jail nor in what is remembered of it.
func (f *faultRun) recovered(y *lab.Tally, what string) {
	f.t.Helper()
	const limit = 30 * time.Second // the promise is 5 s; here other tests have the processors too
	// What was killed holds its lock for the moment in which the kernel takes it away.
	r := f.run("", nil, "recover", "--jail", f.j.Dir, "--lock-wait", "5s")
	if r.Exit != 0 || r.result.result() != "recovered" {
		y.Person("%s: recover does not make it whole: %s", what, r)
		f.t.FailNow()
	}
	if r.Took > limit {
		f.t.Errorf("%s: recover took %s", what, r.Took)
	}
	state, tree, master := f.remembered(), stateless(f.t, f.j.Dir), f.master()
	if again := f.run("", nil, "recover", "--jail", f.j.Dir); again.Exit != 0 {
		y.Person("%s: the second recover: %s", what, again)
		f.t.FailNow()
	}
	require.Empty(f.t, lab.DiffTrees(state, f.remembered()), "%s: the second recover changed what is remembered", what)
	require.Empty(f.t, lab.DiffTrees(tree, stateless(f.t, f.j.Dir)), "%s: the second recover changed the jail", what)
	require.Equal(f.t, master, f.master(), "%s: the second recover restarted the server", what)
}

// remembered is the state of jailup itself, but for the story.
func (f *faultRun) remembered() map[string]string {
	if !exists(filepath.Join(f.h.dir, "state")) {
		return nil
	}
	return lab.TreeDigest(f.t, filepath.Join(f.h.dir, "state"), "run/**", "snapshots/*/tree/**")
}

// toOld goes back where the jail is new.
func (f *faultRun) toOld(y *lab.Tally, is, what string) {
	f.t.Helper()
	if is == "new" {
		f.h.must(0, "rolled-back", f.rollingBack()...)
		if now := f.whole(y, what+", and then rolled back"); now != "old" {
			y.Mixed("%s: the rollback is not wholly old", what)
			f.t.FailNow()
		}
	}
	f.fresh()
}

// toNew goes forward where the jail is old.
func (f *faultRun) toNew(y *lab.Tally, is, what string) {
	f.t.Helper()
	if is == "old" {
		f.fresh()
		f.h.must(0, "upgraded", f.upgrading()...)
		if now := f.whole(y, what+", and then upgraded"); now != "new" {
			y.Mixed("%s: the upgrade is not wholly new", what)
			f.t.FailNow()
		}
	}
}

// apart is lab.Apart for a test that calls the programs.
func apart(t *testing.T) bool {
	t.Helper()
	program(t, false)
	program(t, true)
	return lab.Apart(t)
}

// shardsOf is the number of jails among which the points of a test are divided: n
// for all of them. Each costs some seconds, which a sample cannot win back.
func shardsOf(n int) int { return max(1, n/min(lab.OneIn(), 4)) }

// shards runs do several times at once, each on a jail of its own and among the
// processes of its own alone: what is around the call runs in each of them too.
func shards(t *testing.T, n int, do func(t *testing.T, f *faultRun, shard int)) {
	t.Helper()
	shardsWith(t, n, func(t *testing.T) lab.Pair { return lab.Light(t, lab.NginxPair(t)) }, do)
}

// shardsWith is shards with other packages.
func shardsWith(t *testing.T, n int, pair func(*testing.T) lab.Pair, do func(t *testing.T, f *faultRun, shard int)) {
	t.Helper()
	for shard := range n {
		t.Run(strconv.Itoa(shard), func(t *testing.T) {
			t.Parallel()
			if apart(t) {
				return
			}
			f := newFaultRunOf(t, lab.ShmDir(t), pair(t))
			f.warm()
			f.fourth = true
			do(t, f, shard)
		})
	}
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
	y := lab.NewTally(t, "crash")
	y.Cases(1)
	f.noGuardian("killed in verify")
	f.answers(time.Second, "killed in verify")
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	r := h.must(0, "recovered", "recover", "--jail", j.Dir)
	for _, e := range r.Events {
		require.NotEqual(t, "step.undo", e["kind"], "the guardian has left something to do")
	}
	y.Point("old")
}
