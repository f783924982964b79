//go:build faultpoints

package e2e

import (
	"encoding/json"
	"os"
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

// others is how long the server may be away after a kill. The promise is 5 s and
// its own start, which takes milliseconds here; what is waited for is longer, since
// other tests have the processors too, and what it took is told.
const others = 30 * time.Second

// kill -9 of the runner at every instant: the server answers again by itself,
// nobody typing anything, and the jail is wholly old or wholly new.
func TestKilledAtEveryInstant(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "crash")
	n := shardsOf(4)
	shards(t, n, func(t *testing.T, f *faultRun, shard int) {
		f.cold()
		all := distinct(f.passes(f.upgrading()...))
		f.toOld(y, f.whole(y, "upgraded"), "traced")
		require.GreaterOrEqual(t, len(all), 400, "too few points to mean anything")
		if shard == 0 {
			y.Cases(1)
			y.Of(len(all))
		}
		worst, missed, tried := time.Duration(0), 0, 0
		for i, p := range all {
			if !lab.Sampled(t, i/n) || i%n != shard {
				continue
			}
			tried++
			what := "upgrade killed at " + p.String()
			if p.early() {
				f.cold()
			}
			if !f.upgrade("kill:" + p.at("")) {
				missed++ // a run is not the same to the call: this one was shorter
				t.Logf("not reached: %s", p)
				f.toOld(y, f.whole(y, what), what)
				continue
			}
			worst = max(worst, f.answers(others, what))
			f.noGuardian(what)
			f.recovered(y, what)
			f.answers(others, what)
			is := f.whole(y, what)
			y.Point(is)
			f.toOld(y, is, what)
		}
		t.Logf("%d points; the longest time without an answer afterwards was %s", tried, worst)
		require.Less(t, missed, 2+tried/10)
	})
}

// rolls is what makes a jail new again and again, to roll it back.
func (f *faultRun) rolls(y *lab.Tally, toSnapshot bool) []string {
	f.t.Helper()
	f.toNew(y, f.whole(y, "before a rollback"), "before a rollback")
	if !toSnapshot {
		return f.rollingBack()
	}
	return f.rollingBack("--to", f.last().Snapshot)
}

// last is what the jail's next rollback goes by.
func (f *faultRun) last() (last struct{ Run, Snapshot string }) {
	f.t.Helper()
	files, err := filepath.Glob(filepath.Join(f.h.dir, "state/*/last.json"))
	require.NoError(f.t, err)
	require.Len(f.t, files, 1)
	text, err := os.ReadFile(files[0])
	require.NoError(f.t, err)
	require.NoError(f.t, json.Unmarshal(text, &last))
	return last
}

// fewer forgets the runs that the next rollback does not need: see fresh.
func (f *faultRun) fewer() {
	f.t.Helper()
	last := f.last().Run
	list, err := filepath.Glob(filepath.Join(f.h.dir, "state/*/runs/*"))
	require.NoError(f.t, err)
	for _, p := range list {
		if filepath.Base(p) != last {
			require.NoError(f.t, os.RemoveAll(p)) //nolint:forbidigo // of the test's own
		}
	}
}

// kill -9 of a rollback at every instant, by the changeset backwards and to a
// snapshot.
func TestRollbackIsKilled(t *testing.T) {
	t.Parallel()
	for name, snapshot := range map[string]bool{"exchange": false, "snapshot": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := lab.NewTally(t, "crash")
			n := shardsOf(2)
			shards(t, n, func(t *testing.T, f *faultRun, shard int) {
				all := distinct(f.passes(f.rolls(y, snapshot)...))
				require.Equal(t, "old", f.whole(y, "rolled back"))
				require.GreaterOrEqual(t, len(all), 100)
				if shard == 0 {
					y.Cases(1)
					y.Of(len(all))
				}
				is := "old"
				for i, p := range all {
					if i%n != shard || !lab.Sampled(t, i/n) {
						continue
					}
					what := "rollback killed at " + p.String()
					args := f.rolls(y, snapshot)
					f.fewer()
					r := f.run("kill:"+p.at(""), nil, args...)
					require.True(t, r.Killed || r.Exit == 0, "%s: %s", what, r)
					f.answers(others, what)
					f.noGuardian(what)
					f.recovered(y, what)
					f.answers(others, what)
					is = f.whole(y, what)
					if r.Killed {
						y.Point(is)
					}
				}
				f.toOld(y, is, "at the end")
			})
		})
	}
}

// cuts are instants of an upgrade after which a recovery has different things to do.
func cuts(all []place) (out []place) {
	for _, c := range []struct {
		step string
		part int // of hundred
	}{
		{"do stage", 60}, {"do arm", 50}, {"do install", 0}, {"do install", 50}, {"do install", 99},
		{"do start", 50}, {"do record", 20},
	} {
		if places := in(all, c.step); len(places) > 0 {
			out = append(out, places[(len(places)-1)*c.part/100])
		}
	}
	return out
}

// thin leaves out most of what is the same call again and again: the removal of
// the files of a stage or a copy, one by one.
func thin(all []place) (out []place) {
	same := 0
	for _, p := range all {
		if p.Op == "unlinkat" {
			if same++; same > 8 && same%8 > 1 {
				continue
			}
		}
		out = append(out, p)
	}
	return out
}

// The recovery is killed as well, at every instant, and ends all the same: by
// hand, and that of the guardian.
func TestRecoveryIsKilledToo(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "crash")
	n := shardsOf(4)
	shards(t, n, func(t *testing.T, f *faultRun, shard int) {
		list := cuts(f.passes(f.upgrading()...))
		f.toOld(y, f.whole(y, "traced"), "traced")
		for c, cut := range list {
			if c%n != shard {
				continue
			}
			y.Cases(1)
			killed := func() {
				require.True(t, f.upgrade("kill:"+cut.at(""), "JAILUP_FAULT_GUARD=off"), "%s", cut)
			}
			killed()
			all := thin(distinct(f.passes("recover", "--jail", f.j.Dir)))
			f.toOld(y, f.whole(y, "recovered"), "recovered")
			y.Of(len(all))
			for i, p := range all {
				if !lab.Sampled(t, i+c) {
					continue
				}
				killed()
				f.recoveryKilled(y, "upgrade killed at "+cut.String()+", recovery at "+p.String(), "kill:"+p.at(""))
			}
		}
	})
}

func (f *faultRun) recoveryKilled(y *lab.Tally, what, fault string) {
	f.t.Helper()
	r := f.run(fault, nil, "recover", "--jail", f.j.Dir)
	require.True(f.t, r.Killed || r.Exit == 0, "%s: %s", what, r)
	f.recovered(y, what)
	f.answers(others, what)
	is := f.whole(y, what)
	if r.Killed {
		y.Point(is)
	}
	f.toOld(y, is, what)
}

// The guardian's recovery is killed: what is left then a person, or the next verb,
// or the boot unit starts.
func TestFaultGuardianIsKilled(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "crash")
	n := shardsOf(2)
	shards(t, n, func(t *testing.T, f *faultRun, shard int) {
		install := in(f.passes(f.upgrading()...), "do install")
		f.toOld(y, f.whole(y, "traced"), "traced")
		cut := install[len(install)/2]
		file := filepath.Join(f.h.dir, "trace")
		require.NoError(t, os.Remove(file))
		require.True(t, f.upgrade("kill:"+cut.at(""), "JAILUP_FAULT_GUARDIAN_TRACE="+file))
		f.answers(others, "traced")
		f.noGuardian("traced")
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		all := thin(distinct(placesOf(string(text))))
		require.NotEmpty(t, all)
		if shard == 0 {
			y.Cases(1)
			y.Of(len(all))
		}
		for i, p := range all {
			if i%n != shard || !lab.Sampled(t, i/n) {
				continue
			}
			what := "upgrade killed at " + cut.String() + ", guardian at " + p.String()
			require.True(t, f.upgrade("kill:"+cut.at(""), "JAILUP_FAULT_GUARDIAN=kill:"+p.at("")), what)
			f.noGuardian(what)
			f.recovered(y, what)
			f.answers(others, what)
			is := f.whole(y, what)
			y.Point(is)
			f.toOld(y, is, what)
		}
	})
}

// kill -9 of what makes and removes snapshots: each that has a name is whole, the
// newest stays, and nothing is left over.
func TestSnapshotVerbsAreKilled(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"create", "prune"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			if apart(t) {
				return
			}
			y := lab.NewTally(t, "crash")
			y.Cases(1)
			f := newFaultRun(t, lab.ShmDir(t))
			f.warm()
			args := []string{"snapshot", verb, "--jail", f.j.Dir}
			if verb == "prune" {
				args = append(args, "--keep", "1")
			}
			make := func() {
				for len(f.snapshots()) < 3 {
					f.h.run("snapshot", "create", "--jail", f.j.Dir)
				}
			}
			if verb == "prune" {
				make()
			}
			all := thin(distinct(f.passes(args...)))
			y.Of(len(all))
			for i, p := range all {
				if !lab.Sampled(t, i) {
					continue
				}
				f.fresh()
				newest := ""
				if verb == "prune" {
					make()
					newest = slices.Max(f.snapshots())
				}
				what := "snapshot " + verb + " killed at " + p.String()
				r := f.run("kill:"+p.at(""), nil, args...)
				require.True(t, r.Killed || r.Exit == 0, "%s: %s", what, r)
				f.recovered(y, what)
				require.Equal(t, "old", f.whole(y, what))
				left := f.snapshots()
				if verb == "prune" {
					require.Contains(t, left, newest, what)
				}
				for _, id := range left {
					if v := f.h.run("snapshot", "verify", id, "--jail", f.j.Dir); v.Exit != 0 {
						y.Mixed("%s: snapshot %s is not whole: %s", what, id, v)
					}
				}
				if r.Killed {
					y.Point("old")
				}
			}
		})
	}
}

func (f *faultRun) snapshots() (ids []string) {
	list, err := filepath.Glob(filepath.Join(f.h.dir, "state/snapshots/*/meta.json"))
	require.NoError(f.t, err)
	for _, p := range list {
		if id := filepath.Base(filepath.Dir(p)); !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	return ids
}

// A signal that asks for an end, in each step, once and twice: the exit status is
// true to the disk. One that tells of a closed pipe is nothing to a run.
func TestFaultSignals(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "crash")
	n := shardsOf(4)
	shards(t, n, func(t *testing.T, f *faultRun, shard int) {
		var steps []place
		for _, p := range f.passes(f.upgrading()...) {
			if p.Op == "point" {
				steps = append(steps, p)
			}
		}
		f.toOld(y, f.whole(y, "traced"), "traced")
		i := 0
		for _, signals := range []string{"INT", "TERM", "HUP", "PIPE", "INT,INT", "TERM,HUP", "PIPE,PIPE"} {
			if shard == 0 {
				y.Cases(1)
				y.Of(len(steps))
			}
			for _, p := range steps {
				if i++; i%n != shard || !lab.Sampled(t, i/n) {
					continue
				}
				what := "SIG" + signals + " at " + p.String()
				r := f.run("signal:"+p.at("")+":"+signals, nil, f.upgrading()...)
				f.answers(others, what)
				f.noGuardian(what)
				is, _ := f.tree()
				late := slices.Contains([]string{`"do record"`, `"do prune"`}, p.Name)
				switch {
				case strings.HasPrefix(signals, "PIPE"), late && !strings.Contains(signals, ","):
					if r.Exit != 0 || is != "new" {
						y.WrongExit("%s: exit %d, and the jail is %s: %s", what, r.Exit, is, r)
					}
				case r.Killed && strings.Contains(signals, ","), r.Exit == 0 && is == "new":
				case r.Exit != 130 || is != "old":
					y.WrongExit("%s: exit %d, and the jail is %s: %s", what, r.Exit, is, r)
				}
				f.recovered(y, what)
				f.answers(others, what)
				is = f.whole(y, what)
				y.Point(is)
				f.toOld(y, is, what)
			}
		}
	})
}

// A child is killed, and not the run: the guardian, or what tests the new
// server's configuration in the sandbox.
func TestFaultOnlyAChildIsKilled(t *testing.T) {
	t.Parallel()
	if apart(t) {
		return
	}
	y := lab.NewTally(t, "crash")
	f := newFaultRun(t, lab.ShmDir(t))
	f.warm()
	for _, c := range []struct{ step, comm string }{{"verify", "jailup-guardian"}, {"rehearse", ""}} {
		y.Cases(1)
		for range 3 {
			what := "child killed in " + c.step
			args := []string{"upgrade", "nginx", "--jail", f.j.Dir, "--soak", "300ms"}
			cmd := f.h.command(args...)
			file, err := os.Create(filepath.Join(f.h.dir, "out"))
			require.NoError(t, err)
			cmd.Stdout = file
			require.NoError(t, cmd.Start())
			killed := false
			for began := time.Now(); time.Since(began) < 20*time.Second && !killed && exists("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/exe"); time.Sleep(time.Millisecond) {
				text, err := os.ReadFile(file.Name())
				require.NoError(t, err)
				if !strings.Contains(string(text), `"kind":"step.start","step":"`+c.step+`"`) {
					continue
				}
				for _, child := range children(cmd.Process.Pid) {
					if argv, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/cmdline"); err == nil && strings.HasPrefix(string(argv), c.comm) {
						killed = kill9(child) || killed
					}
				}
			}
			_ = cmd.Wait()
			file.Close()
			exit := cmd.ProcessState.ExitCode()
			if !killed {
				continue // it was too quick for us
			}
			f.answers(others, what)
			f.noGuardian(what)
			is, diff := f.tree()
			if exit == 0 && is != "new" || exit != 0 && (is != "old" || exit != 1 && exit != 3) {
				y.WrongExit("%s: exit %d, and the jail is %s %v", what, exit, is, diff)
			}
			f.recovered(y, what)
			is = f.whole(y, what)
			y.Point(is)
			f.toOld(y, is, what)
		}
	}
}

// children are the processes that a process has started and that still are.
func children(pid int) (out []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		_, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			out = append(out, n)
		}
	}
	return out
}

func kill9(pid int) bool { return unix.Kill(pid, unix.SIGKILL) == nil }
