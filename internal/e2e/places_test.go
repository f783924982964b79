package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// A jail that is a mount point has its stage inside, and it is left out of all.
func TestAJailThatIsAMountPoint(t *testing.T) {
	lab.Need(t, "root", "apt", "loop", "mkfs.ext4")
	if lab.InPrivateMounts(t) {
		return
	}
	pair := lab.NginxPair(t)
	jail := lab.Loop(t, "ext4", 128)
	j := lab.HandMadeJail(t, pair.Old, lab.InDir(jail))
	j.Start(t)
	h := newHost(t, pair.New, pair.Old)
	before := stateless(t, jail)
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", jail, "--soak", "500ms")
	info, err := os.Stat(filepath.Join(jail, ".jailup-stage"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	snaps, err := filepath.Glob(filepath.Join(h.dir, "state/snapshots/*/tree"))
	require.NoError(t, err)
	require.Len(t, snaps, 1)
	require.NoDirExists(t, filepath.Join(snaps[0], ".jailup-stage"))
	h.must(0, "rolled-back", "rollback", "--jail", jail, "--soak", "500ms")
	diff := lab.DiffTrees(before, stateless(t, jail))
	for _, d := range diff {
		require.Contains(t, d, `"."`, "only the root's time may differ, for the stage was made in it: %v", diff)
	}
}

// Another mount in the jail is not the jail's: it is neither copied nor changed.
func TestMountsInTheJail(t *testing.T) {
	lab.Need(t, "root", "apt", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	j, pair := oldJail(t)
	for _, d := range []string{"proc", "data"} {
		require.NoError(t, os.Mkdir(filepath.Join(j.Dir, d), 0o755))
	}
	require.NoError(t, unix.Mount("proc", filepath.Join(j.Dir, "proc"), "proc", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(j.Dir, "proc"), unix.MNT_DETACH) })
	require.NoError(t, unix.Mount("tmpfs", filepath.Join(j.Dir, "data"), "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(j.Dir, "data"), unix.MNT_DETACH) })
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "data/shop.db"), []byte("x"), 0o644))
	h := newHost(t, pair.New, pair.Old)
	up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	tree := filepath.Join(h.dir, "state/snapshots", up.Done["snapshot"].(string), "tree")
	require.DirExists(t, filepath.Join(tree, "proc"))
	require.NoFileExists(t, filepath.Join(tree, "proc/self/status"))
	require.NoFileExists(t, filepath.Join(tree, "data/shop.db"))
	require.FileExists(t, filepath.Join(j.Dir, "data/shop.db"))
}
