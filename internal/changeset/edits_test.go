package changeset

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// edit replaces what is at a path of the jail by a file of the administrator's;
// false where it cannot be done because the parent is not there.
func (b *bench) edit(p, content string) bool {
	b.t.Helper()
	full := filepath.Join(b.jail, p)
	up, err := os.Lstat(filepath.Dir(full))
	if err != nil || !up.IsDir() {
		return false
	}
	if st, err := os.Lstat(full); err == nil && st.IsDir() {
		return false
	}
	_ = os.Remove(full)
	require.NoError(b.t, os.WriteFile(full, []byte(content), 0o640))
	return true
}

// Somebody writes any file of the set at any moment of the install: what he
// wrote is there after the undo, is told, and all else is the old tree.
func TestForeignEditsAreKept(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	model := everythingIn(t, lab.ShmDir(t))
	n := len(model.set.Ops)
	var paths []string
	for _, op := range model.set.Ops {
		if op.Kind != Mkdir && op.Kind != Rmdir && !slices.Contains(paths, op.Path) {
			paths = append(paths, op.Path)
		}
	}
	shm := lab.ShmDir(t)
	tried := 0
	for k := 0; k < n; k += 3 {
		for i, p := range paths {
			if (i+k/3)%2 == 1 {
				continue // half of the cells
			}
			base := filepath.Join(shm, fmt.Sprint(k, "-", i))
			require.NoError(t, os.Mkdir(base, 0o755))
			b := everythingIn(t, base)
			b.installFirst(k)
			pending := b.pendingAdd(p)
			content := fmt.Sprintf("edited by hand at %d: %s", k, p)
			if !b.edit(p, content) {
				continue
			}
			tried++
			kept, err := b.worker().Undo()
			require.NoError(t, err, content)
			if pending {
				require.Subset(t, parents(p), kept, "%s: nothing of the set was there yet", content)
			} else {
				require.Contains(t, kept, p, content)
			}
			b.onlyEdited(p, content)
		}
	}
	t.Logf("%d edits", tried)
	require.Greater(t, tried, 80)
}

// onlyEdited asserts that the jail is the old one but for one edited file and
// the directories that hold it.
func (b *bench) onlyEdited(p, content string) {
	b.t.Helper()
	got, err := os.ReadFile(filepath.Join(b.jail, p))
	require.NoError(b.t, err, content)
	require.Equal(b.t, content, string(got))
	want, now := maps.Clone(b.old), lab.TreeDigest(b.t, b.jail)
	for _, x := range append(parents(p), p) {
		delete(want, path.Clean("."+x))
		delete(now, path.Clean("."+x))
	}
	for x := range want {
		if strings.HasPrefix(x, p[1:]+"/") { // what was in a directory that is a file now
			delete(want, x)
		}
	}
	require.Empty(b.t, lab.DiffTrees(want, now), content)
}

// pendingAdd tells whether p is only added, and not yet: an undo has nothing to
// do with it, and nothing to tell.
func (b *bench) pendingAdd(p string) bool {
	b.t.Helper()
	i := index(b.set.Ops, Add, p)
	if i < 0 || index(b.set.Ops, Remove, p) >= 0 || index(b.set.Ops, Rmdir, p) >= 0 {
		return false
	}
	pos, err := b.worker().where(&b.set.Ops[i])
	require.NoError(b.t, err)
	return pos == atOld
}

// An install that meets an edit stops, names it, and what it has done is undone.
func TestInstallStopsAtAnEdit(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	for _, p := range []string{"/usr/lib/libc.so.6", "/usr/lib/libnew.so.2", "/usr/lib/libgone.so.1", "/usr/sbin/nginx", "/usr/sbin/helper", "/usr/lib/libx.so", "/filetolink"} {
		b := everythingIn(t, lab.ShmDir(t))
		require.True(t, b.edit(p, "mine"))
		drift, err := b.worker().Drift()
		require.NoError(t, err)
		require.Equal(t, []string{p}, drift)
		err = b.worker().Install(t.Context())
		var fe *ForeignError
		require.ErrorAs(t, err, &fe, p)
		require.Equal(t, p, fe.Path)
		require.Equal(t, "cannot change "+p+": someone else wrote it meanwhile", err.Error())
		_, err = b.worker().Undo()
		require.NoError(t, err)
		b.onlyEdited(p, "mine")
	}
}

// Between the look and the exchange: what comes out is not what was expected,
// and goes back at once.
func TestExchangeIsTakenBack(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	for _, c := range []struct {
		kind Kind
		path string
	}{{Replace, "/usr/lib/libc.so.6"}, {Remove, "/usr/lib/libgone.so.1"}, {Add, "/usr/lib/libnew.so.2"}} {
		b := everythingIn(t, lab.ShmDir(t))
		op := &b.set.Ops[index(b.set.Ops, c.kind, c.path)]
		w := b.worker()
		pos, err := w.where(op)
		require.NoError(t, err)
		require.Equal(t, atOld, pos)
		require.True(t, b.edit(c.path, "at the last moment"))
		var fe *ForeignError
		require.ErrorAs(t, w.forward(op), &fe)
		b.onlyEdited(c.path, "at the last moment")

		// And on the way back.
		b = everythingIn(t, lab.ShmDir(t))
		b.install()
		op = &b.set.Ops[index(b.set.Ops, c.kind, c.path)]
		w = b.worker()
		require.True(t, b.edit(c.path, "at the last moment"))
		require.ErrorAs(t, w.backward(op), &fe)
		got, err := os.ReadFile(filepath.Join(b.jail, c.path))
		require.NoError(t, err)
		require.Equal(t, "at the last moment", string(got))
	}
}

// A change of mode or owner is an edit as well; one of the time alone is none.
func TestMetadataEdits(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	for name, c := range map[string]struct {
		do    func(string) error
		drift bool
	}{
		"mode":            {func(p string) error { return os.Chmod(p, 0o600) }, true},
		"owner":           {func(p string) error { return os.Chown(p, 12, 12) }, true},
		"time":            {func(p string) error { return os.Chtimes(p, unixNow(), unixNow()) }, false},
		"same size, time": {func(p string) error { return overwrite(p, "OLD libc") }, true},
	} {
		b := everythingIn(t, lab.ShmDir(t))
		p := filepath.Join(b.jail, "usr/lib/libc.so.6")
		require.NoError(t, c.do(p))
		before := lab.TreeDigest(t, b.jail)
		drift, err := b.worker().Drift()
		require.NoError(t, err)
		require.Equal(t, c.drift, len(drift) > 0, name)
		if !c.drift {
			b.install()
			b.is(b.new, "%s", name)
			_, err := b.worker().Undo()
			require.NoError(t, err)
			require.Empty(t, lab.DiffTrees(before, lab.TreeDigest(t, b.jail)), name)
		}
	}
}

func TestDrift(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	for name, c := range map[string]struct {
		do   func(jail string) error
		want []string
	}{
		"a directory where one shall be made": {func(j string) error { return os.Mkdir(j+"/made", 0o755) }, []string{"/made"}},
		"a file where a directory shall be":   {func(j string) error { return os.WriteFile(j+"/made", nil, 0o644) }, []string{"/made"}},
		"a file where a link was":             {func(j string) error { return replaceBy(j+"/linktodir", "x") }, []string{"/linktodir"}},
		"a directory that shall go is gone":   {func(j string) error { return os.RemoveAll(j + "/dead") }, []string{"/dead/deep/x", "/dead/y", "/dead/deep", "/dead"}},
		"a file that shall go is gone":        {func(j string) error { return os.Remove(j + "/dead/y") }, []string{"/dead/y"}},
		"a file of nobody":                    {func(j string) error { return os.WriteFile(j+"/usr/lib/other", nil, 0o644) }, nil},
		"a file of nobody in what shall go":   {func(j string) error { return os.WriteFile(j+"/dead/other", nil, 0o644) }, nil},
	} {
		b := everythingIn(t, lab.ShmDir(t))
		require.NoError(t, c.do(b.jail))
		drift, err := b.worker().Drift()
		require.NoError(t, err, name)
		require.ElementsMatch(t, c.want, drift, name)
	}
}

// Somebody takes a directory away in which much is to be undone: the rest is
// undone all the same, and what cannot be is told.
func TestUndoWithoutAParent(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	b.install()
	require.NoError(t, os.RemoveAll(filepath.Join(b.jail, "usr/lib")))
	kept, err := b.worker().Undo()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"/usr/lib/libc.so.6", "/usr/lib/libx.so", "/usr/lib/libgone.so", "/usr/lib/libgone.so.1"}, kept)
	want := maps.Clone(b.old)
	maps.DeleteFunc(want, func(p, _ string) bool { return p == "usr" || strings.HasPrefix(p, "usr/lib") })
	now := lab.TreeDigest(t, b.jail)
	delete(now, "usr")
	require.Empty(t, lab.DiffTrees(want, now))
}

// A parent in the jail flips between a directory and a link that leads out, or
// to another directory of the jail, while installs and undos run: nothing but
// the directory is ever written, and afterwards all can be undone.
func TestParentFlips(t *testing.T) {
	t.Parallel()
	flips := 20_000
	for _, to := range []string{"/etc", "OUT", "../../../../../../../../../../OUT"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			base := lab.ShmDir(t)
			out := filepath.Join(base, "out")
			require.NoError(t, os.Mkdir(out, 0o755))
			plant(t, out, oldTime, file("/a", "host"), file("/gone", "host"), dir("/sub"), file("/sub/b", "host"))
			canary := lab.TreeDigest(t, out)
			things := func(text string) []thing {
				return []thing{dir("/etc"), file("/etc/a", "etc"), file("/etc/gone", "etc"), dir("/etc/sub"), file("/etc/sub/b", "etc"),
					dir("/srv").at(oldTime), dir("/srv/flip").at(oldTime), file("/srv/flip/a", text), dir("/srv/flip/sub"), file("/srv/flip/sub/b", text)}
			}
			b := newBench(t, base, oldTime, append(things("old"), file("/srv/flip/gone", "old")),
				append(things("new"), file("/srv/flip/added", "new"), dir("/srv/flip/made"), file("/srv/flip/made/c", "new")))
			target := strings.ReplaceAll(to, "OUT", out)
			srv := filepath.Join(b.jail, "srv")
			require.NoError(t, os.Symlink(target, filepath.Join(srv, "link")))
			stop := make(chan struct{})
			var flipper sync.WaitGroup
			done := 0
			flipper.Go(func() {
				d, err := os.Open(srv)
				if err != nil {
					t.Error(err)
					return
				}
				defer d.Close()
				for ; done < flips; done++ {
					if err := unix.Renameat2(int(d.Fd()), "flip", int(d.Fd()), "link", unix.RENAME_EXCHANGE); err != nil {
						t.Error(err)
						return
					}
				}
				close(stop)
			})
			rounds, through := 0, 0
			for running := true; running; rounds++ {
				select {
				case <-stop:
					running = false
				default:
				}
				w := b.worker()
				if w.Install(t.Context()) == nil {
					through++
				}
				_, _ = w.Undo()
				w.Close()
			}
			flipper.Wait()
			require.Equal(t, flips, done)
			require.Zero(t, flips%2, "the directory is in its place again")
			t.Logf("%d rounds, %d installs went through", rounds, through)
			require.Empty(t, lab.DiffTrees(canary, lab.TreeDigest(t, out)), "outside")
			require.NoError(t, os.Remove(filepath.Join(srv, "link")))
			b.undo()
			now := lab.TreeDigest(t, b.jail)
			delete(now, "srv") // its time is the flipper's
			delete(b.old, "srv")
			require.Empty(t, lab.DiffTrees(b.old, now))
		})
	}
}

func unixNow() time.Time { return time.Unix(1_234_567_890, 0) }

// overwrite changes a file in place and gives it its old times again.
func overwrite(p, content string) error {
	st, err := os.Stat(p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close(), os.Chtimes(p, st.ModTime(), st.ModTime()))
}

func replaceBy(p, content string) error {
	return errors.Join(os.Remove(p), os.WriteFile(p, []byte(content), 0o644))
}
