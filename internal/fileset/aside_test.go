package fileset

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// everything stands for a server that includes all that lies in a folder.
func everything(dir string) func(string) bool {
	return func(p string) bool { return path.Dir(p) == dir }
}

// asideText is what the selection keeps of a file for the run's folder.
func (h *house) asideText(name string) string {
	h.t.Helper()
	for _, f := range h.sel.Aside {
		if f.Name == name {
			for _, op := range h.set.Ops {
				require.NotEqual(h.t, f.Stage, op.Stage, "it is no part of the changeset")
			}
			return h.asides[f.Stage]
		}
	}
	return "none"
}

// What a server would read beside a file is not laid there.
func TestNothingIsLaidWhereAServerReadsIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, edit   string
		confNew, out bool
		ending, text string
	}{
		{"the package's", "mine", false, true, ".jailup-new", "two"},
		{"the administrator's", "mine", true, true, ".jailup-old", "mine"},
		{"the administrator's link", "-> ../../srv/x", true, true, ".jailup-old", "link to ../../srv/x\n"},
		{"no server reads there", "mine", false, false, ".jailup-new", "two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.whole(server("1", map[string]string{srvConf: "one"}, srvConf))
			h.edit(srvConf, c.edit)
			h.in.ConfNew = c.confNew
			if h.in.ReadByServer = everything("/etc/srv"); !c.out {
				h.in.ReadByServer = everything("/etc/srv/conf.d")
			}
			h.bring(server("2", map[string]string{srvConf: "two"}, srvConf))
			require.Len(t, h.sel.Conf, 1)
			got := h.sel.Conf[0]
			if !c.out {
				require.Equal(t, srvConf+c.ending, got.Beside)
				require.Empty(t, got.Aside)
				require.Empty(t, h.sel.Aside)
				require.Equal(t, c.text, h.has(got.Beside))
				return
			}
			require.Empty(t, got.Beside)
			require.Equal(t, "none", h.has(srvConf+c.ending))
			require.Equal(t, "aside-etc_srv_srv.conf"+c.ending, got.Aside)
			require.Equal(t, srvConf+c.ending, h.sel.Aside[0].Path)
			require.Equal(t, c.text, h.asideText(got.Aside))
			list, err := filepath.Glob(h.path("/etc/srv/*"))
			require.NoError(t, err)
			require.Equal(t, []string{h.path(srvConf)}, list)
		})
	}
}

// A folder of the jail may be a link to where the packages have it: the server
// knows the one name, the packages the other.
func TestAServerReadsByEitherName(t *testing.T) {
	t.Parallel()
	for _, reads := range []string{"/etc/srv", "/data/etc"} {
		h := newHouse(t)
		h.whole(server("1", map[string]string{srvConf: "one"}, srvConf))
		require.NoError(t, os.Mkdir(h.path("/data"), 0o755))
		require.NoError(t, os.Rename(h.path("/etc/srv"), h.path("/data/etc")))
		h.link("/etc/srv", "/data/etc")
		h.m = nil
		h.write("/data/etc/srv.conf", "mine")
		h.in.ReadByServer = everything(reads)
		h.bring(server("2", map[string]string{srvConf: "two"}, srvConf))
		require.Equal(t, "none", h.has("/data/etc/srv.conf.jailup-new"), reads)
		require.Equal(t, "/data/etc/srv.conf.jailup-new", h.sel.Aside[0].Path)
		require.Equal(t, "two", h.asideText("aside-data_etc_srv.conf.jailup-new"))
	}
}

// With a change of series as well, for what is carried and for what is left.
func TestSeriesWhereAServerReadsAll(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.in.Recipe = lang("1")
	h.whole(langDebs("1", nil)...)
	const before, now = "/etc/web/mods-available/lang1.conf", "/etc/web/mods-available/lang2.conf"
	h.write(before, "mine\n")
	h.in.ReadByServer = everything("/etc/web/mods-available")
	h.series("1", "2", map[string]string{now: "other\n"})
	h.holds(map[string]string{now: "mine\n", now + ".jailup-new": "none", before: "none", before + ".jailup-old": "none"})
	require.Equal(t, "other\n", h.asideText("aside-etc_web_mods-available_lang2.conf.jailup-new"))
	require.Equal(t, "mine\n", h.asideText("aside-etc_web_mods-available_lang1.conf.jailup-old"))
	require.Len(t, h.sel.Aside, 2)
}

// Names for the run's folder are plain, bounded, and differ.
func TestNamesOfWhatIsNotLaid(t *testing.T) {
	t.Parallel()
	s := &selector{out: &Selection{}}
	for p, want := range map[string]string{
		"/../é\n/x y": "aside-..____x_y", "/" + strings.Repeat("d/", 300): "aside-" + strings.Repeat("d_", 100),
	} {
		name := s.asideName(p)
		require.Equal(t, want, name)
		s.out.Aside = append(s.out.Aside, AsideFile{Name: name})
		require.Equal(t, want+"-2", s.asideName(p))
	}
}
