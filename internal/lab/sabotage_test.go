package lab

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fpmSays builds a jail from packages of which one was spoilt, and returns what
// its php-fpm says of its configuration.
func fpmSays(t *testing.T, debs string, spoilt string, opts ...JailOption) (*Jail, string, error) {
	t.Helper()
	tree := Unpacked(t, filepath.Dir(spoilt))
	j := PHPJail(t, debs, append(opts, InMemory())...)
	b := &builder{t: t, jail: j, tree: tree}
	all, err := filepath.Glob(filepath.Join(tree, "usr/lib/php", j.API, "*.so"))
	require.NoError(t, err)
	for _, p := range append(all, filepath.Join(tree, "etc/php", j.Series, "fpm/pool.d/www.conf")) {
		name, err := filepath.Rel(tree, p)
		require.NoError(t, err)
		if _, err := inTree(tree, name); err == nil {
			require.NoError(t, b.jail.copyIn(tree, name))
		}
	}
	p := j.part(t, "php-fpm")
	p.Args = append(p.Args, "-t")
	out, err := j.runPart(p)
	return j, out, err
}

func TestSpoiltPackagesAreWhatTheySay(t *testing.T) {
	t.Parallel()
	debs := web(t, "")
	php := "php" + PHPSeries(t, "")
	t.Run("good", func(t *testing.T) {
		t.Parallel()
		_, out, err := fpmSays(t, debs, Repack(t, FindDeb(t, debs, php+"-gd"), nil), Extensions("gd"))
		require.NoError(t, err, out)
		require.NotContains(t, out, "Warning")
	})
	t.Run("api", func(t *testing.T) {
		t.Parallel()
		j, out, err := fpmSays(t, debs, OtherAPI(t, FindDeb(t, debs, php+"-gd")), Extensions("gd"))
		require.NoError(t, err, out)
		require.Contains(t, out, "Module compiled with module API=")
		require.Contains(t, out, j.API)
	})
	t.Run("zend extension", func(t *testing.T) {
		t.Parallel()
		_, out, _ := fpmSays(t, debs, OtherAPI(t, FindDeb(t, debs, php+"-opcache")))
		require.Contains(t, out, "Zend Engine API version")
	})
	t.Run("library", func(t *testing.T) {
		t.Parallel()
		_, out, err := fpmSays(t, debs, MissingLibrary(t, FindDeb(t, debs, php+"-gd")), Extensions("gd"))
		require.NoError(t, err, out)
		require.Regexp(t, `libq+\.so\S*: cannot open shared object file`, out)
	})
	t.Run("listen", func(t *testing.T) {
		t.Parallel()
		j, out, err := fpmSays(t, debs, PoolElsewhere(t, FindDeb(t, debs, php+"-fpm")))
		require.NoError(t, err, out)
		j.Start(t)
		status, _ := j.Get(t, "/index.php")
		require.Equal(t, 502, status)
	})
	t.Run("user", func(t *testing.T) {
		t.Parallel()
		_, out, err := fpmSays(t, debs, PoolWithoutUser(t, FindDeb(t, debs, php+"-fpm")))
		require.Error(t, err)
		require.Contains(t, out, "nobody-has-this-name")
	})
	t.Run("moved", func(t *testing.T) {
		t.Parallel()
		deb := MovedConffile(t, FindDeb(t, debs, "apache2"), "/etc/apache2/ports.conf", "/etc/apache2/new/ports.conf")
		tree := Unpacked(t, filepath.Dir(deb))
		require.FileExists(t, filepath.Join(tree, "etc/apache2/new/ports.conf"))
		require.NoFileExists(t, filepath.Join(tree, "etc/apache2/ports.conf"))
		was, err := controlOf(FindDeb(t, debs, "apache2"))
		require.NoError(t, err)
		c, err := controlOf(deb)
		require.NoError(t, err)
		require.True(t, versionIs(c.Get("Version"), "gt", was.Get("Version")))
	})
}
