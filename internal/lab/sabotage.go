package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The packages of this file are what real ones are when somebody made a mistake.
// Each is repacked under a higher version; with ReplaceDebs it takes the place of
// the good one in a folder.

// OtherAPI makes from a package of extensions of PHP one whose extensions were
// built for another API: the text and the number that PHP compares. PHP warns
// at its start and goes on without them.
func OtherAPI(t testing.TB, deb string) string {
	t.Helper()
	return sabotage(t, deb, func(dir string, c *Control) (int, error) {
		return patchELF(filepath.Join(dir, "usr/lib/php"), func(_ *elf.File, b []byte) (int, error) { return otherAPI(b) })
	})
}

var apiText = regexp.MustCompile(`API([0-9]{8,9}),(?:NTS|TS)`)

func otherAPI(b []byte) (int, error) {
	n := 0
	for _, m := range apiText.FindAllSubmatchIndex(b, -1) {
		was := string(b[m[2]:m[3]])
		at := len(was) - 5 // the last digit of the year: [4]YYYYMMDD
		is := []byte(was)
		is[at] = '0' + (is[at]-'0'+9)%10
		copy(b[m[2]:m[3]], is)
		n++
		if err := patchNumber(b, was, string(is)); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// patchNumber changes the same API where it stands as a number. That may be in
// several places, or in none if the text is not the extension's own.
func patchNumber(b []byte, was, is string) error {
	old, err := strconv.ParseUint(was, 10, 32)
	if err != nil {
		return err
	}
	now, err := strconv.ParseUint(is, 10, 32)
	if err != nil {
		return err
	}
	word := binary.NativeEndian.AppendUint32(nil, uint32(old))
	for at := 0; ; at += 4 {
		i := bytes.Index(b[at:], word)
		if i < 0 {
			return nil
		}
		if at += i; at%4 == 0 {
			binary.NativeEndian.PutUint32(b[at:], uint32(now))
		}
	}
}

// MissingLibrary makes from a package one whose programs and libraries each need
// one library that nobody has.
func MissingLibrary(t testing.TB, deb string) string {
	t.Helper()
	return sabotage(t, deb, func(dir string, c *Control) (int, error) {
		return patchELF(dir, func(f *elf.File, b []byte) (int, error) {
			needed, err := f.ImportedLibraries()
			if err != nil || len(needed) == 0 {
				return 0, err
			}
			strs := f.Section(".dynstr")
			if strs == nil {
				return 0, nil
			}
			table := b[strs.Offset : strs.Offset+strs.Size]
			i := bytes.Index(table, []byte("\x00"+needed[0]+"\x00"))
			if i < 0 {
				return 0, fmt.Errorf("%s is not in the table of names", needed[0])
			}
			stem, _, _ := strings.Cut(strings.TrimPrefix(needed[0], "lib"), ".so")
			copy(table[i+1:], "lib"+strings.Repeat("q", len(stem)))
			return 1, nil
		})
	})
}

// PoolElsewhere makes from a package of php-fpm one whose pool listens on a
// socket that no web server knows.
func PoolElsewhere(t testing.TB, deb string) string {
	t.Helper()
	return editPool(t, deb, `(?m)^listen\s*=.*$`, "listen = /run/php/elsewhere.sock")
}

// PoolWithoutUser makes from a package of php-fpm one whose pool runs as a user
// that does not exist: php-fpm does not start.
func PoolWithoutUser(t testing.TB, deb string) string {
	t.Helper()
	return editPool(t, deb, `(?m)^user\s*=.*$`, "user = nobody-has-this-name")
}

func editPool(t testing.TB, deb, line, with string) string {
	t.Helper()
	re := regexp.MustCompile(line)
	return sabotage(t, deb, func(dir string, c *Control) (int, error) {
		pools, err := filepath.Glob(filepath.Join(dir, "etc/php/*/fpm/pool.d/www.conf"))
		if err != nil || len(pools) != 1 {
			return 0, fmt.Errorf("%d pools in the package: %v", len(pools), err)
		}
		text, err := os.ReadFile(pools[0])
		if err != nil {
			return 0, err
		}
		return len(re.FindAll(text, -1)), os.WriteFile(pools[0], re.ReplaceAll(text, []byte(with)), 0o644)
	})
}

// MovedConffile makes from a package one that has a configuration file under
// another name. Both names are absolute.
func MovedConffile(t testing.TB, deb, from, to string) string {
	t.Helper()
	return sabotage(t, deb, func(dir string, c *Control) (int, error) {
		list := filepath.Join(dir, "DEBIAN", "conffiles")
		text, err := os.ReadFile(list)
		if err != nil {
			return 0, err
		}
		n := 0
		var lines []string
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if line == from {
				line = to
				n++
			}
			lines = append(lines, line)
		}
		if n == 0 {
			return 0, fmt.Errorf("%s is not a configuration file of the package", from)
		}
		if err := os.WriteFile(list, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			return 0, err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o755); err != nil {
			return 0, err
		}
		return n, os.Rename(filepath.Join(dir, from), filepath.Join(dir, to))
	})
}

// sabotage repacks a package under a higher version. change tells how many
// places it has changed; none is an error of the test.
func sabotage(t testing.TB, deb string, change func(dir string, c *Control) (int, error)) string {
	t.Helper()
	return Repack(t, deb, func(dir string, c *Control) {
		c.Set("Version", c.Get("Version")+"+bad1")
		n, err := change(dir, c)
		if err == nil && n == 0 {
			err = fmt.Errorf("nothing in it to change")
		}
		if err != nil {
			t.Fatalf("cannot spoil %s: %v", filepath.Base(deb), err)
		}
	})
}

// patchELF lets change alter the bytes of each ELF file below a folder, and
// counts what it changed.
func patchELF(dir string, change func(f *elf.File, b []byte) (int, error)) (int, error) {
	all := 0
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil || !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
			return err
		}
		f, err := elf.NewFile(bytes.NewReader(bytes.Clone(b)))
		if err != nil {
			return err
		}
		n, err := change(f, b)
		if err != nil || n == 0 {
			return err
		}
		all += n
		fi, err := e.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(p, b, fi.Mode().Perm())
	})
	return all, err
}
