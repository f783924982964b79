package service

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func TestApacheIsStartedFoundReloadedAndStopped(t *testing.T) {
	t.Parallel()
	for _, mpm := range []string{"event", "worker", "prefork", "mod_php"} {
		t.Run(mpm, func(t *testing.T) {
			t.Parallel()
			j, c := apacheJail(t, mpm)
			ctx := ctxOf(t)
			env := j.Parts[0].Env

			s, err := c.Start(ctx, StartOptions{Env: env})
			require.NoError(t, err)
			require.NotNil(t, s.Master)
			lab.Eventually(t, 10*time.Second, "it answers", func() bool { return serves(j, "/") })
			s, err = c.Find(ctx)
			require.NoError(t, err)
			require.Equal(t, j.MasterPID(), s.Master.PID)
			require.NotEmpty(t, s.Others)
			require.Equal(t, []string{"/usr/sbin/apache2", "-k", "start"}, ArgvOf(*s.Master, apacheSpec()))
			kept, err := KeepEnviron(must(Environ(*s.Master)), "APACHE_*", "LANG")
			require.NoError(t, err)
			require.ElementsMatch(t, env, kept)

			again, err := c.Start(ctx, StartOptions{})
			require.NoError(t, err)
			require.Equal(t, s.Master.PID, again.Master.PID)
			require.NoError(t, c.Reload(ctx))
			lab.Eventually(t, 10*time.Second, "new children", func() bool {
				now, err := c.Find(ctx)
				return err == nil && len(now.Others) > 0 && now.Master.PID == s.Master.PID && !overlap(now.PIDs()[1:], s.PIDs()[1:])
			})
			require.True(t, serves(j, "/"))

			r, err := c.Stop(ctx, StopOptions{})
			require.NoError(t, err)
			t.Logf("stopped after %s", r.Took)
			require.Equal(t, Graceful, r.Level)
			require.Equal(t, 1, signalled(r, unix.SIGWINCH), "a second one would cut connections off")
			require.Empty(t, j.Processes())

			took := quickest(r.Took, 900*time.Millisecond, func() time.Duration {
				_, err = c.Start(ctx, StartOptions{Env: kept})
				require.NoError(t, err)
				lab.Eventually(t, 10*time.Second, "it answers again", func() bool { return serves(j, "/") })
				r, err := c.Stop(ctx, StopOptions{})
				require.NoError(t, err)
				return r.Took
			})
			require.Less(t, took, 900*time.Millisecond, "it does not wait for its master's look once a second")
		})
	}
}

// quickest tries again if a busy machine has taken longer than a limit.
func quickest(took, limit time.Duration, again func() time.Duration) time.Duration {
	for range 5 {
		if took < limit {
			break
		}
		took = min(took, again())
	}
	return took
}

func must(env []string, err error) []string {
	if err != nil {
		panic(err)
	}
	return env
}

func TestApacheEndsItsRequestsFirst(t *testing.T) {
	t.Parallel()
	j, c := apacheJail(t, "mod_php")
	j.Start(t)
	answer := slowPage(t, j)
	r, err := c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.Equal(t, "whole", <-answer)
	require.Equal(t, Graceful, r.Level)
	require.Equal(t, 1, signalled(r, unix.SIGWINCH))
	require.Less(t, r.Took, 5*time.Second)
	require.Empty(t, j.Processes())
}

// An upload is no idle client.
func TestApacheTakesUploadsToTheirEnd(t *testing.T) {
	t.Parallel()
	j, c := apacheJail(t, "mod_php")
	const size, parts = 1000, 8
	page := "<?php echo 'got ', strlen(file_get_contents('php://input')), ' bytes';"
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/www/upload.php"), []byte(page), 0o644))
	j.Start(t)
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(j.Port))
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /upload.php HTTP/1.0\r\nContent-Length: %d\r\n\r\n", size*parts)
	require.NoError(t, err)
	answer := make(chan string, 1)
	go func() {
		for range parts {
			time.Sleep(150 * time.Millisecond)
			_, _ = conn.Write(make([]byte, size))
		}
		b, _ := io.ReadAll(conn)
		answer <- string(b)
	}()
	lab.Eventually(t, 5*time.Second, "the upload has begun", func() bool {
		s, err := c.Find(ctxOf(t))
		return err == nil && len(s.Others) > 0 && hasConnection(c, s, j.Port)
	})
	r, err := c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
	require.Contains(t, <-answer, "got 8000 bytes")
}

// hasConnection tells whether a process of the server serves one on that port.
func hasConnection(c *ProcessController, s Server, port int) bool {
	found := false
	for _, p := range s.Others {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if err != nil {
			continue
		}
		for sock := range c.sockets(p.PID) {
			inspect(fd, sock, func(dup int) {
				info, err := unix.GetsockoptTCPInfo(dup, unix.IPPROTO_TCP, unix.TCP_INFO)
				found = found || err == nil && info.State == tcpEstablished && localPort(dup) == port
			})
		}
		unix.Close(fd)
	}
	return found
}

// A client that keeps its connection and says nothing more is not waited for.
func TestApacheDoesNotWaitForIdleClients(t *testing.T) {
	t.Parallel()
	for mpm, alone := range map[string]time.Duration{ // how long it waits by itself
		"event": 2 * time.Second, "mod_php": 5 * time.Second,
	} {
		t.Run(mpm, func(t *testing.T) {
			t.Parallel()
			j, c := apacheJail(t, mpm)
			stop := func() time.Duration {
				j.Start(t)
				for range 3 {
					idleClient(t, j)
				}
				r, err := c.Stop(ctxOf(t), StopOptions{})
				require.NoError(t, err)
				t.Logf("stopped after %s", r.Took)
				require.Equal(t, Graceful, r.Level)
				require.Empty(t, j.Processes())
				return r.Took
			}
			require.Less(t, quickest(stop(), alone, stop), alone)
		})
	}
}

// idleClient has had an answer, and keeps its connection to the end of the test.
func idleClient(t *testing.T, j *lab.Jail) {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(j.Port))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	require.NoError(t, err)
	require.Contains(t, string(answer[:n]), "200 OK")
}

func TestApacheStopRightAfterStartIsNotLost(t *testing.T) {
	t.Parallel()
	for _, mpm := range []string{"event", "mod_php"} {
		t.Run(mpm, func(t *testing.T) {
			t.Parallel()
			j, c := apacheJail(t, mpm)
			ctx := ctxOf(t)
			for range 8 {
				_, err := c.Start(ctx, StartOptions{Env: j.Parts[0].Env})
				require.NoError(t, err)
				r, err := c.Stop(ctx, StopOptions{Grace: 20 * time.Second})
				require.NoError(t, err)
				require.Equal(t, Graceful, r.Level)
				require.Less(t, r.Took, 5*time.Second)
				require.Empty(t, j.Processes())
			}
		})
	}
}

// otherApache starts another Apache of the jail, with a configuration of its own.
func otherApache(t *testing.T, j *lab.Jail) (port, pid int) {
	t.Helper()
	port = lab.FreePort(t)
	conf, err := os.ReadFile(filepath.Join(j.Dir, "etc/apache2/apache2.conf"))
	require.NoError(t, err)
	text := strings.ReplaceAll(string(conf), "${APACHE_PID_FILE}", "/run/other.pid")
	text = strings.ReplaceAll(text, "Include ports.conf", fmt.Sprintf("Listen 127.0.0.1:%d", port))
	text = strings.ReplaceAll(text, "IncludeOptional sites-enabled", "# sites-enabled")
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/apache2/other.conf"), []byte(text), 0o644))
	spec := apacheSpec()
	spec.Exact, spec.Start = true, []string{"/usr/sbin/apache2", "-f", "/etc/apache2/other.conf", "-k", "start"}
	s, err := NewProcess(openJail(t, j.Dir), spec).Start(ctxOf(t), StartOptions{Env: j.Parts[0].Env})
	require.NoError(t, err)
	lab.Eventually(t, 10*time.Second, "the other Apache answers", func() bool { return answers(port) })
	return port, s.Master.PID
}

func TestOtherApacheOfTheJailSurvives(t *testing.T) {
	t.Parallel()
	j, c := apacheJail(t, "event")
	ctx := ctxOf(t)
	env := j.Parts[0].Env
	_, err := c.Start(ctx, StartOptions{Env: env})
	require.NoError(t, err)
	lab.Eventually(t, 10*time.Second, "it answers", func() bool { return serves(j, "/") })
	port, pid := otherApache(t, j)
	for range 2 {
		s, err := c.Find(ctx)
		require.NoError(t, err)
		require.NotContains(t, s.PIDs(), pid)
		r, err := c.Stop(ctx, StopOptions{Grace: 2 * time.Second})
		require.NoError(t, err)
		require.Len(t, r.Survived, 1)
		require.Equal(t, pid, r.Survived[0].PID)
		require.True(t, answers(port))
		require.False(t, answers(j.Port))
		s, err = c.Start(ctx, StartOptions{Env: env})
		require.NoError(t, err)
		require.NotEqual(t, pid, s.Master.PID)
		lab.Eventually(t, 10*time.Second, "it answers again", func() bool { return serves(j, "/") })
	}
	// One that has seen nothing of that tells them apart as well.
	_, err = NewProcess(openJail(t, j.Dir), apacheSpec(), logTo(t)).Stop(ctx, StopOptions{Grace: 2 * time.Second})
	require.NoError(t, err)
	require.True(t, answers(port))
	require.True(t, alive(pid))
	require.False(t, answers(j.Port))
}

func TestApacheWithoutAMasterIsEnded(t *testing.T) {
	t.Parallel()
	for _, mpm := range []string{"event", "mod_php"} {
		t.Run(mpm, func(t *testing.T) {
			t.Parallel()
			j, c := apacheJail(t, mpm)
			ctx := ctxOf(t)
			j.Start(t)
			s, err := c.Find(ctx)
			require.NoError(t, err)
			require.NoError(t, unix.Kill(s.Master.PID, unix.SIGKILL))
			lab.Eventually(t, 5*time.Second, "the master is dead", func() bool { return !alive(s.Master.PID) })
			now, err := c.Find(ctx)
			require.NoError(t, err)
			require.Nil(t, now.Master)
			require.NotEmpty(t, now.Others)
			_, err = c.Start(ctx, StartOptions{Env: j.Parts[0].Env})
			require.ErrorContains(t, err, "of an earlier one still runs")
			r, err := c.Stop(ctx, StopOptions{Harder: 2 * time.Second})
			require.NoError(t, err)
			require.Zero(t, signalled(r, unix.SIGWINCH), "only a master knows it")
			require.GreaterOrEqual(t, r.Level, Harder) // threads do not even hear SIGTERM then
			require.Less(t, r.Took, 10*time.Second)
			require.Empty(t, j.Processes())
		})
	}
}

// A logger is a child of the master, of another program, with root's rights.
func TestLoggersOfApacheGoWithIt(t *testing.T) {
	t.Parallel()
	const logger = "/usr/bin/rotatelogs"
	j, c := apacheJail(t, "event", lab.Also(logger))
	conf := "CustomLog \"|" + logger + " /var/log/apache2/rotated.log 86400\" combined\n"
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/apache2/conf-enabled/logger.conf"), []byte(conf), 0o644))
	j.Start(t)
	s, err := c.Find(ctxOf(t))
	require.NoError(t, err)
	i := slices.IndexFunc(s.Others, func(p Process) bool { return strings.HasPrefix(p.Cmdline, logger) })
	require.GreaterOrEqual(t, i, 0, s.Others)
	require.Equal(t, 0, s.Others[i].UID)
	r, err := c.Stop(ctxOf(t), StopOptions{})
	require.NoError(t, err)
	require.Equal(t, Graceful, r.Level)
	require.Empty(t, j.Processes())
}

// What a page has started hears no signal but the last one.
func TestWhatAPageHasStartedIsKilledAtLast(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(testing.TB) (*lab.Jail, *ProcessController){
		"mod_php": func(t testing.TB) (*lab.Jail, *ProcessController) { return apacheJail(t, "mod_php") },
		"php-fpm": fpmJail,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, c := make(t)
			bin, err := actorBinary()
			require.NoError(t, err)
			program, err := os.ReadFile(bin)
			require.NoError(t, err)
			require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "usr/bin"), 0o755))
			lab.WriteProgram(t, filepath.Join(j.Dir, "usr/bin/actor"), program)
			page := `<?php $p = proc_open(['/usr/bin/actor', 'stubborn'], [], $pipes); echo proc_get_status($p)['pid']; flush(); if (ob_get_level()) ob_flush(); exit; `
			require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/www/start.php"), []byte(page), 0o644))
			j.Start(t)
			go j.TryGet("/start.php") // PHP waits for what it has started
			var actor Process
			lab.Eventually(t, 10*time.Second, "the page has started it", func() bool {
				s, err := c.Find(ctxOf(t))
				i := slices.IndexFunc(s.Others, func(p Process) bool { return p.Cmdline == "/usr/bin/actor stubborn" })
				if i >= 0 {
					actor = s.Others[i]
				}
				return err == nil && i >= 0
			})
			stubborn(t, actor.PID)
			r, err := c.Stop(ctxOf(t), StopOptions{Grace: time.Second, Harder: time.Second})
			require.NoError(t, err)
			require.Equal(t, Killed, r.Level)
			require.False(t, alive(actor.PID))
			s, err := c.Find(ctxOf(t))
			require.NoError(t, err)
			require.False(t, s.Running())
		})
	}
}

func TestOneShotApacheIsNoServer(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"apache2 -k start": false, "apache2 -kstart": false, "apache2 -k stop": true, "apache2 -kgraceful-stop": true,
		"apache2 -k restart -f /x": true, "apache2 -t": true, "apache2 -tD DUMP_VHOSTS": true, "apache2 -D -t": false,
		"apache2 -D FOREGROUND -f /t -d /v": false, "apache2 -c -S": false, "apache2 -X": false, "apache2 -vx": false,
	} {
		require.Equal(t, want, oneShot(Process{args: strings.Fields(line)}, apacheSpec()), line)
	}
	like := func(line string) likeness { return fit(Process{args: strings.Fields(line)}, apacheSpec()) }
	require.Equal(t, like("apache2 -k start"), like("apache2 -D FOREGROUND"))
	require.Equal(t, differs, like("apache2 -D ONE -k start"))
	require.Equal(t, differs, like("apache2 -DONE -D FOREGROUND"))
	spec := apacheSpec()
	spec.Start = []string{"apache2", "-D", "ONE", "-DTWO"}
	require.Equal(t, fits, fit(Process{args: strings.Fields("apache2 -D TWO -D ONE -k start -D ONE")}, spec))
	require.Equal(t, differs, fit(Process{args: strings.Fields("apache2 -D TWO")}, spec))
}
