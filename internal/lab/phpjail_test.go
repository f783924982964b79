package lab

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// web is a set of packages with all servers and modules.
func web(t *testing.T, suite string) string {
	t.Helper()
	modules := []string{"mysql", "gd", "memcached"}
	if HasPHPModule(t, suite, "imap") {
		modules = append(modules, "imap")
	}
	names := append(PHPNames(t, suite, []string{"fpm", "apache"}, modules...), "nginx")
	return Packages(t, PackagesOptions{Names: names, Suite: suite, Newest: true})
}

func TestApacheJailServes(t *testing.T) {
	t.Parallel()
	debs := web(t, "")
	for name, opts := range map[string][]JailOption{
		"event split":    {InMemory()},
		"prefork merged": {InMemory(), Merged(), MPM("prefork"), StrayLibc()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := ApacheJail(t, debs, opts...)
			j.Start(t)
			status, body := j.Get(t, "/")
			require.Equal(t, 200, status)
			require.Equal(t, Page, body)
			require.Positive(t, j.MasterPID())
			require.GreaterOrEqual(t, len(j.Processes()), 2)
			require.Equal(t, "apache", j.Parts[0].Name)
			j.Stop(t)
			require.Empty(t, j.Processes())
			if name == "prefork merged" {
				require.FileExists(t, filepath.Join(j.Dir, "lib", "libc.so.6"))
			}
			log, err := os.ReadFile(filepath.Join(j.Dir, j.Parts[0].Log))
			require.NoError(t, err)
			require.NotContains(t, string(log), "AH00052")
			require.NotContains(t, string(log), "pthread_exit")
		})
	}
}

// A jail may be changed in place by whoever tests it: it shares no file with the
// cache, and can be compared.
func TestJailsShareNothingAndCanBeCompared(t *testing.T) {
	t.Parallel()
	debs := web(t, "")
	at := filepath.Join(ShmDir(t), "here")
	j := PHPJail(t, debs, InDir(at), Extensions("gd"), StrayLibc(), Also("/usr/bin/openssl", "/usr/share/zoneinfo/Asia"))
	require.Equal(t, at, j.Dir)
	require.NoError(t, filepath.WalkDir(at, func(p string, e os.DirEntry, err error) error {
		require.NoError(t, err)
		fi, err := e.Info()
		require.NoError(t, err)
		if !e.IsDir() {
			require.EqualValues(t, 1, fi.Sys().(*syscall.Stat_t).Nlink, p)
		}
		return nil
	}))
	before := TreeDigest(t, at)
	require.Empty(t, DiffTrees(before, TreeDigest(t, at)))
	for _, p := range []string{"usr/bin/openssl", "usr/share/zoneinfo/Asia/Tokyo", "lib/libc.so.6", "etc/php/" + j.Series + "/fpm/conf.d/20-gd.ini"} {
		require.Contains(t, before, p)
	}
	out, err := j.run("/usr/bin/openssl", "version")
	require.NoError(t, err, out)
}

func TestPHPJailsHaveTheirExtensions(t *testing.T) {
	t.Parallel()
	debs := web(t, "")
	all := Extensions("mysql", "gd", "imap", "memcached")
	for name, build := range map[string]func(t *testing.T) *Jail{
		"fpm":          func(t *testing.T) *Jail { return PHPJail(t, debs, InMemory(), all) },
		"fpm over TCP": func(t *testing.T) *Jail { return PHPJail(t, debs, InMemory(), all, OverTCP(), Merged()) },
		"mod_php":      func(t *testing.T) *Jail { return ModPHPJail(t, debs, InMemory(), all) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := build(t)
			j.Start(t)
			_, body := j.Get(t, "/")
			require.Equal(t, Page, body)
			version, extensions := j.PHP(t)
			require.Contains(t, version, j.Series+".")
			require.Subset(t, extensions, []string{"mysqli", "mysqlnd", "pdo_mysql", "gd", "imap", "memcached", "igbinary", "ctype", "zend opcache"})
			for what, said := range j.Uses(t) {
				require.Equal(t, "ok", said, what)
			}
			require.Len(t, j.Uses(t), 7)
			j.Stop(t)
			require.Empty(t, j.Processes())
		})
	}
}

// A jail as the releases around the host's make it: another PHP, another libc.
func TestPHPJailsOfOtherReleases(t *testing.T) {
	t.Parallel()
	for _, rel := range []int{-1, 1} {
		suite := OtherSuite(t, rel)
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			debs := web(t, suite)
			want := []string{"mysql", "gd", "memcached"}
			if HasPHPModule(t, suite, "imap") {
				want = append(want, "imap")
			}
			for _, j := range []*Jail{PHPJail(t, debs, InMemory(), Extensions(want...)), ModPHPJail(t, debs, InMemory(), Extensions(want...))} {
				require.Equal(t, PHPSeries(t, suite), j.Series)
				require.NotEqual(t, PHPSeries(t, ""), j.Series)
				j.Start(t)
				_, extensions := j.PHP(t)
				require.Subset(t, extensions, []string{"mysqli", "gd", "memcached"})
				uses := j.Uses(t)
				require.Equal(t, "ok", uses["gd"])
				require.Equal(t, "ok", uses["mysqli"])
				j.Stop(t)
				require.Empty(t, j.Processes())
			}
		})
	}
}
