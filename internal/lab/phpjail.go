package lab

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const phpSite = siteHead + `        location ~ \.php$ {
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            fastcgi_pass @FASTCGI@;
        }
` + siteEnd

// PHPPages are the pages of a jail with PHP, besides "/": index.php tells the
// version and the extensions, use.php uses what often breaks, one line each,
// "NAME ok" or "NAME missing".
const (
	indexPHP = `<?php
header('Content-Type: text/plain');
echo 'version ', PHP_VERSION, "\n";
foreach (get_loaded_extensions() as $e) echo 'extension ', strtolower($e), "\n";
foreach (get_loaded_extensions(true) as $e) echo 'extension ', strtolower($e), "\n";
`
	usePHP = `<?php
header('Content-Type: text/plain');
function say($name, $there, $ok) { echo $name, ' ', !$there ? 'missing' : ($ok() ? 'ok' : 'wrong'), "\n"; }
say('date', true, function () { return strlen(date('c')) > 20 && new DateTimeZone('Europe/Berlin'); });
say('session', true, function () { return session_start(); });
say('gd', extension_loaded('gd'), function () { ob_start(); imagepng(imagecreatetruecolor(4, 4)); return strlen(ob_get_clean()) > 20; });
say('mysqli', extension_loaded('mysqli'), function () { return (bool) mysqli_init(); });
say('pdo_mysql', extension_loaded('pdo_mysql'), function () { return in_array('mysql', PDO::getAvailableDrivers()); });
say('imap', extension_loaded('imap'), function () { return function_exists('imap_open') && imap_utf8('x') === 'x'; });
say('memcached', extension_loaded('memcached'), function () { return (new Memcached)->addServer('127.0.0.1', 1); });
`
)

// PHPJail builds a jail with nginx and php-fpm in it, over the unix socket of
// Debian's configuration (see OverTCP). See Extensions for what PHP loads.
func PHPJail(t testing.TB, debs string, opts ...JailOption) *Jail {
	t.Helper()
	Need(t, "root", "dpkg-deb")
	c := config(opts)
	if c.conf == "" {
		c.conf = phpSite
	}
	b := newJail(t, debs, c)
	b.must(b.skeleton())
	b.must(b.findPHP())
	b.must(b.fpm())
	b.must(b.nginx())
	b.must(b.jail.copyIn(b.tree, "/etc/nginx/fastcgi_params"))
	b.must(b.phpPages())
	b.must(b.finish())
	return b.jail
}

// ModPHPJail builds a jail in which all of apache runs, with PHP as a module in
// it and the prefork MPM. See Extensions for what PHP loads.
func ModPHPJail(t testing.TB, debs string, opts ...JailOption) *Jail {
	t.Helper()
	Need(t, "root", "dpkg-deb")
	b := newJail(t, debs, config(append(opts, MPM("prefork"))))
	b.must(b.skeleton())
	b.must(b.runLinks())
	b.must(b.findPHP())
	b.must(b.apache("php" + b.jail.Series))
	b.must(b.modPHP())
	b.must(b.phpPages())
	b.must(b.finish())
	return b.jail
}

func (b *builder) modPHP() error {
	extensions, err := b.php("apache2")
	if err != nil {
		return err
	}
	return b.program("/usr/sbin/apache2", extensions...)
}

var listenLine = regexp.MustCompile(`(?m)^listen\s*=\s*(\S+)`)

// fpm copies the server with its extensions, and its configuration.
func (b *builder) fpm() error {
	j := b.jail
	extensions, err := b.php("fpm")
	if err != nil {
		return err
	}
	exe := "/usr/sbin/php-fpm" + j.Series
	if err := b.program(exe, extensions...); err != nil {
		return err
	}
	if err := b.folders("run/php"); err != nil {
		return err
	}
	if err := unix.Chown(b.path("run/php"), 33, 33); err != nil {
		return err
	}
	conf := "/etc/php/" + j.Series + "/fpm/php-fpm.conf"
	if err := j.copyIn(b.tree, conf); err != nil {
		return err
	}
	pool := "/etc/php/" + j.Series + "/fpm/pool.d/www.conf"
	if err := j.copyIn(b.tree, pool); err != nil {
		return err
	}
	text, err := os.ReadFile(b.path(pool))
	if err != nil {
		return err
	}
	if b.c.tcp {
		text = listenLine.ReplaceAll(text, []byte("listen = 127.0.0.1:"+strconv.Itoa(FreePort(b.t))))
		if err := b.write(pool, string(text)); err != nil {
			return err
		}
	}
	m := listenLine.FindSubmatch(text)
	if m == nil {
		return fmt.Errorf("no listen in %s", pool)
	}
	j.FastCGI = string(m[1])
	j.Parts = append(j.Parts, Part{
		Name: "php-fpm", Program: exe, Args: []string{"--daemonize", "--fpm-config", conf},
		Log: "/var/log/php" + j.Series + "-fpm.log", comm: "php-fpm", end: unix.SIGQUIT,
	})
	return nil
}

func (b *builder) phpPages() error {
	if err := b.write("srv/www/index.php", indexPHP); err != nil {
		return err
	}
	return b.write("srv/www/use.php", usePHP)
}

// PHP asks the jail's index.php for the version of PHP and what it has loaded,
// in small letters. No answer, or another one, is the end of the test.
func (j *Jail) PHP(t testing.TB) (version string, extensions []string) {
	t.Helper()
	status, body := j.Get(t, "/index.php")
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "version "); ok {
			version = v
		} else if e, ok := strings.CutPrefix(line, "extension "); ok {
			extensions = appendNew(extensions, e)
		}
	}
	if status != 200 || version == "" {
		t.Fatalf("index.php of the jail answers %d: %s", status, tail(body))
	}
	return version, extensions
}

// Uses asks the jail's use.php and gives what it says by name: "ok", "missing",
// "wrong". A page that breaks off lacks what comes after.
func (j *Jail) Uses(t testing.TB) map[string]string {
	t.Helper()
	_, body := j.Get(t, "/use.php")
	said := map[string]string{}
	for line := range strings.Lines(body) {
		if name, what, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			said[name] = what
		}
	}
	return said
}
