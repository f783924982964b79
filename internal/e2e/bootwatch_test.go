//go:build faultpoints

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// Somebody starts the server again as soon as it is down, as Restart=always does,
// or a watchdog in cron: between stop and install, in the middle of the install,
// after it. The upgrade, its rollback and an upgrade that fails end as they would
// otherwise, and what runs then is the program that the jail holds.
func TestFaultStartedAgain(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "boot")
	f := newFaultRun(t, lab.ShmDir(t))
	f.trace()
	ctx, cancel := context.WithCancel(context.Background())
	starts := 0
	var done sync.WaitGroup
	done.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
			if len(f.j.Processes()) > 0 {
				continue
			}
			cmd := exec.Command("/usr/sbin/nginx")
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: f.j.Dir, Setsid: true}
			cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin"}
			if cmd.Run() == nil {
				starts++
			}
		}
	})
	defer func() { cancel(); done.Wait() }()
	running := func(what string) {
		t.Helper()
		f.answers(5*time.Second, what)
		now, err := os.Stat(filepath.Join(f.j.Dir, "usr/sbin/nginx"))
		require.NoError(t, err)
		for _, p := range f.j.Processes() {
			exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.PID))
			if err == nil && p.Comm == "nginx" {
				require.True(t, os.SameFile(now, exe), "%s: process %d runs a program that is not the jail's", what, p.PID)
			}
		}
	}
	rounds := 4
	if lab.Sampling() {
		rounds = 1
	}
	y.Cases(3)
	for i := range rounds {
		what := fmt.Sprintf("round %d", i)
		f.h.must(0, "upgraded", "upgrade", "nginx", "--jail", f.j.Dir, "--soak", "0s")
		running(what + ": upgraded")
		require.Empty(t, lab.DiffTrees(f.new, stateless(t, f.j.Dir)))
		y.Point("new")
		f.h.must(0, "rolled-back", "rollback", "--jail", f.j.Dir, "--soak", "0s")
		running(what + ": rolled back")
		require.Empty(t, lab.DiffTrees(f.old, stateless(t, f.j.Dir)))
		y.Point("old")
		require.True(t, f.upgrade("kill:9@do install"), "killed in the middle")
		f.noGuardian(what)
		running(what + ": killed")
		require.Empty(t, lab.DiffTrees(f.old, stateless(t, f.j.Dir)))
		y.Point("old")
	}
	cancel()
	done.Wait()
	t.Logf("it was started %d times", starts)
	require.Positive(t, starts)
}
