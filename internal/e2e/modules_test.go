package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// module is the name of the package of a module of PHP.
func module(t testing.TB, name string) string { return "php" + lab.PHPSeries(t, "") + "-" + name }

// handStack is a running jail of nginx and FPM made by hand, of the older packages.
func handStack(t testing.TB, opts ...lab.JailOption) (*stack, lab.Pair) {
	t.Helper()
	return handStackOf(t, phpPair(t), opts...)
}

func handStackOf(t testing.TB, pair lab.Pair, opts ...lab.JailOption) (*stack, lab.Pair) {
	t.Helper()
	phpSlot(t)
	j := lab.PHPJail(t, pair.Old, append(opts, lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")))...)
	j.Start(t)
	return stackOf(t, j, "nginx", pair.Old, pair.New), pair
}

func modPHPStack(t testing.TB, opts ...lab.JailOption) (*stack, lab.Pair) {
	t.Helper()
	phpSlot(t)
	pair := phpPair(t)
	j := lab.ModPHPJail(t, pair.Old, append(opts, lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")))...)
	j.Start(t)
	return stackOf(t, j, "apache", pair.Old, pair.New), pair
}

// A module that was built for another PHP, or that needs a library that nobody has,
// is found while the old servers answer.
func TestModuleThatDoesNotFit(t *testing.T) {
	t.Parallel()
	t.Run("another interface", func(t *testing.T) {
		t.Parallel()
		lab.Need(t, "gpg", "apt-ftparchive")
		s, pair := handStack(t, lab.Extensions("gd"))
		bad := lab.OtherAPI(t, lab.FindDeb(t, pair.New, module(t, "gd")))
		repo := lab.SignedRepo(t, pair.Old, lab.ReplaceDebs(t, pair.New, bad))
		s.h.debs, s.h.extra = "", nil
		r := s.refuses(t, 1, []string{"--apt-sources", repo.SourcesFile}, "module gd", "API"+s.API)
		require.Regexp(t, `built for \S*API[0-9]{8}.* wants \S*API`+s.API, r.err())
		require.Contains(t, r.Done["hint"], "--drop-module gd")
		s.requireUp(t, "gd")
	})
	t.Run("a library that nobody has", func(t *testing.T) {
		t.Parallel()
		s, pair := modPHPStack(t, lab.Extensions("mysql"))
		s.offer(lab.ReplaceDebs(t, pair.New, lab.MissingLibrary(t, lab.FindDeb(t, pair.New, module(t, "mysql")))), pair.Old)
		r := s.untouched(t, func() result { return s.upgrade(1, "failed") })
		require.Regexp(t, `mysqli\.so needs libq+\.so`, r.err())
		s.offer(lab.ReplaceDebs(t, pair.New, lab.OtherAPI(t, lab.FindDeb(t, pair.New, module(t, "opcache")))), pair.Old)
		s.refuses(t, 1, nil, "module opcache", s.API)
		s.requireUp(t, "mysqli", "zend opcache")
	})
}

// What is only seen once it runs: everything goes back, and the page is as before.
func TestPoolThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s, pair := handStack(t)
	fpm := lab.FindDeb(t, pair.New, module(t, "fpm"))
	before, version := quiet(t, s.Dir), s.requireUp(t)
	s.offer(lab.ReplaceDebs(t, pair.New, lab.PoolElsewhere(t, fpm)), pair.Old)
	said := s.watch()
	r := s.upgrade(3, "rolled-back", "--start-timeout", "10s")
	require.Contains(t, said(), 200)
	require.DirExists(t, r.Done["evidence"].(string))
	require.Regexp(t, `fpm\.sock|answers 502`, r.err())
	require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)))
	require.Equal(t, version, s.requireUp(t))
	noStage(t, s.Dir)

	// This one does not even start, and php-fpm -t knows.
	s.offer(lab.ReplaceDebs(t, pair.New, lab.PoolWithoutUser(t, fpm)), pair.Old)
	s.refuses(t, 1, nil, "nobody-has-this-name")
	s.requireUp(t)
}

// Modules come and go with an upgrade, and do not come back by themselves.
func TestModulesComeAndGo(t *testing.T) {
	t.Parallel()
	phpSlot(t)
	pair := phpPair(t)
	s := createdStack(t, pair.Old, "nginx", "php-fpm,mysql")
	s.offer(pair.New)
	s.requireUp(t, "mysqli")
	before := quiet(t, s.Dir)
	s.upgrade(0, "upgraded", "--with", "imap,memcached")
	s.requireUp(t, "mysqli", "imap", "memcached", "igbinary")
	require.Contains(t, s.status(0)["packages"], module(t, "imap"))
	s.upgrade(0, "current")
	s.rollback()
	require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)))

	// What one package brings goes as one.
	s.upgrade(0, "upgraded", "--with", "imap", "--drop-module", "mysql")
	s.requireUp(t, "imap")
	_, ext := s.PHP(t)
	for _, gone := range []string{"mysqli", "pdo_mysql", "mysqlnd"} {
		require.NotContains(t, ext, gone)
	}
	require.NotContains(t, s.status(0)["packages"], module(t, "mysql"))
	for _, sub := range []string{"fpm/conf.d", "mods-available"} {
		found, err := filepath.Glob(filepath.Join(s.Dir, "etc/php/*", sub, "*mysql*"))
		require.NoError(t, err)
		require.Empty(t, found)
	}
	s.upgrade(0, "current")
	s.rollback()
	require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)))
	s.requireUp(t, "mysqli")
}

// What is wrong with a command line or with a configuration is said in one line,
// with what to do, before anything is done.
func TestRefusedBeforeTheStop(t *testing.T) {
	t.Parallel()
	s, pair := handStack(t, lab.Extensions("mysql"))
	other := filepath.Join(lab.ShmDir(t), "other")
	r := s.h.must(1, "failed", "create", "nginx", "--jail", other, "--with", "php-fpm,no-such-module")
	require.Contains(t, r.err(), "no-such-module")
	require.NotEmpty(t, r.Done["hint"])
	require.NoFileExists(t, other)
	noStage(t, other)

	s.refuses(t, 1, []string{"--with", "no-such-module"}, "no-such-module")
	s.refuses(t, 64, []string{"--drop-module", "no-such-module"}, "no-such-module")
	s.refuses(t, 1, []string{"--version", "1.0-nowhere"}, "1.0-nowhere")
	r = s.untouched(t, func() result { return s.h.run("upgrade", "mod-php", "--jail", s.Dir) })
	require.Equal(t, 64, r.Exit, r.String())

	lab.Need(t, "gpg", "apt-ftparchive")
	repo := lab.SignedRepo(t, lab.FindDeb(t, pair.New, "nginx-common"))
	debs := s.h.debs
	s.h.debs = ""
	s.refuses(t, 64, []string{"--apt-sources", repo.SourcesFile, "--suite", "no-such-suite"}, "no-such-suite")
	s.h.debs = debs

	// A configuration that the running server does not have yet, and that would
	// keep it from its next start.
	conf := filepath.Join(s.Dir, "etc/nginx/nginx.conf")
	was, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(conf, append([]byte("load_module modules/ngx_nowhere_module.so;\n"), was...), 0o644))
	s.refuses(t, 1, nil, "ngx_nowhere_module")
	require.NoError(t, os.WriteFile(conf, was, 0o644))
	s.requireUp(t, "mysqli")
}

// PHP goes on without an extension that it does not find, so that a line for one is
// told, and is no reason to go back.
func TestExtensionThatIsNotThere(t *testing.T) {
	t.Parallel()
	s, _ := handStack(t)
	extensionThatIsNotThere(t, s, "fpm")
}

func extensionThatIsNotThere(t *testing.T, s *stack, sapi string) {
	t.Helper()
	file := filepath.Join("/etc/php", s.Series, sapi, "conf.d/99-nowhere.ini")
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, file), []byte("extension=nowhere\n"), 0o644))
	r := s.upgrade(0, "upgraded")
	require.Contains(t, r.notices("warning"), "module nowhere ("+file+" line 1)")
	s.requireUp(t)
}

func TestApacheLoadsWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s, _ := modPHPStack(t)
	load := filepath.Join(s.Dir, "etc/apache2/mods-enabled/nowhere.load")
	require.NoError(t, os.WriteFile(load, []byte("LoadModule nowhere_module /usr/lib/apache2/modules/mod_nowhere.so\n"), 0o644))
	s.refuses(t, 1, nil, "nowhere")
	require.NoError(t, os.Remove(load))
}

// A pool that is not there was not there before either: that is told, not blamed.
func TestPoolThatIsNotThere(t *testing.T) {
	t.Parallel()
	s, _ := handStack(t)
	conf := filepath.Join(s.Dir, "etc/nginx/nginx.conf")
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), s.FastCGI, "/run/php/nowhere.sock")), 0o644))
	s.StopPart(t, "nginx")
	s.StartPart(t, "nginx")
	status, _ := s.Get(t, "/index.php")
	require.Equal(t, 502, status)
	r := s.h.run("check", "nginx", "--jail", s.Dir)
	require.Regexp(t, `nginx\.conf line \d+ .*/run/php/nowhere\.sock`, r.notices("warning"))
	r = s.upgrade(0, "upgraded")
	require.Contains(t, r.String(), "502")
	status, _ = s.Get(t, "/index.php")
	require.Equal(t, 502, status)
}
