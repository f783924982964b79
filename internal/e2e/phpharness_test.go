package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// phpModules is what pages of PHP most often need: a database, pictures, mail,
// a cache.
var phpModules = []string{"mysql", "gd", "imap", "memcached"}

// phpLoads are the extensions that those modules are.
var phpLoads = []string{"mysqli", "pdo_mysql", "gd", "imap", "memcached", "zend opcache"}

// phpSlots bounds how many jails with PHP there are at once: each weighs some
// 150 MB of memory, and its upgrade as much again.
var phpSlots = make(chan struct{}, 3)

func phpSlot(t testing.TB) {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	phpSlots <- struct{}{}
	t.Cleanup(func() { <-phpSlots })
}

// phpPair are all servers and modules, older and newer. All tests share it.
func phpPair(t testing.TB) lab.Pair {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	return lab.PairOf(t, append([]string{"nginx"}, lab.PHPNames(t, "", []string{"fpm", "apache"}, phpModules...)...)...)
}

// phpVersion is the version that PHP tells of itself, as its packages' version has
// it.
func phpVersion(t testing.TB, debs, pkg string) string {
	t.Helper()
	_, version, ok := strings.Cut(filepath.Base(lab.FindDeb(t, debs, pkg)), "_")
	require.True(t, ok)
	version, _, _ = strings.Cut(version, "-")
	return version
}

// stack is a running jail with a web server and what belongs to it.
type stack struct {
	*lab.Jail
	h      *host
	server string   // the recipe: nginx, apache
	parts  []string // the names of the processes' programs, the last one answers
}

// stackOf wraps a jail made by hand, which runs already.
func stackOf(t testing.TB, j *lab.Jail, server string, debs ...string) *stack {
	t.Helper()
	s := &stack{Jail: j, h: newHost(t, debs...), server: server}
	for _, p := range j.Parts {
		s.parts = append(s.parts, programs[p.Name])
	}
	return s
}

// programs are the names that the processes of each server have.
var programs = map[string]string{"nginx": "nginx", "apache": "apache2", "php-fpm": "php-fpm"}

// createdStack is a running jail that jailup built, of the packages in debs.
func createdStack(t testing.TB, debs, server, with string, more ...string) *stack {
	t.Helper()
	j := &lab.Jail{Dir: filepath.Join(lab.ShmDir(t), "chroot"), Port: lab.FreePort(t)}
	at := "127.0.0.1:" + strconv.Itoa(j.Port)
	j.URL = "http://" + at
	s := &stack{Jail: j, h: newHost(t, debs), server: server, parts: []string{programs[server]}}
	t.Cleanup(func() { killAll(t, j) })
	s.h.must(0, "created", append([]string{"create", server, "--with", with, "--jail", j.Dir, "--listen", at}, more...)...)
	for name, text := range map[string]string{"index.html": lab.Page, "index.php": indexPage, "use.php": usePage} {
		require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "var/www/html", name), []byte(text), 0o644))
	}
	if strings.Contains(with, "php-fpm") {
		s.parts = append([]string{"php-fpm"}, s.parts...)
		s.h.must(0, "started", "start", "php-fpm", "--jail", j.Dir)
	}
	s.h.must(0, "started", "start", server, "--jail", j.Dir)
	return s
}

// indexPage and usePage speak as those of jails made by hand do, see lab.Jail.PHP
// and Uses. The second one also needs what a package brings beside its libraries:
// time zones, conversions, locales, fonts, lists of services.
const (
	indexPage = `<?php
echo 'version ', PHP_VERSION, "\n";
foreach (array_merge(get_loaded_extensions(), get_loaded_extensions(true)) as $e) echo 'extension ', strtolower($e), "\n";
`
	usePage = `<?php
function say($name, $ok) { echo $name, ' ', $ok ? 'ok' : 'wrong', "\n"; }
say('date', strlen(date('c')) > 20 && new DateTimeZone('Europe/Berlin'));
say('session', session_start());
say('iconv', iconv('UTF-8', 'ISO-8859-1', "\xc3\xa4") === "\xe4");
say('setlocale', setlocale(LC_CTYPE, 'C.UTF-8') !== false);
say('openssl', (bool) openssl_pkey_new(['private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'prime256v1']));
say('service', getservbyname('http', 'tcp') === 80);
say('fileinfo', (new finfo(FILEINFO_MIME_TYPE))->buffer('%PDF-1.4') === 'application/pdf');
if (extension_loaded('mysqli')) say('mysqli', (bool) mysqli_init());
if (extension_loaded('gd')) say('font', (bool) imagettftext(imagecreatetruecolor(20, 20), 9, 0, 2, 12, 0, '/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf', 'x'));
if (extension_loaded('imap')) say('imap', imap_utf8('x') === 'x');
if (extension_loaded('memcached')) say('memcached', (new Memcached)->addServer('127.0.0.1', 1));
`
)

func killAll(t testing.TB, j *lab.Jail) {
	lab.Eventually(t, 10*time.Second, "the jail's processes are gone", func() bool {
		all := j.Processes()
		for _, p := range all {
			_ = unix.Kill(p.PID, unix.SIGKILL)
		}
		return len(all) == 0
	})
}

// masters are the processes of the servers whose parent is none of them, in the
// order of parts; 0 where one is down.
func (s *stack) masters() []int {
	all := s.Processes()
	pids := map[int]bool{}
	for _, p := range all {
		pids[p.PID] = true
	}
	out := make([]int, len(s.parts))
	for i, name := range s.parts {
		for _, p := range all {
			if strings.HasPrefix(p.Comm, name) && !pids[p.PPID] {
				out[i] = p.PID
			}
		}
	}
	return out
}

// requireUp wants every server to run, and the page of PHP with these extensions.
func (s *stack) requireUp(t testing.TB, loaded ...string) (version string) {
	t.Helper()
	require.NotContains(t, s.masters(), 0, "%v", s.parts)
	version, ext := s.PHP(t)
	for _, l := range loaded {
		require.Contains(t, ext, l)
	}
	for name, said := range s.Uses(t) {
		require.NotEqual(t, "wrong", said, name)
	}
	return version
}

func (s *stack) upgrade(exit int, res string, more ...string) result {
	s.h.t.Helper()
	return s.h.must(exit, res, append([]string{"upgrade", s.server, "--jail", s.Dir, "--soak", "0s"}, more...)...)
}

func (s *stack) rollback() result {
	s.h.t.Helper()
	return s.h.must(0, "rolled-back", "rollback", "--jail", s.Dir, "--soak", "0s")
}

// offer makes the stack's host offer other packages.
func (s *stack) offer(debs ...string) { s.h.debs = newHost(s.h.t, debs...).debs }

// untouched wants what do does to change neither the jail nor a process of its
// servers.
func (s *stack) untouched(t testing.TB, do func() result) result {
	t.Helper()
	before, pids := quiet(t, s.Dir), s.masters()
	require.NotContains(t, pids, 0)
	r := do()
	require.Empty(t, lab.DiffTrees(before, quiet(t, s.Dir)), r.String())
	require.Equal(t, pids, s.masters(), "a server was touched")
	noStage(t, s.Dir)
	return r
}

// refuses wants an upgrade to end before anything is done: one line that has all
// of the words, and a hint.
func (s *stack) refuses(t testing.TB, exit int, args []string, words ...string) result {
	t.Helper()
	return s.untouched(t, func() result {
		r := s.upgrade(exit, "failed", args...)
		require.NotContains(t, r.err(), "\n")
		for _, w := range words {
			require.Contains(t, r.err(), w)
		}
		require.NotEmpty(t, r.Done["hint"], r.err())
		return r
	})
}

// busyState are the globs that running servers write to.
var busyState = append([]string{"var/log/**", "var/lib/php/sessions/**", "var/cache/apache2/**"}, state...)

func quiet(t testing.TB, dir string) map[string]string { return lab.TreeDigest(t, dir, busyState...) }

// watch asks the page of PHP again and again. What it returns ends that, and
// tells the answers in their order, each once: 0 is none, where nothing listens.
func (s *stack) watch() (end func() []int) {
	var mu sync.Mutex
	var said []int
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			status, _, err := s.TryGet("/index.php")
			if err != nil {
				status = 0
			}
			mu.Lock()
			if len(said) == 0 || said[len(said)-1] != status {
				said = append(said, status)
			}
			mu.Unlock()
		}
	}()
	return func() []int {
		close(stop)
		<-done
		return said
	}
}

// requireServed wants a page that answers, is away once at most, and answers
// again: never an error of a web server whose PHP is not there.
func requireServed(t testing.TB, said []int) {
	t.Helper()
	require.Subset(t, []int{200, 0}, said, "%v", said)
	require.Equal(t, 200, said[0])
	require.Equal(t, 200, said[len(said)-1])
}

// status is the document of status of this jail.
func (s *stack) status(exit int) map[string]any {
	s.h.t.Helper()
	r := s.h.run("status", "--jail", s.Dir)
	require.Equal(s.h.t, exit, r.Exit, r.String())
	var doc struct{ Jails []map[string]any }
	require.NoError(s.h.t, json.Unmarshal([]byte(r.Stdout), &doc), r.String())
	require.Len(s.h.t, doc.Jails, 1)
	return doc.Jails[0]
}

// notices are the messages of a run of one level; "" is every level.
func (r result) notices(level string) string {
	var out []string
	for _, e := range r.Events {
		if e["kind"] == "notice" && (level == "" || e["level"] == level) {
			out = append(out, e["message"].(string))
		}
	}
	return strings.Join(out, "\n")
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }
