package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// One of two servers is down: an upgrade that fails, or is killed, brings back the
// one that ran, leaves the other one down, and needs nobody.
func TestOneOfTwoServersIsDown(t *testing.T) {
	t.Parallel()
	phpSlot(t)
	pair := phpPair(t)
	s := createdStack(t, pair.Old, "nginx", "php-fpm")
	s.h.must(0, "stopped", "stop", "php-fpm", "--jail", s.Dir)
	before := quiet(t, s.Dir)
	s.offer(pair.New)
	still := func(what string) {
		t.Helper()
		lab.Eventually(t, 20*time.Second, what+": the page answers, php-fpm is down, the jail as before", func() bool {
			status, body, err := s.TryGet("/index.html")
			pids := s.masters()
			return err == nil && status == 200 && body == lab.Page && pids[0] == 0 && pids[1] != 0 &&
				len(lab.DiffTrees(before, quiet(t, s.Dir))) == 0
		})
	}

	good := s.h.debs
	s.offer(lab.ReplaceDebs(t, pair.New, lab.PoolWithoutUser(t, lab.FindDeb(t, pair.New, "php"+lab.PHPSeries(t, "")+"-fpm"))))
	s.upgrade(1, "failed") // its own test finds that out, with nginx untouched
	still("refused")

	s.h.debs = good
	cmd, end := started(t, s.h, s.Jail, "verify", "--soak", "30s")
	require.NoError(t, cmd.Process.Kill())
	end()
	still("killed in verify")
	s.h.must(0, "recovered", "recover", "--jail", s.Dir, "--lock-wait", "1m")
	still("recovered again")

	s.upgrade(0, "upgraded")
	require.Zero(t, s.masters()[0], "what was down is left down")
	s.h.must(0, "started", "start", "php-fpm", "--jail", s.Dir)
	s.requireUp(t)
}

// What an upgrade has brought for a module a rollback takes away again, and that
// PHP is without it then is no failure.
func TestModulesGoBack(t *testing.T) {
	t.Parallel()
	phpSlot(t)
	pair := phpPair(t)
	s := createdStack(t, pair.New, "nginx", "php-fpm")
	s.upgrade(0, "upgraded", "--with", "mysql")
	s.requireUp(t, "mysqli", "pdo_mysql")
	s.upgrade(0, "current", "--with", "mysql")

	s.upgrade(0, "upgraded", "--drop-module", "mysql")
	_, loaded := s.PHP(t)
	require.NotContains(t, loaded, "mysqli")
	s.rollback()
	s.requireUp(t, "mysqli", "pdo_mysql")
	s.h.must(0, "rolled-back", "rollback", "--jail", s.Dir, "--to", firstSnapshot(t, s))
	_, loaded = s.PHP(t)
	require.NotContains(t, loaded, "mysqli")
}

func firstSnapshot(t *testing.T, s *stack) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.h.dir, "state", "snapshots"))
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	require.NotEmpty(t, names)
	return sorted(names)[0]
}

// Apache hands pages of PHP to PHP-FPM in a jail that jailup built so.
func TestApacheBesideFPM(t *testing.T) {
	t.Parallel()
	phpSlot(t)
	pair := phpPair(t)
	s := createdStack(t, pair.Old, "apache", "php-fpm,mysql,rewrite,ssl")
	old := s.requireUp(t, "mysqli")
	s.offer(pair.New)
	s.upgrade(0, "upgraded")
	require.NotEqual(t, old, s.requireUp(t, "mysqli"))
	for _, name := range []string{"rewrite", "ssl", "socache_shmcb"} { // the last one is what ssl needs
		require.FileExists(t, filepath.Join(s.Dir, "etc/apache2/mods-enabled", name+".load"))
	}
	s.rollback()
	require.Equal(t, old, s.requireUp(t, "mysqli"))
}

// PHP-FPM alone in a jail, for a web server somewhere else.
func TestFPMAlone(t *testing.T) {
	t.Parallel()
	phpSlot(t)
	pair := phpPair(t)
	j := &lab.Jail{Dir: filepath.Join(lab.ShmDir(t), "chroot")}
	h := newHost(t, pair.Old)
	t.Cleanup(func() { killAll(t, j) })
	h.must(0, "created", "create", "php-fpm", "--with", "gd", "--jail", j.Dir)
	h.must(0, "started", "start", "php-fpm", "--jail", j.Dir)
	h.must(0, "checked", "check", "php", "--jail", j.Dir)
	h.debs = newHost(t, pair.New).debs
	h.must(0, "upgraded", "upgrade", "fpm", "--jail", j.Dir, "--soak", "0s")
	h.must(0, "current", "upgrade", "php-fpm", "--jail", j.Dir)
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir)
	h.must(0, "checked", "check", "php-fpm", "--jail", j.Dir)
	h.must(0, "stopped", "stop", "php-fpm", "--jail", j.Dir)
}

// Sources of an older release do not take a jail back unasked.
func TestNoWayBackUnasked(t *testing.T) {
	t.Parallel()
	pair := lab.NginxPair(t)
	j, _, h := createdJail(t)
	h.debs = newHost(t, pair.New).debs
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	pid, before := j.MasterPID(), stateless(t, j.Dir)
	h.debs = newHost(t, pair.Old).debs
	r := h.must(14, "skipped", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	require.Contains(t, r.err(), "the sources offer only an older")
	require.Equal(t, pid, j.MasterPID())
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s", "--version", pair.OldVersion)
}

// A server that would only be restarted, for a library that it has loaded, is not
// stopped where it would not start again; nor is the one that is upgraded.
func TestAffectedServerThatWouldNotStart(t *testing.T) {
	t.Parallel()
	pair := phpPair(t)
	j := lab.ApacheJail(t, pair.Old, lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")), lab.Also("/usr/sbin/nginx", "/etc/nginx/mime.types"))
	port := strconv.Itoa(lab.FreePort(t))
	for _, d := range []string{"var/log/nginx", "var/lib/nginx"} {
		require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, d), 0o755))
	}
	conf := filepath.Join(j.Dir, "etc/nginx/nginx.conf")
	good := "user www-data;\npid /run/nginx.pid;\nerror_log /var/log/nginx/error.log;\nevents {}\nhttp { access_log off; server { listen 127.0.0.1:" + port + "; root /srv/www; } }\n"
	require.NoError(t, os.WriteFile(conf, []byte(good), 0o644))
	j.Start(t)
	out, err := inJail(j.Dir, "/usr/sbin/nginx").CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.WriteFile(conf, []byte(good+"broken;\n"), 0o644))
	s := stackOf(t, j, "nginx")
	s.server, s.parts = "apache", []string{"nginx", "apache2"}
	s.offer(lab.ReplaceDebs(t, pair.Old, newer(t, pair, "libc6", "libc.so.6", nil)), pair.Old)
	s.refuses(t, 1, nil, "nginx", "would not start again")

	require.NoError(t, os.WriteFile(conf, []byte(good), 0o644))
	pids := s.masters()
	s.upgrade(0, "upgraded")
	for i, pid := range s.masters() {
		require.NotZero(t, pid)
		require.NotEqual(t, pids[i], pid, "%s was not restarted", s.parts[i])
	}
	pids = s.masters()
	s.rollback()
	for i, pid := range s.masters() {
		require.NotZero(t, pid)
		require.NotEqual(t, pids[i], pid, "%s was not restarted by the rollback", s.parts[i])
	}
}
