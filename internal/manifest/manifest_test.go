package manifest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	none, err := Load(dir)
	require.NoError(t, err)
	require.Nil(t, none)
	require.Empty(t, none.Index(), "a jail without a manifest has no files in it")

	m := &Manifest{
		Server: "nginx", Time: time.Unix(1_700_000_000, 0).UTC(), Run: "r", Whole: true, Packages: map[string]string{"nginx": "1.22", "zlib1g": "1.2", "unused": "1"},
		Files: []File{{Path: "/etc/nginx/nginx.conf", Mode: 0o100644, SHA256: "ab", Package: "nginx", Conf: true}, {Path: "/etc/passwd"}, {Path: "/lib/z", Link: "z.1", Package: "zlib1g"}},
	}
	require.NoError(t, m.Save(dir))
	got, err := Load(dir)
	require.NoError(t, err)
	require.Equal(t, m, got)
	require.Equal(t, map[string]string{"nginx": "1.22", "zlib1g": "1.2"}, got.Holds(), "only packages of which it holds files")
	require.True(t, got.Index()["/etc/nginx/nginx.conf"].Conf)
	info, err := os.Stat(filepath.Join(dir, "manifest.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	require.NoError(t, m.SaveAs(filepath.Join(dir, "aside.json")))
	got, err = LoadFile(filepath.Join(dir, "aside.json"))
	require.NoError(t, err)
	require.Equal(t, m, got)
	_, err = LoadFile(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)

	require.NoError(t, Remove(dir))
	require.NoError(t, Remove(dir))
	none, err = Load(dir)
	require.NoError(t, err)
	require.Nil(t, none)
	require.ErrorIs(t, Remove(filepath.Join(dir, "none")), os.ErrNotExist)
}

// Parts, modules and series are kept; manifests of before, which have none of
// them, are read all the same.
func TestPartsAndSeries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := &Manifest{Server: "nginx", Servers: []string{"php-fpm", "nginx"}, Modules: []string{"php8.2-gd"}, Editions: map[string]Edition{"php-fpm": {Series: "8.2", API: "20220829"}}}
	require.NoError(t, m.Save(dir))
	got, err := Load(dir)
	require.NoError(t, err)
	require.Equal(t, m, got)
	old, err := Parse([]byte(`{"version":1,"server":"nginx","time":"2026-01-02T03:04:05Z","run":"r","whole":true,"packages":{"nginx":"1"},"target":"t","files":[{"path":"/x","mode":33188,"uid":0,"gid":0}]}`))
	require.NoError(t, err)
	require.Empty(t, old.Servers)
	require.Empty(t, old.Editions["php-fpm"])
	text, err := json.Marshal(old)
	require.NoError(t, err)
	require.NotContains(t, string(text), "servers")
}

func TestPristine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f         File
		sum, link string
		want      bool
	}{
		{File{SHA256: "a"}, "a", "", true},
		{File{SHA256: "a"}, "b", "", false},
		{File{SHA256: "a", Adapted: "b"}, "b", "", true},
		{File{SHA256: "a", Adapted: "b"}, "a", "", true},
		{File{SHA256: "a", Adapted: "b"}, "c", "", false},
		{File{SHA256: "a"}, "", "a", false},
		{File{Link: "x"}, "", "x", true},
		{File{Link: "x"}, "", "y", false},
		{File{SHA256: "a"}, "", "", false},
	} {
		require.Equal(t, c.want, c.f.Pristine(c.sum, c.link), "%+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "cannot read the manifest", "{": "cannot read the manifest", `{"version":2}`: "version 2 is not known", "{}": "version 0 is not known",
		`{"version":1,"files":{}}`: "cannot read the manifest", `{"version":1} x`: "cannot read the manifest",
	} {
		_, err := Parse([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}
