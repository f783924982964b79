//go:build faultpoints

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// Something outside starts the server again whenever it is down, as a watchdog
// would: never a mixture, and at the end it runs in the version that the tree has.
func TestHostileProcessesStartedFromOutside(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	y := lab.NewTally(t, hostileProcesses)
	for _, every := range []time.Duration{2 * time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(every.String(), func(t *testing.T) {
			t.Parallel()
			startedFromOutside(t, y, every)
		})
	}
}

func startedFromOutside(t *testing.T, y *lab.Tally, every time.Duration) {
	y.Cases(1)
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	old := stateless(t, j.Dir)
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	fresh := stateless(t, j.Dir)
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "0s")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	var starts atomic.Int64
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
			if len(j.Processes()) > 0 {
				continue
			}
			cmd := exec.Command("/usr/sbin/nginx")
			cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", []string{}, &syscall.SysProcAttr{Chroot: j.Dir, Setsid: true}
			if cmd.Run() == nil {
				starts.Add(1)
			}
		}
	}()
	defer wg.Wait()
	defer close(stop)
	const runs = 4
	y.Of(runs)
	for i := range runs {
		if lab.Sampling() && i >= 1 {
			break
		}
		is := stateless(t, j.Dir)
		verb := []string{"upgrade", "nginx"}
		if len(lab.DiffTrees(fresh, is)) == 0 {
			verb = []string{"rollback"}
		}
		r := h.run(append(verb, "--jail", j.Dir, "--soak", "300ms", "--start-timeout", "20s")...)
		what := fmt.Sprintf("%s %d: exit %d: %s", verb[0], i, r.Exit, r.err())
		t.Log(what)
		now := stateless(t, j.Dir)
		isOld, isNew := len(lab.DiffTrees(old, now)) == 0, len(lab.DiffTrees(fresh, now)) == 0
		switch {
		case !isOld && !isNew:
			y.Mixed("%s: %v", what, lab.DiffTrees(old, now))
		case r.Exit == 4:
			for _, p := range j.Processes() {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
				t.Logf("%+v %q", p, text)
			}
			t.Log(r.String())
			y.Person("%s", what)
		case (r.Exit == 0) != (isNew == (verb[0] == "upgrade")):
			y.WrongExit("%s", what)
		}
		lab.Eventually(t, 20*time.Second, what, func() bool {
			status, _, err := j.TryGet("/")
			return err == nil && status == 200
		})
		// No process runs for long what is not in the tree: a start that found the
		// address taken tries for some seconds, and ends.
		stray := ""
		for until := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			stray = ""
			for _, p := range j.Processes() {
				exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
				if err == nil && (strings.HasSuffix(exe, " (deleted)") || strings.Contains(exe, ".jailup-stage")) {
					stray = fmt.Sprintf("%d runs %s", p.PID, exe)
				}
			}
			if stray == "" || time.Now().After(until) {
				break
			}
		}
		if stray != "" {
			y.Mixed("%s: %s", what, stray)
		}
		if isNew {
			y.Point("new")
		} else {
			y.Point("old")
		}
	}
	t.Logf("started from outside %d times", starts.Load())
	if every < 100*time.Millisecond {
		require.Positive(t, starts.Load(), "the watchdog was never faster")
	}
}
