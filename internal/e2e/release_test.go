package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// releases are two signed repositories, of the host's release and of the one after
// it, which has no module imap.
type releases struct {
	sources, next       string
	series, nextSeries  string
	version, newVersion string // of PHP
}

func twoReleases(t testing.TB) releases {
	t.Helper()
	lab.Need(t, "root", "apt", "gpg", "apt-ftparchive")
	r := releases{next: lab.OtherSuite(t, 1), series: lab.PHPSeries(t, "")}
	r.nextSeries = lab.PHPSeries(t, r.next)
	names := append([]string{"nginx"}, lab.PHPNames(t, r.next, []string{"fpm", "apache"}, "mysql", "gd", "memcached")...)
	old := phpPair(t).Old
	later := lab.Packages(t, lab.PackagesOptions{Names: names, Suite: r.next, Newest: true})
	r.version = phpVersion(t, old, "php"+r.series+"-common")
	r.newVersion = phpVersion(t, later, "php"+r.nextSeries+"-common")

	var text strings.Builder
	for suite, debs := range map[string]string{lab.OtherSuite(t, 0): old, r.next: later} {
		repo := lab.SignedRepo(t, debs)
		repo.Suite = suite
		repo.Publish(t, nil)
		fmt.Fprintf(&text, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n", repo.URL, suite, repo.Keyring)
	}
	r.sources = filepath.Join(t.TempDir(), "both.sources")
	require.NoError(t, os.WriteFile(r.sources, []byte(text.String()), 0o644))
	return r
}

// use makes the stack's upgrades ask both, and no folder.
func (r releases) use(s *stack) {
	s.h.debs = ""
	s.h.extra = nil
}

func (r releases) args(more ...string) []string {
	return append([]string{"--apt-sources", r.sources, "--suite", r.next}, more...)
}

// put writes a file of the jail.
func put(t testing.TB, s *stack, file, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, file), []byte(text), 0o644))
}

func get(t testing.TB, s *stack, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Dir, file))
	require.NoError(t, err)
	return string(text)
}

// edited makes a change to a file, which must be one.
func edited(t testing.TB, s *stack, file, old, now string) {
	t.Helper()
	text := get(t, s, file)
	require.Contains(t, text, old)
	put(t, s, file, strings.Replace(text, old, now, 1))
}

// linkOf is the link that switches a module of PHP on.
func linkOf(t testing.TB, s *stack, series, sapi, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.Dir, "etc/php", series, sapi, "conf.d", "*-"+name+".ini"))
	require.NoError(t, err)
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

// From one release to the next one the series of PHP changes, and with it the name
// of nearly everything: what an administrator did comes along.
func TestNextRelease(t *testing.T) {
	t.Parallel()
	r := twoReleases(t)
	t.Run("created nginx", func(t *testing.T) { t.Parallel(); createdNextRelease(t, r, "nginx", "php-fpm", "fpm") })
	t.Run("created apache", func(t *testing.T) { t.Parallel(); createdNextRelease(t, r, "apache", "mod-php", "apache2") })
	for name, opts := range map[string][]lab.JailOption{
		"split":         {lab.StrayLibc()},
		"merged":        {lab.Merged(), lab.OverTCP()},
		"PHP in apache": {lab.Merged()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			build := handStack
			if name == "PHP in apache" {
				build = modPHPStack
			}
			s, _ := build(t, append(opts, lab.Extensions("mysql"))...)
			r.use(s)
			own := ownProgram(t, s)
			own()
			before, pids := quiet(t, s.Dir), s.masters()
			require.Equal(t, r.version, s.requireUp(t, "mysqli"))
			said := s.watch()
			up := s.upgrade(0, "upgraded", r.args()...)
			requireServed(t, said())
			require.Equal(t, r.newVersion, s.requireUp(t, "mysqli", "pdo_mysql", "zend opcache"), up.String())
			for i, pid := range s.masters() {
				require.NotEqual(t, pids[i], pid)
			}
			own()
			s.rollback()
			require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)), "not wholly old")
			require.Equal(t, r.version, s.requireUp(t, "mysqli"))
		})
	}
}

func createdNextRelease(t *testing.T, r releases, server, with, sapi string) {
	phpSlot(t)
	s := createdStack(t, phpPair(t).Old, server, with+",mysql,gd,imap,memcached")
	r.use(s)
	etc, next := "etc/php/"+r.series+"/"+sapi, "etc/php/"+r.nextSeries+"/"+sapi
	edited(t, s, etc+"/php.ini", "memory_limit = 128M", "memory_limit = 77M")
	ini := get(t, s, etc+"/php.ini") + "imap.enable_insecure_rsh = 0\n"
	put(t, s, etc+"/php.ini", ini)
	put(t, s, etc+"/conf.d/99-own.ini", "precision = 11\n")
	require.NoError(t, os.Remove(linkOf(t, s, r.series, sapi, "exif")))
	put(t, s, "var/www/html/ini.php", `<?php echo ini_get('memory_limit'), ' ', ini_get('precision'), ' ', extension_loaded('exif') ? 'exif' : 'none', ' ', getenv('POOL');`)
	want := "77M 11 none "
	var own []string
	if sapi == "fpm" {
		want += "own"
		own = append(own, "/pool.d/own.conf")
		put(t, s, etc+"/pool.d/own.conf", "[own]\nuser = www-data\ngroup = www-data\nlisten = /run/php/own.sock\nlisten.owner = www-data\npm = static\npm.max_children = 1\nenv[POOL] = own\n")
		edited(t, s, "etc/nginx/conf.d/default.conf", "location ~", "location = /ini.php {\n\t\tinclude fastcgi_params;\n\t\tfastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;\n\t\tfastcgi_pass unix:/run/php/own.sock;\n\t}\n\tlocation ~")
		s.h.must(0, "restarted", "restart", "php-fpm", "--jail", s.Dir)
	}
	s.h.must(0, "restarted", "restart", server, "--jail", s.Dir)
	status, body := s.Get(t, "/ini.php")
	require.Equal(t, 200, status)
	require.Equal(t, want, body)
	before := quiet(t, s.Dir)
	require.Equal(t, r.version, s.requireUp(t, phpLoads...))

	// The next release has no imap.
	refused := s.refuses(t, 1, r.args(), "imap")
	require.Contains(t, refused.Done["hint"], "--drop-module imap")

	said := s.watch()
	up := s.upgrade(0, "upgraded", r.args("--drop-module", "imap")...)
	require.Contains(t, up.String(), "write suite: "+r.next+" into the jail's file", "the next upgrade would find older versions only")
	requireServed(t, said())
	require.Equal(t, r.newVersion, s.requireUp(t, "mysqli", "pdo_mysql", "gd", "memcached", "zend opcache"))
	_, ext := s.PHP(t)
	require.NotContains(t, ext, "imap")
	require.NotContains(t, ext, "exif", "switched off, and must stay so")
	status, body = s.Get(t, "/ini.php")
	require.Equal(t, 200, status)
	require.Equal(t, want, body)
	require.Contains(t, get(t, s, next+"/php.ini"), "memory_limit = 77M")
	require.Contains(t, up.notices("warning"), fmt.Sprintf("imap.enable_insecure_rsh, which is set in /%s/php.ini line %d", next, strings.Count(ini, "\n")))
	require.Equal(t, "precision = 11\n", get(t, s, next+"/conf.d/99-own.ini"))
	for _, gone := range []string{"usr/lib/php/" + r.series, "usr/bin/php" + r.series, "usr/sbin/php-fpm" + r.series} {
		require.NoFileExists(t, filepath.Join(s.Dir, gone))
		require.NoDirExists(t, filepath.Join(s.Dir, gone))
	}
	// What an administrator wrote stays at its old place as well.
	var left []string
	for p := range quiet(t, s.Dir) {
		if info, err := os.Lstat(filepath.Join(s.Dir, p)); strings.HasPrefix(p, etc) && err == nil && !info.IsDir() {
			left = append(left, strings.TrimPrefix(p, etc))
		}
	}
	require.Equal(t, sorted(append([]string{"/php.ini", "/conf.d/99-own.ini"}, own...)), sorted(left))
	packages := fmt.Sprint(s.status(0)["packages"])
	require.NotContains(t, packages, "php"+r.series)
	require.Contains(t, packages, "php"+r.nextSeries)
	s.upgrade(0, "current", r.args()...)

	s.rollback()
	require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)), "not wholly old")
	require.Equal(t, r.version, s.requireUp(t, phpLoads...))
	_, body = s.Get(t, "/ini.php")
	require.Equal(t, want, body)
}

// ownProgram puts a program of the administrator's own into the jail, that needs a
// library which has another name in each release. What it returns runs it.
func ownProgram(t *testing.T, s *stack) func() {
	t.Helper()
	lab.Need(t, "gcc")
	found, err := filepath.Glob(filepath.Join(s.Dir, "usr/lib/*/libicuuc.so.*"))
	require.NoError(t, err)
	if len(found) == 0 {
		found, err = filepath.Glob(filepath.Join(s.Dir, "lib/*/libicuuc.so.*"))
		require.NoError(t, err)
	}
	require.NotEmpty(t, found)
	_, version, _ := strings.Cut(filepath.Base(found[0]), ".so.")
	require.NoError(t, os.MkdirAll(filepath.Join(s.Dir, "opt"), 0o755))
	buildC(t, filepath.Join(s.Dir, "opt/own"), `extern const char *u_errorName_`+version+`(int);
int main(void) { return u_errorName_`+version+`(0)[0] != 'U'; }`, found[0], "-Wl,--allow-shlib-undefined")
	return func() {
		t.Helper()
		out, err := inJail(s.Dir, "/opt/own").CombinedOutput()
		require.NoError(t, err, string(out))
	}
}
