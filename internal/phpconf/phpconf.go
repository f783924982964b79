// Package phpconf reads the configuration of PHP and of PHP-FPM as they read
// it themselves, without running them: directives and where they stand, the
// extensions that are loaded, the pools and what they listen on. It also edits
// that configuration without touching what it does not mean to, and reads what
// PHP prints of itself.
//
// It reads what lies in a jail, so it trusts nothing: sizes, depth and the
// number of files are bounded, and every path goes through a small interface
// that the caller has rooted in the jail. It does not judge: a directive that
// it does not know is kept and passed over, for PHP's series differ.
//
// Strings come out as they stand in the files. Whoever shows them cleans them.
package phpconf

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/jailup/jailup/internal/conferr"
	"github.com/jailup/jailup/internal/jail"
)

// Files is what a reader needs of a jail. Paths are absolute slash paths as the
// jail sees them; links are followed as the jail would follow them. *jail.Root
// satisfies it.
type Files interface {
	// ReadFile returns the whole of a regular file, and an error if it is
	// longer than limit bytes. A missing file gives an error that is
	// fs.ErrNotExist, something that is no file one that is jail.ErrNotRegular.
	ReadFile(path string, limit int64) ([]byte, error)
	// ReadDir returns the names in a directory, without "." and "..".
	ReadDir(path string) ([]string, error)
}

// Bounds of one reading. Debian's php.ini has 72 KB and 150 directives.
const (
	maxFile       = 4 << 20 // bytes of one file
	maxTotal      = 16 << 20
	maxFiles      = 5000
	maxDirectives = 100_000  // statements of all files
	maxNames      = 50_000   // directory entries looked at for one pattern
	maxValues     = 16 << 20 // bytes of all values
)

// Directive is one setting and where it stands.
type Directive struct {
	Name  string // as written; of an array's element "name[index]"
	Value string // as PHP takes it: no quotes; on and yes are "1", off and none ""
	File  string // as the jail sees it
	Line  int    // from 1
}

// SyntaxError is a fault in a configuration file. Its text is safe to show.
type SyntaxError = conferr.SyntaxError

// notThere tells what PHP passes over in silence: no file, a link to nowhere
// or in a circle, a folder.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.ELOOP) || errors.Is(err, jail.ErrNotRegular)
}

// reader is what reading php.ini and reading php-fpm.conf share.
type reader struct {
	fsys       Files
	env        map[string]string // nil: not known
	total      int64
	files      int
	statements int
	values     int
}

func (r *reader) read(name string) ([]byte, error) {
	if r.files++; r.files > maxFiles {
		return nil, fmt.Errorf("more than %d files", maxFiles)
	}
	data, err := r.fsys.ReadFile(name, maxFile)
	if err != nil {
		return nil, &conferr.ReadError{File: name, Cause: err}
	}
	if r.total += int64(len(data)); r.total > maxTotal {
		return nil, fmt.Errorf("%s: the configuration is larger than %d MiB", conferr.Show(name), maxTotal>>20)
	}
	return data, nil
}

// count keeps what is kept within bounds.
func (r *reader) count(st statement) error {
	r.statements++
	r.values += len(st.name) + len(st.index) + len(st.value)
	if r.statements > maxDirectives || r.values > maxValues {
		return fmt.Errorf("more than %d directives, or their values have more than %d MiB", maxDirectives, maxValues>>20)
	}
	return nil
}

// variable resolves ${NAME} where no directive of that name is set.
func (r *reader) variable(name string) (string, bool) {
	if r.env == nil {
		return "${" + name + "}", false
	}
	v, ok := r.env[name]
	return v, ok
}
