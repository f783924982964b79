package service

import (
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// title splits what a process shows of itself: "nginx: master process ARGV".
// master is true for the title of a master, child for that of another process;
// both are false for a plain command line.
func title(args []string, name string) (rest string, master, child bool) {
	if len(args) == 0 || name == "" {
		return "", false, false
	}
	t, ok := strings.CutPrefix(args[0], name+": ")
	if !ok {
		return "", false, false
	}
	rest, master = strings.CutPrefix(t, "master process")
	if !master {
		return "", false, true
	}
	return strings.TrimPrefix(rest, " "), true, false
}

// ArgvOf tells with which command line the master p was started, so that it can
// be started like that again; nil if that cannot be told. A title has lost the
// borders between the words: spec.Flags says which options take a value, and a
// value reaches to the next option. The first word is always one of
// spec.Executables.
func ArgvOf(p Process, spec Spec) []string {
	if len(p.args) == 0 || len(spec.Executables) == 0 {
		return nil
	}
	words := p.args
	rest, master, child := title(p.args, spec.Name)
	if child {
		return nil
	}
	if master {
		// php-fpm shows "(/etc/php/fpm.conf)" there, which is no command line.
		if rest == "" || strings.HasPrefix(rest, "(") {
			return nil
		}
		words = splitTitle(rest, spec.Flags)
	}
	argv := slices.Clone(words)
	if !slices.Contains(spec.Executables, path.Clean(argv[0])) {
		argv[0] = startArgv(spec)[0]
	}
	for _, a := range argv {
		if !utf8.ValidString(a) || strings.ContainsFunc(a, unicode.IsControl) {
			return nil
		}
	}
	return argv
}

func startArgv(spec Spec) []string {
	if len(spec.Start) > 0 {
		return spec.Start
	}
	return spec.Executables[:1]
}

// splitTitle splits at blanks, and joins again what is the value of one option.
func splitTitle(s string, flags []Flag) []string {
	words := strings.Split(strings.TrimRight(s, " "), " ")
	isFlag := func(w string) bool {
		return slices.ContainsFunc(flags, func(f Flag) bool { return w == f.Name })
	}
	out := words[:1:1]
	for i := 1; i < len(words); i++ {
		if !isFlag(words[i]) {
			if words[i] != "" {
				out = append(out, words[i])
			}
			continue
		}
		out = append(out, words[i])
		var value []string
		for i+1 < len(words) && !isFlag(words[i+1]) {
			i++
			value = append(value, words[i])
		}
		if len(value) > 0 {
			out = append(out, strings.Join(value, " "))
		}
	}
	return out
}

// instance returns the values of the options that tell one server from another.
func instance(argv []string, flags []Flag) map[string]string {
	v := map[string]string{}
	for _, f := range flags {
		if f.Instance {
			v[f.Name] = cleanValue(f.Default)
		}
	}
	for i := 1; i < len(argv); i++ {
		for _, f := range flags {
			value, attached := strings.CutPrefix(argv[i], f.Name)
			switch {
			case argv[i] == f.Name && i+1 < len(argv):
				i++
				value = argv[i]
			case attached && value != "":
				value = strings.TrimPrefix(value, "=")
			default:
				continue
			}
			if f.Instance {
				v[f.Name] = cleanValue(value)
			}
			break
		}
	}
	return v
}

func cleanValue(s string) string {
	if strings.HasPrefix(s, "/") {
		return path.Clean(s)
	}
	return s
}

// likeness is what a command line says about being the server's.
type likeness int

const (
	unknown likeness = iota
	fits
	differs
)

// fit compares the command line of a master with the recipe's start command.
func fit(p Process, spec Spec) likeness {
	argv := ArgvOf(p, spec)
	if argv == nil {
		return unknown
	}
	want := instance(startArgv(spec), spec.Flags)
	if len(want) == 0 { // nothing tells two servers apart but the whole line
		if slices.Equal(argv, startArgv(spec)) {
			return fits
		}
		return unknown
	}
	for name, value := range instance(argv, spec.Flags) {
		if want[name] != value {
			return differs
		}
	}
	return fits
}

// oneShot tells whether a process was started to do one thing and end.
func oneShot(p Process, spec Spec) bool {
	argv := ArgvOf(p, spec)
	return len(argv) > 1 && slices.ContainsFunc(argv[1:], func(a string) bool { return slices.Contains(spec.OneShot, a) })
}
