package changeset

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/sys"
)

func TestMain(m *testing.M) { lab.Main(m) }

// Times of the old tree's things, of the new files, and of directories that a
// changeset touches.
const (
	oldTime  = 1_500_000_000_123456789
	newTime  = 1_600_000_000_987654321
	doneTime = 1_700_000_000_555555555
)

// thing is one entry of a tree in a test.
type thing struct {
	path string // "/usr/bin/x"
	mode uint32 // type and permission bits
	text string // content, or target
	time int64
	uid  int
}

func dir(p string) thing { return thing{path: p, mode: unix.S_IFDIR | 0o755, time: oldTime} }
func file(p, content string) thing {
	return thing{path: p, mode: unix.S_IFREG | 0o644, text: content, time: oldTime}
}
func exe(p, content string) thing { return file(p, content).perm(0o755) }
func link(p, to string) thing {
	return thing{path: p, mode: unix.S_IFLNK | 0o777, text: to, time: oldTime}
}

func (x thing) perm(mode uint32) thing { x.mode = x.mode&unix.S_IFMT | mode; return x }
func (x thing) owner(uid int) thing    { x.uid = uid; return x }
func (x thing) at(time int64) thing    { x.time = time; return x }
func (x thing) isDir() bool            { return x.mode&unix.S_IFMT == unix.S_IFDIR }

// fresh is a new file or link; a directory in which something changed.
func (x thing) fresh() thing {
	if x.isDir() {
		return x.at(doneTime)
	}
	return x.at(newTime)
}

// plant makes things below base, and gives base itself a time.
func plant(t testing.TB, base string, rootTime int64, things ...thing) {
	t.Helper()
	for _, x := range things {
		p := filepath.Join(base, x.path)
		switch x.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			require.NoError(t, os.Mkdir(p, 0o700))
		case unix.S_IFREG:
			require.NoError(t, os.WriteFile(p, []byte(x.text), 0o600))
		case unix.S_IFLNK:
			require.NoError(t, os.Symlink(x.text, p))
		default:
			require.NoError(t, unix.Mknod(p, x.mode, int(unix.Mkdev(1, 3))))
		}
		if os.Geteuid() == 0 { // also where the group comes from a set-group-ID directory
			require.NoError(t, os.Lchown(p, x.uid, x.uid))
		}
		if x.mode&unix.S_IFMT != unix.S_IFLNK {
			require.NoError(t, unix.Chmod(p, x.mode&0o7777))
		}
	}
	for _, x := range things {
		require.NoError(t, sys.Utimes(unix.AT_FDCWD, filepath.Join(base, x.path), x.time))
	}
	require.NoError(t, sys.Utimes(unix.AT_FDCWD, base, rootTime))
}

// bench is a jail, its stage, and what leads from an old tree to a new one.
type bench struct {
	t        testing.TB
	base     string
	jail     string
	root     *jail.Root
	stage    *os.File
	old, new map[string]string // digests
	in       Input
	set      *Set
}

// newBench plants the old tree as a jail in base, works out the wishes that lead
// to the new tree, and computes the set. execs are executables of the server.
// The new tree's digest is that of the tree planted by hand.
func newBench(t testing.TB, base string, rootTime int64, old, want []thing, execs ...string) *bench {
	t.Helper()
	b := &bench{t: t, base: base, jail: filepath.Join(base, "jail")}
	require.NoError(t, os.Mkdir(b.jail, 0o755))
	plant(t, b.jail, oldTime, old...)
	model := filepath.Join(base, "model")
	require.NoError(t, os.Mkdir(model, 0o755))
	plant(t, model, rootTime, want...)
	b.old, b.new = lab.TreeDigest(t, b.jail), lab.TreeDigest(t, model)
	require.NoError(t, os.Mkdir(filepath.Join(base, "stage"), 0o700))
	b.open()
	b.in = b.input(old, want, execs)
	b.compute()
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	b.root, err = jail.Open(b.jail)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { b.root.Close() })
	b.stage, err = os.Open(filepath.Join(b.base, "stage"))
	require.NoError(b.t, err)
	b.t.Cleanup(func() { b.stage.Close() })
}

func (b *bench) compute() {
	b.t.Helper()
	var err error
	b.set, err = Compute(b.root, b.in)
	require.NoError(b.t, err)
	// As in life, the set that is installed was saved and read again.
	require.NoError(b.t, b.set.Save(b.base, "set.json"))
	b.set, err = Load(filepath.Join(b.base, "set.json"))
	require.NoError(b.t, err)
}

// put stages a file or link.
func (b *bench) put(name string, x thing) State {
	b.t.Helper()
	x.path = name
	plant(b.t, filepath.Join(b.base, "stage"), oldTime, x)
	st, err := ReadState(int(b.stage.Fd()), name)
	require.NoError(b.t, err)
	return *st
}

func (b *bench) input(old, want []thing, execs []string) Input {
	in := Input{MtimeNS: doneTime}
	is := map[string]thing{}
	for i, x := range want {
		is[x.path] = x
		if x.isDir() {
			in.Dirs = append(in.Dirs, WantDir{Path: x.path, Mode: x.mode & 0o7777, UID: uint32(x.uid), GID: uint32(x.uid), MtimeNS: x.time})
			continue
		}
		w := Want{Path: x.path, Stage: fmt.Sprintf("%06d", i)}
		for _, e := range execs {
			w.Exec = w.Exec || e == x.path
		}
		w.State = b.put(w.Stage, x)
		in.Wants = append(in.Wants, w)
	}
	for _, x := range old {
		now, stays := is[x.path]
		if x.isDir() && (!stays || !now.isDir()) {
			in.Rmdir = append(in.Rmdir, x.path)
		}
		if !x.isDir() && (!stays || now.isDir()) {
			in.Remove = append(in.Remove, x.path)
		}
	}
	return in
}

func (b *bench) worker() *Worker {
	b.t.Helper()
	w, err := NewWorker(b.root, b.stage, b.set)
	require.NoError(b.t, err)
	b.t.Cleanup(w.Close)
	return w
}

func (b *bench) install() {
	b.t.Helper()
	require.NoError(b.t, b.worker().Install(b.t.Context()))
}

func (b *bench) undo() {
	b.t.Helper()
	kept, err := b.worker().Undo()
	require.NoError(b.t, err)
	require.Empty(b.t, kept)
}

func (b *bench) is(want map[string]string, what string, args ...any) {
	b.t.Helper()
	require.Empty(b.t, lab.DiffTrees(want, lab.TreeDigest(b.t, b.jail)), fmt.Sprintf(what, args...))
	names, err := os.ReadDir(filepath.Join(b.base, "stage"))
	require.NoError(b.t, err)
	for _, n := range names {
		require.False(b.t, n.IsDir(), "a directory has left the jail: %s", n.Name())
	}
}

// stopAfter is a context that is cancelled when it was asked n times: Install
// asks before each operation.
type stopAfter struct {
	context.Context
	n *int
}

func (s stopAfter) Err() error {
	if *s.n == 0 {
		return context.Canceled
	}
	*s.n--
	return nil
}

// installFirst installs n operations and stops, as a crash would.
func (b *bench) installFirst(n int) {
	b.t.Helper()
	err := b.worker().Install(stopAfter{b.t.Context(), &n})
	require.ErrorIs(b.t, err, context.Canceled)
}

// undoDownTo undoes the operations from the n-th on and stops.
func (b *bench) undoDownTo(n int) {
	b.t.Helper()
	w := b.worker()
	part := *b.set
	part.Ops, part.Dirs = b.set.Ops[n:], nil
	w.set = &part
	_, err := w.Undo()
	require.NoError(b.t, err)
}

// everything is a changeset with each kind of operation and each change of type.
func everything() (old, want []thing, rootTime int64) {
	old = []thing{
		dir("/usr"), dir("/usr/sbin"), dir("/usr/lib"), dir("/etc").perm(0o750), dir("/same"), file("/same/file", "same"),
		exe("/usr/sbin/nginx", "old program"), exe("/usr/sbin/helper", "unchanged program"),
		file("/usr/lib/libc.so.6", "old libc"), file("/usr/lib/libgone.so.1", "gone").perm(0o600).owner(7), link("/usr/lib/libx.so", "libx.so.1"),
		link("/usr/lib/libgone.so", "libgone.so.1"),
		file("/etc/conf", "old").perm(0o640).owner(33),
		dir("/dead").perm(0o711).owner(5), dir("/dead/deep").perm(0o1777), file("/dead/deep/x", "x"), file("/dead/y", "y"),
		dir("/to"), dir("/to/target"), file("/to/target/a", "a"),
		link("/linktodir", "to/target"), link("/linktofile", "to/target/a"), file("/filetolink", "f"), file("/filetodir", "f"),
		dir("/dirtolink"), file("/dirtolink/in", "in"), dir("/dirtolink/sub"), file("/dirtolink/sub/in", "in"),
		dir("/dirtofile"), file("/dirtofile/in", "in"),
		dir("/keeps"), file("/keeps/stranger", "nobody's"), file("/keeps/old", "o"),
	}
	want = []thing{
		dir("/usr"), dir("/usr/sbin").fresh(), dir("/usr/lib").fresh(), dir("/etc").perm(0o750).fresh(), dir("/same"), file("/same/file", "same"),
		exe("/usr/sbin/nginx", "new program").fresh(), exe("/usr/sbin/helper", "unchanged program"),
		file("/usr/lib/libc.so.6", "new libc").fresh(), file("/usr/lib/libnew.so.2", "new").perm(0o600).owner(7).fresh(), link("/usr/lib/libx.so", "libx.so.2").fresh(),
		file("/etc/conf", "new").perm(0o640).owner(33).fresh(),
		dir("/made").perm(0o2750).owner(33).at(newTime), dir("/made/deep").perm(0o1777).at(newTime), file("/made/deep/x", "x").fresh(),
		dir("/to"), dir("/to/target"), file("/to/target/a", "a"),
		dir("/linktodir").at(newTime), file("/linktodir/inside", "i").fresh(), dir("/linktodir/d").at(newTime), file("/linktodir/d/f", "f").fresh(),
		file("/linktofile", "now a file").fresh(), link("/filetolink", "to/target/a").fresh(),
		dir("/filetodir").at(newTime), dir("/filetodir/d").at(newTime), file("/filetodir/d/inside", "i").fresh(),
		link("/dirtolink", "to/target").fresh(), file("/dirtofile", "now a file").fresh(),
		dir("/keeps").fresh(), file("/keeps/stranger", "nobody's"),
	}
	return old, want, doneTime
}

func everythingIn(t testing.TB, base string) *bench {
	t.Helper()
	old, want, rootTime := everything()
	return newBench(t, base, rootTime, old, want, "/usr/sbin/nginx", "/usr/sbin/helper")
}

func index(ops []Op, kind Kind, p string) int {
	for i, op := range ops {
		if op.Kind == kind && op.Path == p {
			return i
		}
	}
	return -1
}

func parents(p string) []string {
	var out []string
	for p != "/" {
		p = path.Dir(p)
		out = append(out, p)
	}
	return out
}
