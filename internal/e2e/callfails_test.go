//go:build faultpoints

package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// errnos are the errors with which calls fail.
var errnos = []string{"ENOSPC", "EIO", "EROFS", "EDQUOT", "EINTR"}

// A failure is one call that fails: once, or from then on for ever.
type failure struct {
	place
	errno, plus string
}

func (c failure) fault() string { return "error:" + c.at(c.plus) + ":" + c.errno }

func (c failure) String() string {
	often := "once"
	if c.plus != "" {
		often = "for ever"
	}
	return c.errno + " " + often + " from " + c.place.String()
}

var digits = regexp.MustCompile(`[0-9A-Za-z]{8,}|[0-9]+`)

// failures are the calls times the errors, once; and for ever with one of the errors,
// in turn: what fails for ever is not tried again whatever its name. Of calls that are
// not all each is made to fail with one error, once or for ever, in turn, and the first
// of each kind with all: of a step and call, and where the server may be down of a name
// but for its digits.
func failures(list []place, all func(place) bool) (out []failure) {
	return failuresBut(map[string]bool{}, list, all)
}

// failuresBut is failures; seen are the kinds that were met already.
func failuresBut(seen map[string]bool, list []place, all func(place) bool) (out []failure) {
	for i, p := range list {
		key := p.Step + p.Op
		if inWindow(p) {
			key += digits.ReplaceAllString(p.Name, "#")
		}
		every := all(p) || !seen[key]
		seen[key] = true
		for k, errno := range errnos {
			for often, plus := range []string{"", "+"} {
				if every && plus == "" || every && k == i%len(errnos) || k == i%len(errnos) && often == i/len(errnos)%2 {
					out = append(out, failure{p, errno, plus})
				}
			}
		}
	}
	return out
}

// inWindow tells whether a place is where the server may be down or the jail be
// touched, or after it.
func inWindow(p place) bool {
	return !p.early() && !slices.Contains([]string{"do rehearse", "do snapshot", "do choose", "undo stage", "undo snapshot"}, p.Step)
}

// told checks what a run says that did not end well: a cause and a hint, at most
// three lines, nothing that a terminal would obey.
func (f *faultRun) told(what string, r faulted) {
	f.t.Helper()
	text, _ := r.Done["error"].(string)
	hint, _ := r.Done["hint"].(string)
	if text == "" || hint == "" {
		f.t.Errorf("%s: exit %d without a cause or a hint: %q, %q", what, r.Exit, text, hint)
	}
	if strings.ContainsFunc(text+hint, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		f.t.Errorf("%s: control bytes: %q, %q", what, text, hint)
	}
}

// judge holds the exit status against the disk, and then has the fault gone and
// everything made whole. from and to are what the jail was and was to be.
func (f *faultRun) judge(y *lab.Tally, what string, r faulted, from, to string, master int) string {
	f.t.Helper()
	is, diff := f.tree()
	now := f.master()
	wrong := func(why string) {
		f.t.Helper()
		y.WrongExit("%s: exit %d, but %s; %v: %s", what, r.Exit, why, diff, r)
	}
	how := is
	switch r.Exit {
	case 0:
		if is != to || now == 0 {
			wrong("the jail is " + is + ", or the server down")
		}
	case 1:
		if is != from || now != master {
			wrong("the jail is " + is + ", or the server was restarted")
		}
	case 3:
		if is != from || now == 0 || now == master {
			wrong("the jail is " + is + ", or the server down, or never signalled")
		}
	case 4:
		how = "stuck, then "
	default:
		wrong("that is none of 0, 1, 3, 4")
	}
	if r.Exit != 0 {
		f.told(what, r)
	}
	f.noGuardian(what)
	f.recovered(y, what)
	f.answers(others, what)
	then := f.whole(y, what)
	if r.Exit == 4 {
		how += then
	} else if then != is {
		y.WrongExit("%s: exit %d, the jail was %s, and after recover it is %s", what, r.Exit, is, then)
	}
	y.Point(how)
	return then
}

// Each mutating call of an upgrade fails with each error, once and for ever, the
// undo included.
func TestCallsFailInUpgrade(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "call fails")
	n := shardsOf(8)
	shardsWith(t, n, sameLibraries, func(t *testing.T, f *faultRun, shard int) {
		f.cold()
		all := calls(f.passes(f.upgrading()...))
		f.toOld(y, f.whole(y, "upgraded"), "traced")
		list := failures(all, inWindow)
		if shard == 0 {
			y.Cases(2 * len(errnos))
			y.Of(len(list))
		}
		for i, c := range list {
			if i%n != shard || !lab.Sampled(t, i/n) {
				continue
			}
			if c.early() {
				f.cold()
			}
			what, master := "upgrade, "+c.String(), f.master()
			r := f.run(c.fault(), nil, f.upgrading()...)
			f.toOld(y, f.judge(y, what, r, "old", "new", master), what)
		}
	})
}

// The same of a rollback, by the changeset backwards and to a snapshot.
func TestCallsFailInRollback(t *testing.T) {
	t.Parallel()
	for name, snapshot := range map[string]bool{"exchange": false, "snapshot": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := lab.NewTally(t, "call fails")
			n := shardsOf(4)
			shardsWith(t, n, sameLibraries, func(t *testing.T, f *faultRun, shard int) {
				all := calls(f.passes(f.rolls(y, snapshot)...))
				is := f.whole(y, "rolled back")
				list := failures(thin(all), func(p place) bool { return inWindow(p) && !snapshot })
				if shard == 0 {
					y.Cases(2 * len(errnos))
					y.Of(len(list))
				}
				for i, c := range list {
					if i%n != shard || !lab.Sampled(t, i/n) {
						continue
					}
					args := f.rolls(y, snapshot)
					f.fewer()
					what, master := "rollback, "+c.String(), f.master()
					r := f.run(c.fault(), nil, args...)
					is = f.judge(y, what, r, "new", "old", master)
				}
				f.toOld(y, is, "at the end")
			})
		})
	}
}

// The same of a recovery: back from the middle of an install, and forward from
// after the commit. While the fault lasts it may say that it is stuck, and nothing
// else that is not so; after that it ends by itself.
func TestCallsFailInRecover(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "call fails")
	n := shardsOf(4)
	shardsWith(t, n, sameLibraries, func(t *testing.T, f *faultRun, shard int) {
		list := cuts(f.passes(f.upgrading()...))
		f.toOld(y, f.whole(y, "traced"), "traced")
		seen := map[string]bool{}
		for _, cut := range list {
			if cut.Step == "do record" || cut.Step == "do install" && cut.N > 10 {
				f.recoverFails(y, seen, cut, shard, n)
			}
		}
	})
}

func (f *faultRun) recoverFails(y *lab.Tally, seen map[string]bool, cut place, shard, n int) {
	f.t.Helper()
	killed := func() {
		f.t.Helper()
		require.True(f.t, f.upgrade("kill:"+cut.at(""), "JAILUP_FAULT_GUARD=off"), "%s", cut)
	}
	killed()
	all := calls(f.passes("recover", "--jail", f.j.Dir))
	end := f.whole(y, "recovered")
	f.toOld(y, end, "recovered")
	list := failuresBut(seen, thin(all), func(place) bool { return false })
	if end == "old" {
		// A full disk: nothing can be made or written, not even over what is there.
		for _, errno := range []string{"ENOSPC", "EDQUOT"} {
			list = append(list, failure{place{N: 1, When: "before", Op: "all that need room"}, errno, "space"})
		}
	}
	if shard == 0 {
		y.Cases(2 * len(errnos))
		y.Of(len(list))
	}
	for i, c := range list {
		if i%n != shard || !lab.Sampled(f.t, i/n) && c.plus != "space" {
			continue
		}
		killed()
		fault, what := c.fault(), "upgrade killed at "+cut.String()+", recovery, "+c.String()
		if c.plus == "space" {
			fault = "space:1:" + c.errno
		}
		r := f.run(fault, nil, "recover", "--jail", f.j.Dir)
		is, diff := f.tree()
		how := is
		switch {
		case r.Exit == 0 && is == end && f.master() != 0:
		case r.Exit == 4 && c.plus != "space", r.Exit == 1 && c.plus != "space":
			how = "stuck, then "
			f.told(what, r)
		default:
			y.WrongExit("%s: exit %d, and the jail is %s %v: %s", what, r.Exit, is, diff, r)
		}
		f.recovered(y, what)
		f.answers(others, what)
		then := f.whole(y, what)
		if how != is {
			how += then
		}
		y.Point(how)
		f.toOld(y, then, what)
	}
}

// What a recovery or a rollback could not remove of a stage when it ended, the next
// recovery removes, and not the stage that the next rollback needs.
func TestCallsFailAndTheStageIsSweptLater(t *testing.T) {
	t.Parallel()
	if apart(t) {
		return
	}
	y := lab.NewTally(t, "call fails")
	f := newFaultRun(t, lab.ShmDir(t))
	f.warm()
	recovering := []string{"recover", "--jail", f.j.Dir}
	ofStage := func(all []place) []place {
		return slices.DeleteFunc(calls(all), func(p place) bool { return p.Op != "unlinkat" })
	}
	list := cuts(f.passes(f.upgrading()...))
	f.toOld(y, f.whole(y, "traced"), "traced")
	first := in(list, "do install")[0]
	killed := func() {
		require.True(t, f.upgrade("kill:"+first.at(""), "JAILUP_FAULT_GUARD=off"), "%s", first)
	}
	killed()
	back := in(ofStage(f.passes(recovering...)), "undo stage")
	f.toOld(y, f.whole(y, "recovered"), "recovered")
	require.NotEmpty(t, back)
	rolls := in(ofStage(f.passes(f.rolls(y, false)...)), "do record")
	f.toOld(y, f.whole(y, "rolled back"), "rolled back")
	require.Greater(t, len(rolls), 2)
	// The first, one in the middle, the last: the folder's own.
	some := func(all []place) []place { return []place{all[0], all[len(all)/2], all[len(all)-1]} }
	y.Cases(3)
	y.Of(3 * (len(back) + len(rolls)))
	for k, errno := range []string{"EIO", "EDQUOT", "EROFS"} {
		killed()
		c := failure{some(back)[k], errno, ""}
		what := "recovery, " + c.String()
		r := f.run(c.fault(), nil, recovering...)
		require.Contains(t, []int{0, 1, 4}, r.Exit, "%s: %s", what, r)
		f.recovered(y, what)
		f.toOld(y, f.whole(y, what), what)
		y.Point("old")

		args := f.rolls(y, false)
		c = failure{some(rolls)[k], errno, ""}
		what = "rollback, " + c.String()
		r = f.run(c.fault(), nil, args...)
		require.Contains(t, []int{0, 4}, r.Exit, "%s: %s", what, r)
		f.recovered(y, what)
		f.toOld(y, f.whole(y, what), what)
		y.Point("old")
	}
	// An upgrade sweeps as well, and makes the folder anew. Of the jail that is upgraded
	// a recovery, which finds nothing open, leaves the stage.
	killed()
	c := failure{back[0], "EIO", ""}
	r := f.run(c.fault(), nil, recovering...)
	require.Zero(t, r.Exit, r.String())
	f.h.must(0, "upgraded", f.upgrading()...)
	require.Equal(t, "new", f.whole(y, "upgraded"))
	f.recovered(y, "kept")
	f.toOld(y, f.whole(y, "kept"), "kept")
}

// The same of the removal of old snapshots: what has a name is whole, the newest
// stays.
func TestCallsFailInPrune(t *testing.T) {
	t.Parallel()
	if apart(t) {
		return
	}
	y := lab.NewTally(t, "call fails")
	f := newFaultRun(t, lab.ShmDir(t))
	f.warm()
	args := []string{"snapshot", "prune", "--jail", f.j.Dir, "--keep", "1"}
	more := func() {
		for len(f.snapshots()) < 3 {
			f.h.run("snapshot", "create", "--jail", f.j.Dir)
		}
	}
	more()
	all := calls(f.passes(args...))
	list := failures(all, func(place) bool { return false })
	y.Cases(2 * len(errnos))
	y.Of(len(list))
	for i, c := range list {
		if !lab.Sampled(t, i) {
			continue
		}
		f.fresh()
		more()
		newest := slices.Max(f.snapshots())
		what := "snapshot prune, " + c.String()
		r := f.run(c.fault(), nil, args...)
		left := f.snapshots()
		require.Contains(t, left, newest, what)
		if r.Exit == 0 && len(left) != 1 || r.Exit != 0 && r.Exit != 1 {
			y.WrongExit("%s: exit %d, and there are %d snapshots: %s", what, r.Exit, len(left), r)
		}
		f.recovered(y, what)
		f.whole(y, what)
		for _, id := range left {
			if v := f.h.run("snapshot", "verify", id, "--jail", f.j.Dir); v.Exit != 0 {
				y.Mixed("%s: snapshot %s is not whole: %s", what, id, v)
			}
		}
		y.Point("old")
	}
}
