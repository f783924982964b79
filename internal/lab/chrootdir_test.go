package lab

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChrootDirJailHasItsMasterOutside(t *testing.T) {
	t.Parallel()
	debs := web(t, "")
	for name, opts := range map[string][]JailOption{
		"event":   {InMemory()},
		"prefork": {MPM("prefork"), Merged()},
		"mod_php": {InMemory(), Extensions("mysql", "gd")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := ChrootDirJail(t, debs, opts...)
			j.Start(t)
			status, body := j.Get(t, "/")
			require.Equal(t, 200, status)
			require.Equal(t, Page, body)
			master := j.MasterPID()
			require.Positive(t, master)
			root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", master))
			require.NoError(t, err)
			require.Equal(t, "/", root)
			Eventually(t, 5e9, "children in the jail", func() bool { return len(j.Processes()) > 1 })
			for _, p := range j.Processes() {
				require.Equal(t, "apache2", p.Comm)
				require.NotEqual(t, master, p.PID)
			}
			if name == "mod_php" {
				_, extensions := j.PHP(t)
				require.Subset(t, extensions, []string{"mysqli", "gd", "ctype"})
				require.Equal(t, "ok", j.Uses(t)["date"])
			}
			log, err := os.ReadFile(j.Parts[0].Log)
			require.NoError(t, err)
			require.NotContains(t, string(log), "AH00052")
			j.Stop(t)
			require.Empty(t, j.Processes())
			require.Zero(t, j.MasterPID())
			require.Empty(t, runsFrom(j.Host))
		})
	}
}
