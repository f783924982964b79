// Package abi tells whether the modules that a server's configuration loads fit
// the server's program. It reads ELF files only, by way of their headers, symbols
// and read-only data, and never runs anything: so a module that the new program
// would refuse is known before the old one is stopped.
//
// Each server compares something else, and this package compares the same:
//
//	nginx    of each ngx_module_t that ngx_modules names: version, signature
//	apache   of the module_struct with LoadModule's symbol: cookie, major MMN
//	php      the build ID: API number, thread safety, debug
//
// All of the files may lie in a jail and be hostile. What is read of one is
// bounded, and a damaged file is an error, never more. Whether a module finds its
// libraries is not asked here; that is elfdeps' work.
package abi

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/event"
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

// Misfit is a module that does not fit the program. Has, Needs and Reason may be
// shown as they are; what is in Module comes from a configuration.
type Misfit struct {
	Module
	Has    string // what the module was built for, "" where that is not known
	Needs  string // what the program wants, in the same form
	Reason string // why, one clause without a full stop, of which the module is the subject
	// Loads: the server would load it and go on; what it then does is not
	// certain. Such a module is worth a warning.
	Loads bool
	// Virtual is the name that Debian's packages of fitting modules depend on,
	// "phpapi-20220829"; "" where it does not follow from the program alone, as
	// with nginx.
	Virtual string
}

const (
	// Limits of one check: no honest configuration comes near.
	maxModules = 4096
	scanBudget = 1 << 30   // bytes of all files in which texts are looked for
	fileBudget = 128 << 20 // the same, of one file
	maxReason  = 300
)

// reader reads files one after the other from one budget.
type reader struct {
	src  Source
	left int64
}

// open opens one file, lets fn read it and closes it.
func (r *reader) open(path string, fn func(d *elfdeps.Data) error) error {
	f, err := r.src.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &lack{"is not there", err}
	}
	if err != nil {
		return &lack{fmt.Sprintf("cannot be opened: %v", err), err}
	}
	defer f.Close()
	budget := min(r.left, fileBudget)
	left := budget
	err = guard(func() error {
		d, err := elfdeps.OpenData(f, budget)
		if err != nil {
			return err
		}
		defer func() { left = d.Left() }()
		return fn(d)
	})
	r.left -= budget - left
	return err
}

// guard is the last wall: the readers check every offset.
func guard(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errors.New("damaged beyond what the reader knows")
		}
	}()
	return fn()
}

// read opens a file that the caller holds.
func read(f elfdeps.File, fn func(d *elfdeps.Data) error) error {
	return guard(func() error {
		d, err := elfdeps.OpenData(f, fileBudget)
		if err != nil {
			return err
		}
		return fn(d)
	})
}

// check opens the program and then each module. judge gives nil for a module that
// fits; its Module need not be set. An error of it means that the module cannot be
// read, which is a misfit too: the server would not load it either.
func check(src Source, exe string, mods []Module, program func(d *elfdeps.Data) error,
	judge func(d *elfdeps.Data, m Module) (*Misfit, error), needs func() Misfit) ([]Misfit, error) {
	if len(mods) > maxModules {
		return nil, fmt.Errorf("cannot compare modules: the configuration loads %d, more than %d", len(mods), maxModules)
	}
	r := &reader{src: src, left: scanBudget}
	var host elfdeps.Object
	err := r.open(exe, func(d *elfdeps.Data) error {
		host = d.Object()
		return program(d)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read what modules %s takes: %w", event.Clean(exe, maxReason), err)
	}
	var out []Misfit
	for _, m := range mods {
		var found *Misfit
		err := r.open(m.Path, func(d *elfdeps.Data) error {
			o := d.Object()
			if o.Class != host.Class || o.Data != host.Data || o.Machine != host.Machine {
				found = &Misfit{Reason: fmt.Sprintf("is for another machine (%s) than the program (%s)", machine(o), machine(host))}
				return nil
			}
			var err error
			found, err = judge(d, m)
			return err
		})
		if err != nil {
			if r.left <= 0 {
				return nil, errors.New("cannot compare modules: they hold more data than any honest ones")
			}
			found = &Misfit{Reason: reason(err)}
		}
		if found == nil {
			continue
		}
		n := needs()
		found.Module, found.Needs, found.Virtual = m, n.Needs, n.Virtual
		found.Reason = event.Clean(found.Reason, maxReason)
		out = append(out, *found)
	}
	return out, nil
}

// lack is what a file should have and has not, in words of which the file is the
// subject.
type lack struct {
	words string
	cause error // may be nil
}

func (l *lack) Error() string { return l.words }
func (l *lack) Unwrap() error { return l.cause }

func lacks(format string, args ...any) error { return &lack{words: fmt.Sprintf(format, args...)} }

// reason makes a clause of an error.
func reason(err error) string {
	if l := (*lack)(nil); errors.As(err, &l) {
		return l.words
	}
	if errors.Is(err, elfdeps.ErrNotELF) {
		return "is not an ELF file"
	}
	return "cannot be read: " + err.Error()
}

// machine is for messages: "x86_64, 64 bits".
func machine(o elfdeps.Object) string {
	bits := 32
	if o.Class == elf.ELFCLASS64 {
		bits = 64
	}
	name := strings.ToLower(strings.TrimPrefix(o.Machine.String(), "EM_"))
	if o.Data == elf.ELFDATA2MSB {
		name += " big-endian"
	}
	return fmt.Sprintf("%s, %d bits", name, bits)
}
