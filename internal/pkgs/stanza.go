package pkgs

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// A Stanza is what jailup wants to know of one binary package, out of an index
// or out of the package itself. It does not refer to the paragraph that it came
// from, so tens of thousands of them can be kept.
type Stanza struct {
	Package      string // name, Policy 5.6.1
	Version      string // whole, as written; ParseVersion takes it
	Architecture string // "all" or one architecture
	// Source is the name of the source package where it is not the binary's
	// own, else "". SourceVersion likewise.
	Source        string
	SourceVersion string
	Section       string
	MultiArch     string // "", "no", "same", "foreign" or "allowed"
	Essential     bool

	// Relations as written: ParseDependency and ParseProvides take them.
	Depends, PreDepends, Provides, Conflicts, Breaks, Replaces string

	// Filename is the path below the root of the archive: relative, without
	// "..", only in an index.
	Filename string
	SHA256   string // of the package file, 64 lower-case hexadecimal digits
	Size     int64  // of the package file, in bytes; 0 where it is not told

	InstalledSize int64 // estimate of the builder, in KiB (Policy 5.6.20)
}

// wanted numbers the fields that a Stanza takes.
const (
	wPackage = iota
	wVersion
	wArchitecture
	wSource
	wSection
	wMultiArch
	wEssential
	wDepends
	wPreDepends
	wProvides
	wConflicts
	wBreaks
	wReplaces
	wFilename
	wSHA256
	wSize
	wInstalledSize
	wCount
)

// wantedField tells which of the wanted fields has the lower-case name.
func wantedField(name []byte) int {
	switch string(name) {
	case "package":
		return wPackage
	case "version":
		return wVersion
	case "architecture":
		return wArchitecture
	case "source":
		return wSource
	case "section":
		return wSection
	case "multi-arch":
		return wMultiArch
	case "essential":
		return wEssential
	case "depends":
		return wDepends
	case "pre-depends":
		return wPreDepends
	case "provides":
		return wProvides
	case "conflicts":
		return wConflicts
	case "breaks":
		return wBreaks
	case "replaces":
		return wReplaces
	case "filename":
		return wFilename
	case "sha256":
		return wSHA256
	case "size":
		return wSize
	case "installed-size":
		return wInstalledSize
	}
	return -1
}

// ParseStanza takes a paragraph of a Packages index or of a package's control
// file. Package, Version and Architecture must be there and follow Debian
// Policy; the fields that only an index has may be missing (see Fetchable).
// Relations are not parsed: one odd relation of a package that nobody asked for
// must not spoil a whole index.
func ParseStanza(p Paragraph) (Stanza, error) {
	var v [wCount]string
	p.pick(&v)
	s := Stanza{
		Package: v[wPackage], Version: v[wVersion], Architecture: v[wArchitecture],
		Section: v[wSection], MultiArch: v[wMultiArch],
		Depends: v[wDepends], PreDepends: v[wPreDepends], Provides: v[wProvides],
		Conflicts: v[wConflicts], Breaks: v[wBreaks], Replaces: v[wReplaces],
		Filename: v[wFilename],
	}
	if err := s.parse(&v); err != nil {
		return Stanza{}, fmt.Errorf("cannot read the paragraph at line %d: %w", p.line, err)
	}
	return s, nil
}

// pick copies the wanted values into one string and cuts it up: one allocation
// for a package.
func (p Paragraph) pick(v *[wCount]string) {
	var at [wCount][2]int
	n := 0
	for i := range p.fields {
		f := &p.fields[i]
		var key [16]byte
		name := p.buf[f.name:f.nameEnd]
		if len(name) > len(key) {
			continue
		}
		for i, c := range name {
			key[i] = lower(c)
		}
		if w := wantedField(key[:len(name)]); w >= 0 {
			at[w] = [2]int{int(f.val), int(f.to)}
			n += int(f.to - f.val)
		}
	}
	var b strings.Builder
	b.Grow(n)
	for _, a := range at {
		b.Write(p.buf[a[0]:a[1]])
	}
	all := b.String()
	for w, a := range at {
		v[w], all = all[:a[1]-a[0]], all[a[1]-a[0]:]
	}
}

func (s *Stanza) parse(v *[wCount]string) (err error) {
	if err := packageName(s.Package); err != nil {
		return fmt.Errorf("field Package: %w", err)
	}
	in := func(field string, err error) error {
		return fmt.Errorf("package %s: field %s: %w", s.Package, field, err)
	}
	if _, err := ParseVersion(s.Version); err != nil {
		return in("Version", err)
	}
	if !archName(s.Architecture) {
		return in("Architecture", fmt.Errorf("%s is no architecture", quote(s.Architecture)))
	}
	if err := s.source(v[wSource]); err != nil {
		return in("Source", err)
	}
	switch s.MultiArch {
	case "", "no", "same", "foreign", "allowed":
	default:
		return in("Multi-Arch", fmt.Errorf("unknown value %s", quote(s.MultiArch)))
	}
	switch v[wEssential] {
	case "", "no":
	case "yes":
		s.Essential = true
	default:
		return in("Essential", fmt.Errorf("%s is neither yes nor no", quote(v[wEssential])))
	}
	if s.Filename != "" {
		if err := checkFilename(s.Filename); err != nil {
			return in("Filename", err)
		}
	}
	if v[wSHA256] != "" {
		if s.SHA256, err = sha256Hex(v[wSHA256]); err != nil {
			return in("SHA256", err)
		}
	}
	if s.Size, err = size(v[wSize]); err != nil {
		return in("Size", err)
	}
	if s.InstalledSize, err = size(v[wInstalledSize]); err != nil {
		return in("Installed-Size", err)
	}
	return nil
}

// source takes "name" or "name (version)", Policy 5.6.1.
func (s *Stanza) source(v string) error {
	if v == "" {
		return nil
	}
	name, version, ok := strings.Cut(v, " ")
	if ok {
		version = strings.TrimLeft(version, " ")
		if len(version) < 2 || version[0] != '(' || version[len(version)-1] != ')' {
			return fmt.Errorf("%s is not a name and a version", quote(v))
		}
		version = version[1 : len(version)-1]
		if _, err := ParseVersion(version); err != nil {
			return err
		}
	}
	if err := packageName(name); err != nil {
		return err
	}
	if name != s.Package {
		s.Source = name
	}
	if version != s.Version {
		s.SourceVersion = version
	}
	return nil
}

// Fetchable returns an error unless the stanza tells where the package lies and
// how to verify it: file name, size and SHA-256.
func (s Stanza) Fetchable() error {
	switch {
	case s.Filename == "":
		return fmt.Errorf("cannot fetch %s: the index tells no file name", s.Package)
	case s.SHA256 == "":
		return fmt.Errorf("cannot fetch %s: the index tells no SHA-256", s.Package)
	case s.Size <= 0:
		return fmt.Errorf("cannot fetch %s: the index tells no size", s.Package)
	}
	return nil
}

// SourceName returns the name of the source package.
func (s Stanza) SourceName() string {
	if s.Source != "" {
		return s.Source
	}
	return s.Package
}

// packageName checks a name by Policy 5.6.1, and that it is short enough to be
// part of a file name.
func packageName(s string) error {
	switch {
	case s == "":
		return errors.New("missing")
	case len(s) < 2 || len(s) > 200:
		return fmt.Errorf("%s is no package name: %d characters", quote(s), len(s))
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || i > 0 && (c == '+' || c == '-' || c == '.')) {
			return fmt.Errorf("%s is no package name", quote(s))
		}
	}
	return nil
}

// archName tells whether s can name one architecture (or "all").
func archName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return s != "any" && s != "source"
}

func sha256Hex(s string) (string, error) {
	if len(s) != 64 {
		return "", fmt.Errorf("%s is no SHA-256", quote(s))
	}
	upper := false
	for i := range len(s) {
		c := s[i]
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f':
		case 'A' <= c && c <= 'F':
			upper = true
		default:
			return "", fmt.Errorf("%s is no SHA-256", quote(s))
		}
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, nil
}

// size reads a count: decimal digits and nothing else, no sign. "" is 0.
func size(s string) (int64, error) {
	var n int64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%s is no size", quote(s))
		}
		if n > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, fmt.Errorf("%s is too large", quote(s))
		}
		n = n*10 + int64(c-'0')
	}
	return n, nil
}

// checkFilename refuses a Filename that could lead out of the archive, by the
// path itself or after somebody decoded it once more.
func checkFilename(s string) error {
	if len(s) > 1024 {
		return fmt.Errorf("%d bytes long", len(s))
	}
	// Flat repositories write "./name.deb".
	rest := strings.TrimPrefix(s, "./")
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 {
			return fmt.Errorf("%s is no plain relative path", quote(s))
		}
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c == '\\' || c == 0x7f || c == '?' || c == '#' {
			return fmt.Errorf("%s holds a character that a file name of an archive never has", quote(s))
		}
		if c != '%' {
			continue
		}
		if i+2 >= len(s) {
			return fmt.Errorf("%s ends in half an escape", quote(s))
		}
		switch strings.ToLower(s[i+1 : i+3]) {
		case "3a", "2b", "7e": // ":", "+" and "~" of a version, which some archives escape
		default:
			return fmt.Errorf("%s holds an escape", quote(s))
		}
	}
	return nil
}
