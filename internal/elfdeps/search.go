package elfdeps

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// searchList is one stretch of the search, such as a DT_RPATH. A file that is
// there and cannot be opened ends the stretch, not the search.
type searchList []string

// SearchPath gives the directories in which ld.so looks for what obj needs, in
// order and expanded, for messages. chain are the paths of its loaders, the
// nearest first and the program last; what of it cannot be read is left out.
// Directories are named as ld.so names them, whether they exist or not; the
// glibc-hwcaps directories below them are not listed.
func (r *Resolver) SearchPath(obj Object, chain ...string) []string {
	n := &node{obj: &obj, opened: obj.Path}
	last := n
	for _, p := range chain {
		if _, o, err := r.load(p); err == nil {
			last.loader = &node{obj: o, opened: p}
			last = last.loader
		}
	}
	last.main = true
	s := &space{r: r, main: last, ld: r.dialect(last.obj)}
	return slices.Concat(s.lists(n)...)
}

// lists gives the stretches of the search for what n names.
func (s *space) lists(n *node) []searchList {
	var out []searchList
	add := func(dirs []string) {
		if len(dirs) > 0 {
			out = append(out, dirs)
		}
	}
	if !n.obj.hasRunpath {
		for l := n; l != nil; l = l.loader {
			add(s.expandAll(l, l.obj.Rpath))
		}
	}
	add(s.expandAll(n, n.obj.Runpath))
	conf, _ := s.r.config()
	if n.obj.flags1&flagNoDefLib != 0 {
		// Then what the cache has of the system directories does not count.
		conf = slices.DeleteFunc(slices.Clone(conf), func(d string) bool { return slices.Contains(s.ld.dirs, d) })
		add(conf)
		return out
	}
	add(conf)
	add(s.ld.dirs)
	return out
}

func (s *space) expandAll(n *node, dirs []string) searchList {
	var out searchList
	for _, d := range dirs {
		e, ok := s.expand(n, d)
		if !ok {
			continue
		}
		// An empty directory is the current one, where a relative one begins
		// too: the root, for a chrooted server. ".." stays for the walk, which
		// takes it of where a link leads and not of the text.
		if !strings.HasPrefix(e, "/") {
			e = "/" + e
		}
		if !strings.Contains(e, "..") {
			e = path.Clean(e)
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// expand puts in what $ORIGIN, $LIB and $PLATFORM stand for, each also in
// braces. Any other name stays as it is written. ok is false where the result
// must not be used: $ORIGIN in a set-user-ID program counts only at the
// beginning, and only if it leads into a system directory.
func (s *space) expand(n *node, text string) (out string, ok bool) {
	if !strings.Contains(text, "$") {
		return text, true
	}
	var b strings.Builder
	usesOrigin := false
	for i := 0; i < len(text); {
		name, size := "", 0
		if text[i] == '$' {
			name, size = token(text[i+1:])
		}
		switch name {
		case "ORIGIN":
			if s.secure && n.main && i != 0 {
				return "", false
			}
			usesOrigin = true
			s.askedProc = s.askedProc || n.main
			b.WriteString(n.origin())
		case "LIB":
			b.WriteString(s.ld.lib)
		case "PLATFORM":
			if s.ld.platform == "" {
				return "", false
			}
			b.WriteString(s.ld.platform)
		default:
			b.WriteByte(text[i])
		}
		i += 1 + size
		if b.Len() > maxPath {
			return "", false
		}
	}
	out = b.String()
	if usesOrigin && s.secure && n.main {
		clean := path.Clean(out) + "/"
		return out, slices.ContainsFunc(s.ld.dirs, func(d string) bool { return strings.HasPrefix(clean, d+"/") })
	}
	return out, true
}

// token finds one of the three names after a dollar sign; size is how much of
// the text it takes, braces included.
func token(text string) (name string, size int) {
	for _, name := range []string{"ORIGIN", "LIB", "PLATFORM"} {
		if strings.HasPrefix(text, "{"+name+"}") {
			return name, len(name) + 2
		}
		if rest, ok := strings.CutPrefix(text, name); ok && (rest == "" || !identifier(rest[0])) {
			return name, len(name)
		}
	}
	return "", 0
}

func identifier(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// hit is a file that ld.so would open for a name.
type hit struct {
	opened string // as ld.so names it
	at     place
	obj    *Object
}

// result of a search: the file that any processor takes, and those that some
// take instead.
type result struct {
	hit
	variants []hit
}

// errNone says that nothing was found, and what was passed over.
type errNone struct{ other string }

func (e errNone) Error() string {
	if e.other != "" {
		return e.other
	}
	return "no file"
}

// find looks for a name as ld.so does for what n wants. The error's text is the
// reason; a limit or a cancelled context comes as a *limitError.
func (s *space) find(n *node, name string) (result, error) {
	if name == "" {
		return result{}, errNone{"an empty name"}
	}
	if strings.Contains(name, "/") {
		return s.findPath(n, name)
	}
	if strings.Contains(name, "$") {
		expanded, ok := s.expand(n, name)
		if !ok {
			return result{}, errNone{"its name cannot be expanded"}
		}
		if strings.Contains(expanded, "/") {
			return s.findPath(n, name)
		}
		name = expanded
	}
	none := errNone{}
	var variants []hit
	for _, list := range s.listsOf(n) {
		for _, dir := range list {
			at, err := s.r.resolve(dir)
			if err := s.work(); err != nil {
				return result{}, err
			}
			if err != nil || !at.dir() {
				continue
			}
			for _, sub := range s.r.variants(at.path, n.obj.Machine) {
				subAt, err := s.r.resolve(join(dir, sub))
				if err != nil || !subAt.dir() {
					continue
				}
				h, err := s.try(n, subAt, join(dir, sub), name)
				if err == nil {
					variants = append(variants, h)
				} else if fatal := new(limitError); errors.As(err, &fatal) {
					return result{}, err
				}
			}
			h, err := s.try(n, at, dir, name)
			var miss errNone
			var stop stopError
			switch {
			case err == nil:
				return result{h, variants}, nil
			case errors.As(err, &miss):
				if miss.other != "" && none.other == "" {
					none = miss
				}
				continue
			case errors.As(err, &stop):
				none = errNone{stop.Error()}
			default:
				return result{}, err
			}
			break
		}
	}
	if k := len(variants); k > 0 {
		// Only some processors find it; the last is the one that most do.
		return result{variants[k-1], variants[:k-1]}, nil
	}
	return result{}, none
}

func (s *space) findPath(n *node, name string) (result, error) {
	expanded, ok := s.expand(n, name)
	if !ok {
		return result{}, errNone{"its name cannot be expanded"}
	}
	at, err := s.r.resolve(expanded)
	if err := s.work(); err != nil {
		return result{}, err
	}
	if err == nil {
		var h hit
		if h, err = s.verify(n, at, expanded); err == nil {
			return result{hit: h}, nil
		}
		return result{}, err
	}
	if absent(err) {
		return result{}, errNone{}
	}
	return result{}, errNone{fmt.Sprintf("cannot open %s: %v", show(expanded), err)}
}

// stopError says that a file is there but cannot be opened.
type stopError struct{ reason string }

func (e stopError) Error() string { return e.reason }

// badError says that a file is there and that ld.so gives up on it.
type badError struct{ reason string }

func (e badError) Error() string { return e.reason }

func (s *space) try(n *node, dir place, dirName, name string) (hit, error) {
	if err := s.work(); err != nil {
		return hit{}, err
	}
	at, err := s.r.in(dir, name)
	switch {
	case err == nil:
		return s.verify(n, at, join(dirName, name))
	case absent(err), errors.Is(err, fs.ErrPermission):
		return hit{}, errNone{}
	}
	return hit{}, stopError{fmt.Sprintf("cannot open %s: %v", show(join(dirName, name)), err)}
}

// verify decides on a file as ld.so does: another class or machine is passed
// over (errNone), anything else that cannot be loaded ends the search.
func (s *space) verify(n *node, at place, opened string) (hit, error) {
	if !at.regular() {
		return hit{}, badError{fmt.Sprintf("%s is not a regular file", show(at.path))}
	}
	obj, err := s.r.object(at.path)
	switch {
	case errors.Is(err, ErrNotELF):
		return hit{}, badError{fmt.Sprintf("%s is not an ELF file", show(at.path))}
	case errors.Is(err, fs.ErrPermission):
		return hit{}, errNone{}
	case obj != nil && obj.Class != elf.ELFCLASSNONE && obj.Class != n.obj.Class:
		return hit{}, errNone{fmt.Sprintf("wrong class: %s is %v", show(at.path), obj.Class)}
	case err != nil && (obj == nil || obj.Machine == n.obj.Machine || obj.Data != n.obj.Data):
		return hit{}, badError{err.Error()}
	case obj.Data != n.obj.Data:
		return hit{}, badError{fmt.Sprintf("wrong byte order: %s is %v", show(at.path), obj.Data)}
	case obj.Machine != n.obj.Machine:
		return hit{}, errNone{fmt.Sprintf("wrong machine: %s is for %v", show(at.path), obj.Machine)}
	case !obj.loadable():
		return hit{}, badError{fmt.Sprintf("%s is neither a program nor a library", show(at.path))}
	case obj.Type == elf.ET_EXEC || obj.flags1&flagPIE != 0:
		return hit{}, badError{fmt.Sprintf("%s is a program, not a library", show(at.path))}
	case !obj.dynamic:
		return hit{}, badError{fmt.Sprintf("%s has no dynamic section", show(at.path))}
	}
	return hit{opened, at, obj}, nil
}
