//go:build faultpoints

package service

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

const reuseEnv = "JAILUP_TEST_REUSE"

// The number of the server is given to somebody else between the look and the
// signal: that one, which also runs in the jail, is not hit. The kernel is told
// which number to give next (pid_namespaces(7)), in a namespace of its own.
func TestHostileReuseOfANumber(t *testing.T) {
	lab.Need(t, "root", "go", "unshare")
	if os.Getenv(reuseEnv) == "" {
		y := lab.NewTally(t, "hostile processes")
		y.Cases(1)
		bin, err := actorBinary()
		require.NoError(t, err)
		require.FileExists(t, bin)
		self, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child", self, "-test.run", "^TestHostileReuseOfANumber$", "-test.v")
		cmd.Env = append(os.Environ(), reuseEnv+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "3 numbers were given out again")
		for range 3 {
			y.Point("spared")
		}
		return
	}
	dir := actorJail(t)
	root := openJail(t, dir)
	given := 0
	for i, other := range [][]string{{"/usr/bin/script", "serve"}, {"/usr/sbin/actor", "serve", "of another"}, {"/usr/sbin/actor", "serve"}} {
		c := NewProcess(root, actorSpec("serve"), logTo(t))
		victim := exec.Command("/usr/sbin/actor", "serve")
		victim.Dir, victim.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: dir, Setsid: true}
		require.NoError(t, victim.Start())
		pid := victim.Process.Pid
		var s Server
		lab.Eventually(t, 10*time.Second, "it is found", func() bool {
			var err error
			s, err = c.Find(ctxOf(t))
			return err == nil && s.Master != nil && s.Master.PID == pid
		})
		w, err := c.want()
		require.NoError(t, err)
		d := newDrain(c, s) // as a stop does that has looked
		time.Sleep(30 * time.Millisecond)
		require.NoError(t, victim.Process.Kill())
		_ = victim.Wait()
		var reuser *exec.Cmd
		for range 50 {
			require.NoError(t, os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0))
			cmd := exec.Command(other[0], other[1:]...)
			cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: dir, Setsid: true}
			require.NoError(t, cmd.Start())
			if cmd.Process.Pid == pid {
				reuser = cmd
				break
			}
			_ = cmd.Process.Kill() // a thread of ours was faster
			_ = cmd.Wait()
		}
		require.NotNil(t, reuser, "the number is not given out again")
		given++
		_, err = c.hold(*s.Master, true, w)
		require.ErrorIs(t, err, unix.ESRCH)
		for _, m := range d.members {
			d.open(m, w)
			require.Negative(t, m.fd, "case %d: it has hold of another process", i)
		}
		d.close()
		require.True(t, alive(pid))
		_ = reuser.Process.Kill()
		_ = reuser.Wait()
	}
	fmt.Printf("%d numbers were given out again\n", given)
}
