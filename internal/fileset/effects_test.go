package fileset

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/recipes"
)

// withEffects is a server with modules, which its maintainer scripts switch on.
func withEffects() *recipes.Recipe {
	r := recipe()
	r.Effects = recipes.Effects{
		Copy: []recipes.Copy{
			{From: "/usr/share/srv/default.conf", To: "/etc/srv/srv.conf"},
			{From: "/usr/share/srv-*/*.ini", To: "/etc/srv/available/"},
			{From: "/usr/share/srv/nothing", To: "/etc/srv/nothing"},
		},
		Enable: []recipes.Enable{
			{From: "/etc/srv/available/*.ini", To: "/etc/srv/conf.d/", Priority: 20},
			{From: "/etc/srv/mods-available/*.*", To: "/etc/srv/mods-enabled/", Relative: true, Names: []string{"mpm_event", "alias", "none"}},
			{From: "/etc/srv/mods-available/*.*", To: "/etc/srv/mods-enabled/", Relative: true, Names: []string{"mpm_prefork"}, Not: []string{"mpm_event"}},
			{From: "/etc/srv/mods-available/*.*", To: "/etc/srv/other", Names: []string{"mpm_event"}},
		},
	}
	return r
}

func effects(version string, files map[string]string) []deb {
	all := map[string]string{
		"/usr/share/srv/default.conf": "default " + version, "/usr/share/srv-a/a.ini": "; priority=15\nextension=a.so", "/usr/share/srv-a/b.ini": "b",
		"/usr/share/srv-a/ten.ini": "x\n;priority = 10\r\n", "/etc/srv/available/own.ini": "; priority=0\n; priority=99 no",
		"/etc/srv/mods-available/mpm_event.load": "e", "/etc/srv/mods-available/mpm_event.conf": "e", "/etc/srv/mods-available/mpm_prefork.load": "p",
		"/etc/srv/mods-available/mpm_prefork.conf": "p", "/etc/srv/mods-available/alias.load": "a", "/etc/srv/mods-available/ssl.load": "s",
	}
	for p, text := range files {
		if all[p] = text; text == "" {
			delete(all, p)
		}
	}
	return []deb{server(version, all)}
}

// What the maintainer scripts would do is done, and only with what is there.
func TestEffects(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = withEffects()
	h.whole(effects("1", nil)...)
	for p, want := range map[string]string{
		"/etc/srv/srv.conf": "default 1", "/etc/srv/nothing": "none", "/etc/srv/available/a.ini": "; priority=15\nextension=a.so",
		"/etc/srv/conf.d/15-a.ini": "-> /etc/srv/available/a.ini", "/etc/srv/conf.d/20-b.ini": "-> /etc/srv/available/b.ini",
		"/etc/srv/conf.d/10-ten.ini": "-> /etc/srv/available/ten.ini", "/etc/srv/conf.d/20-own.ini": "-> /etc/srv/available/own.ini",
		"/etc/srv/mods-enabled/mpm_event.load": "none", "/etc/srv/mods-enabled/mpm_event.conf": "none",
		"/etc/srv/mods-enabled/mpm_prefork.load": "-> ../mods-available/mpm_prefork.load", "/etc/srv/mods-enabled/mpm_prefork.conf": "-> ../mods-available/mpm_prefork.conf",
		"/etc/srv/mods-enabled/alias.load": "-> ../mods-available/alias.load", "/etc/srv/mods-enabled/alias.conf": "none",
		"/etc/srv/mods-enabled/ssl.load": "none", "/etc/srv/other/mpm_event.load": "-> /etc/srv/mods-available/mpm_event.load",
	} {
		require.Equal(t, want, h.has(p), p)
	}
	for _, f := range h.m.Files {
		if f.Path == "/etc/srv/srv.conf" || f.Path == "/etc/srv/conf.d/15-a.ini" {
			require.True(t, f.Conf, f.Path)
			require.Equal(t, "srv", f.Package, f.Path)
		}
	}

	// The rules of configuration hold for the copies and for the links.
	h.write("/etc/srv/srv.conf", "mine")
	require.NoError(t, os.Remove(h.path("/etc/srv/conf.d/15-a.ini")))
	require.NoError(t, os.Remove(h.path("/etc/srv/mods-enabled/alias.load")))
	h.link("/etc/srv/mods-enabled/ssl.load", "../mods-available/ssl.load")
	h.link("/etc/srv/conf.d/99-b.ini", "../available/b.ini")
	for _, v := range []string{"2", "3"} {
		h.bring(effects(v, map[string]string{"/usr/share/srv-a/b.ini": "", "/usr/share/srv-a/new.ini": "new"})...)
		for p, want := range map[string]string{
			"/etc/srv/srv.conf": "mine", "/etc/srv/srv.conf.jailup-new": "default " + v, "/etc/srv/conf.d/15-a.ini": "none",
			"/etc/srv/mods-enabled/alias.load": "none", "/etc/srv/mods-enabled/ssl.load": "-> ../mods-available/ssl.load",
			"/etc/srv/conf.d/20-b.ini": "none", "/etc/srv/available/b.ini": "none", "/etc/srv/conf.d/99-b.ini": "-> ../available/b.ini",
			"/etc/srv/conf.d/20-new.ini": "-> /etc/srv/available/new.ini",
		} {
			require.Equal(t, want, h.has(p), "%s: %s", v, p)
		}
	}
}

// In a jail made by hand nothing is switched on but what is asked for.
func TestEffectsOfAGrownJail(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = withEffects()
	h.write("/usr/sbin/srv", program("1"))
	h.write("/etc/srv/available/b.ini", "b")
	h.link("/etc/srv/conf.d/50-b.ini", "../available/b.ini")
	h.link("/etc/srv/mods-enabled/alias.load", "../mods-available/alias.load")
	h.in.Wanted = func(p string) bool { return p == "/etc/srv/available/a.ini" }
	h.bring(effects("2", nil)...)
	for p, want := range map[string]string{
		"/etc/srv/srv.conf": "none", "/etc/srv/available/b.ini": "b", "/etc/srv/conf.d/50-b.ini": "-> ../available/b.ini", "/etc/srv/conf.d/20-b.ini": "none",
		"/etc/srv/available/a.ini": "; priority=15\nextension=a.so", "/etc/srv/conf.d/15-a.ini": "-> /etc/srv/available/a.ini",
		"/etc/srv/conf.d/10-ten.ini": "none", "/etc/srv/mods-enabled/mpm_prefork.load": "none", "/etc/srv/mods-enabled/alias.load": "-> ../mods-available/alias.load",
	} {
		require.Equal(t, want, h.has(p), p)
	}
	// Removed again it stays so, though the same is asked for once more.
	require.NoError(t, os.Remove(h.path("/etc/srv/conf.d/15-a.ini")))
	h.bring(effects("3", nil)...)
	require.Equal(t, "none", h.has("/etc/srv/conf.d/15-a.ini"))
}

// What the packages ship at the place of an effect is theirs.
func TestEffectsLeaveWhatIsShipped(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = withEffects()
	h.whole(effects("1", map[string]string{"/etc/srv/srv.conf": "shipped", "/etc/srv/conf.d/15-a.ini": "shipped"})...)
	require.Equal(t, "shipped", h.has("/etc/srv/srv.conf"))
	require.Equal(t, "shipped", h.has("/etc/srv/conf.d/15-a.ini"))
}

// One part's exclude list does not take away what another part's runtime list
// names; what lies below /etc is configuration, whoever ships it.
func TestRuntimeBeatsExclude(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = recipe()
	h.in.Recipe.Exclude = append(h.in.Recipe.Exclude, "/usr/lib/*/gconv/**")
	h.in.Recipe.Runtime = []string{"/usr/lib/*/gconv/A.so", "/etc/mime.types"}
	other := func(types string) deb {
		return deb{name: "other", version: "1", files: map[string]string{"/usr/lib/x/gconv/A.so": "a", "/usr/lib/x/gconv/B.so": "b", "/etc/mime.types": types, "/etc/other": "o"}, conf: []string{"/etc/other"}}
	}
	h.whole(server("1", nil), other("one"))
	require.Equal(t, "a", h.has("/usr/lib/x/gconv/A.so"))
	require.Equal(t, "none", h.has("/usr/lib/x/gconv/B.so"))
	require.Equal(t, "one", h.has("/etc/mime.types"))
	require.Equal(t, "none", h.has("/etc/other"))
	h.write("/etc/mime.types", "mine")
	h.bring(server("2", nil), other("two"))
	require.Equal(t, "mine", h.has("/etc/mime.types"))
	require.Equal(t, "two", h.has("/etc/mime.types.jailup-new"))
}
