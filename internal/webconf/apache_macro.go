package webconf

import (
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// apacheMacro is a section of mod_macro: lines that a later Use brings in,
// with its parameters replaced wherever their names stand.
type apacheMacro struct {
	params []string
	file   string
	lines  []apacheLine
}

// define reads the body of <Macro NAME PARAMETER...>.
func (r *apacheReader) define(src *apacheSource, args []string, at position) error {
	if len(args) == 0 || args[0] == "" {
		return at.fault("<Macro> without a name")
	}
	if slices.Contains(args, "") {
		return at.fault("<Macro %s> has a parameter without a name", conferr.Show(args[0]))
	}
	m := &apacheMacro{params: args[1:], file: src.file}
	for depth := 1; ; {
		l, ok := src.next()
		if !ok {
			return at.fault("<Macro %s> is not closed", conferr.Show(args[0]))
		}
		word, _ := cutWord(l.text)
		switch word = strings.ToLower(strings.TrimSuffix(word, ">")); word {
		case "<macro":
			depth++
		case "</macro":
			depth--
		}
		if depth == 0 {
			break
		}
		m.lines = append(m.lines, l)
	}
	r.macros[strings.ToLower(args[0])] = m
	return nil
}

// use reads a macro's body in the place of Use NAME ARGUMENT...
func (r *apacheReader) use(args []string, at position) ([]*Directive, error) {
	name := strings.ToLower(args[0])
	m := r.macros[name]
	switch {
	case m == nil:
		return nil, at.fault("the macro %s is not defined", conferr.Show(args[0]))
	case len(args)-1 != len(m.params):
		return nil, at.fault("the macro %s wants %d arguments, not %d", conferr.Show(args[0]), len(m.params), len(args)-1)
	case slices.Contains(r.using, name):
		return nil, at.fault("the macro %s uses itself", conferr.Show(args[0]))
	case r.nested >= maxApacheIncludes:
		return nil, at.fault("more than %d macros and files in one another", maxApacheIncludes)
	}
	src := &apacheSource{file: m.file}
	pairs := m.pairs(args[1:])
	replace := strings.NewReplacer(pairs...)
	for _, l := range m.lines {
		size := len(l.text)
		for i := 0; i < len(pairs); i += 2 {
			size += strings.Count(l.text, pairs[i]) * len(pairs[i+1])
		}
		if r.bytes += int64(size); r.bytes > maxTotal {
			return nil, at.fault("%s", errTooLarge)
		}
		text := strings.TrimFunc(replace.Replace(l.text), isApacheSpace)
		if text != "" && text[0] != '#' {
			src.lines = append(src.lines, apacheLine{text, l.line})
		}
	}
	r.using = append(r.using, name)
	r.nested++
	defer func() { r.using, r.nested = r.using[:len(r.using)-1], r.nested-1 }()
	return r.block(src, apacheSection{})
}

// pairs are names and values, the longest name first: of two that begin alike
// it is meant wherever it stands. The value of a name with @ comes in quotes.
func (m *apacheMacro) pairs(values []string) []string {
	order := make([]int, len(m.params))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return len(m.params[b]) - len(m.params[a]) })
	var list []string
	for _, i := range order {
		value := values[i]
		if m.params[i][0] == '@' {
			value = `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(value) + `"`
		}
		list = append(list, m.params[i], value)
	}
	return list
}
