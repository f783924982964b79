package changeset

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// wish computes a set out of paths alone: files to hold, and files to remove.
// What is wanted has the content "new".
func (b *bench) wish(want, remove []string) (*Set, error) {
	b.t.Helper()
	in := Input{MtimeNS: doneTime, Remove: remove}
	for i, p := range want {
		name := "w" + string(rune('a'+i))
		st, err := ReadState(int(b.stage.Fd()), name)
		require.NoError(b.t, err)
		if st == nil {
			s := b.put(name, file("", "new").fresh())
			st = &s
		}
		in.Wants = append(in.Wants, Want{Path: p, Stage: name, State: *st})
	}
	return Compute(b.root, in)
}

func ops(s *Set) (out []string) {
	for _, op := range s.Ops {
		out = append(out, string(op.Kind)+" "+op.Path)
	}
	return out
}

// Two names of one file are one key, whichever way they are written; and a file
// beats a removal.
func TestAliasesAreOneKey(t *testing.T) {
	t.Parallel()
	b := newBench(t, lab.ShmDir(t), oldTime, nil, nil)
	plant(t, b.jail, oldTime, dir("/usr"), dir("/usr/lib"), dir("/usr/lib/sub"), file("/usr/lib/libx", "old"),
		link("/lib", "usr/lib"), link("/lib64", "/lib"), link("/usr/lib64", "../lib"), link("/nowhere", "missing/dir"))
	for _, c := range []struct {
		want, remove, ops []string
	}{
		{[]string{"/usr/lib/libx"}, []string{"/lib/libx"}, []string{"replace /usr/lib/libx"}},
		{[]string{"/lib/libx"}, []string{"/usr/lib/libx", "/lib64/libx"}, []string{"replace /usr/lib/libx"}},
		{[]string{"/lib64/libx", "/lib/libx"}, nil, []string{"replace /usr/lib/libx"}},
		{[]string{"/usr/lib64/../lib/./libx"}, nil, []string{"replace /usr/lib/libx"}},
		{nil, []string{"/lib/libx", "/usr/lib64/libx"}, []string{"remove /usr/lib/libx"}},
		{[]string{"/lib/new/deep/f"}, nil, []string{"mkdir /usr/lib/new", "mkdir /usr/lib/new/deep", "add /usr/lib/new/deep/f"}},
		{[]string{"/lib64"}, nil, []string{"replace /lib64"}}, // the link itself
		{nil, []string{"/not/there", "/usr/not"}, nil},
	} {
		set, err := b.wish(c.want, c.remove)
		require.NoError(t, err, c.want)
		require.Equal(t, c.ops, ops(set), "%q %q", c.want, c.remove)
	}
	other := file("", "other")
	in := Input{Wants: []Want{{Path: "/lib/libx", State: b.put("o", other)}, {Path: "/usr/lib/libx", State: b.put("p", file("", "new"))}}}
	_, err := Compute(b.root, in)
	require.ErrorContains(t, err, "/usr/lib/libx are one name and shall hold different files")
	_, err = b.wish([]string{"/nowhere/f"}, nil)
	require.ErrorContains(t, err, "leads nowhere")
}

// What cannot be replaced is refused before anything is touched, with its name.
func TestRefused(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := newBench(t, lab.ShmDir(t), oldTime, nil, nil)
	plant(t, b.jail, oldTime, dir("/d"), thing{path: "/d/fifo", mode: unix.S_IFIFO | 0o644}, thing{path: "/d/null", mode: unix.S_IFCHR | 0o666},
		thing{path: "/d/socket", mode: unix.S_IFSOCK | 0o600}, file("/d/file", "x"), dir("/full"), file("/full/stranger", "x"), dir("/full/sub"),
		link("/out", "/elsewhere"), file("/huge", ""))
	require.NoError(t, os.Truncate(filepath.Join(b.jail, "huge"), 1<<40))
	before := lab.TreeDigest(t, b.jail)
	for _, c := range []struct {
		want, remove string
		err          string
	}{
		{"/d/fifo", "", "cannot replace /d/fifo: it is a FIFO"},
		{"/d/null", "", "cannot replace /d/null: it is a device"},
		{"/d/socket", "", "cannot replace /d/socket: it is a socket"},
		{"", "/d/fifo", "cannot remove /d/fifo: it is a FIFO"},
		{"", "/d/null", "cannot remove /d/null: it is a device"},
		{"", "/full", "cannot remove /full: it is a directory"},
		{"/full", "", "cannot replace directory /full by a file: it holds /full/stranger, /full/sub, which is not jailup's"},
		{"/d/file/below", "", "cannot make directory /d/file: a file is in its place"},
		{"/d/fifo/below", "", "cannot make directory /d/fifo: a FIFO is in its place"},
		{"/out/f", "", "leads nowhere"},
		{"/huge", "", "more than 1 GiB"},
		{"", "/huge", "more than 1 GiB"},
	} {
		var want, remove []string
		if c.want != "" {
			want = append(want, c.want)
		}
		if c.remove != "" {
			remove = append(remove, c.remove)
		}
		began := time.Now()
		_, err := b.wish(want, remove)
		require.ErrorContains(t, err, c.err)
		require.Less(t, time.Since(began), 5*time.Second)
	}
	_, err := b.wish([]string{"/new", "/new/below"}, nil)
	require.ErrorContains(t, err, "/new shall be a directory and a file")
	require.Empty(t, lab.DiffTrees(before, lab.TreeDigest(t, b.jail)))
}

// A file that somebody makes huge while the install goes on is foreign at once;
// nobody reads a terabyte to find out.
func TestGrownFileIsForeign(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	b := everythingIn(t, lab.ShmDir(t))
	b.install()
	require.NoError(t, os.Truncate(filepath.Join(b.jail, "usr/lib/libc.so.6"), 1<<40))
	began := time.Now()
	kept, err := b.worker().Undo()
	require.NoError(t, err)
	require.Equal(t, []string{"/usr/lib/libc.so.6"}, kept)
	require.Less(t, time.Since(began), 5*time.Second)
}

// Immutable and append-only files and directories make every rename fail: they
// are found while the server still answers.
func TestImmutable(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	base := lab.Loop(t, "ext4", 16)
	b := newBench(t, base, oldTime, nil, nil)
	plant(t, b.jail, oldTime, dir("/d"), file("/d/f", "x"), dir("/e"), dir("/e/sub"), dir("/free"), file("/free/f", "x"))
	for _, c := range []struct {
		path         string
		flag         int
		want, remove string
		err          string
	}{
		{"/d/f", immutableFlag, "/d/f", "", "cannot change /d/f: it is immutable"},
		{"/d/f", appendFlag, "", "/d/f", "cannot change /d/f: it is immutable"},
		{"/d", immutableFlag, "/d/f", "", "cannot change what is in /d: it is immutable"},
		{"/d", immutableFlag, "/d/added", "", "cannot change what is in /d: it is immutable"},
		{"/d", appendFlag, "/d/sub/added", "", "cannot change what is in /d: it is immutable"},
		{"/d", immutableFlag, "", "/d/f", "cannot change what is in /d: it is immutable"},
		{"/d", immutableFlag, "/free/f", "", ""},
	} {
		setFlags(t, filepath.Join(b.jail, c.path), c.flag)
		var want, remove []string
		if c.want != "" {
			want = []string{c.want}
		} else {
			remove = []string{c.remove}
		}
		_, err := b.wish(want, remove)
		setFlags(t, filepath.Join(b.jail, c.path), 0)
		if c.err == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.err)
	}
	setFlags(t, filepath.Join(b.jail, "e/sub"), immutableFlag)
	_, err := Compute(b.root, Input{Rmdir: []string{"/e/sub"}})
	setFlags(t, filepath.Join(b.jail, "e/sub"), 0)
	require.ErrorContains(t, err, "cannot remove /e/sub: it is immutable")
}

// Of FS_IOC_SETFLAGS, ioctl_iflags(2).
const (
	immutableFlag = 0x10
	appendFlag    = 0x20
)

func setFlags(t *testing.T, p string, flags int) {
	t.Helper()
	f, err := os.Open(p)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
}

func TestOtherMounts(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	b := newBench(t, lab.ShmDir(t), oldTime, nil, nil)
	plant(t, b.jail, oldTime, dir("/d"), file("/d/f", "x"), dir("/m"), dir("/l"), link("/l/to", "/m"))
	host := t.TempDir()
	plant(t, host, oldTime, file("/f", "host"), dir("/sub"))
	bind := func(from, to string) {
		require.NoError(t, unix.Mount(from, filepath.Join(b.jail, to), "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(filepath.Join(b.jail, to), unix.MNT_DETACH) })
	}
	bind(host, "m")
	bind(filepath.Join(host, "f"), "d/f")
	for want, text := range map[string]string{
		"/d/f":        "cannot change /d/f: something is mounted on it",
		"/m/f":        "another mount",
		"/m/new":      "another mount",
		"/m/new/deep": "another mount",
		"/l/to/f":     "another mount",
		"/m":          "cannot change /m: something is mounted on it",
	} {
		_, err := b.wish([]string{want}, nil)
		require.ErrorContains(t, err, text, want)
		if want != "/m" {
			_, err = b.wish(nil, []string{want})
			if want != "/m/new" && want != "/m/new/deep" {
				require.ErrorContains(t, err, text, want)
			}
		}
	}
	set, err := Compute(b.root, Input{Rmdir: []string{"/m/sub", "/m"}})
	if err == nil {
		require.Empty(t, ops(set))
	}
	host2, err := os.ReadFile(filepath.Join(host, "f"))
	require.NoError(t, err)
	require.Equal(t, "host", string(host2))
}

// A directory goes only when nothing is left in it, and its parents then too.
func TestRmdir(t *testing.T) {
	t.Parallel()
	b := newBench(t, lab.ShmDir(t), oldTime, nil, nil)
	plant(t, b.jail, oldTime, dir("/a"), dir("/a/b"), dir("/a/b/c"), file("/a/b/c/f", "x"), dir("/k"), dir("/k/l"), file("/k/l/f", "x"), file("/k/mine", "x"))
	all := []string{"/a", "/a/b/c", "/a/b", "/k", "/k/l", "/none", "/a/b/c/f"}
	set, err := Compute(b.root, Input{Remove: []string{"/a/b/c/f", "/k/l/f"}, Rmdir: all})
	require.NoError(t, err)
	require.Equal(t, []string{"remove /a/b/c/f", "remove /k/l/f", "rmdir /a/b/c", "rmdir /a/b", "rmdir /k/l", "rmdir /a"}, ops(set))
	set, err = Compute(b.root, Input{Remove: []string{"/k/l/f"}, Rmdir: all})
	require.NoError(t, err)
	require.Equal(t, []string{"remove /k/l/f", "rmdir /k/l"}, ops(set))
	set, err = Compute(b.root, Input{Remove: []string{"/a/b/c/f"}, Rmdir: all, Dirs: []WantDir{{Path: "/a/b/new", Mode: 0o700}}})
	require.NoError(t, err)
	require.Equal(t, []string{"mkdir /a/b/new", "remove /a/b/c/f", "rmdir /a/b/c"}, ops(set), "what is still used stays")
}

// The same operations on the other file systems of the field, cut off at every
// third operation.
func TestFileSystems(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			b := everythingIn(t, lab.Loop(t, fs, 32))
			installAndUndo(t, b)
			b.undo2()
			cutOffEverywhere(t, b, 5)
		})
	}
}

// undo2 brings the jail back to the old tree from wherever installAndUndo left it.
func (b *bench) undo2() {
	b.t.Helper()
	_, err := b.worker().Undo()
	require.NoError(b.t, err)
	b.is(b.old, "undone")
}
