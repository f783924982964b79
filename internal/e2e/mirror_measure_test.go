//go:build faultpoints

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// measure makes a command tell its peak memory: call peak after it has ended,
// for the number in KB
// and the processor's time.
func measure(t testing.TB, cmd *exec.Cmd, file string) (peak func() (int64, time.Duration)) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd.Args = append([]string{self, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = self
	cmd.Env = append(cmd.Env, measureEnv+"="+file)
	return func() (int64, time.Duration) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.Remove(file))
		var kb int64
		var cpu time.Duration
		_, err = fmt.Sscan(string(text), &kb, (*int64)(&cpu))
		require.NoError(t, err)
		return kb, cpu
	}
}
