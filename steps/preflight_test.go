package steps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/source"
)

// A jail with nginx alone is no answer to who asks for PHP-FPM.
func TestServerThatGoesAlongIsNotThere(t *testing.T) {
	t.Parallel()
	set := embeddedSet(t)
	for _, c := range []struct {
		paths []string
		asked string
		says  string // "" for none
	}{
		{[]string{"/usr/sbin/nginx"}, "nginx", ""},
		{[]string{"/usr/sbin/nginx", "/usr/sbin/php-fpm8.2"}, "php-fpm", ""},
		{[]string{"/usr/sbin/php-fpm8.2"}, "php-fpm", ""},
		{[]string{"/usr/sbin/nginx"}, "php-fpm", "it holds no php-fpm"},
		{[]string{"/usr/sbin/apache2"}, "mod-php", "it holds no mod-php"},
		{[]string{"/usr/sbin/nginx"}, "", ""},
	} {
		root := madeJail(t, c.paths...)
		r := recipe(t, "nginx")
		if c.asked != "" {
			r = Compose(set, recipe(t, c.asked), root)
		}
		err := (&Env{Root: root, Recipe: r, Recipes: set, Options: Options{Named: c.asked}}).checkNamed()
		if c.says == "" {
			require.NoError(t, err, "%+v", c)
			continue
		}
		require.ErrorContains(t, err, c.says)
		require.Contains(t, HintOf(err), "jailup create "+r.Name+" --with "+c.asked)
	}
}

// A link out of the jail leads to nothing there, and who reads that the server is
// not there wants to know why.
func TestServerBehindALinkThatLeadsAway(t *testing.T) {
	t.Parallel()
	for target, says := range map[string]string{
		"/srv/of/the/host": "holds no /usr/sbin/nginx: /usr/sbin is a link to /srv/of/the/host, where the jail has none",
		"sbin":             "/usr/sbin is a link to sbin", // to itself
		"real":             "",
	} {
		root := madeJail(t, "/usr/real/nginx")
		require.NoError(t, os.Symlink(target, filepath.Join(root.Path(), "usr/sbin")))
		err := CheckJail(root, recipe(t, "nginx"))
		if says == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, says)
		require.Contains(t, HintOf(err), "look at what lies there")
	}
	err := CheckJail(madeJail(t, "/usr/sbin/other"), recipe(t, "nginx"))
	require.ErrorContains(t, err, "it holds no /usr/sbin/nginx")
	require.NotContains(t, err.Error(), "link")
}

// A key that was pinned wrongly and a keyring that is missing are no attack.
func TestHintsOfSources(t *testing.T) {
	t.Parallel()
	for says, err := range map[string]error{
		"--keys":           fmt.Errorf("%w (key 0123456789ABCDEF)", source.ErrNoKey),
		"--keyring":        fmt.Errorf("%w /x: none", source.ErrKeyring),
		"somebody changed": errors.New("the signature is wrong"),
	} {
		err := sourceError(&source.Error{Kind: source.ErrSignature, Err: err})
		require.Contains(t, HintOf(err), says)
		require.ErrorIs(t, err, source.ErrSignature)
	}
	require.NotContains(t, HintOf(sourceError(&source.Error{Kind: source.ErrSignature, Err: source.ErrKeyring})), "somebody")
}
