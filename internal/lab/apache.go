package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// apacheMods are what Debian's package enables when it is installed, besides
// the MPM.
const apacheMods = "authn_core authz_core auth_basic access_compat authn_file authz_host authz_user alias dir autoindex env mime negotiation setenvif filter deflate status reqtimeout"

const minimalSite = `<VirtualHost 127.0.0.1:@PORT@>
	ServerName localhost
	DocumentRoot /srv/www
	<Directory /srv/www>
		Require all granted
	</Directory>
	ErrorLog ${APACHE_LOG_DIR}/error.log
	CustomLog ${APACHE_LOG_DIR}/access.log combined
</VirtualHost>
`

// ApacheJail builds a jail in which all of apache runs, as HandMadeJail does for
// nginx: the program, the modules that Debian enables (see MPM), /etc/apache2
// with one site, and libgcc_s, which no list of libraries names and without
// which threads cannot end. It is started with the environment that its start
// script would give it.
func ApacheJail(t testing.TB, debs string, opts ...JailOption) *Jail {
	t.Helper()
	Need(t, "root", "dpkg-deb")
	b := newJail(t, debs, config(opts))
	b.must(b.skeleton())
	b.must(b.runLinks())
	b.must(b.apache())
	b.must(b.finish())
	return b.jail
}

// runLinks makes the old names of /run, as Debian's base-files has them.
func (b *builder) runLinks() error {
	if err := b.folders("run/lock"); err != nil {
		return err
	}
	if err := b.link("/run", "var/run"); err != nil {
		return err
	}
	return b.link("/run/lock", "var/lock")
}

// apache copies the server, its configuration and the modules that it enables,
// with more modules, and what those load.
func (b *builder) apache(more ...string) error {
	if err := b.copyTree("/etc/apache2"); err != nil {
		return err
	}
	mods := append(strings.Fields(apacheMods), "mpm_"+b.c.mpm)
	later, err := b.enable(append(mods, more...)...)
	if err != nil {
		return err
	}
	if err := b.program("/usr/sbin/apache2", append(later, b.find("libgcc_s.so.1")...)...); err != nil {
		return err
	}
	if err := b.jail.copyIn(b.tree, "/etc/mime.types"); err != nil {
		return err
	}
	if err := b.folders("run/apache2", "run/lock/apache2", "var/log/apache2", "var/cache/apache2"); err != nil {
		return err
	}
	if err := unix.Chown(b.path("run/lock/apache2"), 33, 0); err != nil {
		return err
	}
	site := b.c.conf
	if site == "" {
		site = minimalSite
	}
	if err := b.apacheSite(site); err != nil {
		return err
	}
	b.jail.Parts = append(b.jail.Parts, apachePart())
	return nil
}

// apacheSite writes the port and the only site, and enables what Debian does.
func (b *builder) apacheSite(site string) error {
	for name, text := range map[string]string{
		"etc/apache2/ports.conf":                     "Listen 127.0.0.1:@PORT@\n",
		"etc/apache2/sites-available/jail.conf":      site,
		"etc/apache2/conf-available/servername.conf": "ServerName localhost\n",
	} {
		if err := b.write(name, b.fill(text)); err != nil {
			return err
		}
	}
	if err := b.link("../sites-available/jail.conf", "etc/apache2/sites-enabled/jail.conf"); err != nil {
		return err
	}
	for _, c := range []string{"charset", "localized-error-pages", "other-vhosts-access-log", "security", "serve-cgi-bin", "servername"} {
		if err := b.link("../conf-available/"+c+".conf", "etc/apache2/conf-enabled/"+c+".conf"); err != nil {
			return err
		}
	}
	return nil
}

var loadModule = regexp.MustCompile(`(?m)^\s*LoadModule\s+\S+\s+(\S+)`)

// enable makes the links that a2enmod makes, and lists the modules' files.
func (b *builder) enable(mods ...string) (files []string, err error) {
	for _, m := range mods {
		for _, ending := range []string{".load", ".conf"} {
			name := m + ending
			text, err := os.ReadFile(b.path("etc/apache2/mods-available", name))
			if ending == ".conf" && os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("the packages have no module %s of apache: %w", m, err)
			}
			if err := b.link("../mods-available/"+name, "etc/apache2/mods-enabled/"+name); err != nil {
				return nil, err
			}
			for _, f := range loadModule.FindAllStringSubmatch(string(text), -1) {
				files = appendNew(files, f[1])
			}
		}
	}
	return files, nil
}

// find looks for a library in the places of the tree that ld.so knows, and
// names it as ld.so would.
func (b *builder) find(name string) []string {
	for _, dir := range []string{"lib", "usr/lib"} {
		if found, _ := filepath.Glob(filepath.Join(b.tree, dir, "*", name)); len(found) > 0 {
			return []string{strings.TrimPrefix(found[0], b.tree)}
		}
	}
	return nil
}

// apachePart has what the file envvars says, which the start script reads.
func apachePart() Part {
	return Part{
		Name: "apache", Program: "/usr/sbin/apache2", Args: []string{"-k", "start"}, Log: "/var/log/apache2/error.log",
		Env: []string{
			"APACHE_RUN_USER=www-data", "APACHE_RUN_GROUP=www-data", "APACHE_PID_FILE=/var/run/apache2/apache2.pid",
			"APACHE_RUN_DIR=/var/run/apache2", "APACHE_LOCK_DIR=/var/lock/apache2", "APACHE_LOG_DIR=/var/log/apache2", "LANG=C",
		},
		comm: "apache2", end: unix.SIGTERM,
	}
}
