//go:build faultpoints

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// The switches that take a wall, or a part of it, away.
const (
	noDescriptors = "JAILUP_FAULT_DESCRIPTORS=off"
	noMounts      = "JAILUP_FAULT_MOUNTS=off"
	noLandlock    = "JAILUP_FAULT_LANDLOCK=off"
	noWall        = "JAILUP_FAULT_WALL=off"
)

// walled is a jail in a folder with a canary beside it and another elsewhere.
type walled struct {
	*faultRun
	away string // another canary, not beside the jail
	was  map[string]string
}

func newWalled(t *testing.T, base string) *walled {
	t.Helper()
	w := &walled{faultRun: newFaultRun(t, base), away: lab.ShmDir(t)}
	for _, p := range []string{"etc/nginx/nginx.conf", "usr/sbin/nginx", "usr/lib/x86_64-linux-gnu/libc.so.6", "var/log/nginx/error.log", "run/x"} {
		f := filepath.Join(w.away, p)
		require.NoError(t, os.MkdirAll(filepath.Dir(f), 0o755))
		require.NoError(t, os.WriteFile(f, []byte("the host's\n"), 0o644))
	}
	w.was = lab.TreeDigest(t, w.away)
	return w
}

// untouched wants both canaries as they were.
func (w *walled) untouched(y *lab.Tally, what string) {
	w.t.Helper()
	if d := lab.DiffTrees(w.can, lab.TreeDigest(w.t, w.canary)); len(d) > 0 {
		y.Outside("%s: beside the jail: %v", what, d)
	}
	if d := lab.DiffTrees(w.was, lab.TreeDigest(w.t, w.away)); len(d) > 0 {
		y.Outside("%s: elsewhere: %v", what, d)
	}
}

// onHost wants the server's workers to live on the host's mounts.
func onHost(t *testing.T, j *lab.Jail, what string) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	var root unix.Stat_t
	require.NoError(t, unix.Stat(j.Dir, &root))
	var mnt, want unix.Statx_t
	require.NoError(t, unix.Statx(unix.AT_FDCWD, j.Dir, 0, unix.STATX_MNT_ID, &want))
	found := 0
	all, err := filepath.Glob("/proc/[0-9]*/root")
	require.NoError(t, err)
	for _, p := range all {
		var st unix.Stat_t
		if unix.Stat(p+"/.", &st) != nil || st.Dev != root.Dev || st.Ino != root.Ino {
			continue
		}
		if unix.Statx(unix.AT_FDCWD, p+"/.", 0, unix.STATX_MNT_ID, &mnt) != nil {
			continue
		}
		found++
		ns, err := os.Readlink(filepath.Join(filepath.Dir(p), "ns/mnt"))
		if err != nil {
			continue // it has ended
		}
		require.Equal(t, own, ns, "%s: %s", what, p)
		require.Equal(t, want.Mnt_id, mnt.Mnt_id, "%s: the root of %s lies on a mount of its own", what, p)
	}
	require.Positive(t, found, what)
}

// An upgrade and a rollback work inside each wall alone, and inside both.
func TestTwoWallsEachAlone(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	y := lab.NewTally(t, "two walls")
	walls := []struct {
		name string
		env  []string
	}{
		{"both", nil}, {"descriptors only", []string{noWall}}, {"mounts and Landlock", []string{noDescriptors}},
		{"mounts only", []string{noDescriptors, noLandlock}}, {"Landlock only", []string{noDescriptors, noMounts}},
		{"descriptors and mounts", []string{noLandlock}}, {"descriptors and Landlock", []string{noMounts}},
	}
	i := 0
	for _, fs := range []string{"tmpfs", "ext4", "xfs", "btrfs", "mount point", "proc in it", "200 siblings"} {
		i++
		if !lab.Sampled(t, i) && fs != "tmpfs" {
			continue
		}
		t.Run(strings.ReplaceAll(fs, " ", "-"), func(t *testing.T) {
			base := lab.ShmDir(t)
			switch fs {
			case "ext4", "xfs", "btrfs":
				lab.Need(t, "loop", "mkfs."+fs)
				base = lab.Loop(t, fs, 400)
			case "mount point":
				at := filepath.Join(base, "chroot")
				require.NoError(t, os.Mkdir(at, 0o755))
				require.NoError(t, unix.Mount("tmpfs", at, "tmpfs", 0, "mode=0755"))
				t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
			case "200 siblings":
				for n := range 200 {
					require.NoError(t, os.MkdirAll(filepath.Join(base, "site"+strconv.Itoa(n), "htdocs"), 0o755))
				}
			}
			w := newWalled(t, base)
			if fs == "proc in it" {
				at := filepath.Join(w.j.Dir, "proc")
				require.NoError(t, os.MkdirAll(at, 0o755))
				require.NoError(t, unix.Mount("proc", at, "proc", 0, ""))
				t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
			}
			before := ofTheJail(t, w.j.Dir)
			var after map[string]string
			for _, wall := range walls {
				what := fs + ", " + wall.name
				w.h.env = wall.env
				w.h.must(0, "upgraded", "upgrade", "nginx", "--jail", w.j.Dir, "--soak", "0s")
				onHost(t, w.j, what)
				now := ofTheJail(t, w.j.Dir)
				if after == nil {
					after = now
				}
				if d := rootTime(lab.DiffTrees(after, now)); len(d) > 0 {
					y.Mixed("%s: %v", what, d)
				}
				y.Cases(1)
				y.Point("new")
				w.h.must(0, "rolled-back", "rollback", "--jail", w.j.Dir, "--soak", "0s")
				onHost(t, w.j, what)
				if d := rootTime(lab.DiffTrees(before, ofTheJail(t, w.j.Dir))); len(d) > 0 {
					y.Mixed("%s: %v", what, d)
				}
				y.Cases(1)
				y.Point("old")
				w.untouched(y, what)
			}
			w.h.env = nil
		})
	}
}

// ofTheJail is the tree without what lies in it and is not of it: the stage of a
// jail that is a mount point, and procfs.
func ofTheJail(t *testing.T, dir string) map[string]string {
	return lab.TreeDigest(t, dir, append([]string{".jailup-stage", ".jailup-stage/**", "proc/**"}, state...)...)
}

// rootTime leaves out the time of the root: where the stage lies in it, it is made
// there.
func rootTime(diff []string) []string {
	return slices.DeleteFunc(diff, func(d string) bool { return strings.Contains(d, `"."`) })
}

// planted are links that lead out of the jail from places that are written to.
func planted(w *walled) map[string]string {
	return map[string]string{
		"etc":                   w.away + "/etc",
		"etc/nginx":             w.canary + "/etc/nginx",
		"usr":                   w.away + "/usr",
		"usr/sbin":              w.away + "/usr/sbin",
		"usr/lib":               w.away + "/usr/lib",
		"var":                   w.away + "/var",
		"var/log":               w.away + "/var/log",
		"var/log/nginx":         w.away + "/var/log/nginx",
		"run":                   w.away + "/run",
		"usr/share":             "../../canary",
		"usr/sbin/nginx":        w.away + "/usr/sbin/nginx",
		"etc/nginx/nginx.conf":  w.canary + "/etc/nginx/nginx.conf",
		"etc/nginx/conf.d":      "/proc/sys/kernel",
		"usr/share/nginx":       "/proc/1/root" + w.away,
		"var/lib":               w.h.dir + "/state/..",
		"lib/x86_64-linux-gnu":  w.away + "/usr/lib/x86_64-linux-gnu",
		"usr/lib/nginx/modules": w.away + "/usr/lib",
	}
}

// A link out of the jail in a place that is written to leads a write nowhere, by
// each wall alone. That the run is refused, or ends as if nothing were wrong with
// the link taken for what it is, is both right; harm outside is not.
func TestTwoWallsPlantedLinks(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	y := lab.NewTally(t, "two walls")
	w := newWalled(t, lab.ShmDir(t))
	links := planted(w)
	var names []string
	for p := range links {
		names = append(names, p)
	}
	slices.Sort(names)
	walls := map[string][]string{
		"the first": {noWall}, "the second": {noDescriptors}, "mounts": {noDescriptors, noLandlock}, "Landlock": {noDescriptors, noMounts},
	}
	y.Of(len(names) * len(walls))
	i := 0
	for _, name := range names {
		for wall, env := range walls {
			i++
			if !lab.Sampled(t, i) {
				continue
			}
			if wall == "mounts" && strings.HasPrefix(links[name], "/proc/1/root") {
				continue // that way leads out of the mounts; Landlock and the first wall are before it
			}
			what := name + " -> " + links[name] + ", " + wall + " alone"
			at := filepath.Join(w.j.Dir, name)
			aside := filepath.Join(w.h.dir, "aside")
			had := exists(at)
			if had {
				require.NoError(t, os.Rename(at, aside), what)
			} else {
				require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
			}
			require.NoError(t, os.Symlink(links[name], at))
			w.h.env = env
			r := w.h.run("upgrade", "nginx", "--jail", w.j.Dir, "--soak", "0s", "--start-timeout", "3s")
			y.Cases(1)
			switch r.Exit {
			case 0:
				y.Point("new")
			case 1, 3, 7:
				y.Point("refused")
			default:
				y.WrongExit("%s: %d: %s", what, r.Exit, r)
			}
			w.untouched(y, what)
			w.h.env = nil
			if r.Exit == 0 {
				w.h.run("rollback", "--jail", w.j.Dir, "--soak", "0s", "--start-timeout", "3s")
				w.untouched(y, what+", back")
			}
			if info, err := os.Lstat(at); err == nil && info.Mode()&os.ModeSymlink != 0 {
				require.NoError(t, os.Remove(at))
			}
			if had {
				require.NoError(t, os.RemoveAll(at))
				require.NoError(t, os.Rename(aside, at))
			}
		}
	}
}
