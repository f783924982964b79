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
	const masterTitle = "master process"
	if t != "" && strings.HasPrefix(masterTitle, t) {
		return "", true, false // cut: a title has the room of the command line and environment
	}
	rest, master = strings.CutPrefix(t, masterTitle)
	if !master {
		return "", false, true
	}
	return strings.TrimPrefix(rest, " "), true, false
}

// ArgvOf tells with which command line the master p was started, so that it can
// be started like that again; nil if that cannot be told. A title has lost the
// borders between the words: spec.Flags says which options take a value, and a
// value reaches to the next option. php-fpm's title tells nothing but the
// configuration file, in parentheses: that is the start command of the spec with
// this file as the value of the first instance flag, so the server is started as
// a daemon, and options like -d are lost. The first word is always one of
// spec.Executables.
func ArgvOf(p Process, spec Spec) []string {
	if len(p.args) == 0 || len(spec.Executables) == 0 || p.cut {
		return nil
	}
	words := p.args
	rest, master, child := title(p.args, spec.Name)
	if child {
		return nil
	}
	if master {
		if rest == "" {
			return nil
		}
		words = splitTitle(rest, spec.Flags)
		if strings.HasPrefix(rest, "(") {
			words = withConfiguration(rest, spec)
		}
	}
	if len(words) == 0 {
		return nil
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

// FromTitle tells that p shows a title in the place of its command line. The title
// is written over the environment as well, of which nothing can be read then.
func FromTitle(p Process) bool {
	return len(p.args) > 0 && strings.Contains(p.args[0], ": ")
}

// OptionsLost tells that p shows a title which leaves options of its command line
// out, so that what ArgvOf returns may not be all that it was started with: that of
// php-fpm, and one that was cut.
func OptionsLost(p Process, spec Spec) bool {
	rest, master, _ := title(p.args, spec.Name)
	return master && (p.cut || rest == "" || strings.HasPrefix(rest, "("))
}

// withConfiguration is the start command with another configuration file: the
// one that a title "(FILE)" tells. It is nil if the title was cut, if the file is
// told relative to a directory that is not known, or if no flag takes it.
func withConfiguration(title string, spec Spec) []string {
	file, whole := strings.CutSuffix(strings.TrimRight(title[1:], " "), ")")
	i := slices.IndexFunc(spec.Flags, func(f Flag) bool { return f.Instance })
	if !whole || i < 0 || !path.IsAbs(file) {
		return nil
	}
	f, start := spec.Flags[i], startArgv(spec)
	if instance(start, spec.Flags)[f.Name] == path.Clean(file) {
		return start
	}
	argv := start[:1:1]
	for _, o := range options(start, spec.Flags) {
		if o.flag == nil || o.flag.Name != f.Name {
			argv = append(argv, o.words...)
		}
	}
	return append(argv, f.Name, file)
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
		return slices.ContainsFunc(flags, func(f Flag) bool { return f.is(w) })
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

// option is one of a command line, or a word that is none.
type option struct {
	words []string // as they stand there
	flag  *Flag    // nil if it is none that takes a value
	value string
}

func (f *Flag) is(word string) bool { return word == f.Name || slices.Contains(f.Aliases, word) }

// attached returns the value that stands in the same word as the option:
// -f/x, --file=/x.
func (f *Flag) attached(word string) (string, bool) {
	for _, name := range append([]string{f.Name}, f.Aliases...) {
		value, ok := strings.CutPrefix(word, name)
		long := strings.HasPrefix(name, "--")
		if !ok || value == "" || long && value[0] != '=' {
			continue
		}
		return strings.TrimPrefix(value, "="), true
	}
	return "", false
}

// Arg is one option of a command line, or a word that is none.
type Arg struct {
	Words []string // as they stand there: the option alone, or with its value
	Name  string   // of the flag that it is, whichever of its names is written; "" if of none
	Value string   // of the flag
}

// Args splits a command line after its first word. A value may stand in the next
// word or in the option's own (-f/x, --file=/x), and the option behind others of
// one letter (-qc /x): those are told as a word of their own then.
func Args(argv []string, flags []Flag) []Arg {
	var all []Arg
	for _, o := range options(argv, flags) {
		a := Arg{Words: o.words, Value: o.value}
		if o.flag != nil {
			a.Name = o.flag.Name
		}
		all = append(all, a)
	}
	return all
}

// bundle parts letters that take no value ("-q") from the option that follows them
// in one word ("-qc").
func bundle(word string, flags []Flag) (letters, rest string, ok bool) {
	if len(word) < 3 || word[0] != '-' || word[1] == '-' {
		return "", "", false
	}
	for i := 1; i < len(word); i++ {
		letter := "-" + word[i:i+1]
		if slices.ContainsFunc(flags, func(f Flag) bool { return f.is(letter) }) {
			return word[:i], "-" + word[i:], i > 1
		}
		if c := word[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '?' {
			break
		}
	}
	return "", "", false
}

// options splits a command line after its first word.
func options(argv []string, flags []Flag) []option {
	var all []option
next:
	for i := 1; i < len(argv); i++ {
		if letters, rest, ok := bundle(argv[i], flags); ok {
			all = append(all, option{words: []string{letters}})
			argv = slices.Clone(argv)
			argv[i] = rest
		}
		for j := range flags {
			f := &flags[j]
			if f.is(argv[i]) && i+1 < len(argv) {
				i++
				all = append(all, option{argv[i-1 : i+1 : i+1], f, argv[i]})
				continue next
			}
			if value, ok := f.attached(argv[i]); ok {
				all = append(all, option{argv[i : i+1 : i+1], f, value})
				continue next
			}
		}
		all = append(all, option{words: argv[i : i+1 : i+1]})
	}
	return all
}

// instance returns the values of the options that tell one server from another.
func instance(argv []string, flags []Flag) map[string]string {
	v := map[string]string{}
	repeated := map[string][]string{}
	for _, f := range flags {
		if f.Instance {
			v[f.Name] = cleanValue(f.Default)
		}
	}
	for _, o := range options(argv, flags) {
		switch {
		case o.flag == nil || !o.flag.Instance || slices.Contains(o.flag.Free, o.value):
		case o.flag.Repeats:
			repeated[o.flag.Name] = append(repeated[o.flag.Name], cleanValue(o.value))
		default:
			v[o.flag.Name] = cleanValue(o.value)
		}
	}
	for name, values := range repeated {
		slices.Sort(values)
		v[name] = strings.Join(slices.Compact(values), "\x00")
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
	for _, o := range options(ArgvOf(p, spec), spec.Flags) {
		if o.flag != nil {
			for _, name := range append([]string{o.flag.Name}, o.flag.Aliases...) {
				if slices.Contains(spec.OneShot, name+" "+o.value) {
					return true
				}
			}
		} else if isOneShot(o.words[0], spec) {
			return true
		}
	}
	return false
}

// isOneShot looks at one word, which may hold several options of one letter
// ("-tD"), as far as they are known.
func isOneShot(word string, spec Spec) bool {
	if slices.Contains(spec.OneShot, word) {
		return true
	}
	letters, ok := strings.CutPrefix(word, "-")
	if !ok || letters == "" || letters[0] == '-' || !slices.Contains(spec.OneShot, "-"+letters[:1]) {
		return false
	}
	for i := range letters {
		letter := "-" + letters[i:i+1]
		if slices.ContainsFunc(spec.Flags, func(f Flag) bool { return f.is(letter) }) {
			return true // the rest is its value
		}
		if !slices.Contains(spec.OneShot, letter) {
			return false
		}
	}
	return true
}
