package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newCache(t *testing.T) *Cache {
	t.Helper()
	c, err := OpenCache(filepath.Join(t.TempDir(), "a", "cache"))
	require.NoError(t, err)
	return c
}

func TestCachePutGet(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	data := []byte("content")
	_, err := c.Get(sum(data), 7)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for range 2 { // twice is fine
		blob, err := c.Put(context.Background(), bytes.NewReader(data), sum(data), 7)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(c.dir, "sha256", sum(data)[:2], sum(data)), blob.Path)
	}
	blob, err := c.Get(sum(data), -1)
	require.NoError(t, err)
	require.EqualValues(t, 7, blob.Size)
	f, err := blob.Open()
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, data, got)
	fi, err := os.Stat(blob.Path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode())
	_, err = c.Get("../../etc/passwd", -1)
	require.Error(t, err)
}

func TestCachePutRefuses(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	data := []byte("content")
	for name, r := range map[string]io.Reader{
		"other": strings.NewReader("CONTENT"), "shorter": strings.NewReader("conten"), "longer": strings.NewReader("contents"),
		"endless": zeros('c'), "broken": io.MultiReader(strings.NewReader("con"), errReader{}),
	} {
		_, err := c.Put(context.Background(), r, sum(data), 7)
		require.Error(t, err, name)
		_, err = c.Get(sum(data), 7)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Put(ctx, bytes.NewReader(data), sum(data), 7)
	require.ErrorIs(t, err, context.Canceled)
	left, err := os.ReadDir(filepath.Join(c.dir, "partial"))
	require.NoError(t, err)
	require.Empty(t, left)
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

// TestCacheGetHashesAgain damages a stored file in every way; none is used.
func TestCacheGetHashesAgain(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("content"), 1000)
	for name, spoil := range map[string]func(path string) error{
		"bit":    func(p string) error { d := bytes.Clone(data); d[5000] ^= 1; return os.WriteFile(p, d, 0o600) },
		"cut":    func(p string) error { return os.Truncate(p, 100) },
		"longer": func(p string) error { return os.WriteFile(p, append(bytes.Clone(data), 1), 0o600) },
		"empty":  func(p string) error { return os.Truncate(p, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCache(t)
			blob, err := c.PutBytes(data)
			require.NoError(t, err)
			require.NoError(t, spoil(blob.Path))
			_, err = blob.Open()
			require.ErrorIs(t, err, ErrHash)
			_, err = c.Get(blob.SHA256, blob.Size)
			require.ErrorIs(t, err, fs.ErrNotExist)
			_, err = os.Lstat(blob.Path)
			require.ErrorIs(t, err, fs.ErrNotExist, "it is deleted, to be fetched again")
		})
	}
	t.Run("a link in its place is not followed", func(t *testing.T) {
		t.Parallel()
		c := newCache(t)
		blob, err := c.PutBytes(data)
		require.NoError(t, err)
		elsewhere := filepath.Join(t.TempDir(), "f")
		require.NoError(t, os.Rename(blob.Path, elsewhere))
		require.NoError(t, os.Symlink(elsewhere, blob.Path))
		_, err = blob.Open()
		require.Error(t, err)
	})
	t.Run("a FIFO in its place is not waited for", func(t *testing.T) {
		t.Parallel()
		c := newCache(t)
		blob, err := c.PutBytes(data)
		require.NoError(t, err)
		require.NoError(t, os.Remove(blob.Path))
		mkfifo(t, blob.Path)
		_, err = blob.Open()
		require.Error(t, err)
	})
}

func TestCacheFolderMustBePrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	require.NoError(t, os.Mkdir(open, 0o755))
	require.NoError(t, os.Chmod(open, 0o777))
	_, err := OpenCache(open)
	require.ErrorContains(t, err, "written by others")
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(dir, link))
	_, err = OpenCache(link)
	require.ErrorContains(t, err, "not a directory")
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = OpenCache(file)
	require.Error(t, err)
	_, err = OpenCache("")
	require.Error(t, err)
}

func TestCachePrune(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	var blobs []Blob
	for i := range 5 {
		blob, err := c.PutBytes(bytes.Repeat([]byte{byte(i)}, 100))
		require.NoError(t, err)
		at := time.Now().Add(-time.Duration(i) * 24 * time.Hour)
		require.NoError(t, os.Chtimes(blob.Path, at, at))
		blobs = append(blobs, blob)
	}
	old := filepath.Join(c.dir, "partial", sum([]byte("x")))
	require.NoError(t, os.WriteFile(old, make([]byte, 10), 0o600))
	require.NoError(t, os.Chtimes(old, time.Time{}, time.Now().AddDate(0, 0, -8)))
	young := filepath.Join(c.dir, "partial", sum([]byte("y")))
	require.NoError(t, os.WriteFile(young, make([]byte, 10), 0o600))
	there := func() string {
		var s string
		for i, b := range blobs {
			if _, err := os.Lstat(b.Path); err == nil {
				s += fmt.Sprint(i)
			}
		}
		return s
	}
	freed, err := c.Prune(0, 0)
	require.NoError(t, err)
	require.EqualValues(t, 10, freed)
	require.Equal(t, "01234", there())
	_, err = os.Lstat(young)
	require.NoError(t, err)

	_, err = c.Prune(3*24*time.Hour+time.Hour, 0, blobs[4].SHA256)
	require.NoError(t, err)
	require.Equal(t, "01234", there(), "what is to be kept is kept")
	_, err = c.Prune(3*24*time.Hour+time.Hour, 0)
	require.NoError(t, err)
	require.Equal(t, "0123", there())
	// A use makes young.
	_, err = c.Get(blobs[3].SHA256, -1)
	require.NoError(t, err)
	freed, err = c.Prune(0, 250)
	require.NoError(t, err)
	require.EqualValues(t, 200, freed)
	require.Equal(t, "03", there())
}

func TestCacheOfManyWriters(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	var wg sync.WaitGroup
	errs := make([]error, 32)
	for i := range errs {
		wg.Go(func() {
			blob, err := c.PutBytes(bytes.Repeat([]byte{byte(i % 4)}, 10000))
			if err == nil {
				_, err = c.Get(blob.SHA256, blob.Size)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}
