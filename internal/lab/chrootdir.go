package lab

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ChrootDirJail builds a jail for apache's directive ChrootDir: the server, its
// modules, configuration and logs are outside, its master has the root of the
// machine, and only its children are put into the jail. In the jail are the
// pages and what children look up or load late: users, time zones, libgcc_s.
// With Extensions it is prefork with PHP as a module.
//
// The server is not installed on the machine: it lies in a folder of the test,
// Host, as one that was built with a prefix does, and is started with that
// folder's configuration (-d, -f) and libraries (LD_LIBRARY_PATH); libc is the
// machine's own. So the packages must be of the machine's own release.
func ChrootDirJail(t testing.TB, debs string, opts ...JailOption) *Jail {
	t.Helper()
	Need(t, "root", "dpkg-deb")
	c := config(opts)
	host := filepath.Join(t.TempDir(), "host")
	openParents(t, host)
	if c.shm {
		host = filepath.Join(ShmDir(t), "host")
	}
	b := newJail(t, debs, c)
	j := b.jail
	j.Host = host
	b.must(b.skeleton())
	h := &builder{t: t, jail: &Jail{Dir: host, Port: j.Port}, c: c, debs: debs, tree: b.tree}
	b.must(h.hostSide(j.Dir))
	b.must(b.late())
	j.Parts, j.Series, j.API = h.jail.Parts, h.jail.Series, h.jail.API
	if len(c.extensions) > 0 {
		b.must(b.phpPages())
		b.must(mkdir(b.path("var/lib/php/sessions"), 0o1733))
	}
	b.must(b.finish())
	return j
}

// late copies what children load or look up after they are in the jail.
func (b *builder) late() error {
	files := append(b.find("libgcc_s.so.1"), b.find("libc.so.6")...)
	exe, err := inTree(b.tree, "/usr/sbin/apache2")
	if err != nil {
		return err
	}
	interp, err := interpreter(exe)
	if err != nil {
		return err
	}
	for _, p := range append(append(files, interp), timeZones()...) {
		if err := b.jail.copyIn(b.tree, p); err != nil {
			return err
		}
	}
	return nil
}

// hostSide builds what is outside of a jail, with that folder as its prefix.
func (b *builder) hostSide(jail string) error {
	mods := []string{}
	if len(b.c.extensions) > 0 {
		if err := b.findPHP(); err != nil {
			return err
		}
		b.c.mpm = "prefork"
		mods = append(mods, "php"+b.jail.Series)
	}
	if err := b.apache(mods...); err != nil {
		return err
	}
	part := &b.jail.Parts[0]
	if len(mods) > 0 {
		if err := b.modPHP(); err != nil {
			return err
		}
		if err := b.hostPHP(part); err != nil {
			return err
		}
	}
	if err := b.write("etc/apache2/conf-enabled/chroot.conf", "ChrootDir "+jail+"\n"); err != nil {
		return err
	}
	if err := b.prefixed("etc/apache2"); err != nil {
		return err
	}
	dirs, err := b.privateLibs()
	if err != nil {
		return err
	}
	host := b.jail.Dir
	part.outside = true
	part.Program = host + part.Program
	part.Args = []string{"-d", host + "/etc/apache2", "-f", host + "/etc/apache2/apache2.conf", "-k", "start"}
	part.Log = host + part.Log
	for i, e := range part.Env {
		name, value, _ := strings.Cut(e, "=/var")
		if value != "" {
			part.Env[i] = name + "=" + host + "/var" + value
		}
	}
	part.Env = append(part.Env, "LD_LIBRARY_PATH="+strings.Join(dirs, ":"))
	return b.folders("var/run/apache2", "var/lock/apache2")
}

// hostPHP lets PHP find its settings and extensions below the prefix.
func (b *builder) hostPHP(part *Part) error {
	host, etc := b.jail.Dir, "/etc/php/"+b.jail.Series+"/apache2"
	links, err := filepath.Glob(b.path(etc, "conf.d", "*.ini"))
	if err != nil {
		return err
	}
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil {
			return err
		}
		if err := os.Remove(l); err != nil {
			return err
		}
		if err := os.Symlink(host+to, l); err != nil {
			return err
		}
	}
	part.Env = append(part.Env, "PHP_INI_SCAN_DIR="+host+etc+"/conf.d")
	if err := b.write("etc/apache2/conf-enabled/phpinidir.conf", "PHPIniDir "+etc+"\n"); err != nil {
		return err
	}
	ini, err := os.ReadFile(b.path(etc, "php.ini"))
	if err != nil {
		return err
	}
	own := fmt.Sprintf("\n[PHP]\nextension_dir = %s/usr/lib/php/%s\n", host, b.jail.API)
	return b.write(etc+"/php.ini", string(ini)+own)
}

var hostPath = regexp.MustCompile(`(^|[\s"=])(/etc/|/usr/lib/)`)

// prefixed puts the prefix before the paths that the files of a folder name.
func (b *builder) prefixed(dir string) error {
	return filepath.WalkDir(b.path(dir), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(p, hostPath.ReplaceAll(text, []byte("${1}"+b.jail.Dir+"${2}")), 0o644)
	})
}

var libcFamily = regexp.MustCompile(`^(ld-linux.*|lib(c|m|mvec|pthread|dl|rt|util|resolv|anl|nsl|nss_.*))\.so\.[0-9]+$`)

// privateLibs lists the folders with libraries and takes those of libc out:
// they must be those of the machine's program interpreter.
func (b *builder) privateLibs() ([]string, error) {
	var dirs []string
	for _, pattern := range []string{"lib*", "usr/lib*", "lib/*-linux-*", "usr/lib/*-linux-*"} {
		found, err := filepath.Glob(b.path(pattern))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, found...)
	}
	for _, d := range dirs {
		all, err := os.ReadDir(d)
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if libcFamily.MatchString(e.Name()) {
				if err := os.Remove(filepath.Join(d, e.Name())); err != nil {
					return nil, err
				}
			}
		}
	}
	slices.Reverse(dirs)
	return dirs, nil
}
