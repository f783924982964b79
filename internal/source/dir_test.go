package source

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func debDir(t *testing.T, debs map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range debs {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	return dir
}

func TestDir(t *testing.T) {
	t.Parallel()
	path := debDir(t, map[string][]byte{
		"a.deb":          deb(t, "hello", "1.0-1", "amd64", "Depends: libhello (>= 1.0)\n"),
		"b.deb":          deb(t, "hello", "1.0-2", "amd64", "Depends: libhello (>= 1.0)\n"),
		"with blank.deb": deb(t, "libhello", "1.0-1", "all", ""),
		"foreign.deb":    deb(t, "hello", "9-1", "riscv64", ""),
		"README":         []byte("not a package"),
	})
	require.NoError(t, os.Mkdir(filepath.Join(path, "folder.deb"), 0o755))
	for _, cache := range []string{"", filepath.Join(t.TempDir(), "cache")} {
		s, err := OpenDir(path, DirOptions{Arch: "amd64", CacheDir: cache})
		require.NoError(t, err)
		ix, err := s.Index(context.Background())
		require.NoError(t, err)
		require.Equal(t, 3, ix.Len())
		require.Contains(t, notices(ix), "foreign.deb is passed over: it is for riscv64")
		target, err := Resolve(ix, Request{Roots: []Want{{Name: "hello"}}})
		require.NoError(t, err)
		require.Equal(t, "hello=1.0-2 libhello=1.0-1", names2(target))
		var last Progress
		blobs, err := s.Fetch(context.Background(), target.Packages, func(p Progress) { last = p })
		require.NoError(t, err)
		require.Len(t, blobs, 2)
		require.Equal(t, 2, last.Items)
		require.Equal(t, last.TotalBytes, last.Bytes)
		for _, p := range target.Packages {
			f, err := blobs[p.SHA256].Open()
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		// A file that changed since the index was read is not used.
		hello, _ := target.Get("hello")
		file := filepath.Join(path, hello.Filename)
		whole, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("x"), len(whole)), 0o644))
		if cache == "" {
			_, err = s.Fetch(context.Background(), target.Packages, nil)
			require.ErrorIs(t, err, ErrHash)
			_, err = blobs[hello.SHA256].Open()
			require.ErrorIs(t, err, ErrHash)
		} else {
			_, err = s.Fetch(context.Background(), target.Packages, nil)
			require.NoError(t, err, "the cache has the right one")
		}
		require.NoError(t, os.WriteFile(file, whole, 0o644))
		// Nor is what never was in the folder.
		hello.Filename = "../x.deb"
		hello.SHA256 = sum(nil)
		_, err = s.Fetch(context.Background(), []Package{hello}, nil)
		require.ErrorIs(t, err, ErrSources)
	}
}

func TestDirRefuses(t *testing.T) {
	t.Parallel()
	_, err := OpenDir(filepath.Join(t.TempDir(), "none"), DirOptions{})
	require.ErrorIs(t, err, ErrSources)
	_, err = OpenDir(t.TempDir(), DirOptions{})
	require.ErrorIs(t, err, ErrSources)
	require.ErrorContains(t, err, "holds no .deb file")
	for name, data := range map[string][]byte{"empty.deb": nil, "junk.deb": []byte("junk"), "\x1b[2Jname.deb": []byte("junk")} {
		s, err := OpenDir(debDir(t, map[string][]byte{name: data}), DirOptions{})
		require.NoError(t, err)
		_, err = s.Index(context.Background())
		require.ErrorIs(t, err, ErrSources)
		require.NotContains(t, err.Error(), "\x1b")
	}
	dir := t.TempDir()
	mkfifo(t, filepath.Join(dir, "fifo.deb"))
	s, err := OpenDir(dir, DirOptions{})
	require.NoError(t, err)
	_, err = s.Index(context.Background())
	require.ErrorContains(t, err, "not a regular file")
}
