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
)

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
