package steps

import (
	"slices"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/internal/webconf"
)

// testArgv is the command that tests the configuration of the server as it was
// started.
func (u *unit) testArgv(s side) []string {
	c := u.recipe[s].Configuration
	argv := c.Test
	if main := mainConf(u.recipe[s], u.argv(s)); len(argv) > 0 && main != c.Main {
		argv = append(slices.Clone(argv), c.Option, main)
	}
	return argv
}

// environment is what the server is started with: what the running one was
// started with, else what the configuration says.
func (u *unit) environment() []string {
	r := u.recipe[before]
	if o := u.facts.Outside; o != nil && len(u.facts.Env) == 0 {
		return o.Env
	}
	if len(u.facts.Env) > 0 || r.Configuration.Environment == "" {
		return u.facts.Env
	}
	vars, err := webconf.ReadEnvVars(u.e.Root, r.Configuration.Environment)
	if err != nil {
		return nil
	}
	var env []string
	for _, name := range sortedKeys(vars) {
		env = append(env, name+"="+vars[name])
	}
	env, err = service.KeepEnviron(env, r.Service.Environment...)
	if err != nil {
		return nil
	}
	return env
}

// keepEnvironment notes what of the running server's environment is needed to
// start it again.
func (u *unit) keepEnvironment(master service.Process) {
	if globs := u.recipe[before].Service.Environment; len(globs) > 0 {
		env, err := service.Environ(master)
		if err == nil && u.facts.Outside != nil {
			u.facts.Env = hostEnviron(env)
		} else if err == nil {
			u.facts.Env, err = service.KeepEnviron(env, globs...)
		}
		if err != nil {
			u.e.note(event.Info, err.Error(), "")
		}
	}
}
