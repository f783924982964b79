package checks_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

// findings are those of the jail as it is, by name.
func (s *site) findings() map[string]checks.Finding {
	s.t.Helper()
	etc := "/etc/php/" + s.Series + "/fpm"
	ini, err := phpconf.ReadIni(s.root, etc+"/php.ini", etc+"/conf.d", "/usr/lib/php/"+s.API)
	require.NoError(s.t, err)
	conf, err := webconf.ReadNginx(s.root, "/etc/nginx/nginx.conf", "/usr/share/nginx")
	require.NoError(s.t, err)
	all := map[string]checks.Finding{}
	for _, f := range checks.Findings(checks.Inside{Jail: s.root, HostPath: s.Dir, Ini: ini, FPM: s.fpm(), FastCGI: conf.FastCGI()}) {
		all[f.Name] = f
	}
	return all
}

// write puts a script into the jail and tells what comes of it.
func (s *site) script(text string) (status int, body string) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.Dir, "srv/www/try.php"), []byte("<?php "+text), 0o644))
	status, body, err := s.TryGet("/try.php")
	require.NoError(s.t, err)
	return status, body
}

// Each finding is held against what happens: with it PHP fails, and after its
// cure it does not.
func TestFindingsOfARealJail(t *testing.T) {
	t.Parallel()
	s := newPHPSite(t)
	for name, text := range map[string]string{
		"etc/resolv.conf": "nameserver 127.0.0.1\n", "etc/ssl/certs/ca-certificates.crt": "x\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(s.Dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o644))
	}
	require.Empty(t, s.findings(), "a jail that was made well")
	at := func(name string) string { return filepath.Join(s.Dir, name) }
	away := func(name string) func() {
		require.NoError(t, os.Rename(at(name), at(name)+".away"))
		return func() { require.NoError(t, os.Rename(at(name)+".away", at(name))) }
	}
	edited := func(file, old, new string) func() {
		s.edit(file, old, new)
		return func() { s.edit(file, new, old) }
	}
	const conf = "etc/nginx/nginx.conf"
	for _, c := range []struct {
		finding string
		spoil   func() (cure func())
		script  string
		fails   func(status int, body string) bool
	}{
		{
			"no-timezones", func() func() { return away("usr/share/zoneinfo") }, "echo date('Y');",
			func(status int, _ string) bool { return status == http.StatusBadGateway },
		},
		{
			"no-timezone", func() func() {
				s.edit("etc/php/"+s.Series+"/fpm/php.ini", ";date.timezone =", "date.timezone = Asia/Tokyo")
				return func() { // the zone is what is missing, not the setting
					b, err := os.ReadFile(at("usr/share/zoneinfo/UTC"))
					require.NoError(t, err)
					require.NoError(t, os.MkdirAll(at("usr/share/zoneinfo/Asia"), 0o755))
					require.NoError(t, os.WriteFile(at("usr/share/zoneinfo/Asia/Tokyo"), b, 0o644))
				}
			}, "echo date_default_timezone_get();", func(_ int, body string) bool { return body != "Asia/Tokyo" },
		},
		{
			"no-sessions", func() func() { return away("var/lib/php/sessions") }, "echo session_start() ? 'ok' : 'no';",
			func(_ int, body string) bool { return body != "ok" },
		},
		{
			"no-tmp", func() func() { return away("tmp") }, "echo tmpfile() ? 'ok' : 'no';",
			func(_ int, body string) bool { return body != "ok" },
		},
		{
			"extension-missing", func() func() { return away("usr/lib/php/" + s.API + "/gd.so") }, "echo extension_loaded('gd') ? 'ok' : 'no';",
			func(_ int, body string) bool { return body != "ok" },
		},
		{
			"no-hosts", func() func() { return away("etc/hosts") }, "echo gethostbyname('localhost') === '127.0.0.1' ? 'ok' : 'no';",
			func(_ int, body string) bool { return body != "ok" },
		},
		{
			"host-path", func() func() { return edited(conf, "root /srv/www", "root "+s.Dir+"/srv/www") }, "echo 'ok';",
			func(status int, _ string) bool { return status == http.StatusNotFound },
		},
		{
			"no-pool", func() func() { return edited(conf, s.FastCGI, "/run/php/php0.0-fpm.sock") }, "echo 'ok';",
			func(status int, _ string) bool { return status == http.StatusBadGateway },
		},
		{
			"pool-chroot", func() func() {
				s.append(s.poolFile(), "chroot = /srv/www\nchdir = /\n")
				return func() { s.edit(s.poolFile(), "chroot = /srv/www\nchdir = /\n", "") }
			}, "echo 'ok';",
			func(status int, _ string) bool { return status == http.StatusNotFound },
		},
	} {
		for _, spoilt := range []bool{true, false} {
			cure := func() {}
			if spoilt {
				cure = c.spoil()
			}
			if c.finding == "no-tmp" {
				cure() // with opcache it would not start
				cure = func() {}
				s.Start(t)
				if spoilt {
					cure = c.spoil()
				}
			}
			s.Start(t)
			_, found := s.findings()[c.finding]
			require.Equal(t, spoilt, found, "%s: %+v", c.finding, s.findings())
			status, body := s.script(c.script)
			require.Equal(t, spoilt, c.fails(status, body), "%s: %d %s", c.finding, status, body)
			s.Stop(t)
			cure()
		}
	}

	// What needs no server to be proven.
	for _, d := range []struct{ finding, name string }{{"no-device", "dev/null"}, {"no-resolver", "etc/resolv.conf"}, {"no-ca-bundle", "etc/ssl"}} {
		cure := away(d.name)
		require.Contains(t, s.findings(), d.finding)
		cure()
	}
	require.NoError(t, os.Remove(at("dev/null")))
	require.NoError(t, os.WriteFile(at("dev/null"), nil, 0o666))
	require.Contains(t, s.findings()["no-device"].Hint, "mknod -m 666 /dev/null c 1 3")
	require.NoError(t, os.Remove(at("dev/null")))
	require.NoError(t, unix.Mknod(at("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	require.Empty(t, s.findings())
}

// Two pools with roots of their own and one cache: the second gets what the
// first one has run.
func TestFindingOfASharedCache(t *testing.T) {
	t.Parallel()
	s := newPHPSite(t)
	names := []string{"one", "two"}
	old := time.Now().Add(-time.Hour)
	for _, n := range names {
		require.NoError(t, os.MkdirAll(filepath.Join(s.Dir, "srv", n), 0o755))
		file := filepath.Join(s.Dir, "srv", n, "x.php")
		require.NoError(t, os.WriteFile(file, []byte("<?php echo 'this is "+n+"';"), 0o644))
		require.NoError(t, os.Chtimes(file, old, old)) // what is new is not kept in the cache
		s.append(s.poolFile(), "\n["+n+"]\nuser = www-data\nlisten = /run/"+n+".sock\nlisten.owner = www-data\nchroot = /srv/"+n+"\nchdir = /\npm = static\npm.max_children = 1\n")
		s.edit("etc/nginx/nginx.conf", "location / {", "location /"+n+"/ { include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME /x.php; fastcgi_pass unix:/run/"+n+".sock; }\n        location / {")
	}
	said := func() string {
		s.Start(t)
		time.Sleep(100 * time.Millisecond)
		var all string
		for range 2 {
			for _, n := range names {
				_, body := s.Get(t, "/"+n+"/")
				all += body + "; "
			}
		}
		s.Stop(t)
		return all
	}
	f, ok := s.findings()["opcache-validate-root"]
	require.True(t, ok)
	require.Contains(t, f.Text, "(one, two)")
	require.NotContains(t, said(), "this is two", "%+v", f)
	s.append("etc/php/"+s.Series+"/fpm/php.ini", "\n[opcache]\nopcache.validate_root = 1\n")
	require.NotContains(t, s.findings(), "opcache-validate-root")
	require.Equal(t, "this is one; this is two; this is one; this is two; ", said())
}
