//go:build faultpoints

package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/lab"
)

// The one sync that is for no power cut: what is written through a mapping shows
// itself, by the file's times, only where the page was clean before. Without the
// sync of the jail's file system, which cleans it, the second of two writes to one
// page is not seen, and the snapshot holds a state that never was.
func TestPowerCutMappedWrite(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"ext4", "xfs"} {
		t.Run(fstype, func(t *testing.T) {
			if lab.InPrivateMounts(t) {
				return
			}
			y := lab.NewTally(t, "power cut")
			y.Cases(1)
			bin, err := os.Executable()
			require.NoError(t, err)
			at := lab.Loop(t, fstype, 300)
			// Elsewhere, or else the sync of the store would do it.
			store := filepath.Join(lab.ShmDir(t), "store")
			require.NoError(t, os.Symlink(store, filepath.Join(at, "store")))
			// right tells whether the copy holds what was written last.
			right := func(fault string) bool {
				require.NoError(t, os.RemoveAll(store))
				require.NoError(t, os.RemoveAll(filepath.Join(at, "jail")))
				smallJail(t, filepath.Join(at, "jail"))
				require.NoError(t, os.WriteFile(filepath.Join(at, "jail", "big"), bytes.Repeat([]byte("."), 8192), 0o644))
				lab.Sync(t, at)
				s, err := backup.NewCopy(store)
				require.NoError(t, err)
				s.Close()
				_, out, err := runChild(bin, "mapped", at, fault)
				require.NoError(t, err, out)
				got, err := os.ReadFile(filepath.Join(at, "store/one/tree/big"))
				require.NoError(t, err)
				return got[0] == 'y'
			}
			require.True(t, right(""))
			caught := false
			for range 5 { // the kernel may write the page by itself just then
				caught = caught || !right("nosync:1")
			}
			y.Point("red")
			require.True(t, caught, "without the sync of the jail's file system nothing is missing")
		})
	}
}
