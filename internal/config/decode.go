package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxSize bounds a configuration file, in bytes.
const maxSize = 1 << 20

// maxNodes bounds what a file comes to with its aliases written out: nine lines
// of them can stand for thousands of millions of values.
const maxNodes = 100_000

// parse reads one YAML document. An empty one gives nil.
func parse(file string, data []byte) (*yaml.Node, error) {
	if len(data) > maxSize {
		return nil, &Error{File: file, Cause: "it is larger than 1 MiB"}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(file, err)
	}
	switch err := dec.Decode(&more); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, syntaxError(file, err)
	default:
		return nil, &Error{File: file, Line: more.Line, Cause: "a second document begins here",
			Help: "give each jail a file of its own in jails.d"}
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	left := maxNodes
	if !count(doc.Content[0], &left, make(map[*yaml.Node]bool)) {
		return nil, &Error{File: file, Cause: "its aliases stand for too much, or for themselves"}
	}
	if root := doc.Content[0]; root.Tag != "!!null" {
		return root, nil
	}
	return nil, nil
}

// count takes the nodes under n from left, aliases written out, and reports
// whether there were enough.
func count(n *yaml.Node, left *int, open map[*yaml.Node]bool) bool {
	if *left--; *left < 0 {
		return false
	}
	if n.Kind == yaml.AliasNode {
		if n.Alias == nil || open[n.Alias] {
			return false
		}
		open[n.Alias] = true
		defer delete(open, n.Alias)
		return count(n.Alias, left, open)
	}
	if n.Anchor != "" && !open[n] {
		open[n] = true
		defer delete(open, n)
	}
	for _, c := range n.Content {
		if !count(c, left, open) {
			return false
		}
	}
	return true
}

// syntaxError turns the parser's "yaml: line 3: cause" into an Error.
func syntaxError(file string, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{File: file}
	if m := regexp.MustCompile(`^line (\d+): `).FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	e.Cause = "it is no YAML: " + clean(text)
	return e
}

// decoder fills structs from YAML, strictly: a key that a struct has not is an
// error. The parser's own strict mode says less, and names Go types to a user
// who never asked for them.
type decoder struct {
	file string
	jail bool // a jail's file, which must not set what is global
}

func (d *decoder) fail(n *yaml.Node, help, format string, args ...any) error {
	return &Error{File: d.file, Line: n.Line, Cause: fmt.Sprintf(format, args...), Help: help}
}

// mapping decodes n into v, a struct, embedded structs included.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, at string) error {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		if at == "" {
			return d.fail(n, "write KEY: VALUE, one a line", "it has no keys")
		}
		return d.fail(n, "", "%s must have keys of its own", strings.TrimSuffix(at, "."))
	}
	fields, names := map[string]reflect.StructField{}, []string(nil)
	values := map[string]reflect.Value{}
	var collect func(v reflect.Value)
	collect = func(v reflect.Value) {
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Anonymous {
				collect(v.Field(i))
			}
		}
		each(v, func(name string, f reflect.StructField, value reflect.Value) {
			fields[name], values[name] = f, value
			if !d.jail || f.Tag.Get("only") == "" {
				names = append(names, name)
			}
		})
	}
	collect(v)

	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return d.fail(key, "", "a key must be a word")
		}
		f, known := fields[key.Value]
		line, twice := seen[key.Value]
		switch {
		case !known:
			help := didYouMean(key.Value, names)
			if k := key.Value; at == "" && !d.jail && (k == "path" || k == "server" || k == "recipe") {
				help = "it belongs into the file of a jail, in jails.d"
			}
			return d.fail(key, help, "unknown key %s", quote(at+key.Value))
		case twice:
			return d.fail(key, "", "key %s is already in line %d", quote(at+key.Value), line)
		case d.jail && f.Tag.Get("only") != "":
			return d.fail(key, "set it in config.yaml", "key %s holds for all jails, not for one", quote(key.Value))
		}
		seen[key.Value] = key.Line
		if err := d.value(value, f, values[key.Value], at+key.Value); err != nil {
			return err
		}
	}
	return nil
}

// value decodes n into the field f, whose value is v.
func (d *decoder) value(n *yaml.Node, f reflect.StructField, v reflect.Value, name string) error {
	if v.Type() == reflect.TypeFor[yaml.Node]() {
		v.Set(reflect.ValueOf(*resolve(n)))
		return nil
	}
	n = resolve(n)
	if v.Kind() == reflect.Struct {
		return d.mapping(n, v, name+".")
	}
	set := v
	if v.Kind() == reflect.Pointer {
		set = reflect.New(v.Type().Elem()).Elem()
	}
	var err error
	switch to := set.Addr().Interface().(type) {
	case *string:
		*to, err = d.text(n, name)
	case *[]string:
		*to, err = d.list(n, name)
	case *bool:
		b, ok := parseBool(n.Value)
		if n.Kind != yaml.ScalarNode || !ok || n.Tag == "!!int" {
			return d.fail(n, "write true or false", "%s is neither yes nor no", name)
		}
		*to = b
	case *int:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(to) != nil {
			return d.fail(n, "", "%s must be a whole number", name)
		}
	case *Duration:
		if n.Kind != yaml.ScalarNode {
			return d.fail(n, "write it as 10s or 2m", "%s must be a duration", name)
		}
		err = to.Set(n.Value)
	}
	if err == nil {
		err = fits(f, set)
	}
	if err == nil && f.Tag.Get("abs") != "" {
		err = absolute(set)
	}
	if err != nil {
		e := asError(err)
		if e.File != "" {
			return e
		}
		return d.fail(n, e.Help, "%s: %s", name, e.Cause)
	}
	if v.Kind() == reflect.Pointer {
		v.Set(set.Addr())
	}
	return nil
}

// text returns a scalar as it was written: a version such as 1.10 is a text for
// a person, although YAML takes it for the number 1.1.
func (d *decoder) text(n *yaml.Node, name string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", d.fail(n, "", "%s must be a text", name)
	}
	return n.Value, nil
}

// list returns a sequence of texts; one text alone is a list of one.
func (d *decoder) list(n *yaml.Node, name string) ([]string, error) {
	if n.Kind == yaml.ScalarNode {
		s, err := d.text(n, name)
		return []string{s}, err
	}
	if n.Kind != yaml.SequenceNode {
		return nil, d.fail(n, "write it as [A, B]", "%s must be a list", name)
	}
	out := []string{}
	for _, c := range n.Content {
		s, err := d.text(resolve(c), "an entry of "+name)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// absolute refuses relative paths: a file does not know from where it is read.
func absolute(v reflect.Value) error {
	var paths []string
	switch v := v.Interface().(type) {
	case string:
		paths = []string{v}
	case []string:
		paths = v
	}
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return &Error{Cause: quote(p) + " is not an absolute path", Help: "write it from / on"}
		}
	}
	return nil
}

// resolve follows an alias, which parse has found to end.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}
