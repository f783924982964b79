package checks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func php(version string, modules ...string) Runtime {
	return Runtime{Version: version, Modules: modules}
}

func warned(r Runtime, warnings ...string) Runtime {
	r.Warnings = warnings
	return r
}

// asked is a check whose PHP answers with what is set.
type asked struct {
	*runtimeCheck
	says  Runtime
	err   error
	calls int
}

func newAsked(dropped ...string) *asked {
	a := &asked{}
	a.runtimeCheck = newRuntimeCheck(Target{Part: "php-fpm", Dropped: dropped, Runtime: func(context.Context) (Runtime, error) {
		a.calls++
		return a.says, a.err
	}})
	return a
}

func TestRuntime(t *testing.T) {
	t.Parallel()
	core := []string{"[PHP Modules]", "Core", "mysqli", "gd", "Zend OPcache", "", "[Zend Modules]", "Zend OPcache"}
	older := php("8.2.32", core...)
	strange := `PHP Warning:  PHP Startup: mysqli: Unable to initialize module\nModule compiled with module API=20190902`
	for _, c := range []struct {
		name        string
		before, now Runtime
		dropped     []string
		want        Verdict
		detail      string
	}{
		{"the same", older, older, nil, Healthy, "PHP 8.2.32 with 4 modules"},
		{"newer", older, php("8.2.36", core...), nil, Healthy, "PHP 8.2.32 → 8.2.36 with 4 modules"},
		{"without headings", older, php("8.2.32", "opcache", "GD", "core", "MySQLi"), nil, Healthy, "with 4 modules"},
		{"more", older, php("8.4.1", append(core, "lexbor")...), nil, Healthy, "PHP 8.2.32 → 8.4.1 with 5 modules; new: lexbor"},
		{"one gone", older, php("8.2.36", "Core", "mysqli", "Zend OPcache"), nil, Unhealthy, "PHP 8.2.36 is without the module gd, which PHP 8.2.32 had"},
		{"two gone", older, php("8.2.36", "Core", "mysqli"), nil, Unhealthy, "without the modules gd, Zend OPcache"},
		{"one dropped", older, php("8.4.1", "Core", "gd", "Zend OPcache"), []string{"mysqli"}, Healthy, "; dropped: mysqli"},
		{"another dropped", older, php("8.4.1", "Core", "gd"), []string{"mysqli"}, Unhealthy, "without the module Zend OPcache"},
		{"opcache dropped", older, php("8.4.1", "Core", "gd", "mysqli"), []string{"opcache"}, Healthy, "dropped: opcache"},
		{"cannot be loaded", older, warned(php("8.2.36", core...), noGD), nil, Unhealthy, "PHP cannot load gd: PHP Warning:  PHP Startup: Unable to load"},
		{"could not be loaded before", warned(older, noGD), warned(php("8.2.36", core...), strings.ReplaceAll(noGD, "20220829", "20240924")), nil, Healthy, "; cannot load gd, as before"},
		{"of another API", older, warned(php("8.2.36", core...), strange), nil, Unhealthy, "PHP cannot load mysqli"},
		{"of the engine", older, warned(php("8.2.36", core...), "Failed loading /usr/lib/php/20220829/opcache.so:  x: cannot open"), nil, Unhealthy, "PHP cannot load opcache"},
		{"dropped and its line left", older, warned(php("8.2.36", "Core", "mysqli", "Zend OPcache"), noGD), []string{"gd"}, Healthy, "dropped: gd"},
		{"says something else", older, warned(php("8.2.36", core...), `PHP Warning:  Module "gd" is already loaded in Unknown on line 0`), nil, Healthy, "8.2.36"},
		{"says nothing", older, php("8.2.36", "[PHP Modules]", "", "[Zend Modules]"), nil, Unhealthy, "lists no module"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := newAsked(c.dropped...)
			a.says = c.before
			before := Baseline(t.Context(), []Check{a})
			require.Equal(t, 1, a.calls, "one baseline, one question")
			require.Equal(t, "php php-fpm", before.Results[0].Name)
			require.Equal(t, Healthy, before.Results[0].Verdict)
			a.says = c.now
			p := quick()
			p.AcceptInconclusive = true // PHP alone is no answer
			after, err := Verify(t.Context(), []Check{a}, before, p, nil)
			got := after.Results[0]
			require.Equal(t, c.want, got.Verdict, "%+v", got)
			require.Equal(t, c.want == Unhealthy, err != nil)
			require.Contains(t, got.Detail, c.detail)
			if c.name != "says nothing" {
				require.Equal(t, 2, a.calls)
			}
			if c.want == Unhealthy && c.name != "says nothing" {
				require.Equal(t, 1, got.Looks, "no later look undoes it")
			}
		})
	}
}

func TestRuntimeThatDoesNotRun(t *testing.T) {
	t.Parallel()
	a := newAsked()
	a.says = php("8.2.1", "Core")
	before := Baseline(t.Context(), []Check{a})
	a.err = errors.New("libxml2.so.2: cannot open\x1b[2J")
	_, err := Verify(t.Context(), []Check{a}, before, quick(), nil)
	require.ErrorContains(t, err, "php php-fpm: PHP does not say what it is: libxml2.so.2: cannot open")
	require.Greater(t, a.calls, 2, "it is asked until it answers")

	a.err = fmt.Errorf("no php in the jail: %w", errors.ErrUnsupported)
	o := runOnce(t, a)
	require.True(t, o.Inconclusive)
	a.begin()
	a.err, a.says = nil, php("8.2.1", strings.Repeat("x", 5000)+"\x1b[2J", "Core")
	for i := range 2 * maxModules {
		a.says.Modules = append(a.says.Modules, fmt.Sprint("m", i))
		a.says.Warnings = append(a.says.Warnings, fmt.Sprintf("Unable to load dynamic library 'm%d%s'", i, strings.Repeat("y", 500)))
	}
	o = runOnce(t, a)
	require.Len(t, list(o.Values["modules"]), maxModules)
	require.Len(t, list(o.Values["refused"]), maxWarnings)
	require.Less(t, len(o.Values["modules"])+len(o.Values["warning"]), 100_000)
	require.NotContains(t, o.Values["modules"], "\x1b")
}
