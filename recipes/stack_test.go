package recipes

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func load(t *testing.T) *Set {
	t.Helper()
	s, err := Load("")
	require.NoError(t, err)
	return s
}

func find(t *testing.T, s *Set, name string) *Recipe {
	t.Helper()
	r, ok := s.Find(name)
	require.True(t, ok, name)
	return r
}

// What a recovery reads back is what the run was made with.
func TestTextRoundTrip(t *testing.T) {
	t.Parallel()
	for _, r := range load(t).All() {
		r = r.At(Edition{Series: "8.2", API: "20220829"})
		text, err := r.Text()
		require.NoError(t, err)
		again, err := Parse(r.File(), text)
		require.NoError(t, err, "%s", text)
		second, err := again.Text()
		require.NoError(t, err)
		require.Equal(t, string(text), string(second))
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	fpm := find(t, load(t), "php-fpm")
	require.True(t, fpm.Versioned())
	r := fpm.At(Edition{Series: "8.2", API: "20220829"})
	require.False(t, r.Versioned())
	require.Equal(t, "php8.2-fpm", r.Server())
	require.Equal(t, []string{"/usr/sbin/php-fpm8.2"}, r.Executables)
	require.Contains(t, r.Carry, "/usr/lib/php/20220829/")
	text, err := r.Text()
	require.NoError(t, err)
	rest := strings.NewReplacer(fpm.Series.Package, "", fpm.Series.API, "", "{module}", "").Replace(string(text))
	require.NotContains(t, rest, "{series}")
	require.NotContains(t, rest, "{api}")
	require.Same(t, r, r.At(Edition{Series: "8.4"}), "once is for good")
	require.Equal(t, "php{series}-fpm", r.Series.Package, "it tells how other series are called")
	nginx := find(t, load(t), "nginx")
	require.Same(t, nginx, nginx.At(Edition{Series: "8.2"}))
	require.Equal(t, "php{series}-fpm", fpm.Packages[0], "the original is left alone")
}

func TestBase(t *testing.T) {
	t.Parallel()
	s := load(t)
	nginx := find(t, s, "nginx")
	require.Equal(t, "nginx", nginx.Server(), "the base's packages come behind")
	require.Contains(t, nginx.Packages, "tzdata")
	require.Contains(t, nginx.Runtime, "/usr/share/zoneinfo/UTC")
	fpm := find(t, s, "php-fpm")
	require.Contains(t, fpm.Owns, "php-common")
	require.Contains(t, fpm.Exclude, "/usr/share/doc/**", "the base of the base")
	require.Equal(t, "php", fpm.Modules.ABI)
	for _, name := range []string{"nothing", "nginx", "../nginx"} {
		_, err := Parse("x.yaml", []byte(strings.Replace(good, "title:", "base: "+name+"\ntitle:", 1)))
		require.ErrorContains(t, err, "base: ", name)
	}
	_, found := s.Find("debian")
	require.False(t, found, "a base is no server")
}

func TestJoin(t *testing.T) {
	t.Parallel()
	s := load(t)
	nginx := find(t, s, "nginx")
	require.Same(t, nginx, Join(nginx))
	require.Equal(t, []*Recipe{nginx}, nginx.Servers())
	fpm := find(t, s, "php-fpm").At(Edition{Series: "8.2", API: "1"})
	before := len(nginx.Packages)
	both := Join(nginx, fpm)
	require.Len(t, nginx.Packages, before, "the parts are left alone")
	require.Equal(t, "nginx", both.Server())
	require.Equal(t, []*Recipe{fpm, nginx}, both.Servers(), "what others need starts first")
	require.Contains(t, both.Packages, "php8.2-fpm")
	require.NotContains(t, both.Without, "openssl", "PHP wants a file of it")
	require.Contains(t, nginx.Without, "openssl")
	require.Contains(t, both.Executables, "/usr/sbin/php-fpm8.2")
	require.Equal(t, 1, len(slices.DeleteFunc(slices.Clone(both.Create.Users), func(u User) bool { return u.Name != "www-data" })))

	apache := find(t, s, "apache")
	mod, ok := s.Companion(apache, "php")
	require.True(t, ok)
	require.Equal(t, "mod-php", mod.Name)
	joined := Join(apache, mod.At(Edition{Series: "8.2"}))
	require.Len(t, joined.Servers(), 1, "mod-php has no process of its own")
	require.Equal(t, "apache", joined.Servers()[0].Name)
	part, ok := joined.Part("mod-php")
	require.True(t, ok)
	require.False(t, part.Versioned())
}
