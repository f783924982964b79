package recipes

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Edition is what {series} and {api} stand for: "8.2" and "20220829".
type Edition struct {
	Series string `json:"series,omitempty"`
	API    string `json:"api,omitempty"`
}

// Versioned tells whether the recipe is of no use before At.
func (r *Recipe) Versioned() bool { return r.Series.Package != "" && r.edition.Series == "" }

// Edition returns what At was called with.
func (r *Recipe) Edition() Edition { return r.edition }

// At returns the recipe of one series. A recipe without series is returned as it
// is, and so is what At has returned.
func (r *Recipe) At(e Edition) *Recipe {
	if !r.Versioned() {
		return r
	}
	text, err := yaml.Marshal(r)
	if err != nil {
		panic("recipes: " + err.Error()) // what was read can be written
	}
	to := []string{"{series}", e.Series}
	if e.API != "" {
		to = append(to, "{api}", e.API)
	}
	out := &Recipe{file: r.file, edition: e}
	if err := yaml.Unmarshal([]byte(strings.NewReplacer(to...).Replace(string(text))), out); err != nil {
		panic("recipes: " + err.Error())
	}
	out.Series = r.Series // tells how other editions are called
	return out
}

// As marks a recipe that was read back as one of an edition.
func (r *Recipe) As(e Edition) *Recipe {
	out := *r
	out.edition = e
	return &out
}

// Servers returns the parts that have processes, in the order in which they
// start: those that others need come first, and the main one last.
func (r *Recipe) Servers() []*Recipe {
	var out []*Recipe
	for _, p := range r.Parts() {
		if p.HasProcesses() {
			out = append(out, p)
		}
	}
	return out
}

// Parts returns what Join was called with, the main recipe last.
func (r *Recipe) Parts() []*Recipe {
	if len(r.parts) == 0 {
		return []*Recipe{r}
	}
	return r.parts
}

// Part returns the part with that name.
func (r *Recipe) Part(name string) (*Recipe, bool) {
	for _, p := range r.Parts() {
		if p.Name == name {
			return p, true
		}
	}
	return nil, false
}

// Join puts a server and the parts beside it together: what they need of
// packages and files becomes one list, so that they are upgraded in one
// transaction. Name, service, configuration and version are the main one's; see
// Servers for those of the others. Without parts it returns main.
func Join(main *Recipe, parts ...*Recipe) *Recipe {
	if len(parts) == 0 {
		return main
	}
	out := *main
	out.parts = append(slices.Clone(parts), main)
	for _, p := range parts {
		out.add(p)
	}
	// What one part asks for is not what another has no use for.
	out.Without = slices.DeleteFunc(out.Without, func(w string) bool { return slices.Contains(out.Packages, w) })
	return &out
}

// add appends what packages and files are concerned with.
func (r *Recipe) add(p *Recipe) {
	for _, l := range []struct {
		to   *[]string
		from []string
	}{
		{&r.Packages, p.Packages}, {&r.Owns, p.Owns}, {&r.Without, p.Without}, {&r.Executables, p.Executables},
		{&r.Runtime, p.Runtime}, {&r.Exclude, p.Exclude}, {&r.Carry, p.Carry}, {&r.State, p.State},
	} {
		*l.to = union(*l.to, l.from)
	}
	r.Effects.Copy = append(slices.Clone(r.Effects.Copy), p.Effects.Copy...)
	r.Effects.Enable = append(slices.Clone(r.Effects.Enable), p.Effects.Enable...)
	r.Create.add(p.Create)
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func (c *Create) add(o Create) {
	c.Users = append(slices.Clone(c.Users), slices.DeleteFunc(slices.Clone(o.Users), func(u User) bool {
		return slices.ContainsFunc(c.Users, func(have User) bool { return have.Name == u.Name })
	})...)
	c.Groups = append(slices.Clone(c.Groups), slices.DeleteFunc(slices.Clone(o.Groups), func(g Group) bool {
		return slices.ContainsFunc(c.Groups, func(have Group) bool { return have.Name == g.Name })
	})...)
	c.Dirs = append(slices.Clone(c.Dirs), slices.DeleteFunc(slices.Clone(o.Dirs), func(d Dir) bool {
		return slices.ContainsFunc(c.Dirs, func(have Dir) bool { return have.Path == d.Path })
	})...)
	c.Links = append(slices.Clone(c.Links), slices.DeleteFunc(slices.Clone(o.Links), func(l Link) bool {
		return slices.ContainsFunc(c.Links, func(have Link) bool { return have.Path == l.Path })
	})...)
	c.Files = append(slices.Clone(c.Files), slices.DeleteFunc(slices.Clone(o.Files), func(f File) bool {
		return slices.ContainsFunc(c.Files, func(have File) bool { return have.Path == f.Path })
	})...)
}

// inherit puts the base's lists before the recipe's own; what the recipe leaves
// out is the base's.
func (r *Recipe) inherit(base *Recipe) {
	mine := *r
	own := mine.Packages
	for _, l := range []*[]string{&r.Owns, &r.Without, &r.Runtime, &r.Exclude, &r.Carry, &r.State} {
		*l = slices.Clone(*l)
	}
	r.add(base)
	r.Packages = union(own, base.Packages) // the first is the server
	r.Executables = mine.Executables
	if r.Series == (Series{}) {
		r.Series = base.Series
	}
	if len(r.Modules.Packages) == 0 {
		r.Modules = base.Modules
	}
	r.Base = ""
}
