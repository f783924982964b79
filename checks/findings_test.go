package checks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

// house is a jail of files alone, in which nothing is missing.
type house struct {
	t   *testing.T
	dir string
	in  Inside
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir()}
	root, err := jail.Open(h.dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	h.furnish("")
	h.file("etc/passwd", "root:x:0:0::/:/x\nwww-data:x:33:33::/:/x\nbob:x:1001:1001::/:/x\n")
	h.file("etc/group", "root:x:0:\nwww-data:x:33:\nbob:x:1001:\nsites:x:50:bob\n")
	h.file("usr/lib/php/20220829/opcache.so", "x")
	h.folder("srv/www", 0o755)
	h.in = Inside{
		Jail: root, HostPath: "/srv/chroot",
		Ini: &phpconf.Ini{Extensions: []phpconf.Extension{{Name: "opcache", Path: "/usr/lib/php/20220829/opcache.so", Zend: true, File: "/etc/php/8.2/fpm/conf.d/10-opcache.ini", Line: 2}}},
		FPM: &phpconf.FPM{Pools: []phpconf.Pool{{Name: "www", Network: "unix", Address: "/run/php/php8.2-fpm.sock", User: "www-data"}}},
		FastCGI: []webconf.FastCGI{{
			Network: "unix", Address: "/run/php/php8.2-fpm.sock", Root: "/srv/www",
			ScriptFilename: "$document_root$fastcgi_script_name", File: "/etc/nginx/nginx.conf", Line: 7,
		}},
	}
	return h
}

// furnish puts what scripts need below a folder.
func (h *house) furnish(root string) {
	h.file(root+"/etc/resolv.conf", "# by hand\nnameserver 127.0.0.53\n")
	h.file(root+"/etc/hosts", "127.0.0.1 localhost\n")
	h.file(root+"/etc/ssl/certs/ca-certificates.crt", "-----BEGIN CERTIFICATE-----\n")
	h.file(root+"/usr/share/zoneinfo/UTC", "TZif2")
	h.folder(root+"/tmp", 0o777|os.ModeSticky)
	h.folder(root+"/var/lib/php/sessions", 0o733|os.ModeSticky)
}

func (h *house) file(name, text string) {
	h.t.Helper()
	p := filepath.Join(h.dir, name)
	require.NoError(h.t, os.MkdirAll(filepath.Dir(p), 0o755))
	require.NoError(h.t, os.WriteFile(p, []byte(text), 0o644))
}

func (h *house) folder(name string, mode os.FileMode) {
	h.t.Helper()
	p := filepath.Join(h.dir, name)
	require.NoError(h.t, os.MkdirAll(p, 0o755))
	require.NoError(h.t, os.Chmod(p, mode))
}

func (h *house) gone(name string) {
	h.t.Helper()
	require.NoError(h.t, os.RemoveAll(filepath.Join(h.dir, name)))
}

func (h *house) set(name, value string) {
	h.in.Ini.Directives = append(h.in.Ini.Directives, phpconf.Directive{Name: name, Value: value})
}

func (h *house) pool() *phpconf.Pool { return &h.in.FPM.Pools[0] }

// found are the findings beside those of devices, which only root can make.
func (h *house) found() []Finding {
	return slices.DeleteFunc(Findings(h.in), func(f Finding) bool { return f.Name == "no-device" })
}

func TestFindings(t *testing.T) {
	t.Parallel()
	other := func(h *house, chroot string) {
		h.in.FPM.Pools = append(h.in.FPM.Pools, phpconf.Pool{
			Name: "bob", Network: "tcp", Address: "127.0.0.1:9001", User: "bob", Chroot: chroot,
		})
	}
	for _, c := range []struct {
		name   string
		change func(h *house)
		want   []string // "NAME: piece of text|piece of hint"
	}{
		{"nothing", func(*house) {}, nil},
		{"a pool with its own root, complete", func(h *house) {
			other(h, "/srv/bob")
			h.furnish("srv/bob")
			h.set("opcache.validate_root", "1")
		}, nil},
		{"one cache for two roots", func(h *house) {
			other(h, "/srv/bob")
			h.furnish("srv/bob")
		}, []string{"opcache-validate-root: a root of their own (bob)|opcache.validate_root=1"}},
		{"a cache that is off", func(h *house) {
			other(h, "/srv/bob")
			h.furnish("srv/bob")
			h.set("opcache.enable", "0")
		}, nil},
		{"no cache", func(h *house) {
			other(h, "/srv/bob")
			h.furnish("srv/bob")
			h.in.Ini.Extensions = nil
		}, nil},
		{"set for the pool", func(h *house) {
			other(h, "/srv/bob")
			h.furnish("srv/bob")
			h.in.FPM.Pools[1].PHP = []phpconf.Directive{{Name: "opcache.validate_root", Value: "1"}}
		}, nil},
		{"root of the host", func(h *house) { h.in.FastCGI[0].Root = "/srv/chroot/srv/www" }, []string{
			"host-path: /etc/nginx/nginx.conf line 7 has PHP look for scripts below /srv/chroot/srv/www|within the jail: /srv/www",
		}},
		{"script of the host", func(h *house) { h.in.FastCGI[0].ScriptFilename = "/srv/chroot/srv/www$fastcgi_script_name" }, []string{"host-path: below /srv/chroot/srv/www|/srv/www"}},
		{"a path that only begins alike", func(h *house) { h.in.FastCGI[0].ScriptFilename = "/srv/chroots/www$fastcgi_script_name" }, nil},
		{"root of the host, which the jail knows, too", func(h *house) {
			h.in.FastCGI[0].Root = "/srv/chroot/srv/www"
			require.NoError(h.t, os.MkdirAll(filepath.Join(h.dir, "srv/chroot/srv/www"), 0o755))
		}, nil},
		{"scripts of a pool's root from outside", func(h *house) {
			h.pool().Chroot = "/srv/www"
			h.furnish("srv/www")
			h.set("opcache.validate_root", "1")
		}, []string{"pool-chroot: below /srv/www/srv/www, which is not there|fastcgi_param SCRIPT_FILENAME $fastcgi_script_name"}},
		{"scripts of a pool's root from within", func(h *house) {
			h.pool().Chroot = "/srv/www"
			h.furnish("srv/www")
			h.set("opcache.validate_root", "1")
			h.in.FastCGI[0].ScriptFilename = "$fastcgi_script_name"
		}, nil},
		{"a folder in a pool's root", func(h *house) {
			h.pool().Chroot = "/srv/www"
			h.furnish("srv/www")
			h.folder("srv/www/htdocs", 0o755)
			h.set("opcache.validate_root", "1")
			h.in.FastCGI[0].ScriptFilename = "/htdocs$fastcgi_script_name"
		}, nil},
		{"a root that only variables know", func(h *house) {
			h.pool().Chroot = "/srv/www"
			h.furnish("srv/www")
			h.set("opcache.validate_root", "1")
			h.in.FastCGI[0].Root = "/srv/$host"
		}, nil},
		{"apache and a pool's root", func(h *house) {
			h.pool().Chroot = "/srv/www"
			h.furnish("srv/www")
			h.set("opcache.validate_root", "1")
			h.in.FastCGI[0].ScriptFilename = ""
		}, []string{"pool-chroot: below /srv/www/srv/www|SCRIPT_FILENAME"}},
		{"another release's socket", func(h *house) { h.in.FastCGI[0].Address = "/run/php/php7.4-fpm.sock" }, []string{
			"no-pool: line 7 passes requests to unix:/run/php/php7.4-fpm.sock, where no pool|www at unix:/run/php/php8.2-fpm.sock",
		}},
		{"another release's socket, left behind", func(h *house) {
			h.in.FastCGI[0].Address = "/run/php/php7.4-fpm.sock"
			h.socket("run/php/php7.4-fpm.sock")
		}, []string{"no-pool: |www at "}},
		{"another program's socket", func(h *house) {
			h.in.FastCGI[0].Address = "/run/fcgiwrap.sock"
			h.socket("run/fcgiwrap.sock")
		}, nil},
		{"the same folder by another name", func(h *house) {
			h.in.FastCGI[0].Address = "/var/run/php/php8.2-fpm.sock"
			h.folder("run/php", 0o755)
			require.NoError(h.t, os.Symlink("/run", filepath.Join(h.dir, "var/run")))
		}, nil},
		{"a port without a pool", func(h *house) {
			h.in.FastCGI[0].Network, h.in.FastCGI[0].Address = "tcp", "127.0.0.1:9000"
			other(h, "")
		}, []string{"no-pool: passes requests to 127.0.0.1:9000|www at unix:/run/php/php8.2-fpm.sock, bob at 127.0.0.1:9001"}},
		{"a port with a pool", func(h *house) {
			h.in.FastCGI[0].Network, h.in.FastCGI[0].Address = "tcp", "localhost:9001"
			other(h, "")
		}, nil},
		{"another machine", func(h *house) { h.in.FastCGI[0].Network, h.in.FastCGI[0].Address = "tcp", "192.0.2.7:9000" }, nil},
		{"no FPM in the jail", func(h *house) { h.in.FPM = nil; h.in.User = "www-data" }, nil},
		{"no resolver", func(h *house) { h.gone("etc/resolv.conf") }, []string{"no-resolver: the jail names no server|/etc/resolv.conf"}},
		{"an empty resolver", func(h *house) { h.file("etc/resolv.conf", "# nothing\nsearch example\n") }, []string{"no-resolver: |copy the host's"}},
		{"a resolver outside", func(h *house) {
			h.gone("etc/resolv.conf")
			require.NoError(h.t, os.Symlink("../../../../../../etc/hostname-of-nobody", filepath.Join(h.dir, "etc/resolv.conf")))
		}, []string{"no-resolver: |"}},
		{"a resolver that cannot be read", func(h *house) {
			h.gone("etc/resolv.conf")
			h.folder("etc/resolv.conf", 0o755)
		}, nil},
		{"no hosts", func(h *house) { h.gone("etc/hosts") }, []string{"no-hosts: |127.0.0.1 localhost"}},
		{"no certificates", func(h *house) { h.gone("etc/ssl") }, []string{"no-ca-bundle: no certificates of authorities|copy the host's"}},
		{"an empty bundle", func(h *house) { h.file("etc/ssl/certs/ca-certificates.crt", "") }, []string{"no-ca-bundle: |"}},
		{"a bundle elsewhere", func(h *house) {
			h.gone("etc/ssl")
			h.file("etc/ca.pem", "x")
			h.set("openssl.cafile", "/etc/ca.pem")
		}, nil},
		{"a bundle nowhere", func(h *house) { h.set("curl.cainfo", "/etc/ca.pem") }, []string{"no-ca-bundle: curl.cainfo names /etc/ca.pem|take curl.cainfo out"}},
		{"no zones", func(h *house) { h.gone("usr/share/zoneinfo") }, []string{"no-timezones: PHP crashes at the first date()|package tzdata"}},
		{"an empty zone", func(h *house) { h.file("usr/share/zoneinfo/UTC", "") }, []string{"no-timezones: |"}},
		{"a zone that is not there", func(h *house) { h.set("date.timezone", "Europe/Berlin") }, []string{"no-timezone: date.timezone is Europe/Berlin|/usr/share/zoneinfo/Europe/Berlin"}},
		{"a pool's zone that is not there", func(h *house) {
			h.pool().PHP = []phpconf.Directive{{Name: "date.timezone", Value: "Asia/Tokyo"}}
		}, []string{"no-timezone: Asia/Tokyo|"}},
		{"a zone that is a path", func(h *house) { h.set("date.timezone", "../../../etc/shadow") }, nil},
		{"no sessions", func(h *house) { h.gone("var/lib/php") }, []string{"no-sessions: the jail has no /var/lib/php/sessions|mkdir -p"}},
		{"sessions of root", func(h *house) { h.folder("var/lib/php/sessions", 0o755) }, []string{"no-sessions: www-data may not write into /var/lib/php/sessions|chmod 1733"}},
		{"sessions behind a locked door", func(h *house) { h.folder("var/lib/php", 0o700) }, []string{"no-sessions: because of the rights of /var/lib/php|chmod o+x /var/lib/php"}},
		{"sessions elsewhere", func(h *house) {
			h.gone("var/lib/php")
			h.folder("srv/sessions", 0o777)
			h.set("session.save_path", "2;0600;/srv/sessions")
		}, nil},
		{"sessions nowhere", func(h *house) { h.set("session.save_path", "/srv/sessions") }, []string{"no-sessions: /srv/sessions|"}},
		{"sessions in a file", func(h *house) {
			h.file("srv/sessions", "")
			h.set("session.save_path", "/srv/sessions")
		}, []string{"no-sessions: is no folder|"}},
		{"sessions of a server", func(h *house) {
			h.gone("var/lib/php")
			h.set("session.save_handler", "memcached")
			h.set("session.save_path", "127.0.0.1:11211")
		}, nil},
		{"a user that is not there", func(h *house) {
			h.pool().User = "nobody"
			h.folder("var/lib/php/sessions", 0o700)
		}, nil},
		{"no tmp", func(h *house) { h.gone("tmp") }, []string{"no-tmp: the jail has no /tmp: there is no place for uploads and temporary files, and PHP does not start|chmod 1777"}},
		{"a tmp of root", func(h *house) { h.folder("tmp", 0o755) }, []string{"no-tmp: www-data may not write into /tmp|"}},
		{"an extension that is not there", func(h *house) {
			h.in.Ini.Extensions = append(h.in.Ini.Extensions, phpconf.Extension{Name: "gd", Path: "/usr/lib/php/20220829/gd.so", File: "/etc/php/8.2/fpm/conf.d/20-gd.ini", Line: 2})
		}, []string{"extension-missing: /etc/php/8.2/fpm/conf.d/20-gd.ini line 2 loads gd|take the line out"}},
		{"a pool's root with nothing in it", func(h *house) {
			other(h, "/srv/bob")
			h.folder("srv/bob", 0o755)
			h.set("opcache.validate_root", "1")
		}, []string{
			"no-resolver: root of the pool bob|/srv/bob/etc/resolv.conf", "no-hosts: |", "no-ca-bundle: |/srv/bob/etc/ssl", "no-timezones: /srv/bob/usr/share/zoneinfo/UTC|",
			"no-tmp: /srv/bob/tmp|", "no-sessions: /srv/bob/var/lib/php/sessions|",
		}},
		{"nothing of PHP", func(h *house) {
			h.in.FPM, h.in.Ini = nil, nil
			h.gone("etc/resolv.conf")
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			c.change(h)
			got := h.found()
			require.Len(t, got, len(c.want), "%+v", got)
			for i, w := range c.want {
				name, rest, _ := strings.Cut(w, ": ")
				text, hint, _ := strings.Cut(rest, "|")
				require.Equal(t, name, got[i].Name)
				require.Contains(t, got[i].Text, text)
				require.Contains(t, got[i].Hint, hint)
				require.NotEmpty(t, got[i].Hint)
			}
		})
	}
}

func (h *house) socket(name string) {
	h.t.Helper()
	require.NoError(h.t, os.MkdirAll(filepath.Dir(filepath.Join(h.dir, name)), 0o755))
	require.NoError(h.t, unix.Mknod(filepath.Join(h.dir, name), unix.S_IFSOCK|0o666, 0))
}

func TestFindingsAreBoundedAndClean(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for i := range 500 {
		h.in.FastCGI = append(h.in.FastCGI, webconf.FastCGI{Network: "unix", Address: fmt.Sprintf("/run/\x1b[2J%d.sock", i), File: "/x\x07\u202e", Line: i})
		h.in.FPM.Pools = append(h.in.FPM.Pools, phpconf.Pool{Name: fmt.Sprint("p", i), Chroot: fmt.Sprint("/srv/p\x1b]0;", i), User: "www-data"})
	}
	got := Findings(h.in)
	require.Len(t, got, maxFindings)
	for _, f := range got {
		require.NotContains(t, f.Name+f.Text+f.Hint, "\x1b")
		require.LessOrEqual(t, len(f.Text), 600)
		require.LessOrEqual(t, len(f.Hint), 400)
	}
	require.Nil(t, Findings(Inside{}))
}
