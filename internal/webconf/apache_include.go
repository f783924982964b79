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

var (
	errTooManyFiles = fmt.Errorf("more than %d files are included", maxFiles)
	errTooLarge     = fmt.Errorf("the configuration is larger than %d MiB", maxTotal>>20)
	errTooManyNames = fmt.Errorf("more than %d directory entries", maxLooked)
	errNoMatch      = errors.New("nothing matches")
	errTooDeep      = fmt.Errorf("more than %d directories in one another", maxIncludeDirs)
)

const (
	maxIncludeDirs = 20            // httpd's own limit
	maxLooked      = 10 * maxNames // directory entries looked at in one reading
)

// include reads what Include and IncludeOptional name: a file; a directory
// with all that is in it; or a pattern, of which every part may hold wildcards.
func (r *apacheReader) include(d *Directive) ([]*Directive, error) {
	at := position{d.File, d.Line}
	if r.nested >= maxApacheIncludes {
		return nil, at.fault("more than %d files include one another", maxApacheIncludes)
	}
	optional := strings.EqualFold(d.Name, "IncludeOptional")
	name := r.underRoot(d.Args[0])
	var list []*Directive
	var err error
	if d.Args[0] == "" {
		return nil, at.fault("%s of nothing", d.Name)
	} else if i := firstMagic(name); i < 0 {
		list, err = r.includePath(name, optional, 0)
	} else {
		list, err = r.includeGlob(orRoot(path.Clean(name[:i])), strings.TrimPrefix(name[i:], "/"), optional)
	}
	var syntax *SyntaxError
	var nested *includeError
	if err == nil || errors.As(err, &syntax) || errors.As(err, &nested) {
		return list, err
	}
	return nil, &includeError{at: at, name: d.Name, cause: err}
}

// includeError is a file that could not be read, and the directive that asked
// for it; where inclusions are nested, the innermost.
type includeError struct {
	at    position
	name  string
	cause error
}

func (e *includeError) Error() string {
	return fmt.Sprintf("%s:%d: %s: %s", conferr.Show(e.at.file), e.at.line, conferr.Show(e.name), e.cause)
}
func (e *includeError) Unwrap() error { return e.cause }

// firstMagic is where the first part with a wildcard begins, its slash
// included; -1 if there is none.
func firstMagic(name string) int {
	begin := 0
	for i := 1; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if magic(name[begin:i]) {
			return begin
		}
		begin = i
	}
	return -1
}

// magic tells a pattern from a plain name, as httpd does: a bracket counts
// only with its partner.
func magic(part string) bool {
	open := false
	for i := 0; i < len(part); i++ {
		switch part[i] {
		case '\\':
			i++
		case '*', '?':
			return true
		case '[':
			open = true
		case ']':
			if open {
				return true
			}
		}
	}
	return false
}

// gone tells that there is nothing of that name.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func (r *apacheReader) includePath(name string, optional bool, depth int) ([]*Directive, error) {
	list, err := r.file(name)
	var unread *conferr.ReadError
	if err == nil || !errors.As(err, &unread) || unread.File != name {
		return list, err
	}
	names, derr := r.readDir(name)
	if derr != nil {
		if optional && gone(err) {
			return nil, nil
		}
		return nil, err
	}
	if depth >= maxIncludeDirs {
		return nil, &conferr.ReadError{File: name, Cause: errTooDeep}
	}
	var all []*Directive
	for _, n := range names {
		more, err := r.includePath(name+"/"+n, optional, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// includeGlob reads what matches below dir. Pattern has no slash before it.
func (r *apacheReader) includeGlob(dir, pattern string, optional bool) ([]*Directive, error) {
	part, rest, inner := strings.Cut(pattern, "/")
	if !magic(part) {
		name := strings.TrimSuffix(dir, "/") + "/" + part
		if inner {
			return r.includeGlob(name, rest, optional)
		}
		return r.includePath(name, optional, 0)
	}
	names, err := r.readDir(dir)
	if err != nil {
		if optional && gone(err) {
			return nil, nil
		}
		return nil, &conferr.ReadError{File: dir, Cause: err}
	}
	goPart := strings.ReplaceAll(part, "[!", "[^")
	found := false
	var all []*Directive
	for _, n := range names {
		if n[0] == '.' && part[0] != '.' {
			continue
		}
		if match, _ := path.Match(goPart, n); !match {
			continue
		}
		name := strings.TrimSuffix(dir, "/") + "/" + n
		var more []*Directive
		if !inner {
			more, err = r.includePath(name, optional, 0)
		} else {
			// Only what is a directory matches here.
			if _, derr := r.readDir(name); derr != nil {
				continue
			}
			more, err = r.includeGlob(name, rest, optional)
		}
		if err != nil {
			return nil, err
		}
		found = true
		all = append(all, more...)
	}
	if !found && !optional {
		return nil, &conferr.ReadError{File: dir + "/" + part, Cause: errNoMatch}
	}
	return all, nil
}

// readDir lists a directory in the order of strcmp(3).
func (r *apacheReader) readDir(dir string) ([]string, error) {
	if r.looked > maxLooked {
		return nil, errTooManyNames
	}
	names, err := r.fsys.ReadDir(orRoot(dir))
	if err != nil {
		return nil, err
	}
	r.looked += len(names) + 1
	if r.looked > maxLooked {
		return nil, errTooManyNames
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	slices.Sort(names)
	return names, nil
}

// exists tells whether a path leads to a file or a directory.
func (r *apacheReader) exists(name string) (bool, error) {
	r.probes++
	if r.probes > maxFiles {
		return false, fmt.Errorf("more than %d files are asked for", maxFiles)
	}
	_, err := r.fsys.ReadFile(name, 0)
	if !gone(err) {
		return true, nil
	}
	_, err = r.readDir(name)
	return err == nil, nil
}
