package phpconf

import (
	"slices"
	"strings"
)

// maxEnvNames bounds how many names of variables are told.
const maxEnvNames = 1000

// envVariable is variable for FPM's own configuration, where it is noted.
func (r *fpmReader) envVariable(name string) (string, bool) {
	refers(&r.fpm.env, name)
	return r.variable(name)
}

// passes looks at the value of env[NAME]: FPM takes what begins with a dollar for
// the name of a variable of its own environment.
func (r *fpmReader) passes(value string) {
	if name, ok := strings.CutPrefix(value, "$"); ok {
		refers(&r.fpm.env, name)
	}
}

// refers notes a variable of the environment.
func refers(list *[]string, name string) {
	if isVariable(name) && len(*list) < maxEnvNames && !slices.Contains(*list, name) {
		*list = append(*list, name)
	}
}

func isVariable(name string) bool {
	return name != "" && !isDigit(name[0]) && strings.IndexFunc(name, func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	}) < 0
}

// EnvNames returns the variables of the environment that the configuration refers
// to, as ${NAME} or as the value $NAME of an env[], sorted and once each, whether
// they are set or not. What else a pool with KeepsEnv makes use of is not known.
func (f *FPM) EnvNames() []string {
	names := slices.Clone(f.env)
	slices.Sort(names)
	return names
}

// EnvNames returns the variables of the environment that the settings refer to as
// ${NAME}, sorted and once each, whether they are set or not.
func (i *Ini) EnvNames() []string {
	names := slices.Clone(i.env)
	slices.Sort(names)
	return names
}
