package steps

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/internal/webconf"
	"github.com/jailup/jailup/recipes"
)

// flagsOf are the options of the command line that take a value.
func flagsOf(r *recipes.Recipe) []service.Flag {
	var out []service.Flag
	for _, o := range r.Service.Options {
		out = append(out, service.Flag{Name: o.Name, Instance: o.Instance, Default: o.Default, Aliases: o.Aliases, Repeats: o.Repeats, Free: o.Free})
	}
	return out
}

// valuesOf returns the values of an option, whichever of its names is written and
// wherever its value stands.
func valuesOf(r *recipes.Recipe, argv []string, name string) []string {
	if len(argv) == 0 || name == "" {
		return nil
	}
	flags := flagsOf(r)
	i := slices.IndexFunc(flags, func(f service.Flag) bool { return f.Name == name || slices.Contains(f.Aliases, name) })
	if i < 0 {
		i = len(flags)
		flags = append(flags, service.Flag{Name: name})
	}
	var out []string
	for _, a := range service.Args(argv, flags) {
		if a.Name == flags[i].Name {
			out = append(out, a.Value)
		}
	}
	return out
}

// valueOf is the value of an option that counts: the last one.
func valueOf(r *recipes.Recipe, argv []string, name string) string {
	if all := valuesOf(r, argv, name); len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

// folderOf is the folder that an option names, else the one that the recipe says is
// built in; "" where neither tells.
func folderOf(r *recipes.Recipe, argv []string, name string) string {
	if p := valueOf(r, argv, name); path.IsAbs(p) {
		return p
	}
	for _, o := range r.Service.Options {
		if o.Name == name {
			return o.Default
		}
	}
	return ""
}

// prefixOf is the directory in which nginx looks for what is named by a relative
// path; "" where neither the command line nor the recipe tells.
func prefixOf(r *recipes.Recipe, argv []string) string { return folderOf(r, argv, "-p") }

// mainConf is the configuration file that a server was started with.
func mainConf(r *recipes.Recipe, argv []string) string {
	c := r.Configuration
	file := valueOf(r, argv, c.Option)
	dir := ""
	switch c.Reader {
	case "nginx":
		dir = prefixOf(r, argv)
	case "apache":
		dir = folderOf(r, argv, "-d")
		if file == "" && path.IsAbs(valueOf(r, argv, "-d")) {
			file = path.Base(c.Main) // the built-in name is relative
		}
	}
	switch {
	case path.IsAbs(file):
		return file
	case file != "" && dir != "":
		return path.Join(dir, file)
	}
	return c.Main
}

// testArgv is the command that tests the configuration of the server as it was
// started: with its own command line, for more than the file's name may decide what
// it reads (-D, -C, -g).
func (u *unit) testArgv(s side) []string {
	r, argv := u.recipe[s], u.argv(s)
	c := r.Configuration
	if len(c.Test) == 0 || len(argv) == 0 {
		return c.Test
	}
	if !slices.Contains(r.Executables, c.Test[0]) { // another program, with options of its own
		if main := mainConf(r, argv); main != c.Main && c.Option != "" {
			return append(slices.Clone(c.Test), c.Option, main)
		}
		return c.Test
	}
	flags := flagsOf(r)
	test := slices.Clone(argv[:1])
	given := map[string]bool{}
	for _, a := range service.Args(argv, flags) {
		if !withoutOption(r, a) {
			test = append(test, a.Words...)
			given[a.Name] = true
		}
	}
	for _, a := range service.Args(c.Test, flags) {
		if a.Name == "" || !given[a.Name] {
			test = append(test, a.Words...)
		}
	}
	return test
}

// withoutOption tells whether a test does not take an option of the server over.
func withoutOption(r *recipes.Recipe, a service.Arg) bool {
	return slices.ContainsFunc(r.Configuration.TestWithout, func(name string) bool {
		return name == a.Name || a.Name == "" && name == a.Words[0]
	})
}

// environment is what the server is started with: what the running one was
// started with, else what the configuration says.
func (u *unit) environment() []string {
	r := u.recipe[before]
	if o := u.facts.Outside; o != nil && len(u.facts.Env) == 0 {
		return o.Env
	}
	if len(u.facts.Env) > 0 {
		return u.facts.Env
	}
	return u.exported(r)
}

// exported is what the configuration says of the environment: all that the file of
// it exports was meant for the server.
func (u *unit) exported(r *recipes.Recipe) []string {
	if r.Configuration.Environment == "" {
		return nil
	}
	vars, err := webconf.ReadEnvVars(u.e.Root, r.Configuration.Environment)
	if err != nil {
		return nil
	}
	var env []string
	for _, name := range sortedKeys(vars) {
		env = append(env, name+"="+vars[name])
	}
	kept, err := service.KeepEnviron(env, "*")
	if err != nil { // too much of it
		kept, err = service.KeepEnviron(env, r.Service.Environment...)
	}
	if err != nil {
		return nil
	}
	return kept
}

// keepEnvironment notes what of the running server's environment is needed to
// start it again: what the recipe names, what the configuration refers to, and what
// the file of its environment exports.
func (u *unit) keepEnvironment(master service.Process) {
	env, err := service.Environ(master)
	switch {
	case err != nil:
	case u.facts.Outside != nil:
		u.facts.Env = hostEnviron(env)
	default:
		r := u.recipe[before]
		names, _ := u.refersTo(env)
		for _, v := range u.exported(r) {
			name, _, _ := strings.Cut(v, "=")
			names = append(names, name)
		}
		u.facts.Env, err = service.KeepEnviron(env, append(names, r.Service.Environment...)...)
	}
	if err != nil {
		u.e.note(event.Warning, err.Error(), "")
	}
}

// refersTo are the variables of the environment that the server's configuration
// refers to, and the pools to which all of it is handed on.
func (u *unit) refersTo(env []string) (names, pools []string) {
	r := u.recipe[before]
	if conf, err := readSite(u.e.Root, r, u.facts.Argv, env); err == nil {
		switch c := conf.(type) {
		case nginxSite:
			names = c.EnvNames()
		case apacheSite:
			names = c.EnvNames()
		case fpmSite:
			names = c.EnvNames()
			for _, p := range c.Pools {
				if p.KeepsEnv {
					pools = append(pools, p.Name)
				}
			}
		}
	}
	if part, ok := phpPart(u.e.Recipe, u.name()); ok {
		if ini, err := phpconf.ReadIni(u.e.Root, part.PHP.INI, part.PHP.Scan, part.PHP.Extensions); err == nil {
			names = append(names, ini.EnvNames()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), pools
}

// tellLost tells, before the server is stopped, with what it cannot be started
// again because nothing shows it any more.
func (u *unit) tellLost(server service.Server) {
	if server.Master == nil || u.facts.Outside != nil {
		return
	}
	u.tellLostOptions(*server.Master)
	env, err := service.Environ(*server.Master)
	names, pools := u.refersTo(env)
	if err == nil && !service.FromTitle(*server.Master) {
		// What it did not have it will not have again. What it had is kept but for
		// what nothing may bring in.
		names = slices.DeleteFunc(names, func(n string) bool { return !sets(env, n) || sets(u.facts.Env, n) })
		if names = notOurs(names); len(names) > 0 {
			u.e.note(event.Warning, fmt.Sprintf("%s's configuration uses the variables %s, which are not taken over from the running server; it will be started without them",
				u.name(), listed(names)), withoutHint)
		}
		return
	}
	if names = notOurs(names); len(names) > 0 {
		u.e.note(event.Warning, fmt.Sprintf("%s's configuration uses the variables %s, which cannot be read from the running server; it will be started without them",
			u.name(), listed(names)), withoutHint)
	}
	if len(pools) > 0 {
		u.e.note(event.Warning, fmt.Sprintf("%s hands all its variables on to the pools %s (clear_env = no), and they cannot be read from the running server; it will be started without them",
			u.name(), listed(pools)), withoutHint)
	}
}

const withoutHint = "write their values into the configuration, or start the server anew afterwards with what starts it at boot and sets them"

// tellLostOptions tells that the command line is not known for certain.
func (u *unit) tellLostOptions(master service.Process) {
	r := u.recipe[before]
	argv := u.facts.Argv
	if len(argv) > 0 && !service.OptionsLost(master, u.spec(before)) {
		return
	}
	if slices.Equal(argv, r.Service.Start) {
		return // as it is always started, as far as anybody can tell
	}
	level, where := event.Info, "cannot be read"
	if service.FromTitle(master) {
		where = "cannot be read behind its title"
	}
	if len(argv) == 0 {
		level, argv = event.Warning, r.Service.Start
	} else if mainConf(r, argv) != mainConf(r, r.Service.Start) {
		level = event.Warning
	}
	u.e.note(level, fmt.Sprintf("%s's command line %s; it is started as: %s", u.name(), where, event.Clean(strings.Join(argv, " "), 300)), "")
}

// notOurs leaves out what every server is started with.
func notOurs(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "PATH" || n == "LANG" })
}

func sets(env []string, name string) bool {
	return slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
}

// listed shows names out of a configuration.
func listed(names []string) string {
	const most = 10
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	var out []string
	for _, n := range names {
		out = append(out, event.Clean(n, 80))
	}
	return strings.Join(out, ", ") + more
}
