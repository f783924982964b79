package recipes

import (
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lazyregexp"
)

var nameRE = lazyregexp.New(`^[a-z0-9][a-z0-9.+-]*$`)

// readers are the configuration readers that there are.
var readers = map[string]bool{"nginx": true, "apache": true, "php-fpm": true}

// abis are the kinds of binary interface that modules can be compared by.
var abis = map[string]bool{"": true, "nginx": true, "apache": true, "php": true}

// filled puts something in the place of what At and others fill in later.
func filled(s string) string {
	return strings.NewReplacer("{series}", "1.0", "{api}", "1", "{module}", "m").Replace(s)
}

func (r *Recipe) validate() error {
	switch {
	case !nameRE.MatchString(r.Name):
		return fmt.Errorf("name: %q is no name (lower case letters, digits, + - .)", r.Name)
	case r.Abstract:
		return nil
	case len(r.Packages) == 0:
		return errors.New("packages: at least one is needed")
	case len(r.Executables) == 0:
		return errors.New("executables: at least one is needed")
	case !abis[r.Modules.ABI]:
		return fmt.Errorf("modules.abi: %q is not known (nginx, apache, php)", r.Modules.ABI)
	case !r.HasProcesses():
	case len(r.Service.Start) == 0:
		return errors.New("service.start: the command that starts the server is needed")
	case !readers[r.Configuration.Reader]:
		return fmt.Errorf("configuration.reader: %q is not known (nginx, apache, php-fpm)", r.Configuration.Reader)
	}
	for _, p := range append(r.Modules.Packages, r.Packages...) {
		if !nameRE.MatchString(filled(p)) {
			return fmt.Errorf("packages: %q is no package name", p)
		}
	}
	for _, a := range r.Aliases {
		if !nameRE.MatchString(a) {
			return fmt.Errorf("aliases: %q is no name", a)
		}
	}
	for _, p := range r.Outside.Packages {
		if !nameRE.MatchString(p) {
			return fmt.Errorf("outside.packages: %q is no package name", p)
		}
	}
	for key, globs := range map[string][]string{"owns": r.Owns, "without": r.Without, "outside.owns": r.Outside.Owns} {
		for _, g := range globs {
			if err := checkGlob(filled(g)); err != nil {
				return fmt.Errorf("%s: %q: %w", key, g, err)
			}
		}
	}
	for _, s := range []struct{ key, name string }{{"quit", r.Service.Quit}, {"term", r.Service.Term}, {"reload", r.Service.Reload}} {
		if r.HasProcesses() && unix.SignalNum(s.name) == 0 {
			return fmt.Errorf("service.%s: %q is no signal (SIGTERM, say)", s.key, s.name)
		}
	}
	for _, l := range []struct {
		key   string
		paths []string
	}{
		{"executables", r.Executables}, {"runtime", r.Runtime}, {"exclude", r.Exclude}, {"state", r.State},
		{"service.start", first(r.Service.Start)}, {"service.pid_files", r.Service.PIDFiles},
		{"configuration.main", given(r.Configuration.Main)}, {"configuration.environment", given(r.Configuration.Environment)},
		{"configuration.test", first(r.Configuration.Test)}, {"version", first(r.Version)},
		{"carry", r.Carry}, {"modules.files", given(r.Modules.Files)},
		{"outside.runtime", r.Outside.Runtime}, {"outside.program", given(r.Outside.Program)},
		{"php.ini", given(r.PHP.INI)}, {"php.scan", given(r.PHP.Scan)}, {"php.extensions", given(r.PHP.Extensions)},
		{"php.modules", first(r.PHP.Modules)}, {"php.info", first(r.PHP.Info)}, {"php.version", first(r.PHP.Version)},
	} {
		for _, p := range l.paths {
			p = filled(p)
			if !absolute(p) && !(l.key == "carry" && absolute(strings.TrimSuffix(p, "/"))) {
				return fmt.Errorf("%s: %q is no absolute path", l.key, p)
			}
			if err := checkGlob(p); err != nil {
				return fmt.Errorf("%s: %q: %w", l.key, p, err)
			}
		}
	}
	for _, f := range r.Configuration.Fails {
		if _, err := regexp.Compile(f); err != nil {
			return fmt.Errorf("configuration.fails: %w", err)
		}
	}
	if err := r.Effects.validate(); err != nil {
		return err
	}
	return r.Create.validate()
}

func (e *Effects) validate() error {
	check := func(key, from, to string) error {
		from, to = filled(from), filled(to)
		if !absolute(from) || checkGlob(from) != nil {
			return fmt.Errorf("%s: from: %q is no absolute path or glob", key, from)
		}
		if !absolute(strings.TrimSuffix(to, "/")) {
			return fmt.Errorf("%s: to: %q is no absolute path", key, to)
		}
		return nil
	}
	for _, c := range e.Copy {
		if err := check("effects.copy", c.From, c.To); err != nil {
			return err
		}
	}
	for _, n := range e.Enable {
		if err := check("effects.enable", n.From, n.To); err != nil {
			return err
		}
		if n.Priority < 0 || n.Priority > 99 {
			return fmt.Errorf("effects.enable: priority: %d is not between 0 and 99", n.Priority)
		}
	}
	return nil
}

func given(p string) []string {
	if p == "" {
		return nil
	}
	return []string{p}
}

// absolute tells whether a path is absolute and clean, so that it says what it
// means, and can be shown.
func absolute(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsFunc(p, unicode.IsControl)
}

func first(argv []string) []string { return argv[:min(1, len(argv))] }

func (c *Create) validate() error {
	if c.Listen != "" {
		if err := CheckListen(c.Listen); err != nil {
			return fmt.Errorf("create.listen: %w", err)
		}
	}
	users, groups := map[string]bool{"": true}, map[string]bool{"": true}
	for _, u := range c.Users {
		if !nameRE.MatchString(u.Name) || u.UID < 0 || u.GID < 0 || strings.ContainsAny(u.Home+u.Shell, ":\n") {
			return fmt.Errorf("create.users: %q is no user", u.Name)
		}
		users[u.Name] = true
	}
	for _, g := range c.Groups {
		if !nameRE.MatchString(g.Name) || g.GID < 0 {
			return fmt.Errorf("create.groups: %q is no group", g.Name)
		}
		groups[g.Name] = true
	}
	for _, d := range c.Dirs {
		if _, err := strconv.ParseUint(d.Mode, 8, 12); err != nil || !absolute(filled(d.Path)) {
			return fmt.Errorf("create.dirs: %q needs an absolute path and an octal mode", d.Path)
		}
		if !users[d.Owner] || !groups[d.Group] {
			return fmt.Errorf("create.dirs: %s: no such user or group in create", d.Path)
		}
	}
	for _, l := range c.Links {
		if !absolute(filled(l.Path)) || l.To == "" {
			return fmt.Errorf("create.links: %q needs an absolute path and a target", l.Path)
		}
	}
	for _, f := range c.Files {
		if !absolute(filled(f.Path)) {
			return fmt.Errorf("create.files: %q is no absolute path", f.Path)
		}
		if _, err := f.Render(Values{Listen: "127.0.0.1:80"}); err != nil {
			return err
		}
	}
	return nil
}

// CheckListen accepts ADDR:PORT with a literal address, and *:PORT.
func CheckListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not ADDR:PORT, such as 127.0.0.1:8088", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port (1 to 65535)", port)
	}
	if host != "*" && net.ParseIP(host) == nil {
		return fmt.Errorf("%q is no IP address", host)
	}
	return nil
}
