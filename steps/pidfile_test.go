package steps

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/sys"
)

// Only what is a PID file goes, and nothing outside of the jail.
func TestRemovePIDFile(t *testing.T) {
	t.Parallel()
	root := madeJail(t, "/run/apache2/empty", "/run/apache2/apache2.pid", "/run/apache2/text")
	at := func(p string) string { return filepath.Join(root.Path(), p) }
	require.NoError(t, os.WriteFile(at("run/apache2/apache2.pid"), []byte("2682\n"), 0o644))
	require.NoError(t, os.WriteFile(at("run/apache2/text"), []byte("mine\n"), 0o644))
	outside := filepath.Join(t.TempDir(), "pid")
	require.NoError(t, os.WriteFile(outside, []byte("1\n"), 0o644))
	require.NoError(t, os.Symlink(filepath.Dir(outside), at("run/out")))
	require.NoError(t, removePIDFile(root, "/run/apache2/apache2.pid", sys.Unlinkat))
	require.NoFileExists(t, at("run/apache2/apache2.pid"))
	require.NoError(t, removePIDFile(root, "/run/apache2/apache2.pid", sys.Unlinkat), "a second call")
	require.NoError(t, removePIDFile(root, "/run/apache2/text", sys.Unlinkat))
	require.FileExists(t, at("run/apache2/text"))
	_ = removePIDFile(root, "/run/out/pid", sys.Unlinkat)
	require.FileExists(t, outside)
}
