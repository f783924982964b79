package fileset

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/recipes"
)

// lang is the recipe of something that is packaged as PHP is, in one series.
func lang(series string) *recipes.Recipe {
	return &recipes.Recipe{Name: "lang", Packages: []string{"lang" + series}, Owns: []string{"lang" + series + "*"},
		Executables: []string{"/usr/sbin/lang" + series},
		Effects: recipes.Effects{
			Copy: []recipes.Copy{{From: "/usr/lib/lang/" + series + "/ini-production", To: "/etc/lang/" + series + "/lang.ini"}},
			Enable: []recipes.Enable{
				{From: "/etc/lang/" + series + "/mods/*.ini", To: "/etc/lang/" + series + "/conf.d/", Priority: 20},
				{From: "/etc/web/mods-available/*.*", To: "/etc/web/mods-enabled/", Relative: true, Names: []string{"lang" + series}},
			},
		}}
}

func langDebs(series string, more map[string]string) []deb {
	etc, api := "/etc/lang/"+series+"/", "/usr/lib/lang/api"+series+"/"
	files := map[string]string{
		"/usr/sbin/lang" + series: program(series), "/usr/lib/lang/" + series + "/ini-production": "; lang.ini of " + series + "\n",
		etc + "fpm.conf": "include=" + etc + "pool.d/*.conf\n", etc + "pool.d/www.conf": "[www]\nuser = a\nlisten = /run/lang" + series + ".sock\n; " + series + "\n",
		etc + "mods/gd.ini": "extension=gd.so\n", etc + "mods/mail.ini": "; priority=30\nextension=mail.so\n",
		api + "gd.so": program("gd" + series), api + "mail.so": program("mail" + series), "/usr/share/lang" + series + "-x/data": "data",
		"/etc/web/mods-available/lang" + series + ".load": "Load /usr/lib/web/liblang" + series + ".so\n", "/etc/web/mods-available/lang" + series + ".conf": "handler\n",
	}
	for p, text := range more {
		if files[p] = text; text == "" {
			delete(files, p)
		}
	}
	var conf []string
	for p := range files {
		if strings.HasPrefix(p, "/etc/") {
			conf = append(conf, p)
		}
	}
	slices.Sort(conf)
	return []deb{{name: "lang" + series, version: series + ".1", files: files, conf: conf}}
}

func moves(old, now string) []Carried {
	var out []Carried
	for _, f := range []string{"/etc/lang/@/", "/usr/lib/lang/@/", "/usr/lib/lang/api@/", "/usr/sbin/lang@",
		"/etc/web/mods-available/lang@.", "/etc/web/mods-enabled/lang@.", "/usr/lib/web/liblang@.so"} {
		out = append(out, Carried{New: strings.Replace(f, "@", now, 1), Old: strings.Replace(f, "@", old, 1)})
	}
	return out
}

func (h *house) series(from, to string, more map[string]string) {
	h.t.Helper()
	h.in.Recipe, h.in.Carry = lang(to), moves(from, to)
	h.bring(langDebs(to, more)...)
}

func (h *house) action(p string) string {
	var out []string
	for _, c := range h.sel.Conf {
		if c.Path == p {
			out = append(out, strings.TrimSpace(c.Action+" "+c.Was))
		}
	}
	return strings.Join(out, ", ")
}

func (h *house) holds(want map[string]string) {
	h.t.Helper()
	for _, p := range slices.Sorted(maps.Keys(want)) {
		require.Equal(h.t, want[p], h.has(p), p)
	}
}

// A jail that nobody has touched is wholly the new series'.
func TestSeriesOfAnUntouchedJail(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", nil)...)
	require.Equal(t, "-> ../mods-available/lang1.load", h.has("/etc/web/mods-enabled/lang1.load"))
	h.series("1", "2", nil)
	require.Equal(t, "/usr/sbin/lang1", h.set.Ops[0].Path, "the old program goes out first")
	require.Equal(t, "/usr/sbin/lang2", h.set.Ops[len(h.set.Ops)-1].Path, "the new one comes in last")
	h.holds(map[string]string{
		"/usr/sbin/lang2": program("2"), "/etc/lang/2/lang.ini": "; lang.ini of 2\n", "/etc/lang/2/fpm.conf": "include=/etc/lang/2/pool.d/*.conf\n",
		"/etc/lang/2/conf.d/20-gd.ini": "-> /etc/lang/2/mods/gd.ini", "/etc/lang/2/conf.d/30-mail.ini": "-> /etc/lang/2/mods/mail.ini",
		"/usr/lib/lang/api2/gd.so": program("gd2"), "/etc/web/mods-enabled/lang2.load": "-> ../mods-available/lang2.load",
		"/etc/web/mods-available/lang2.conf": "handler\n",
		"/etc/lang/1":                        "none", "/usr/lib/lang/1": "none", "/usr/lib/lang/api1": "none", "/usr/sbin/lang1": "none", "/usr/share/lang1-x": "none",
		"/etc/web/mods-available/lang1.load": "none", "/etc/web/mods-enabled/lang1.load": "none", "/etc/web/mods-enabled/lang1.conf": "none",
	})
	require.Equal(t, "moved /etc/lang/1/lang.ini", h.action("/etc/lang/2/lang.ini"))
	for _, f := range h.m.Files {
		require.NotContains(t, f.Path, "lang1")
		require.NotContains(t, f.Path, "/1/")
	}
	// And back again, as it is done with a version of before.
	h.series("2", "1", nil)
	require.Equal(t, "; lang.ini of 1\n", h.has("/etc/lang/1/lang.ini"))
	require.Equal(t, "none", h.has("/etc/lang/2"))
}

// What an administrator did under the old series counts under the new one.
func TestSeriesCarriesWhatWasChanged(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", map[string]string{"/etc/lang/1/mods/old.ini": "extension=old.so\n", "/usr/lib/lang/api1/old.so": program("old")})...)
	const mine = "path=/usr/lib/lang/api1/gd.so /etc/lang/1/x /etc/lang/10/y\n"
	h.write("/etc/lang/1/lang.ini", mine)
	require.NoError(t, os.Chmod(h.path("/etc/lang/1/lang.ini"), 0o640))
	require.NoError(t, os.Remove(h.path("/etc/lang/1/mods/mail.ini")))
	require.NoError(t, os.Remove(h.path("/etc/lang/1/conf.d/30-mail.ini")))
	h.write("/etc/lang/1/mods/old.ini", "extension=old.so\nmine=1\n")
	h.write("/etc/lang/1/pool.d/shop.conf", "[shop]\nlog=/etc/lang/1/log\n")
	require.NoError(t, os.Chmod(h.path("/etc/lang/1/pool.d/shop.conf"), 0o600))
	require.NoError(t, os.Chmod(h.path("/etc/lang/1/pool.d"), 0o700))
	require.NoError(t, os.Chmod(h.path("/etc/lang/1/fpm.conf"), 0o600))
	h.write("/etc/lang/1/own/deep/f", "f")
	require.NoError(t, os.Chmod(h.path("/etc/lang/1/own"), 0o750))
	h.write("/etc/lang/1/mods/own.ini", "own")
	h.link("/etc/lang/1/conf.d/99-own.ini", "../mods/own.ini")
	h.link("/etc/lang/1/conf.d/98-gd.ini", "/etc/lang/1/mods/gd.ini")
	h.link("/etc/lang/1/conf.d/97-old.ini", "/etc/lang/1/mods/old.ini")
	h.link("/etc/lang/1/conf.d/96-shared.ini", "../../shared.ini")
	h.link("/etc/lang/1/conf.d/95-nowhere.ini", "/srv/nowhere.ini")
	h.write("/usr/lib/lang/api1/own.so", "built for another interface")
	h.write("/etc/web/mods-available/lang1.conf", "my handler /usr/lib/web/liblang1.so /etc/web/mods-available/lang1.load\n")
	h.series("1", "2", nil)
	h.holds(map[string]string{
		"/etc/lang/2/lang.ini":             "path=/usr/lib/lang/api2/gd.so /etc/lang/2/x /etc/lang/10/y\n",
		"/etc/lang/2/lang.ini.jailup-new":  "; lang.ini of 2\n",
		"/etc/lang/1/lang.ini":             mine,
		"/etc/lang/2/mods/mail.ini":        "none",
		"/etc/lang/2/conf.d/30-mail.ini":   "none",
		"/usr/lib/lang/api2/mail.so":       program("mail2"),
		"/etc/lang/2/mods/old.ini":         "none",
		"/etc/lang/1/mods/old.ini":         "extension=old.so\nmine=1\n",
		"/etc/lang/2/conf.d/20-old.ini":    "none",
		"/usr/lib/lang/api1/old.so":        "none",
		"/etc/lang/2/pool.d/shop.conf":     "[shop]\nlog=/etc/lang/2/log\n",
		"/etc/lang/1/pool.d/shop.conf":     "[shop]\nlog=/etc/lang/1/log\n",
		"/etc/lang/1/pool.d/www.conf":      "none",
		"/etc/lang/2/own/deep/f":           "f",
		"/etc/lang/2/mods/own.ini":         "own",
		"/etc/lang/2/conf.d/99-own.ini":    "-> ../mods/own.ini",
		"/etc/lang/2/conf.d/98-gd.ini":     "-> /etc/lang/2/mods/gd.ini",
		"/etc/lang/2/conf.d/97-old.ini":    "none",
		"/etc/lang/2/conf.d/96-shared.ini": "-> ../../shared.ini", "/etc/lang/2/conf.d/95-nowhere.ini": "-> /srv/nowhere.ini",
		"/usr/lib/lang/api2/own.so": "none", "/usr/lib/lang/api1/own.so": "built for another interface",
		// Where all is read that lies there, it must not stay under its name.
		"/etc/web/mods-available/lang2.conf":            "my handler /usr/lib/web/liblang2.so /etc/web/mods-available/lang2.load\n",
		"/etc/web/mods-available/lang2.conf.jailup-new": "none", "/etc/web/mods-available/lang1.conf": "none",
		"/etc/web/mods-available/lang1.conf.jailup-old": "my handler /usr/lib/web/liblang1.so /etc/web/mods-available/lang1.load\n",
	})
	require.EqualValues(t, 0o640, h.mode("/etc/lang/2/lang.ini"))
	require.EqualValues(t, 0o600, h.mode("/etc/lang/2/pool.d/shop.conf"))
	require.EqualValues(t, 0o700, h.mode("/etc/lang/2/pool.d"))
	require.EqualValues(t, 0o600, h.mode("/etc/lang/2/fpm.conf"), "stricter than the package's")
	require.EqualValues(t, 0o750, h.mode("/etc/lang/2/own"))
	for p, want := range map[string]string{
		"/etc/lang/2/lang.ini": "carried /etc/lang/1/lang.ini", "/etc/lang/1/lang.ini": "obsolete", "/etc/lang/2/mods/mail.ini": "deleted /etc/lang/1/mods/mail.ini",
		"/etc/lang/2/pool.d/shop.conf": "carried /etc/lang/1/pool.d/shop.conf", "/etc/lang/1/pool.d/shop.conf": "obsolete",
		"/etc/lang/2/conf.d/97-old.ini": "dropped /etc/lang/1/conf.d/97-old.ini", "/etc/lang/1/mods/old.ini": "obsolete",
		"/etc/lang/2/conf.d/99-own.ini": "carried /etc/lang/1/conf.d/99-own.ini", "/etc/lang/2/fpm.conf": "moved /etc/lang/1/fpm.conf",
		"/usr/lib/lang/api1/own.so": "obsolete", "/etc/web/mods-available/lang1.conf": "obsolete",
	} {
		require.Equal(t, want, h.action(p), p)
	}
	index := h.m.Index()
	require.NotContains(t, index, "/etc/lang/2/pool.d/shop.conf", "nobody's but the administrator's")
	require.True(t, index["/etc/lang/2/lang.ini"].Conf)

	// The next upgrade within the series takes what was carried for changed, and
	// what was deleted for deleted.
	h.in.Carry = nil
	next := langDebs("2", map[string]string{"/usr/lib/lang/2/ini-production": "; newer\n"})
	next[0].version = "2.2"
	h.bring(next...)
	h.holds(map[string]string{
		"/etc/lang/2/lang.ini": "path=/usr/lib/lang/api2/gd.so /etc/lang/2/x /etc/lang/10/y\n", "/etc/lang/2/lang.ini.jailup-new": "; newer\n",
		"/etc/lang/2/mods/mail.ini": "none", "/etc/lang/2/conf.d/30-mail.ini": "none", "/etc/lang/2/pool.d/shop.conf": "[shop]\nlog=/etc/lang/2/log\n",
		"/etc/lang/2/conf.d/98-gd.ini": "-> /etc/lang/2/mods/gd.ini",
	})
}

// One question at a time: what becomes of lang.ini, by what was done to it under
// the old series.
func TestSeriesConffile(t *testing.T) {
	t.Parallel()
	const shipped = "a=/etc/lang/1/x\nb\n"
	for _, c := range []struct {
		name, edit, new   string // new is what the new series ships
		confNew           bool
		has, beside, what string
		besideOld         string
	}{
		{"unchanged", "", "new\n", false, "new\n", "none", "moved", "none"},
		{"changed on both sides", "mine\n", "new\n", false, "mine\n", "new\n", "carried", "none"},
		{"changed here, there only as the path", "a=/etc/lang/1/x\nc\n", "a=/etc/lang/2/x\nb\n", false, "a=/etc/lang/2/x\nc\n", "none", "carried", "none"},
		{"changed here, the same there", "a=/etc/lang/1/x\nc\n", shipped, false, "a=/etc/lang/2/x\nc\n", "none", "carried", "none"},
		{"changed to what is new", "new /etc/lang/1/x\n", "new /etc/lang/2/x\n", false, "new /etc/lang/2/x\n", "none", "moved", "none"},
		{"deleted", "none", "new\n", false, "none", "none", "deleted", "none"},
		{"a link", "-> ../other.ini", "new\n", false, "-> ../other.ini", "none", "carried", "none"},
		{"a link out of the jail", "-> ../../../../../../etc/passwd", "new\n", false, "-> ../../../../../../etc/passwd", "none", "carried", "none"},
		{"a link to what is carried", "-> /etc/lang/1/fpm.conf", "new\n", false, "-> /etc/lang/2/fpm.conf", "none", "carried", "none"},
		{"a link to what is no more", "-> /etc/lang/1/gone", "new\n", false, "new\n", "none", "dropped", "none"},
		{"a link to a directory", "-> pool.d", "new\n", false, "-> pool.d", "none", "carried", "none"},
		{"the new one is asked for", "mine\n", "new\n", true, "new\n", "none", "replaced", "mine\n"},
		{"deleted stays so", "none", "new\n", true, "none", "none", "deleted", "none"},
		{"no text", "\x00/etc/lang/1/", "new\n", false, "\x00/etc/lang/1/", "new\n", "carried", "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.in.Recipe = lang("1")
			h.whole(langDebs("1", map[string]string{"/usr/lib/lang/1/ini-production": shipped})...)
			const before, now = "/etc/lang/1/lang.ini", "/etc/lang/2/lang.ini"
			switch {
			case c.edit == "none":
				require.NoError(t, os.Remove(h.path(before)))
			case strings.HasPrefix(c.edit, "-> "):
				require.NoError(t, os.Remove(h.path(before)))
				h.link(before, c.edit[3:])
			case c.edit != "":
				h.write(before, c.edit)
			}
			h.in.ConfNew = c.confNew
			h.in.Pristine = func(p string) ([]byte, bool) { return []byte(shipped), p == "/usr/lib/lang/1/ini-production" }
			h.series("1", "2", map[string]string{"/usr/lib/lang/2/ini-production": c.new})
			h.holds(map[string]string{now: c.has, now + ".jailup-new": c.beside, now + ".jailup-old": c.besideOld})
			require.Equal(t, c.what+" "+before, h.action(now))
			if c.edit != "" && c.edit != "none" {
				require.Equal(t, "obsolete", h.action(before))
				require.NotEqual(t, "none", h.has(before), "nobody loses text")
			} else {
				require.Equal(t, "none", h.has(before))
			}
		})
	}
}

// In a jail made by hand what was there of the old series is there of the new
// one, and no more than that.
func TestSeriesOfAGrownJail(t *testing.T) {
	t.Parallel()
	old := langDebs("1", nil)[0].files
	h := newHouse(t)
	for _, p := range []string{"/usr/sbin/lang1", "/usr/lib/lang/api1/gd.so", "/etc/lang/1/fpm.conf", "/etc/lang/1/mods/gd.ini", "/etc/lang/1/pool.d/www.conf",
		"/etc/web/mods-available/lang1.load"} {
		h.write(p, old[p])
	}
	h.write("/etc/lang/1/conf.d/20-gd.ini", "extension=gd.so\n") // a copy, as of cp -L
	h.link("/etc/web/mods-enabled/lang1.load", "../mods-available/lang1.load")
	h.write("/etc/lang/1/lang.ini", "mine /etc/lang/1/\n")
	h.write("/etc/lang/1/pool.d/shop.conf", "shop /etc/lang/1/\n")
	h.write("/usr/lib/lang/api1/own.so", "own")
	h.in.Known = func(p string, st *changeset.State) (string, string, bool) {
		return "lang1", "1.1", !strings.Contains(p, "own") && !strings.Contains(p, "shop") && p != "/etc/lang/1/lang.ini"
	}
	h.in.Shipped = nil
	h.series("1", "2", nil)
	h.holds(map[string]string{
		"/usr/sbin/lang2": program("2"), "/usr/lib/lang/api2/gd.so": program("gd2"), "/usr/lib/lang/api2/mail.so": "none", "/usr/share/lang2-x": "none",
		"/etc/lang/2/fpm.conf": "include=/etc/lang/2/pool.d/*.conf\n", "/etc/lang/2/mods/gd.ini": "extension=gd.so\n", "/etc/lang/2/mods/mail.ini": "none",
		"/etc/lang/2/conf.d/20-gd.ini": "extension=gd.so\n", "/etc/lang/2/conf.d/30-mail.ini": "none",
		"/etc/lang/2/lang.ini": "mine /etc/lang/2/\n", "/etc/lang/2/lang.ini.jailup-new": "; lang.ini of 2\n",
		"/etc/lang/2/pool.d/www.conf": langDebs("2", nil)[0].files["/etc/lang/2/pool.d/www.conf"], "/etc/lang/2/pool.d/shop.conf": "shop /etc/lang/2/\n",
		"/etc/web/mods-enabled/lang2.load": "-> ../mods-available/lang2.load", "/etc/web/mods-enabled/lang1.load": "none", "/etc/web/mods-available/lang1.load": "none",
		"/usr/sbin/lang1": "none", "/usr/lib/lang/api1/gd.so": "none", "/usr/lib/lang/api1/own.so": "own", "/etc/lang/1/mods": "none", "/etc/lang/1/conf.d": "none",
		"/etc/lang/1/lang.ini": "mine /etc/lang/1/\n", "/etc/lang/1/pool.d/shop.conf": "shop /etc/lang/1/\n", "/etc/lang/1/pool.d/www.conf": "none",
	})
	require.Equal(t, "1.1", h.sel.From["lang1"])
}

// An unchanged pool goes on listening where the web server expects it, and is
// still known as unchanged the next time.
func TestSeriesKeepsListening(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", nil)...)
	h.in.KeepListen = func(p string) (string, bool) { return "/run/lang1.sock", p == "/etc/lang/2/pool.d/www.conf" }
	h.series("1", "2", nil)
	const pool = "/etc/lang/2/pool.d/www.conf"
	require.Equal(t, "[www]\nuser = a\nlisten = /run/lang1.sock\n; 2\n", h.has(pool))
	require.Equal(t, "adapted /etc/lang/1/pool.d/www.conf", h.action(pool))
	h.in.Carry, h.in.KeepListen = nil, nil
	for _, user := range []string{"b", "c"} {
		h.bring(langDebs("2", map[string]string{pool: "[www]\nuser = " + user + "\nlisten = /run/lang2.sock\n"})...)
		require.Equal(t, "[www]\nuser = "+user+"\nlisten = /run/lang1.sock\n", h.has(pool), "it was only us")
		require.Equal(t, "none", h.has(pool+".jailup-new"))
	}
	// Nothing new: nothing to do, and nothing to tell.
	h.bring(langDebs("2", map[string]string{pool: "[www]\nuser = c\nlisten = /run/lang2.sock\n"})...)
	require.Empty(t, h.action(pool))
	require.True(t, h.set.Empty())
	// Changed by an administrator it is his.
	h.write(pool, "[www]\nuser = mine\nlisten = /run/lang1.sock\n")
	h.bring(langDebs("2", map[string]string{pool: "[www]\nuser = d\nlisten = /run/lang2.sock\n"})...)
	require.Equal(t, "[www]\nuser = mine\nlisten = /run/lang1.sock\n", h.has(pool))
	require.Equal(t, "[www]\nuser = d\nlisten = /run/lang2.sock\n", h.has(pool+".jailup-new"))
}

// A module that was switched off stays so under another number, and one that an
// administrator has switched on is not switched on twice.
func TestSeriesSwitches(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", nil)...)
	require.NoError(t, os.Remove(h.path("/etc/lang/1/conf.d/30-mail.ini")))
	h.write("/etc/lang/1/mods/new.ini", "extension=new.so\n")
	h.link("/etc/lang/1/conf.d/50-new.ini", "../mods/new.ini")
	h.series("1", "2", map[string]string{"/etc/lang/2/mods/mail.ini": "; priority=40\n", "/etc/lang/2/mods/new.ini": "extension=new.so\nmore\n", "/usr/lib/lang/api2/new.so": "new"})
	h.holds(map[string]string{
		"/etc/lang/2/conf.d/30-mail.ini": "none", "/etc/lang/2/conf.d/40-mail.ini": "none",
		"/etc/lang/2/conf.d/50-new.ini": "-> ../mods/new.ini", "/etc/lang/2/conf.d/20-new.ini": "none",
		"/etc/lang/2/mods/new.ini": "extension=new.so\n", "/etc/lang/2/mods/new.ini.jailup-new": "extension=new.so\nmore\n",
	})
	h.in.Carry = nil
	h.bring(langDebs("2", map[string]string{"/etc/lang/2/mods/mail.ini": "; priority=41\n", "/etc/lang/2/mods/new.ini": "extension=new.so\nmore\n"})...)
	require.Equal(t, "none", h.has("/etc/lang/2/conf.d/41-mail.ini"))
}

// What lies at the new place already is an administrator's, and judged there.
func TestSeriesThatIsThereAlready(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", nil)...)
	h.write("/etc/lang/1/lang.ini", "mine of 1\n")
	h.write("/etc/lang/2/lang.ini", "mine of 2\n")
	h.write("/etc/lang/1/pool.d/shop.conf", "shop of 1\n")
	h.write("/etc/lang/2/pool.d/shop.conf", "shop of 2\n")
	h.series("1", "2", nil)
	h.holds(map[string]string{"/etc/lang/2/lang.ini": "mine of 2\n", "/etc/lang/2/lang.ini.jailup-new": "; lang.ini of 2\n",
		"/etc/lang/2/pool.d/shop.conf": "shop of 2\n", "/etc/lang/1/pool.d/shop.conf": "shop of 1\n", "/etc/lang/1/lang.ini": "mine of 1\n"})
	require.Equal(t, "obsolete", h.action("/etc/lang/1/pool.d/shop.conf"))
}

// More than a configuration can have is refused, not carried.
func TestSeriesIsBounded(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", nil)...)
	// Without it what names it would lead nowhere: that is no upgrade.
	h.write("/etc/lang/1/own/large", "")
	require.NoError(t, os.Truncate(h.path("/etc/lang/1/own/large"), maxOwn+1))
	h.in.Recipe, h.in.Carry = lang("2"), moves("1", "2")
	require.ErrorContains(t, h.try(langDebs("2", nil)...), "cannot copy /etc/lang/1/own/large: it has")
	require.NoError(t, os.Remove(h.path("/etc/lang/1/own/large")))
	h.series("1", "2", nil)

	deep := "/etc/lang/2/d" + strings.Repeat("/d", 40)
	h.write(deep+"/f", "f")
	h.in.Recipe, h.in.Carry = lang("3"), moves("2", "3")
	require.ErrorContains(t, h.try(langDebs("3", nil)...), "cannot carry over /etc/lang/2/")
}
