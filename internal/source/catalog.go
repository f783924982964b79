package source

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// candidate is a package whose relations were parsed.
type candidate struct {
	Package
	needs    []pkgs.Alternatives // Pre-Depends and Depends
	provides []pkgs.Relation
	objects  []pkgs.Relation // Conflicts and Breaks
	err      error           // a relation that cannot be read
}

func (p *candidate) name() string   { return p.Package.Package }
func (p *candidate) String() string { return event.Clean(p.Package.String(), 200) }

// serves tells whether what the package provides satisfies a relation: a
// versioned relation takes versioned provides only (Debian Policy 7.5).
func (p *candidate) serves(r pkgs.Relation) bool {
	return slices.ContainsFunc(p.provides, func(v pkgs.Relation) bool {
		return v.Name == r.Name && (r.Op == "" || v.Version != "" && r.SatisfiedBy(v.Version))
	})
}

// matches tells whether a relation is about this package, by its own name or
// one that it provides.
func (p *candidate) matches(r pkgs.Relation) bool {
	return r.Name == p.name() && r.SatisfiedBy(p.Version) || p.serves(r)
}

func (p *candidate) allNames() []string {
	list := []string{p.name()}
	for _, r := range p.provides {
		if !slices.Contains(list, r.Name) {
			list = append(list, r.Name)
		}
	}
	return list
}

// catalog looks candidates up in an index, and parses each once.
type catalog struct {
	ix      *Index
	arch    string
	held    map[string]string
	without map[string]bool
	byName  map[string][]*candidate
	byKey   map[string]*candidate // name, version and digest
	virtual map[string][]*candidate
}

func newCatalog(ix *Index, req Request) *catalog {
	c := &catalog{
		ix: ix, arch: req.Arch, held: req.Held, without: map[string]bool{},
		byName: map[string][]*candidate{}, byKey: map[string]*candidate{}, virtual: map[string][]*candidate{},
	}
	for _, n := range req.Without {
		c.without[n] = true
	}
	return c
}

// versions are the candidates of a name, best first.
func (c *catalog) versions(name string) []*candidate {
	list, ok := c.byName[name]
	if !ok {
		if c.ix.Bad(name) == "" {
			list = c.candidates(c.ix.Versions(name))
		}
		c.byName[name] = list
	}
	return list
}

// providers are the candidates that provide a name, best first.
func (c *catalog) providers(name string) []*candidate {
	list, ok := c.virtual[name]
	if !ok {
		list = c.candidates(c.ix.Providers(name))
		c.virtual[name] = list
	}
	return list
}

func (c *catalog) candidates(all []Package) []*candidate {
	list := make([]*candidate, 0, len(all))
	for _, p := range all {
		if v, held := c.held[p.Package]; held && v != p.Version || c.ix.Bad(p.Package) != "" {
			continue
		}
		key := p.Package + " " + p.Version + " " + p.SHA256
		k := c.byKey[key]
		if k == nil {
			k = c.parse(p)
			c.byKey[key] = k
		}
		list = append(list, k)
	}
	return list
}

// parse reads the relations of a package, as they are on this architecture.
func (c *catalog) parse(p Package) *candidate {
	k := &candidate{Package: p}
	fields := func(values ...string) (all pkgs.Dependency) {
		for _, v := range values {
			d, err := pkgs.ParseDependency(v)
			if err != nil {
				k.err = err
				return nil
			}
			all = append(all, d.For(c.arch)...)
		}
		return all
	}
	for _, alts := range fields(p.PreDepends, p.Depends) {
		ours := make(pkgs.Alternatives, 0, len(alts))
		for _, r := range alts {
			if !c.ours(r) { // nothing in this index has such a name
				r.Name, r.Arch = r.Name+":"+r.Arch, ""
			}
			ours = append(ours, r)
		}
		k.needs = append(k.needs, ours)
	}
	for _, alts := range fields(p.Conflicts, p.Breaks) {
		for _, r := range alts {
			if c.ours(r) {
				k.objects = append(k.objects, r)
			}
		}
	}
	// What cannot be parsed is not provided.
	k.provides, _ = pkgs.ParseProvides(p.Provides)
	return k
}

// ours tells whether a relation is about packages of this architecture.
func (c *catalog) ours(r pkgs.Relation) bool {
	return r.Arch == "" || r.Arch == "any" || r.Arch == "native" || r.Arch == c.arch
}

// options are the candidates that would serve a clause, best first, each once.
func (c *catalog) options(cl clause) []*candidate {
	var list []*candidate
	add := func(p *candidate) {
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	if cl.root != nil {
		for _, p := range c.versions(cl.root.Name) {
			if cl.root.takes(p.Package) {
				add(p)
			}
		}
		return list
	}
	for _, r := range cl.alts {
		for _, p := range c.versions(r.Name) {
			if r.SatisfiedBy(p.Version) {
				add(p)
			}
		}
		for _, p := range c.providers(r.Name) {
			if p.serves(r) {
				add(p)
			}
		}
	}
	return list
}

// because tells who needs a chosen package: " by a 1, which b 2 needs".
func (s *solver) because(p *candidate) string {
	c, ok := s.reason[p.name()]
	switch {
	case !ok:
		return ""
	case c.root != nil:
		return ", for it was asked for"
	}
	return fmt.Sprintf(", by %s", c.from)
}

// explain words a clause that cannot be served.
func (s *solver) explain(c clause, obstacles []string) string {
	var b strings.Builder
	var alts []string
	if c.root != nil {
		fmt.Fprintf(&b, "%s is asked for", c.root)
		alts = []string{c.root.Name}
	} else {
		fmt.Fprintf(&b, "%s needs %s", c.from, event.Clean(c.alts.String(), 300))
		for _, r := range c.alts {
			alts = append(alts, r.Name)
		}
	}
	if len(obstacles) > 0 {
		b.WriteString(", but ")
		writeList(&b, obstacles, 3)
	} else {
		b.WriteString(", and ")
		b.WriteString(s.offered(alts))
	}
	if chain := s.chain(c); chain != "" {
		b.WriteString(" (" + chain + ")")
	}
	return b.String()
}

// offered tells what there is of some names.
func (s *solver) offered(alts []string) string {
	var found []string
	for _, n := range alts {
		if why := s.ix.Bad(n); why != "" {
			return fmt.Sprintf("its entry cannot be used: %s", why)
		}
		if v, held := s.held[n]; held && len(s.versions(n)) == 0 {
			return fmt.Sprintf("%s is held at %s, which the sources do not offer", n, event.Clean(v, 100))
		}
		seen := map[string]bool{}
		for _, p := range s.versions(n) {
			if !seen[p.Version] {
				found = append(found, p.String())
				seen[p.Version] = true
			}
		}
		for _, p := range s.providers(n) {
			found = append(found, p.String()+" in its place")
		}
	}
	if len(found) == 0 {
		return "no source offers it"
	}
	var b strings.Builder
	b.WriteString("the sources offer only ")
	writeList(&b, found, 4)
	return b.String()
}

// chain tells how a clause came about: "nginx needs nginx-core needs libc6".
func (s *solver) chain(c clause) string {
	var up []string
	for p := c.from; p != nil && len(up) < 50; {
		up = append(up, p.name())
		r := s.reason[p.name()]
		p = r.from
	}
	if len(up) < 2 {
		return ""
	}
	slices.Reverse(up)
	if len(up) > 8 {
		up = append(append(slices.Clone(up[:4]), "…"), up[len(up)-3:]...)
	}
	return strings.Join(up, " needs ")
}

// passedOver notes each root for which a better version than the chosen one is
// offered but could not be used.
func (s *solver) passedOver(roots []root) []string {
	var notes []string
	for _, r := range roots {
		p, ok := s.chosen[r.Name]
		if !ok {
			continue
		}
		options := s.options(clause{root: &r})
		if len(options) > 0 && options[0].Version != p.Version {
			notes = append(notes, fmt.Sprintf("%s is passed over for %s: %s", options[0], event.Clean(p.Version, 100), s.failure))
		}
	}
	return notes
}
