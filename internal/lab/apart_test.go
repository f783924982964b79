package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The processes of the test are all that there are.
func TestApart(t *testing.T) {
	t.Parallel()
	for range 2 {
		t.Run("inner", func(t *testing.T) {
			t.Parallel()
			if Apart(t) {
				return
			}
			cmd := exec.Command("sleep", "1000")
			require.NoError(t, cmd.Start())
			t.Cleanup(func() {
				require.NoError(t, cmd.Process.Kill())
				_ = cmd.Wait()
			})
			found, err := filepath.Glob("/proc/[0-9]*/stat")
			require.NoError(t, err)
			require.Len(t, found, 3, "init, the test, and what it started")
			require.Equal(t, 1, os.Getppid())
		})
	}
}
