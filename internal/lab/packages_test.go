package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPackagesBringWhatTheyNeedAndNoPerl(t *testing.T) {
	t.Parallel()
	o := PackagesOptions{Names: PHPNames(t, "", []string{"fpm"}, "mysql", "gd"), Newest: true}
	dir := Packages(t, o)
	series := PHPSeries(t, "")
	for _, name := range append(o.Names, "php"+series+"-common", "libc6", "tzdata") {
		require.FileExists(t, FindDeb(t, dir, name))
	}
	for _, name := range []string{"perl", "perl-base", "dpkg", "systemd", "procps"} {
		_, err := findDeb(dir, name)
		require.Error(t, err, "%s is of no use in a jail", name)
	}
	require.Equal(t, dir, Packages(t, o), "asked twice, fetched once")
	v := Versions(t, "", "php"+series+"-fpm")
	c, err := controlOf(FindDeb(t, dir, "php"+series+"-fpm"))
	require.NoError(t, err)
	require.Equal(t, v[len(v)-1], c.Get("Version"))
}

func TestPackagesOfAnotherRelease(t *testing.T) {
	t.Parallel()
	for name, rel := range map[string]int{"before": -1, "after": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			suite := OtherSuite(t, rel)
			require.NotEqual(t, OtherSuite(t, 0), suite)
			dir := Packages(t, PackagesOptions{Names: []string{"nginx"}, Suite: suite, Newest: true})
			c, err := controlOf(FindDeb(t, dir, "nginx"))
			require.NoError(t, err)
			v := Versions(t, suite, "nginx")
			require.Equal(t, v[len(v)-1], c.Get("Version"))
			host := Versions(t, "", "nginx")
			if rel < 0 {
				require.True(t, versionIs(c.Get("Version"), "lt", host[0]))
			} else {
				require.True(t, versionIs(c.Get("Version"), "gt", host[len(host)-1]))
			}
		})
	}
}

func TestPackageThatDoesNotExistIsNamed(t *testing.T) {
	t.Parallel()
	a := suiteOf(t, "")
	_, err := a.closure([]string{"nginx", "no-such-thing-here"}, true)
	require.ErrorIs(t, err, errNoPackage)
	require.ErrorContains(t, err, "no-such-thing-here")
	_, err = a.phpModule(PHPSeries(t, ""), "nosuchmodule")
	require.ErrorIs(t, err, errNoPackage)
	require.ErrorContains(t, err, "nosuchmodule")
	require.False(t, HasPackage(t, "", "no-such-thing-here"))
	require.True(t, HasPackage(t, "", "nginx"))
}

func TestPairOfOrdersAndBumpsWholeFamilies(t *testing.T) {
	t.Parallel()
	a := suiteOf(t, "")
	series := PHPSeries(t, "")
	names := []string{"php" + series + "-fpm", "nginx"}
	p := PairOf(t, names...)
	require.True(t, versionIs(p.OldVersion, "lt", p.NewVersion))
	require.Equal(t, p, PairOf(t, names...), "asked twice, fetched once")

	p, err := a.pairOf(t.TempDir(), names, true)
	require.NoError(t, err)
	require.True(t, p.Repacked)
	require.Equal(t, p.OldVersion+"+jailup1", p.NewVersion)
	c, err := controlOf(FindDeb(t, p.New, names[0]))
	require.NoError(t, err)
	require.Contains(t, c.Get("Depends"), "php"+series+"-common (= "+p.NewVersion+")")
	common, err := controlOf(FindDeb(t, p.New, "php"+series+"-common"))
	require.NoError(t, err)
	require.Equal(t, p.NewVersion, common.Get("Version"))
	old, err := filepath.Glob(filepath.Join(p.Old, "*.deb"))
	require.NoError(t, err)
	now, err := filepath.Glob(filepath.Join(p.New, "*.deb"))
	require.NoError(t, err)
	require.Len(t, now, len(old))

	var said [2][]byte
	for i, dir := range []string{p.Old, p.New} {
		tree := t.TempDir()
		require.NoError(t, unpackAll([]string{FindDeb(t, dir, names[0])}, tree))
		said[i], err = os.ReadFile(filepath.Join(tree, "usr/sbin/php-fpm"+series))
		require.NoError(t, err)
	}
	require.NotEqual(t, said[0], said[1])
	require.Len(t, said[1], len(said[0]))

	j := PHPJail(t, p.New, InMemory())
	j.Start(t)
	version, _ := j.PHP(t)
	require.Equal(t, bumpDigits(upstream.FindString(p.OldVersion)), version)
}

// The oldest of everything is a set that works, and so is the newest.
func TestBothSidesOfAPairServe(t *testing.T) {
	t.Parallel()
	series := PHPSeries(t, "")
	names := append(PHPNames(t, "", []string{"fpm", "apache"}, "mysql", "gd", "memcached"), "nginx")
	p := PairOf(t, append([]string{"php" + series + "-fpm"}, names...)...)
	var versions []string
	for _, debs := range []string{p.Old, p.New} {
		for _, j := range []*Jail{
			PHPJail(t, debs, InMemory(), Extensions("mysql", "gd", "memcached")),
			ModPHPJail(t, debs, InMemory(), Extensions("mysql", "gd", "memcached")),
		} {
			j.Start(t)
			version, extensions := j.PHP(t)
			require.Subset(t, extensions, []string{"mysqli", "gd", "memcached"})
			versions = append(versions, version)
			j.Stop(t)
		}
	}
	require.Equal(t, versions[0], versions[1])
	require.Equal(t, versions[2], versions[3])
	if upstream.FindString(p.OldVersion) != upstream.FindString(p.NewVersion) || p.Repacked {
		require.NotEqual(t, versions[0], versions[2])
	}
}

func TestRelationsAndVersionsAreBumpedExactly(t *testing.T) {
	t.Parallel()
	all := parseRelations("aa (>= 1) | bb, cc:any (<< 2~), dd")
	require.Equal(t, [][]constraint{{{"aa", ">=", "1"}, {"bb", "", ""}}, {{"cc", "<<", "2~"}}, {{"dd", "", ""}}}, all)
	require.Equal(t, "xx (= 2+jailup1), yy (= 1), zz (>= 1)", bumpRelations("xx (= 2), yy (= 1), zz (>= 1)", map[string]string{"xx": "2+jailup1", "zz": "9"}))
	require.Equal(t, "one 1.2.9, not 11.2.3 nor 1.2.31", string(bumpText([]byte("one 1.2.3, not 11.2.3 nor 1.2.31"), "1.2.3")))
}
