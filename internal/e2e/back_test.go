package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// commonWith is a package nginx-common with one file of the configuration changed.
func commonWith(t *testing.T, pair lab.Pair, file, text string) string {
	t.Helper()
	deb := lab.Repack(t, lab.FindDeb(t, pair.New, "nginx-common"), func(dir string, _ *lab.Control) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	})
	return lab.ReplaceDebs(t, pair.New, deb)
}

// Somebody edits a new file while it is watched, and the run goes back: his edit
// stays, and so does the version of before, which would go with the stage.
func TestGoingBackLosesNoVersion(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.debs = newHost(t, commonWith(t, pair, "etc/nginx/fastcgi.conf", "# new\n"), pair.Old).debs
	conf := filepath.Join(j.Dir, "etc/nginx/fastcgi.conf")
	old, err := os.ReadFile(conf)
	require.NoError(t, err)
	cmd, end := started(t, h, j, "verify", "--soak", "30s")
	require.NoError(t, os.WriteFile(conf, []byte("# edited\n"), 0o644))
	require.NoError(t, cmd.Process.Signal(unix.SIGINT))
	done := end()
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), done)
	require.Contains(t, done["error"], "fastcgi.conf")
	now, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.Equal(t, "# edited\n", string(now))
	kept, err := filepath.Glob(filepath.Join(h.dir, "state/*/runs/*/evidence/old-*-fastcgi.conf"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	saved, err := os.ReadFile(kept[0])
	require.NoError(t, err)
	require.Equal(t, string(old), string(saved))
}

// A listen was changed on purpose: what comes back is judged by the configuration
// that comes back with it, and a restart by the one that it reads.
func TestPortsThatWereChangedOnPurpose(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.debs = newHost(t, pair.New, pair.Old).debs
	up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	conf := filepath.Join(j.Dir, "etc/nginx/conf.d/default.conf")
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	was, moved := j.Port, lab.FreePort(t)
	require.NoError(t, os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), strconv.Itoa(was), strconv.Itoa(moved))), 0o644))
	h.must(0, "restarted", "restart", "nginx", "--jail", j.Dir)
	j.Port, j.URL = moved, "http://127.0.0.1:"+strconv.Itoa(moved)
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--to", up.Done["snapshot"].(string), "--soak", "500ms")
	j.Port, j.URL = was, "http://127.0.0.1:"+strconv.Itoa(was)
	status, _ = j.Get(t, "/")
	require.Equal(t, 200, status)
}

// A snapshot that was dropped is not named, and a time limit says what it was.
func TestWhatIsToldAtTheEnd(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	r := h.run("upgrade", "nginx", "--jail", j.Dir, "--timeout", "300ms")
	require.Equal(t, 1, r.Exit, r.String())
	require.Contains(t, r.err(), "the time limit of 300ms is over")
	require.Contains(t, r.err(), "nothing is changed")
	require.Empty(t, r.Done["snapshot"])
	require.NotContains(t, r.err(), "context")
}

// A file that is no longer what was installed is put back, though the sources
// offer nothing newer.
func TestStrayedFilesArePutBack(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	old, err := os.ReadFile(filepath.Join(lab.Unpacked(t, pair.Old), "usr/sbin/nginx"))
	require.NoError(t, err)
	exe := filepath.Join(j.Dir, "usr/sbin/nginx")
	require.NoError(t, os.Remove(exe))
	lab.WriteProgram(t, exe, old)
	r := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	require.Contains(t, r.Stdout, "no longer what was installed")
	requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.New), "usr/sbin/nginx"), exe)
	h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir)
}

// A page of the package that an administrator changed is no reason to stop.
func TestAChangedPageStopsNothing(t *testing.T) {
	t.Parallel()
	j, _, h := createdJail(t)
	page := filepath.Join(j.Dir, "usr/share/nginx/html/index.html")
	require.NoError(t, os.WriteFile(page, []byte("mine"), 0o644))
	pid := j.MasterPID()
	h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir)
	require.Equal(t, pid, j.MasterPID())
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
}

// A mistake that lies in the configuration of a running server: it would not
// start again, so it is not stopped.
func TestAServerThatWouldNotStartAgain(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.debs = newHost(t, pair.New, pair.Old).debs
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx/conf.d/bad.conf"), []byte("server { lisen 1; }\n"), 0o644))
	pid := j.MasterPID()
	r := h.must(1, "failed", "upgrade", "nginx", "--jail", j.Dir)
	require.Contains(t, r.err(), "lisen")
	require.Contains(t, r.Done["hint"], "--rehearse=false")
	require.Equal(t, pid, j.MasterPID())
}

// What a deleted jail left behind is not applied to a new one of its name.
func TestANewJailOfAnOldName(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.debs = newHost(t, pair.New, pair.Old).debs
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	j.Stop(t)
	require.NoError(t, os.RemoveAll(j.Dir))
	h.must(0, "created", "create", "nginx", "--jail", j.Dir, "--listen", "127.0.0.1:"+strconv.Itoa(j.Port))
	fresh := stateless(t, j.Dir)
	h.must(1, "failed", "rollback", "--jail", j.Dir)
	h.must(0, "recovered", "recover", "--jail", j.Dir)
	require.Empty(t, lab.DiffTrees(fresh, stateless(t, j.Dir)))
}

// Certificates and the like may be mounted into a jail: the sandbox has them.
func TestRehearsalSeesTheMountsOfTheJail(t *testing.T) {
	lab.Need(t, "root", "apt", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	pair := lab.NginxPair(t)
	j := lab.HandMadeJail(t, pair.Old, lab.InMemory(), lab.WithConf(`
user www-data;
error_log /var/log/nginx/error.log;
events {}
http { access_log off; include /etc/nginx/shared/must.conf; }`))
	shared := lab.ShmDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(shared, "must.conf"), []byte("server { listen 127.0.0.1:"+strconv.Itoa(j.Port)+"; root /srv/www; }\n"), 0o644))
	at := filepath.Join(j.Dir, "etc/nginx/shared")
	require.NoError(t, os.Mkdir(at, 0o755))
	require.NoError(t, unix.Mount(shared, at, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	j.Start(t)
	newHost(t, pair.New, pair.Old).must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
}
