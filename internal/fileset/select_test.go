package fileset

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/changeset"
)

// What becomes of a configuration file: by what the administrator did, what the
// new package brings, and what is known.
func TestConffiles(t *testing.T) {
	t.Parallel()
	const p = "/etc/srv/srv.conf"
	for _, c := range []struct {
		name    string
		edit    string // what the jail holds; "" as shipped, "none" is deleted, "-> x" a link
		new     string // what the new package ships; "" has it no more
		confNew bool
		has     string
		beside  string // what lies beside it
		action  string
	}{
		{"unchanged, the same", "", "one", false, "one", "none", ""},
		{"unchanged, new", "", "two", false, "two", "none", "replaced"},
		{"changed, the same", "mine", "one", false, "mine", "none", "kept"},
		{"changed, new", "mine", "two", false, "mine", "two", "beside"},
		{"changed to what is new", "two", "two", false, "two", "none", ""},
		{"deleted, the same", "none", "one", false, "none", "none", "deleted"},
		{"deleted, new", "none", "two", false, "none", "none", "deleted"},
		{"a link, the same", "-> /etc/other", "one", false, "-> /etc/other", "none", "kept"},
		{"a link, new", "-> /etc/other", "two", false, "-> /etc/other", "two", "beside"},
		{"a link out, new", "-> ../../../../../etc/passwd", "two", false, "-> ../../../../../etc/passwd", "two", "beside"},
		{"changed, new wins", "mine", "two", true, "two", "none", "replaced"},
		{"changed, the same wins", "mine", "one", true, "one", "none", "replaced"},
		{"a link, new wins", "-> /etc/other", "two", true, "two", "none", "replaced"},
		{"deleted stays so", "none", "two", true, "none", "none", "deleted"},
		{"unchanged, gone", "", "", false, "none", "none", ""},
		{"changed, gone", "mine", "", false, "mine", "none", "obsolete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.whole(server("1", map[string]string{p: "one", "/etc/srv/other": "o"}, p))
			require.Equal(t, "one", h.has(p))
			switch {
			case c.edit == "none":
				require.NoError(t, os.Remove(h.path(p)))
			case strings.HasPrefix(c.edit, "-> "):
				require.NoError(t, os.Remove(h.path(p)))
				h.link(p, c.edit[3:])
			case c.edit != "":
				h.write(p, c.edit)
			}
			next := map[string]string{"/etc/srv/other": "o"}
			var conf []string
			if c.new != "" {
				next[p], conf = c.new, []string{p}
			}
			h.in.ConfNew = c.confNew
			h.bring(server("2", next, conf...))
			require.Equal(t, c.has, h.has(p))
			require.Equal(t, c.beside, h.has(p+".jailup-new"))
			action := ""
			for _, a := range h.sel.Conf {
				if a.Path == p {
					action = a.Action
				}
			}
			require.Equal(t, c.action, action)

			// The next upgrade decides by what the package shipped, not by what was
			// left here: nothing that is the administrator's is taken for pristine.
			if c.new == "two" && c.action == "beside" {
				h.in.ConfNew = false
				h.bring(server("3", map[string]string{p: "three", "/etc/srv/other": "o"}, p))
				require.Equal(t, c.has, h.has(p))
				require.Equal(t, "three", h.has(p+".jailup-new"))
			}
		})
	}
}

// In a jail without a manifest what is not recognised is the administrator's.
func TestConffilesOfAGrownJail(t *testing.T) {
	t.Parallel()
	const p = "/etc/srv/srv.conf"
	known := func(canonical string, st *changeset.State) (string, string, bool) {
		return "srv", "1", canonical == p && st.Size == 3
	}
	for _, c := range []struct {
		name, edit string
		known      bool
		has        string
		beside     string
	}{
		{"recognised", "one", true, "two", "none"},
		{"changed", "mine", true, "mine", "two"},
		{"nothing known", "one", false, "one", "two"},
		{"not there", "", true, "none", "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.write("/usr/sbin/srv", program("1"))
			if c.edit != "" {
				h.write(p, c.edit)
			}
			if c.known {
				h.in.Known = known
			}
			h.bring(server("2", map[string]string{p: "two", "/usr/share/srv/data": "d"}, p))
			require.Equal(t, program("2"), h.has("/usr/sbin/srv"))
			require.Equal(t, c.has, h.has(p))
			require.Equal(t, c.beside, h.has(p+".jailup-new"))
			require.Equal(t, "none", h.has("/usr/share/srv/data"), "what a hand-made jail did not hold it does not get")
			require.False(t, h.m.Whole)
			require.Equal(t, []string{"/usr/sbin/srv"}, h.sel.Changed, "nobody knew the program")
		})
	}
}

// What the new packages have no more goes, but for what was changed here, what
// the recipe calls state, and directories that hold something else.
func TestObsolete(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.whole(server("1", map[string]string{
		"/usr/share/srv/gone": "g", "/usr/share/srv/changed": "c", "/usr/share/srv/deep/only": "o", "/usr/share/srv/link": "-> gone",
		"/usr/share/srv/relinked": "-> gone", "/usr/share/srv/mixed/x": "x", "/usr/share/srv/absent": "a", "/var/lib/srv/db": "empty",
		"/usr/share/doc/srv/readme": "excluded",
	}))
	require.Equal(t, "none", h.has("/usr/share/doc/srv/readme"))
	h.write("/usr/share/srv/changed", "mine")
	h.write("/usr/share/srv/mixed/mine", "mine")
	h.write("/var/lib/srv/db", "full of data")
	require.NoError(t, os.Remove(h.path("/usr/share/srv/absent")))
	require.NoError(t, os.Remove(h.path("/usr/share/srv/relinked")))
	h.link("/usr/share/srv/relinked", "changed")
	h.bring(server("2", nil))
	for p, want := range map[string]string{
		"/usr/share/srv/gone": "none", "/usr/share/srv/changed": "mine", "/usr/share/srv/deep": "none", "/usr/share/srv/link": "none",
		"/usr/share/srv/relinked": "-> changed", "/usr/share/srv/mixed/x": "none", "/usr/share/srv/mixed/mine": "mine", "/var/lib/srv/db": "full of data",
	} {
		require.Equal(t, want, h.has(p), p)
	}
	// State stays in the manifest and is not touched by the next one either.
	h.bring(server("3", map[string]string{"/usr/share/srv/gone": "back"}))
	require.Equal(t, "full of data", h.has("/var/lib/srv/db"))
	require.Equal(t, "back", h.has("/usr/share/srv/gone"))
}

// An administrator made a file stricter: it stays so with its new content, as
// often as it is upgraded. Set-id bits never come out of a package, nor stay; a
// program with one comes to where the jail has had one.
func TestModes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = nil
	pack := func(v string) deb {
		d := server(v, map[string]string{"/usr/share/srv/a": "a" + v, "/usr/share/srv/b": "b" + v, "/usr/share/srv/suid": "s" + v, "/etc/srv/key": "k" + v}, "/etc/srv/key")
		d.modes = map[string]int64{"/usr/share/srv/suid": 0o6755, "/usr/sbin/srv": 0o4755, "/usr/share/srv/": 0o2775}
		return d
	}
	plain := pack("1")
	delete(plain.modes, "/usr/sbin/srv")
	delete(plain.modes, "/usr/share/srv/suid")
	h.whole(plain)
	require.EqualValues(t, 0o775, h.mode("/usr/share/srv"))
	require.NoError(t, os.Chmod(h.path("/usr/share/srv/a"), 0o600))
	require.NoError(t, os.Chmod(h.path("/etc/srv/key"), 0o400))
	for _, p := range []string{"/usr/sbin/srv", "/usr/share/srv/suid"} {
		bad := pack("1")
		bad.modes = map[string]int64{p: 0o2755}
		err := h.try(bad)
		require.ErrorIs(t, err, ErrSetID)
		require.ErrorContains(t, err, p+" of package srv ")
	}
	require.NoError(t, unix.Chmod(h.path("/usr/share/srv/suid"), 0o6755))
	require.NoError(t, unix.Chmod(h.path("/usr/sbin/srv"), 0o4750))
	for _, v := range []string{"2", "3"} {
		h.bring(pack(v))
		require.Equal(t, "a"+v, h.has("/usr/share/srv/a"))
		require.Equal(t, "k"+v, h.has("/etc/srv/key"))
		require.Equal(t, program(v), h.has("/usr/sbin/srv"))
		require.EqualValues(t, 0o600, h.mode("/usr/share/srv/a"))
		require.EqualValues(t, 0o644, h.mode("/usr/share/srv/b"))
		require.EqualValues(t, 0o400, h.mode("/etc/srv/key"))
		require.EqualValues(t, 0o750, h.mode("/usr/sbin/srv"))
		require.EqualValues(t, 0o755, h.mode("/usr/share/srv/suid"))
	}
}

// A library that was copied by hand to where its link would be stays a file; one
// that lies in two places is replaced in both; the layout stays.
func TestCopiesByHand(t *testing.T) {
	t.Parallel()
	const dir = "/usr/lib/x86_64-linux-gnu"
	lib := func(v string) deb {
		return deb{name: "libz1", version: v, files: map[string]string{dir + "/libz.so.1": "-> libz.so.1." + v, dir + "/libz.so.1." + v: "zlib " + v,
			"/lib/x86_64-linux-gnu/libw.so.2": "w " + v, dir + "/libnobody.so.3": "n"}}
	}
	h := newHouse(t)
	h.write("/usr/sbin/srv", program("1"))
	h.write("/lib/x86_64-linux-gnu/libz.so.1", "zlib 1")
	h.write("/lib64/libz.so.1", "zlib 1")
	h.write("/lib64/libw.so.2", "w 1")
	h.bring(server("2", nil), lib("2"))
	for p, want := range map[string]string{
		"/lib/x86_64-linux-gnu/libz.so.1": "zlib 2", "/lib64/libz.so.1": "zlib 2", "/lib64/libw.so.2": "w 2",
		"/usr/lib": "none", "/lib/x86_64-linux-gnu/libw.so.2": "none", "/lib64/libnobody.so.3": "none",
	} {
		require.Equal(t, want, h.has(p), p)
	}
	var a, b unix.Stat_t
	require.NoError(t, unix.Stat(h.path("/lib64/libz.so.1"), &a))
	require.NoError(t, unix.Stat(h.path("/lib/x86_64-linux-gnu/libz.so.1"), &b))
	require.NotEqual(t, a.Ino, b.Ino, "two places, two files")

	// A jail with the links of a distribution keeps those.
	h = newHouse(t)
	h.write("/usr/sbin/srv", program("1"))
	h.write(dir+"/libz.so.1.1", "zlib 1")
	h.link(dir+"/libz.so.1", "libz.so.1.1")
	h.link("/lib", "usr/lib")
	h.bring(server("2", nil), lib("2"))
	require.Equal(t, "-> libz.so.1.2", h.has(dir+"/libz.so.1"))
	require.Equal(t, "zlib 2", h.has(dir+"/libz.so.1.2"))
	require.Equal(t, "-> usr/lib", h.has("/lib"))
}

// Hard links of a package are files of their own in the jail: one name is
// exchanged with one file. One to a file that nobody needs is passed over.
func TestHardLinksOfAPackage(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.whole(server("1", map[string]string{
		"/usr/share/srv/one": "1", "/usr/share/srv/two": "=> /usr/share/srv/one", "/usr/share/srv/three": "=> /usr/share/srv/one",
		"/usr/share/doc/x": "excluded", "/usr/share/srv/four": "=> /usr/share/doc/x",
	}))
	for _, n := range []string{"one", "two", "three"} {
		require.Equal(t, "1", h.has("/usr/share/srv/"+n), n)
		var st unix.Stat_t
		require.NoError(t, unix.Stat(h.path("/usr/share/srv/"+n), &st))
		require.EqualValues(t, 1, st.Nlink)
	}
	require.Equal(t, "none", h.has("/usr/share/srv/four"))
	h.bring(server("2", map[string]string{"/usr/share/srv/one": "2", "/usr/share/srv/two": "=> /usr/share/srv/one"}))
	require.Equal(t, "2", h.has("/usr/share/srv/two"))
	require.Equal(t, "none", h.has("/usr/share/srv/three"))
}

// A link that becomes a directory in the next version, and back: what the
// packages have in it goes there, not to where the link led.
func TestLinkBecomesDirectory(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	one := server("1", map[string]string{"/usr/share/srv/real/f": "f1", "/usr/share/srv/www": "-> real"})
	h.whole(one)
	h.bring(server("2", map[string]string{"/usr/share/srv/real/f": "f2", "/usr/share/srv/www/f": "own", "/usr/share/srv/www/deep/g": "g"}))
	require.Equal(t, "dir", h.has("/usr/share/srv/www"))
	require.Equal(t, "own", h.has("/usr/share/srv/www/f"))
	require.Equal(t, "g", h.has("/usr/share/srv/www/deep/g"))
	require.Equal(t, "f2", h.has("/usr/share/srv/real/f"))
	require.Equal(t, "none", h.has("/usr/share/srv/real/deep"))
	h.bring(one)
	require.Equal(t, "-> real", h.has("/usr/share/srv/www"))
	require.Equal(t, "f1", h.has("/usr/share/srv/real/f"))

	// With something of the administrator's in it the directory stays, and that is
	// refused by name before anything is touched.
	h.bring(server("2", map[string]string{"/usr/share/srv/real/f": "f2", "/usr/share/srv/www/f": "own"}))
	h.write("/usr/share/srv/www/mine", "mine")
	require.ErrorContains(t, h.try(one), "cannot replace directory /usr/share/srv/www by a link: it holds /usr/share/srv/www/mine")
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Whole = true
	err := h.try(server("1", map[string]string{"/usr/share/srv/x": "x"}), deb{name: "srv-more", version: "1", files: map[string]string{"/usr/share/srv/x": "y"}})
	require.ErrorContains(t, err, "/usr/share/srv/x is in srv as well")
	err = h.try(deb{name: "srv", version: "1", files: map[string]string{"/usr/share/srv/x": "x"}})
	require.ErrorContains(t, err, "cannot stage srv: no package of the target holds /usr/sbin/srv")
	_, err = os.Lstat(h.path("/usr"))
	require.ErrorIs(t, err, os.ErrNotExist, "nothing was touched")
}

// The stage's names are its own; what is not named is thrown away, what is
// opened again goes on behind what it holds.
func TestStage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/a/stage"
	s, err := MakeStage(dir)
	require.NoError(t, err)
	st, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), st.Mode().Perm())
	one, state, err := s.Put(strings.NewReader("hello"), 5, Meta{Perm: 0o640, MtimeNS: 1_234_567_890_123})
	require.NoError(t, err)
	got, err := changeset.ReadState(int(s.Dir().Fd()), one)
	require.NoError(t, err)
	got.Xattrs = state.Xattrs
	require.Equal(t, state, *got)
	_, _, err = s.Put(strings.NewReader("hello"), 6, Meta{})
	require.ErrorContains(t, err, "cannot stage a file")
	two, _, err := s.PutLink("../../../etc/passwd", Meta{MtimeNS: 5})
	require.NoError(t, err)
	copied, state2, err := s.Copy(one, state)
	require.NoError(t, err)
	require.True(t, state.Same(&state2))
	require.NoError(t, s.Close())

	s, err = OpenStage(dir)
	require.NoError(t, err)
	three, _, err := s.Put(strings.NewReader(""), 0, Meta{})
	require.NoError(t, err)
	require.NotContains(t, []string{one, two, copied}, three)
	require.NoError(t, s.Keep(map[string]bool{one: true, two: true}))
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.True(t, slices.EqualFunc(list, []string{one, two}, func(e os.DirEntry, n string) bool { return e.Name() == n }), list)
	require.NoError(t, s.Close())
	require.NoError(t, RemoveStage(dir))
	require.NoError(t, RemoveStage(dir))
	require.NoError(t, RemoveStage(t.TempDir()+"/no/such"))
}

// The links by which a system is usr-merged come in a package of newer releases:
// they are no business of a jail's.
func TestMergingLinksOfAPackage(t *testing.T) {
	t.Parallel()
	base := deb{name: "srv-base", version: "1", files: map[string]string{"/lib": "-> usr/lib", "/sbin": "-> usr/sbin", "/usr/lib/": "", "/usr/share/srv/base": "b"}}
	h := newHouse(t)
	h.write("/usr/lib/x", "x")
	h.write("/lib/y", "y")
	h.whole(server("1", nil), base)
	h.holds(map[string]string{"/usr/sbin/srv": program("1"), "/usr/share/srv/base": "b", "/lib": "dir", "/lib/y": "y", "/usr/lib": "dir", "/sbin": "none"})
}
