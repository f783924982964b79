// Package config reads what the administrator has said: config.yaml, the files
// of jails.d, the environment; and puts it together with flags and defaults.
//
// The files are read strictly. A key that is not known is an error with file and
// line, as is anything else in them that jailup would have to guess about; and
// since root acts on what they say, root reads them only where nobody else could
// have written them.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/jailup/jailup/internal/lazyregexp"
)

// Config is config.yaml and the jails of jails.d.
type Config struct {
	Dir  string // the folder that holds jails.d and recipes.d; it may not exist
	File string // of config.yaml; it may not exist

	Settings

	// Checks are those for every jail, as they stand in the file: the checks
	// room decodes them. IsZero where there are none.
	Checks yaml.Node `yaml:"checks"`

	jails []Jail
}

// Jail is a file of jails.d: a jail that has a name, and settings of its own.
type Jail struct {
	Name string // the file's, without .yaml
	File string

	Path   string `yaml:"path" abs:"yes"` // of the jail's root; cleaned, not resolved
	Server string `yaml:"server"`         // a recipe; "" where the file does not say

	Settings

	Checks yaml.Node `yaml:"checks"` // on top of Config.Checks; IsZero where there are none
	Recipe yaml.Node `yaml:"recipe"` // what differs from the recipe; IsZero where nothing does
}

// Load reads the configuration in the folder dir. What is missing of it, be it
// all, is empty: jailup needs none.
func Load(dir string) (*Config, error) {
	return loader{uid: os.Geteuid()}.dir(dir)
}

// LoadFile reads the file that --config names, which must exist, and the jails.d
// beside it. Where it is a folder, it is read as Load does.
func LoadFile(file string) (*Config, error) {
	return loader{uid: os.Geteuid()}.named(file)
}

// Jails returns the jails of jails.d by name.
func (c *Config) Jails() []Jail { return slices.Clone(c.jails) }

// FindJail returns the jail that is configured by this name.
func (c *Config) FindJail(name string) (*Jail, bool) {
	return c.find(func(j Jail) bool { return j.Name == name })
}

// JailAt returns the jail that is configured for this path. Paths are compared
// as they are written, cleaned: whether two of them lead to one jail is the
// registry's to say.
func (c *Config) JailAt(path string) (*Jail, bool) {
	return c.find(func(j Jail) bool { return j.Path == filepath.Clean(path) })
}

// Locate tells what the argument of --jail means: one without a "/" is the name
// of a configured jail, if there is one, else it is a path. The jail is nil
// where none is configured for it.
func (c *Config) Locate(arg string) (path string, jail *Jail) {
	if !strings.Contains(arg, "/") {
		if j, ok := c.FindJail(arg); ok {
			return j.Path, j
		}
	}
	j, _ := c.JailAt(arg)
	return arg, j
}

func (c *Config) find(is func(Jail) bool) (*Jail, bool) {
	i := slices.IndexFunc(c.jails, is)
	if i < 0 {
		return nil, false
	}
	j := c.jails[i]
	return &j, true
}

// loader reads files as the user uid.
type loader struct{ uid int }

func (l loader) named(file string) (*Config, error) {
	switch info, err := os.Stat(file); {
	case err != nil:
		return nil, &Error{File: file, Cause: cause(err), Help: "without --config, jailup works with its defaults"}
	case info.IsDir():
		return l.dir(file)
	}
	return l.load(filepath.Dir(file), file)
}

func (l loader) dir(dir string) (*Config, error) {
	return l.load(dir, filepath.Join(dir, "config.yaml"))
}

func (l loader) load(dir, file string) (*Config, error) {
	c := &Config{Dir: dir, File: file}
	if err := l.trustDir(dir); err != nil {
		return nil, err
	}
	if err := l.decode(file, false, c); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return c, l.loadJails(c, filepath.Join(dir, "jails.d"))
}

// jailName is what a jail may be called: no "/" (it would be a path), nothing
// that an option or a shell could take for its own.
var jailName = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (l loader) loadJails(c *Config, dir string) error {
	if err := l.trustDir(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &Error{File: dir, Cause: cause(err)}
	}
	for _, entry := range entries {
		file := filepath.Join(dir, entry.Name())
		name, isYAML := strings.CutSuffix(entry.Name(), ".yaml")
		switch {
		case strings.HasPrefix(name, "."):
			continue
		case strings.HasSuffix(name, ".yml"):
			return &Error{File: file, Cause: "its name does not end in .yaml", Help: "rename it, or move it away"}
		case !isYAML: // what editors and package managers leave behind
			continue
		case !jailName.MatchString(name):
			return &Error{File: file, Cause: "a jail cannot be called " + quote(name),
				Help: "use letters, digits, dots, dashes and underscores, at most 64"}
		}
		j := Jail{Name: name, File: file}
		if err := l.decode(file, true, &j); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = &Error{File: file, Cause: "no such file or directory"} // a link to nowhere
			}
			return err
		}
		if j.Path == "" {
			return &Error{File: file, Cause: "it has no path", Help: "add the line path: /where/the/jail/is"}
		}
		j.Path = filepath.Clean(j.Path)
		if other, ok := c.JailAt(j.Path); ok {
			return &Error{File: file, Cause: "its path " + quote(j.Path) + " is that of the jail " + other.Name + " already",
				Help: "remove one of the two files"}
		}
		c.jails = append(c.jails, j)
	}
	slices.SortFunc(c.jails, func(a, b Jail) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// decode reads file into a struct. A file that does not exist is fs.ErrNotExist.
func (l loader) decode(file string, jail bool, into any) error {
	data, err := l.read(file)
	if err != nil {
		return err
	}
	node, err := parse(file, data)
	if err != nil || node == nil {
		return err
	}
	d := decoder{file: file, jail: jail}
	return d.mapping(node, reflect.ValueOf(into).Elem(), "")
}

func (l loader) read(file string) ([]byte, error) {
	// O_NONBLOCK, for a FIFO must not hold up a run.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, &Error{File: file, Cause: cause(err)}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &Error{File: file, Cause: cause(err)}
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{File: file, Cause: "it is not a regular file"}
	}
	if err := l.trust(file, info, "chmod 644"); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, &Error{File: file, Cause: cause(err)}
	}
	return data, nil
}

// trustDir looks at a folder before what is in it is read: who may write it
// may put any file there.
func (l loader) trustDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &Error{File: dir, Cause: cause(err)}
	case !info.IsDir():
		return &Error{File: dir, Cause: "it is not a directory"}
	}
	return l.trust(dir, info, "chmod 755")
}

// trust refuses, for root, what others than root could have written.
func (l loader) trust(path string, info fs.FileInfo, remedy string) error {
	if l.uid != 0 {
		return nil
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return &Error{File: path, Cause: fmt.Sprintf("it belongs to user %d, not to root", st.Uid),
			Help: "look at what it says, then: chown root " + clean(path)}
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return &Error{File: path, Cause: fmt.Sprintf("others than root may write it (mode %04o)", perm),
			Help: "look at what it says, then: " + remedy + " " + clean(path)}
	}
	return nil
}

// cause returns the reason of a system call's error without its path, which the
// Error names already.
func cause(err error) string {
	var e *fs.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	return clean(err.Error())
}
