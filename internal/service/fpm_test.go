package service

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func fpmConf(j *lab.Jail) string { return "/etc/php/" + j.Series + "/fpm/php-fpm.conf" }

func TestFPMIsStartedFoundReloadedAndStopped(t *testing.T) {
	t.Parallel()
	j, c := fpmJail(t)
	ctx := ctxOf(t)
	spec := fpmSpec(j.Series)
	nginx := NewProcess(openJail(t, j.Dir), nginxSpec(), logTo(t))

	_, err := c.Start(ctx, StartOptions{})
	require.NoError(t, err)
	lab.Eventually(t, 10*time.Second, "it answers", func() bool { return serves(j, "/index.php") })
	s, err := c.Find(ctx)
	require.NoError(t, err)
	require.Equal(t, j.Master("php-fpm"), s.Master.PID)
	require.NotEmpty(t, s.Others)
	require.Equal(t, spec.Start, ArgvOf(*s.Master, spec), "the title tells the configuration")
	env, err := Environ(*s.Master)
	require.NoError(t, err)
	require.Empty(t, env, "the title is written over it")
	n, err := nginx.Find(ctx)
	require.NoError(t, err)
	require.False(t, overlap(n.PIDs(), s.PIDs()))

	require.NoError(t, c.Reload(ctx))
	lab.Eventually(t, 10*time.Second, "new children", func() bool {
		now, err := c.Find(ctx)
		// As a daemon it becomes one anew: the number of its master changes.
		return err == nil && len(now.Others) > 0 && now.Master != nil && !overlap(now.PIDs(), s.PIDs()) && serves(j, "/index.php")
	})

	r, err := c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	t.Logf("stopped after %s", r.Took)
	require.Equal(t, Graceful, r.Level)
	require.Less(t, r.Took, 5*time.Second)
	require.Zero(t, j.Master("php-fpm"))
	require.True(t, serves(j, "/"), "nginx is another server")
	_, err = c.Start(ctx, StartOptions{})
	require.NoError(t, err)
	_, err = nginx.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.NotZero(t, j.Master("php-fpm"))
}

func TestFPMEndsItsRequestsFirst(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		children bool
		control  string
		whole    bool
	}{
		"children first":               {true, "", true},
		"children first, with a limit": {true, "10", true},
		"plain, with a limit":          {false, "10", true},
		"plain":                        {false, "", false}, // why there is QuitChildren
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, _ := fpmJail(t)
			conf := filepath.Join(j.Dir, fpmConf(j))
			if tt.control != "" {
				text, err := os.ReadFile(conf)
				require.NoError(t, err)
				edited := strings.Replace(string(text), "[global]", "[global]\nprocess_control_timeout = "+tt.control, 1)
				require.NotEqual(t, string(text), edited)
				require.NoError(t, os.WriteFile(conf, []byte(edited), 0o644))
			}
			spec := fpmSpec(j.Series)
			spec.QuitChildren = tt.children
			c := NewProcess(openJail(t, j.Dir), spec, logTo(t))
			j.Start(t)
			answer := slowPage(t, j)
			r, err := c.Stop(ctxOf(t), StopOptions{})
			require.NoError(t, err)
			require.Equal(t, Graceful, r.Level)
			if got := <-answer; tt.whole {
				require.Equal(t, "whole", got)
			} else {
				require.NotContains(t, got, "whole")
			}
			require.Less(t, r.Took, 5*time.Second)
			require.Zero(t, j.Master("php-fpm"))
		})
	}
}

func TestFPMStopThatIsGivenUpLeavesItRunning(t *testing.T) {
	t.Parallel()
	j, c := fpmJail(t)
	j.Start(t)
	answer := slowPage(t, j)
	ctx, cancel := contextFor(500 * time.Millisecond)
	defer cancel()
	_, err := c.Stop(ctx, StopOptions{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, "whole", <-answer)
	lab.Eventually(t, 10*time.Second, "it serves again", func() bool { return serves(j, "/index.php") })

	// Whoever stopped it was killed: it stays held until somebody starts it.
	master := j.Master("php-fpm")
	require.NoError(t, unix.Kill(master, unix.SIGSTOP))
	lab.Eventually(t, 5*time.Second, "it is held", func() bool { return strings.HasPrefix(status(t, master, "State"), "T") })
	s, err := c.Start(ctxOf(t), StartOptions{})
	require.NoError(t, err)
	require.Equal(t, master, s.Master.PID)
	lab.Eventually(t, 5*time.Second, "it goes on", func() bool { return !strings.HasPrefix(status(t, master, "State"), "T") })

	require.NoError(t, unix.Kill(master, unix.SIGSTOP))
	r, err := c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
}

// otherFPM starts another php-fpm of the jail, with a configuration of its own.
func otherFPM(t *testing.T, j *lab.Jail, pool string) (port, pid int) {
	t.Helper()
	port = lab.FreePort(t)
	conf := fmt.Sprintf(`[global]
pid = /run/other-fpm.pid
error_log = /var/log/other-fpm.log
[other]
user = www-data
group = www-data
listen = 127.0.0.1:%d
pm = static
pm.max_children = 2
%s
`, port, pool)
	require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "etc/php"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/php/other.conf"), []byte(conf), 0o644))
	spec := otherSpec(j)
	s, err := NewProcess(openJail(t, j.Dir), spec).Start(ctxOf(t), StartOptions{})
	require.NoError(t, err)
	require.Equal(t, spec.Start, ArgvOf(*s.Master, fpmSpec(j.Series)))
	lab.Eventually(t, 10*time.Second, "the other php-fpm answers", func() bool { return answers(port) })
	return port, s.Master.PID
}

func otherSpec(j *lab.Jail) Spec {
	spec := fpmSpec(j.Series)
	spec.Exact, spec.Start = true, []string{spec.Executables[0], "--fpm-config", "/etc/php/other.conf"}
	return spec
}

func TestOtherFPMOfTheJailSurvives(t *testing.T) {
	t.Parallel()
	j, c := fpmJail(t)
	ctx := ctxOf(t)
	j.Start(t)
	port, pid := otherFPM(t, j, "")
	for range 2 {
		r, err := c.Stop(ctx, StopOptions{})
		require.NoError(t, err)
		require.Len(t, r.Survived, 1)
		require.Equal(t, pid, r.Survived[0].PID)
		require.True(t, answers(port))
		s, err := c.Start(ctx, StartOptions{})
		require.NoError(t, err)
		require.NotEqual(t, pid, s.Master.PID)
		lab.Eventually(t, 10*time.Second, "it answers again", func() bool { return serves(j, "/index.php") })
	}
	r, err := NewProcess(openJail(t, j.Dir), otherSpec(j), logTo(t)).Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
	require.False(t, alive(pid))
	require.True(t, serves(j, "/index.php"))
}

// A pool may have a root of its own below the jail's; when its master dies, the
// title and the file that they run still tell whose its processes are.
func TestPoolsWithTheirOwnRootAreEnded(t *testing.T) {
	t.Parallel()
	j, _ := fpmJail(t)
	ctx := ctxOf(t)
	require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "srv/pool"), 0o755))
	c := NewProcess(openJail(t, j.Dir), otherSpec(j), logTo(t))
	for _, dies := range []bool{false, true} {
		_, pid := otherFPM(t, j, "chroot = /srv/pool\nchdir = /")
		var s Server
		lab.Eventually(t, 10*time.Second, "the pool is where it belongs", func() bool {
			s, _ = c.Find(ctx)
			for _, p := range s.Others {
				root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", p.PID))
				if err != nil || root != filepath.Join(j.Dir, "srv/pool") || p.UID != 33 {
					return false
				}
			}
			return len(s.Others) == 2
		})
		if dies {
			require.NoError(t, unix.Kill(pid, unix.SIGKILL))
			lab.Eventually(t, 5*time.Second, "the master is dead", func() bool { return !alive(pid) })
			now, err := c.Find(ctx)
			require.NoError(t, err)
			require.Nil(t, now.Master)
			require.Len(t, now.Others, 2)
		}
		r, err := c.Stop(ctx, StopOptions{})
		require.NoError(t, err)
		require.Equal(t, Graceful, r.Level)
		for _, p := range s.All() {
			require.False(t, alive(p.PID))
		}
	}
	require.True(t, serves(j, "/"))
}

// A title has no more room than the command line and the environment had.
func TestFPMWithACutTitleIsFound(t *testing.T) {
	t.Parallel()
	j, c := fpmJail(t)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer out.Close()
	cmd := exec.Command(fpmSpec(j.Series).Executables[0])
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: j.Dir, Setsid: true}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", []string{}, out, out
	require.NoError(t, cmd.Run())
	lab.Eventually(t, 10*time.Second, "it answers", func() bool { return serves(j, "/index.php") })
	s, err := c.Find(ctxOf(t))
	require.NoError(t, err)
	require.NotNil(t, s.Master)
	require.Equal(t, j.Master("php-fpm"), s.Master.PID)
	require.NotContains(t, s.Master.Cmdline, "master process", "it is cut")
	require.Nil(t, ArgvOf(*s.Master, fpmSpec(j.Series)))
	r, err := c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
}

// Two series are two programs: each has its controller, and neither takes the
// other's processes for its own, wherever its program lies meanwhile.
func TestTwoSeriesAreTwoServers(t *testing.T) {
	t.Parallel()
	j, _ := fpmJail(t)
	ctx := ctxOf(t)
	const next = "99.9"
	was, will := fpmSpec(j.Series), fpmSpec(next)
	exe := filepath.Join(j.Dir, was.Executables[0])
	data, err := os.ReadFile(exe)
	require.NoError(t, err)
	lab.WriteProgram(t, filepath.Join(j.Dir, will.Executables[0]), data)
	require.NoError(t, os.CopyFS(filepath.Join(j.Dir, "etc/php", next), os.DirFS(filepath.Join(j.Dir, "etc/php", j.Series))))
	j.Start(t)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(exe, &st))
	// The install has taken the old program out into the stage.
	stage := filepath.Join(filepath.Dir(j.Dir), "staged")
	require.NoError(t, os.Rename(exe, stage))
	extra := ExtraExes(func() []Inode { return []Inode{{Dev: uint64(st.Dev), Ino: st.Ino}} })
	old, fresh := NewProcess(openJail(t, j.Dir), was, extra, logTo(t)), NewProcess(openJail(t, j.Dir), will, logTo(t))
	s, err := fresh.Find(ctx)
	require.NoError(t, err)
	require.False(t, s.Running())
	s, err = old.Find(ctx)
	require.NoError(t, err)
	require.NotNil(t, s.Master)
	require.Equal(t, was.Start, ArgvOf(*s.Master, was))
	_, err = old.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	s, err = fresh.Start(ctx, StartOptions{})
	require.NoError(t, err)
	require.Equal(t, will.Start, ArgvOf(*s.Master, will))
	lab.Eventually(t, 10*time.Second, "the new series answers", func() bool { return serves(j, "/index.php") })
	gone, err := old.Find(ctx)
	require.NoError(t, err)
	require.False(t, gone.Running())
	require.NoError(t, os.Rename(stage, exe)) // and back again
	r, err := old.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Equal(t, None, r.Level)
	require.True(t, alive(s.Master.PID))
	_, err = fresh.Stop(ctx, StopOptions{})
	require.NoError(t, err)
}
