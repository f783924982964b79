// Package phpconf reads the configuration of PHP and of PHP-FPM as they read
// it themselves, without running them: directives and where they stand, the
// extensions that are loaded, the pools and what they listen on. It also edits
// that configuration without touching what it does not mean to, and reads what
// PHP prints of itself.
//
// It reads what lies in a jail, so it trusts nothing: sizes, depth and the
// number of files are bounded, and every path goes through a small interface
// that the caller has rooted in the jail.
//
// Strings come out as they stand in the files. Whoever shows them cleans them.
package phpconf

import "time"

// Files is what a reader needs of a jail. Paths are absolute slash paths as the
// jail sees them; links are followed as the jail would follow them.
type Files interface {
	// ReadFile returns the whole of a regular file, and an error if it is
	// longer than limit bytes. A missing file gives an error that is
	// fs.ErrNotExist.
	ReadFile(path string, limit int64) ([]byte, error)
	// ReadDir returns the names in a directory, without "." and "..".
	ReadDir(path string) ([]string, error)
}

// Directive is one setting and where it stands.
type Directive struct {
	Name, Value string
	File        string // as the jail sees it
	Line        int    // from 1
}

// Extension is a shared object that PHP loads when it starts.
type Extension struct {
	Name string // without folder and .so: "mysqli"
	Path string // absolute, as the jail sees it
	Zend bool   // zend_extension, for the engine itself
	File string
	Line int
}

// Ini is a configuration of PHP, in the order in which PHP reads it.
type Ini struct {
	Files      []string
	Directives []Directive
	Extensions []Extension
}

// Pool is a pool of PHP-FPM's workers.
type Pool struct {
	Name    string
	Network string // "unix" or "tcp"
	Address string // the socket's path, or "127.0.0.1:9000" for a dialer

	User, Group, Chroot, Chdir           string
	PingPath, PingResponse, StatusPath   string
	AccessLog, SlowLog                   string
	ListenOwner, ListenGroup, ListenMode string
	PHP                                  []Directive // php_admin_value and its kin, Name as "memory_limit"
	File                                 string
	Line                                 int
}

// FPM is a configuration of PHP-FPM, read with all that it includes.
type FPM struct {
	ErrorLog       string
	PIDFile        string
	ControlTimeout time.Duration
	Pools          []Pool
	Files          []string
}

// Warning is one thing that PHP complains about when it starts.
type Warning struct {
	Text  string
	File  string
	Line  int
	Fatal bool
}

// Get returns the directive that is in force.
func (i *Ini) Get(name string) (Directive, bool) { return Directive{}, false }

// Names lists the directives that are set.
func (i *Ini) Names() []string { return nil }

// ReadIni reads php.ini and the files of the scan folder.
func ReadIni(files Files, main, scanDir, extensionDir string) (*Ini, error) { return &Ini{}, nil }

// ReadFPM reads php-fpm.conf with all that it includes.
func ReadFPM(files Files, main string) (*FPM, error) { return &FPM{}, nil }

// ListenLine finds the listen directive of a pool file.
func ListenLine(file []byte) (pool, value string, line int) { return "", "", 0 }

// SetListen replaces the listen directive of a pool.
func SetListen(conf []byte, pool, value string) ([]byte, bool) { return nil, false }

// Rewrite replaces prefixes of paths.
func Rewrite(conf []byte, pairs [][2]string) []byte { return nil }

// Priority is the place of a module among others.
func Priority(ini []byte) int { return 20 }

// Removed lists directives that an older PHP knows and a newer does not.
func Removed(i *Ini, knownOld, knownNew map[string]bool) []Directive { return nil }

// ParseInfo reads the names of directives out of phpinfo's text.
func ParseInfo(text []byte) map[string]bool { return nil }

// ParseModules reads the modules out of php -m.
func ParseModules(text []byte) []string { return nil }

// ParseWarnings reads what PHP complains about.
func ParseWarnings(text []byte) []Warning { return nil }
