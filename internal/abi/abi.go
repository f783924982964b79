// Package abi tells whether the modules that a server's configuration loads fit
// the server's program. It reads ELF files only, by way of their headers, symbols
// and read-only data, and never runs anything: so a module that the new program
// would refuse is known before the old one is stopped.
//
// Each server compares something else, and this package compares the same:
//
//	nginx    ngx_module_t of each module: version and signature
//	apache   module_struct of the symbol that LoadModule names: cookie, major MMN
//	php      build ID: API number, thread safety, debug
//
// All of the files may lie in a jail and be hostile. What is read of one is
// bounded, and a damaged file is an error, never more.
package abi

import (
	"errors"

	"github.com/jailup/jailup/internal/elfdeps"
)

// Source is a view of a tree, as its own root sees it. Open follows links, opens
// regular files only, and answers errors.Is(err, fs.ErrNotExist) for what is not
// there.
type Source interface {
	Open(path string) (elfdeps.File, error)
}

// Module is one module that the configuration loads.
type Module struct {
	Name string // apache: the symbol, "rewrite_module"; else for messages only
	Path string // absolute, in the server's view
	File string // where the configuration loads it
	Line int
}

// Misfit is a module that does not fit the program. All texts may be shown.
type Misfit struct {
	Module
	Has    string // what the module was built for, "" where that is not known
	Needs  string // what the program wants, in the same form
	Reason string // one clause without a full stop
	// Loads: the server would load it and go on; what it then does is not
	// certain. Such a module is worth a warning.
	Loads bool
	// Virtual is the name that Debian's packages of fitting modules depend on,
	// "phpapi-20220829"; "" where it does not follow from the program alone.
	Virtual string
}

// MMN is Apache's module magic number.
type MMN struct{ Major, Minor int }

var errTODO = errors.New("not written yet")

// Nginx gives the module signature of nginx or of one of its dynamic modules:
// "8,4,8,0000111111010111001110101111000110".
func Nginx(f elfdeps.File) (string, error) { return "", errTODO }

// NginxVersion gives the number that nginx compares before the signature:
// 1022001 for 1.22.1.
func NginxVersion(f elfdeps.File) (int, error) { return 0, errTODO }

// ApacheServer gives the module magic number of an Apache server program.
func ApacheServer(f elfdeps.File) (MMN, error) { return MMN{}, errTODO }

// ApacheModule gives the magic number that the module with this symbol was built
// for.
func ApacheModule(f elfdeps.File, symbol string) (MMN, error) { return MMN{}, errTODO }

// PHP gives the build ID of a PHP program, of libphp or of an extension:
// "API20220829,NTS".
func PHP(f elfdeps.File) (string, error) { return "", errTODO }

// CheckNginx compares dynamic modules with an nginx program.
func CheckNginx(src Source, exe string, mods []Module) ([]Misfit, error) { return nil, errTODO }

// CheckApache compares modules with an Apache server program.
func CheckApache(src Source, exe string, mods []Module) ([]Misfit, error) { return nil, errTODO }

// CheckPHP compares extensions with a PHP program or libphp.
func CheckPHP(src Source, exe string, mods []Module) ([]Misfit, error) { return nil, errTODO }
