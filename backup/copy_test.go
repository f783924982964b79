package backup_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/backup/storetest"
	"github.com/jailup/jailup/internal/lab"
)

// copyEnv makes a store and room for jails below dir.
func copyEnv(t testing.TB, dir string) storetest.Env {
	snapshots := filepath.Join(dir, "store")
	s, err := backup.NewCopy(snapshots)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return storetest.Env{Store: s, Dir: dir, Snapshots: snapshots}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB) storetest.Env { return copyEnv(t, lab.ShmDir(t)) })
}

func TestMain(m *testing.M) { os.Exit(m.Run()) }
