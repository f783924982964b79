package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func plant(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "one", "d/b": "two", "d/new\nline": "", "run/pid": "1", "log/x": "y"} {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o644))
	}
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "out")))
	require.NoError(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d/a2")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "huge"), nil, 0o644))
	require.NoError(t, os.Truncate(filepath.Join(dir, "huge"), 1<<40))
	return dir
}

func TestTreeDigestSeesEveryChange(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"bytes": func(d string) error {
			p := filepath.Join(d, "d/b")
			fi, err := os.Stat(p)
			if err != nil {
				return err
			}
			if err := os.WriteFile(p, []byte("TWO"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(p, time.Time{}, fi.ModTime())
		},
		"mode":    func(d string) error { return os.Chmod(filepath.Join(d, "a"), 0o600) },
		"setuid":  func(d string) error { return unix.Chmod(filepath.Join(d, "a"), 0o4644) },
		"time":    func(d string) error { return os.Chtimes(filepath.Join(d, "a"), time.Time{}, time.Unix(1, 5)) },
		"added":   func(d string) error { return os.WriteFile(filepath.Join(d, "d/c"), nil, 0o644) },
		"removed": func(d string) error { return os.Remove(filepath.Join(d, "fifo")) },
		"link": func(d string) error {
			os.Remove(filepath.Join(d, "out"))
			return os.Symlink("/etc/shadow", filepath.Join(d, "out"))
		},
		"root": func(d string) error { return os.Chmod(d, 0o700) },
		"one byte": func(d string) error {
			f, _ := os.OpenFile(filepath.Join(d, "huge"), os.O_RDWR, 0)
			defer f.Close()
			_, err := f.WriteAt([]byte{1}, 1<<39)
			return err
		},
		"unlinked group": func(d string) error {
			p := filepath.Join(d, "d/a2")
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			os.Remove(p)
			return os.WriteFile(p, b, 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := plant(t)
			before := TreeDigest(t, dir)
			require.Len(t, before, 13)
			require.Empty(t, DiffTrees(before, TreeDigest(t, dir)))
			require.NoError(t, change(dir))
			require.NotEmpty(t, DiffTrees(before, TreeDigest(t, dir)))
		})
	}
}

func TestTreeDigestIgnores(t *testing.T) {
	t.Parallel()
	dir := plant(t)
	globs := []string{"run/*", "log/**", "/d/b"}
	before := TreeDigest(t, dir, globs...)
	require.NotContains(t, before, "log/x")
	require.Contains(t, before, "log")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run/sock"), nil, 0o644))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "log/deep/er"), 0o755))
	require.NoError(t, os.Remove(filepath.Join(dir, "d/b")))
	require.Empty(t, DiffTrees(before, TreeDigest(t, dir, globs...)))
	require.NoError(t, os.Chmod(filepath.Join(dir, "log"), 0o700))
	require.Len(t, DiffTrees(before, TreeDigest(t, dir, globs...)), 1)
}

func TestTreeDigestSeesAttributes(t *testing.T) {
	t.Parallel()
	Need(t, "xattr")
	dir := plant(t)
	before := TreeDigest(t, dir)
	require.NoError(t, unix.Lsetxattr(filepath.Join(dir, "d/b"), "user.x", []byte("1"), 0))
	require.Len(t, DiffTrees(before, TreeDigest(t, dir)), 1)
}
