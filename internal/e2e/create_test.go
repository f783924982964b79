package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// newPlace is a folder for jails, without one.
func newPlace(t *testing.T) (h *host, pair lab.Pair, dir string) {
	t.Helper()
	lab.Need(t, "root", "apt")
	pair = lab.NginxPair(t)
	return newHost(t, pair.New), pair, filepath.Join(lab.ShmDir(t), "jails/chroot")
}

func (h *host) create(dir string) []string {
	return []string{"create", "nginx", "--jail", dir, "--listen", "127.0.0.1:8080"}
}

// onlyJails wants exactly these names beside each other.
func onlyJails(t *testing.T, parent string, want ...string) {
	t.Helper()
	list, err := os.ReadDir(parent)
	require.NoError(t, err)
	names := []string{}
	for _, e := range list {
		names = append(names, e.Name())
	}
	require.ElementsMatch(t, want, names)
}

// jails are those that status lists.
func (h *host) jails() []any {
	h.t.Helper()
	r := h.run("status")
	var doc struct{ Jails []any }
	require.NoError(h.t, json.Unmarshal([]byte(r.Stdout), &doc), r.String())
	return doc.Jails
}

// upTo starts a command and stops it with a signal once there is a name more of
// that pattern. When it returns the command stands still, or is dead, and the name
// is there: no test goes on with one that was too fast.
func upTo(t *testing.T, h *host, sig unix.Signal, pattern string, args ...string) *exec.Cmd {
	t.Helper()
	before, err := filepath.Glob(pattern)
	require.NoError(t, err)
	fresh := func() bool {
		found, _ := filepath.Glob(pattern)
		return slices.ContainsFunc(found, func(f string) bool { return !slices.Contains(before, f) })
	}
	cmd := h.command(args...)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); !fresh(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "%s did not appear", pattern)
	}
	require.NoError(t, cmd.Process.Signal(sig))
	if sig == unix.SIGKILL {
		_ = cmd.Wait()
		require.Equal(t, -1, cmd.ProcessState.ExitCode(), "it was too fast")
	} else {
		// A signal is sent before it has come to all threads.
		var how unix.Siginfo
		require.NoError(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, &how, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil))
		require.Equal(t, int32(cldStopped), how.Code, "it was too fast")
	}
	require.True(t, fresh(), "it was too fast: %s is gone again", pattern)
	return cmd
}

// cldStopped is CLD_STOPPED of sigaction(2).
const cldStopped = 5

func TestInstallInAnEmptyFolder(t *testing.T) {
	t.Parallel()
	h, _, dir := newPlace(t)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	h.must(64, "failed", "upgrade", "nginx", "--install", "--dry-run", "--jail", dir)
	h.must(0, "created", "upgrade", "nginx", "--install", "--jail", dir, "--listen", "127.0.0.1:8080")
	h.must(0, "current", "upgrade", "nginx", "--install", "--jail", dir)
	onlyJails(t, filepath.Dir(dir), "chroot")
	h.must(1, "failed", h.create(dir)...)
	link := dir + "-link"
	require.NoError(t, os.Symlink("nowhere", link))
	h.must(1, "failed", h.create(link)...)
}

// What a killed create left goes with the next one in that folder; what a living
// one has there, and what only looks alike, stays.
func TestCreateSweepsTheDead(t *testing.T) {
	t.Parallel()
	h, _, dir := newPlace(t)
	parent := filepath.Dir(dir)
	upTo(t, h, unix.SIGKILL, filepath.Join(parent, ".chroot.jailup-new-*-stage/*"), h.create(dir)...)
	require.NoDirExists(t, dir)
	living := upTo(t, h, unix.SIGSTOP, filepath.Join(parent, ".other.jailup-new-*-stage/*"), h.create(filepath.Join(parent, "other"))...)
	precious := filepath.Join(lab.ShmDir(t), "precious")
	require.NoError(t, os.MkdirAll(precious, 0o700))
	link, alike := ".a.jailup-new-20260101T000000Z-0000000", ".a.jailup-new-mine"
	require.NoError(t, os.Symlink(filepath.Dir(precious), filepath.Join(parent, link)))
	require.NoError(t, os.Mkdir(filepath.Join(parent, alike), 0o700))

	h.must(0, "created", h.create(dir)...)
	require.DirExists(t, precious)
	require.NoError(t, living.Process.Signal(unix.SIGCONT))
	require.NoError(t, living.Wait())
	onlyJails(t, parent, "chroot", "other", link, alike)
	require.Len(t, h.jails(), 2)
}

// A second create of the same jail waits for the first one.
func TestCreateOfTheSameJailTwice(t *testing.T) {
	t.Parallel()
	h, _, dir := newPlace(t)
	first := upTo(t, h, unix.SIGSTOP, filepath.Join(filepath.Dir(dir), ".chroot.jailup-new-*-stage/*"), h.create(dir)...)
	r := h.run(append(h.create(dir), "--lock-wait", "0s")...)
	require.Equal(t, 11, r.Exit, r.String())
	require.NoError(t, first.Process.Signal(unix.SIGCONT))
	require.NoError(t, first.Wait())
	h.must(0, "current", "upgrade", "nginx", "--jail", dir)
}

// Somebody puts something into its place while it is built: that stays, and of
// the jail nothing is left, also not in the registry.
func TestCreateWhosePlaceIsTaken(t *testing.T) {
	t.Parallel()
	h, _, dir := newPlace(t)
	cmd := upTo(t, h, unix.SIGSTOP, filepath.Join(filepath.Dir(dir), ".chroot.jailup-new-*-stage/*"), h.create(dir)...)
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o644))
	require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	onlyJails(t, filepath.Dir(dir), "chroot")
	onlyJails(t, dir, "mine")
	require.Empty(t, h.jails())
	states, err := filepath.Glob(filepath.Join(h.dir, "state/????????????????"))
	require.NoError(t, err)
	require.Empty(t, states)
}

func TestPlanSweepsTheDead(t *testing.T) {
	t.Parallel()
	h, _, dir := newPlace(t)
	h.must(0, "created", h.create(dir)...)
	scratch := filepath.Join(h.dir, "cache/plan-*")
	living := upTo(t, h, unix.SIGSTOP, scratch+"/*", "plan", "nginx", "--jail", dir)
	upTo(t, h, unix.SIGKILL, scratch+"/*", "plan", "nginx", "--jail", dir)
	h.must(0, "planned", "plan", "nginx", "--jail", dir)
	left, err := filepath.Glob(scratch)
	require.NoError(t, err)
	require.Len(t, left, 1, "that of the living one")
	require.NoError(t, living.Process.Signal(unix.SIGCONT))
	require.NoError(t, living.Wait())
	left, err = filepath.Glob(scratch)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A verb that names a server which the jail does not hold fails, and the jail is known
// as before.
func TestTheWrongServerIsNotRemembered(t *testing.T) {
	t.Parallel()
	j, _, h := createdJail(t)
	for _, verb := range []string{"stop", "start", "restart", "upgrade", "check"} {
		r := h.run(verb, "apache", "--jail", j.Dir)
		require.NotZero(t, r.Exit, verb)
		list := h.jails()
		require.Len(t, list, 1)
		require.Equal(t, "nginx", list[0].(map[string]any)["server"], verb)
	}
	require.NotZero(t, j.MasterPID())
	h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir)
}
