package steps

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"

	"github.com/jailup/jailup/internal/elfdeps"
)

// A module of the C library's name service is bound to the very build of it that
// the host's server has loaded; another library is to the versions of its symbols;
// one that has been loaded on the host before is to nothing.
func TestFitOfLibrariesThatAreLoadedLate(t *testing.T) {
	t.Parallel()
	host, err := openHost()
	require.NoError(t, err)
	defer host.Close()
	find := func(name string) string {
		for _, glob := range []string{"/lib/*-linux-gnu*/", "/usr/lib/*-linux-gnu*/", "/lib64/", "/usr/lib64/"} {
			if found, _ := filepath.Glob(glob + name); len(found) > 0 {
				return found[0]
			}
		}
		if lab.RequireAll() {
			t.Fatal("needs " + name + " on this machine")
		}
		t.Skip("needs " + name + " on this machine")
		return ""
	}
	nss, gcc := find("libnss_compat.so.2"), find("libgcc_s.so.1")
	res := elfdeps.New(rootTree{host})
	shell, err := res.Object("/bin/sh")
	require.NoError(t, err)
	c, err := res.Closure(t.Context(), []string{"/bin/sh"})
	require.NoError(t, err)
	libs := map[string]elfdeps.Object{}
	for _, o := range c.Objects {
		if o.Type == 3 && o.Path != shell.Path {
			libs[nameOfLib(o)] = o
		}
	}
	require.Contains(t, libs, "libc.so.6")
	h := &hostLibs{exe: shell, libs: libs}

	_, r := apacheRecipe(t)
	dir := t.TempDir()
	for _, p := range []string{nss, gcc} {
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		put(t, dir, map[string]string{p: string(b)})
	}
	root := openRoot(t, dir)
	e := &Env{Root: root, Recipe: r.OnHost("/bin/sh", []string{"libc6"})}
	versions := func(jail, host string) func(string) (string, string, bool) {
		return func(string) (string, string, bool) { return jail, host, true }
	}
	look := func(private func(string) (string, string, bool), files ...string) []string {
		var out []string
		for _, m := range e.fit(h, e.jailFS(), files, private) {
			out = append(out, m.String())
		}
		return out
	}
	require.Empty(t, look(versions("2.36-9", "2.36-9"), nss, gcc))
	got := look(versions("2.36-9", "2.36-10"), nss, gcc)
	require.NotEmpty(t, got)
	require.Contains(t, got[0], "GLIBC_PRIVATE of 2.36-9")
	require.Contains(t, got[0], "has 2.36-10")
	require.Empty(t, look(nil, nss, gcc), "the versions are not known")

	// A C library of the host that has less.
	less := libs["libc.so.6"]
	less.VersionsDefined = []string{"GLIBC_2.2.5", "GLIBC_2.9", "GLIBC_2.10", "GLIBC_PRIVATE"}
	libs["libc.so.6"] = less
	got = look(nil, gcc)
	require.NotEmpty(t, got)
	require.Contains(t, strings.Join(got, "\n"), "of libc.so.6, and the host's "+less.Path+" has GLIBC_2.10 at most")
	libs["libgcc_s.so.1"] = elfdeps.Object{}
	require.Empty(t, look(nil, gcc), "the host has loaded its own")
	delete(libs, "libgcc_s.so.1")

	// What neither has.
	delete(libs, "libc.so.6")
	require.Contains(t, strings.Join(look(nil, gcc), "\n"), "libc.so.6, which neither the host's server has loaded nor the jail holds")
}

// With programs in the jail only what the recipe names is the server's; without
// any, all is.
func TestWhoLoadsALibraryOfTheJail(t *testing.T) {
	t.Parallel()
	_, r := apacheRecipe(t)
	e := &Env{Recipe: r.OnHost("/bin/sh", []string{"libc6"})}
	for p, want := range map[string]bool{
		"/lib/x86_64-linux-gnu/libgcc_s.so.1":          true,
		"/usr/lib/x86_64-linux-gnu/libnss_dns.so.2":    true,
		"/lib64/libgcc_s.so.1":                         true, // by hand
		"/usr/lib/x86_64-linux-gnu/gconv/UTF-16.so":    true,
		"/usr/lib/x86_64-linux-gnu/libz.so.1":          false,
		"/usr/lib/x86_64-linux-gnu/perl/auto/POSIX.so": false,
	} {
		require.Equal(t, want, e.late(elfdeps.Object{Path: p}), p)
	}
}
