package webconf

import (
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/lazyregexp"
)

// maxEnvNames bounds how many names of variables are told.
const maxEnvNames = 1000

// refers notes a variable of the environment that a line makes use of.
func (r *apacheReader) refers(name string) {
	if variableName(name) && len(r.used) < maxEnvNames && !slices.Contains(r.used, name) {
		r.used = append(r.used, name)
	}
}

// asksEnv are expressions that look a variable up in the environment, if the
// request has none of the name.
var asksEnv = lazyregexp.New(`%\{ENV:([A-Za-z_][A-Za-z0-9_]*)\}|\b(?:osenv|env)\(\s*['"]([A-Za-z_][A-Za-z0-9_]*)['"]\s*\)`)

// EnvNames returns the variables of the environment that the configuration refers
// to, sorted and once each, whether they are set or not: those that stand as
// ${NAME} and are not defined in it, those of PassEnv, and those that conditions
// and rules ask for (%{ENV:NAME}). What a program below the server asks for by
// itself is not known here.
func (a *Apache) EnvNames() []string {
	names := slices.Clone(a.env)
	walk(a.Directives, nil, func(d, _ *Directive) {
		if d.named("PassEnv") {
			names = append(names, d.Args...)
		}
		for _, arg := range d.Args {
			for _, m := range asksEnv.FindAllStringSubmatch(arg, maxEnvNames) {
				names = append(names, m[1]+m[2])
			}
		}
	})
	return envNames(names)
}

// EnvNames returns the variables of the environment that the configuration hands
// on to the workers (env NAME;), sorted and once each. One that has its value
// there (env NAME=VALUE;) needs none. TZ is always handed on, and not told.
func (n *Nginx) EnvNames() []string {
	var names []string
	for _, d := range n.Directives {
		if d.is("env") && !strings.Contains(d.Arg(0), "=") {
			names = append(names, d.Arg(0))
		}
	}
	return envNames(names)
}

func envNames(names []string) []string {
	names = slices.DeleteFunc(names, func(n string) bool { return !variableName(n) })
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxEnvNames)]
}
