package sys_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/sys"
)

func TestSweepTakesWhatNobodyHolds(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir, err := sys.OpenDir(base)
	require.NoError(t, err)
	defer dir.Close()
	living, err := sys.MakeTemp(dir, "tmp-living")
	require.NoError(t, err)
	dead, err := sys.MakeTemp(dir, "tmp-dead")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(base, "tmp-dead/deep/er"), 0o755))
	require.NoError(t, dead.Close())
	_, err = sys.MakeTemp(dir, "tmp-living")
	require.ErrorIs(t, err, os.ErrExist)

	elsewhere := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "precious"), nil, 0o644))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(base, "tmp-link")))
	require.NoError(t, os.WriteFile(filepath.Join(base, "tmp-file"), nil, 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(base, "other"), 0o755))
	keep := []string{"other", "tmp-file", "tmp-link", "tmp-living"}
	if os.Geteuid() == 0 {
		require.NoError(t, os.Mkdir(filepath.Join(base, "tmp-alien"), 0o755))
		require.NoError(t, os.Chown(filepath.Join(base, "tmp-alien"), 65534, 65534))
		keep = append([]string{"other", "tmp-alien"}, keep[1:]...)
	}

	ours := func(name string) bool { return strings.HasPrefix(name, "tmp-") }
	require.NoError(t, sys.SweepTemp(dir, ours))
	list, err := os.ReadDir(base)
	require.NoError(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	require.Equal(t, keep, names)
	require.FileExists(t, filepath.Join(elsewhere, "precious"))
	require.NoError(t, living.Close())
	require.NoError(t, sys.SweepTemp(dir, ours))
	require.NoDirExists(t, filepath.Join(base, "tmp-living"))
}
