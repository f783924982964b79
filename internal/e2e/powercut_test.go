//go:build faultpoints

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// The power fails right after an upgrade said that it is done: after the reboot
// the jail is wholly new and the journal knows it. Where every sync is left out
// the same cut is noticed: a test that cannot see that proves nothing.
func TestPowerCutAfterTheCommit(t *testing.T) {
	lab.Need(t, "root", "apt", "loop", "mkfs.xfs")
	if lab.InPrivateMounts(t) {
		return
	}
	for _, c := range []struct {
		fault string
		whole bool
	}{{"", true}, {"nosync:all", false}, {"nosync:all", false}, {"nosync:all", false}} {
		mnt := lab.Loop(t, "xfs", 320)
		f := newFaultRun(t, mnt)
		lab.Sync(t, mnt)                     // the jail is older than the cut
		f.h.dir = filepath.Join(mnt, "host") // the state is hit by the same cut
		require.NoError(t, os.Mkdir(f.h.dir, 0o755))
		f.h.extra = []string{"--cache-dir", filepath.Join(lab.ShmDir(t), "cache")}
		require.False(t, f.upgrade(c.fault))
		want := stateless(t, f.j.Dir)
		f.j.Stop(t)
		lab.CutPower(t, mnt)
		diff := lab.DiffTrees(want, stateless(t, f.j.Dir))
		if c.whole {
			require.Empty(t, diff)
			f.j.Start(t)
			f.h.must(0, "recovered", "recover", "--jail", f.j.Dir)
			f.h.must(0, "current", "upgrade", "nginx", "--jail", f.j.Dir)
			f.j.Stop(t)
			continue
		}
		_, err := os.Stat(filepath.Join(f.h.dir, "state"))
		if len(diff) > 0 || err != nil {
			return
		}
		t.Log("nothing was lost: somebody else on this machine may have called sync(2)")
	}
	t.Fatal("all syncs were left out, three times, and nothing was lost")
}
