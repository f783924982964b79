package lab

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// errNoPackage says that the index has no package of that name.
var errNoPackage = errors.New("no such package in the index")

// closure follows Depends and Pre-Depends from the packages named and the
// extras, to name and version. It is no resolver: of alternatives it takes the
// first that exists, and of each package the version at its end of the list
// that meets what is known of it.
func (a *apt) closure(names []string, newest bool) (map[string]string, error) {
	x := &index{apt: a, have: map[string][]stanza{}}
	if err := x.load(names...); err != nil {
		return nil, err
	}
	for _, n := range names {
		if len(x.have[n]) == 0 {
			return nil, fmt.Errorf("%w: %s in %s", errNoPackage, n, a.name())
		}
	}
	// What one pass learns too late, the next one knows from its beginning.
	var known []constraint
	for range 20 {
		c := choice{index: x, newest: newest, chosen: map[string]stanza{}, wants: map[string][]constraint{}}
		for _, k := range known {
			c.wants[k.name] = append(c.wants[k.name], k)
		}
		late, err := c.run(names)
		if err != nil {
			return nil, err
		}
		if late == nil {
			versions := map[string]string{}
			for n, s := range c.chosen {
				versions[n] = s["Version"]
			}
			return versions, nil
		}
		known = append(known, *late)
	}
	return nil, fmt.Errorf("no set of versions for %s in %s", strings.Join(names, " "), a.name())
}

// name is what people call this source.
func (a *apt) name() string {
	if a.suite == "" {
		return "the apt sources of this machine"
	}
	return "the suite " + a.suite + " of this machine's archive"
}

// index keeps what apt-cache was asked: each call reads the whole index.
type index struct {
	apt  *apt
	have map[string][]stanza
}

func (x *index) load(names ...string) error {
	var ask []string
	for _, n := range names {
		if _, ok := x.have[n]; !ok {
			ask = appendNew(ask, n)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	stanzas, err := x.apt.show(ask...)
	if err != nil {
		return err
	}
	for _, n := range ask {
		x.have[n] = nil
	}
	for _, s := range stanzas {
		if n := s["Package"]; slices.Contains(ask, n) {
			x.have[n] = append(x.have[n], s)
		}
	}
	return nil
}

// providers of a virtual package, sorted.
func (x *index) providers(virtual string) []string {
	out, err := x.apt.run("", "apt-cache", "showpkg", "--", virtual)
	if err != nil {
		return nil
	}
	_, list, _ := strings.Cut(out, "Reverse Provides:")
	var names []string
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 1 {
			names = appendNew(names, f[0])
		}
	}
	slices.Sort(names)
	return names
}

type choice struct {
	*index
	newest   bool
	chosen   map[string]stanza
	wants    map[string][]constraint
	virtuals []string
}

// run chooses all, or tells a constraint that came too late.
func (c *choice) run(names []string) (late *constraint, err error) {
	todo := append(slices.Clone(names), extras[:]...)
	for len(todo) > 0 {
		if err := c.load(todo...); err != nil {
			return nil, err
		}
		var next []string
		for _, name := range todo {
			if _, done := c.chosen[name]; done || len(c.have[name]) == 0 {
				continue // an extra of another release
			}
			s, err := pick(c.have[name], name, c.wants[name], c.newest)
			if err != nil {
				return nil, err
			}
			c.chosen[name] = s
			more, late, err := c.needs(s)
			if err != nil || late != nil {
				return late, err
			}
			next = append(next, more...)
		}
		if todo = next; len(todo) == 0 {
			todo = c.provide()
		}
	}
	return nil, nil
}

// needs lists what a package depends on and nobody has chosen yet.
func (c *choice) needs(s stanza) (more []string, late *constraint, err error) {
	groups := parseRelations(s["Pre-Depends"] + "," + s["Depends"])
	for _, alternatives := range groups {
		var names []string
		for _, k := range alternatives {
			names = append(names, k.name)
		}
		if skipped.MatchString(names[0]) {
			continue
		}
		if err := c.load(names...); err != nil {
			return nil, nil, err
		}
		if slices.ContainsFunc(alternatives, func(k constraint) bool {
			v, ok := c.chosen[k.name]
			return ok && k.holds(v["Version"])
		}) {
			continue
		}
		at := slices.IndexFunc(alternatives, func(k constraint) bool { return len(c.have[k.name]) > 0 })
		if at < 0 {
			c.virtuals = appendNew(c.virtuals, names[0])
			continue
		}
		k := alternatives[at]
		if _, ok := c.chosen[k.name]; ok {
			return nil, &k, nil
		}
		c.wants[k.name] = append(c.wants[k.name], k)
		more = appendNew(more, k.name)
	}
	return more, nil, nil
}

// provide finds somebody for each virtual package that nobody chosen provides.
func (c *choice) provide() []string {
	var more []string
	for _, v := range c.virtuals {
		who := c.providers(v)
		taken := func(n string) bool {
			return slices.Contains(more, n) || slices.Contains(slices.Collect(maps.Keys(c.chosen)), n)
		}
		if len(who) > 0 && !slices.ContainsFunc(who, taken) {
			more = append(more, who[0])
		}
	}
	c.virtuals = nil
	return more
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func pick(stanzas []stanza, name string, wants []constraint, newest bool) (stanza, error) {
	var best stanza
	for _, s := range stanzas {
		// An nginx of another vendor is built in another shape.
		if s["Package"] != name || name == "nginx" && !distroNginx.MatchString(s["Depends"]) {
			continue
		}
		ok := true
		for _, c := range wants {
			ok = ok && c.holds(s["Version"])
		}
		op := "lt"
		if newest {
			op = "gt"
		}
		if ok && (best == nil || versionIs(s["Version"], op, best["Version"])) {
			best = s
		}
	}
	if best == nil {
		return nil, errors.New("the index offers no " + name + " that fits")
	}
	return best, nil
}

var distroNginx = regexp.MustCompile(`nginx-(common|core)`)

type constraint struct{ name, op, version string }

func (c constraint) holds(v string) bool {
	if c.op == "" {
		return true
	}
	op := map[string]string{"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}[c.op]
	return op != "" && versionIs(v, op, c.version)
}

var dependency = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?::[a-z]+)?(?:\s*\(\s*(<<|<=|=|>=|>>)\s*([^)\s]+)\s*\))?`)

// parseRelations reads a relationship field (Debian Policy 7.1): all of it, and
// for each the alternatives.
func parseRelations(field string) [][]constraint {
	var all [][]constraint
	for _, part := range strings.Split(field, ",") {
		var alternatives []constraint
		for _, one := range strings.Split(part, "|") {
			if m := dependency.FindStringSubmatch(strings.TrimSpace(one)); m != nil {
				alternatives = append(alternatives, constraint{m[1], m[2], m[3]})
			}
		}
		if len(alternatives) > 0 {
			all = append(all, alternatives)
		}
	}
	return all
}
