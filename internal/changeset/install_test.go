package changeset

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func TestInstallAndUndo(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	for name, base := range map[string]func() string{"on disk": t.TempDir, "in memory": func() string { return lab.ShmDir(t) }} {
		t.Run(name, func(t *testing.T) { installAndUndo(t, everythingIn(t, base())) })
	}
}

func installAndUndo(t *testing.T, b *bench) {
	w := b.worker()
	drift, err := w.Drift()
	require.NoError(t, err)
	require.Empty(t, drift)
	b.is(b.old, "looking changes nothing")
	b.undo()
	b.is(b.old, "undo before install")
	for range 2 {
		b.install()
		b.is(b.new, "install")
		b.install()
		b.is(b.new, "install again")
		b.undo()
		b.is(b.old, "undo")
		b.undo()
		b.is(b.old, "undo again")
	}
	// rollback is the reverse set, installed; its undo leads to the new again
	b.install()
	forward := b.set
	b.set = forward.Reverse()
	drift, err = b.worker().Drift()
	require.NoError(t, err)
	require.Empty(t, drift)
	b.install()
	b.is(b.old, "the reverse installed")
	b.undo()
	b.is(b.new, "the reverse undone")
	b.install()
	b.is(b.old, "the reverse installed again")
	b.set = b.set.Reverse()
	require.Equal(t, forward, b.set, "the reverse of the reverse is the set itself")
	b.install()
	b.is(b.new, "the reverse of the reverse")
}

// Wherever an install, an undo, or the reverse of both is cut off: the undo
// leads to the old tree and the install to the new, bit by bit.
func TestCutOffAtEveryOperation(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	t.Logf("%d operations", len(b.set.Ops))
	require.Greater(t, len(b.set.Ops), 25)
	cutOffEverywhere(t, b, 1)
	b.install()
	b.set, b.old, b.new = b.set.Reverse(), b.new, b.old
	cutOffEverywhere(t, b, 1)
}

func cutOffEverywhere(t *testing.T, b *bench, step int) {
	n := len(b.set.Ops)
	for k := 0; k < n; k += step {
		b.installFirst(k)
		v, err := b.worker().Inspect()
		require.NoError(t, err)
		require.Empty(t, v.Foreign, "after %d operations", k)
		require.False(t, v.AllNew(), "after %d operations", k)
		require.Equal(t, k == 0, v.AllOld(), "after %d operations", k)
		b.undo()
		b.is(b.old, "undone after %d operations", k)
		v, err = b.worker().Inspect()
		require.NoError(t, err)
		require.True(t, v.AllOld())

		b.installFirst(k)
		b.install()
		b.is(b.new, "installed after %d operations", k)
		v, err = b.worker().Inspect()
		require.NoError(t, err)
		require.True(t, v.AllNew())
		require.Empty(t, v.Foreign)

		b.undoDownTo(k) // the undo is cut off, and run again
		b.undo()
		b.is(b.old, "undone after an undo down to %d", k)
		b.install()
		b.undoDownTo(k)
		b.install()
		b.is(b.new, "installed after an undo down to %d", k)
		b.undo()
	}
}

// A crash between making a directory and giving it its mode and owner: whoever
// comes next, forward or back, does it.
func TestDirectoryHalfMade(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	b.installFirst(index(b.set.Ops, Mkdir, "/made") + 1)
	half := filepath.Join(b.jail, "made")
	require.NoError(t, os.Chown(half, 0, 0))
	require.NoError(t, os.Chmod(half, 0o700))
	b.install()
	b.is(b.new, "install")

	b.undoDownTo(index(b.set.Ops, Rmdir, "/dead"))
	half = filepath.Join(b.jail, "dead")
	require.NoError(t, os.Chown(half, 0, 0))
	require.NoError(t, os.Chmod(half, 0o700))
	b.undo()
	b.is(b.old, "undo")
}

// What a directory carries beside its mode comes back with it.
func TestRemovedDirectoryKeepsItsAttributes(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "xattr")
	b := everythingIn(t, t.TempDir())
	dead := filepath.Join(b.jail, "dead")
	require.NoError(t, unix.Setxattr(dead, "user.note", []byte("mine"), 0))
	require.NoError(t, unix.Setxattr(dead, "trusted.note", []byte{0, 1, 2}, 0))
	b.old = lab.TreeDigest(t, b.jail)
	b.compute()
	b.install()
	b.is(b.new, "install")
	b.undo()
	b.is(b.old, "undo")
}

// The executables go out before anything else and come in after all else, and
// back in the opposite order; the C library's set stands back to back.
func TestOrder(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	for i := range b.in.Wants {
		b.in.Wants[i].Early = b.in.Wants[i].Path == "/usr/lib/libc.so.6"
	}
	b.compute()
	check := func(ops []Op) {
		last := len(ops) - 1
		for _, x := range []string{"/usr/sbin/nginx", "/usr/sbin/helper"} {
			require.Less(t, index(ops, Remove, x), 2, x)
			require.Greater(t, index(ops, Add, x), last-2, x)
		}
		for _, op := range ops {
			require.Equal(t, op.Path == "/usr/sbin/helper", op.Hold, "only what is unchanged and only goes out is held")
			if op.Kind == Mkdir {
				for _, up := range parents(op.Path) {
					require.Less(t, index(ops, Mkdir, up), index(ops, Mkdir, op.Path), "%s before %s", up, op.Path)
				}
			}
		}
	}
	check(b.set.Ops)
	check(b.set.Reverse().Ops)
	require.Equal(t, 23, b.set.Changed())

	n := min(index(b.set.Ops, Add, "/usr/sbin/nginx"), index(b.set.Ops, Add, "/usr/sbin/helper"))
	for k := 2; k <= n; k++ {
		b.installFirst(k)
		for _, x := range []string{"nginx", "helper"} {
			require.NoFileExists(t, filepath.Join(b.jail, "usr/sbin", x), "nobody can start it while the tree is mixed")
		}
		b.undo()
	}
}

// An executable that does not change goes out and in only if something else
// changes; a jail that is as it shall be has no operations.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	old := []thing{dir("/usr"), exe("/usr/nginx", "same"), file("/usr/lib", "same"), dir("/empty")}
	b := newBench(t, lab.ShmDir(t), oldTime, old, old, "/usr/nginx")
	require.True(t, b.set.Empty())
	require.Zero(t, b.set.Changed())
	b.install()
	b.is(b.old, "install of nothing")
	v, err := b.worker().Inspect()
	require.NoError(t, err)
	require.True(t, v.AllOld() && v.AllNew())
	var none *Set
	require.True(t, none.Empty())
	require.Zero(t, none.Changed())

	b = newBench(t, lab.ShmDir(t), oldTime, old, append(old[:2:2], file("/usr/lib", "new").fresh(), dir("/empty")), "/usr/nginx")
	require.Len(t, b.set.Ops, 3)
	require.Equal(t, 1, b.set.Changed())
}

// Two names of one file: the other one stays what it was, and after the undo
// they are one file again.
func TestHardLinks(t *testing.T) {
	t.Parallel()
	b := newBench(t, lab.ShmDir(t), oldTime,
		[]thing{dir("/a"), file("/a/one", "old"), dir("/b"), file("/b/one", "gone")},
		[]thing{dir("/a").fresh(), file("/a/one", "new").fresh(), dir("/b").fresh()})
	require.NoError(t, os.Link(filepath.Join(b.jail, "a/one"), filepath.Join(b.jail, "other")))
	require.NoError(t, os.Link(filepath.Join(b.jail, "b/one"), filepath.Join(b.jail, "another")))
	b.old = lab.TreeDigest(t, b.jail)
	b.compute()
	b.install()
	other, err := os.ReadFile(filepath.Join(b.jail, "other"))
	require.NoError(t, err)
	require.Equal(t, "old", string(other))
	b.undo()
	b.is(b.old, "undo")
}

// The file system calls itself otherwise after a reboot (XFS does): inodes prove
// nothing then, and digests decide.
func TestFileSystemHasAnotherID(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	b.installFirst(len(b.set.Ops) / 2)
	b.set.FSID = "0000000000000801"
	for i := range b.set.Ops {
		if b.set.Ops[i].New != nil {
			b.set.Ops[i].New.Ino = 2
		}
	}
	require.True(t, b.worker().moved)
	b.undo()
	b.is(b.old, "undo")
	b.install()
	b.is(b.new, "install")
}

// Jail and stage must lie on one file system, or every rename would fail.
func TestStageElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, lab.ShmDir(t), oldTime, []thing{dir("/a")}, []thing{dir("/a")})
	elsewhere, err := os.Open("/proc/self")
	require.NoError(t, err)
	defer elsewhere.Close()
	_, err = NewWorker(b.root, elsewhere, b.set)
	require.ErrorContains(t, err, "two file systems")
}

// A directory that the upgrade made and the server wrote into stays when the
// upgrade is rolled back, and so does what is in it.
func TestRollbackLeavesWhatWasWritten(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	b.install()
	cache := filepath.Join(b.jail, "made/deep/cache")
	require.NoError(t, os.WriteFile(cache, []byte("the server's"), 0o600))
	b.set = b.set.Reverse()
	b.install()
	diff := lab.DiffTrees(b.old, lab.TreeDigest(t, b.jail))
	require.Len(t, diff, 3, "%q", diff)
	require.Contains(t, diff[0], `new: "made"`)
	require.Contains(t, diff[1], `new: "made/deep"`)
	require.Contains(t, diff[2], `new: "made/deep/cache"`)
	v, err := b.worker().Inspect()
	require.NoError(t, err)
	require.True(t, v.AllNew(), "%+v", v)
}

// The same when the upgrade itself is undone: what is left over does not count
// as new.
func TestUndoLeavesWhatWasWritten(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	b.install()
	require.NoError(t, os.WriteFile(filepath.Join(b.jail, "made/deep/cache"), []byte("the server's"), 0o600))
	kept, err := b.worker().Undo()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"/made", "/made/deep"}, kept)
	require.Len(t, lab.DiffTrees(b.old, lab.TreeDigest(t, b.jail)), 3)
	v, err := b.worker().Inspect()
	require.NoError(t, err)
	require.True(t, v.AllOld(), "%+v", v)
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		"":                           "cannot read the changeset",
		`{"version":1,"ops":7}`:      "cannot read the changeset",
		`{"version":2}`:              "its version 2 is not known",
		`{}`:                         "its version 0 is not known",
		`{"version":1,"ops":[]}cut`:  "cannot read the changeset",
		`{"version":1,"fsid":"12ab"`: "cannot read the changeset",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "set.json"), []byte(text), 0o600))
		_, err := Load(filepath.Join(dir, "set.json"))
		require.ErrorContains(t, err, want, text)
	}
	_, err := Load(filepath.Join(dir, "none"))
	require.True(t, errors.Is(err, os.ErrNotExist))
}
