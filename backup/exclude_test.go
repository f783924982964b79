package backup

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExclude(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"*.log", "/a.log", true},
		{"*.log", "/var/log/x.log", true},
		{"*.log", "/var/log/x.log.1", false},
		{"/var/cache", "/var/cache", true},
		{"/var/cache", "/usr/var/cache", false},
		{"var/cache", "/var/cache", true},
		{"var/cache", "/usr/var/cache", false},
		{"/var/cache/", "/var/cache", true},
		{"cache/", "/var/cache", true},
		{"/var/*", "/var/x", true},
		{"/var/*", "/var/x/y", false},
		{"/var/*/y", "/var/x/y", true},
		{"/**/tmp", "/tmp", true},
		{"/**/tmp", "/a/b/tmp", true},
		{"/**/tmp", "/a/b/tmp2", false},
		{"/a/**", "/a", true},
		{"/a/**", "/a/b/c", true},
		{"/a/**/z", "/a/z", true},
		{"/a/**/z", "/a/b/c/z", true},
		{"/a/**/z", "/a/b/c/y", false},
		{"[ab]?", "/a1", true},
		{"[ab]?", "/c1", false},
		{`a\*`, "/a*", true},
		{`a\*`, "/ab", false},
		{"bad\xff", "/bad\xff", true},
	} {
		x, err := newExcluder([]string{c.pattern})
		require.NoError(t, err, c.pattern)
		i := len(c.path) - 1
		for c.path[i] != '/' {
			i--
		}
		require.Equal(t, c.want, x.match(c.path[:i], c.path[i+1:]), "%q against %q", c.pattern, c.path)
	}
	x, err := newExcluder(nil)
	require.NoError(t, err)
	require.Nil(t, x)
}
