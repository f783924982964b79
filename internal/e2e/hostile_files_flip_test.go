//go:build faultpoints

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/sys"
)

// flips are how often the catalogue exchanges a directory or file with a link out
// of the jail under jailup's hands, in sum over its tests.
const flips = 100_000

// A flipper exchanges a name with a link that leads out, as fast as it can.
type flipper struct {
	t     *testing.T
	at    string
	times []unix.Timespec // of the folder that holds it
	n     atomic.Int64
	end   atomic.Bool
	ended chan struct{}
}

// flip begins. rest is how long the true name stays after each pair of flips.
func flip(t *testing.T, at, out string, rest time.Duration) *flipper {
	t.Helper()
	f := &flipper{t: t, at: at, times: times(t, filepath.Dir(at)), ended: make(chan struct{})}
	require.NoError(t, os.Symlink(out, at+".flip"))
	go func() {
		defer close(f.ended)
		for !f.end.Load() {
			for range 2 { // there and back
				if unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, at+".flip", unix.RENAME_EXCHANGE) == nil {
					f.n.Add(1)
				}
				if f.n.Load()%64 < 2 {
					time.Sleep(10 * time.Microsecond) // on one core nobody else would have a turn
				}
			}
			if rest > 0 {
				time.Sleep(rest)
			}
		}
	}()
	return f
}

// stop leaves the true name in its place, and says how often it was gone.
func (f *flipper) stop() int {
	f.t.Helper()
	f.end.Store(true)
	<-f.ended
	for _, at := range []string{f.at, f.at + ".flip"} {
		if info, err := os.Lstat(at); err == nil && info.Mode()&os.ModeSymlink != 0 {
			if at == f.at {
				if err := unix.Renameat2(unix.AT_FDCWD, f.at, unix.AT_FDCWD, f.at+".flip", unix.RENAME_EXCHANGE); err != nil {
					require.NoError(f.t, os.Remove(f.at)) // what it was exchanged with is gone
					break
				}
			}
			require.NoError(f.t, os.Remove(f.at+".flip"))
			break
		}
	}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Dir(f.at), f.times, unix.AT_SYMLINK_NOFOLLOW)
	return int(f.n.Load())
}

// flipField is a small jail with a canary beside it.
type flipField struct {
	t      *testing.T
	y      *lab.Tally
	root   *jail.Root
	dir    string
	canary string
	was    map[string]string
}

func newFlipField(t *testing.T) *flipField {
	t.Helper()
	lab.Need(t, "root")
	base := lab.ShmDir(t)
	f := &flipField{t: t, y: lab.NewTally(t, "hostile files"), dir: filepath.Join(base, "chroot"), canary: filepath.Join(base, "canary")}
	for _, d := range []string{f.dir, f.canary} {
		for i := range 10 {
			at := filepath.Join(d, "etc/app", fmt.Sprint("d", i))
			require.NoError(t, os.MkdirAll(at, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(at, "file"), []byte(d), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(d, "etc/app", fmt.Sprint("f", i)), []byte(d), 0o644))
		}
	}
	var err error
	f.root, err = jail.Open(f.dir)
	require.NoError(t, err)
	t.Cleanup(func() { f.root.Close() })
	f.was = fingerprint(t, f.canary)
	f.y.Cases(1)
	return f
}

// under does something again and again while a name is flipped, until the share of
// this test in all flips has been reached.
func (f *flipField) under(at, out string, share int, do func(i int)) {
	f.t.Helper()
	if lab.Sampling() {
		share /= 8
	}
	p := flip(f.t, at, out, 0)
	deadline := time.Now().Add(time.Minute)
	rounds := 0
	for int(p.n.Load()) < share && time.Now().Before(deadline) {
		do(rounds)
		rounds++
	}
	n := p.stop()
	f.y.Of(n)
	for range n {
		f.y.Point("flipped")
	}
	require.GreaterOrEqual(f.t, n, share)
	if diff := lab.DiffTrees(f.was, fingerprint(f.t, f.canary)); len(diff) > 0 {
		f.y.Outside("touched outside of the jail: %s", strings.Join(diff, "\n"))
	}
	f.t.Logf("%d flips in %d rounds", n, rounds)
}

// Files are installed and taken back while a parent is flipped.
func TestHostileFlipInstall(t *testing.T) {
	t.Parallel()
	f := newFlipField(t)
	stage, err := fileset.MakeStage(filepath.Join(filepath.Dir(f.dir), "stage"))
	require.NoError(t, err)
	defer stage.Close()
	var wants []changeset.Want
	for i := range 10 {
		name, st, err := stage.Put(strings.NewReader("new"), 3, fileset.Meta{Perm: 0o600})
		require.NoError(t, err)
		wants = append(wants, changeset.Want{Path: fmt.Sprint("/etc/app/f", i), State: st, Stage: name})
		if name, st, err = stage.Put(strings.NewReader("more"), 4, fileset.Meta{Perm: 0o600}); err == nil {
			wants = append(wants, changeset.Want{Path: fmt.Sprint("/etc/app/new/n", i), State: st, Stage: name})
		}
	}
	in := changeset.Input{Wants: wants, Dirs: []changeset.WantDir{{Path: "/etc/app/new", Mode: 0o700, UID: 1, GID: 1}}, MtimeNS: 1e18}
	set, err := changeset.Compute(f.root, in)
	require.NoError(t, err)
	was := lab.TreeDigest(t, f.dir)
	done, refused := 0, 0
	f.under(filepath.Join(f.dir, "etc/app"), "../../canary/etc/app", flips/4, func(int) {
		_, _ = changeset.Compute(f.root, in)
		w, err := changeset.NewWorker(f.root, stage.Dir(), set)
		require.NoError(t, err)
		defer w.Close()
		if w.Install(context.Background()) == nil {
			done++
		} else {
			refused++
		}
		_, _ = w.Drift()
		_, _ = w.Undo()
	})
	w, err := changeset.NewWorker(f.root, stage.Dir(), set)
	require.NoError(t, err)
	defer w.Close()
	_, err = w.Undo()
	require.NoError(t, err)
	diff := lab.DiffTrees(was, lab.TreeDigest(t, f.dir))
	if len(diff) > 0 {
		f.y.Mixed("when it is quiet again an undo does not bring back all: %s", strings.Join(diff, "\n"))
	}
	t.Logf("%d times installed, %d times refused", done, refused)
}

// The jail is copied while a directory of it is flipped: nothing of what lies
// outside comes into the copy.
func TestHostileFlipSnapshot(t *testing.T) {
	t.Parallel()
	f := newFlipField(t)
	store, err := backup.NewCopy(filepath.Join(filepath.Dir(f.dir), "store"))
	require.NoError(t, err)
	defer store.Close()
	ctx := context.Background()
	copied := 0
	f.under(filepath.Join(f.dir, "etc/app"), "../../canary/etc/app", flips/4, func(i int) {
		p, err := store.Begin(ctx, f.root, fmt.Sprint("s", i), backup.CopyOptions{})
		if err != nil {
			return
		}
		if _, err := p.Settle(ctx, f.root); err == nil {
			copied++
		}
		found, err := exec.Command("grep", "-rl", f.canary, store.Dir()).CombinedOutput()
		if err == nil && i%20 == 0 {
			f.y.Outside("what lies outside is in the snapshot: %s", found)
		}
		require.NoError(t, p.Drop(ctx))
	})
	t.Logf("%d copies", copied)
}

// A tree is removed while a directory in it is flipped.
func TestHostileFlipRemove(t *testing.T) {
	t.Parallel()
	f := newFlipField(t)
	d, err := sys.OpenDir(f.dir)
	require.NoError(t, err)
	defer d.Close()
	share, n, rounds := flips/4, 0, 0
	if lab.Sampling() {
		share /= 8
	}
	for deadline := time.Now().Add(time.Minute); n < share && time.Now().Before(deadline); rounds++ {
		at := filepath.Join(f.dir, "tree/app")
		for i := range 2 {
			require.NoError(t, os.MkdirAll(filepath.Join(at, fmt.Sprint("d", i)), 0o755))
			for k := range 4 {
				require.NoError(t, os.WriteFile(filepath.Join(at, fmt.Sprint("d", i), fmt.Sprint("file", k)), nil, 0o600))
			}
		}
		p := flip(t, at, "../../canary/etc/app", 0)
		for p.n.Load() < 20 {
			time.Sleep(20 * time.Microsecond)
		}
		_ = sys.RemoveTree(int(d.Fd()), "tree")
		p.end.Store(true)
		<-p.ended
		n += int(p.n.Load())
		require.NoError(t, sys.RemoveTree(int(d.Fd()), "tree"))
	}
	f.y.Of(n)
	for range n {
		f.y.Point("flipped")
	}
	if diff := lab.DiffTrees(f.was, fingerprint(t, f.canary)); len(diff) > 0 {
		f.y.Outside("touched outside of the jail: %s", strings.Join(diff, "\n"))
	}
	t.Logf("%d flips in %d rounds", n, rounds)
}

// Modes, owners and times are set on a name that is a file now and a link out then.
func TestHostileFlipMeta(t *testing.T) {
	t.Parallel()
	f := newFlipField(t)
	d, err := f.root.OpenDir("/etc/app")
	require.NoError(t, err)
	defer d.Close()
	f.under(filepath.Join(f.dir, "etc/app/f1"), f.canary+"/etc/app/f1", flips/8, func(i int) {
		_ = sys.Fchmodat(int(d.Fd()), "f1", uint32(0o600+i%2))
		_ = sys.Fchownat(int(d.Fd()), "f1", 1+i%2, 1)
		_ = sys.Utimes(int(d.Fd()), "f1", int64(i))
		_ = sys.Mkdirat(int(d.Fd()), "f1", 0o777)
		if f, err := jail.OpenAt(int(d.Fd()), "f1"); err == nil {
			_ = sys.Fchown(int(f.Fd()), 3, 3)
			f.Close()
		}
	})
	f.under(filepath.Join(f.dir, "etc/app/d1"), f.canary+"/etc/app/d1", flips/8, func(i int) {
		_ = sys.Fchmodat(int(d.Fd()), "d1", uint32(0o700+i%2))
		_ = sys.Fchownat(int(d.Fd()), "d1", 1+i%2, 1)
		for _, open := range []func(string) (*os.File, error){f.root.OpenDir, f.root.OpenPhysical} {
			if dir, err := open("/etc/app/d1"); err == nil {
				_ = sys.WriteFileAt(int(dir.Fd()), "written", []byte("x"), 0o600)
				_ = sys.Futimes(int(dir.Fd()), int64(i))
				_ = sys.Fchmod(int(dir.Fd()), 0o755)
				dir.Close()
			}
		}
	})
}

// The built program upgrades and goes back while a parent of what it changes is
// flipped: the canary stays as it is, and when it is quiet again the jail is
// wholly old or wholly new.
func TestHostileFlipRuns(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "hostile files")
	f := newHostileJail(t, y)
	runs := 3
	if lab.Sampling() {
		runs = 1
	}
	for i, path := range []string{"usr/sbin", "etc/nginx", "usr", "lib", "etc", "var/log", "usr/lib"} {
		if !lab.Sampled(t, i) {
			continue
		}
		for run := range runs {
			rest := []time.Duration{20 * time.Millisecond, 2 * time.Millisecond, 200 * time.Microsecond}[run]
			what := fmt.Sprintf("%s flipped every %s", path, rest)
			was, now := f.clean, f.fresh
			out := fingerprint(t, f.canary)
			up := strings.Repeat("../", strings.Count(path, "/")+1)
			p := flip(t, filepath.Join(f.j.Dir, path), up+"canary/"+path, rest)
			r, hung := f.run(f.upgradeArgs()...)
			n := p.stop()
			if hung {
				y.Person("%s: no end within %s: %s", what, f.limit(), r)
			}
			if diff := lab.DiffTrees(out, fingerprint(t, f.canary)); len(diff) > 0 {
				y.Outside("%s: touched outside of the jail: %s", what, strings.Join(diff, "\n"))
			}
			t.Logf("%-40s %6d flips, exit %d: %s", what, n, r.Exit, r.err())
			y.Of(1)
			y.Point("flipped run")
			if r.Exit == 4 {
				f.run("recover", "--jail", f.j.Dir)
			}
			tree := stateless(t, f.j.Dir)
			mine := &plant{f: f, path: path + ".flip", parent: filepath.Dir(filepath.Join(f.j.Dir, path))}
			old, fresh := f.right(mine, was, tree), f.right(mine, now, tree)
			switch {
			case r.Exit == 0 && old == "", r.Exit != 0 && fresh == "":
				y.WrongExit("%s: exit status %d: %s", what, r.Exit, r)
			case r.Exit != 0 && old != "":
				y.Mixed("%s: exit status %d: not wholly old: %s\n%s", what, r.Exit, old, r.err())
			case r.Exit == 0:
				if fresh != "" { // what was out of sight when the changes were computed is not among them
					t.Logf("%s: new, and another new than without: %s", what, fresh)
				}
				f.back()
				if old := f.right(mine, was, stateless(t, f.j.Dir)); old != "" {
					y.Mixed("%s: the rollback is not wholly old: %s", what, old)
				}
			}
			f.ready(what)
		}
	}
}
