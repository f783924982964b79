package abi

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/lazyregexp"
)

const (
	maxNginxModules = 128 // in one file; nginx itself takes as many in all
	maxSignature    = 128
)

// nginxABI is what nginx compares: first the version, then the signature.
type nginxABI struct {
	version   uint64 // 0: not known
	signature string
}

// Nginx gives the module signature of nginx or of one of its dynamic modules,
// "8,4,8,0000111111010111001110101111000110": the sizes of a pointer, of
// sig_atomic_t and of time_t, then a digit for each option that nginx was
// configured with and that changes a structure (ngx_module.h). The signature of a
// file whose modules have several is an error.
func Nginx(f elfdeps.File) (string, error) {
	abi, err := readNginx(f)
	return abi.signature, err
}

// NginxVersion gives the number that nginx compares before the signature: 1022001
// for 1.22.1. It is 0 for an nginx that exports no symbols.
func NginxVersion(f elfdeps.File) (int, error) {
	abi, err := readNginx(f)
	return int(abi.version), err
}

func readNginx(f elfdeps.File) (abi nginxABI, err error) {
	err = read(f, func(d *elfdeps.Data) error {
		_, module, err := d.Symbol("ngx_modules")
		if err != nil {
			return err
		}
		if _, core, err := d.Symbol("ngx_core_module"); core || !module || err != nil {
			abi, err = nginxProgram(d)
			return err
		}
		list, err := nginxModules(d)
		if err != nil {
			return err
		}
		for _, m := range list {
			if m != list[0] {
				return fmt.Errorf("its modules are built for several: %s %s and %s %s", nginxRelease(m.version), m.signature, nginxRelease(list[0].version), list[0].signature)
			}
		}
		abi = list[0]
		return nil
	})
	if err != nil {
		return nginxABI{}, fmt.Errorf("cannot read the module signature of nginx: %w", err)
	}
	return abi, nil
}

// CheckNginx compares dynamic modules with an nginx program, as ngx_add_module
// does: the version must be the same, and the signature. A module that is not there
// or cannot be read is a misfit; an error is a program that cannot be read.
// Has and Needs read "1.22.1 8,4,8,0011…".
func CheckNginx(src Source, exe string, mods []Module) ([]Misfit, error) {
	var want nginxABI
	return check(src, exe, mods, func(d *elfdeps.Data) (err error) {
		want, err = nginxProgram(d)
		return err
	}, func(d *elfdeps.Data, _ Module) (*Misfit, error) {
		list, err := nginxModules(d)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			if want.version != 0 && m.version != want.version {
				return &Misfit{Has: m.String(), Reason: fmt.Sprintf("is built for nginx %s instead of %s", nginxRelease(m.version), nginxRelease(want.version))}, nil
			}
			if m.signature != want.signature {
				return &Misfit{Has: m.String(), Reason: fmt.Sprintf("is not binary compatible: its signature is %s instead of %s", m.signature, want.signature)}, nil
			}
		}
		return nil, nil
	}, func() Misfit { return Misfit{Needs: want.String()} })
}

func (a nginxABI) String() string {
	if a.version == 0 {
		return a.signature
	}
	return nginxRelease(a.version) + " " + a.signature
}

// nginxRelease undoes nginx_version: three digits for each part but the first.
func nginxRelease(v uint64) string {
	if v < 1_000_000 || v > 1_000_000_000 {
		return strconv.FormatUint(v, 10)
	}
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000)
}

// nginxModules reads what nginx reads of a dynamic module: the list ngx_modules.
func nginxModules(d *elfdeps.Data) ([]nginxABI, error) {
	list, ok, err := d.Symbol("ngx_modules")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, lacks("has no symbol ngx_modules: it is no nginx module")
	}
	var out []nginxABI
	for i := range uint64(maxNginxModules) {
		at, err := d.Pointer(list + i*wordSize(d))
		if err != nil {
			return nil, err
		}
		if at == 0 {
			if len(out) == 0 {
				return nil, lacks("names no module in ngx_modules")
			}
			return out, nil
		}
		m, err := nginxModule(d, at)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return nil, fmt.Errorf("ngx_modules names more than %d modules", maxNginxModules)
}

// nginxModule reads an ngx_module_t. It begins with ctx_index, index, name, two
// spare words, version, signature, each of word size (ngx_module.h, since 1.9.11).
func nginxModule(d *elfdeps.Data, at uint64) (nginxABI, error) {
	const version, signature = 5, 6
	v, err := d.Word(at + version*wordSize(d))
	if err != nil {
		return nginxABI{}, err
	}
	p, err := d.Pointer(at + signature*wordSize(d))
	if err != nil {
		return nginxABI{}, err
	}
	text, err := d.String(p, maxSignature)
	if err != nil {
		return nginxABI{}, err
	}
	if !signatureForm.MatchString(text) {
		return nginxABI{}, errors.New("the text in the place of its signature is none")
	}
	return nginxABI{v, text}, nil
}

// nginxProgram reads what the program itself was built with, of its core module. A
// program that exports no symbols is searched for the one signature in its
// read-only data.
func nginxProgram(d *elfdeps.Data) (nginxABI, error) {
	at, ok, err := d.Symbol("ngx_core_module")
	if err != nil {
		return nginxABI{}, err
	}
	if ok {
		return nginxModule(d, at)
	}
	var found []string
	for _, sizes := range []string{"8,4,8,", "4,4,4,", "4,4,8,", "8,8,8,"} {
		if err := d.Find(sizes, maxSignature, distinct(&found, signatureForm.Match)); err != nil {
			return nginxABI{}, err
		}
	}
	text, err := only(found, "module signature of nginx")
	return nginxABI{0, text}, err
}

var signatureForm = lazyregexp.New(`^[48],[48],[48],[01]{16,64}$`)

// wordSize is the size of a pointer and of a long.
func wordSize(d *elfdeps.Data) uint64 {
	if d.Wide() {
		return 8
	}
	return 4
}

// distinct gathers the different texts that ok takes, and stops after the second.
func distinct(found *[]string, ok func([]byte) bool) func([]byte) bool {
	return func(text []byte) bool {
		if ok(text) && (len(*found) == 0 || (*found)[0] != string(text)) {
			*found = append(*found, string(text))
		}
		return len(*found) < 2
	}
}

// only gives the one text that was found.
func only(found []string, what string) (string, error) {
	switch len(found) {
	case 0:
		return "", lacks("holds no %s", what)
	case 1:
		return found[0], nil
	}
	return "", lacks("holds more than one %s: %s and %s", what, found[0], found[1])
}
