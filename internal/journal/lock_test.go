package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rival is another process that wants the lock.
type rival struct {
	cmd  *exec.Cmd
	in   io.Closer
	line chan string
}

func startRival(t *testing.T, dir string) *rival {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	r := &rival{cmd: exec.Command(self), line: make(chan string, 1)}
	r.cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	in, err := r.cmd.StdinPipe()
	require.NoError(t, err)
	r.in = in
	out, err := r.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, r.cmd.Start())
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		r.line <- strings.TrimSpace(line)
	}()
	t.Cleanup(func() { r.in.Close(); _ = r.cmd.Process.Kill(); _ = r.cmd.Wait() })
	return r
}

func (r *rival) says(t *testing.T) string {
	t.Helper()
	select {
	case l := <-r.line:
		return l
	case <-time.After(30 * time.Second):
		t.Fatal("a process that wants the lock says nothing")
		return ""
	}
}

// Twenty at once: one gets it, the others are told within a second who has it
// since when, although what stands in the file is at first a dead holder's.
func TestTwentyAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dead := exec.Command("/bin/true")
	require.NoError(t, dead.Run())
	stale := fmt.Sprintf(`{"pid":%d,"run":"dead","verb":"rollback","since":"2001-01-01T00:00:00Z"}`, dead.ProcessState.Pid())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "jail.lock"), []byte(stale), 0o600))
	var all []*rival
	for range 20 {
		all = append(all, startRival(t, dir))
	}
	var got *rival
	told := map[string]int{}
	for _, r := range all {
		line := r.says(t)
		if strings.HasPrefix(line, "got ") {
			require.Nil(t, got, "two have the lock")
			got = r
			continue
		}
		told[line]++
	}
	require.NotNil(t, got, told)
	require.Equal(t, map[string]int{fmt.Sprintf("held %d upgrade true true", got.cmd.Process.Pid): 19}, told)

	// Killed, it holds nothing from the moment on that it is gone.
	require.NoError(t, got.cmd.Process.Kill())
	_ = got.cmd.Wait()
	next := startRival(t, dir)
	require.Equal(t, fmt.Sprint("got ", next.cmd.Process.Pid), next.says(t))
	next.in.Close()
	require.NoError(t, next.cmd.Wait())
}

func TestLockWaits(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "when needed")
	l, err := Acquire(t.Context(), dir, "jail", Holder{Run: "r1", Verb: "upgrade"}, 0)
	require.NoError(t, err)

	_, err = Acquire(t.Context(), dir, "jail", Holder{Run: "r2"}, 0)
	var held *HeldError
	require.ErrorAs(t, err, &held)
	require.Equal(t, "r1", held.Holder.Run)
	require.Equal(t, os.Getpid(), held.Holder.PID)
	require.Regexp(t, `^cannot lock the jail: upgrade \(run r1, pid \d+\) holds the lock since 2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, err.Error())

	other, err := Acquire(t.Context(), dir, "another jail", Holder{}, 0)
	require.NoError(t, err)
	other.Release()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Acquire(ctx, dir, "jail", Holder{}, time.Minute)
	require.ErrorIs(t, err, context.Canceled)

	done := make(chan error, 1)
	go func() {
		l2, err := Acquire(t.Context(), dir, "jail", Holder{Run: "r2"}, time.Minute)
		l2.Release()
		done <- err
	}()
	l.Release()
	l.Release()
	require.NoError(t, <-done)
	(*Lock)(nil).Release()
	require.Equal(t, "cannot lock the jail: another run holds the lock", (&HeldError{}).Error())
}

// Two processes that are told of each other: who released is not named.
func TestReleasedHolderIsNotNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := Acquire(t.Context(), dir, "jail", Holder{Run: "first"}, 0)
	require.NoError(t, err)
	l.Release()
	data, err := os.ReadFile(filepath.Join(dir, "jail.lock"))
	require.NoError(t, err)
	require.Empty(t, data)
}

// No started program inherits the lock or the journal.
func TestCloseOnExec(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := Acquire(t.Context(), dir, "jail", Holder{}, 0)
	require.NoError(t, err)
	defer l.Release()
	j := open(t, dir)
	ro, err := OpenReadOnly(dir)
	require.NoError(t, err)
	defer ro.Close()
	for _, f := range []*os.File{l.f, j.f, ro.f} {
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		require.NoError(t, err)
		require.NotZero(t, flags&unix.FD_CLOEXEC, f.Name())
	}
}

func TestLockIsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.WriteFile(out, []byte("mine"), 0o600))
	require.NoError(t, os.Symlink(out, filepath.Join(dir, "jail.lock")))
	_, err := Acquire(t.Context(), dir, "jail", Holder{}, 0)
	require.True(t, errors.Is(err, unix.ELOOP), err)
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "mine", string(data))
}
