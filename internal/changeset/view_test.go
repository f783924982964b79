package changeset

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// reader is what a view and a jail have in common.
type reader struct {
	lstat    func(string) (uint32, error)
	readlink func(string) (string, error)
	open     func(string) (*os.File, error)
	readDir  func(string) ([]string, error)
	realPath func(string) (string, error)
}

func readerOf(r *jail.Root) reader {
	return reader{
		lstat:    func(p string) (uint32, error) { i, err := r.Lstat(p); return i.Mode, err },
		readlink: r.Readlink, open: r.OpenFile, readDir: r.ReadDir, realPath: r.RealPath,
	}
}

func readerOfView(v *View) reader {
	return reader{lstat: v.Lstat, readlink: v.Readlink, open: v.Open, readDir: v.ReadDir, realPath: v.RealPath}
}

// answers asks everything about each path, in one line each.
func (r reader) answers(t testing.TB, paths []string) map[string]string {
	out := map[string]string{}
	for _, p := range paths {
		var b strings.Builder
		say := func(what string, v any, err error) {
			if err != nil {
				v = "error"
				var no syscall.Errno
				if errors.As(err, &no) {
					v = no.Error()
				}
				if errors.Is(err, jail.ErrNotRegular) {
					v = "not regular"
				}
			}
			fmt.Fprintf(&b, "%s=%v ", what, v)
		}
		mode, err := r.lstat(p)
		say("lstat", fmt.Sprintf("%o", mode), err)
		target, err := r.readlink(p)
		if err != nil && mode&unix.S_IFMT != unix.S_IFLNK {
			target, err = "no link", nil // which of its errors does not matter
		}
		say("readlink", target, err)
		names, err := r.readDir(p)
		say("readdir", fmt.Sprintf("%q", names), err)
		real, err := r.realPath(p)
		say("realpath", real, err)
		f, err := r.open(p)
		text := ""
		if err == nil {
			data, rerr := io.ReadAll(f)
			require.NoError(t, rerr)
			f.Close()
			text = string(data)
		}
		say("open", text, err)
		out[p] = b.String()
	}
	return out
}

// randomTree makes a tree of few names, so that two of them often have one path
// with different things on it.
func randomTree(rnd *rand.Rand, content string) []thing {
	var out []thing
	var fill func(at string, depth int)
	fill = func(at string, depth int) {
		for _, name := range []string{"a", "b", "c", "d"} {
			p := at + "/" + name
			switch k := rnd.IntN(10); {
			case k < 3 && depth < 3:
				out = append(out, dir(p).perm(0o700+rnd.Uint32N(0o100)))
				fill(p, depth+1)
			case k < 5:
				out = append(out, file(p, []string{"same", content}[rnd.IntN(2)]))
			case k < 8:
				out = append(out, link(p, randomTarget(rnd)))
			}
		}
	}
	fill("", 0)
	return out
}

func randomTarget(rnd *rand.Rand) string {
	var parts []string
	for range 1 + rnd.IntN(3) {
		parts = append(parts, []string{"a", "b", "c", "d", "..", ".", "missing"}[rnd.IntN(7)])
	}
	target := strings.Join(parts, "/")
	if rnd.IntN(3) == 0 {
		target = "/" + target
	}
	if rnd.IntN(5) == 0 {
		target += "/"
	}
	return target
}

// made gives the new tree the times that it will have: of a directory in which
// something changes the time of the change, of all else that stays its own.
func made(old, want []thing) (out []thing, rootTime int64) {
	was := map[string]thing{}
	for _, x := range old {
		was[x.path] = x
	}
	kind := func(x thing) string {
		if x.isDir() {
			return "dir"
		}
		return fmt.Sprintf("%o %s", x.mode&unix.S_IFMT, x.text)
	}
	in := func(list []thing) map[string][]string {
		m := map[string][]string{}
		for _, x := range list {
			up := filepath.Dir(x.path)
			m[up] = append(m[up], filepath.Base(x.path)+" "+kind(x))
		}
		return m
	}
	before, after := in(old), in(want)
	time := func(d string) int64 {
		if slices.Equal(before[d], after[d]) {
			return oldTime
		}
		return doneTime
	}
	for _, x := range want {
		o, stays := was[x.path]
		switch {
		case stays && x.isDir() && o.isDir():
			x.mode, x.time = o.mode, time(x.path) // no upgrade changes a directory's mode
		case x.isDir():
			x.time = newTime
		case stays && kind(o) == kind(x):
			x = o
		default:
			x = x.fresh()
		}
		out = append(out, x)
	}
	return out, time("/")
}

func sameAnswers(t testing.TB, want, got map[string]string, what string) {
	t.Helper()
	for p := range want {
		require.Equal(t, want[p], got[p], "%s: %s", what, p)
	}
}

// For any two trees: the set leads from one to the other and back, bit by bit,
// and the view through it answers before the install as the jail does after it.
func TestAnyTree(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	shm := lab.ShmDir(t)
	for n := range rounds {
		anyTree(t, filepath.Join(shm, fmt.Sprint(n)), seed, uint64(n))
	}
}

func anyTree(t *testing.T, base string, seed, n uint64) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, round %d", seed, n)
		}
	}()
	require.NoError(t, os.Mkdir(base, 0o755))
	rnd := rand.New(rand.NewPCG(seed, n))
	old, want := randomTree(rnd, "old"), randomTree(rnd, "new")
	want, rootTime := made(old, want)
	b := newBench(t, base, rootTime, old, want)
	paths := []string{"/", "/missing"}
	for _, x := range append(slices.Clone(old), want...) {
		paths = append(paths, x.path, x.path+"/a", x.path+"/../b", x.path+"/c/d")
	}
	for range 20 {
		paths = append(paths, "/"+randomTarget(rnd)+"/"+randomTarget(rnd))
	}
	seen := readerOfView(NewView(b.root, b.stage, b.set)).answers(t, paths)
	today := readerOfView(NewView(b.root, b.stage, nil)).answers(t, paths)
	sameAnswers(t, readerOf(b.root).answers(t, paths), today, "a view through nothing is the jail")
	b.install()
	b.is(b.new, "installed")
	after := readerOf(b.root).answers(t, paths)
	sameAnswers(t, after, seen, "the view before, the jail after")
	back := NewView(b.root, b.stage, b.set.Reverse())
	sameAnswers(t, today, readerOfView(back).answers(t, paths), "the view of the way back")
	k := rnd.IntN(len(b.set.Ops) + 1)
	b.undoDownTo(k)
	b.undo()
	b.is(b.old, "undone")
	b.root.Close()
	b.stage.Close()
	require.NoError(t, os.RemoveAll(base))
}
