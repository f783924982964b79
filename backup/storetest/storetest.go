// Package storetest is the suite that every kind of backup.Store passes.
package storetest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// Env is a place for one test: a new empty store, and a folder for jails. Both
// are removed by the test that made them.
type Env struct {
	Store backup.Store
	Dir   string
	// Snapshots is the folder in which the store keeps its things, so that the
	// suite can damage them. A snapshot's tree is Snapshots/ID/tree.
	Snapshots string
}

// Run tries all that the contract of backup.Store promises.
func Run(t *testing.T, newEnv func(t testing.TB) Env) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, e Env)
	}{
		{"RoundTrip", roundTrip},
		{"SettleWithoutChange", settleWithoutChange},
		{"SettleBringsUpEveryChange", settleChanges},
		{"SettleTwice", settleTwice},
		{"SettleSeesWhatTimesHide", settleHidden},
		{"LiveJailIsNoError", live},
		{"Exclude", exclude},
		{"VerifyFindsDamage", verifyFinds},
		{"RestoreRefusesDamage", restoreDamaged},
		{"RestoreRefusesFullFolder", restoreRefuses},
		{"Diff", diff},
		{"CrashLeavesNoName", crash},
		{"Resume", resume},
		{"Names", names},
		{"Prune", prune},
		{"Cancel", cancel},
		{"SharesNoInode", sharesNoInode},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "root")
			c.run(t, newEnv(t))
		})
	}
}

func (e Env) jail(t testing.TB) (dir string, root *jail.Root) {
	t.Helper()
	dir = filepath.Join(e.Dir, "jail")
	Nasty(t, dir)
	return dir, open(t, dir)
}

func open(t testing.TB, dir string) *jail.Root {
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func (e Env) begin(t testing.TB, root *jail.Root, id string) *backup.Pending {
	t.Helper()
	p, err := e.Store.Begin(context.Background(), root, id, backup.CopyOptions{})
	require.NoError(t, err)
	return p
}

func (e Env) take(t testing.TB, root *jail.Root, id string) *backup.Snapshot {
	t.Helper()
	p := e.begin(t, root, id)
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	return seal(t, p)
}

func seal(t testing.TB, p *backup.Pending) *backup.Snapshot {
	t.Helper()
	s, err := p.Seal(context.Background(), backup.Meta{JailID: "j1", Jail: "/srv/jail", Consistency: backup.Stopped, Reason: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (e Env) tree(id string) string { return filepath.Join(e.Snapshots, id, "tree") }

// whole asserts that the snapshot is sound and holds what the photo shows.
func (e Env) whole(t testing.TB, s *backup.Snapshot, want map[string]string) {
	t.Helper()
	Same(t, want, Photo(t, e.tree(s.Meta().ID)))
	bad, err := s.Verify(context.Background())
	require.NoError(t, err)
	require.Empty(t, bad)
}

func roundTrip(t *testing.T, e Env) {
	dir, root := e.jail(t)
	want := Photo(t, dir)
	var files int
	p, err := e.Store.Begin(context.Background(), root, "one", backup.CopyOptions{Progress: func(f int, _ int64) { files = f }})
	require.NoError(t, err)
	require.Greater(t, files, 700)
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	s := seal(t, p)
	Same(t, want, Photo(t, dir))
	e.whole(t, s, want)

	for _, name := range []string{"sparse", "hole"} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(e.tree("one"), name), &st))
		require.Less(t, st.Blocks*512, st.Size/2, "%s is no longer sparse", name)
	}
	m := s.Meta()
	require.Equal(t, "one", m.ID)
	require.Equal(t, "j1", m.JailID)
	require.Equal(t, backup.Stopped, m.Consistency)
	require.WithinDuration(t, time.Now(), m.Created, time.Minute)
	require.Equal(t, len(want), m.Entries)

	n := 0
	groups := map[int]int{}
	for entry, err := range s.Manifest() {
		require.NoError(t, err)
		_, ok := want[strings.TrimPrefix(filepath.Clean("."+entry.Path), "./")]
		require.True(t, ok, "%q", entry.Path)
		if entry.Hardlink > 0 {
			groups[entry.Hardlink]++
		}
		if entry.Path == "/etc/shadow" {
			require.Equal(t, backup.File, entry.Type)
			require.EqualValues(t, 0o640, entry.Mode)
			require.Len(t, entry.Digest, 64)
			require.Equal(t, "kept\x00binary\xff", entry.Xattrs["user.note"])
		}
		n++
	}
	require.Equal(t, m.Entries, n)
	require.Equal(t, map[int]int{1: 3, 2: 2}, groups)

	into := filepath.Join(e.Dir, "restored")
	require.NoError(t, s.Restore(context.Background(), into))
	Same(t, want, Photo(t, into))

	tree, err := s.Tree()
	require.NoError(t, err)
	defer tree.Close()
	b, err := tree.ReadFile("/etc/passwd", 1000)
	require.NoError(t, err)
	require.Contains(t, string(b), "root:x:0")

	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(e.Snapshots, "one"), &st))
	require.EqualValues(t, 0o700, st.Mode&0o7777)
}

func settleWithoutChange(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	p := e.begin(t, root, "one")
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.Less(t, c.Copied, 100, "only what was too young")
	c, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.Equal(t, backup.Changed{}, c)
	e.whole(t, seal(t, p), Photo(t, dir))
}

func change(t testing.TB, dir string) {
	p := func(rel string) string { return filepath.Join(dir, rel) }
	ok := func(err error) { t.Helper(); require.NoError(t, err) }
	f, err := os.OpenFile(p("big"), os.O_WRONLY|os.O_APPEND, 0)
	ok(err)
	_, err = f.WriteString("appended")
	ok(err)
	ok(f.Close())
	ok(os.WriteFile(p("etc/passwd"), []byte("short\n"), 0o600))
	ok(os.Remove(p("many/f300")))
	ok(os.WriteFile(p("many/new"), []byte("new"), 0o600))
	ok(os.WriteFile(p("var/shared/inherits"), []byte("acl"), 0o600))
	ok(os.RemoveAll(p("odd")))
	ok(os.MkdirAll(p("fresh/dir"), 0o750))
	ok(os.WriteFile(p("fresh/dir/f"), []byte("f"), 0o644))
	ok(os.Remove(p("absolute")))
	ok(os.Mkdir(p("absolute"), 0o755))
	ok(os.WriteFile(p("absolute/x"), []byte("was a link"), 0o644))
	ok(os.RemoveAll(p("deep")))
	ok(os.Symlink("/etc", p("deep")))
	ok(os.Remove(p("third")))
	ok(os.Link(p("bin/su"), p("bin/su2")))
	ok(os.Rename(p("z"), p("tmp/z")))
	ok(unix.Chmod(p("etc/shadow"), 0o600))
	ok(unix.Chmod(p("tmp"), 0o1770))
	ok(unix.Lremovexattr(p("var"), "user.dir"))
	ok(unix.Lsetxattr(p("etc"), "user.etc", []byte("new"), 0))
	ok(unix.Lremovexattr(p("var/shared"), "system.posix_acl_default"))
	ok(os.Lchown(p("dangling"), 5, 6))
	ok(os.Remove(p("fifo")))
	ok(os.WriteFile(p("fifo"), nil, 0o644))
	age(t, dir, "etc", 1234567890, 999999999) // the time it had
	age(t, dir, "closed/in/file", 77, 77)
}

func settleChanges(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	p := e.begin(t, root, "one")
	change(t, dir)
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.NotZero(t, c.Copied)
	require.NotZero(t, c.Removed)
	s := seal(t, p)
	e.whole(t, s, Photo(t, dir))
	into := filepath.Join(e.Dir, "restored")
	require.NoError(t, s.Restore(context.Background(), into))
	Same(t, Photo(t, dir), Photo(t, into))
}

func settleTwice(t *testing.T, e Env) {
	dir, root := e.jail(t)
	p := e.begin(t, root, "one")
	change(t, dir)
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tmp/z/y/second"), []byte("again"), 0o644))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "fresh")))
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, p), Photo(t, dir))
}

// settleHidden changes content and puts size and mtime back.
func settleHidden(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	p := e.begin(t, root, "one")
	f := filepath.Join(dir, "etc/shadow")
	var st unix.Stat_t
	require.NoError(t, unix.Stat(f, &st))
	b, err := os.ReadFile(f)
	require.NoError(t, err)
	b[0] ^= 1
	fd, err := os.OpenFile(f, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fd.WriteAt(b, 0)
	require.NoError(t, err)
	require.NoError(t, fd.Close())
	age(t, dir, "etc/shadow", st.Mtim.Sec, st.Mtim.Nsec)
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.NotZero(t, c.Copied)
	e.whole(t, seal(t, p), Photo(t, dir))
}

func live(t *testing.T, e Env) {
	dir, root := e.jail(t)
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		p := func(rel string) string { return filepath.Join(dir, rel) }
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			// Errors do not matter here: it is only about unrest.
			f, _ := os.OpenFile(p("big"), os.O_WRONLY|os.O_APPEND, 0)
			f.WriteString(strings.Repeat("log line\n", 100))
			f.Close()
			os.Truncate(p("many/f000"), int64(i%3))
			os.RemoveAll(p("unrest"))
			os.MkdirAll(p("unrest/a/b/c"), 0o755)
			os.WriteFile(p("unrest/a/b/file"), nil, 0o644)
			os.Rename(p("unrest/a"), p("unrest/z"))
			os.Remove(p("flip"))
			if i%2 == 0 {
				os.Symlink("/etc", p("flip"))
			} else {
				os.Mkdir(p("flip"), 0o755)
				os.WriteFile(p("flip/passwd"), []byte("mine"), 0o644)
				os.RemoveAll(p("flip"))
				unix.Mkfifo(p("flip"), 0o600)
			}
		}
	}()
	for _, id := range []string{"l1", "l2", "l3"} {
		p := e.begin(t, root, id)
		_, err := p.Settle(context.Background(), root)
		require.NoError(t, err)
		s, err := p.Seal(context.Background(), backup.Meta{Consistency: backup.Live})
		require.NoError(t, err)
		bad, err := s.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, bad, "a live snapshot is at least what its manifest says")
		s.Close()
	}
	p := e.begin(t, root, "quiet")
	close(quit)
	<-gone
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, p), Photo(t, dir))
}

func exclude(t *testing.T, e Env) {
	dir, root := e.jail(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, backup.StageName, "x"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "etc", backup.StageName), 0o700))
	opts := backup.CopyOptions{Exclude: []string{"/many/f1*", "su", "/deep/**/leaf"}}
	p, err := e.Store.Begin(context.Background(), root, "one", opts)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "many/f1new"), nil, 0o644))
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	s := seal(t, p)
	want := Photo(t, dir)
	for p := range want {
		if strings.HasPrefix(p, "many/f1") || p == "bin/su" || strings.HasSuffix(p, "/leaf") || strings.HasPrefix(p, backup.StageName) {
			delete(want, p)
		}
	}
	e.whole(t, s, want)
	require.Equal(t, opts.Exclude, s.Meta().Exclude)
	c, err := s.DiffJail(context.Background(), root)
	require.NoError(t, err)
	require.Empty(t, c)

	for _, bad := range []string{"[", "", "/", "a/[z"} {
		_, err := e.Store.Begin(context.Background(), root, "two", backup.CopyOptions{Exclude: []string{bad}})
		require.ErrorContains(t, err, "malformed", bad)
	}
}

func verifyFinds(t *testing.T, e Env) {
	_, root := e.jail(t)
	for _, c := range []struct {
		name, path, what string
		damage           func(tree string) error
	}{
		{"flipped bit", "/big", "content is not what was copied", func(tree string) error {
			return keepingTimes(filepath.Join(tree, "big"), func(p string) error { return flip(p, 70000) })
		}},
		{"longer", "/empty", "size is 1, not 0", func(tree string) error { return os.Truncate(filepath.Join(tree, "empty"), 1) }},
		{"mode", "/etc/passwd", "mode is 0600, not 0664", func(tree string) error { return os.Chmod(filepath.Join(tree, "etc/passwd"), 0o600) }},
		{"owner", "/etc/shadow", "owner is 1:42, not 0:42", func(tree string) error { return os.Lchown(filepath.Join(tree, "etc/shadow"), 1, 42) }},
		{"link", "/dangling", "is hard-linked", func(tree string) error {
			os.Remove(filepath.Join(tree, "dangling"))
			return os.Symlink("elsewhere", filepath.Join(tree, "dangling"))
		}},
		{"target", "/loop", "link leads to elsewhere, not loop", func(tree string) error {
			os.Remove(filepath.Join(tree, "loop"))
			return os.Symlink("elsewhere", filepath.Join(tree, "loop"))
		}},
		{"gone", "/dev/null", "missing", func(tree string) error { return os.Remove(filepath.Join(tree, "dev/null")) }},
		{"added", "/tmp/evil", "not in the manifest", func(tree string) error { return os.WriteFile(filepath.Join(tree, "tmp/evil"), nil, 0o644) }},
		{"mtime", "/etc", "mtime differs", func(tree string) error { return os.Chtimes(filepath.Join(tree, "etc"), time.Time{}, time.Now()) }},
		{"attribute", "/etc/shadow", "attributes differ: user.note", func(tree string) error {
			return unix.Lremovexattr(filepath.Join(tree, "etc/shadow"), "user.note")
		}},
		{"type", "/fifo", "is a file, not a fifo", func(tree string) error {
			os.Remove(filepath.Join(tree, "fifo"))
			return os.WriteFile(filepath.Join(tree, "fifo"), nil, 0o644)
		}},
		{"device", "/dev/null", "is another device", func(tree string) error {
			os.Remove(filepath.Join(tree, "dev/null"))
			return unix.Mknod(filepath.Join(tree, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
		}},
		{"hard link within", "/third", "is hard-linked", func(tree string) error {
			os.Remove(filepath.Join(tree, "third"))
			return os.WriteFile(filepath.Join(tree, "third"), []byte("one inode"), 0o644)
		}},
		{"hard link out", "/etc/passwd", "has hard links outside", func(tree string) error {
			return os.Link(filepath.Join(tree, "etc/passwd"), filepath.Join(filepath.Dir(tree), "outside"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := strings.ReplaceAll(c.name, " ", "-")
			s := e.take(t, root, id)
			bad, err := s.Verify(context.Background())
			require.NoError(t, err)
			require.Empty(t, bad)
			require.NoError(t, c.damage(e.tree(id)))
			bad, err = s.Verify(context.Background())
			require.NoError(t, err)
			found := false
			for _, b := range bad {
				found = found || b.Path == c.path && strings.HasPrefix(b.What, c.what)
			}
			require.True(t, found, "%v", bad)
		})
	}
	for _, name := range []string{"manifest.jsonl", "meta.json"} {
		t.Run(name, func(t *testing.T) {
			id := "damaged-" + name
			e.take(t, root, id)
			p := filepath.Join(e.Snapshots, id, name)
			require.NoError(t, flip(p, 40))
			_, err := e.Store.Open(context.Background(), id)
			require.ErrorContains(t, err, "damaged")
		})
	}
	all, err := e.Store.List(context.Background())
	require.NoError(t, err)
	broken := 0
	for _, m := range all {
		if m.Broken != "" {
			broken++
		}
	}
	require.Equal(t, 1, broken, "List reads no manifest, but every meta.json")
}

func flip(p string, off int64) error {
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b[:], off)
	return err
}

func keepingTimes(p string, f func(p string) error) error {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return err
	}
	if err := f(p); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

func restoreDamaged(t *testing.T, e Env) {
	_, root := e.jail(t)
	s := e.take(t, root, "one")
	require.NoError(t, flip(filepath.Join(e.tree("one"), "big"), 5))
	into := filepath.Join(e.Dir, "restored")
	require.ErrorContains(t, s.Restore(context.Background(), into), "damaged at /big")
	require.NoDirExists(t, into)
	require.Equal(t, []string{"jail"}, list(t, e.Dir))
}

func restoreRefuses(t *testing.T, e Env) {
	dir, root := e.jail(t)
	s := e.take(t, root, "one")
	require.ErrorContains(t, s.Restore(context.Background(), dir), "not empty")
	file := filepath.Join(e.Dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	require.Error(t, s.Restore(context.Background(), file))
	link := filepath.Join(e.Dir, "link")
	require.NoError(t, os.Symlink(dir, link))
	require.Error(t, s.Restore(context.Background(), link))
	require.Error(t, s.Restore(context.Background(), filepath.Join(e.Dir, "no/parent")))
	empty := filepath.Join(e.Dir, "empty")
	require.NoError(t, os.Mkdir(empty, 0o755))
	require.NoError(t, s.Restore(context.Background(), empty))
	Same(t, Photo(t, dir), Photo(t, empty))
	require.Equal(t, []string{"empty", "file", "jail", "link"}, list(t, e.Dir))
}

func list(t testing.TB, dir string) []string {
	var names []string
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, d := range all {
		if d.Name() != filepath.Base("store") {
			names = append(names, d.Name())
		}
	}
	return names
}

func diff(t *testing.T, e Env) {
	dir, root := e.jail(t)
	a := e.take(t, root, "a")
	c, err := a.DiffJail(context.Background(), root)
	require.NoError(t, err)
	require.Empty(t, c)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("x"), 0o600))
	age(t, dir, "etc/passwd", -1, 5)
	require.NoError(t, os.Remove(filepath.Join(dir, "bin/su")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin/sudo"), []byte("x"), 0o600))
	age(t, dir, "bin", 5, 5)
	require.NoError(t, os.Chmod(filepath.Join(dir, "closed"), 0o700))
	c, err = a.DiffJail(context.Background(), root)
	require.NoError(t, err)
	want := []string{"modified /bin (mtime)", "removed /bin/su", "added /bin/sudo", "modified /closed (mode)", "modified /etc/passwd (content)"}
	require.Equal(t, want, lines(c))
	b := e.take(t, root, "b")
	c, err = a.Diff(context.Background(), b)
	require.NoError(t, err)
	require.Equal(t, want, lines(c))
}

func lines(all []backup.Change) []string {
	var out []string
	for _, c := range all {
		out = append(out, c.String())
	}
	return out
}

func crash(t *testing.T, e Env) {
	dir, root := e.jail(t)
	e.take(t, root, "good")
	e.begin(t, root, "half").Release()
	p := e.begin(t, root, "settled")
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	p.Release()
	busy := e.begin(t, root, "busy")

	all, err := e.Store.List(context.Background())
	require.NoError(t, err)
	require.Len(t, all, 1)
	_, err = e.Store.Open(context.Background(), "half")
	require.ErrorIs(t, err, backup.ErrNotFound)
	_, err = e.Store.Begin(context.Background(), root, "half", backup.CopyOptions{})
	require.ErrorIs(t, err, backup.ErrExist)

	swept, err := e.Store.Sweep(context.Background())
	require.NoError(t, err)
	require.Equal(t, []string{"half", "settled"}, swept)
	swept, err = e.Store.Sweep(context.Background())
	require.NoError(t, err)
	require.Empty(t, swept)
	require.Equal(t, []string{".busy.partial", "good"}, list(t, e.Snapshots))
	_, err = busy.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, busy), Photo(t, dir))
}

func resume(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	opts := backup.CopyOptions{Exclude: []string{"su"}}
	p, err := e.Store.Begin(context.Background(), root, "one", opts)
	require.NoError(t, err)
	_, err = e.Store.Resume(context.Background(), "one")
	require.ErrorIs(t, err, backup.ErrBusy)
	p.Release()
	change(t, dir)
	p, err = e.Store.Resume(context.Background(), "one")
	require.NoError(t, err)
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.Less(t, c.Copied, 500, "a resumed copy settles what changed, not all")
	want := Photo(t, dir)
	delete(want, "bin/su")
	want["bin/su2"] = strings.Replace(want["bin/su2"], ` linked "bin/su"`, "", 1)
	e.whole(t, seal(t, p), want)

	p = e.begin(t, root, "two")
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	p.Release()
	_, err = e.Store.Resume(context.Background(), "two")
	require.ErrorIs(t, err, backup.ErrNotResumable)
	_, err = e.Store.Resume(context.Background(), "none")
	require.ErrorIs(t, err, backup.ErrNotFound)
	_, err = e.Store.Sweep(context.Background())
	require.NoError(t, err)
}

func names(t *testing.T, e Env) {
	_, root := e.jail(t)
	e.take(t, root, "one")
	_, err := e.Store.Begin(context.Background(), root, "one", backup.CopyOptions{})
	require.ErrorIs(t, err, backup.ErrExist)
	for _, id := range []string{"", ".", "..", ".x", "-x", "a/b", "a b", "ü", strings.Repeat("x", 129), "x\n"} {
		_, err := e.Store.Begin(context.Background(), root, id, backup.CopyOptions{})
		require.Error(t, err, id)
		_, err = e.Store.Open(context.Background(), id)
		require.Error(t, err, id)
		require.Error(t, e.Store.Remove(context.Background(), id), id)
	}
	_, err = e.Store.Open(context.Background(), "none")
	require.ErrorIs(t, err, backup.ErrNotFound)
	require.NoError(t, e.Store.Remove(context.Background(), "none"))
	require.NoError(t, e.Store.Remove(context.Background(), "one"))
	require.Empty(t, list(t, e.Snapshots))
}

func prune(t *testing.T, e Env) {
	dir := filepath.Join(e.Dir, "small")
	require.NoError(t, os.Mkdir(dir, 0o755))
	root := open(t, dir)
	take := func(id, jailID, consistency string) {
		p := e.begin(t, root, id)
		s, err := p.Seal(context.Background(), backup.Meta{JailID: jailID, Consistency: consistency})
		require.NoError(t, err)
		s.Close()
	}
	for _, id := range []string{"s1", "s2", "s3", "s4"} {
		take(id, "j", backup.Stopped)
	}
	take("other", "k", backup.Stopped)
	take("l5", "j", backup.Live)
	run := func(p backup.Policy, now time.Time) []string {
		gone, err := backup.Prune(context.Background(), e.Store, "j", p, now)
		require.NoError(t, err)
		var ids []string
		for _, m := range gone {
			ids = append(ids, m.ID)
		}
		return ids
	}
	year := time.Now().AddDate(1, 0, 0)
	require.Empty(t, run(backup.Policy{}, year))
	require.Empty(t, run(backup.Policy{Keep: 5}, year))
	require.Empty(t, run(backup.Policy{MaxAge: time.Hour}, time.Now()))
	require.Equal(t, []string{"s2"}, run(backup.Policy{Keep: 3, Pinned: []string{"s1"}}, year))
	// The newest good one is damaged: the one before it is the last good one.
	require.NoError(t, os.Remove(filepath.Join(e.Snapshots, "s4", "manifest.jsonl")))
	require.Equal(t, []string{"s1", "s4"}, run(backup.Policy{MaxAge: time.Hour}, year))
	require.Equal(t, []string{"l5", "other", "s3"}, list(t, e.Snapshots))
	require.Empty(t, run(backup.Policy{MaxAge: 1}, year))
}

func cancel(t *testing.T, e Env) {
	_, root := e.jail(t)
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_, err := e.Store.Begin(ctx, root, "one", backup.CopyOptions{})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, list(t, e.Snapshots))

	p := e.begin(t, root, "two")
	_, err = p.Settle(ctx, root)
	require.ErrorIs(t, err, context.Canceled)
	_, err = p.Seal(context.Background(), backup.Meta{})
	require.Error(t, err, "a copy that was not settled to the end is not sealed")
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, p), Photo(t, root.Path()))
	require.NoError(t, p.Drop(context.Background()))
	require.Equal(t, []string{"two"}, list(t, e.Snapshots))
}

func sharesNoInode(t *testing.T, e Env) {
	dir, root := e.jail(t)
	e.take(t, root, "one")
	want := Photo(t, e.tree("one"))
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			err = os.Truncate(p, 3)
		}
		if err == nil && d.IsDir() {
			err = os.Chmod(p, 0o700)
		}
		return err
	}))
	Same(t, want, Photo(t, e.tree("one")))
}
