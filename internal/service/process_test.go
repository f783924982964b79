package service

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func TestNginxIsStartedFoundReloadedAndStopped(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)

	s, err := c.Find(ctx)
	require.NoError(t, err)
	require.False(t, s.Running())
	r, err := c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Equal(t, None, r.Level)
	require.ErrorIs(t, c.Reload(ctx), ErrNotRunning)

	s, err = c.Start(ctx, StartOptions{})
	require.NoError(t, err)
	require.NotNil(t, s.Master)
	lab.Eventually(t, 10*time.Second, "two workers", func() bool {
		s, err = c.Find(ctx)
		return err == nil && len(s.Others) == 2 && s.Others[0].UID == 33 && strings.HasPrefix(s.Master.Cmdline, "nginx: master process")
	})
	require.Equal(t, j.MasterPID(), s.Master.PID)
	require.Equal(t, 0, s.Master.UID)
	require.Equal(t, []string{"/usr/sbin/nginx"}, ArgvOf(*s.Master, nginxSpec()))
	code, _ := j.Get(t, "/")
	require.Equal(t, 200, code)
	requireClean(t, j.Dir, s.Master.PID)

	again, err := c.Start(ctx, StartOptions{})
	require.NoError(t, err)
	require.Equal(t, s.Master.PID, again.Master.PID, "a second start starts nothing")

	require.NoError(t, c.Reload(ctx))
	lab.Eventually(t, 10*time.Second, "new workers", func() bool {
		now, err := c.Find(ctx)
		return err == nil && len(now.Others) == 2 && now.Master.PID == s.Master.PID && !overlap(now.PIDs()[1:], s.PIDs()[1:])
	})

	r, err = c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
	require.Len(t, r.Stopped, 3)
	require.Empty(t, r.Left)
	require.Equal(t, unix.SIGQUIT, r.Signals[0].Signal)
	require.Equal(t, s.Master.PID, r.Signals[0].Process.PID)
	require.Positive(t, r.Signals[0].Gone)
	require.Less(t, r.Took, 5*time.Second)
	require.Empty(t, j.Processes())
	r, err = c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Equal(t, None, r.Level)
}

func overlap(a, b []int) bool {
	for _, x := range a {
		for _, y := range b {
			if x == y {
				return true
			}
		}
	}
	return false
}

// requireClean looks at what a started server got from us.
func requireClean(t *testing.T, dir string, pid int) {
	t.Helper()
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	require.NoError(t, err)
	require.Equal(t, dir, cwd)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	p, err := parseStat(b)
	require.NoError(t, err)
	require.NotEqual(t, os.Getpid(), p.SID)
	for _, fd := range fds(t, pid) {
		n, target, _ := strings.Cut(fd, " ")
		i, err := strconv.Atoi(n)
		require.NoError(t, err)
		if i <= 2 || strings.HasPrefix(target, dir+"/") || strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "anon_inode:") {
			continue // a standard stream, or opened by itself
		}
		t.Errorf("the server holds %s", fd)
	}
}

func fds(t *testing.T, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	var all []string
	for _, n := range names {
		if target, err := os.Readlink(filepath.Join(dir, n.Name())); err == nil {
			all = append(all, n.Name()+" "+target)
		}
	}
	return all
}

func TestStartedServerInheritsNothing(t *testing.T) {
	// Not parallel: it changes what this process ignores and holds.
	dir := actorJail(t)
	f, err := os.Open("/proc/self/status")
	require.NoError(t, err)
	defer f.Close()
	leak, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 100) // without close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	ignore(t, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGHUP)
	t.Setenv("LD_PRELOAD", "/tmp/evil.so")

	c := NewProcess(openJail(t, dir), actorSpec("serve"), logTo(t))
	s, err := c.Start(ctxOf(t), StartOptions{Settle: 300 * time.Millisecond, Env: []string{"TZ=UTC"}})
	require.NoError(t, err)
	pid := s.Master.PID
	require.Zero(t, signals(t, pid, "SigIgn"))
	require.Zero(t, signals(t, pid, "SigBlk"))
	require.Equal(t, "0022", status(t, pid, "Umask"))
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	require.NoError(t, err)
	require.Equal(t, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\x00LANG=C.UTF-8\x00TZ=UTC\x00", string(env))
	for _, fd := range fds(t, pid) {
		require.NotContains(t, fd, "/status")
	}
	require.Equal(t, strconv.Itoa(os.Getpid()), status(t, pid, "PPid"))
	_, err = c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.False(t, alive(pid))
	_, err = os.Stat(fmt.Sprintf("/proc/%d", pid))
	lab.Eventually(t, 5*time.Second, "it is reaped", func() bool {
		_, err = os.Stat(fmt.Sprintf("/proc/%d", pid))
		return errors.Is(err, os.ErrNotExist)
	})
}

func TestForegroundServerIsTheStartCommand(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	argv := []string{"/usr/sbin/nginx", "-g", "daemon off; worker_shutdown_timeout 3s;"}
	s, err := c.Start(ctx, StartOptions{Argv: argv})
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(os.Getpid()), status(t, s.Master.PID, "PPid"))
	lab.Eventually(t, 10*time.Second, "it answers", func() bool { code, _, _ := j.TryGet("/"); return code == 200 })
	s, err = c.Find(ctx)
	require.NoError(t, err)
	require.Equal(t, argv, ArgvOf(*s.Master, nginxSpec()))
	for _, fd := range fds(t, s.Master.PID) {
		require.NotContains(t, fd, "pipe:[")
	}
	_, err = c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	lab.Eventually(t, 5*time.Second, "it is reaped", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", s.Master.PID))
		return errors.Is(err, os.ErrNotExist)
	})
}

func TestStartErrorsTellTheReason(t *testing.T) {
	t.Parallel()
	dir := actorJail(t)
	root := openJail(t, dir)
	lab.WriteProgram(t, filepath.Join(dir, "usr/sbin/script"), []byte("#!/no/such/sh\n"))
	tests := map[string]struct {
		argv []string
		want []string
	}{
		"exit status":    {[]string{"/usr/sbin/actor", "say", "1", "bind() failed\x1b[2J\u202e (98)"}, []string{"/usr/sbin/actor say 1", "exit status 1", "bind() failed", "(98)"}},
		"no such file":   {[]string{"/usr/sbin/none"}, []string{"/usr/sbin/none", "no such file"}},
		"no interpreter": {[]string{"/usr/sbin/script"}, []string{"interpreter"}},
		"no process":     {[]string{"/usr/sbin/actor", "say", "0", "bye"}, []string{"left no process running", "bye"}},
		"not absolute":   {[]string{"actor"}, []string{"absolute path"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { // one after the other: they share the jail
			c := NewProcess(root, actorSpec(), logTo(t))
			_, err := c.Start(ctxOf(t), StartOptions{Argv: tt.argv})
			require.Error(t, err)
			require.True(t, strings.HasPrefix(err.Error(), "cannot start actor: "))
			for _, w := range tt.want {
				require.Contains(t, err.Error(), w)
			}
			require.NotContains(t, err.Error(), "\x1b")
			require.NotContains(t, err.Error(), "\u202e")
		})
	}
}

func TestStartThatFailedAndLeftADaemonIsStopped(t *testing.T) {
	t.Parallel()
	j, c := nginxJail(t, "")
	ctx := ctxOf(t)
	require.NoError(t, os.RemoveAll(filepath.Join(j.Dir, "run")))
	_, err := c.Start(ctx, StartOptions{})
	var se *StartError
	require.ErrorAs(t, err, &se)
	require.Contains(t, err.Error(), "exit status 1")
	require.Contains(t, err.Error(), "[emerg]")
	s, err := c.Find(ctx)
	require.NoError(t, err)
	require.True(t, s.Running(), "nginx leaves a daemon without a pid file")
	r, err := c.Stop(ctx, StopOptions{Grace: 5 * time.Second})
	require.NoError(t, err)
	require.NotEqual(t, None, r.Level)
	require.Empty(t, j.Processes())
}

func TestStartThatHangsOrFloodsIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"stubborn", "flood", "race", "master"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := actorJail(t)
			c := NewProcess(openJail(t, dir), actorSpec(), logTo(t))
			ctx, cancel := contextFor(time.Second)
			defer cancel()
			begun := time.Now()
			_, err := c.Start(ctx, StartOptions{Argv: []string{"/usr/sbin/actor", mode}, Settle: time.Hour})
			if mode == "race" && err == nil || mode == "master" && err == nil {
				// It looked like a daemon, or a master with children: then stop it.
				_, err = c.Stop(ctxOf(t), StopOptions{Grace: time.Millisecond, Harder: time.Millisecond, Kill: 30 * time.Second})
				require.NoError(t, err)
			} else {
				require.Error(t, err)
				require.Less(t, len(err.Error()), 5000)
			}
			require.Less(t, time.Since(begun), 20*time.Second)
			tab, _, err := c.see()
			require.NoError(t, err)
			for _, p := range tab.byPID {
				require.False(t, p.inJail, "process %s is left", p)
			}
		})
	}
}

func TestServerIsNeverDownForLackOfDescriptors(t *testing.T) {
	// Not parallel: it takes the descriptors away from the whole process.
	j, c := nginxJail(t, "")
	j.Start(t)
	var was unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &was) }()
	free, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	require.NoError(t, err)
	unix.Close(free)
	refused := 0
	for n := range 6 {
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free + n), Max: was.Max}))
		s, ferr := c.Find(ctxOf(t))
		r, serr := StopReport{}, error(nil)
		if ferr != nil {
			r, serr = c.Stop(ctxOf(t), StopOptions{Grace: time.Minute})
		}
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
		if ferr == nil {
			require.Len(t, s.PIDs(), 3)
			continue
		}
		refused++
		require.Error(t, serr)
		require.Empty(t, r.Signals)
	}
	require.Positive(t, refused)
	_, err = c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.Empty(t, j.Processes())
}

// What a start leaves in the background as another program is found by whose
// child it is: one that failed leaves nothing on the port, and one that went well
// nothing after the stop.
func TestWhatAStartLeavesAsAnotherProgram(t *testing.T) {
	// Not parallel: a child of this process is told from one of another test by its
	// root only.
	dir := actorJail(t)
	look := NewProcess(openJail(t, dir), actorSpec())
	inJail := func() (n int) {
		tab, _, err := look.see()
		require.NoError(t, err)
		for _, p := range tab.byPID {
			if p.inJail {
				n++
			}
		}
		return n
	}
	chrooted(t, dir, "/usr/bin/script", "serve") // a bystander
	for _, status := range []string{"0", "1"} {
		c := NewProcess(openJail(t, dir), actorSpec("exile", status, "stubborn"), logTo(t))
		_, err := c.Start(ctxOf(t), StartOptions{})
		require.Error(t, err)
		require.Contains(t, err.Error(), "left in the background")
		require.Equal(t, 1, inJail(), "the bystander alone")
	}
	c := NewProcess(openJail(t, dir), actorSpec("both", "stubborn"), logTo(t))
	_, err := c.Start(ctxOf(t), StartOptions{})
	require.NoError(t, err)
	require.Equal(t, 3, inJail())
	_, err = c.Stop(ctxOf(t), StopOptions{Grace: 300 * time.Millisecond, Harder: 300 * time.Millisecond})
	require.NoError(t, err)
	require.Equal(t, 1, inJail(), "the bystander alone")
}

// Somebody else was faster: our own start fails, and the server runs.
func TestStartIsOvertaken(t *testing.T) {
	// Not parallel: the start of another test would adopt what is to be init's.
	dir := actorJail(t)
	c := NewProcess(openJail(t, dir), actorSpec("late"), logTo(t))
	// A child of init, as what cron starts is none of ours.
	require.NoError(t, exec.Command("setsid", "--fork", "sh", "-c", `sleep 0.5; exec chroot "$1" /usr/sbin/actor serve`, "sh", dir).Run())
	s, err := c.Start(ctxOf(t), StartOptions{})
	require.NoError(t, err)
	require.Contains(t, s.Master.Cmdline, "serve")
	_, err = c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.False(t, alive(s.Master.PID))
}

// What was started after the stop, and before its program was taken out of the
// jail, is not the server that is to run.
func TestStartEndsOneOfTheProgramBefore(t *testing.T) {
	t.Parallel()
	dir := actorJail(t)
	exe := filepath.Join(dir, "usr/sbin/actor")
	stage := filepath.Join(filepath.Dir(dir), "staged")
	data, err := os.ReadFile(exe)
	require.NoError(t, err)
	lab.WriteProgram(t, stage, data)
	old := chrooted(t, dir, "/usr/sbin/actor", "serve")
	c := NewProcess(openJail(t, dir), actorSpec("serve"), logTo(t), ExtraExes(func() []Inode {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(stage, &st))
		return []Inode{{Dev: uint64(st.Dev), Ino: st.Ino}}
	}))
	lab.Eventually(t, 10*time.Second, "it runs", func() bool { s, err := c.Find(ctxOf(t)); return err == nil && s.Master != nil })
	s, err := c.Start(ctxOf(t), StartOptions{})
	require.NoError(t, err)
	require.Equal(t, old.Process.Pid, s.Master.PID, "nothing was exchanged yet")
	require.NoError(t, unix.Renameat2(unix.AT_FDCWD, stage, unix.AT_FDCWD, exe, unix.RENAME_EXCHANGE))
	s, err = c.Start(ctxOf(t), StartOptions{Settle: 500 * time.Millisecond})
	require.NoError(t, err)
	require.NotEqual(t, old.Process.Pid, s.Master.PID)
	require.False(t, alive(old.Process.Pid))
	_, err = c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
}
