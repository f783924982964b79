package abi

import (
	"fmt"
	"strconv"

	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/event"
)

// MMN is Apache's module magic number.
type MMN struct{ Major, Minor int }

// String is how apache2 -V writes it: "20120211:131".
func (m MMN) String() string { return strconv.Itoa(m.Major) + ":" + strconv.Itoa(m.Minor) }

// apacheCookie is "AP24" as a number: the modules of each series have their own.
const apacheCookie = 0x41503234

// ApacheServer gives the module magic number of an Apache server program: that of
// its own core module, which it exports.
func ApacheServer(f elfdeps.File) (mmn MMN, err error) {
	err = read(f, func(d *elfdeps.Data) error {
		mmn, err = apacheServer(d)
		return err
	})
	if err != nil {
		return MMN{}, fmt.Errorf("cannot read the module magic number of Apache: %w", err)
	}
	return mmn, nil
}

// ApacheModule gives the magic number that the module with this symbol was built
// for. A file without the symbol, or with another thing of that name than a module
// of Apache 2.4, is an error.
func ApacheModule(f elfdeps.File, symbol string) (mmn MMN, err error) {
	err = read(f, func(d *elfdeps.Data) error {
		mmn, err = apacheModule(d, symbol)
		return err
	})
	if err != nil {
		return MMN{}, fmt.Errorf("cannot read the module magic number of %s: %w", event.Clean(symbol, 100), err)
	}
	return mmn, nil
}

// CheckApache compares modules with an Apache server program, as mod_so and
// ap_add_module do: the symbol must be there, the cookie right, the major number
// the same. A greater minor number is what AP_MODULE_MAGIC_AT_LEAST warns of: the
// module may use what this server does not have yet; Apache loads it (Loads). A
// module that is not there or cannot be read is a misfit; an error is a program
// that cannot be read. Has and Needs read "20120211:131". What LoadFile loads is no
// module and does not belong in mods.
func CheckApache(src Source, exe string, mods []Module) ([]Misfit, error) {
	var want MMN
	return check(src, exe, mods, func(d *elfdeps.Data) (err error) {
		want, err = apacheServer(d)
		return err
	}, func(d *elfdeps.Data, m Module) (*Misfit, error) {
		has, err := apacheModule(d, m.Name)
		switch {
		case err != nil:
			return nil, err
		case has.Major != want.Major:
			return &Misfit{Has: has.String(), Reason: fmt.Sprintf("is not compatible with this Apache: its magic number is %d instead of %d", has.Major, want.Major)}, nil
		case has.Minor > want.Minor:
			return &Misfit{Has: has.String(), Loads: true, Reason: fmt.Sprintf("is built for a newer Apache, minor magic number %d instead of %d", has.Minor, want.Minor)}, nil
		}
		return nil, nil
	}, func() Misfit {
		return Misfit{Needs: want.String(), Virtual: fmt.Sprintf("apache2-api-%d", want.Major)}
	})
}

func apacheServer(d *elfdeps.Data) (MMN, error) { return apacheModule(d, "core_module") }

// apacheModule reads a module_struct (http_config.h): the ints version,
// minor_version and module_index, then, each of word size, name,
// dynamic_load_handle, next and the cookie.
func apacheModule(d *elfdeps.Data, symbol string) (MMN, error) {
	at, ok, err := d.Symbol(symbol)
	if err != nil {
		return MMN{}, err
	}
	if !ok {
		return MMN{}, lacks("has no symbol %s", event.Clean(symbol, 100))
	}
	cookieAt := uint64(24)
	if d.Wide() {
		cookieAt = 40
	}
	cookie, err := d.Word(at + cookieAt)
	if err != nil {
		return MMN{}, err
	}
	if cookie != apacheCookie {
		return MMN{}, lacks("is no module of Apache 2.4: its cookie is %#x instead of %#x", cookie, uint64(apacheCookie))
	}
	var v [2]uint32
	for i := range v {
		if v[i], err = d.Uint32(at + uint64(i)*4); err != nil {
			return MMN{}, err
		}
	}
	return MMN{int(int32(v[0])), int(int32(v[1]))}, nil
}
