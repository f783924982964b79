package jail

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) {
	Reexec()
	os.Exit(m.Run())
}

func tree(t *testing.T) (*Root, string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"etc", "usr/lib/a", "var/log"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("jail\n"), 0o644))
	require.NoError(t, os.Symlink("usr/lib", filepath.Join(dir, "lib")))
	r, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r, dir
}

func TestLinksStayInside(t *testing.T) {
	t.Parallel()
	r, dir := tree(t)
	for name, target := range map[string]string{
		"absolute": "/etc/passwd", "dots": "../../../../../../etc/passwd", "chain": "absolute",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, "var", name)))
	}
	require.NoError(t, os.Symlink("/var/absolute", filepath.Join(dir, "var/chain2")))
	for _, p := range []string{"/etc/passwd", "/var/absolute", "/var/dots", "/var/chain2", "../../etc/passwd"} {
		data, err := r.ReadFile(p, 100)
		require.NoError(t, err, p)
		require.Equal(t, "jail\n", string(data), p)
	}
	real, err := r.RealPath("/var/chain2")
	require.NoError(t, err)
	require.Equal(t, "/etc/passwd", real)
}

func TestPhysicalNames(t *testing.T) {
	t.Parallel()
	r, _ := tree(t)
	for in, want := range map[string]string{
		"/lib/a/x": "/usr/lib/a/x", "/usr/lib/a/x": "/usr/lib/a/x", "/lib": "/lib", "/": "/",
		"/lib/new/deep/x": "/usr/lib/new/deep/x", "/etc/../lib/a": "/usr/lib/a",
	} {
		got, err := r.Physical(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
}

func TestSpecialFilesAreNotOpened(t *testing.T) {
	t.Parallel()
	r, dir := tree(t)
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "etc/fifo"), 0o600))
	require.NoError(t, os.Symlink("fifo", filepath.Join(dir, "etc/tofifo")))
	require.NoError(t, os.Symlink("loop", filepath.Join(dir, "etc/loop")))
	for _, p := range []string{"/etc/fifo", "/etc/tofifo", "/etc"} {
		_, err := r.OpenFile(p)
		require.ErrorIs(t, err, ErrNotRegular, p)
	}
	_, err := r.OpenFile("/etc/loop")
	require.ErrorIs(t, err, unix.ELOOP)
	_, err = r.OpenFile("/etc/none")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestLongFilesAreRefused(t *testing.T) {
	t.Parallel()
	r, dir := tree(t)
	require.NoError(t, os.Truncate(filepath.Join(dir, "etc/passwd"), 1<<40))
	_, err := r.ReadFile("/etc/passwd", 1000)
	require.ErrorContains(t, err, "longer than 1000 bytes")
}

func TestWritersNeverCrossAMount(t *testing.T) {
	lab.Need(t, "root")
	r, dir := tree(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "proc"), 0o755))
	if lab.InPrivateMounts(t) {
		return
	}
	require.NoError(t, unix.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""))
	defer unix.Unmount(filepath.Join(dir, "proc"), unix.MNT_DETACH)
	require.NoError(t, os.Symlink("/proc/sys/kernel", filepath.Join(dir, "etc/kernel")))
	_, err := r.OpenDir("/etc/kernel")
	require.ErrorIs(t, err, unix.EXDEV)
	_, _, err = r.OpenParent("/etc/kernel/hostname")
	require.ErrorIs(t, err, unix.EXDEV)
	_, err = r.OpenFile("/etc/kernel/hostname")
	require.ErrorIs(t, err, ErrNotRegular)
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"/", "/usr", "/etc", "/proc/1/root", "/var/../usr/lib", "/sys/x"} {
		require.Error(t, CheckPlace(p), p)
	}
	open := filepath.Join(t.TempDir(), "open")
	require.NoError(t, os.Mkdir(open, 0o777))
	require.NoError(t, os.Chmod(open, 0o777))
	require.ErrorContains(t, CheckPlace(filepath.Join(open, "jail")), "others may write")
	require.NoError(t, CheckPlace(filepath.Join(t.TempDir(), "jail")))
}
