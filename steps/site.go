package steps

import (
	"fmt"
	"strings"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
	"github.com/jailup/jailup/recipes"
)

// site is what one server's configuration tells, whichever server it is.
type site interface {
	// fill tells the checks what to look at.
	fill(t *checks.Target)
	// logs are the paths of the error logs.
	logs() []string
	// modules are what the configuration loads into the server.
	modules() []webconf.Module
	// pools are the addresses that the server hands requests for PHP to.
	pools() []webconf.FastCGI
}

// confFiles is what the readers of configuration read from: a jail, or a view of
// what it will be.
type confFiles interface {
	ReadFile(path string, limit int64) ([]byte, error)
	ReadDir(path string) ([]string, error)
}

// readSite reads the configuration of a server that was started with argv and
// env; both may be empty.
func readSite(files confFiles, r *recipes.Recipe, argv, env []string) (site, error) {
	main := mainConf(r, argv)
	switch r.Configuration.Reader {
	case "nginx":
		n, err := webconf.ReadNginxGiven(files, main, prefixOf(r, argv), valuesOf(r, argv, "-g"))
		if err != nil {
			return nil, err
		}
		return nginxSite{n}, nil
	case "apache":
		o := webconf.ApacheOptions{
			Env: variables(env), ServerRoot: folderOf(r, argv, "-d"), Defines: valuesOf(r, argv, "-D"),
			Before: valuesOf(r, argv, "-C"), After: valuesOf(r, argv, "-c"),
		}
		a, err := webconf.ReadApache(files, main, o)
		if err != nil {
			return nil, err
		}
		return apacheSite{a}, nil
	case "php-fpm":
		f, err := phpconf.ReadFPM(files, main)
		if err != nil {
			return nil, err
		}
		return fpmSite{f}, nil
	}
	return nil, fmt.Errorf("cannot read the configuration of %s: there is no reader %s", r.Name, r.Configuration.Reader)
}

// optionOf returns the last value of an option: "-f x", "-fx", "--long=x". It knows
// nothing of other options, see valuesOf.
func optionOf(argv []string, name string) string {
	all := optionsOf(argv, name)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

func optionsOf(argv []string, name string) []string {
	var out []string
	for i, a := range argv {
		if v, ok := strings.CutPrefix(a, name+"="); ok && strings.HasPrefix(name, "--") {
			out = append(out, v)
		} else if a == name && i+1 < len(argv) {
			out = append(out, argv[i+1])
		} else if v, ok := strings.CutPrefix(a, name); ok && v != "" && len(name) == 2 {
			out = append(out, v)
		}
	}
	return out
}

func variables(env []string) map[string]string {
	out := map[string]string{}
	for _, v := range env {
		if name, value, ok := strings.Cut(v, "="); ok {
			out[name] = value
		}
	}
	return out
}

type nginxSite struct{ *webconf.Nginx }

func (s nginxSite) fill(t *checks.Target)     { t.Nginx(s.Nginx) }
func (s nginxSite) logs() []string            { return s.ErrorLogs() }
func (s nginxSite) modules() []webconf.Module { return s.Modules() }
func (s nginxSite) pools() []webconf.FastCGI  { return s.FastCGI() }

type apacheSite struct{ *webconf.Apache }

func (s apacheSite) fill(t *checks.Target)     { t.Apache(s.Apache) }
func (s apacheSite) logs() []string            { return s.ErrorLogs() }
func (s apacheSite) modules() []webconf.Module { return s.Modules() }
func (s apacheSite) pools() []webconf.FastCGI  { return s.FastCGI() }

type fpmSite struct{ *phpconf.FPM }

func (s fpmSite) fill(t *checks.Target)     { t.FPM(s.FPM) }
func (s fpmSite) modules() []webconf.Module { return nil }
func (s fpmSite) pools() []webconf.FastCGI  { return nil }
func (s fpmSite) logs() []string {
	if s.ErrorLog == "" {
		return nil
	}
	return []string{s.ErrorLog}
}
