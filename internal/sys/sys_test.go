package sys

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

func openDir(t *testing.T, p string) int {
	t.Helper()
	d, err := OpenDir(p)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return int(d.Fd())
}

func modeOf(t *testing.T, p string) uint32 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(p, &st))
	return st.Mode & 0o7777
}

// Modes are exact, whatever the umask is: proven in a process of its own, for
// the umask belongs to the whole process.
func TestModesAreExact(t *testing.T) {
	t.Parallel()
	const mark = "JAILUP_TEST_UMASK"
	if os.Getenv(mark) == "" {
		self, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command(self, "-test.run=^TestModesAreExact$", "-test.v")
		cmd.Env = append(os.Environ(), mark+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "--- PASS: TestModesAreExact")
		return
	}
	unix.Umask(0o077)
	dir := t.TempDir()
	d := openDir(t, dir)
	require.NoError(t, Mkdirat(d, "d", 0o1777))
	require.EqualValues(t, 0o1777, modeOf(t, filepath.Join(dir, "d")))
	require.NoError(t, Mknodat(d, "fifo", unix.S_IFIFO|0o666, 0))
	require.EqualValues(t, 0o666, modeOf(t, filepath.Join(dir, "fifo")))
	require.NoError(t, WriteFileAtomic(filepath.Join(dir, "f"), []byte("x"), 0o644))
	require.EqualValues(t, 0o644, modeOf(t, filepath.Join(dir, "f")))
	require.NoError(t, MkdirAll(filepath.Join(dir, "a/b/c"), 0o750))
	for _, p := range []string{"a", "a/b", "a/b/c"} {
		require.EqualValues(t, 0o750, modeOf(t, filepath.Join(dir, p)))
	}
}

func TestWriteFileAtomic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	for _, text := range []string{"one", "", strings.Repeat("long", 1<<18)} {
		require.NoError(t, WriteFileAtomic(p, []byte(text), 0o600))
		got, err := os.ReadFile(p)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
	}
	// A link in its place is replaced, not followed.
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.WriteFile(out, []byte("mine"), 0o600))
	require.NoError(t, os.Remove(p))
	require.NoError(t, os.Symlink(out, p))
	require.NoError(t, WriteFileAtomic(p, []byte("new"), 0o600))
	got, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "mine", string(got))
	// What cannot be renamed leaves nothing behind.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	require.ErrorContains(t, WriteFileAtomic(filepath.Join(dir, "dir"), nil, 0o600), "cannot write")
	require.ErrorIs(t, WriteFileAtomic(filepath.Join(dir, "none/f"), nil, 0o600), os.ErrNotExist)
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 2, "no temporary file is left")
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.Symlink(out, filepath.Join(dir, "link")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, n := range []string{"link", "file"} {
		_, err := Create(d, n, 0o600)
		require.ErrorIs(t, err, unix.EEXIST, n)
	}
	require.NoFileExists(t, out)
	f, err := Create(d, "new", 0o600)
	require.NoError(t, err)
	defer f.Close()
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC)
}

// A link in the place of a file or directory is never followed.
func TestNoLinkIsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.WriteFile(out, []byte("mine"), 0o640))
	require.NoError(t, os.Symlink(out, filepath.Join(dir, "link")))
	before := lab.TreeDigest(t, filepath.Dir(out))
	d := openDir(t, dir)
	require.ErrorIs(t, Fchmodat(d, "link", 0o777), unix.ELOOP)
	require.NoError(t, Utimes(d, "link", 12345))
	require.NoError(t, RemoveTree(d, "link"))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Symlink(out, filepath.Join(dir, "link")))
		require.NoError(t, Fchownat(d, "link", 5, 5))
	}
	require.Empty(t, lab.DiffTrees(before, lab.TreeDigest(t, filepath.Dir(out))))
}

func TestUtimes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	require.NoError(t, os.WriteFile(p, nil, 0o600))
	d := openDir(t, dir)
	for _, ns := range []int64{0, 1, 1_600_000_000_123456789, -1, -1_500_000_000} {
		require.NoError(t, Utimes(d, "f", ns))
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(p, &st))
		require.Equal(t, ns, st.Mtim.Nano(), "also before 1970")
	}
}

func TestCopyRange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	src, err := Create(d, "src", 0o600)
	require.NoError(t, err)
	defer src.Close()
	require.NoError(t, Write(src, []byte("0123456789")))
	_, err = src.Seek(2, io.SeekStart)
	require.NoError(t, err)
	dst, err := Create(d, "dst", 0o600)
	require.NoError(t, err)
	defer dst.Close()
	for _, c := range []struct{ ask, got int64 }{{3, 3}, {0, 0}, {100, 5}, {1, 0}} {
		n, err := CopyRange(dst, src, c.ask)
		require.NoError(t, err)
		require.Equal(t, c.got, n)
	}
	got, err := os.ReadFile(filepath.Join(dir, "dst"))
	require.NoError(t, err)
	require.Equal(t, "23456789", string(got))
}

func TestRemoveTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	require.NoError(t, RemoveTree(d, "none"))
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.MkdirAll(out, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(out, "mine"), nil, 0o600))
	tree := filepath.Join(dir, "tree")
	require.NoError(t, os.MkdirAll(filepath.Join(tree, "a/b"), 0o755))
	require.NoError(t, os.Symlink(out, filepath.Join(tree, "a/link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600))
	for i := range 600 { // more than one read of the directory
		require.NoError(t, os.WriteFile(filepath.Join(tree, "a/b", strings.Repeat("x", i%200+1)+string(rune('a'+i/200))), nil, 0o600))
	}
	// A long way down, made and gone by descriptors.
	at := filepath.Join(tree, "deep")
	require.NoError(t, os.Mkdir(at, 0o755))
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	for range 900 {
		require.NoError(t, unix.Mkdirat(fd, "somewhere", 0o755))
		next, err := unix.Openat(fd, "somewhere", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	require.NoError(t, RemoveTree(d, "tree"))
	_, err = os.Lstat(tree)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.FileExists(t, filepath.Join(out, "mine"))
}

// Depth costs no descriptors: whoever may make directories must not decide how
// many of them jailup has open.
func TestRemoveTreeAtAnyDepth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir)
	at := d
	for i := range 10_000 {
		name := "d" + string(rune('a'+i%26))
		require.NoError(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		if i%1000 == 999 {
			f, err := Create(next, "file", 0o600)
			require.NoError(t, err)
			f.Close()
		}
		if at != d {
			unix.Close(at)
		}
		at = next
	}
	unix.Close(at)
	most := 0
	done := make(chan struct{})
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for {
			list, _ := os.ReadDir("/proc/self/fd")
			most = max(most, len(list))
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	require.NoError(t, RemoveTree(d, "da"))
	close(done)
	<-counted
	require.NoFileExists(t, filepath.Join(dir, "da"))
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, list)
	require.Less(t, most, 500)
}

// What is mounted below is never emptied.
func TestRemoveTreeStopsAtMounts(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	dir, host := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(host, "mine"), nil, 0o600))
	at := filepath.Join(dir, "tree/sub/mnt")
	require.NoError(t, os.MkdirAll(at, 0o755))
	require.NoError(t, unix.Mount(host, at, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(at, 0) })
	require.ErrorIs(t, RemoveTree(openDir(t, dir), "tree"), unix.EXDEV)
	require.FileExists(t, filepath.Join(host, "mine"))
}

func TestMkdirAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))
	require.NoError(t, MkdirAll(filepath.Join(dir, "a/b"), 0o700))
	require.NoError(t, MkdirAll(filepath.Join(dir, "a/b"), 0o777))
	require.EqualValues(t, 0o700, modeOf(t, filepath.Join(dir, "a/b")), "what is there is left as it is")
	require.EqualValues(t, 0o711, modeOf(t, dir))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	require.ErrorContains(t, MkdirAll(filepath.Join(dir, "f"), 0o700), "a file is in its place")
	require.Error(t, MkdirAll(filepath.Join(dir, "f/below"), 0o700))
}

// The shipped program cannot be made to fail from outside.
func TestNoFaultPoints(t *testing.T) {
	t.Parallel()
	if FaultPoints {
		t.Skip("this is the build that can be killed at will")
	}
	require.NoError(t, before("unlinkat", "x"))
	require.False(t, skipSync("x"))
	Point("nothing")
}
