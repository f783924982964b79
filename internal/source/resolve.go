package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// Request says what is to be resolved.
type Request struct {
	Roots []Want
	// Without names packages, real or virtual, that need not be there: what
	// needs them is content, and they are neither fetched nor followed.
	Without []string
	Arch    string            // default that of the index
	Held    map[string]string // name → version that must stay
}

// Want is one package that is asked for. At most one of Exact and Constraint
// is set; without either the best version serves.
type Want struct {
	Name       string
	Exact      string // a Debian version
	Constraint string // on the upstream version, see CheckConstraint
	Optional   bool   // left out where it cannot be had
}

// Target is a consistent set of packages: each relation of each of them holds.
type Target struct {
	Packages []Package // sorted by name, one version each
	Notes    []string  // what the user should know: an optional package left out, a newest version passed over
}

// Get returns the package of that name.
func (t *Target) Get(name string) (Package, bool) {
	i, ok := slices.BinarySearchFunc(t.Packages, name, func(p Package, n string) int { return strings.Compare(p.Package, n) })
	if !ok {
		return Package{}, false
	}
	return t.Packages[i], true
}

// Digest names the set: the SHA-256, in hex, over names, versions and digests.
func (t *Target) Digest() string {
	h := sha256.New()
	for _, p := range t.Packages {
		fmt.Fprintf(h, "%s=%s %s\n", p.Package, p.Version, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// maxSteps bounds the search: packages tried. Real requests take one step for
// each package.
const maxSteps = 50_000

// Resolve finds a consistent set of packages for a request: Depends and
// Pre-Depends, with versions, alternatives and provided names, hold inside the
// set, and none of its Conflicts and Breaks does; one version of each package;
// Recommends are not followed.
//
// Each choice falls on the first that can be had of: what is in the set
// already, the alternatives in their order, the versions in the order of
// Index.Versions, real packages before those that only provide the name. Single
// requirements are served before alternatives, as apt does, so that a choice is
// not made that a later requirement makes anyhow. A request without a solution
// is an ErrUnresolved that tells who needs what and what is in the way.
func Resolve(ix *Index, req Request) (*Target, error) {
	if req.Arch == "" {
		req.Arch = ix.arch
	}
	var must, may []root
	for _, w := range req.Roots {
		r, err := newRoot(w)
		if err != nil {
			return nil, err
		}
		if w.Optional {
			may = append(may, r)
		} else {
			must = append(must, r)
		}
	}
	c := newCatalog(ix, req)
	s, err := solveRoots(c, must)
	if err != nil {
		return nil, err
	}
	var notes []string
	for _, r := range may {
		more, err := solveRoots(c, append(slices.Clone(must), r))
		if err != nil {
			notes = append(notes, fmt.Sprintf("left out %s: %s", r.Name, err))
			continue
		}
		s, must = more, append(must, r)
	}
	t := &Target{Notes: append(notes, s.passedOver(must)...)}
	for _, p := range s.chosen {
		t.Packages = append(t.Packages, p.Package)
	}
	slices.SortFunc(t.Packages, func(a, b Package) int { return strings.Compare(a.Package, b.Package) })
	return t, nil
}

func solveRoots(c *catalog, roots []root) (*solver, error) {
	s := &solver{catalog: c, chosen: map[string]*candidate{}, provided: map[string][]*candidate{}, against: map[string][]objection{}, reason: map[string]clause{}}
	for _, r := range roots {
		s.single = append(s.single, clause{root: &r})
	}
	if ok, _ := s.solve(); ok {
		return s, nil
	}
	if s.failure == "" {
		s.failure = "the search found no consistent set"
	}
	if s.steps > maxSteps {
		s.failure = fmt.Sprintf("no consistent set was found in %d steps; the first obstacle: %s", maxSteps, s.failure)
	}
	names := make([]string, len(roots))
	for i, r := range roots {
		names[i] = r.Name
	}
	return nil, fail(ErrUnresolved, "", "cannot resolve %s: %s", event.Clean(strings.Join(names, ", "), 200), s.failure)
}

// clause is something that must hold: one relation field's alternatives that a
// chosen package has, or a root.
type clause struct {
	root *root
	from *candidate // nil for a root
	alts pkgs.Alternatives
}

// objection is a Conflicts or Breaks of a chosen package.
type objection struct {
	by  *candidate
	rel pkgs.Relation
}

// solver searches depth first. It goes back to the last choice that had a part
// in a failure, not just to the last one (conflict-directed backjumping).
type solver struct {
	*catalog
	chosen   map[string]*candidate
	provided map[string][]*candidate // chosen, by a name that they provide
	against  map[string][]objection  // of the chosen, by the name they are about
	reason   map[string]clause       // why a package was chosen

	single, choice []clause // to be served; single ones first
	si, ci         int      // how many were

	steps   int
	failure string // the first one, in words
}

// names is a set of package names; "" stands for the request itself.
type names map[string]bool

// next takes the next clause that does not hold yet.
func (s *solver) next() (clause, bool) {
	for {
		var c clause
		switch {
		case s.si < len(s.single):
			c = s.single[s.si]
			s.si++
		case s.ci < len(s.choice):
			c = s.choice[s.ci]
			s.ci++
		default:
			return clause{}, false
		}
		if !s.holds(c) {
			return c, true
		}
	}
}

// solve serves all clauses, or says which of the chosen packages are to blame.
func (s *solver) solve() (bool, names) {
	si, ci := s.si, s.ci
	c, todo := s.next()
	if !todo {
		return true, nil
	}
	defer func() { s.si, s.ci = si, ci }()
	blame := names{}
	if c.from != nil {
		blame[c.from.Package.Package] = true
	}
	var obstacles []string
	for _, p := range s.options(c) {
		if s.steps++; s.steps > maxSteps {
			return false, names{}
		}
		if who, why := s.obstacle(p); why != "" {
			obstacles = append(obstacles, why)
			if who != "" {
				blame[who] = true
			}
			continue
		}
		undo := s.choose(p, c)
		ok, sub := s.solve()
		if ok {
			return true, nil
		}
		undo()
		if s.steps > maxSteps || !sub[p.name()] {
			return false, sub
		}
		delete(sub, p.name())
		for n := range sub {
			blame[n] = true
		}
	}
	if s.failure == "" {
		s.failure = s.explain(c, obstacles)
	}
	return false, blame
}

// holds tells whether a chosen package serves the clause.
func (s *solver) holds(c clause) bool {
	if c.root != nil {
		p, ok := s.chosen[c.root.Name]
		return ok && c.root.takes(p.Package)
	}
	for _, r := range c.alts {
		if s.without[r.Name] {
			return true
		}
		if p, ok := s.chosen[r.Name]; ok && r.SatisfiedBy(p.Version) {
			return true
		}
		if slices.ContainsFunc(s.provided[r.Name], func(p *candidate) bool { return p.serves(r) }) {
			return true
		}
	}
	return false
}

// obstacle tells what of the chosen is in the way of a package, in words, and
// who that is.
func (s *solver) obstacle(p *candidate) (who, why string) {
	if p.err != nil {
		return "", p.String() + " cannot be used: " + event.Clean(p.err.Error(), 200)
	}
	if q, ok := s.chosen[p.name()]; ok && q != p {
		return q.name(), fmt.Sprintf("%s is already needed in version %s%s", q.name(), q.Version, s.because(q))
	}
	for _, r := range p.objects {
		for _, q := range s.about(r) {
			if q.name() != p.name() {
				return q.name(), fmt.Sprintf("%s excludes %s, and %s is needed%s", p, r, q, s.because(q))
			}
		}
	}
	for _, name := range p.allNames() {
		for _, o := range s.against[name] {
			if o.by.name() != p.name() && p.matches(o.rel) {
				return o.by.name(), fmt.Sprintf("%s excludes %s, and is needed%s", o.by, o.rel, s.because(o.by))
			}
		}
	}
	return "", ""
}

// about lists the chosen packages that a relation is about.
func (s *solver) about(r pkgs.Relation) []*candidate {
	var list []*candidate
	if p, ok := s.chosen[r.Name]; ok && p.matches(r) {
		list = append(list, p)
	}
	for _, p := range s.provided[r.Name] {
		if p.serves(r) {
			list = append(list, p)
		}
	}
	return list
}

// choose takes a package into the set; the function it returns takes it out.
func (s *solver) choose(p *candidate, c clause) (undo func()) {
	name := p.name()
	nSingle, nChoice := len(s.single), len(s.choice)
	s.chosen[name] = p
	s.reason[name] = c
	for _, r := range p.provides {
		s.provided[r.Name] = append(s.provided[r.Name], p)
	}
	for _, r := range p.objects {
		s.against[r.Name] = append(s.against[r.Name], objection{p, r})
	}
	for _, alts := range p.needs {
		if len(alts) == 1 {
			s.single = append(s.single, clause{from: p, alts: alts})
		} else {
			s.choice = append(s.choice, clause{from: p, alts: alts})
		}
	}
	return func() {
		delete(s.chosen, name)
		delete(s.reason, name)
		for _, r := range p.provides {
			s.provided[r.Name] = s.provided[r.Name][:len(s.provided[r.Name])-1]
		}
		for _, r := range p.objects {
			s.against[r.Name] = s.against[r.Name][:len(s.against[r.Name])-1]
		}
		s.single, s.choice = s.single[:nSingle], s.choice[:nChoice]
	}
}

// writeList joins words for a message: "a, b and 3 more".
func writeList(w io.StringWriter, list []string, most int) {
	for i, v := range list {
		if i == most && len(list) > most+1 {
			_, _ = w.WriteString(fmt.Sprintf(" and %d more", len(list)-most))
			return
		}
		if i > 0 {
			_, _ = w.WriteString(", ")
		}
		_, _ = w.WriteString(v)
	}
}
