package lab

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// bumpPackages copies a folder of packages with those named, and all that is
// built from the same sources, under a higher version. It tells the new
// versions by name.
func bumpPackages(from, to string, names []string) (map[string]string, error) {
	all, err := filepath.Glob(filepath.Join(from, "*.deb"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	controls := map[string]*Control{}
	var sources []string
	for _, d := range all {
		c, err := controlOf(d)
		if err != nil {
			return nil, err
		}
		controls[d] = c
		if slices.Contains(names, c.Get("Package")) {
			sources = appendNew(sources, sourceOf(c))
		}
	}
	family, bumped := map[string]string{}, map[string]string{}
	for d, c := range controls {
		if slices.Contains(sources, sourceOf(c)) {
			family[d] = c.Get("Package")
			bumped[c.Get("Package")] = c.Get("Version") + "+jailup1"
		}
	}
	var debs []string
	for d := range family {
		deb, err := repack(d, to, func(dir string, c *Control) error {
			was := c.Get("Version")
			c.Set("Version", bumped[c.Get("Package")])
			for _, field := range []string{"Pre-Depends", "Depends"} {
				if v := c.Get(field); v != "" {
					c.Set(field, bumpRelations(v, bumped))
				}
			}
			return bumpPrograms(dir, was)
		})
		if err != nil {
			return nil, err
		}
		debs = append(debs, deb)
	}
	return bumped, replaceDebs(from, to, debs...)
}

// sourceOf is the source package that a package was built from.
func sourceOf(c *Control) string {
	if f := strings.Fields(c.Get("Source")); len(f) > 0 {
		return f[0]
	}
	return c.Get("Package")
}

// bumpRelations lets "NAME (= VERSION)" follow. Other relations still hold: a
// "+jailup1" is more than the version, and less than the next one.
func bumpRelations(field string, bumped map[string]string) string {
	return exactly.ReplaceAllStringFunc(field, func(s string) string {
		m := exactly.FindStringSubmatch(s)
		if v := bumped[m[1]]; v != "" {
			return m[1] + m[2] + " (= " + v + ")"
		}
		return s
	})
}

var exactly = regexp.MustCompile(`([a-z0-9][a-z0-9+.-]+)(:[a-z]+)?\s*\(\s*=\s*[^)]+\)`)

var upstream = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+`)

// bumpPrograms changes the ELF files below a folder: the version of upstream in
// them at the same length, and where there is none, a few bytes more, which
// nobody loads.
func bumpPrograms(dir, version string) error {
	if _, after, ok := strings.Cut(version, ":"); ok {
		version = after
	}
	of := upstream.FindString(version)
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil || !bytes.HasPrefix(b, []byte("\x7fELF")) {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		other := bumpText(b, of)
		if bytes.Equal(other, b) {
			other = append(b, "jailup1\x00"...)
		}
		return os.WriteFile(p, other, fi.Mode().Perm())
	})
}

// bumpText replaces a version that stands by itself, not inside a longer one.
func bumpText(b []byte, version string) []byte {
	next := bumpDigits(version)
	if version == "" || next == version {
		return b
	}
	inVersion := func(c byte) bool { return c >= '0' && c <= '9' || c == '.' }
	b = slices.Clone(b)
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte(version))
		if i < 0 {
			return b
		}
		i += at
		at = i + len(version)
		if i > 0 && inVersion(b[i-1]) || at < len(b) && inVersion(b[at]) {
			continue
		}
		copy(b[i:], next)
	}
}

// bumpDigits raises the last digit that can be raised to 9.
func bumpDigits(version string) string {
	v := []byte(version)
	for i := len(v) - 1; i >= 0; i-- {
		if v[i] >= '0' && v[i] < '9' {
			v[i] = '9'
			break
		}
	}
	return string(v)
}
