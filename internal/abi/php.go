package abi

import (
	"fmt"
	"strings"

	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/lazyregexp"
)

const maxBuildID = 128

// PHP gives the build ID of a PHP program, of libphp or of an extension,
// "API20220829,NTS": the number of the extension API, NTS or TS for one thread or
// several, ",debug" for a debug build, and what a vendor adds. A Zend extension such
// as opcache has a digit more in front of the number, for the API of Zend extensions;
// it is left out. A file with several different build IDs is an error.
func PHP(f elfdeps.File) (id string, err error) {
	err = read(f, func(d *elfdeps.Data) error {
		id, err = buildID(d)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot read the build ID of PHP: %w", err)
	}
	return id, nil
}

// CheckPHP compares extensions with a PHP program (php-fpm, php, libphp), as PHP
// does when it loads one: the build ID must be the same. An extension that is not
// there, cannot be read or is none is a misfit; an error is a program that cannot
// be read. Has and Needs read "API20220829,NTS".
func CheckPHP(src Source, exe string, mods []Module) ([]Misfit, error) {
	var want string
	return check(src, exe, mods, func(d *elfdeps.Data) (err error) {
		want, err = buildID(d)
		return err
	}, func(d *elfdeps.Data, _ Module) (*Misfit, error) {
		if err := extension(d); err != nil {
			return nil, err
		}
		has, err := buildID(d)
		switch {
		case err != nil:
			return nil, err
		case has != want:
			return &Misfit{Has: has, Reason: fmt.Sprintf("is built for PHP %s instead of %s", has, want)}, nil
		}
		return nil, nil
	}, func() Misfit { return Misfit{Needs: want, Virtual: phpVirtual(want)} })
}

// extension looks for what PHP asks of a file: get_module of an extension,
// zend_extension_entry of a Zend extension.
func extension(d *elfdeps.Data) error {
	for _, name := range []string{"get_module", "_get_module", "zend_extension_entry", "_zend_extension_entry"} {
		if _, ok, err := d.Symbol(name); ok || err != nil {
			return err
		}
	}
	return lacks("is no PHP extension: it has neither get_module nor zend_extension_entry")
}

func buildID(d *elfdeps.Data) (string, error) {
	var found []string
	take := distinct(&found, func([]byte) bool { return true })
	err := d.Find("API", maxBuildID, func(text []byte) bool {
		// Most texts that begin so are of another kind.
		if len(text) < len("API20220829,TS") || text[3] < '0' || text[3] > '9' {
			return true
		}
		m := buildForm.FindSubmatch(text)
		return m == nil || take(append([]byte("API"), m[1]...))
	})
	if err != nil {
		return "", err
	}
	return only(found, "build ID of PHP")
}

// buildForm is a build ID; what it captures lacks the digit of the API of Zend
// extensions.
var buildForm = lazyregexp.New(`^API[0-9]?([0-9]{8},N?TS(?:[,+][A-Za-z0-9_.,+-]{0,64})?)$`)

// phpVirtual is what Debian's packages of extensions depend on.
func phpVirtual(id string) string {
	number, kind, _ := strings.Cut(strings.TrimPrefix(id, "API"), ",")
	if kind != "NTS" {
		return "" // Debian builds no other
	}
	return "phpapi-" + number
}
