package source

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func printed(list []Package) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}

func TestProviding(t *testing.T) {
	t.Parallel()
	ix := world(t, `
		nginx 1.26.3-3 gives: httpd, nginx-abi-1.26.3-1;
		nginx 1.26.3-2 gives: httpd, nginx-abi-1.26.3-1;
		nginx 1.22.1-9 gives: httpd, nginx-abi-1.22.1-7;
		nginx 9.0-1@100 gives: httpd, nginx-abi-9.0-1;
		apache2 2.4-1 gives: httpd (= 2.4);
		httpd 0.1
		spoilt 1 gives: httpd`)
	ix.bad["spoilt"] = "no digest"
	require.Equal(t, "httpd 0.1, apache2 2.4-1, nginx 1.26.3-3", printed(ix.Providing("httpd")))
	require.Equal(t, "nginx 1.26.3-3", printed(ix.Providing("nginx-abi-1.26.3-1")))
	require.Equal(t, "nginx 1.22.1-9", printed(ix.Providing("nginx-abi-1.22.1-7")), "not the newest, which provides another")
	require.Equal(t, "nginx 9.0-1", printed(ix.Providing("nginx-abi-9.0-1")))
	require.Equal(t, "nginx 1.26.3-3", printed(ix.Providing("nginx")), "priority goes before the version")
	require.Empty(t, ix.Providing("nginx-abi-1.26.3"))
}

func TestNeeding(t *testing.T) {
	t.Parallel()
	ix := world(t, `
		php8.2-gd 2 dep: libgd3 (>= 2.1.0~alpha~), phpapi-20220829;
		php8.2-gd 1 dep: phpapi-20220829;
		php8.4-gd 1 dep: phpapi-20240924;
		php-both 1 pre: phpapi-20240924 | phpapi-20220829;
		php-other 1 dep: phpapi-20220829-extra, phpapi-20220829x;
		php-far 1 dep: phpapi-20220829 [i386];
		php-broken 1 dep: phpapi-20220829 (;
		spoilt 1 dep: phpapi-20220829`)
	ix.bad["spoilt"] = "no digest"
	require.Equal(t, "php-both 1, php8.2-gd 2", printed(ix.Needing("phpapi-20220829")))
	require.Equal(t, "php-both 1, php8.4-gd 1", printed(ix.Needing("phpapi-20240924")))
	require.Empty(t, ix.Needing("phpapi-2022"))
}

func TestMatching(t *testing.T) {
	t.Parallel()
	ix := world(t, `
		php8.10-fpm 1
		php8.2-fpm 2
		php8.2-fpm 1
		php10.0-fpm 1
		php7.4-fpm 1
		php8.02-fpm 1
		php-fpm 1
		php8.2-cli 1
		php8.9-fpm 1
		virtual 1 gives: php8.5-fpm`)
	ix.bad["php8.9-fpm"] = "no digest"
	require.Equal(t, []string{"php7.4-fpm", "php8.02-fpm", "php8.2-fpm", "php8.10-fpm", "php10.0-fpm", "php-fpm"}, ix.Matching("php*-fpm"))
	require.Equal(t, []string{"php8.02-fpm", "php8.2-fpm"}, ix.Matching("php8.*2-fpm"))
	require.Equal(t, []string{"php8.2-cli"}, ix.Matching("php8.2-cli"))
	require.Empty(t, ix.Matching("php["))
	require.Empty(t, ix.Matching("nginx*"))
}

// TestOrderOfNames: an order without contradictions, whatever the names.
func TestOrderOfNames(t *testing.T) {
	t.Parallel()
	list := []string{"", "-", "0", "00", "1", "01", "1-", "1a", "2", "10", "a", "a0", "a00", "a1", "a01b", "a1b", "a2", "a10", "a-1", "a.1", "ab", "b9", "b10", "999999999999999999999999", "1000000000000000000000000"}
	for _, a := range list {
		require.Zero(t, compareNames(a, a))
		for _, b := range list {
			require.Equal(t, sign(compareNames(a, b)), -sign(compareNames(b, a)), "%q %q", a, b)
			require.Equal(t, a == b, compareNames(a, b) == 0)
			for _, c := range list {
				if compareNames(a, b) < 0 && compareNames(b, c) < 0 {
					require.Negative(t, compareNames(a, c), "%q < %q < %q", a, b, c)
				}
			}
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestInterfacesOfTarget(t *testing.T) {
	t.Parallel()
	ix := world(t, `
		nginx 1 gives: httpd, nginx-abi-1.22.1-7;
		echo 1 dep: nginx-abi-1.22.1-7;
		php8.2-fpm 1 gives: phpapi-20220829;
		php8.2-cli 1 gives: phpapi-20220829, phpapi-20220829;
		php8.2-gd 1 pre: phpapi-20220829; dep: libgd, phpapi-20220829;
		libgd 1
		old 1 dep: phpapi-20190902 | libgd;
		broken 1 dep: phpapi-1 (; gives: phpapi-2 (`)
	target := &Target{}
	ix.Names(func(n string) { target.Packages = append(target.Packages, ix.Versions(n)...) })
	slices.SortFunc(target.Packages, func(a, b Package) int { return strings.Compare(a.Package, b.Package) })
	require.Equal(t, []Interface{
		{Name: "nginx-abi-1.22.1-7", Providers: []string{"nginx"}, Dependents: []string{"echo"}},
		{Name: "phpapi-20190902", Dependents: []string{"old"}},
		{Name: "phpapi-20220829", Providers: []string{"php8.2-cli", "php8.2-fpm"}, Dependents: []string{"php8.2-gd"}},
	}, target.Interfaces())
	require.Empty(t, (&Target{}).Interfaces())
	require.True(t, IsInterface("apache2-api-20120211"))
	require.False(t, IsInterface("apache2"))
}

// TestInterfacesOfHost asks the archive of this machine: what nginx provides is
// what its modules depend on, and of each PHP that there is there is an API.
func TestInterfacesOfHost(t *testing.T) {
	_, ix, _ := hostIndex(t)
	target, err := Resolve(ix, Request{Roots: []Want{{Name: "nginx"}, {Name: "apache2-bin"}}})
	require.NoError(t, err)
	kinds := map[string]bool{}
	for _, i := range target.Interfaces() {
		kind, _, _ := strings.Cut(i.Name, "-")
		kinds[kind] = true
		require.NotEmpty(t, i.Providers, i.Name)
		require.Contains(t, i.Providers, ix.Providing(i.Name)[0].Package)
	}
	for _, n := range ix.Versions("nginx") {
		if strings.Contains(n.Provides, "nginx-abi-") {
			require.True(t, kinds["nginx"], "nginx-abi-*")
		}
	}
	require.True(t, kinds["apache2"], "apache2-api-*")
	servers := ix.Matching("php[0-9]*-fpm")
	require.NotEmpty(t, servers)
	for _, fpm := range servers {
		php, err := Resolve(ix, Request{Roots: []Want{{Name: fpm}}})
		require.NoError(t, err)
		at := slices.IndexFunc(php.Interfaces(), func(i Interface) bool { return slices.Contains(i.Providers, fpm) })
		require.GreaterOrEqual(t, at, 0, fpm)
		api := php.Interfaces()[at].Name
		require.Contains(t, printed(ix.Providing(api)), fpm)
		modules := ix.Needing(api)
		require.NotEmpty(t, modules, api)
		// Modules of PHP's own source depend on its version instead, others on the API.
		series := strings.TrimSuffix(fpm, "-fpm")
		require.True(t, slices.ContainsFunc(modules, func(p Package) bool { return strings.HasPrefix(p.Package, series+"-") }), "%s: %s", api, printed(modules))
	}
}
