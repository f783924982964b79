//go:build faultpoints

package e2e

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/sys"
)

// Every sync that a run makes is needed, and none is missing: the model finds
// nothing to blame in what the program does, and something as soon as any one of
// its syncs is left out.
func TestPowerCutEverySyncIsNeeded(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "power cut")
	for _, s := range stories(t) {
		y.Cases(1)
		bad := s.judge(0)
		for _, b := range bad {
			t.Errorf("%s: %s", s.name, b)
		}
		syncs := s.syncs()
		// Folders of the cache are made by several hands at once: one's sync may be
		// another's as well. Without all of them something is missing.
		shared := func(_ int, c sys.Call) bool { return c.Op == "fsyncdir" && strings.HasSuffix(c.Path, "/cache/sha256") }
		if slices.ContainsFunc(syncs, func(c sys.Call) bool { return shared(0, c) }) && len(s.judgeAll(shared)) <= len(bad) {
			t.Errorf("%s: nothing depends on the syncs of the cache's folder", s.name)
		}
		caught := 0
		for n, c := range syncs {
			if c.Op == "syncfs" && strings.HasSuffix(c.Path, "/chroot") && s.name != "create" {
				continue // not for durability: see TestPowerCutMappedWrite in backup
			}
			if shared(n, c) {
				continue
			}
			if strings.Contains(c.Path, ".partial") && !s.sealed() {
				continue // a copy that came to nothing
			}
			if len(s.judge(n+1)) > len(bad) {
				y.Point("red")
				caught++
				continue
			}
			t.Errorf("%s: nothing depends on sync %d, %s of %s", s.name, n+1, c.Op, c.Path)
		}
		t.Logf("%s: %d calls, %d of %d syncs are needed", s.name, len(s.calls), caught, len(syncs))
	}
}

// stories are one run each of all that changes something, and what follows where
// it is cut off.
func stories(t *testing.T) []story {
	f := newFaultRun(t, lab.ShmDir(t))
	h, dir := f.h, f.j.Dir
	upgrade := []string{"upgrade", "nginx", "--jail", dir, "--soak", "0s"}
	back := []string{"rollback", "--jail", dir, "--soak", "0s"}
	recover := []string{"recover", "--jail", dir}
	var out []story
	type run struct {
		exit  int
		fault string
		args  []string
	}
	add := func(name string, runs ...run) {
		t.Helper()
		s := h.begin(name, dir)
		for _, r := range runs {
			h.told(r.exit, &s, r.fault, r.args...)
		}
		out = append(out, s)
	}
	plain := func(args ...string) run { return run{args: args} }
	add("upgrade", plain(upgrade...))
	add("rollback", plain(back...))
	kill := func(at string, args []string) run { return run{-1, "kill:" + at, args} }
	fails := func(exit int, at string, args []string) run { return run{exit, "error:" + at + ":EIO", args} }
	add("upgrade that goes back", fails(3, "1@do seal", upgrade))
	add("upgrade that fails before the stop", fails(1, "1@do snapshot", upgrade))
	// Files were exchanged, and nothing was synced yet.
	add("recovery of an install", kill("12@do install", upgrade), plain(recover...))
	add("recovery after the commit", kill("1@do record", upgrade), plain(recover...))
	shots, err := filepath.Glob(filepath.Join(h.dir, "state/snapshots/*"))
	require.NoError(t, err)
	require.NotEmpty(t, shots)
	id := filepath.Base(shots[0])
	add("snapshot restore", plain("snapshot", "restore", id, "--jail", dir, "--into", filepath.Join(filepath.Dir(dir), "restored")))
	add("rollback to a snapshot", plain("rollback", "--jail", dir, "--to", id, "--soak", "0s"))
	add("snapshot create", plain("snapshot", "create", "--jail", dir))
	add("snapshot prune", plain("snapshot", "prune", "--jail", dir, "--keep", "1"))

	made := newHost(t, lab.NginxPair(t).Old)
	made.bin = h.bin
	place := filepath.Join(lab.ShmDir(t), "chroot")
	s := made.begin("create", place)
	made.told(0, &s, "", "create", "nginx", "--jail", place, "--listen", "127.0.0.1:"+strconv.Itoa(lab.FreePort(t)))
	return append(out, s)
}
