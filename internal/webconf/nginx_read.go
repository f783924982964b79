package webconf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/jailup/jailup/internal/conferr"
)

// Nginx is a configuration of nginx, read with all that it includes.
type Nginx struct {
	// Directives is the tree. An include directive is kept and followed by
	// what it brought in.
	Directives []*Directive
	// Files names every file that was read, once each, in the order of the
	// first reading.
	Files []string

	prefix string
}

// ReadNginx reads the configuration whose main file is conf
// ("/etc/nginx/nginx.conf") from a jail.
//
// Prefix is the server's own prefix (nginx -V: --prefix, or -p): relative
// paths of logs, pid file, roots and modules start there, and so does a
// relative conf. Relative includes start at the folder of conf, as nginx has
// it. An empty prefix is taken for that folder, too.
//
// A fault of the language or a bound that is exceeded is a *SyntaxError with
// file and line; a file that cannot be read wraps the FS's error. In both
// cases nginx would not start either, save for the bounds.
func ReadNginx(fsys FS, conf, prefix string) (*Nginx, error) {
	return ReadNginxGiven(fsys, conf, prefix, nil)
}

// commandLine is the File of a directive that stands in no file.
const commandLine = "the command line"

// ReadNginxGiven is ReadNginx for a server that was given directives on its
// command line (-g): they count as written before those of the main file.
func ReadNginxGiven(fsys FS, conf, prefix string, given []string) (*Nginx, error) {
	if !path.IsAbs(prefix) && prefix != "" {
		return nil, fmt.Errorf("cannot read the configuration of nginx: prefix %s is not absolute", conferr.Show(prefix))
	}
	if !path.IsAbs(conf) {
		if prefix == "" {
			return nil, fmt.Errorf("cannot read the configuration of nginx: %s is not absolute", conferr.Show(conf))
		}
		conf = path.Join(prefix, conf)
	}
	conf = path.Clean(conf)
	if prefix == "" {
		prefix = path.Dir(conf)
	}
	r := &nginxReader{fsys: fsys, confDir: path.Dir(conf), seen: map[string]bool{}}
	tree, err := r.given(given)
	if err == nil {
		var more []*Directive
		more, err = r.file(conf, false)
		tree = append(tree, more...)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration of nginx: %w", err)
	}
	return &Nginx{Directives: tree, Files: r.files, prefix: path.Clean(prefix)}, nil
}

type nginxReader struct {
	fsys    FS
	confDir string
	files   []string
	seen    map[string]bool
	stack   []string // files that are being read, outermost first
	reads   int
	bytes   int64
	kept    int
	depth   int
}

// position is where a directive stands, for faults.
type position struct {
	file string
	line int
}

func (p position) fault(format string, args ...any) error {
	return &SyntaxError{File: p.file, Line: p.line, Msg: fmt.Sprintf(format, args...)}
}

// given reads what stands on the command line.
func (r *nginxReader) given(texts []string) ([]*Directive, error) {
	var all []*Directive
	for _, text := range texts {
		l := newLexer([]byte(text))
		list, closed, err := r.block(l, commandLine, false)
		if err != nil {
			return nil, err
		}
		if closed {
			return nil, position{commandLine, l.line}.fault(`unexpected "}"`)
		}
		all = append(all, list...)
	}
	return all, nil
}

// file reads one file as a sequence of directives. Drop reads without keeping.
func (r *nginxReader) file(name string, drop bool) ([]*Directive, error) {
	r.reads++
	if r.reads > maxFiles {
		return nil, fmt.Errorf("more than %d files are included", maxFiles)
	}
	data, err := r.fsys.ReadFile(name, maxFile)
	if err != nil {
		return nil, &conferr.ReadError{File: name, Cause: err}
	}
	r.bytes += int64(len(data))
	if r.bytes > maxTotal {
		return nil, fmt.Errorf("%s: the configuration is larger than %d MiB", conferr.Show(name), maxTotal>>20)
	}
	if !r.seen[name] {
		r.seen[name] = true
		r.files = append(r.files, name)
	}
	r.stack = append(r.stack, name)
	defer func() { r.stack = r.stack[:len(r.stack)-1] }()
	l := newLexer(data)
	list, closed, err := r.block(l, name, drop)
	if err != nil {
		return nil, err
	}
	if closed {
		return nil, position{name, l.line}.fault(`unexpected "}"`)
	}
	return list, nil
}

// block reads directives up to the closing brace (closed) or the end of file.
func (r *nginxReader) block(l *lexer, file string, drop bool) (list []*Directive, closed bool, err error) {
	for {
		d, end, err := r.directive(l, file)
		if err != nil {
			return nil, false, err
		}
		if d == nil {
			return list, end == tokClose, nil
		}
		if !drop {
			r.kept++
			if r.kept > maxDirectives {
				return nil, false, position{file, d.Line}.fault("more than %d directives", maxDirectives)
			}
			list = append(list, d)
		}
		if end == tokOpen {
			if err := r.body(l, d, drop); err != nil {
				return nil, false, err
			}
			continue
		}
		if d.Name == "include" && len(d.Args) == 1 {
			more, err := r.include(d, drop)
			if err != nil {
				return nil, false, err
			}
			list = append(list, more...)
		}
	}
}

// directive reads up to ";", "{" or, with no directive, to "}" or the end.
func (r *nginxReader) directive(l *lexer, file string) (*Directive, tokenKind, error) {
	var d *Directive
	for {
		t, fault := l.next()
		if fault != "" {
			return nil, 0, position{file, t.line}.fault("%s", fault)
		}
		switch t.kind {
		case tokWord:
			if d == nil {
				d = &Directive{Name: t.text, File: file, Line: t.line}
				continue
			}
			if len(d.Args) >= maxArgs {
				return nil, 0, position{file, d.Line}.fault("%s has more than %d arguments", conferr.Show(d.Name), maxArgs)
			}
			d.Args = append(d.Args, t.text)
		case tokEnd, tokOpen:
			if d == nil {
				what := `";"`
				if t.kind == tokOpen {
					what = `"{"`
				}
				return nil, 0, position{file, t.line}.fault("unexpected %s", what)
			}
			d.IsBlock = t.kind == tokOpen
			return d, t.kind, nil
		case tokClose:
			if d != nil {
				return nil, 0, position{file, t.line}.fault(`unexpected "}" after %s`, conferr.Show(d.Name))
			}
			return nil, tokClose, nil
		case tokEOF:
			if d != nil {
				return nil, 0, position{file, t.line}.fault("unexpected end of file after %s", conferr.Show(d.Name))
			}
			return nil, tokEOF, nil
		}
	}
}

// body reads the inside of a block directive.
func (r *nginxReader) body(l *lexer, d *Directive, drop bool) error {
	at := position{d.File, d.Line}
	if strings.HasSuffix(d.Name, "_by_lua_block") {
		if !l.skipLua() {
			return at.fault("the block of %s is not closed", conferr.Show(d.Name))
		}
		return nil
	}
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		return at.fault("more than %d blocks in one another", maxDepth)
	}
	inner, closed, err := r.block(l, d.File, drop || dataTable(d.Name))
	if err != nil {
		return err
	}
	if !closed {
		return at.fault("the block of %s is not closed", conferr.Show(d.Name))
	}
	d.Block = inner
	return nil
}

// dataTable tells blocks that hold rows of a table and nothing a reader asks
// for. Country tables have hundreds of thousands of rows.
func dataTable(name string) bool {
	return name == "geo" || name == "types" || name == "charset_map"
}

// include reads what an include directive names.
func (r *nginxReader) include(d *Directive, drop bool) ([]*Directive, error) {
	at := position{d.File, d.Line}
	if len(r.stack) > maxIncludes {
		return nil, at.fault("more than %d files include one another", maxIncludes)
	}
	pattern := d.Args[0]
	if pattern == "" || strings.IndexByte(pattern, 0) >= 0 {
		return nil, at.fault("include of %s", conferr.Show(pattern))
	}
	if !path.IsAbs(pattern) {
		pattern = r.confDir + "/" + pattern
	}
	names := []string{path.Clean(pattern)}
	if strings.ContainsAny(pattern, "*?[") {
		var err error
		if names, err = r.glob(path.Clean(pattern)); err != nil {
			return nil, at.fault("include %s: %s", conferr.Show(d.Args[0]), conferr.Reason(err))
		}
	}
	var all []*Directive
	for _, name := range names {
		if slices.Contains(r.stack, name) {
			return nil, at.fault("%s includes itself", conferr.Show(name))
		}
		list, err := r.file(name, drop)
		if err != nil {
			var syntax *SyntaxError
			if errors.As(err, &syntax) {
				return nil, err
			}
			return nil, fmt.Errorf("%s:%d: include: %w", conferr.Show(d.File), d.Line, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// glob names the files that match, in the order of glob(3) in the C locale.
// Nothing matching is no error, as it is none for nginx.
func (r *nginxReader) glob(pattern string) ([]string, error) {
	found := []string{""}
	looked := 0
	magic := false
	for _, part := range strings.Split(strings.TrimPrefix(pattern, "/"), "/") {
		isPattern := strings.ContainsAny(part, "*?[")
		magic = magic || isPattern
		if !magic {
			found[0] += "/" + part
			continue
		}
		// glob(3) takes [!a] for what Go writes as [^a].
		goPart := strings.ReplaceAll(part, "[!", "[^")
		var next []string
		for _, dir := range found {
			names, err := r.fsys.ReadDir(orRoot(dir))
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
				continue
			case err != nil:
				return nil, err
			}
			looked += len(names)
			if looked > maxNames {
				return nil, fmt.Errorf("more than %d directory entries", maxNames)
			}
			names = slices.Clone(names)
			slices.Sort(names)
			for _, name := range names {
				if name == "" {
					continue
				}
				match := name == part
				if isPattern {
					match, _ = path.Match(goPart, name)
					// A leading dot must be asked for.
					match = match && (name[0] != '.' || part[0] == '.')
				}
				if match {
					next = append(next, dir+"/"+name)
				}
			}
		}
		found = next
		if len(found) == 0 {
			return nil, nil
		}
	}
	return found, nil
}

func orRoot(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}
