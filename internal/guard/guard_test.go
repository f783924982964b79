package guard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

const (
	roleEnv = "JAILUP_TEST_GUARD"
	fileEnv = "JAILUP_TEST_GUARD_FILE"
)

// TestMain lets the test binary be the run and the guardian too.
func TestMain(m *testing.M) {
	lab.Main(m, func() bool {
		switch os.Getenv(roleEnv) {
		case "run":
			run()
		case "guardian":
			guardian()
		case "mute":
			time.Sleep(time.Minute)
		default:
			return false
		}
		return true
	})
}

func env(role string) []string {
	var out []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, roleEnv+"=") {
			out = append(out, e)
		}
	}
	return append(out, roleEnv+"="+role)
}

// run is a run: it starts a guardian, tells its number, and waits for a word.
func run() {
	g, err := Start([]string{"--"}, env("guardian"), nil)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("guardian", g.PID())
	word, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if word == "disarm\n" {
		if err := errors.Join(g.Disarm(), g.Disarm()); err != nil {
			fmt.Println(err)
		}
		fmt.Println("disarmed")
		_, _ = os.Stdin.Read(make([]byte, 1))
	}
	unix.Exit(0) // at once: the race detector would wait a second
}

// guardian watches, and writes down what it saw, and when.
func guardian() {
	end, err := Watch("test", func(s string) { fmt.Println(s) }, func() error { return nil })
	text := fmt.Sprintf("%v %v %d", end == Died, err, time.Now().UnixNano())
	tmp := os.Getenv(fileEnv) + ".tmp"
	if os.WriteFile(tmp, []byte(text), 0o600) == nil {
		_ = os.Rename(tmp, os.Getenv(fileEnv))
	}
}

// guarded is a run with its guardian, seen from the test.
type guarded struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	pid   int
	pidfd int
	file  string
}

func start(t *testing.T, set func(*exec.Cmd)) *guarded {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	g := &guarded{t: t, cmd: exec.Command(self), file: filepath.Join(t.TempDir(), "seen")}
	g.cmd.Env = append(env("run"), fileEnv+"="+g.file)
	g.cmd.Stderr = os.Stderr
	g.in, err = g.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := g.cmd.StdoutPipe()
	require.NoError(t, err)
	g.out = bufio.NewReader(out)
	if set != nil {
		set(g.cmd)
	}
	require.NoError(t, g.cmd.Start())
	t.Cleanup(func() { _ = g.cmd.Process.Kill(); _ = g.cmd.Wait() })
	line, err := g.out.ReadString('\n')
	require.NoError(t, err, line)
	number, ok := strings.CutPrefix(strings.TrimSpace(line), "guardian ")
	require.True(t, ok, line)
	g.pid, err = strconv.Atoi(number)
	require.NoError(t, err)
	g.pidfd, err = unix.PidfdOpen(g.pid, 0)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = unix.PidfdSendSignal(g.pidfd, unix.SIGKILL, nil, 0)
		unix.Close(g.pidfd)
	})
	return g
}

// seen waits for the guardian's end and returns what it saw, and when.
func (g *guarded) seen() (what string, at time.Time) {
	g.t.Helper()
	lab.Eventually(g.t, 20*time.Second, "the guardian ends", func() bool {
		_, err := os.Stat(g.file)
		return err == nil
	})
	data, err := os.ReadFile(g.file)
	require.NoError(g.t, err)
	died, rest, _ := strings.Cut(string(data), " ")
	msg, ns, _ := strings.Cut(rest, " ")
	require.Equal(g.t, "<nil>", msg)
	n, err := strconv.ParseInt(ns, 10, 64)
	require.NoError(g.t, err)
	return died, time.Unix(0, n)
}

func (g *guarded) alive() bool {
	return unix.PidfdSendSignal(g.pidfd, 0, nil, 0) == nil
}

func TestDisarm(t *testing.T) {
	t.Parallel()
	g := start(t, nil)
	_, err := io.WriteString(g.in, "disarm\n")
	require.NoError(t, err)
	line, err := g.out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "disarmed\n", line)
	died, _ := g.seen()
	require.Equal(t, "false", died)
	require.False(t, g.alive(), "Disarm waits for its end")
	require.NoError(t, (*Guardian)(nil).Disarm())
}

// However the run dies, and whatever else is sent to the guardian or its group
// before that: it notices within a second.
func TestRunDies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(g *guarded){
		"killed": func(g *guarded) { _ = g.cmd.Process.Kill() },
		"ended without a word": func(g *guarded) {
			g.in.Close()
		},
		"killed after signals to the guardian": func(g *guarded) {
			for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTERM} {
				require.NoError(g.t, unix.PidfdSendSignal(g.pidfd, s, nil, 0))
			}
			require.True(g.t, g.alive())
			_ = g.cmd.Process.Kill()
		},
		"with its process group": func(g *guarded) {
			require.NoError(g.t, unix.Kill(-g.cmd.Process.Pid, unix.SIGKILL))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, func(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} })
			require.True(t, g.alive())
			sid, err := unix.Getsid(g.pid)
			require.NoError(t, err)
			require.Equal(t, g.pid, sid, "a session of its own")
			began := time.Now()
			c(g)
			_ = g.cmd.Wait()
			died, at := g.seen()
			require.Equal(t, "true", died)
			require.Less(t, at.Sub(began), time.Second)
		})
	}
}

// The terminal of the run is closed: the kernel sends SIGHUP to its session, of
// which the guardian is none.
func TestTerminalCloses(t *testing.T) {
	t.Parallel()
	// Where the tests were started with SIGHUP ignored (nohup), the run would be as
	// well; what is caught here is at its default there.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	defer signal.Stop(hangups)
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		lab.Need(t, "root")
		if lab.RequireAll() {
			t.Fatal("needs /dev/ptmx: ", err)
		}
		t.Skip("needs /dev/ptmx: ", err)
	}
	defer ptmx.Close()
	raw, err := ptmx.SyscallConn()
	require.NoError(t, err)
	number := -1
	require.NoError(t, raw.Control(func(fd uintptr) {
		if unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0) == nil {
			number, _ = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}))
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	g := start(t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{tty}
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	})
	tty.Close()
	began := time.Now()
	require.NoError(t, ptmx.Close()) // hangs up: the run dies of SIGHUP
	err = g.cmd.Wait()
	require.ErrorContains(t, err, "hangup")
	died, at := g.seen()
	require.Equal(t, "true", died)
	require.Less(t, at.Sub(began), time.Second)
}

// What the guardian starts in its turn, the old server, must not begin life with
// signals ignored or descriptors of the guard.
func TestGuardianHoldsNothing(t *testing.T) {
	t.Parallel()
	g := start(t, nil)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "SigIgn:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			require.NoError(t, err)
			for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP} {
				require.Zero(t, mask&(1<<(s-1)), "%s is ignored, and what is started inherits that", s)
			}
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.pid))
	require.NoError(t, err)
	for _, fd := range fds {
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", g.pid, fd.Name()))
		require.NoError(t, err)
		if n, _ := strconv.Atoi(fd.Name()); n == pidFd || n == pipeFd {
			require.Regexp(t, `(?m)^flags:\s*0?2\d{6}$`, string(info), "descriptor %s is close-on-exec", fd.Name())
		}
	}
}

// A guardian that ends, or hangs, before it watches is an error: nothing may be
// stopped without one.
func TestGuardianDoesNotAnswer(t *testing.T) {
	t.Parallel()
	began := time.Now()
	_, err := Start([]string{"-test.run=^$"}, env("none"), nil)
	require.ErrorContains(t, err, "cannot start the guardian: it does not answer")
	require.Less(t, time.Since(began), 10*time.Second)

	if testing.Short() {
		return
	}
	_, err = Start(nil, env("mute"), nil)
	require.ErrorContains(t, err, "cannot start the guardian: it does not answer")
	require.Less(t, time.Since(began), readyLimit+5*time.Second, "one that hangs is killed")
}
