package fileset

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/manifest"
)

// What jailup itself has made in a new jail moves as well, and is not left behind.
func TestSeriesMovesWhatJailupMade(t *testing.T) {
	t.Parallel()
	for _, edited := range []bool{false, true} {
		h := newHouse(t)
		h.in.Recipe = lang("1")
		h.whole(langDebs("1", nil)...)
		const before, now = "/etc/lang/1/pool.d/zz-jail.conf", "/etc/lang/2/pool.d/zz-jail.conf"
		h.write(before, "[www]\nlisten = /run/x\n; /etc/lang/1/\n")
		h.m.Files = append(h.m.Files, manifest.File{Path: before, Mode: 0o100644, SHA256: sum(h.has(before))})
		if edited {
			h.write(before, "mine of /etc/lang/1/\n")
		}
		h.series("1", "2", nil)
		if edited {
			h.holds(map[string]string{now: "mine of /etc/lang/2/\n", before: "mine of /etc/lang/1/\n"})
			require.Equal(t, "obsolete", h.action(before))
			continue
		}
		h.holds(map[string]string{now: "[www]\nlisten = /run/x\n; /etc/lang/2/\n", "/etc/lang/1": "none"})
		require.Equal(t, sum(h.has(now)), h.m.Index()[now].SHA256)
		require.Empty(t, h.m.Index()[now].Package)
		require.NotContains(t, h.m.Index(), before)
		h.series("2", "3", nil)
		require.Contains(t, h.has("/etc/lang/3/pool.d/zz-jail.conf"), "/etc/lang/3/")
		require.Equal(t, "none", h.has("/etc/lang/2"))
	}
}

// Nothing that lies below an old prefix leads out of the jail, and what is no file
// is not touched.
func TestSeriesOfAHostileJail(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", nil)...)
	outside := t.TempDir()
	h.link("/etc/lang/1/out", outside)
	h.link("/etc/lang/1/up", "../../../../../../../../..")
	h.link("/etc/lang/1/self", ".")
	h.link("/etc/lang/1/loop", "loop")
	h.fifo("/etc/lang/1/fifo")
	// A file where the new series has a directory, and the other way round.
	require.NoError(t, os.Remove(h.path("/etc/lang/1/lang.ini")))
	h.write("/etc/lang/1/lang.ini/deep/file", "x")
	h.write("/etc/lang/1/mods.d", "file")
	h.series("1", "2", map[string]string{"/etc/lang/2/mods.d/x.ini": "x"})
	h.holds(map[string]string{"/etc/lang/2/out": "-> " + outside, "/etc/lang/2/up": "-> ../../../../../../../../..", "/etc/lang/2/self": "-> .",
		"/etc/lang/2/loop": "none", "/etc/lang/2/fifo": "none", "/etc/lang/2/lang.ini": "; lang.ini of 2\n", "/etc/lang/2/mods.d/x.ini": "x"})
	require.Equal(t, "obsolete", h.action("/etc/lang/1/lang.ini/deep/file"))
	require.False(t, slices.Contains(h.sel.Input.Remove, "/etc/lang/1/fifo"))
	list, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, list)
}

// Data that configuration names is large, or no text, and goes along as it is.
func TestSeriesCarriesData(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	const ini = "/etc/lang/1/lang.ini"
	h.whole(langDebs("1", nil)...)
	large := strings.Repeat("path=/etc/lang/1/x\n", maxConf/18+1)
	binary := "\x00\xff/etc/lang/1/x"
	h.write("/etc/lang/1/own/browscap.ini", large)
	h.write("/etc/lang/1/own/geo.mmdb", binary)
	require.NoError(t, os.Chmod(h.path("/etc/lang/1/own/browscap.ini"), 0o640))
	h.write("/etc/lang/1/own/names.ini", "browscap=/etc/lang/1/own/browscap.ini\n")
	h.write("/etc/web/mods-available/lang1.extra", large)
	h.write(ini, large)
	h.series("1", "2", nil)
	for p, want := range map[string]string{
		"/etc/lang/2/own/browscap.ini": large, "/etc/lang/2/own/geo.mmdb": binary, "/etc/lang/2/lang.ini": large,
		"/etc/lang/2/own/names.ini":       "browscap=/etc/lang/2/own/browscap.ini\n",
		"/etc/lang/2/lang.ini.jailup-new": "; lang.ini of 2\n", ini: large,
		"/etc/web/mods-available/lang2.extra": large, "/etc/web/mods-available/lang1.extra": "none",
		"/etc/web/mods-available/lang1.extra.jailup-old": large,
	} {
		require.True(t, want == h.has(p), p)
	}
	require.EqualValues(t, 0o640, h.mode("/etc/lang/2/own/browscap.ini"))
	require.Equal(t, "carried "+ini, h.action("/etc/lang/2/lang.ini"))
}

// In a jail made by hand a file of a package that the target has no more is known
// by its content, and nothing of it is called changed.
func TestSeriesKnowsWhatIsInNoPackageOfTheTarget(t *testing.T) {
	t.Parallel()
	for _, edited := range []bool{false, true} {
		h := newHouse(t)
		h.in.Recipe = lang("1")
		h.whole(langDebs("1", nil)...)
		h.m = nil
		const file, link = "/etc/web/mods-available/lang1.extra", "/etc/web/mods-enabled/lang1.extra"
		const text = "of another package\n"
		h.write(file, text)
		h.link(link, "../mods-available/lang1.extra")
		h.in.Known = func(p string, st *changeset.State) (string, string, bool) {
			return "lang1-extra", "1.1", p == file && st.SHA256 == sum(text)
		}
		if edited {
			h.write(file, "mine\n")
		}
		h.series("1", "2", nil)
		h.holds(map[string]string{file: "none", link: "none"})
		if edited {
			h.holds(map[string]string{"/etc/web/mods-available/lang2.extra": "mine\n", "/etc/web/mods-enabled/lang2.extra": "-> /etc/web/mods-available/lang2.extra",
				file + ".jailup-old": "mine\n"})
			continue
		}
		h.holds(map[string]string{"/etc/web/mods-available/lang2.extra": "none", file + ".jailup-old": "none",
			"/etc/web/mods-enabled/lang2.extra": "none", link + ".jailup-old": "none"})
		require.Empty(t, h.action(file))
		require.Empty(t, h.action(link))
		require.Equal(t, "dropped "+link, h.action("/etc/web/mods-enabled/lang2.extra"))
	}
}

// The package's large file is compared whole, and --conf new loses nothing large.
func TestLargeConffile(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x\n", maxConf/2+1)
	h := newHouse(t)
	h.in.Recipe = lang("1")
	const shipped = "/usr/lib/lang/1/ini-production"
	h.whole(langDebs("1", map[string]string{shipped: large + "1\n"})...)
	h.write("/etc/lang/1/lang.ini", large+"mine\n")
	h.in.Pristine = func(string) ([]byte, bool) { return []byte(large), true }
	h.series("1", "2", map[string]string{"/usr/lib/lang/2/ini-production": large + "2\n"})
	require.True(t, h.has("/etc/lang/2/lang.ini") == large+"mine\n")
	require.True(t, h.has("/etc/lang/2/lang.ini.jailup-new") == large+"2\n")
	h.in.ConfNew = true
	h.series("2", "3", nil)
	require.Equal(t, "; lang.ini of 3\n", h.has("/etc/lang/3/lang.ini"))
	require.True(t, h.has("/etc/lang/3/lang.ini.jailup-old") == large+"mine\n")

	h = newHouse(t)
	h.whole(server("1", map[string]string{srvConf: "one"}, srvConf))
	h.write(srvConf, large)
	h.in.ConfNew = true
	h.bring(server("2", map[string]string{srvConf: "two"}, srvConf))
	require.Equal(t, "two", h.has(srvConf))
	require.True(t, h.has(srvConf+".jailup-old") == large)
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

func (h *house) fifo(p string) {
	h.t.Helper()
	require.NoError(h.t, unix.Mkfifo(h.path(p), 0o600))
}
