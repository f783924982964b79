package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// inJail is a command in a jail, chrooted.
func inJail(dir string, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/sbin:/usr/bin"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	return cmd
}

// Two web servers in one jail: the upgrade of one brings a library that the other
// has loaded. That one is restarted and judged too; a program that is no server is
// left alone, and named.
func TestServersThatShareALibrary(t *testing.T) {
	t.Parallel()
	s, pids, back := sharedLibrary(t)
	back()
	for i, pid := range s.masters() {
		require.NotEqual(t, pids[i], pid, "%s was not restarted", s.parts[i])
	}
}

// sharedLibrary is the stack after that upgrade, with its masters, and what rolls it
// back.
func sharedLibrary(t *testing.T) (s *stack, masters []int, back func()) {
	t.Helper()
	lab.Need(t, "gcc")
	pair := phpPair(t)
	j := lab.ApacheJail(t, pair.Old, lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")),
		lab.Also("/usr/sbin/nginx", "/etc/nginx/mime.types"))
	port := strconv.Itoa(lab.FreePort(t))
	for _, d := range []string{"var/log/nginx", "var/lib/nginx", "opt"} {
		require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx/nginx.conf"), []byte(`user www-data;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {}
http { access_log off; server { listen 127.0.0.1:`+port+`; root /srv/www; } }
`), 0o644))
	buildC(t, filepath.Join(j.Dir, "opt/third"), `#include <unistd.h>
int main(void) { for (;;) pause(); }`)
	j.Start(t)
	out, err := inJail(j.Dir, "/usr/sbin/nginx").CombinedOutput()
	require.NoError(t, err, string(out))
	third := inJail(j.Dir, "/opt/third")
	require.NoError(t, third.Start())
	t.Cleanup(func() { _ = third.Process.Kill(); _ = third.Wait() })

	s = stackOf(t, j, "nginx")
	s.parts = []string{"nginx", "apache2"}
	web := *j
	web.URL = "http://127.0.0.1:" + port
	answers := func() {
		t.Helper()
		for _, j := range []*lab.Jail{j, &web} {
			status, body := j.Get(t, "/")
			require.Equal(t, 200, status)
			require.Equal(t, lab.Page, body)
		}
		require.NoError(t, third.Process.Signal(unix.Signal(0)))
	}
	answers()
	// Only nginx's own packages and the C library are newer.
	s.offer(lab.ReplaceDebs(t, pair.Old, newer(t, pair, "libc6", "libc.so.6", nil),
		lab.FindDeb(t, pair.New, "nginx"), lab.FindDeb(t, pair.New, "nginx-common")), pair.Old)
	before, pids := quiet(t, j.Dir), s.masters()
	file := filepath.Join(s.h.dir, "plan.json")
	s.h.must(0, "planned", "plan", "nginx", "--jail", j.Dir, "-o", file)
	plan, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Regexp(t, `"needs_restart": *\[\s*"`+strconv.Itoa(third.Process.Pid)+` \(third\): [^"]*libc[^"]*"\s*\]`, string(plan))

	up := s.upgrade(0, "upgraded")
	answers()
	require.Regexp(t, `apache of this jail has \S*libc\S* loaded`, up.notices(""))
	for i, pid := range s.masters() {
		require.NotZero(t, pid)
		require.NotEqual(t, pids[i], pid, "%s was not restarted", s.parts[i])
	}
	requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.Old), "usr/sbin/apache2"), filepath.Join(j.Dir, "usr/sbin/apache2"))
	requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.New), "usr/sbin/nginx"), filepath.Join(j.Dir, "usr/sbin/nginx"))
	return s, s.masters(), func() {
		t.Helper()
		s.rollback()
		answers()
		require.Empty(t, lab.DiffTrees(before, quiet(t, j.Dir)), "not as before")
	}
}
