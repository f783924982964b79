package steps

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/recipes"
)

// madeJail is a jail with empty files at these paths.
func madeJail(t *testing.T, paths ...string) *jail.Root {
	t.Helper()
	dir := t.TempDir()
	for _, p := range paths {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, p), nil, 0o755))
	}
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func embeddedSet(t *testing.T) *recipes.Set {
	t.Helper()
	set, err := recipes.Load("")
	require.NoError(t, err)
	return set
}

func recipe(t *testing.T, name string) *recipes.Recipe {
	t.Helper()
	r, ok := embeddedSet(t).Find(name)
	require.True(t, ok, name)
	return r
}

func names(list []*recipes.Recipe) []string {
	var out []string
	for _, r := range list {
		out = append(out, r.Name)
	}
	return out
}

// What a jail holds decides what is upgraded together.
func TestCompose(t *testing.T) {
	t.Parallel()
	set := embeddedSet(t)
	for _, c := range []struct {
		name  string
		paths []string
		asked string
		parts []string
		main  string
	}{
		{"nginx alone", []string{"/usr/sbin/nginx"}, "nginx", []string{"nginx"}, "nginx"},
		{"nginx with PHP-FPM", []string{"/usr/sbin/nginx", "/usr/sbin/php-fpm8.2"}, "nginx", []string{"php-fpm", "nginx"}, "nginx"},
		{"the companion is asked for", []string{"/usr/sbin/nginx", "/usr/sbin/php-fpm8.2"}, "php-fpm", []string{"php-fpm", "nginx"}, "nginx"},
		{"PHP-FPM alone", []string{"/usr/sbin/php-fpm8.2"}, "php-fpm", []string{"php-fpm"}, "php-fpm"},
		{"Apache with both kinds of PHP", []string{"/usr/sbin/apache2", "/usr/lib/apache2/modules/libphp8.2.so", "/usr/sbin/php-fpm8.2"}, "apache",
			[]string{"mod-php", "php-fpm", "apache"}, "apache"},
		{"a name that is only like it", []string{"/usr/sbin/nginx", "/usr/sbin/php-fpm8.2.old", "/usr/sbin/php-fpm"}, "nginx", []string{"nginx"}, "nginx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := madeJail(t, c.paths...)
			r := Compose(set, recipe(t, c.asked), root)
			require.Equal(t, c.parts, names(r.Parts()))
			require.Equal(t, c.main, r.Name)
			require.Equal(t, c.main, Main(set, recipe(t, c.asked), root).Name)
			for _, p := range r.Parts() {
				require.False(t, p.Versioned(), "%s is of a series", p.Name)
			}
			require.Equal(t, []string{c.asked}, names(Alone(recipe(t, c.asked), root).Parts()))
		})
	}
}

// Of several series the newest is the jail's; 8.10 is newer than 8.2.
func TestNewestSeries(t *testing.T) {
	t.Parallel()
	root := madeJail(t, "/usr/sbin/php-fpm8.10", "/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm7.4")
	ed, ok := editionIn(viewOf(root), recipe(t, "php-fpm"))
	require.True(t, ok)
	require.Equal(t, "8.10", ed.Series)
}

// A name out of a jail becomes part of paths only if it looks like a series.
func TestFill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		template, name, want string
		ok                   bool
	}{
		{"php-fpm{series}", "php-fpm8.2", "8.2", true},
		{"php-fpm{series}", "php-fpm", "", false},
		{"php-fpm{series}", "php-fpm../../x", "", false},
		{"php-fpm{series}", "php-fpm8.2-debug", "", false},
		{"libphp{series}.so", "libphp8.2.so", "8.2", true},
		{"libphp{series}.so", "libphp.so", "", false},
		{"none", "none", "", false},
	} {
		got, ok := fill(c.template, "{series}", c.name)
		require.Equal(t, c.ok, ok, "%v", c)
		if ok {
			require.Equal(t, c.want, got)
		}
	}
}

// A command line moves with the series: programs and files, also behind "=".
func TestCarried(t *testing.T) {
	t.Parallel()
	fpm := recipe(t, "php-fpm")
	was, next := fpm.At(recipes.Edition{Series: "8.2", API: "20220829"}), fpm.At(recipes.Edition{Series: "8.4", API: "20240924"})
	pairs := carryPairs(was, next)
	require.Contains(t, pairs, [2]string{"/usr/lib/php/20220829/", "/usr/lib/php/20240924/"})
	require.Equal(t,
		[]string{"/usr/sbin/php-fpm8.4", "--fpm-config=/etc/php/8.4/fpm/php-fpm.conf", "-c", "/etc/php/8.4/fpm/php.ini", "/etc/other", "-R"},
		carried([]string{"/usr/sbin/php-fpm8.2", "--fpm-config=/etc/php/8.2/fpm/php-fpm.conf", "-c", "/etc/php/8.2/fpm/php.ini", "/etc/other", "-R"}, pairs))
	require.Empty(t, carryPairs(was, was))
	nginx := recipe(t, "nginx")
	require.Contains(t, carryPairs(recipes.Join(nginx, was), recipes.Join(nginx, next)), [2]string{"/etc/php/8.2/", "/etc/php/8.4/"}, "as a part as well")
}

func TestModuleNames(t *testing.T) {
	t.Parallel()
	name, ok := moduleOf("php8.2-{module}", "php8.2-mysql")
	require.True(t, ok)
	require.Equal(t, "mysql", name)
	_, ok = moduleOf("php8.2-{module}", "php8.4-mysql")
	require.False(t, ok)
	_, ok = moduleOf("php8.2-{module}", "php8.2-")
	require.False(t, ok)
	require.Equal(t, "http-geoip2", shortName("ngx_http_geoip2_module"))
	require.Equal(t, "mysqli", shortName("mysqli"))
}

// What a run was made with is read back for its recovery: the editions of both
// sides, and the servers that are only restarted.
func TestRecipesAreKept(t *testing.T) {
	t.Parallel()
	fpm, nginx := recipe(t, "php-fpm"), recipe(t, "nginx")
	was, next := fpm.At(recipes.Edition{Series: "8.2", API: "1"}), fpm.At(recipes.Edition{Series: "8.4", API: "2"})
	e := &Env{Run: "20260101T000000Z-0000000", StateDir: t.TempDir(), Recipe: recipes.Join(nginx, was), Next: recipes.Join(nginx, next),
		Affected: []*recipes.Recipe{recipe(t, "apache")}}
	require.NoError(t, e.keepRecipes())
	back := &Env{Run: "another", StateDir: e.StateDir}
	require.NoError(t, back.UseRecipesOf(e.Run))
	require.Equal(t, []string{"php-fpm", "nginx"}, names(back.Recipe.Parts()))
	part, _ := back.Recipe.Part("php-fpm")
	require.Equal(t, "8.2", part.Edition().Series)
	require.Equal(t, []string{"/usr/sbin/php-fpm8.2"}, part.Executables)
	part, _ = back.Next.Part("php-fpm")
	require.Equal(t, "8.4", part.Edition().Series)
	require.Equal(t, []string{"apache"}, names(back.Affected))
	require.Error(t, back.UseRecipesOf("20260101T000000Z-0000001"))

	var order []string
	for _, u := range back.servers() {
		order = append(order, u.name())
	}
	require.Equal(t, []string{"apache", "php-fpm", "nginx"}, order)
	require.NotSame(t, back.unit("php-fpm").recipe[before], back.unit("php-fpm").recipe[after])
}
