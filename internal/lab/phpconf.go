package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	seriesFile = regexp.MustCompile(`(?:php-fpm|libphp)([0-9]+\.[0-9]+)(?:\.so)?$`)
	iniExt     = regexp.MustCompile(`(?m)^\s*(?:zend_)?extension\s*=\s*"?([^"\s;]+)`)
	iniPrio    = regexp.MustCompile(`(?m)^;\s*priority=([0-9]+)`)
	phpPackage = regexp.MustCompile(`^php[0-9.]*-(.+)$`)
)

// findPHP tells series and API of the PHP that the packages have.
func (b *builder) findPHP() error {
	for _, pattern := range []string{"usr/sbin/php-fpm*", "usr/lib/apache2/modules/libphp*.so"} {
		found, _ := filepath.Glob(filepath.Join(b.tree, pattern))
		for _, f := range found {
			if m := seriesFile.FindStringSubmatch(f); m != nil {
				b.jail.Series = m[1]
			}
		}
	}
	if b.jail.Series == "" {
		return errors.New("the packages have no PHP")
	}
	apis, _ := filepath.Glob(filepath.Join(b.tree, "usr/lib/php/[0-9]*[0-9]"))
	for _, a := range apis {
		if !strings.Contains(filepath.Base(a), ".") {
			b.jail.API = filepath.Base(a)
		}
	}
	if b.jail.API == "" {
		return errors.New("the packages have no extensions of PHP")
	}
	return nil
}

// php writes PHP's configuration for one way to serve ("fpm", "apache2"), as the
// packages' scripts do, and lists the extensions that it enables. It copies what
// PHP reads besides: time zones, the settings of OpenSSL.
func (b *builder) php(sapi string) (extensions []string, err error) {
	j := b.jail
	etc := "/etc/php/" + j.Series
	if err := b.folders(etc+"/mods-available", etc+"/"+sapi+"/conf.d", "usr/share/zoneinfo"); err != nil {
		return nil, err
	}
	if err := mkdir(b.path("var/lib/php/sessions"), 0o1733); err != nil {
		return nil, err
	}
	ini, err := os.ReadFile(filepath.Join(b.tree, "usr/lib/php", j.Series, "php.ini-production"))
	if err != nil {
		return nil, err
	}
	if err := b.write(etc+"/"+sapi+"/php.ini", string(ini)); err != nil {
		return nil, err
	}
	inis, err := b.inis()
	if err != nil {
		return nil, err
	}
	for _, file := range inis {
		ext, err := b.phpenmod(file, sapi)
		if err != nil {
			return nil, err
		}
		extensions = append(extensions, ext...)
	}
	for _, p := range append(timeZones(), "/etc/ssl/openssl.cnf", "/usr/lib/ssl/openssl.cnf") {
		if err := b.jail.copyIn(b.tree, p); err != nil {
			return nil, err
		}
	}
	return extensions, nil
}

// timeZones are the files without which the first date() of PHP is its end, and
// one that somebody may ask for.
func timeZones() []string {
	return []string{"/usr/share/zoneinfo/UTC", "/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/Europe/Berlin",
		"/usr/share/zoneinfo/zone.tab", "/usr/share/zoneinfo/tzdata.zi"}
}

// inis are the settings of all extensions to enable: those of PHP's own
// packages, those asked for, and those that these need.
func (b *builder) inis() ([]string, error) {
	var all []string
	done := map[string]bool{}
	var add func(name string, asked bool) error
	add = func(name string, asked bool) error {
		if done[name] {
			return nil
		}
		done[name] = true
		found := b.iniOf(name)
		if len(found) == 0 && asked {
			return fmt.Errorf("the packages have no extension %s for PHP %s", name, b.jail.Series)
		}
		all = append(all, found...)
		for _, n := range b.extensionsNeeded(name) {
			if err := add(n, false); err != nil {
				return err
			}
		}
		return nil
	}
	// What PHP's servers depend on is enabled on any host that has them.
	for _, own := range []string{"common", "cli", "fpm"} {
		if err := add(own, false); err != nil {
			return nil, err
		}
	}
	for _, name := range b.c.extensions {
		if err := add(name, true); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// iniOf finds what a package brings: PHP's own have it in a folder from which
// their scripts copy it, others among their settings.
func (b *builder) iniOf(name string) []string {
	s := b.jail.Series
	found, _ := filepath.Glob(filepath.Join(b.tree, "usr/share/php"+s+"-"+name, name, "*.ini"))
	conf, _ := filepath.Glob(filepath.Join(b.tree, "etc/php", s, "mods-available", name+".ini"))
	return append(found, conf...)
}

// extensionsNeeded are the extensions on which the package of one depends.
func (b *builder) extensionsNeeded(name string) []string {
	var need []string
	for _, pkg := range []string{"php" + b.jail.Series + "-" + name, "php-" + name} {
		deb, err := findDeb(b.debs, pkg)
		if err != nil {
			continue
		}
		c, err := controlOf(deb)
		if err != nil {
			continue
		}
		for _, group := range parseRelations(c.Get("Depends")) {
			if m := phpPackage.FindStringSubmatch(group[0].name); m != nil && !slices.Contains([]string{"common", "cli"}, m[1]) {
				need = appendNew(need, m[1])
			}
		}
	}
	return need
}

// phpenmod copies one file of settings to those available, makes the link that
// enables it, and lists the extensions that it loads.
func (b *builder) phpenmod(file, sapi string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	priority := "20"
	if m := iniPrio.FindStringSubmatch(string(text)); m != nil {
		priority = m[1]
	}
	etc, name := "/etc/php/"+b.jail.Series, filepath.Base(file)
	if err := b.write(etc+"/mods-available/"+name, string(text)); err != nil {
		return nil, err
	}
	if err := b.link(etc+"/mods-available/"+name, etc+"/"+sapi+"/conf.d/"+priority+"-"+name); err != nil {
		return nil, err
	}
	var ext []string
	for _, m := range iniExt.FindAllStringSubmatch(string(text), -1) {
		ext = append(ext, "/usr/lib/php/"+b.jail.API+"/"+strings.TrimSuffix(m[1], ".so")+".so")
	}
	return ext, nil
}
