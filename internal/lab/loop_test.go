package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

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
