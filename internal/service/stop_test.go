package service

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
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

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// ignore ignores signals for the length of a test.
func ignore(t *testing.T, sigs ...os.Signal) {
	signal.Ignore(sigs...)
	t.Cleanup(func() { signal.Reset(sigs...) })
}

// slowGet begins a download that goes on until the test reads the rest.
func slowGet(t *testing.T, j *lab.Jail, size int) net.Conn {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/www/big"), make([]byte, size), 0o644))
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(j.Port))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, "GET /big HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	_, err = io.ReadFull(conn, make([]byte, 1000))
	require.NoError(t, err)
	return conn
}

const big = 32 << 20 // more than fits into the socket's buffers

func TestGracefulStopLetsADownloadEnd(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	j.Start(t)
	conn := slowGet(t, j, big)
	got := make(chan int64, 1)
	go func() {
		time.Sleep(700 * time.Millisecond) // the stop is under way
		n, _ := io.Copy(io.Discard, conn)
		got <- n
	}()
	r, err := c.Stop(ctx, StopOptions{Grace: 20 * time.Second})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
	require.Greater(t, r.Took, 500*time.Millisecond)
	require.Greater(t, <-got, int64(big-1000), "the download is whole")
	require.Greater(t, r.Signals[0].Times, 1, "the signal is repeated, which does no harm")
}

func TestStopEscalates(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	j.Start(t)
	slowGet(t, j, big) // nobody reads on
	r, err := c.Stop(ctxOf(t), StopOptions{Grace: 300 * time.Millisecond})
	require.NoError(t, err)
	require.Equal(t, Harder, r.Level)
	require.Empty(t, j.Processes())
}

func TestStopWakesAStoppedMaster(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	j.Start(t)
	require.NoError(t, unix.Kill(j.MasterPID(), unix.SIGSTOP))
	r, err := c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
	require.Empty(t, j.Processes())
}

func TestStopRightAfterStartIsNotLost(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	for range 15 {
		_, err := c.Start(ctx, StartOptions{})
		require.NoError(t, err)
		r, err := c.Stop(ctx, StopOptions{Grace: 20 * time.Second})
		require.NoError(t, err)
		require.Equal(t, Graceful, r.Level)
		require.Less(t, r.Took, 5*time.Second)
		require.Empty(t, j.Processes())
	}
}

func TestStopEndsWorkersWithoutAMaster(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	j.Start(t)
	require.NoError(t, unix.Kill(j.MasterPID(), unix.SIGKILL))
	lab.Eventually(t, 5*time.Second, "the master is dead", func() bool {
		s, err := c.Find(ctx)
		return err == nil && s.Master == nil && len(s.Others) == 2
	})
	_, err := c.Start(ctx, StartOptions{})
	require.ErrorContains(t, err, "of an earlier one still runs")
	_, err = c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Empty(t, j.Processes())
}

// second writes a configuration for another nginx in the jail and starts it.
func second(t *testing.T, j *lab.Jail, pidFile string) (port, pid int) {
	t.Helper()
	port = lab.FreePort(t)
	conf := fmt.Sprintf(`user www-data; pid %s; error_log /var/log/nginx/second.log; events {}
http { access_log off; server { listen 127.0.0.1:%d; root /srv/www; } }`, pidFile, port)
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx/second.conf"), []byte(conf), 0o644))
	cmd := chrooted(t, j.Dir, "/usr/sbin/nginx", "-c", "/etc/nginx/second.conf")
	lab.Eventually(t, 10*time.Second, "the second nginx is up", func() bool {
		b, err := os.ReadFile(filepath.Join(j.Dir, pidFile))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil && !alive(cmd.Process.Pid) && answers(port)
	})
	return port, pid
}

func answers(port int) bool {
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func TestBystandersSurvive(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	bin, err := actorBinary()
	require.NoError(t, err)
	data, err := os.ReadFile(bin)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "usr/bin"), 0o755))
	lab.WriteProgram(t, filepath.Join(j.Dir, "usr/bin/other"), data)
	other := chrooted(t, j.Dir, "/usr/bin/other", "serve")
	j.Start(t)
	port, pid := second(t, j, "/run/second.pid")

	for range 2 {
		s, err := c.Find(ctx)
		require.NoError(t, err)
		require.NotEqual(t, pid, s.Master.PID)
		require.NotContains(t, s.PIDs(), other.Process.Pid)
		r, err := c.Stop(ctx, StopOptions{Grace: time.Second})
		require.NoError(t, err)
		require.Len(t, r.Survived, 1)
		require.Equal(t, pid, r.Survived[0].PID)

		r, err = c.Stop(ctx, StopOptions{})
		require.NoError(t, err, "the bystander is not taken for the server")
		require.Equal(t, None, r.Level)
		require.True(t, answers(port))
		require.True(t, alive(other.Process.Pid))
		_, err = c.Start(ctx, StartOptions{})
		require.NoError(t, err)
	}
	// Another controller, as after a crash, has seen nothing of that.
	_, err = c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	fresh := NewProcess(openJail(t, j.Dir), nginxSpec(), logTo(t))
	_, err = fresh.Stop(ctx, StopOptions{})
	require.ErrorIs(t, err, ErrAmbiguous)
	require.Contains(t, err.Error(), strconv.Itoa(pid))
	exact := nginxSpec()
	exact.Exact = true
	fresh = NewProcess(openJail(t, j.Dir), exact, logTo(t))
	r, err := fresh.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Equal(t, None, r.Level)
	require.True(t, answers(port))
	fresh = NewProcess(openJail(t, j.Dir), nginxSpec(), logTo(t))
	s, err := fresh.Start(ctx, StartOptions{})
	require.NoError(t, err)
	require.NotEqual(t, pid, s.Master.PID)
}

func TestPIDFileLies(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	j.Start(t)
	master := j.MasterPID()
	write := func(s string) {
		require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "run/nginx.pid"), []byte(s), 0o644))
	}
	for _, lie := range []string{"1\n", "-1", "0", strconv.Itoa(os.Getpid()), strings.Repeat("9", 60), "x", ""} {
		write(lie)
		s, err := c.Find(ctx)
		require.NoError(t, err, lie)
		require.Equal(t, master, s.Master.PID, lie)
	}
	port, pid := second(t, j, "/run/second.pid")
	write(strconv.Itoa(pid))
	s, err := c.Find(ctx)
	require.NoError(t, err)
	require.Equal(t, master, s.Master.PID, "it was the server before")
	fresh := NewProcess(openJail(t, j.Dir), nginxSpec(), logTo(t))
	_, err = fresh.Find(ctx)
	require.ErrorIs(t, err, ErrAmbiguous, "the command line says one, the pid file the other")
	require.Contains(t, err.Error(), strconv.Itoa(pid))
	require.Contains(t, err.Error(), strconv.Itoa(master))
	_, err = fresh.Stop(ctx, StopOptions{})
	require.ErrorIs(t, err, ErrAmbiguous)
	require.True(t, answers(port))
	require.True(t, answers(j.Port))
}

func TestServerWithAnotherConfigurationIsStartedLikeThatAgain(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	require.NoError(t, os.Rename(filepath.Join(j.Dir, "etc/nginx/nginx.conf"), filepath.Join(j.Dir, "etc/nginx/site.conf")))
	argv := []string{"/usr/sbin/nginx", "-c", "/etc/nginx/site.conf", "-g", "worker_rlimit_nofile 256; timer_resolution 100ms;"}
	_, err := c.Start(ctx, StartOptions{Argv: argv})
	require.NoError(t, err)
	fresh := NewProcess(openJail(t, j.Dir), nginxSpec(), logTo(t))
	var s Server
	lab.Eventually(t, 10*time.Second, "its pid file names it", func() bool {
		s, err = fresh.Find(ctx)
		return err == nil && len(s.Others) == 2
	})
	saved := ArgvOf(*s.Master, nginxSpec())
	require.Equal(t, argv, saved)
	_, err = fresh.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	again, err := fresh.Start(ctx, StartOptions{Argv: saved})
	require.NoError(t, err)
	require.NotEqual(t, s.Master.PID, again.Master.PID)
	lab.Eventually(t, 10*time.Second, "it answers", func() bool { code, _, _ := j.TryGet("/"); return code == 200 })
}

func TestReplacedExecutableStillCounts(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	j.Start(t)
	exe := filepath.Join(j.Dir, "usr/sbin/nginx")
	var st unix.Stat_t
	require.NoError(t, unix.Stat(exe, &st))
	data, err := os.ReadFile(exe)
	require.NoError(t, err)

	// Exchanged: the old one lies elsewhere.
	stage := filepath.Join(filepath.Dir(j.Dir), "staged")
	lab.WriteProgram(t, stage, data)
	require.NoError(t, unix.Renameat2(unix.AT_FDCWD, stage, unix.AT_FDCWD, exe, unix.RENAME_EXCHANGE))
	s, err := c.Find(ctx)
	require.NoError(t, err)
	require.False(t, s.Running())
	extra := NewProcess(openJail(t, j.Dir), nginxSpec(), ExtraExes(func() []Inode {
		return []Inode{{Dev: uint64(st.Dev), Ino: st.Ino}}
	}))
	s, err = extra.Find(ctx)
	require.NoError(t, err)
	require.Len(t, s.PIDs(), 3)

	// Deleted: somebody copied a new one over it.
	require.NoError(t, os.Rename(stage, exe))
	lab.WriteProgram(t, stage, data)
	require.NoError(t, os.Rename(stage, exe))
	s, err = c.Find(ctx)
	require.NoError(t, err)
	require.Len(t, s.PIDs(), 3)
	_, err = c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Empty(t, j.Processes())
}

func TestStopEndsAllThatComesOfAServer(t *testing.T) {
	t.Parallel()
	dir := actorJail(t)
	c := NewProcess(openJail(t, dir), actorSpec("master"), logTo(t))
	ctx := ctxOf(t)
	chrooted(t, dir, "/usr/bin/script", "serve") // no child of the server
	s, err := c.Start(ctx, StartOptions{})
	require.NoError(t, err)
	lab.Eventually(t, 10*time.Second, "all children are there", func() bool {
		tab, _, err := c.see()
		require.NoError(t, err)
		n := 0
		for _, p := range tab.byPID {
			if p.inJail {
				n++
			}
		}
		return n == 6
	})
	r, err := c.Stop(ctx, StopOptions{Grace: 300 * time.Millisecond, Harder: 300 * time.Millisecond})
	require.NoError(t, err)
	require.Equal(t, Killed, r.Level)
	require.Len(t, r.Stopped, 5)
	require.False(t, alive(s.Master.PID))
	tab, _, err := c.see()
	require.NoError(t, err)
	var left []string
	for _, p := range tab.byPID {
		if p.inJail {
			left = append(left, p.String())
		}
	}
	require.Len(t, left, 1, "the bystander")
}

func TestStopEndsAForkRacer(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"race", "racers"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := actorJail(t)
			cmd := chrooted(t, dir, "/usr/sbin/actor", mode)
			c := NewProcess(openJail(t, dir), actorSpec("race"), logTo(t))
			if mode == "racers" {
				stubborn(t, cmd.Process.Pid)
			}
			r, err := c.Stop(ctxOf(t), StopOptions{Grace: 50 * time.Millisecond, Harder: 50 * time.Millisecond, Kill: 30 * time.Second})
			require.NoError(t, err)
			require.NotEqual(t, None, r.Level, "it is seen, however short each of its processes lives")
			t.Logf("%s after %s, %d processes", r.Level, r.Took, len(r.Stopped))
			if mode == "racers" {
				require.Less(t, r.Took, 8*time.Second, "the group is killed as a whole")
			}
			for range 50 {
				tab, _, err := c.see()
				require.NoError(t, err)
				for _, p := range tab.byPID {
					require.False(t, p.inJail, "process %s is left", p)
				}
			}
		})
	}
}

func TestStopThatCannotSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	e := &StillRunsError{Name: "nginx", After: 30 * time.Second, Left: []Process{{PID: 42, State: 'D'}}}
	require.Equal(t, "cannot stop nginx: 1 process still runs after 30s (pid 42 in state D: it waits for a disk or a network file system, no signal reaches it)", e.Error())
}

// stubborn waits until an actor ignores signals.
func stubborn(t *testing.T, pid int) {
	t.Helper()
	lab.Eventually(t, 10*time.Second, "it ignores signals", func() bool {
		ignored, err := strconv.ParseUint(status(t, pid, "SigIgn"), 16, 64)
		return err == nil && ignored&(1<<(unix.SIGQUIT-1)) != 0
	})
}

func TestStopGivesUpInTheEnd(t *testing.T) {
	t.Parallel()
	dir := actorJail(t)
	cmd := chrooted(t, dir, "/usr/sbin/actor", "stubborn")
	c := NewProcess(openJail(t, dir), actorSpec("stubborn"), logTo(t))
	stubborn(t, cmd.Process.Pid)
	r, err := c.Stop(ctxOf(t), StopOptions{Grace: 20 * time.Millisecond, Harder: 20 * time.Millisecond, Kill: 1})
	var still *StillRunsError
	require.ErrorAs(t, err, &still)
	require.Len(t, still.Left, 1)
	require.Equal(t, cmd.Process.Pid, r.Left[0].PID)

	ctx, cancel := contextFor(200 * time.Millisecond)
	defer cancel()
	_, err = c.Stop(ctx, StopOptions{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, alive(cmd.Process.Pid))

	// Where there is a freezer of the old kind, not even SIGKILL gets through.
	if g := "/sys/fs/cgroup/freezer/jailup-" + strconv.Itoa(os.Getpid()); os.Mkdir(g, 0o755) == nil {
		put := func(name, s string) error { return os.WriteFile(filepath.Join(g, name), []byte(s), 0o644) }
		defer os.Remove(g)
		require.NoError(t, put("cgroup.procs", strconv.Itoa(cmd.Process.Pid)))
		require.NoError(t, put("freezer.state", "FROZEN"))
		defer put("freezer.state", "THAWED")
		_, err = c.Stop(ctxOf(t), StopOptions{Grace: 20 * time.Millisecond, Harder: 20 * time.Millisecond, Kill: 300 * time.Millisecond})
		require.Error(t, err)
		require.Regexp(t, fmt.Sprintf(`^cannot stop actor: 1 process still runs after [0-9.]+m?s \(pid %d in state D`, cmd.Process.Pid), err.Error())
		require.NoError(t, put("freezer.state", "THAWED"))
		lab.Eventually(t, 10*time.Second, "it has ended", func() bool { return !alive(cmd.Process.Pid) })
	}
	_, err = c.Stop(ctxOf(t), StopOptions{Grace: 1, Harder: 1})
	require.NoError(t, err)
	require.False(t, alive(cmd.Process.Pid))
}
