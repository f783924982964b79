//go:build faultpoints

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// Where and how the power is cut.
var powerCuts = []struct {
	name, fstype string
	flushed      bool // the log was written, the data was not
}{{"xfs", "xfs", false}, {"xfs flushed", "xfs", true}, {"ext4", "ext4", false}, {"ext4 flushed", "ext4", true}, {"btrfs", "btrfs", false}}

// The power fails at points all over what changes something: jail, stage, state
// and snapshots lie on the file system that is cut. After the reboot one recover
// ends it: the jail is wholly old or wholly new, a second one changes nothing, a
// snapshot that has a name is whole, and the next upgrade goes on from there.
func TestPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "loop", "mkfs.xfs", "mkfs.ext4", "mkfs.btrfs")
	for i, c := range powerCuts {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			p := newPowerRun(t, c.fstype, c.flushed)
			p.upgrades(i)
			p.rollbacks(i)
			p.recoveries(i)
			p.snapshots(i)
		})
	}
}

// powerRun is a jail, a host's state and snapshots on one file system.
type powerRun struct {
	*faultRun
	y       *lab.Tally
	mnt     string
	flushed bool
	whole   map[string]bool // snapshots that were verified
	n       int
}

func newPowerRun(t *testing.T, fstype string, flushed bool) *powerRun {
	mnt := lab.Loop(t, fstype, 400)
	f := newFaultRun(t, mnt)
	f.warm() // with a state of its own, which is not seen again; only the cache is
	f.h.extra = []string{"--cache-dir", filepath.Join(f.h.dir, "cache")}
	f.h.dir = filepath.Join(mnt, "host")
	require.NoError(t, os.Mkdir(f.h.dir, 0o755))
	f.h.env = append(f.h.env, "JAILUP_FAULT_GUARD=off")
	y := lab.NewTally(t, "power cut")
	y.Cases(1)
	return &powerRun{faultRun: f, y: y, mnt: mnt, flushed: flushed, whole: map[string]bool{}}
}

// spot is a point in a step: "7@do install".
type spot struct {
	step string
	n    int
}

func (s spot) String() string { return strconv.Itoa(s.n) + "@" + s.step }

// spots are the points of a trace by their steps, from the first step on that is
// named.
func spots(trace []string, from string) (out []spot) {
	step, n := "", 0
	for _, line := range trace {
		f := strings.SplitN(line, " ", 4)
		if f[2] == "point" {
			name, err := strconv.Unquote(f[3])
			if err == nil && (step != "" || name == from) {
				step, n = name, 0
			}
			continue
		}
		if step != "" {
			n++
			out = append(out, spot{step, n})
		}
	}
	return out
}

// take is this file system's share of the points, and of a sample its part.
func (p *powerRun) take(all []spot, i, every int) (out []spot) {
	p.y.Of(len(all) / every / len(powerCuts))
	for n, s := range all {
		if n%(every*len(powerCuts)) == i*every && lab.Sampled(p.t, n/(every*len(powerCuts))) {
			out = append(out, s)
		}
	}
	return out
}

// cutIn runs the program, which is killed at the point, and cuts the power.
func (p *powerRun) cutIn(s spot, args ...string) {
	p.t.Helper()
	lab.Sync(p.t, p.mnt)
	p.killIn(s, args...)
	p.cut(fmt.Sprintf("%s cut at %s", args[0], s))
}

func (p *powerRun) killIn(s spot, args ...string) {
	p.t.Helper()
	env := p.h.env
	counter := filepath.Join(lab.ShmDir(p.t), "counter")
	p.h.env = append(env[:len(env):len(env)], "JAILUP_FAULT=kill:"+s.String(), "JAILUP_FAULT_COUNTER="+counter)
	r := p.h.run(args...)
	p.h.env = env
	if r.Exit != -1 && r.Exit != 0 {
		p.y.WrongExit("%s cut at %s: exit %d: %s", args[0], s, r.Exit, r)
	}
}

// cut cuts the power, reboots, and looks.
func (p *powerRun) cut(what string) {
	p.t.Helper()
	p.j.Stop(p.t)
	if p.flushed {
		lab.CutPowerFlushed(p.t, p.mnt)
	} else {
		lab.CutPower(p.t, p.mnt)
	}
	r := p.h.run("recover", "--jail", p.j.Dir)
	switch {
	case r.Exit == 4:
		p.y.Person("%s: recover: %s", what, r)
	case r.Exit != 0:
		p.y.WrongExit("%s: recover: exit %d: %s", what, r.Exit, r)
	}
	undone := slices.ContainsFunc(r.Events, func(e map[string]any) bool { return e["kind"] == "step.undo" && e["step"] == "install" })
	_, _, err := p.j.TryGet("/")
	if undone && err != nil {
		p.y.Person("%s: recover has not started the server: %v", what, err)
	}
	if err != nil {
		p.j.Start(p.t) // its init would
	}
	p.judge(what)
	again := p.h.must(0, "recovered", "recover", "--jail", p.j.Dir)
	for _, e := range again.Events {
		if e["kind"] == "step.undo" || e["kind"] == "step.start" {
			p.y.Person("%s: the second recovery still does %v", what, e)
		}
	}
	p.verify(what)
	if p.n++; p.n%4 == 0 {
		r := p.h.run("upgrade", "nginx", "--jail", p.j.Dir, "--soak", "0s")
		if r.Exit != 0 || len(lab.DiffTrees(p.new, stateless(p.t, p.j.Dir))) > 0 {
			p.y.WrongExit("%s: the next upgrade: exit %d: %s", what, r.Exit, r)
		}
	}
}

// judge says which of the two the jail is.
func (p *powerRun) judge(what string) {
	p.t.Helper()
	if d := lab.DiffTrees(p.can, lab.TreeDigest(p.t, p.canary)); len(d) > 0 {
		p.y.Outside("%s: %v", what, d)
	}
	now := stateless(p.t, p.j.Dir)
	old, fresh := lab.DiffTrees(p.old, now), lab.DiffTrees(p.new, now)
	switch {
	case len(old) == 0:
		p.y.Point("old")
	case len(fresh) == 0:
		p.y.Point("new")
	default:
		p.y.Point("mixed")
		p.y.Mixed("%s: against old: %v; against new: %v", what, old, fresh)
	}
}

// verify looks at the snapshots that have a name.
func (p *powerRun) verify(what string) {
	p.t.Helper()
	all, err := filepath.Glob(filepath.Join(p.h.dir, "state/snapshots/*"))
	require.NoError(p.t, err)
	for _, s := range all {
		id := filepath.Base(s)
		if id[0] != '.' && !p.whole[id] {
			if r := p.h.run("snapshot", "verify", id, "--jail", p.j.Dir); r.Exit != 0 {
				p.y.Mixed("%s: snapshot %s: %s", what, id, r)
			}
			p.whole[id] = true
		}
	}
}

func (p *powerRun) isNew() bool { return len(lab.DiffTrees(p.old, stateless(p.t, p.j.Dir))) > 0 }

func (p *powerRun) toOld() {
	p.t.Helper()
	if p.isNew() {
		p.h.must(0, "rolled-back", "rollback", "--jail", p.j.Dir, "--soak", "0s")
	}
}

func (p *powerRun) toNew() {
	p.t.Helper()
	if !p.isNew() {
		p.h.must(0, "upgraded", "upgrade", "nginx", "--jail", p.j.Dir, "--soak", "0s")
	}
}

func (p *powerRun) upgrades(i int) {
	p.toNew() // the first one makes folders
	p.toOld()
	trace := p.trace()
	all := spots(trace, "do preflight")
	dense := slices.IndexFunc(all, func(s spot) bool { return s.step == "do arm" })
	require.Positive(p.t, dense)
	// From arm on each instant is met on one of the file systems: before a call is
	// what was after the one before it.
	chosen := append(p.take(all[:dense], i, max(1, dense/30)), p.take(all[dense:], i, 2)...)
	for _, s := range chosen {
		p.toOld()
		p.cutIn(s, "upgrade", "nginx", "--jail", p.j.Dir, "--soak", "0s")
	}
	p.t.Logf("upgrade: %d points, %d cuts", len(all), len(chosen))
}

// traceOf returns the points of a call that does all it can.
func (p *powerRun) traceOf(args ...string) []string {
	p.t.Helper()
	file := filepath.Join(lab.ShmDir(p.t), "trace")
	env := p.h.env
	p.h.env = append(env[:len(env):len(env)], "JAILUP_FAULT_TRACE="+file)
	r := p.h.run(args...)
	p.h.env = env
	require.Zero(p.t, r.Exit, r.String())
	text, err := os.ReadFile(file)
	require.NoError(p.t, err)
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (p *powerRun) rollbacks(i int) {
	back := []string{"rollback", "--jail", p.j.Dir, "--soak", "0s"}
	p.toNew()
	all := spots(p.traceOf(back...), "do arm")
	chosen := p.take(all, i, 4)
	for _, s := range chosen {
		p.toNew()
		p.cutIn(s, back...)
	}
	p.t.Logf("rollback: %d points, %d cuts", len(all), len(chosen))
}

// recoveries cuts the power in the recovery of an upgrade that was killed.
func (p *powerRun) recoveries(i int) {
	up := []string{"upgrade", "nginx", "--jail", p.j.Dir, "--soak", "0s"}
	recover := []string{"recover", "--jail", p.j.Dir}
	for _, at := range []spot{{"do install", 14}, {"do prune", 3}} {
		p.toOld()
		p.killIn(at, up...)
		trace := p.traceOf(recover...)
		first := ""
		for _, line := range trace {
			if f := strings.SplitN(line, " ", 4); f[2] == "point" && first == "" {
				first, _ = strconv.Unquote(f[3])
			}
		}
		require.NotEmpty(p.t, first)
		all := spots(trace, first)
		for _, s := range p.take(all, i, 5) {
			p.toOld()
			lab.Sync(p.t, p.mnt)
			p.killIn(at, up...)
			p.killIn(s, recover...)
			p.cut(fmt.Sprintf("upgrade killed at %s, recovery cut at %s", at, s))
		}
	}
}

// snapshots cuts the power where a snapshot is made and where some are removed.
func (p *powerRun) snapshots(i int) {
	p.toOld()
	for _, args := range [][]string{{"snapshot", "create", "--jail", p.j.Dir}, {"snapshot", "prune", "--jail", p.j.Dir, "--keep", "2"}} {
		trace := p.traceOf(args...)
		every := max(1, len(trace)/15) * len(powerCuts)
		p.y.Of((len(trace) - i) / every)
		for n := 1 + i; n <= len(trace); n += every {
			if !lab.Sampled(p.t, n) {
				continue
			}
			for range 3 { // something to prune
				p.h.must(0, "saved", "snapshot", "create", "--jail", p.j.Dir)
				if args[1] != "prune" {
					break
				}
			}
			lab.Sync(p.t, p.mnt)
			env := p.h.env
			p.h.env = append(env[:len(env):len(env)], "JAILUP_FAULT=kill:"+strconv.Itoa(n), "JAILUP_FAULT_COUNTER="+filepath.Join(lab.ShmDir(p.t), "counter"))
			p.h.run(args...)
			p.h.env = env
			p.whole = map[string]bool{}
			p.cut(fmt.Sprintf("snapshot %s cut at %d", args[1], n))
			p.toOld()
		}
	}
}
