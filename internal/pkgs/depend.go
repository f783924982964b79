package pkgs

import (
	"errors"
	"fmt"
	"strings"
)

// A Dependency is a relation field (Policy 7.1): all of its members must hold.
type Dependency []Alternatives

// Alternatives hold if one of them does; earlier ones are preferred.
type Alternatives []Relation

// A Relation names a package, real or virtual, and perhaps versions of it.
type Relation struct {
	Name    string
	Arch    string // of "name:arch": "any", "native" or an architecture; "" where none is written
	Op      string // "", "<<", "<=", "=", ">=" or ">>"
	Version string // "" if and only if Op is

	// Archs and Profiles restrict where the relation exists at all: the text
	// between the brackets of "[amd64 !arm64]" and "<!nocheck> <cross>".
	// Binary packages hardly have them. See AppliesTo.
	Archs    string
	Profiles string
}

const (
	maxDependency = 1 << 20 // bytes of one field
	maxRelations  = 10_000  // in one field
)

// ParseDependency reads a relation field: Depends, Pre-Depends, Conflicts,
// Breaks and so on. An empty field is an empty Dependency. The operators "<"
// and ">" are deprecated and mean "<=" and ">=", as they do to dpkg.
func ParseDependency(s string) (Dependency, error) {
	if len(s) > maxDependency {
		return nil, fmt.Errorf("cannot read relations: longer than %d bytes", maxDependency)
	}
	p := relationParser{s: s}
	var d Dependency
	n := 0
	for p.space(); p.i < len(p.s); {
		var alt Alternatives
		for {
			r, err := p.relation()
			if err != nil {
				return nil, fmt.Errorf("cannot read relations %s: %w", quote(s), err)
			}
			if n++; n > maxRelations {
				return nil, fmt.Errorf("cannot read relations: more than %d", maxRelations)
			}
			alt = append(alt, r)
			if !p.take('|') {
				break
			}
		}
		d = append(d, alt)
		if p.i == len(p.s) {
			break
		}
		if !p.take(',') {
			return nil, fmt.Errorf("cannot read relations %s: no comma before %s", quote(s), quote(p.s[p.i:]))
		}
		// A comma at the end is common and harmless.
	}
	return d, nil
}

// ParseProvides reads a Provides field: packages without alternatives, each at
// most with "= version" (Policy 7.5).
func ParseProvides(s string) ([]Relation, error) {
	d, err := ParseDependency(s)
	if err != nil {
		return nil, err
	}
	rs := make([]Relation, 0, len(d))
	for _, alt := range d {
		if len(alt) != 1 || alt[0].Op != "" && alt[0].Op != "=" {
			return nil, fmt.Errorf("cannot read relations %s: a package provides another as it is or in one version", quote(s))
		}
		rs = append(rs, alt[0])
	}
	return rs, nil
}

// relationParser walks over the text of a field. After each method the white
// space that follows is skipped.
type relationParser struct {
	s string
	i int
}

func (p *relationParser) space() {
	for p.i < len(p.s) && strings.IndexByte(" \t\n\r", p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *relationParser) take(c byte) bool {
	if p.i == len(p.s) || p.s[p.i] != c {
		return false
	}
	p.i++
	p.space()
	return true
}

// word takes what stands before the next of the stop characters.
func (p *relationParser) word(stop string) string {
	n := strings.IndexAny(p.s[p.i:], stop)
	if n < 0 {
		n = len(p.s) - p.i
	}
	w := p.s[p.i : p.i+n]
	p.i += n
	p.space()
	return w
}

func (p *relationParser) relation() (r Relation, err error) {
	const stop = " \t\n\r,|([<"
	r.Name = p.word(stop + ":")
	if err := packageName(r.Name); err != nil {
		if r.Name == "" {
			err = errors.New("a package name is missing")
		}
		return r, err
	}
	if p.i < len(p.s) && p.s[p.i] == ':' {
		p.i++
		r.Arch = p.word(stop)
		if r.Arch != "any" && !archName(r.Arch) {
			return r, fmt.Errorf("%s is no architecture", quote(r.Arch))
		}
	}
	if p.take('(') {
		if r.Op, r.Version, err = p.version(); err != nil {
			return r, err
		}
	}
	if p.take('[') {
		r.Archs = strings.TrimRight(p.word("]"), " \t\n\r")
		if !p.take(']') || !restriction(r.Archs, archRestriction) {
			return r, fmt.Errorf("bad architectures %s", quote(r.Archs))
		}
	}
	for p.take('<') {
		group := strings.TrimRight(p.word(">"), " \t\n\r")
		if !p.take('>') || !restriction(group, profileName) {
			return r, fmt.Errorf("bad build profiles %s", quote(group))
		}
		if r.Profiles != "" {
			r.Profiles += " "
		}
		r.Profiles += "<" + group + ">"
	}
	return r, nil
}

func (p *relationParser) version() (op, version string, err error) {
	n := 0
	for n < 2 && p.i+n < len(p.s) && strings.IndexByte("<>=", p.s[p.i+n]) >= 0 {
		n++
	}
	op = p.s[p.i : p.i+n]
	p.i += n
	p.space()
	switch op {
	case "<<", "<=", "=", ">=", ">>":
	case "<", ">":
		op += "="
	default:
		return "", "", fmt.Errorf("bad operator %s", quote(op))
	}
	version = p.word(" \t\n\r)")
	if !p.take(')') {
		return "", "", errors.New("a closing parenthesis is missing")
	}
	if _, err := ParseVersion(version); err != nil {
		return "", "", err
	}
	return op, version, nil
}

// restriction checks the words of a list, each perhaps with "!" before it.
func restriction(s string, ok func(string) bool) bool {
	words := strings.Fields(s)
	for _, w := range words {
		if !ok(strings.TrimPrefix(w, "!")) {
			return false
		}
	}
	return len(words) > 0
}

func archRestriction(s string) bool { return s == "any" || archName(s) }

func profileName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || digit(c) || c == '-' || c == '.' || c == '+') {
			return false
		}
	}
	return s != ""
}

// SatisfiedBy reports whether the version of a package is one that the relation
// asks for. A relation without a version takes any; a version that is none
// satisfies no other. It does not look at names and architectures.
func (r Relation) SatisfiedBy(version string) bool {
	if r.Op == "" {
		return true
	}
	n, err := CompareVersions(version, r.Version)
	if err != nil {
		return false
	}
	switch r.Op {
	case "<<":
		return n < 0
	case "<=":
		return n <= 0
	case "=":
		return n == 0
	case ">=":
		return n >= 0
	case ">>":
		return n > 0
	}
	return false
}

// AppliesTo reports whether the relation exists on an architecture, with no
// build profile in force (Policy 7.1; wildcards by 11.1.1).
func (r Relation) AppliesTo(arch string) bool {
	if r.Archs != "" {
		words := strings.Fields(r.Archs)
		// A list is either of those that are in or of those that are out.
		in := words[0][0] == '!'
		for _, w := range words {
			if w, not := strings.CutPrefix(w, "!"); archMatches(w, arch) {
				in = !not
				break
			}
		}
		if !in {
			return false
		}
	}
	if r.Profiles == "" {
		return true
	}
	// One group must hold, and without profiles only negated words do.
	for group := range strings.SplitSeq(strings.Trim(r.Profiles, "<>"), "> <") {
		holds := true
		for _, w := range strings.Fields(group) {
			holds = holds && w[0] == '!'
		}
		if holds {
			return true
		}
	}
	return false
}

func archMatches(wildcard, arch string) bool {
	if wildcard == "any" || wildcard == arch {
		return true
	}
	system, cpu, ok := strings.Cut(arch, "-")
	if !ok {
		system, cpu = "linux", arch
	}
	return wildcard == system+"-any" || wildcard == "any-"+cpu
}

// For returns what of the dependency exists on an architecture. A member whose
// alternatives are all gone is gone too.
func (d Dependency) For(arch string) Dependency {
	out := make(Dependency, 0, len(d))
	for _, alt := range d {
		kept := make(Alternatives, 0, len(alt))
		for _, r := range alt {
			if r.AppliesTo(arch) {
				kept = append(kept, r)
			}
		}
		if len(kept) > 0 {
			out = append(out, kept)
		}
	}
	return out
}

// String returns the relation as a control file writes it.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	if r.Archs != "" {
		s += " [" + r.Archs + "]"
	}
	if r.Profiles != "" {
		s += " " + r.Profiles
	}
	return s
}

// String returns the alternatives as a control file writes them.
func (a Alternatives) String() string {
	parts := make([]string, len(a))
	for i, r := range a {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}

// String returns the dependency as a control file writes it.
func (d Dependency) String() string {
	parts := make([]string, len(d))
	for i, a := range d {
		parts[i] = a.String()
	}
	return strings.Join(parts, ", ")
}
