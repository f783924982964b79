package service

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// outer is an Apache outside of a jail that puts its children into it.
type outer struct {
	*lab.Jail
	argv []string
	env  []string
	spec Spec
	root *jail.Root
}

func outerJail(t *testing.T, opts ...lab.JailOption) *outer {
	t.Helper()
	lab.Need(t, "root")
	j := lab.ChrootDirJail(t, webPackages(t), append(opts, lab.InMemory())...)
	p := j.Parts[0]
	o := &outer{Jail: j, argv: append([]string{p.Program}, p.Args...), env: p.Env, spec: apacheSpec(), root: openJail(t, j.Dir)}
	o.spec.Executables, o.spec.Start, o.spec.Exact, o.spec.PIDFiles = []string{p.Program}, o.argv, true, nil
	return o
}

func (o *outer) controller(t *testing.T) *ProcessController {
	return NewProcess(o.root, o.spec, Outside(), logTo(t))
}

// another writes a configuration for one more Apache of the same host folder,
// with a jail or with none, and starts it.
func (o *outer) another(t *testing.T, name, jailDir string) (port int, argv []string) {
	t.Helper()
	port = lab.FreePort(t)
	etc, to := filepath.Join(o.Host, "etc/apache2"), filepath.Join(o.Host, "etc", name)
	out, err := exec.Command("cp", "-a", etc, to).CombinedOutput()
	require.NoError(t, err, string(out))
	edit := func(file string, pairs ...string) {
		b, err := os.ReadFile(filepath.Join(to, file))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, file), []byte(strings.NewReplacer(pairs...).Replace(string(b))), 0o644))
	}
	old := fmt.Sprintf("127.0.0.1:%d", o.Port)
	edit("ports.conf", old, fmt.Sprintf("127.0.0.1:%d", port))
	edit("sites-available/jail.conf", old, fmt.Sprintf("127.0.0.1:%d", port))
	edit("apache2.conf", "${APACHE_PID_FILE}", filepath.Join(o.Host, name+".pid"))
	chroot := ""
	if jailDir != "" {
		chroot = "ChrootDir " + jailDir + "\n"
	}
	require.NoError(t, os.WriteFile(filepath.Join(to, "conf-enabled/chroot.conf"), []byte(chroot), 0o644))
	argv = []string{o.argv[0], "-d", to, "-f", to + "/apache2.conf", "-k", "start"}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin"}, o.env...)
	log, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Run())
	lab.Eventually(t, 10*time.Second, "the other Apache answers", func() bool { return answers(port) })
	return port, argv
}

func TestApacheOutsideItsJail(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]lab.JailOption{
		"event": {lab.MPM("event")}, "prefork": {lab.MPM("prefork")}, "mod_php": {lab.Extensions("opcache")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := outerJail(t, opts...)
			ctx := ctxOf(t)
			plain, _ := o.another(t, "plain", "")
			other := filepath.Join(filepath.Dir(o.Dir), "other-jail")
			out, err := exec.Command("cp", "-a", o.Dir, other).CombinedOutput()
			require.NoError(t, err, string(out))
			t.Cleanup(func() { killJail(t, other) })
			foreign, foreignArgv := o.another(t, "foreign", other)
			bystanders := func() {
				t.Helper()
				require.True(t, answers(plain))
				require.True(t, answers(foreign))
			}

			c := o.controller(t)
			s, err := c.Find(ctx)
			require.NoError(t, err)
			require.False(t, s.Running())
			found, err := Chrooted(o.root)
			require.NoError(t, err)
			require.Empty(t, found)

			s, err = c.Start(ctx, StartOptions{Env: o.env})
			require.NoError(t, err)
			require.NotNil(t, s.Master)
			lab.Eventually(t, 10*time.Second, "it answers", func() bool { return serves(o.Jail, "/") })
			// One that has seen nothing of the start finds it as well.
			fresh, err := o.controller(t).Find(ctx)
			require.NoError(t, err)
			require.Equal(t, s.Master.PID, fresh.Master.PID)
			require.NotEmpty(t, fresh.Others)
			require.Equal(t, o.argv, ArgvOf(*fresh.Master, o.spec))
			lab.Eventually(t, 10*time.Second, "its children have given up root's rights", func() bool {
				now, err := c.Find(ctx)
				return err == nil && len(now.Others) > 0 && now.Others[len(now.Others)-1].UID == 33
			})

			found, err = Chrooted(o.root, "apache2", "httpd")
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.Equal(t, s.Master.PID, found[0].Master.PID)
			require.Equal(t, o.argv[0], found[0].Exe)
			require.Equal(t, o.argv, found[0].Argv)
			require.NotEmpty(t, found[0].Inside)
			none, err := Chrooted(o.root, "nginx")
			require.NoError(t, err)
			require.Empty(t, none)
			theirs, err := Chrooted(openJail(t, other))
			require.NoError(t, err)
			require.Len(t, theirs, 1)
			require.Equal(t, foreignArgv, theirs[0].Argv)

			again, err := c.Start(ctx, StartOptions{})
			require.NoError(t, err)
			require.Equal(t, s.Master.PID, again.Master.PID)
			before, err := c.Find(ctx)
			require.NoError(t, err)
			require.NoError(t, c.Reload(ctx))
			lab.Eventually(t, 10*time.Second, "new children", func() bool {
				now, err := c.Find(ctx)
				return err == nil && len(now.Others) > 0 && now.Master.PID == s.Master.PID && !overlap(now.PIDs()[1:], before.PIDs()[1:])
			})

			r, err := o.controller(t).Stop(ctx, StopOptions{})
			require.NoError(t, err)
			t.Logf("stopped after %s", r.Took)
			require.Equal(t, Graceful, r.Level)
			require.Len(t, r.Survived, 2)
			require.Empty(t, o.Processes())
			require.False(t, alive(s.Master.PID))
			require.False(t, answers(o.Port))
			bystanders()
			r, err = c.Stop(ctx, StopOptions{})
			require.NoError(t, err)
			require.Equal(t, None, r.Level)

			// Its master dies: what it left in the jail is ended, nothing else.
			s, err = c.Start(ctx, StartOptions{Env: o.env})
			require.NoError(t, err)
			lab.Eventually(t, 10*time.Second, "it answers again", func() bool { return serves(o.Jail, "/") })
			require.NoError(t, unix.Kill(s.Master.PID, unix.SIGKILL))
			lab.Eventually(t, 5*time.Second, "the master is dead", func() bool { return !alive(s.Master.PID) })
			for _, c := range []*ProcessController{c, o.controller(t)} {
				s, err = c.Find(ctx)
				require.NoError(t, err)
				require.Nil(t, s.Master)
				require.NotEmpty(t, s.Others)
			}
			_, err = o.controller(t).Stop(ctx, StopOptions{Harder: time.Second})
			require.NoError(t, err)
			require.Empty(t, o.Processes())
			bystanders()
		})
	}
}

// For a moment a master has no children. Then a PID file may tell whose it is,
// but of a master without any it tells nothing where it names none.
func TestApacheOutsideWithoutChildren(t *testing.T) {
	t.Parallel()
	o := outerJail(t, lab.MPM("prefork"))
	ctx := ctxOf(t)
	o.Start(t)
	known := o.controller(t)
	s, err := known.Find(ctx)
	require.NoError(t, err)
	master := s.Master.PID
	require.NoError(t, unix.Kill(master, unix.SIGSTOP)) // it starts no new ones
	for _, p := range s.Others {
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
	lab.Eventually(t, 5*time.Second, "the children are dead", func() bool { return len(o.Processes()) == 0 })

	s, err = known.Find(ctx)
	require.NoError(t, err)
	require.Equal(t, master, s.Master.PID, "it was the server before")
	s, err = o.controller(t).Find(ctx)
	require.NoError(t, err)
	require.False(t, s.Running(), "it could be any server of the host")
	r, err := o.controller(t).Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.Equal(t, None, r.Level)
	require.True(t, alive(master))
	plain, _ := o.another(t, "plain", "")
	hinted := o.spec
	hinted.PIDFiles = []string{filepath.Join(o.Host, "plain.pid")}
	lax := hinted
	lax.Exact, lax.Flags = false, nil
	lab.Eventually(t, 5*time.Second, "it has children, and they are elsewhere", func() bool {
		s, err := NewProcess(o.root, lax, Outside(), logTo(t)).Find(ctx)
		return err == nil && !s.Running()
	})
	hinted.PIDFiles = []string{filepath.Join(o.Host, "var/run/apache2/apache2.pid")}
	c := NewProcess(o.root, hinted, Outside(), logTo(t))
	s, err = c.Find(ctx)
	require.NoError(t, err)
	require.Equal(t, master, s.Master.PID)
	_, err = c.Stop(ctx, StopOptions{})
	require.NoError(t, err)
	require.False(t, alive(master))
	require.True(t, answers(plain))
}

func TestStartOutsideThatFailsEndsOnlyItsOwn(t *testing.T) {
	t.Parallel()
	o := outerJail(t)
	plain, _ := o.another(t, "plain", "")
	require.NoError(t, os.WriteFile(filepath.Join(o.Host, "etc/apache2/conf-enabled/broken.conf"), []byte("NoSuchDirective\n"), 0o644))
	_, err := o.controller(t).Start(ctxOf(t), StartOptions{Env: o.env})
	var se *StartError
	require.ErrorAs(t, err, &se)
	require.Contains(t, err.Error(), "NoSuchDirective")
	require.Empty(t, se.Left)
	_, err = o.controller(t).Start(ctxOf(t), StartOptions{Argv: []string{o.Host + "/none"}})
	require.ErrorContains(t, err, "no such file")
	require.True(t, answers(plain))
}

// Without ChrootDir in the configuration it would serve the host.
func TestStartOutsideThatDoesNotReachTheJailIsUndone(t *testing.T) {
	t.Parallel()
	o := outerJail(t)
	plain, _ := o.another(t, "plain", "")
	require.NoError(t, os.WriteFile(filepath.Join(o.Host, "etc/apache2/conf-enabled/chroot.conf"), nil, 0o644))
	failed := make(chan error, 1)
	go func() {
		_, err := o.controller(t).Start(ctxOf(t), StartOptions{Env: o.env, Settle: 3 * time.Second})
		failed <- err
	}()
	lab.Eventually(t, 10*time.Second, "it serves", func() bool { return answers(o.Port) })
	late, _ := o.another(t, "late", "")
	require.Empty(t, failed, "the start is under way")
	require.ErrorContains(t, <-failed, "no process in the jail")
	require.False(t, answers(o.Port))
	require.True(t, answers(plain))
	require.True(t, answers(late))
}

func TestApacheThatIsStartedDuringAStopSurvives(t *testing.T) {
	t.Parallel()
	o := outerJail(t, lab.Extensions("opcache"))
	writeSlow(t, o.Jail)
	o.spec.Flags = nil // nothing on the command line says that it is another
	o.Start(t)
	answer := slowPage(t, o.Jail)
	done := make(chan StopReport, 1)
	go func() {
		r, err := o.controller(t).Stop(ctxOf(t), StopOptions{})
		if err == nil {
			done <- r
		}
		close(done)
	}()
	plain, _ := o.another(t, "plain", "")
	require.Empty(t, done, "the stop is under way")
	r, ok := <-done
	require.True(t, ok)
	require.Equal(t, Graceful, r.Level)
	require.Equal(t, "whole", <-answer)
	require.True(t, answers(plain))
	require.False(t, answers(o.Port))
	require.Empty(t, o.Processes())
}
