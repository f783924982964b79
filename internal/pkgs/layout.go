package pkgs

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// layout remembers the members of one tar, to refuse those that would land
// somewhere else than where their path says, or on top of one another.
type layout struct {
	kinds map[string]EntryType // by clean path
	lim   Limits
	bytes int64
}

// implied is the kind of a directory that no member has told of yet.
const implied EntryType = 255

func newLayout(lim Limits) *layout {
	return &layout{kinds: map[string]EntryType{}, lim: lim}
}

// add takes one member; path and, of a hard link, link are clean.
//
// A path below a link or a file is refused, so is one below which other members
// already lie unless it is a directory: then no order of unpacking can lead a
// member through a link of the same package.
func (l *layout) add(path string, typ EntryType, link string) error {
	if l.bytes += int64(len(path)); l.bytes > l.lim.Names {
		return fmt.Errorf("the paths take more than %d bytes", l.lim.Names)
	}
	switch old, ok := l.kinds[path]; {
	case ok && old == implied && typ == TypeDir:
	case ok && old == implied:
		return errors.New("it is no directory, but other members lie below it")
	case ok:
		return errors.New("a second member of this path")
	default:
		if err := l.parents(path); err != nil {
			return err
		}
		if err := l.grow(); err != nil {
			return err
		}
	}
	if typ == TypeHardlink && l.kinds[link] != TypeRegular && l.kinds[link] != TypeHardlink {
		return fmt.Errorf("a hard link to %s, which is no file that came before it", quote(link))
	}
	l.kinds[path] = typ
	return nil
}

// parents makes sure that every directory above path is one. Going up it may
// stop at the first that is known: what is above that was looked at then.
func (l *layout) parents(path string) error {
	for {
		i := strings.LastIndexByte(path, '/')
		if i <= 0 {
			return nil
		}
		path = path[:i]
		switch typ, ok := l.kinds[path]; {
		case ok && (typ == TypeDir || typ == implied):
			return nil
		case ok && typ == TypeSymlink:
			return fmt.Errorf("it lies below %s, which the package made a link", quote(path))
		case ok:
			return fmt.Errorf("it lies below %s, which is no directory", quote(path))
		}
		if err := l.grow(); err != nil {
			return err
		}
		l.kinds[path] = implied
	}
}

func (l *layout) grow() error {
	if len(l.kinds) >= l.lim.Entries {
		return fmt.Errorf("more than %d members", l.lim.Entries)
	}
	return nil
}

// cleanPath makes "./usr/bin/" and "usr/bin" of a tar "/usr/bin". It does not
// repair: what is not plain is refused.
func cleanPath(name string, dir bool, lim Limits) (string, error) {
	if name == "." || name == "./" {
		if !dir {
			return "", errors.New("the root is no directory")
		}
		return "/", nil
	}
	rest := strings.TrimPrefix(name, "./")
	if dir {
		rest = strings.TrimSuffix(rest, "/")
	}
	if len(rest)+1 > lim.Name {
		return "", fmt.Errorf("a path of %d bytes, more than %d", len(rest)+1, lim.Name)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" || part == "." || part == ".." {
			return "", errors.New("no plain relative path")
		}
		if len(part) > 255 {
			return "", fmt.Errorf("a name of %d bytes, more than 255", len(part))
		}
	}
	if err := plainText(rest); err != nil {
		return "", err
	}
	return "/" + rest, nil
}

// plainText holds names to UTF-8 (Policy 10.10) without control characters:
// they end up in terminals, logs and line-based lists.
func plainText(s string) error {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return errors.New("not UTF-8")
			}
		}
		if unicode.IsControl(r) {
			return errors.New("a control character in it")
		}
	}
	return nil
}
