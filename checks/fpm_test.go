package checks_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/lab"
)

// runtime asks the PHP-FPM of the jail what it is.
func (s *site) runtime(ctx context.Context) (checks.Runtime, error) {
	var r checks.Runtime
	for _, arg := range []string{"-v", "-m"} {
		cmd := exec.CommandContext(ctx, "/usr/sbin/php-fpm"+s.Series, arg)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.Dir}
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if err != nil {
			return r, err
		}
		lines := strings.Split(string(out), "\n")
		if arg == "-v" {
			r.Version = strings.Fields(lines[0])[1]
			continue
		}
		for _, l := range lines {
			if strings.Contains(l, "PHP Warning") {
				r.Warnings = append(r.Warnings, l)
			} else {
				r.Modules = append(r.Modules, l)
			}
		}
	}
	return r, nil
}

func newPHPSite(t *testing.T, opts ...lab.JailOption) *site {
	t.Helper()
	lab.Need(t, "root")
	return newSite(t, lab.PHPJail(t, web(t), append(opts, lab.InMemory(), lab.Extensions("mysql", "gd"))...))
}

func TestFPMIsWell(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		opts   []lab.JailOption
		change func(s *site)
		detail string
	}{
		{name: "unix", detail: "says 404 of a script that is not there"},
		{name: "tcp", opts: []lab.JailOption{lab.OverTCP()}, detail: "says 404 of a script that is not there"},
		{
			name: "ping, status, no workers until there is work", detail: "answers a ping: ",
			change: func(s *site) {
				s.append(s.poolFile(), "\npm = ondemand\nping.path = /ping\nping.response = here\npm.status_path = /status\n")
			},
		},
		{
			name: "a root of its own", detail: "says 404 of a script that is not there",
			change: func(s *site) {
				s.append(s.poolFile(), "\nchroot = /srv/www\nchdir = /\n")
				s.edit("etc/nginx/nginx.conf", "$document_root$fastcgi_script_name", "$fastcgi_script_name")
			},
		},
		{name: "other endings of names", detail: "says 403", change: func(s *site) {
			s.append(s.poolFile(), "\nsecurity.limit_extensions = .phtml .php7\nphp_admin_value[cgi.fix_pathinfo] = 0\n")
			require.NoError(s.t, os.Remove(filepath.Join(s.Dir, "srv/www/index.php")))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newPHPSite(t, c.opts...)
			if c.change != nil {
				c.change(s)
			}
			s.Start(t)
			target := s.target("php-fpm")
			target.Runtime = s.runtime
			one, err := checks.Standard(target, checks.Config{})
			require.NoError(t, err)
			set := checks.Join(s.set("nginx"), one)
			before := s.well(set)
			v := s.values(before, "process php-fpm")
			require.Equal(t, "jail", v["root"])
			if v["workers"] == "some" {
				require.Equal(t, "jail 33", v["worker_root"]+" "+v["worker_uids"])
			}
			pool, ok := before.Get("fastcgi php-fpm www")
			require.True(t, ok)
			require.Contains(t, pool.Detail, c.detail)
			require.NotEmpty(t, s.values(before, "port php-fpm")["sockets"])
			modules := s.values(before, "php php-fpm")["modules"]
			for _, m := range []string{"gd", "mysqli", "opcache", "core"} {
				require.Contains(t, strings.Split(modules, "\n"), m)
			}
			if c.name != "other endings of names" {
				page := s.values(before, "php page localhost 127.0.0.1:"+strconv.Itoa(s.Port))
				require.Equal(t, "200 text/plain", page["status"]+" "+page["type"])
			}
			s.values(before, "log php-fpm /var/log/php"+s.Series+"-fpm.log")
			s.values(before, "log /var/log/nginx/error.log")

			s.Stop(t)
			set.Since(set.Mark())
			s.Start(t)
			after, err := checks.Verify(t.Context(), set.Checks(), before, policy(), nil)
			require.NoError(t, err, "%+v", after)
			require.Len(t, after.Results, len(before.Results))
			require.Empty(t, after.With(checks.Inconclusive))
		})
	}
}

func TestFPMIsNot(t *testing.T) {
	t.Parallel()
	for _, c := range []worse{
		{name: "down", down: "php-fpm", want: "process php-fpm: no process of the server runs"},
		{
			name: "workers die", want: "exited on signal 11 (SIGSEGV)",
			then: kill("php-fpm", unix.SIGSEGV),
		},
		{name: "workers are ended gently", then: kill("php-fpm", unix.SIGQUIT)},
		{
			name: "another socket", want: "fastcgi php-fpm www: no answer from the pool www at",
			change: func(s *site) { s.append(s.poolFile(), "\nlisten = /run/php/other.sock\n") },
		},
		{
			name: "no time zones", want: "exited on signal 11 (SIGSEGV)",
			change: func(s *site) {
				require.NoError(s.t, os.RemoveAll(filepath.Join(s.Dir, "usr/share/zoneinfo")))
				s.append("srv/www/index.php", "echo date('c');")
			},
		},
		{
			name: "PHP is not run", want: "sends /index.php as it is: PHP does not run it",
			change: func(s *site) {
				s.edit("etc/nginx/nginx.conf", "fastcgi_pass "+"unix:"+s.FastCGI+";", "default_type text/plain;")
			},
		},
		{
			name: "a socket of root", want: "answers 502",
			change: func(s *site) { s.append(s.poolFile(), "\nlisten.owner = root\nlisten.group = root\n") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, newPHPSite(t), "nginx", "php-fpm")
		})
	}
}

// What php-fpm -t finds nothing wrong with: an extension that cannot be loaded.
func TestFPMWithoutAnExtension(t *testing.T) {
	t.Parallel()
	s := newPHPSite(t)
	s.Start(t)
	target := s.target("php-fpm")
	target.Runtime = s.runtime
	set := func(dropped ...string) *checks.Set {
		target.Dropped = dropped
		one, err := checks.Standard(target, checks.Config{Skip: []string{"log"}})
		require.NoError(t, err)
		return one
	}
	before := s.well(set())
	s.StopPart(t, "php-fpm")
	require.NoError(t, os.Remove(filepath.Join(s.Dir, "usr/lib/php", s.API, "gd.so")))
	s.StartPart(t, "php-fpm")
	after, err := checks.Verify(t.Context(), set().Checks(), before, policy(), nil)
	require.ErrorContains(t, err, "php php-fpm: PHP ")
	require.ErrorContains(t, err, "is without the module gd")
	require.ErrorContains(t, err, "PHP cannot load gd: ")
	r, _ := after.Get("php php-fpm")
	require.Equal(t, 1, r.Looks)
	_, err = checks.Verify(t.Context(), set("gd").Checks(), before, policy(), nil)
	require.NoError(t, err, "it was meant to go")
}
