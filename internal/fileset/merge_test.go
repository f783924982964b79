package fileset

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const srvConf = "/etc/srv/srv.conf"

// With --conf new what was changed here lies beside, and only that.
func TestConfNewKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, edit, new, has, beside string }{
		{"unchanged", "", "two", "two", "none"},
		{"changed", "mine", "two", "two", "mine"},
		{"changed here only", "mine", "one", "one", "mine"},
		{"changed to what is new", "two", "two", "two", "none"},
		{"deleted", "none", "two", "none", "none"},
		{"a link", "-> ../../../../etc/passwd", "two", "two", "-> ../../../../etc/passwd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.whole(server("1", map[string]string{srvConf: "one"}, srvConf))
			h.edit(srvConf, c.edit)
			if c.edit == "mine" {
				require.NoError(t, os.Chmod(h.path(srvConf), 0o600))
			}
			h.in.ConfNew = true
			h.bring(server("2", map[string]string{srvConf: c.new}, srvConf))
			h.holds(map[string]string{srvConf: c.has, srvConf + ".jailup-old": c.beside, srvConf + ".jailup-new": "none"})
			if c.edit == "mine" {
				require.EqualValues(t, 0o600, h.mode(srvConf+".jailup-old"), "it may hold a password")
			}
			require.NotContains(t, h.m.Index(), srvConf+".jailup-old")
			// Once more: what is the package's now is nobody's change.
			h.bring(server("3", map[string]string{srvConf: "three"}, srvConf))
			h.holds(map[string]string{srvConf: map[bool]string{true: "none", false: "three"}[c.edit == "none"], srvConf + ".jailup-old": c.beside})
		})
	}
}

// edit is what an administrator does: "" is nothing, "none" deletes, "-> x" makes
// a link.
func (h *house) edit(p, text string) {
	h.t.Helper()
	if text == "" {
		return
	}
	require.NoError(h.t, os.Remove(h.path(p)))
	switch {
	case text == "none":
	case strings.HasPrefix(text, "-> "):
		h.link(p, text[3:])
	default:
		h.write(p, text)
	}
}

// A file that the package ships elsewhere now is known by its content.
func TestMovedByThePackage(t *testing.T) {
	t.Parallel()
	const now = "/etc/srv/conf.d/main.conf"
	for _, c := range []struct {
		name, edit string
		old, new   map[string]string
		has, was   string
		action     string
	}{
		{"unchanged", "", nil, map[string]string{now: "one"}, "one", "none", "moved " + srvConf},
		{"changed", "mine", nil, map[string]string{now: "one"}, "mine", "mine", "carried " + srvConf},
		{"deleted", "none", nil, map[string]string{now: "one"}, "none", "none", "deleted " + srvConf},
		{"changed, with another text there", "mine", nil, map[string]string{now: "two"}, "two", "mine", "added"},
		{"changed, and still shipped", "mine", nil, map[string]string{now: "one", srvConf: "one"}, "one", "mine", "added"},
		{"changed, and shipped in two places", "mine", nil, map[string]string{now: "one", "/etc/srv/other": "one"}, "one", "mine", "added"},
		{"two of one content", "mine", map[string]string{"/etc/srv/second": "one"}, map[string]string{now: "one"}, "one", "mine", "added"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			all := map[string]string{srvConf: "one"}
			conf := []string{srvConf}
			for p, text := range c.old {
				all[p], conf = text, append(conf, p)
			}
			h.whole(server("1", all, conf...))
			h.edit(srvConf, c.edit)
			conf = nil
			for p := range c.new {
				conf = append(conf, p)
			}
			h.bring(server("2", c.new, conf...))
			h.holds(map[string]string{now: c.has, srvConf: c.was, now + ".jailup-new": "none"})
			require.Equal(t, c.action, h.action(now))
			if c.new[srvConf] == "" && c.was != "none" {
				require.Equal(t, "obsolete", h.action(srvConf))
			}
		})
	}

	// Two that moved together are told apart by their names.
	h := newHouse(t)
	h.whole(server("1", map[string]string{"/etc/srv/a.conf": "same", "/etc/srv/b.conf": "same"}, "/etc/srv/a.conf", "/etc/srv/b.conf"))
	h.write("/etc/srv/b.conf", "mine")
	h.bring(server("2", map[string]string{"/etc/srv/d/a.conf": "same", "/etc/srv/d/b.conf": "same"}, "/etc/srv/d/a.conf", "/etc/srv/d/b.conf"))
	h.holds(map[string]string{"/etc/srv/d/a.conf": "same", "/etc/srv/d/b.conf": "mine", "/etc/srv/a.conf": "none"})
}

// An administrator's link in the place of a file is never followed.
func TestLinksAreNeverWrittenThrough(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"/etc/srv/other", "../../../../../../etc/hostname", "nowhere", "/usr/share/srv", ".", "srv.conf"} {
		for _, confNew := range []bool{false, true} {
			h := newHouse(t)
			h.whole(server("1", map[string]string{srvConf: "one", "/usr/share/srv/x": "x"}, srvConf))
			h.write("/etc/srv/other", "other")
			h.edit(srvConf, "-> "+to)
			// Where the package's would be laid there is a link as well.
			h.link(srvConf+".jailup-new", "/etc/srv/other")
			h.link(srvConf+".jailup-old", "/etc/srv/other")
			h.in.ConfNew = confNew
			h.bring(server("2", map[string]string{srvConf: "two", "/usr/share/srv/x": "x"}, srvConf))
			require.Equal(t, "other", h.has("/etc/srv/other"), to)
			require.Equal(t, "x", h.has("/usr/share/srv/x"))
			if confNew {
				h.holds(map[string]string{srvConf: "two", srvConf + ".jailup-old": "-> " + to})
			} else {
				h.holds(map[string]string{srvConf: "-> " + to, srvConf + ".jailup-new": "two"})
			}
		}
	}
}

// Changes on both sides are never merged, not even where they do not meet; but it
// is told who changed what.
func TestDiff(t *testing.T) {
	t.Parallel()
	lines := func(first, last string) string { return first + "\n2\n3\n4\n5\n6\n7\n8\n" + last + "\n" }
	pristine := lines("one", "nine")
	for _, c := range []struct {
		name, old, mine, new string
		known                bool
		pkg, yours           []string
	}{
		{"both", pristine, lines("mine", "nine"), lines("one", "new"), true, []string{"-nine", "+new", "b" + srvConf}, []string{"-one", "+mine", "a" + srvConf}},
		{"here only", pristine, lines("mine", "nine"), pristine, false, nil, []string{"-one", "+mine"}},
		{"nothing known", pristine, lines("mine", "nine"), lines("one", "new"), false, nil, nil},
		{"no text", pristine, "mine\x00", lines("one", "new"), true, []string{"+new"}, nil},
		{"another encoding", pristine, "\xe4\n", lines("one", "new"), true, []string{"+new"}, nil},
		{"too large", pristine, strings.Repeat("x\n", maxDiff/2+1), lines("one", "new"), true, []string{"+new"}, nil},
		{"a link", pristine, "-> x", lines("one", "new"), true, []string{"+new"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.whole(server("1", map[string]string{srvConf: c.old}, srvConf))
			h.edit(srvConf, c.mine)
			h.in.Pristine = func(p string) ([]byte, bool) {
				require.Equal(t, srvConf, p)
				return []byte(c.old), c.known
			}
			h.bring(server("2", map[string]string{srvConf: c.new}, srvConf))
			require.Equal(t, c.mine, h.has(srvConf))
			require.NotEmpty(t, h.sel.Conf)
			d := h.sel.Conf[0].Diff
			for _, side := range []struct {
				text string
				want []string
			}{{d.Package, c.pkg}, {d.Yours, c.yours}} {
				if side.want == nil {
					require.Empty(t, side.text)
				}
				for _, w := range side.want {
					require.Contains(t, side.text, w)
				}
			}
		})
	}
	// A text that is not what was installed tells nothing.
	h := newHouse(t)
	h.whole(server("1", map[string]string{srvConf: pristine}, srvConf))
	h.write(srvConf, "mine\n")
	h.in.Pristine = func(string) ([]byte, bool) { return []byte("of another version\n"), true }
	h.bring(server("2", nil))
	require.Equal(t, []Conf{{Path: srvConf, Action: Obsolete}}, h.sel.Conf)
	// And of what is of no package any more yours is told.
	h = newHouse(t)
	h.whole(server("1", map[string]string{srvConf: pristine}, srvConf))
	h.write(srvConf, "mine\n")
	h.in.Pristine = func(string) ([]byte, bool) { return []byte(pristine), true }
	h.bring(server("2", nil))
	require.Contains(t, h.sel.Conf[0].Diff.Yours, "+mine")
	require.Empty(t, h.sel.Conf[0].Diff.Package)
}
