package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func TestAProgramOfNobody(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New) // the older version is not offered any more
	before := stateless(t, j.Dir)
	r := h.must(1, "failed", "upgrade", "nginx", "--jail", j.Dir)
	require.Contains(t, r.err(), "/usr/sbin/nginx")
	require.Contains(t, r.err(), "-V")
	require.Contains(t, r.Done["hint"], "--adopt")
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--adopt", "--soak", "500ms")
}

// What the administrator changed stays, the new version lies beside it.
func TestConfigurationIsKept(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	mine := filepath.Join(j.Dir, "etc/nginx/mime.types")
	data, err := os.ReadFile(mine)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(mine, append([]byte("# mine\n"), data...), 0o644))
	gone := filepath.Join(j.Dir, "etc/nginx/koi-win")
	require.NoError(t, os.Remove(gone))
	deb := lab.Repack(t, lab.FindDeb(t, pair.New, "nginx-common"), func(dir string, _ *lab.Control) {
		f := filepath.Join(dir, "etc/nginx/mime.types")
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(f, append(text, []byte("# theirs\n")...), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/nginx/fastcgi.conf"), []byte("# all new\n"), 0o644))
	})
	h.debs = newHost(t, lab.ReplaceDebs(t, pair.New, deb), pair.Old).debs
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	kept, err := os.ReadFile(mine)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(kept), "# mine\n"))
	beside, err := os.ReadFile(mine + ".jailup-new")
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(beside), "# theirs\n"))
	require.NoFileExists(t, gone)
	replaced, err := os.ReadFile(filepath.Join(j.Dir, "etc/nginx/fastcgi.conf"))
	require.NoError(t, err)
	require.Equal(t, "# all new\n", string(replaced))
}

// An upstream by name, which resolves outside by the jail's hosts file only:
// the sandbox has a resolver of its own, and the includes of the jail.
func TestRehearsalOfAnOrdinarySite(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt")
	pair := lab.NginxPair(t)
	j := lab.HandMadeJail(t, pair.Old, lab.InMemory(), lab.WithConf(`
user www-data;
error_log /var/log/nginx/error.log;
events {}
http {
	include mime.types;
	access_log off;
	include /etc/nginx/sites/*.conf;
}`))
	require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "etc/nginx/sites"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/hosts"), []byte("127.0.0.1 backend.shop.example\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx/sites/shop.conf"), []byte(`server {
	listen 127.0.0.1:`+strconv.Itoa(j.Port)+`;
	root /srv/www;
	location /api/ { proxy_pass http://backend.shop.example:8080; }
}`), 0o644))
	j.Start(t)
	newHost(t, pair.New, pair.Old).must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
}

func TestPackageJailIsRefused(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "var/lib/dpkg"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "var/lib/dpkg/status"), nil, 0o644))
	r := newHost(t, pair.New, pair.Old).must(1, "failed", "upgrade", "nginx", "--jail", j.Dir)
	require.Contains(t, r.err(), "package jail")
	require.NotEmpty(t, r.Done["hint"])
}

func TestInstallBuildsWhatIsMissing(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt")
	h := newHost(t, lab.NginxPair(t).New)
	dir := filepath.Join(lab.ShmDir(t), "deep/chroot")
	h.must(0, "created", "upgrade", "nginx", "--install", "--jail", dir, "--listen", "127.0.0.1:8080")
	h.must(0, "current", "upgrade", "nginx", "--install", "--jail", dir)
	noStage(t, dir)
}

// started begins an upgrade and returns once it reports the step.
func started(t *testing.T, h *host, j *lab.Jail, step string, args ...string) (*exec.Cmd, func() map[string]any) {
	t.Helper()
	cmd := h.command(append([]string{"upgrade", "nginx", "--jail", j.Dir}, args...)...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	last := map[string]any{}
	next := func() bool {
		if !lines.Scan() {
			return false
		}
		last = map[string]any{}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &last))
		return true
	}
	for next() {
		if last["kind"] == "step.start" && last["step"] == step {
			break
		}
	}
	return cmd, func() map[string]any {
		for next() {
		}
		_ = cmd.Wait()
		return last
	}
}

func TestOneRunAtATime(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	_, end := started(t, h, j, "verify", "--soak", "4s")
	began := time.Now()
	r := h.must(11, "failed", "upgrade", "nginx", "--jail", j.Dir)
	require.Less(t, time.Since(began), time.Second)
	require.Contains(t, r.err(), "upgrade")
	require.Contains(t, r.err(), "since")
	other := filepath.Join(lab.ShmDir(t), "other-name")
	require.NoError(t, os.Symlink(j.Dir, other))
	h.must(11, "failed", "rollback", "--jail", other)
	require.EqualValues(t, 0, end()["exit"])
}

// Ctrl-C while the new server is watched: back, and 130.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"stage", "verify"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			j, pair := oldJail(t)
			h := newHost(t, pair.New, pair.Old)
			before := stateless(t, j.Dir)
			cmd, end := started(t, h, j, step, "--soak", "30s")
			require.NoError(t, cmd.Process.Signal(unix.SIGINT))
			done := end()
			require.Equal(t, "interrupted", done["result"], done)
			require.Equal(t, 130, cmd.ProcessState.ExitCode())
			require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
			status, _ := j.Get(t, "/")
			require.Equal(t, 200, status)
			noStage(t, j.Dir)
		})
	}
}

// A file edited after the upgrade is not lost by the rollback.
func TestRollbackKeepsEdits(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	deb := lab.Repack(t, lab.FindDeb(t, pair.New, "nginx-common"), func(dir string, _ *lab.Control) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/nginx/fastcgi.conf"), []byte("# new\n"), 0o644))
	})
	h.debs = newHost(t, lab.ReplaceDebs(t, pair.New, deb), pair.Old).debs
	conf := filepath.Join(j.Dir, "etc/nginx/fastcgi.conf")
	old, err := os.ReadFile(conf)
	require.NoError(t, err)
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	require.NoError(t, os.WriteFile(conf, []byte("# edited\n"), 0o644))
	r := h.must(7, "stale", "rollback", "--jail", j.Dir)
	require.Contains(t, r.err(), "/etc/nginx/fastcgi.conf")
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--keep-edits", "--soak", "500ms")
	now, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.Equal(t, string(old), string(now))
	edited, err := os.ReadFile(conf + ".jailup-edited")
	require.NoError(t, err)
	require.Equal(t, "# edited\n", string(edited))
}

// Back to a snapshot, after its stage is gone.
func TestRollbackToASnapshot(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	before := stateless(t, j.Dir)
	h.debs = newHost(t, pair.New, pair.Old).debs
	up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	data := filepath.Join(j.Dir, "srv-data")
	require.NoError(t, os.WriteFile(data, []byte("written since"), 0o644))
	stages, err := filepath.Glob(filepath.Join(filepath.Dir(j.Dir), ".jailup-stage-*"))
	require.NoError(t, err)
	require.Len(t, stages, 1)
	require.NoError(t, os.RemoveAll(stages[0]))
	r := h.must(1, "failed", "rollback", "--jail", j.Dir)
	require.Contains(t, r.Done["hint"], "--to "+up.Done["snapshot"].(string))
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--to", up.Done["snapshot"].(string), "--soak", "500ms")
	got, err := os.ReadFile(data)
	require.NoError(t, err)
	require.Equal(t, "written since", string(got))
	require.NoError(t, os.Remove(data))
	for _, d := range lab.DiffTrees(before, stateless(t, j.Dir)) {
		require.NotContains(t, d, "sha256", d)
	}
	requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.Old), "usr/sbin/nginx"), filepath.Join(j.Dir, "usr/sbin/nginx"))
}

// A full disk: the upgrade fails while the old server still answers.
func TestAFullDisk(t *testing.T) {
	lab.Need(t, "root", "apt", "loop", "mkfs.ext4")
	if lab.InPrivateMounts(t) {
		return
	}
	pair := lab.NginxPair(t)
	mnt := lab.Loop(t, "ext4", 64)
	j := lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(mnt, "chroot")))
	j.Start(t)
	h := newHost(t, pair.New, pair.Old)
	before, pid := stateless(t, j.Dir), j.MasterPID()
	refused := func(told string, args ...string) result {
		t.Helper()
		r := h.must(1, "failed", append([]string{"upgrade", "nginx", "--jail", j.Dir}, args...)...)
		require.Contains(t, r.err(), told)
		require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
		require.Equal(t, pid, j.MasterPID())
		noStage(t, j.Dir)
		return r
	}

	// That of the jail fills while the stage is written: its room is not counted.
	fill(t, filepath.Join(mnt, "fill"), 1<<20)
	refused("no space left")
	require.NoError(t, os.Remove(filepath.Join(mnt, "fill")))

	// That of the snapshots is known to be too small before a byte is copied.
	small := lab.Loop(t, "ext4", 16)
	store := filepath.Join(small, "snapshots")
	fill(t, filepath.Join(small, "fill"), 1<<20)
	free := left(t, small)
	r := refused(fmt.Sprintf("KiB in %s, and ", store), "--snapshots", store)
	require.Contains(t, r.err(), "the snapshot needs")
	require.Contains(t, r.Done["hint"], "--snapshots")
	require.InDelta(t, free, left(t, small), 64<<10, "nothing was copied")

	// What is left out of a snapshot is not counted, so only the copy finds it out;
	// and what it had written goes.
	conf := filepath.Join(h.dir, "config.yaml")
	require.NoError(t, os.WriteFile(conf, []byte("snapshot: {exclude: [/srv/none/**]}\n"), 0o644))
	refused("no space left", "--snapshots", store, "--config", conf)
	require.InDelta(t, free, left(t, small), 64<<10, "the part of a copy is gone")

	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
}

// fill leaves about so many bytes of a file system.
func fill(t *testing.T, file string, leave uint64) {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(filepath.Dir(file), &st))
	f, err := os.Create(file)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail*uint64(st.Bsize)-leave)))
}

// left is how many bytes a file system has free for others than root.
func left(t *testing.T, dir string) float64 {
	t.Helper()
	lab.Sync(t, dir)
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	return float64(st.Bavail) * float64(st.Bsize)
}

// Output into a pipe that nobody reads any more must not end the run half-way.
func TestPipedIntoHead(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	cmd := h.command("upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = w, w
	require.NoError(t, cmd.Start())
	w.Close()
	_, err = r.Read(make([]byte, 10))
	require.NoError(t, err)
	r.Close()
	require.NoError(t, cmd.Wait())
	h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir)
}

// The started server has nothing of jailup's: no descriptor, no lock, no ignored
// signal, no environment.
func TestWhatTheServerInherits(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	h.env = []string{"SECRET=1", "LD_PRELOAD=", "NGINX="}
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	proc := filepath.Join("/proc", strconv.Itoa(j.MasterPID()))
	env, err := os.ReadFile(filepath.Join(proc, "environ"))
	require.NoError(t, err)
	require.NotContains(t, string(env), "SECRET")
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	require.NoError(t, err)
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		require.NoError(t, err)
		require.NotContains(t, to, h.dir)
		require.NotContains(t, to, ".lock")
	}
	h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir) // the lock is free
}

// A held server is left alone, and that is no success and no failure.
func TestHeld(t *testing.T) {
	t.Parallel()
	j, _, h := createdJail(t)
	conf := filepath.Join(h.dir, "config.yaml")
	require.NoError(t, os.WriteFile(conf, []byte("hold: [nginx]\n"), 0o644))
	h.must(14, "skipped", "upgrade", "nginx", "--jail", j.Dir, "--config", conf)
	r := h.run("upgrade", "nginx", "--jail", j.Dir, "--config", conf, "--skip-ok")
	require.Equal(t, 0, r.Exit, r.String())
}

// An executable that was edited since goes aside as any other file.
func TestKeepEditsOfTheServerItself(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.debs = newHost(t, pair.New, pair.Old).debs
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	exe := filepath.Join(j.Dir, "usr/sbin/nginx")
	data, err := os.ReadFile(exe)
	require.NoError(t, err)
	require.NoError(t, os.Remove(exe))
	lab.WriteProgram(t, exe, append(data, "edited"...))
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--keep-edits", "--soak", "500ms")
	requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.Old), "usr/sbin/nginx"), exe)
	require.FileExists(t, exe+".jailup-edited")
}
