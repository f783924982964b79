package steps

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
)

// File systems that do not count inodes say so in three ways.
func TestInodesWithoutLimit(t *testing.T) {
	t.Parallel()
	for _, st := range []unix.Statfs_t{
		{Blocks: 1, Files: 0, Ffree: 0},
		{Blocks: 1, Files: ^uint64(0), Ffree: ^uint64(0)},
		{Blocks: 1, Files: 1000, Ffree: ^uint64(0)},
	} {
		require.EqualValues(t, 1<<40, roomOf(&st).inodes, "%+v", st)
	}
	full := unix.Statfs_t{Blocks: 1, Files: 1000, Ffree: 0}
	require.Zero(t, roomOf(&full).inodes)
}

func TestJailRoomWithoutTheStage(t *testing.T) {
	t.Parallel()
	e := &Env{Root: madeJail(t, "/etc/passwd", "/srv/"+backup.StageName+"/page")}
	plain := e.jailRoom(t.Context())
	stage := filepath.Join(e.Root.Path(), backup.StageName)
	require.NoError(t, os.Mkdir(stage, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(stage, "000001"), make([]byte, 1<<20), 0o600))
	require.Equal(t, plain, e.jailRoom(t.Context()))
	require.EqualValues(t, 5, plain.inodes)
}
