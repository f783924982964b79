package e2e

import (
	"os"
	"path/filepath"
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
	s := createdStack(t, pair.Old, "apache", "php-fpm,mysql")
	old := s.requireUp(t, "mysqli")
	s.offer(pair.New)
	s.upgrade(0, "upgraded")
	require.NotEqual(t, old, s.requireUp(t, "mysqli"))
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
