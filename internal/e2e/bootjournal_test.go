//go:build faultpoints

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// A journal that was spoilt after an upgrade was cut off in the middle of its
// install: the recovery is right, or it says that a person is needed and touches
// nothing. It never guesses.
func TestFaultSpoiltJournal(t *testing.T) {
	t.Parallel()
	if apart(t) {
		return
	}
	y := lab.NewTally(t, "crash")
	f := newFaultRun(t, lab.ShmDir(t))
	f.trace()
	file := func() string {
		found, err := filepath.Glob(filepath.Join(f.h.dir, "state", "*", "journal"))
		require.NoError(t, err)
		require.Len(t, found, 1)
		return found[0]
	}
	cutOff := func(at string) []byte {
		require.True(t, f.upgrade("kill:"+at, "JAILUP_FAULT_GUARD=off"), at)
		data, err := os.ReadFile(file())
		require.NoError(t, err)
		return data
	}
	// Journals of other moments, for a journal that contradicts the tree.
	armed := cutOff("1@do arm")
	f.h.must(0, "recovered", "recover", "--jail", f.j.Dir)
	committed := cutOff("1@do record")
	f.h.must(0, "recovered", "recover", "--jail", f.j.Dir)
	require.Equal(t, "new", f.whole(y, "committed"))
	f.h.must(0, "rolled-back", "rollback", "--jail", f.j.Dir, "--soak", "0s")
	const slot = 64 << 10
	newest := func(data []byte) int { // the slot of the newest record
		if binary.LittleEndian.Uint64(data[8:]) > binary.LittleEndian.Uint64(data[slot+8:]) {
			return 0
		}
		return slot
	}
	size := func(data []byte, at int) int { return int(binary.LittleEndian.Uint32(data[at+16:])) }
	type spoil struct {
		name string
		do   func(data []byte) []byte // nil: the file goes
		want int                      // the exit status; -1: 0 or 4
	}
	var cases []spoil
	cases = append(cases, spoil{"missing", nil, 4}, spoil{"empty", func([]byte) []byte { return []byte{} }, 4},
		spoil{"zeros", func(d []byte) []byte { return make([]byte, len(d)) }, 4},
		spoil{"of the step arm", func([]byte) []byte { return armed }, 4},
		spoil{"of a commit", func([]byte) []byte { return committed }, 4},
		spoil{"of a newer version", func(d []byte) []byte {
			at := newest(d)
			body := bytes.Replace(d[at+20:at+20+size(d, at)], []byte(`"version":1`), []byte(`"version":9`), 1)
			copy(d[at+20:], body)
			sum := sha256.Sum256(d[at : at+20+len(body)])
			copy(d[at+20+len(body):], sum[:])
			return d
		}, 4})
	for _, n := range []int{1, 8, 20, 21, 400, 1500, slot / 2, slot - 1, slot, slot + 1, slot + 20, slot + 700, 2*slot - 1} {
		cases = append(cases, spoil{fmt.Sprintf("cut at byte %d", n), func(d []byte) []byte { return d[:min(n, len(d)-1)] }, -1})
	}
	for _, side := range []string{"newest", "older"} {
		for _, n := range []int{0, 7, 8, 12, 16, 18, 20, 60, 500, -1, -33, 40000} {
			cases = append(cases, spoil{fmt.Sprintf("a bit flipped in byte %d of the %s record", n, side), func(d []byte) []byte {
				at := newest(d)
				if side == "older" {
					at = slot - at
				}
				off := n
				if n < 0 {
					off = 20 + size(d, at) + 32 + n
				}
				d[at+off%(len(d)-at)] ^= 1 << (uint(off) % 8)
				return d
			}, -1})
		}
	}
	y.Cases(6)
	y.Of(len(cases))
	ended := func(what string, mixed map[string]string, good []byte, c spoil) {
		r := f.h.run("recover", "--jail", f.j.Dir)
		now := stateless(t, f.j.Dir)
		switch {
		case r.Exit == 4:
			if d := lab.DiffTrees(mixed, now); len(d) > 0 {
				y.Mixed("%s: it was touched: %v", what, d)
			}
			hint, _ := r.Done["hint"].(string)
			require.True(t, strings.Contains(hint, f.j.Dir) && strings.Contains(r.err(), "cannot"), "%s: %s", what, r)
			require.NoError(t, os.WriteFile(file0(f), good, 0o600))
			y.Point("a person is asked")
			f.h.must(0, "recovered", "recover", "--jail", f.j.Dir)
		case r.Exit != 0 || c.want == 4:
			y.WrongExit("%s: %s", what, r)
		default:
			y.Point("old")
		}
		if d := lab.DiffTrees(f.old, stateless(t, f.j.Dir)); len(d) > 0 {
			y.Mixed("%s: not wholly old: %v", what, d)
		}
		f.answers(5*time.Second, what)
	}
	for i, c := range cases {
		if i >= 6 && !lab.Sampled(t, i) {
			continue
		}
		for _, at := range []string{"4@do install", "1@stopped", "2@do stop"} {
			if at != "4@do install" && (i < 6 || i%3 != 0) {
				continue
			}
			good := cutOff(at)
			mixed := stateless(t, f.j.Dir)
			what := c.name + ", killed at " + at
			if c.do == nil {
				require.NoError(t, os.Remove(file()))
			} else {
				require.NoError(t, os.WriteFile(file(), c.do(bytes.Clone(good)), 0o600))
			}
			ended(what, mixed, good, c)
		}
	}
}

// file0 is where the journal is, or was.
func file0(f *faultRun) string {
	found, _ := filepath.Glob(filepath.Join(f.h.dir, "state", "*", "runs"))
	require.Len(f.t, found, 1)
	return filepath.Join(filepath.Dir(found[0]), "journal")
}

// Of several jails that a crash left half done one is damaged and one is not
// mounted: the others are recovered, and the worst is told.
func TestFaultRecoverAll(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "crash")
	base := lab.ShmDir(t)
	var runs []*faultRun
	for _, name := range []string{"a", "b", "c"} {
		dir := filepath.Join(base, name)
		require.NoError(t, os.Mkdir(dir, 0o755))
		f := newFaultRun(t, dir)
		if len(runs) > 0 {
			f.h = runs[0].h
		}
		runs = append(runs, f)
	}
	y.Cases(3)
	h := runs[0].h
	before := map[string]bool{}
	for _, f := range runs {
		require.True(t, f.upgrade("kill:4@do install", "JAILUP_FAULT_GUARD=off"))
		all, err := filepath.Glob(filepath.Join(h.dir, "state", "*", "journal"))
		require.NoError(t, err)
		for _, j := range all {
			if !before[j] && f == runs[1] {
				require.NoError(t, os.Truncate(j, 100)) // b is damaged
			}
			before[j] = true
		}
	}
	away := runs[2].j.Dir + "-away"
	require.NoError(t, os.Rename(runs[2].j.Dir, away))
	require.NoError(t, os.Mkdir(runs[2].j.Dir, 0o755)) // as a mount point without its file system
	out, err := h.command("recover", "--all").CombinedOutput()
	text := string(out)
	var ee *exec.ExitError
	require.ErrorAs(t, err, &ee, text)
	if ee.ExitCode() != 4 {
		y.WrongExit("recover --all: %d: %s", ee.ExitCode(), text)
	}
	require.Contains(t, text, "the journal is damaged")
	require.Contains(t, text, "another folder is in its place")
	require.Contains(t, text, runs[2].j.Dir)
	require.Empty(t, lab.DiffTrees(runs[0].old, stateless(t, runs[0].j.Dir)), "the first is recovered")
	runs[0].answers(5*time.Second, "recover --all")
	y.Point("old")
	y.Point("a person is asked")
	entries, err := os.ReadDir(runs[2].j.Dir)
	require.NoError(t, err)
	require.Empty(t, entries, "what is in its place is not touched")
	require.NoError(t, os.Remove(runs[2].j.Dir))
	require.NoError(t, os.Rename(away, runs[2].j.Dir))
	h.must(0, "recovered", "recover", "--jail", runs[2].j.Dir)
	require.Empty(t, lab.DiffTrees(runs[2].old, stateless(t, runs[2].j.Dir)))
	runs[2].answers(5*time.Second, "mounted again")
	y.Point("old")
	// The story of the run goes on in its own record.
	records, err := filepath.Glob(filepath.Join(h.dir, "state", "*", "runs", "*", "events.jsonl"))
	require.NoError(t, err)
	told := 0
	for _, r := range records {
		text, err := os.ReadFile(r)
		require.NoError(t, err)
		told += strings.Count(string(text), `"step":"install"`) * strings.Count(string(text), "step.undo")
	}
	require.Positive(t, told)
}
