package fileset

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/lib/x": "/usr/lib/x", "lib64/ld.so": "/usr/lib64/ld.so", "/bin": "/usr/bin", "/sbin/../lib/x": "/usr/lib/x",
		"/usr/lib/x": "/usr/lib/x", "/libexec/x": "/libexec/x", "/etc/lib": "/etc/lib", "/": "/", "": "/",
		"/libx32/a": "/usr/libx32/a", "/../bin/sh": "/usr/bin/sh", "/usr": "/usr", "/lib.d/x": "/lib.d/x",
	} {
		require.Equal(t, want, Canonical(in), in)
		require.Equal(t, want, Canonical(want), "once more changes nothing: %s", in)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"/etc/x":             {"/etc/x"},
		"/usr/sbin/nginx":    {"/usr/sbin/nginx", "/sbin/nginx"},
		"/usr/share/x.so":    {"/usr/share/x.so"},
		"/usr/lib/libz.so.1": {"/usr/lib/libz.so.1", "/lib/libz.so.1", "/lib64/libz.so.1", "/usr/lib64/libz.so.1", "/lib/libz.so.1", "/usr/lib/libz.so.1"},
		"/usr/lib/x86_64-linux-gnu/libz.so.1": {"/usr/lib/x86_64-linux-gnu/libz.so.1", "/lib/x86_64-linux-gnu/libz.so.1",
			"/lib64/libz.so.1", "/usr/lib64/libz.so.1", "/lib/libz.so.1", "/usr/lib/libz.so.1"},
		"/usr/lib/nginx/modules/m.so":                 {"/usr/lib/nginx/modules/m.so", "/lib/nginx/modules/m.so"},
		"/usr/lib/nginx/m.so":                         {"/usr/lib/nginx/m.so", "/lib/nginx/m.so"},
		"/usr/lib/x86_64-linux-gnu/ossl-modules/l.so": {"/usr/lib/x86_64-linux-gnu/ossl-modules/l.so", "/lib/x86_64-linux-gnu/ossl-modules/l.so"},
	} {
		require.Equal(t, want, names(in), in)
	}
}

func layoutOf(t *testing.T, links map[string]string, files ...string) *Layout {
	t.Helper()
	dir := t.TempDir()
	for p, to := range links {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr", p), 0o755))
		require.NoError(t, os.Symlink(to, filepath.Join(dir, p)))
	}
	for _, f := range files {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), nil, 0o644))
	}
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return NewLayout(root)
}

func TestLayouts(t *testing.T) {
	t.Parallel()
	const libc = "/usr/lib/x86_64-linux-gnu/libc.so.6"
	shipped := &Node{Path: libc, Shipped: "/lib/x86_64-linux-gnu/libc.so.6"}
	inUsr := &Node{Path: "/usr/lib/x86_64-linux-gnu/libnew.so.1", Shipped: "/usr/lib/x86_64-linux-gnu/libnew.so.1"}
	for _, c := range []struct {
		name           string
		links          map[string]string
		files          []string
		existing       []string
		libc, newInUsr string // where they go by default
	}{
		{"empty", nil, nil, nil, "/lib/x86_64-linux-gnu/libc.so.6", inUsr.Path},
		{"split", nil, []string{"lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x"}, []string{"/lib/x86_64-linux-gnu/libc.so.6"}, "/lib/x86_64-linux-gnu/libc.so.6", inUsr.Path},
		{"split, with no /usr/lib", nil, []string{"lib/x"}, nil, "/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libnew.so.1"},
		{"merged", map[string]string{"lib": "usr/lib", "lib64": "usr/lib64"}, []string{"usr/lib/x86_64-linux-gnu/libc.so.6"}, []string{libc}, libc, inUsr.Path},
		{"merged, by absolute links", map[string]string{"lib": "/usr/lib"}, []string{"usr/lib/x86_64-linux-gnu/libc.so.6"}, []string{libc}, libc, inUsr.Path},
		{"a copy by hand", nil, []string{"lib64/libc.so.6"}, []string{"/lib64/libc.so.6"}, "/lib/x86_64-linux-gnu/libc.so.6", inUsr.Path},
		{"two copies", nil, []string{"lib/x86_64-linux-gnu/libc.so.6", "lib64/libc.so.6", "usr/lib/y"},
			[]string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"}, "/lib/x86_64-linux-gnu/libc.so.6", inUsr.Path},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := layoutOf(t, c.links, c.files...)
			require.Equal(t, c.existing, l.Existing(libc))
			require.Equal(t, c.libc, l.Default(shipped))
			if c.name != "a copy by hand" && c.name != "empty" { // nothing says where /usr/lib would be
				require.Equal(t, c.newInUsr, l.Default(inUsr))
			}
			require.Equal(t, "/etc/x", l.Default(&Node{Path: "/etc/x", Shipped: "/etc/x"}))
		})
	}
}

// A copy by cp -a beside its link is found by the link's name; a link between the
// directories is the layout's own. Where packages ship into no multiarch
// directory, one of the jail's may have a copy all the same.
func TestStrays(t *testing.T) {
	t.Parallel()
	l := layoutOf(t, nil, "lib/x86_64-linux-gnu/libz.so.1", "lib64/libz.so.1.2.13", "usr/lib/y", "usr/lib/x86_64-linux-gnu/libplain.so.1", "usr/lib/elsewhere/libplain.so.1")
	for p, to := range map[string]string{"/lib64/libz.so.1": "libz.so.1.2.13", "/usr/lib/libz.so.1": "x86_64-linux-gnu/libz.so.1", "/lib/libz.so.1": "/lib/x86_64-linux-gnu/libz.so.1"} {
		require.NoError(t, os.Symlink(to, filepath.Join(l.root.Path(), p)))
	}
	require.Equal(t, []string{"/lib/x86_64-linux-gnu/libz.so.1", "/lib64/libz.so.1"}, l.Existing("/usr/lib/x86_64-linux-gnu/libz.so.1"))
	require.Equal(t, []string{"/usr/lib/x86_64-linux-gnu/libplain.so.1"}, l.Existing("/usr/lib/libplain.so.1"))
	require.Empty(t, l.Existing("/usr/lib/somewhere/libplain.so.1"), "a plug-in's folder is not searched")
}
