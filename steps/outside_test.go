package steps

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/recipes"
)

func apacheRecipe(t *testing.T) (*recipes.Set, *recipes.Recipe) {
	t.Helper()
	set, err := recipes.Load("")
	require.NoError(t, err)
	r, ok := set.Find("apache")
	require.True(t, ok)
	return set, r
}

func openRoot(t *testing.T, dir string) *jail.Root {
	t.Helper()
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for p, text := range files {
		p = filepath.Join(dir, p)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o755))
	}
}

// A server on the host keeps what decides which code it runs, and nothing of the
// session of whoever started it.
func TestEnvironmentOfAServerOnTheHost(t *testing.T) {
	t.Parallel()
	long := "LONG=" + strings.Repeat("x", maxHostEnv)
	got := hostEnviron([]string{"LD_LIBRARY_PATH=/opt/lib", "PATH=/opt/bin", "A=1\n2", "=x", "1A=x", "bad", long, "SUDO_USER=me",
		"LISTEN_FDS=1", "NOTIFY_SOCKET=/run/x", "INVOCATION_ID=1", "JAILUP_FAULT=kill:1", "PWD=/root", "APACHE_RUN_USER=www-data"})
	require.Equal(t, []string{"LD_LIBRARY_PATH=/opt/lib", "PATH=/opt/bin", "A=1\n2", "APACHE_RUN_USER=www-data"}, got)
	many := make([]string, 100)
	for i := range many {
		many[i] = "V=" + strings.Repeat("x", 1000)
	}
	require.LessOrEqual(t, len(strings.Join(hostEnviron(many), "")), maxHostEnv)
	require.NotEmpty(t, hostEnviron(many))
}

func TestArgumentsOfATestOnTheHost(t *testing.T) {
	t.Parallel()
	_, r := apacheRecipe(t)
	for given, want := range map[string]string{
		"/usr/sbin/apache2 -k start":                            "-t",
		"/x/httpd -d /x -f /x/c -D A -DB -C Listen\t1 -k start": "-d /x -f /x/c -D A -DB -C Listen\t1 -t",
		"/x/httpd -E /tmp/log -k start -D FOREGROUND":           "-D FOREGROUND -t",
		"/x/httpd -f": "-f -t",
	} {
		require.Equal(t, want, strings.Join(testArgs(r, strings.Split(given, " ")), " "), given)
	}
}

// Which packages a jail has files of is told by the host's database, wherever in
// the jail a hand has put a library.
func TestPackagesHeldByAJail(t *testing.T) {
	t.Parallel()
	_, r := apacheRecipe(t)
	r.Outside.Packages = []string{"libgcc-s1", "libc6", "tzdata", "media-types"}
	dir, info := t.TempDir(), t.TempDir()
	put(t, dir, map[string]string{
		"lib64/libz.so.1": "z", "lib/x86_64-linux-gnu/libc.so.6": "c", "etc/mime.types": "m", "usr/share/zoneinfo/UTC": "u",
		"srv/usr/bin/perl": "not there", "usr/lib/plug/libodd.so": "another's",
	})
	require.NoError(t, os.Symlink("/", filepath.Join(dir, "usr/loop")))
	put(t, info, map[string]string{
		"libgcc-s1:amd64.list": "/.\n/lib\n/lib/x86_64-linux-gnu/libgcc_s.so.1\n",
		"libc6:amd64.list":     "/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n",
		"zlib1g:amd64.list":    "/.\n/lib\n/lib/x86_64-linux-gnu/libz.so.1\n",
		"tzdata.list":          "/.\n/usr\n/usr/share\n/usr/share/zoneinfo\n/usr/share/zoneinfo/Etc/UTC\n",
		"perl.list":            "/usr/bin/perl\n/usr/lib\n/etc\n",
		"odd.list":             "/usr/lib/other/libodd.so\n",
		"zlib1g:amd64.md5sums": "0  /etc/mime.types\n",
	})
	root := openRoot(t, dir)
	// The first in any case, media-types because the host has none; not tzdata, of
	// which the jail has nothing that the host's has.
	require.Equal(t, []string{"libgcc-s1", "libc6", "media-types", "zlib1g"}, heldPackages(r, root, info))
	require.Equal(t, r.Outside.Packages, heldPackages(r, root, filepath.Join(info, "none")))
}

func TestWhatIsTheHosts(t *testing.T) {
	t.Parallel()
	of := map[string]string{"/usr/sbin/apache2": "apache2-bin", "/usr/sbin/apache2 ": "apache2", "/m/a.so": "apache2-bin", "/m/php.so": "libapache2-mod-php8.2"}
	installed := map[string]string{"apache2": "2.4.62-1", "apache2-bin": "2.4.62-1", "libapache2-mod-php8.2": "8.2.1"}
	newer := map[string]string{"apache2": "2.4.67-1", "apache2-bin": "2.4.67-1", "libapache2-mod-php8.2": "8.2.1"}
	text, hint := hostText("/usr/sbin/apache2", of, installed, func(p string) string { return newer[p] })
	require.Equal(t, "apache2 2.4.62-1 itself is the host's, and so are its modules: they are not upgraded here; the sources offer apache2 2.4.67-1, apache2-bin 2.4.67-1", text)
	require.Equal(t, "apt-get install --only-upgrade apache2 apache2-bin", hint)
	text, hint = hostText("/usr/sbin/apache2", of, newer, func(p string) string { return installed[p] })
	require.Contains(t, text, "nothing newer")
	require.Empty(t, hint)
	text, _ = hostText("/opt/httpd", of, installed, func(string) string { return "" })
	require.Empty(t, text)
}

// What others may write to, or put in another's place, is not started as root.
func TestTrustedPrograms(t *testing.T) {
	lab.Need(t, "root")
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, map[string]string{"a/apache2": "x"})
	exe := filepath.Join(dir, "a/apache2")
	require.NoError(t, trusted(exe))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(exe, link))
	for what, spoil := range map[string][2]func() error{
		"others write":     {func() error { return os.Chmod(exe, 0o757) }, func() error { return os.Chmod(exe, 0o755) }},
		"another's":        {func() error { return os.Chown(exe, 1000, 0) }, func() error { return os.Chown(exe, 0, 0) }},
		"a group's":        {func() error { return os.Chown(exe, 0, 1000) }, func() error { return os.Chown(exe, 0, 0) }},
		"an open folder":   {func() error { return os.Chmod(filepath.Dir(exe), 0o777) }, func() error { return os.Chmod(filepath.Dir(exe), 0o755) }},
		"another's folder": {func() error { return os.Chown(filepath.Dir(exe), 1000, 0) }, func() error { return os.Chown(filepath.Dir(exe), 0, 0) }},
	} {
		if what == "a group's" {
			require.NoError(t, os.Chmod(exe, 0o775))
		}
		require.NoError(t, spoil[0](), what)
		require.Error(t, trusted(exe), what)
		require.Error(t, trusted(link), what)
		require.NoError(t, spoil[1](), what)
		require.NoError(t, os.Chmod(exe, 0o755))
		require.NoError(t, trusted(link), what)
	}
	require.Error(t, trusted(filepath.Join(dir, "none")))
}

// A server that is down is found by the host's configuration, if that puts the
// children into this very jail.
func TestServerOnTheHostThatIsDown(t *testing.T) {
	t.Parallel()
	_, r := apacheRecipe(t)
	host, dir := t.TempDir(), t.TempDir()
	root, other := openRoot(t, dir), openRoot(t, t.TempDir())
	tree := openRoot(t, host)
	require.Nil(t, usualOutside(r, tree), "there is no program")
	put(t, host, map[string]string{
		"usr/sbin/apache2":         "x",
		"etc/apache2/envvars":      "export APACHE_PID_FILE=/run/a.pid\nexport JAIL=" + dir + "\n",
		"etc/apache2/apache2.conf": "PidFile ${APACHE_PID_FILE}\nInclude more.conf\n",
		"etc/apache2/more.conf":    "ChrootDir ${JAIL}/../" + filepath.Base(dir) + "\n",
	})
	o := usualOutside(r, tree)
	require.NotNil(t, o)
	require.Equal(t, []string{"/usr/sbin/apache2", "-k", "start"}, o.Argv)
	require.NoError(t, o.read(tree, r, root))
	require.Equal(t, "/etc/apache2/apache2.conf", o.Main)
	require.Equal(t, []string{"/run/a.pid"}, o.PIDFiles)
	require.ErrorContains(t, o.read(tree, r, other), "and not jail")

	state := t.TempDir()
	require.Nil(t, notedOutside(state, r))
	require.NoError(t, o.note(state))
	require.Equal(t, o, notedOutside(state, r))
	o.Argv[0] = "/other"
	require.NoError(t, o.note(state))
	require.Nil(t, notedOutside(state, r), "it names two programs")

	put(t, host, map[string]string{"etc/apache2/more.conf": "ChrootDir /nowhere/at/all\n"})
	require.ErrorIs(t, usualOutside(r, tree).read(tree, r, root), os.ErrNotExist)
	put(t, host, map[string]string{"etc/apache2/more.conf": ""})
	require.ErrorContains(t, usualOutside(r, tree).read(tree, r, root), "names no ChrootDir")
}

func TestConfigurationOfAServerOnTheHost(t *testing.T) {
	t.Parallel()
	_, r := apacheRecipe(t)
	for given, want := range map[string]string{
		"/usr/sbin/apache2 -k start":                        "/etc/apache2/apache2.conf",
		"/usr/sbin/apache2 -f other.conf":                   "/etc/apache2/other.conf",
		"/usr/sbin/apache2 -d /srv/a -f conf/x.conf":        "/srv/a/conf/x.conf",
		"/usr/sbin/apache2 -d /srv/a -f /y.conf":            "/y.conf",
		"/opt/httpd/bin/httpd -d /opt/httpd -f conf/x.conf": "/opt/httpd/conf/x.conf",
	} {
		argv := strings.Fields(given)
		o := &Outside{Server: "apache", Exe: argv[0], Argv: argv}
		require.NoError(t, o.findMain(r), given)
		require.Equal(t, want, o.Main, given)
	}
	// Another program is asked where its own is.
	exe := filepath.Join(t.TempDir(), "httpd")
	lab.WriteProgram(t, exe, []byte("#!/bin/sh\n[ \"$1\" = -V ] && echo ' -D HTTPD_ROOT=\"/opt/h\"' && echo ' -D SERVER_CONFIG_FILE=\"conf/httpd.conf\"'\n"))
	o := &Outside{Server: "apache", Exe: exe, Argv: []string{exe, "-k", "start"}}
	require.NoError(t, o.findMain(r))
	require.Equal(t, "/opt/h/conf/httpd.conf", o.Main)
	lab.WriteProgram(t, exe, []byte("#!/bin/sh\necho nothing\n"))
	require.Error(t, o.findMain(r))
}

// The recipe of such a jail is about the jail alone, and is the same after it was
// written down.
func TestRecipeOfAJailWithItsServerOnTheHost(t *testing.T) {
	t.Parallel()
	set, r := apacheRecipe(t)
	require.False(t, r.IsOnHost())
	dir := t.TempDir()
	put(t, dir, map[string]string{"usr/sbin/php-fpm8.2": "x"})
	o := &Outside{Server: "apache", Exe: "/opt/httpd/bin/httpd", Argv: []string{"/opt/httpd/bin/httpd"}}
	for _, alone := range []bool{true, false} {
		got := o.Compose(set, r, openRoot(t, dir), alone)
		require.True(t, got.IsOnHost())
		var names []string
		for _, p := range got.Parts() {
			names = append(names, p.Name)
		}
		if alone {
			require.Equal(t, []string{"apache"}, names)
			require.Empty(t, inJail(got).Executables)
		} else {
			require.Equal(t, []string{"php-fpm", "apache"}, names)
			require.Equal(t, []string{"/usr/sbin/php-fpm8.2"}, inJail(got).Executables)
		}
		kept, err := keepParts(got)
		require.NoError(t, err)
		again, err := joinKept("x", kept)
		require.NoError(t, err)
		require.True(t, again.IsOnHost())
		require.Equal(t, got.Packages, again.Packages)
		require.Equal(t, got.Executables, again.Executables)
		require.Equal(t, got.Runtime, again.Runtime)
	}
	require.Contains(t, r.Packages, "apache2", "the recipe itself is as it was")
	require.Equal(t, []string{"/usr/sbin/apache2"}, r.Executables)
}
