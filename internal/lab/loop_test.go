package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

func TestLoopLosesWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			if InPrivateMounts(t) {
				return
			}
			dir := Loop(t, fstype, 64)
			_, got, err := mountedOn(dir)
			require.NoError(t, err)
			require.Equal(t, fstype, got)
			f, err := os.Create(filepath.Join(dir, "kept"))
			require.NoError(t, err)
			require.NoError(t, f.Sync())
			require.NoError(t, f.Close())
			require.NoError(t, os.WriteFile(filepath.Join(dir, "lost"), []byte("x"), 0o644))
			CutPower(t, dir)
			require.FileExists(t, filepath.Join(dir, "kept"))
			require.NoFileExists(t, filepath.Join(dir, "lost"))
		})
	}
}

func TestLoopIsFull(t *testing.T) {
	t.Parallel()
	if InPrivateMounts(t) {
		return
	}
	dir := Loop(t, "ext4", 4)
	require.ErrorIs(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 8<<20), 0o644), unix.ENOSPC)
}

func TestWatchSeesWhatIsLeft(t *testing.T) {
	w := &watch{dirs: []string{t.TempDir()}, mark: "JAILUP_LAB_RUN=of-this-test"}
	require.Empty(t, w.left())
	f := filepath.Join(w.dirs[0], "file")
	require.NoError(t, os.WriteFile(f, nil, 0o600))
	require.Equal(t, []string{"file " + f}, w.left())
	require.NoError(t, os.Remove(f))

	other := filepath.Join(t.TempDir(), "watched") // not below the folder
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	require.Empty(t, w.left())

	marked := exec.Command("sleep", "60")
	marked.Env = []string{w.mark}
	inside := exec.Command("sleep", "60")
	inside.Dir = w.dirs[0] + "/in"
	require.NoError(t, os.Mkdir(inside.Dir, 0o700))
	for _, c := range []*exec.Cmd{marked, inside} {
		require.NoError(t, c.Start())
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	}
	text := strings.Join(w.left(), "\n")
	require.Contains(t, text, strconv.Itoa(marked.Process.Pid))
	require.Contains(t, text, strconv.Itoa(inside.Process.Pid))
}

// A server that a test leaves in a private mount namespace is found and ended,
// though nothing tells that it is a test's: no parent, no environment, and a root
// that has no name any more.
func TestWhatIsLeftInPrivateMounts(t *testing.T) {
	t.Parallel()
	Need(t, "root", "mounts", "busybox")
	box, err := lookPath("busybox")
	require.NoError(t, err)
	dir := ShmDir(t)
	const script = `set -e; read -r go; mount -t tmpfs none "$1"; cp "$2" "$1/busybox"
%s
umount -l "$1"; echo done`
	run := func(line string) (string, []string, error) {
		cmd := exec.Command("sh", "-c", fmt.Sprintf(script, line), "sh", dir, box)
		cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
		out, left, err := runPrivate(cmd, 100*time.Millisecond)
		return string(out), left, err
	}
	out, left, err := run("")
	require.NoError(t, err, out)
	require.Equal(t, "done\n", out)
	require.Empty(t, left)

	out, left, err = run(`env -i "$2" setsid "$2" chroot "$1" /busybox sh -c ': > /up; exec /busybox sleep 61' </dev/null >/dev/null 2>&1 &
until [ -e "$1/up" ]; do :; done`)
	require.NoError(t, err, out)
	require.Len(t, left, 1)
	require.Contains(t, left[0], "(busybox)")
	pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(left[0], "process "), " (busybox)"))
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(processes(), func(p Process) bool { return p.PID == pid }), "it goes on")

	// One that holds the output open holds nobody up.
	_, left, err = run(`"$2" sleep 61 &`)
	require.ErrorIs(t, err, exec.ErrWaitDelay)
	require.Len(t, left, 1)
}
