package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// rewritten is a package with other texts in it.
func rewritten(t testing.TB, deb string, change func(edit func(file, old, now string), dir string)) string {
	t.Helper()
	return lab.Repack(t, deb, func(dir string, _ *lab.Control) {
		change(func(file, old, now string) {
			t.Helper()
			path := filepath.Join(dir, file)
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Contains(t, string(text), old)
			require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), old, now, 1)), 0o644))
		}, dir)
	})
}

// renamed gives a configuration file of an unpacked package another name.
func renamed(t testing.TB, dir, from, to string) {
	t.Helper()
	list := filepath.Join(dir, "DEBIAN/conffiles")
	text, err := os.ReadFile(list)
	require.NoError(t, err)
	require.Contains(t, string(text), from+"\n")
	require.NoError(t, os.WriteFile(list, []byte(strings.Replace(string(text), from+"\n", to+"\n", 1)), 0o644))
	require.NoError(t, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)))
}

// Every file of the configuration is judged by what its package brought before,
// what it brings now, and what lies in the jail.
func TestConfigurationOfSeveralServers(t *testing.T) {
	t.Parallel()
	phpSlot(t)
	pair := phpPair(t)
	series := lab.PHPSeries(t, "")
	s := createdStack(t, pair.Old, "nginx", "php-fpm")
	outside := filepath.Join(lab.ShmDir(t), "outside")
	require.NoError(t, os.WriteFile(outside, []byte("not the jail's\n"), 0o644))

	pool, ini := "etc/php/"+series+"/fpm/pool.d/www.conf", "etc/php/"+series+"/fpm/php.ini"
	edited(t, s, pool, "pm.max_children = 5", "pm.max_children = 4")
	edited(t, s, ini, "memory_limit = 128M", "memory_limit = 77M")
	put(t, s, "etc/nginx/koi-win", get(t, s, "etc/nginx/koi-win")+"# mine\n")
	edited(t, s, "etc/nginx/fastcgi_params", "REDIRECT_STATUS", "MY_STATUS")
	require.NoError(t, os.Remove(filepath.Join(s.Dir, "etc/nginx/uwsgi_params")))
	scgi := filepath.Join(s.Dir, "etc/nginx/scgi_params")
	require.NoError(t, os.Remove(scgi))
	require.NoError(t, os.Symlink(outside, scgi))

	common := rewritten(t, lab.FindDeb(t, pair.New, "nginx-common"), func(edit func(string, string, string), dir string) {
		edit("etc/nginx/fastcgi_params", "SERVER_SOFTWARE", "SERVER_SOFTNESS")
		for _, f := range []string{"uwsgi_params", "scgi_params"} {
			appended(t, filepath.Join(dir, "etc/nginx", f), "# theirs\n")
		}
		renamed(t, dir, "/etc/nginx/koi-utf", "/etc/nginx/koi-utf8")
		renamed(t, dir, "/etc/nginx/koi-win", "/etc/nginx/koi-windows")
	})
	fpm := rewritten(t, lab.FindDeb(t, pair.New, "php"+series+"-fpm"), func(edit func(string, string, string), _ string) {
		edit(pool, "pm.start_servers = 2", "pm.start_servers = 1")
	})
	cli := rewritten(t, lab.FindDeb(t, pair.New, "php"+series+"-common"), func(edit func(string, string, string), _ string) {
		edit("usr/lib/php/"+series+"/php.ini-production", "max_execution_time = 30", "max_execution_time = 31")
	})
	s.offer(lab.ReplaceDebs(t, pair.New, common, fpm, cli), pair.Old)
	before := quiet(t, s.Dir)
	up := s.upgrade(0, "upgraded")
	s.requireUp(t)

	for file, c := range map[string]struct{ mine, theirs string }{
		pool:                       {"pm.max_children = 4", "pm.start_servers = 1"},
		ini:                        {"memory_limit = 77M", "max_execution_time = 31"},
		"etc/nginx/fastcgi_params": {"MY_STATUS", "SERVER_SOFTNESS"},
	} {
		now, beside := get(t, s, file), get(t, s, file+".jailup-new")
		require.Contains(t, now, c.mine, file)
		require.NotContains(t, now, c.theirs, file)
		require.Contains(t, beside, c.theirs, file)
		require.NotContains(t, beside, c.mine, file)
		require.Contains(t, up.notices(""), "/"+file)
	}
	// Who changed what is kept, both ways.
	found, err := filepath.Glob(filepath.Join(s.h.dir, "state/*/runs", up.Done["run"].(string), "configuration.txt"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	said, err := os.ReadFile(found[0])
	require.NoError(t, err)
	for _, line := range []string{"-pm.start_servers = 2", "+pm.start_servers = 1", "-pm.max_children = 5", "+pm.max_children = 4"} {
		require.Contains(t, string(said), "\n"+line+"\n")
	}

	require.NoFileExists(t, filepath.Join(s.Dir, "etc/nginx/uwsgi_params"), "it was deleted")
	to, err := os.Readlink(scgi)
	require.NoError(t, err)
	require.Equal(t, outside, to)
	text, err := os.ReadFile(outside)
	require.NoError(t, err)
	require.Equal(t, "not the jail's\n", string(text))
	require.Contains(t, get(t, s, "etc/nginx/scgi_params.jailup-new"), "# theirs")

	require.FileExists(t, filepath.Join(s.Dir, "etc/nginx/koi-utf8"))
	require.NoFileExists(t, filepath.Join(s.Dir, "etc/nginx/koi-utf"), "nobody had changed it")
	require.FileExists(t, filepath.Join(s.Dir, "etc/nginx/koi-windows"))
	require.Contains(t, get(t, s, "etc/nginx/koi-win"), "# mine\n")
	require.Regexp(t, `/etc/nginx/koi-win .*no package`, up.notices(""))

	s.rollback()
	require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)))
	s.requireUp(t)

	// All of the packages' configuration, on demand; what was there lies beside.
	s.upgrade(0, "upgraded", "--conf", "new")
	require.Contains(t, get(t, s, pool), "pm.start_servers = 1")
	require.Contains(t, get(t, s, pool+".jailup-old"), "pm.max_children = 4")
	require.Contains(t, get(t, s, "etc/nginx/fastcgi_params"), "SERVER_SOFTNESS")
	require.Contains(t, get(t, s, "etc/nginx/fastcgi_params.jailup-old"), "MY_STATUS")
	require.Contains(t, get(t, s, ini+".jailup-old"), "memory_limit = 77M")
	s.requireUp(t)
}

// The plan tells the same of a configuration, and changes nothing.
func TestPlanOfSeveralServers(t *testing.T) {
	t.Parallel()
	s, _ := handStack(t, lab.Extensions("mysql"))
	s.untouched(t, func() result {
		r := s.h.must(0, "planned", "plan", "nginx", "--jail", s.Dir)
		doc, err := json.Marshal(r.Done["to"])
		require.NoError(t, err)
		for _, p := range []string{"nginx", "php" + s.Series + "-fpm", "php" + s.Series + "-mysql"} {
			require.Contains(t, string(doc), `"`+p+`"`)
		}
		return r
	})
}
