package webconf

import (
	"bytes"
	"path"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// apacheReader does what httpd does while it reads: conditions, inclusions,
// definitions and the loading of modules happen line by line, so that what is
// true for one line may not be for the next.
type apacheReader struct {
	fsys    FS
	root    string // ServerRoot
	version string
	env     map[string]string
	defines map[string]bool
	vars    map[string]string // definitions that have a value
	macros  map[string]*apacheMacro
	using   []string // macros that are being used, outermost first

	modules  []Module
	loaded   map[string]bool // names by which <IfModule> knows a module
	warnings []string
	used     []string // names of the environment that lines refer to
	files    []string
	seen     map[string]bool

	nested   int // files in one another
	depth    int // sections in one another
	reads    int
	bytes    int64
	expanded int64
	kept     int
	probes   int
	looked   int // directory entries
}

// maxApacheIncludes is httpd's own limit, which stops a file that includes
// itself.
const maxApacheIncludes = 50

// maxWarnings bounds what is said of one configuration.
const maxWarnings = 100

// warn notes what could not be known for certain, once each.
func (r *apacheReader) warn(at position, text string) {
	if len(r.warnings) >= maxWarnings {
		return
	}
	text = (&SyntaxError{File: at.file, Line: at.line, Msg: text}).Error()
	for _, w := range r.warnings {
		if w == text {
			return
		}
	}
	r.warnings = append(r.warnings, text)
}

// all reads the main file, with what the command line puts before and behind it.
func (r *apacheReader) all(main string, o ApacheOptions) ([]*Directive, error) {
	tree, err := r.given(o.Before)
	if err != nil {
		return nil, err
	}
	for _, read := range []func() ([]*Directive, error){
		func() ([]*Directive, error) { return r.file(main) },
		func() ([]*Directive, error) { return r.given(o.After) },
	} {
		more, err := read()
		if err != nil {
			return nil, err
		}
		tree = append(tree, more...)
	}
	return tree, nil
}

// given reads lines that stand on the command line.
func (r *apacheReader) given(lines []string) ([]*Directive, error) {
	src := &apacheSource{file: commandLine}
	for i, l := range lines {
		if l = strings.TrimFunc(l, isApacheSpace); l != "" && l[0] != '#' {
			src.lines = append(src.lines, apacheLine{l, i + 1})
		}
	}
	return r.block(src, apacheSection{})
}

// file reads one file. Its sections must be closed within it.
func (r *apacheReader) file(name string) ([]*Directive, error) {
	r.reads++
	if r.reads > maxFiles {
		return nil, &conferr.ReadError{File: name, Cause: errTooManyFiles}
	}
	if name == "/dev/null" {
		return nil, nil // httpd lets this device pass for an empty file
	}
	data, err := r.fsys.ReadFile(name, maxFile)
	if err != nil {
		return nil, &conferr.ReadError{File: name, Cause: err}
	}
	r.bytes += int64(len(data))
	if r.bytes > maxTotal {
		return nil, &conferr.ReadError{File: name, Cause: errTooLarge}
	}
	if !r.seen[name] {
		r.seen[name] = true
		r.files = append(r.files, name)
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, position{name, 1 + bytes.Count(data[:i], []byte("\n"))}.fault("a NUL byte")
	}
	r.nested++
	defer func() { r.nested-- }()
	return r.block(newApacheSource(name, data), apacheSection{})
}

// apacheSection is a section that is being read; its name is "" for a file.
type apacheSection struct {
	name string
	line int
	// condition tells that what is inside counts as if it stood outside.
	condition bool
}

// block reads up to the section's end.
func (r *apacheReader) block(src *apacheSource, in apacheSection) ([]*Directive, error) {
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		return nil, position{src.file, in.line}.fault("more than %d sections in one another", maxDepth)
	}
	var list []*Directive
	for {
		l, ok := src.next()
		if !ok {
			return list, r.unclosed(src, in)
		}
		at := position{src.file, l.line}
		text, err := r.resolve(l.text, at)
		if err != nil {
			return nil, err
		}
		name, rest := cutWord(text)
		if strings.HasPrefix(name, "</") {
			return list, closes(name, in, at)
		}
		r.kept++
		if r.kept > maxDirectives {
			return nil, at.fault("more than %d directives", maxDirectives)
		}
		var more []*Directive
		if strings.HasPrefix(name, "<") {
			more, err = r.section(src, name[1:], rest, at)
		} else {
			more, err = r.directive(name, rest, at)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
}

// unclosed is what the end of a file means for an open section. Httpd lets it
// pass for a condition that holds, so this is no reason to refuse.
func (r *apacheReader) unclosed(src *apacheSource, in apacheSection) error {
	at := position{src.file, in.line}
	if in.name == "" {
		return nil
	}
	if in.condition {
		r.warn(at, "<"+conferr.Show(in.name)+"> is not closed")
		return nil
	}
	return at.fault("<%s> is not closed", conferr.Show(in.name))
}

// closes checks a closing tag against the section that is open.
func closes(tag string, in apacheSection, at position) error {
	name, ok := strings.CutSuffix(tag[2:], ">")
	switch {
	case !ok:
		return at.fault("%s has no closing >", conferr.Show(tag))
	case in.name == "":
		return at.fault("%s without an open section", conferr.Show(tag))
	case !strings.EqualFold(name, in.name):
		return at.fault("%s where </%s> is due", conferr.Show(tag), conferr.Show(in.name))
	}
	return nil
}

// section reads what begins with <NAME.
func (r *apacheReader) section(src *apacheSource, name, rest string, at position) ([]*Directive, error) {
	inside := ""
	if closed, ok := strings.CutSuffix(name, ">"); ok {
		name = closed
	} else {
		end := strings.LastIndexByte(rest, '>')
		if end < 0 {
			return nil, at.fault("<%s has no closing >", conferr.Show(name))
		}
		inside = rest[:end]
	}
	if name == "" {
		return nil, at.fault("a section without a name")
	}
	args, err := words(inside, at)
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(name, "Macro") {
		return nil, r.define(src, args, at)
	}
	if test := r.condition(name); test != nil {
		if len(args) == 0 || args[0] == "" {
			return nil, at.fault("<%s> without an argument", conferr.Show(name))
		}
		holds, err := test(args, at)
		if err != nil {
			return nil, err
		}
		if !holds {
			return nil, r.skip(src, name, at)
		}
		return r.block(src, apacheSection{name: name, line: at.line, condition: true})
	}
	d := &Directive{Name: name, Args: args, IsBlock: true, File: at.file, Line: at.line}
	d.Block, err = r.block(src, apacheSection{name: name, line: at.line})
	return []*Directive{d}, err
}

// skip passes over a section whose condition does not hold. What is inside is
// looked at only so far that its sections close each other.
func (r *apacheReader) skip(src *apacheSource, name string, at position) error {
	open := []apacheSection{{name: name, line: at.line}}
	for len(open) > 0 {
		in := open[len(open)-1]
		l, ok := src.next()
		if !ok {
			return position{src.file, in.line}.fault("<%s> is not closed", conferr.Show(in.name))
		}
		if l.text[0] != '<' {
			continue
		}
		here := position{src.file, l.line}
		word, _ := cutWord(l.text)
		if strings.HasPrefix(word, "</") {
			if err := closes(word, in, here); err != nil {
				return err
			}
			open = open[:len(open)-1]
			continue
		}
		if r.depth+len(open) >= maxDepth {
			return here.fault("more than %d sections in one another", maxDepth)
		}
		open = append(open, apacheSection{name: strings.TrimSuffix(word[1:], ">"), line: l.line})
	}
	return nil
}

// directive reads a simple directive, and does what httpd does while it reads.
func (r *apacheReader) directive(name, rest string, at position) ([]*Directive, error) {
	args, err := words(rest, at)
	if err != nil {
		return nil, err
	}
	d := &Directive{Name: name, Args: args, File: at.file, Line: at.line}
	list := []*Directive{d}
	if len(args) == 0 {
		return list, nil
	}
	switch strings.ToLower(name) {
	case "serverroot":
		r.root = r.underRoot(args[0])
	case "define":
		r.defines[args[0]] = true
		if len(args) > 1 {
			r.vars[args[0]] = args[1]
		}
	case "undefine":
		delete(r.defines, args[0])
		delete(r.vars, args[0])
	case "loadmodule":
		r.loadModule(d)
	case "loadfile":
		for _, file := range args {
			r.modules = append(r.modules, Module{
				Name: strings.TrimSuffix(path.Base(file), ".so"), Path: r.library(file), File: at.file, Line: at.line, LoadFile: true,
			})
		}
	case "include", "includeoptional":
		more, err := r.include(d)
		return append(list, more...), err
	case "use":
		more, err := r.use(args, at)
		return append(list, more...), err
	case "undefmacro":
		delete(r.macros, strings.ToLower(args[0]))
	}
	return list, nil
}

// underRoot makes a path absolute as httpd does for most of its files.
func (r *apacheReader) underRoot(p string) string { return absoluteIn(r.root, p) }

// absoluteIn is absolute for paths in which a dollar has no meaning.
func absoluteIn(dir, p string) string {
	if !path.IsAbs(p) {
		p = dir + "/" + p
	}
	return path.Clean(p)
}
