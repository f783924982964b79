package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// canary is a folder outside of every jail, with something in it that a sweep
// that follows links would take for an old stage.
func canary(t *testing.T) (dir string, intact func()) {
	t.Helper()
	dir = filepath.Join(lab.ShmDir(t), "canary")
	old := filepath.Join(dir, oldRun, "deep")
	require.NoError(t, os.MkdirAll(old, 0o755))
	for _, f := range []string{filepath.Join(dir, "precious"), filepath.Join(old, "000001")} {
		require.NoError(t, os.WriteFile(f, []byte("not the jail's\n"), 0o644))
	}
	before := lab.TreeDigest(t, dir)
	return dir, func() {
		t.Helper()
		require.Empty(t, lab.DiffTrees(before, lab.TreeDigest(t, dir)), "touched outside of the jail")
	}
}

// oldRun looks like the id of a run that was cut off long ago.
const oldRun = "20200101T000000Z-000beef"

// refused wants the upgrade to end before it began, with the path in the words.
func refused(t *testing.T, h *host, j *lab.Jail, where string) {
	t.Helper()
	before, pid := stateless(t, j.Dir), j.MasterPID()
	r := h.must(1, "failed", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	require.Contains(t, r.err(), where)
	require.Contains(t, r.Done["hint"], where)
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	require.Equal(t, pid, j.MasterPID())
	r = h.run("rollback", "--jail", j.Dir)
	require.Equal(t, 1, r.Exit, r.String())
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
}

// Whoever may write to the root of a jail that is a mount point may put a link
// where the stages go: to a folder of the host.
func TestPlantedLinkInAMountPoint(t *testing.T) {
	lab.Need(t, "root", "apt", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	pair := lab.NginxPair(t)
	mnt := filepath.Join(lab.ShmDir(t), "mnt")
	require.NoError(t, os.Mkdir(mnt, 0o755))
	require.NoError(t, unix.Mount("tmpfs", mnt, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	j := lab.HandMadeJail(t, pair.Old, lab.InDir(mnt))
	j.Start(t)
	h := newHost(t, pair.New, pair.Old)
	dir, intact := canary(t)
	stages := filepath.Join(mnt, ".jailup-stage")

	require.NoError(t, os.Symlink(dir, stages))
	refused(t, h, j, stages)
	intact()

	// Something mounted there is not the jail's either.
	require.NoError(t, os.Remove(stages))
	require.NoError(t, os.Mkdir(stages, 0o700))
	require.NoError(t, unix.Mount(dir, stages, "", unix.MS_BIND, ""))
	refused(t, h, j, stages)
	require.NoError(t, unix.Unmount(stages, 0))
	intact()

	// In the folder itself: names that are no runs stay, a link goes as a link.
	require.NoError(t, os.Symlink(dir, filepath.Join(stages, oldRun)))
	require.NoError(t, os.Symlink(dir, filepath.Join(stages, "notes")))
	require.NoError(t, os.MkdirAll(filepath.Join(stages, "20190101T000000Z-000beef/x"), 0o700))
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	intact()
	left := names(t, stages)
	require.Len(t, left, 2, left)
	require.Equal(t, "notes", left[1])
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "0s")
	require.Equal(t, []string{"notes"}, names(t, stages))
	intact()
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Below /tmp, say, anybody may make the name of the folder of stages, which he
// has seen there once.
func TestPlantedLinkInAStickyFolder(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt")
	pair := lab.NginxPair(t)
	parent := filepath.Join(lab.ShmDir(t), "tmp")
	require.NoError(t, os.Mkdir(parent, 0o755))
	require.NoError(t, unix.Chmod(parent, 0o1777))
	j := lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(parent, "chroot")))
	j.Start(t)
	h := newHost(t, pair.New, pair.Old)
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	stages := stagesBeside(t, parent)
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "0s")
	require.False(t, exists(stages))
	dir, intact := canary(t)

	for _, plant := range []struct {
		name string
		make func() error
	}{
		{"a link of a user", func() error {
			require.NoError(t, os.Symlink(dir, stages))
			return os.Lchown(stages, 1000, 1000)
		}},
		{"a link of root", func() error { return os.Symlink(dir, stages) }},
		{"a folder of a user", func() error {
			require.NoError(t, os.Mkdir(stages, 0o700))
			require.NoError(t, os.Symlink(dir, filepath.Join(stages, oldRun)))
			return os.Chown(stages, 1000, 1000)
		}},
		{"a folder that others may read", func() error { return os.Mkdir(stages, 0o755) }},
		{"a file", func() error { return os.WriteFile(stages, []byte("x"), 0o600) }},
		{"a FIFO", func() error { return unix.Mkfifo(stages, 0o600) }},
	} {
		require.NoError(t, plant.make(), plant.name)
		planted := lab.TreeDigest(t, parent, "chroot/**")
		refused(t, h, j, stages)
		intact()
		require.Empty(t, lab.DiffTrees(planted, lab.TreeDigest(t, parent, "chroot/**")), "%s is left as it is", plant.name)
		require.NoError(t, os.RemoveAll(stages))
	}
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	intact()
}

func stagesBeside(t *testing.T, parent string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(parent, ".jailup-stage-*"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// inAFolder is a jail in a folder that a test can move.
func inAFolder(t *testing.T) (*lab.Jail, *host, lab.Pair, string) {
	t.Helper()
	lab.Need(t, "root", "apt")
	pair := lab.NginxPair(t)
	base := lab.ShmDir(t)
	j := lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(base, "jails/chroot")))
	j.Start(t)
	return j, newHost(t, pair.New, pair.Old), pair, base
}

// A jail that was moved with all that lies beside it goes back as if it had not.
func TestStageOfAMovedJail(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]struct{ from, to, jail string }{
		"with the stage": {"jails", "jails2", "jails2/chroot"},
		"alone":          {"jails/chroot", "other", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, h, _, base := inAFolder(t)
			before := stateless(t, j.Dir)
			h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
			require.NoError(t, os.Rename(filepath.Join(base, move.from), filepath.Join(base, move.to)))
			j.Dir = filepath.Join(base, move.jail)
			h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir)
			h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "0s")
			require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
			noStage(t, j.Dir)
			if exists(filepath.Join(base, "jails")) {
				noStage(t, filepath.Join(base, "jails/chroot"))
			}
		})
	}
}

// The stage of before the move goes when no rollback needs it any more, wherever
// the jail is by then.
func TestStageOfBeforeTheMoveIsDropped(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]struct{ from, to, jail string }{
		"with the stage": {"jails", "jails2", "jails2/chroot"},
		"alone":          {"jails/chroot", "other", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, h, pair, base := inAFolder(t)
			h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
			require.NoError(t, os.Rename(filepath.Join(base, move.from), filepath.Join(base, move.to)))
			j.Dir = filepath.Join(base, move.jail)
			deb := lab.Repack(t, lab.FindDeb(t, pair.New, "nginx-common"), func(dir string, _ *lab.Control) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/nginx/mime.types"), []byte("types { text/html html; }\n"), 0o644))
			})
			h.debs = newHost(t, lab.ReplaceDebs(t, pair.New, deb)).debs
			up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
			require.Equal(t, []string{up.Done["run"].(string)}, names(t, stagesBeside(t, filepath.Dir(j.Dir))))
			if exists(filepath.Join(base, "jails")) {
				noStage(t, filepath.Join(base, "jails/chroot"))
			}
		})
	}
}

// The run died while the new server was watched, and the jail was moved before
// anybody ended it.
func TestStageOfAJailMovedWhileCutOff(t *testing.T) {
	t.Parallel()
	j, h, _, base := inAFolder(t)
	before := stateless(t, j.Dir)
	h.bin, h.env = program(t, true), []string{"JAILUP_FAULT_GUARD=off"}
	cmd, end := started(t, h, j, "verify", "--soak", "1m")
	require.NoError(t, cmd.Process.Kill())
	end()
	require.NotEmpty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	require.NoError(t, os.Rename(filepath.Join(base, "jails"), filepath.Join(base, "jails2")))
	j.Dir = filepath.Join(base, "jails2/chroot")
	h.must(0, "recovered", "recover", "--jail", j.Dir)
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	noStage(t, j.Dir)
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
}

// Who does not know which stage is needed removes none.
func TestStageIsKeptOverADamagedRecord(t *testing.T) {
	t.Parallel()
	j, h, _, _ := inAFolder(t)
	before := stateless(t, j.Dir)
	up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	stages := stagesBeside(t, filepath.Dir(j.Dir))
	found, err := filepath.Glob(filepath.Join(h.dir, "state/*/last.json"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	last := found[0]
	good, err := os.ReadFile(last)
	require.NoError(t, err)
	for _, garbage := range []string{"", "{", "{}", "null", `{"run":"x","stage":"/"}`, "directory"} {
		require.NoError(t, os.RemoveAll(last))
		if garbage == "directory" { // it cannot be read at all
			require.NoError(t, os.Mkdir(last, 0o700))
		} else {
			require.NoError(t, os.WriteFile(last, []byte(garbage), 0o600))
		}
		r := h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir)
		require.Equal(t, []string{up.Done["run"].(string)}, names(t, stages), garbage)
		warned := false
		for _, e := range r.Events {
			message, _ := e["message"].(string)
			warned = warned || e["level"] == "warning" && strings.Contains(message, "last.json")
		}
		require.True(t, warned, "%q: %s", garbage, r.String())
		r = h.run("rollback", "--jail", j.Dir)
		require.Equal(t, 1, r.Exit, r.String())
		require.Equal(t, []string{up.Done["run"].(string)}, names(t, stages), garbage)
	}
	require.NoError(t, os.RemoveAll(last))
	require.NoError(t, os.WriteFile(last, good, 0o600))
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "0s")
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	noStage(t, j.Dir)
}
