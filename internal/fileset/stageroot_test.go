package fileset

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

const folder = ".jailup-stage-x"

// parentOf opens a folder as the parent of stages, and tells its mount.
func parentOf(t *testing.T, dir string) (*os.File, uint64) {
	t.Helper()
	f, err := os.Open(dir)
	require.NoError(t, err)
	info, err := jail.Fstat(int(f.Fd()))
	require.NoError(t, err)
	return f, info.MountID
}

func TestFolderOfStages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, mount := parentOf(t, dir)
	_, err := OpenStages(f, folder, mount)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoDirExists(t, filepath.Join(dir, folder))

	f, mount = parentOf(t, dir)
	s, err := MakeStages(f, folder, mount)
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, filepath.Join(dir, folder), s.Path())
	info, err := os.Lstat(s.Path())
	require.NoError(t, err)
	require.Equal(t, fs.ModeDir|0o700, info.Mode())

	const run, other = "20260102T030405Z-00ff00", "20260102T030406Z-00ff00"
	_, err = s.Open(run)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for range 2 {
		st, err := s.Make(run)
		require.NoError(t, err)
		require.NoError(t, st.Close())
	}
	// The folder is renamed, and another one put in its place: s is the same.
	require.NoError(t, os.Rename(s.Path(), filepath.Join(dir, "moved")))
	require.NoError(t, os.MkdirAll(filepath.Join(s.Path(), run), 0o700))
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "moved", other)))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "moved", "notes"), 0o700))
	runs, err := s.Runs()
	require.NoError(t, err)
	require.Equal(t, []string{run, other}, runs)
	_, err = s.Open(other)
	var foreign *ForeignError
	require.ErrorAs(t, err, &foreign)
	for _, r := range append(runs, "20260102T030407Z-none") {
		require.NoError(t, s.Remove(r))
		require.False(t, s.Has(r))
	}
	require.FileExists(t, filepath.Join(outside, "precious"))
	require.DirExists(t, filepath.Join(s.Path(), run))
	require.True(t, s.Has("notes"))
	require.NoError(t, s.RemoveIfEmpty())
	require.DirExists(t, s.Path())
}

func TestFolderOfStagesThatIsForeign(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	require.NoError(t, os.Chmod(outside, 0o700))
	for name, c := range map[string]struct {
		make func(path string) error
		why  string
		root bool
	}{
		"a link":            {func(p string) error { return os.Symlink(outside, p) }, "is a link", false},
		"a dangling link":   {func(p string) error { return os.Symlink("nothing", p) }, "is a link", false},
		"a file":            {func(p string) error { return os.WriteFile(p, nil, 0o700) }, "is a file", false},
		"a FIFO":            {func(p string) error { return unix.Mkfifo(p, 0o700) }, "is a FIFO", false},
		"open to others":    {func(p string) error { return os.Mkdir(p, 0o755) }, "open to others, by its mode 0755", false},
		"open to the group": {func(p string) error { return os.Mkdir(p, 0o710) }, "open to others, by its mode 0710", false},
		"of a user": {func(p string) error {
			if err := os.Mkdir(p, 0o700); err != nil {
				return err
			}
			return os.Chown(p, 1000, 1000)
		}, "belongs to user 1000", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.root {
				lab.Need(t, "root")
			}
			dir := t.TempDir()
			require.NoError(t, c.make(filepath.Join(dir, folder)))
			before, err := os.Lstat(filepath.Join(dir, folder))
			require.NoError(t, err)
			for _, open := range []func(*os.File, string, uint64) (*Stages, error){OpenStages, MakeStages} {
				f, mount := parentOf(t, dir)
				_, err := open(f, folder, mount)
				var foreign *ForeignError
				require.ErrorAs(t, err, &foreign)
				require.Equal(t, filepath.Join(dir, folder), foreign.Path)
				require.ErrorContains(t, err, c.why)
			}
			after, err := os.Lstat(filepath.Join(dir, folder))
			require.NoError(t, err)
			require.True(t, os.SameFile(before, after))
			require.Equal(t, before.Mode(), after.Mode())
		})
	}
}

func TestFolderOfStagesOnAnotherMount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, mount := parentOf(t, dir)
	_, err := MakeStages(f, folder, mount+1)
	require.ErrorContains(t, err, "another mount")
}

func TestIsRun(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"20261123T152623Z-0547469": true, "20261123T152623Z-0": true,
		"": false, ".": false, "..": false, "notes": false, "20261123T152623Z-": false,
		"20261123T152623Z-a/b": false, "20261123T152623Z-..": false, "x20261123T152623Z-0": false,
		"20261123T152623Z-0\n": false, "20261123T152623Z-012345678901234567890123456789012": false,
	} {
		require.Equal(t, want, IsRun(name), "%q", name)
	}
}
