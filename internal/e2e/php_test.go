package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// A jail with PHP goes to the newer packages as one: the servers, PHP and its
// modules, and back again.
func TestPHPOfACreatedJail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ server, with string }{
		"nginx and FPM":   {"nginx", "php-fpm"},
		"apache with PHP": {"apache", "mod-php"},
		"apache and FPM":  {"apache", "php-fpm"},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); createdThereAndBack(t, c.server, c.with) })
	}
}

func createdThereAndBack(t *testing.T, server, with string) {
	t.Helper()
	phpSlot(t)
	pair := phpPair(t)
	exact := lab.Versions(t, "", map[string]string{"nginx": "nginx", "apache": "apache2"}[server])[0]
	s := createdStack(t, pair.Old, server, with+","+strings.Join(phpModules, ","), "--version", exact)
	thereAndBack(t, s, pair)
	st := s.status(0)
	require.Len(t, st["servers"], len(s.parts))
	require.Equal(t, exact, st["version"])
}

func TestPHPOfAJailMadeByHand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		server string
		build  func(testing.TB, string, ...lab.JailOption) *lab.Jail
		opts   []lab.JailOption
	}{
		"nginx and FPM": {"nginx", lab.PHPJail, []lab.JailOption{lab.OverTCP()}},
		"apache":        {"httpd", lab.ModPHPJail, []lab.JailOption{lab.Merged()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			phpSlot(t)
			pair := phpPair(t)
			opts := append(c.opts, lab.Extensions(phpModules...), lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")))
			j := c.build(t, pair.Old, opts...)
			j.Start(t)
			thereAndBack(t, stackOf(t, j, c.server, pair.Old), pair)
		})
	}
}

// thereAndBack upgrades a jail with all modules, and rolls it back.
func thereAndBack(t *testing.T, s *stack, pair lab.Pair) {
	t.Helper()
	fpm := "php" + lab.PHPSeries(t, "") + "-common"
	older, newer := phpVersion(t, pair.Old, fpm), phpVersion(t, pair.New, fpm)
	require.Equal(t, older, s.requireUp(t, phpLoads...))
	_, loaded := s.PHP(t)
	before, pids := quiet(t, s.Dir), s.masters()
	s.offer(pair.Old, pair.New)

	said := s.watch()
	up := s.upgrade(0, "upgraded")
	requireServed(t, said())
	require.Equal(t, newer, s.requireUp(t, phpLoads...), up.String())
	_, now := s.PHP(t)
	require.Equal(t, sorted(loaded), sorted(now))
	after := s.masters()
	for i := range pids {
		require.NotEqual(t, pids[i], after[i], "%s was not restarted", s.parts[i])
	}
	require.Less(t, up.Done["downtime_ms"].(float64), 5000.0)
	st := s.status(0)
	require.Subset(t, st["modules"], []any{"mysqli", "pdo_mysql", "gd", "imap", "memcached", "opcache"})
	require.Contains(t, fmt.Sprint(st["packages"]), newer)
	require.NotContains(t, fmt.Sprint(st["packages"]), older+"-")
	require.Zero(t, s.upgrade(0, "current").Done["changed_files"])
	require.Equal(t, after, s.masters())

	said = s.watch()
	s.rollback()
	requireServed(t, said())
	require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)), "not wholly old")
	require.Equal(t, older, s.requireUp(t, phpLoads...))
	_, now = s.PHP(t)
	require.Equal(t, sorted(loaded), sorted(now))
}

// Apache alone, whose modules come with its own package.
func TestApacheMadeByHand(t *testing.T) {
	t.Parallel()
	pair := phpPair(t)
	j := lab.ApacheJail(t, pair.Old, lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")), lab.MPM("event"))
	j.Start(t)
	s := stackOf(t, j, "apache", pair.New, pair.Old)
	before, pids := quiet(t, j.Dir), s.masters()
	up := s.upgrade(0, "upgraded")
	versions := lab.Versions(t, "", "apache2")
	require.NotEmpty(t, up.Done["from"].(map[string]any)["apache2"])
	require.Equal(t, versions[len(versions)-1], up.Done["to"].(map[string]any)["apache2"])
	require.NotEqual(t, pids, s.masters())
	status, body := j.Get(t, "/")
	require.Equal(t, 200, status)
	require.Equal(t, lab.Page, body)
	s.rollback()
	require.Empty(t, lab.DiffTrees(before, quiet(t, j.Dir)))
}
