package lab

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var seriesName = regexp.MustCompile(`^php([0-9]+\.[0-9]+)-fpm$`)

// PHPSeries is the series of PHP in a suite ("8.2"), told by what its php-fpm
// depends on; "" is the host's sources.
func PHPSeries(t testing.TB, suite string) string {
	t.Helper()
	a := suiteOf(t, suite)
	series, err := a.phpSeries()
	orEnd(t, "php-fpm", err)
	return series
}

func (a *apt) phpSeries() (string, error) {
	stanzas, err := a.show("php-fpm")
	if err != nil {
		return "", err
	}
	if len(stanzas) == 0 {
		return "", fmt.Errorf("%w: php-fpm in %s", errNoPackage, a.name())
	}
	for _, group := range parseRelations(stanzas[0]["Depends"]) {
		if m := seriesName.FindStringSubmatch(group[0].name); m != nil {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("cannot tell the series of PHP in %s: php-fpm depends on %q", a.name(), stanzas[0]["Depends"])
}

// PHPNames are the packages of a suite for PHP with those modules ("mysql",
// "gd"): the servers named ("fpm", "apache" for the module of Apache), cli, and
// php8.2-MODULE or php-MODULE. A module that the suite does not have is an error
// of the test that says so; ask HasPHPModule before.
func PHPNames(t testing.TB, suite string, servers []string, modules ...string) []string {
	t.Helper()
	a := suiteOf(t, suite)
	series, err := a.phpSeries()
	orEnd(t, "php-fpm", err)
	names := []string{"php" + series + "-cli"}
	for _, s := range servers {
		switch s {
		case "fpm":
			names = append(names, "php"+series+"-fpm")
		case "apache":
			names = append(names, "apache2", "libapache2-mod-php"+series)
		default:
			t.Fatalf("PHPNames knows the servers fpm and apache, not %q", s)
		}
	}
	for _, m := range modules {
		name, err := a.phpModule(series, m)
		orEnd(t, m, err)
		names = append(names, name)
	}
	return names
}

// HasPHPModule tells whether a suite has a package for a module of its PHP.
func HasPHPModule(t testing.TB, suite, module string) bool {
	t.Helper()
	a := suiteOf(t, suite)
	series, err := a.phpSeries()
	orEnd(t, "php-fpm", err)
	_, err = a.phpModule(series, module)
	return err == nil
}

// phpModule is the package with a module: one of PHP's own source, or one that
// was made for it, of which older releases have only one without the series.
func (a *apt) phpModule(series, module string) (string, error) {
	own, other := "php"+series+"-"+module, "php-"+module
	stanzas, err := a.show(own, other)
	if err != nil {
		return "", err
	}
	for _, name := range []string{own, other} {
		if slices.ContainsFunc(stanzas, func(s stanza) bool { return s["Package"] == name }) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: neither %s nor %s: %s has no module %s for PHP %s", errNoPackage, own, other, a.name(), strings.ToLower(module), series)
}
