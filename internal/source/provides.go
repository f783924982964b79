package source

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/pkgs"
)

// Providing lists the packages that have a name or provide it (Debian Policy 7.5),
// each once, in the best of the versions that do, by the order of Index.Versions:
// the package of that name first, then by priority and name. A package that the
// indices cannot be trusted about (Index.Bad) is left out. The list is empty, never
// an error, for a name that nobody has.
func (ix *Index) Providing(name string) []Package {
	return ix.best(append(ix.Versions(name), ix.Providers(name)...))
}

// Needing lists the packages that depend on a name, alone or as one of several
// alternatives, by Depends or Pre-Depends; each once, in the best of the versions
// that do, by priority and name. It looks through the whole index.
func (ix *Index) Needing(name string) []Package {
	var list []item
	for _, it := range ix.items {
		if it.needs(name, ix.arch) {
			list = append(list, it)
		}
	}
	slices.SortStableFunc(list, func(a, b item) int {
		return cmp.Or(b.from.priority-a.from.priority, strings.Compare(a.Package, b.Package), compareItems(a, b))
	})
	return ix.best(packagesOf(list))
}

func (it item) needs(name, arch string) bool {
	for _, field := range []string{it.PreDepends, it.Depends} {
		// To parse what cannot hold the name would take most of the time.
		if !strings.Contains(field, name) {
			continue
		}
		d, err := pkgs.ParseDependency(field)
		if err != nil {
			continue
		}
		for _, alt := range d.For(arch) {
			if slices.ContainsFunc(alt, func(r pkgs.Relation) bool { return r.Name == name }) {
				return true
			}
		}
	}
	return false
}

// best takes the first of each name.
func (ix *Index) best(list []Package) []Package {
	seen := make(map[string]bool)
	return slices.DeleteFunc(list, func(p Package) bool {
		drop := seen[p.Package] || ix.bad[p.Package] != ""
		seen[p.Package] = true
		return drop
	})
}

// Matching lists the names of real packages that match a pattern of path.Match,
// with digits in the order of their value: "php8.2-fpm" before "php8.10-fpm". It is
// empty for a pattern that is malformed, and leaves out what Index.Bad names.
func (ix *Index) Matching(glob string) []string {
	var out []string
	for name := range ix.names {
		if ok, err := path.Match(glob, name); err != nil {
			return nil
		} else if ok && ix.bad[name] == "" {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, compareNames)
	return out
}

// compareNames orders texts piece by piece, digits by their value, all else by
// byte; what has the same order so is ordered by byte as a whole.
func compareNames(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		var p, q string
		p, x = cutPiece(x)
		q, y = cutPiece(y)
		if c := comparePieces(p, q); c != 0 {
			return c
		}
	}
	return cmp.Or(len(x)-len(y), strings.Compare(a, b))
}

// cutPiece takes the digits, or the text without any, that s begins with.
func cutPiece(s string) (piece, rest string) {
	isDigit := func(c byte) bool { return c >= '0' && c <= '9' }
	i := 1
	for i < len(s) && isDigit(s[i]) == isDigit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}

func comparePieces(a, b string) int {
	digits := func(s string) bool { return s[0] >= '0' && s[0] <= '9' }
	if !digits(a) || !digits(b) {
		return strings.Compare(a, b)
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(len(a)-len(b), strings.Compare(a, b))
}

// Interface is a name by which packages of modules are tied to the server that they
// are built for: "phpapi-20220829".
type Interface struct {
	Name       string
	Providers  []string // packages that provide it, sorted; empty: none of the target does
	Dependents []string // packages that depend on it, sorted
}

// interfacePrefixes is how Debian names the interfaces of nginx, Apache and PHP.
func interfacePrefixes() []string {
	return []string{"nginx-abi-", "apache2-api-", "phpapi-"}
}

// IsInterface tells whether a name is that of a module interface of nginx, Apache
// or PHP.
func IsInterface(name string) bool {
	return slices.ContainsFunc(interfacePrefixes(), func(p string) bool { return strings.HasPrefix(name, p) })
}

// Interfaces lists the module interfaces of nginx, Apache and PHP that the packages
// of a target provide or depend on, in the order of Index.Matching. A relation that
// cannot be read is none.
func (t *Target) Interfaces() []Interface {
	found := map[string]*Interface{}
	get := func(name string) *Interface {
		if found[name] == nil {
			found[name] = &Interface{Name: name}
		}
		return found[name]
	}
	for _, p := range t.Packages {
		provides, _ := pkgs.ParseProvides(p.Provides)
		for _, r := range provides {
			if IsInterface(r.Name) {
				i := get(r.Name)
				i.Providers = append(i.Providers, p.Package)
			}
		}
		for _, field := range []string{p.PreDepends, p.Depends} {
			d, _ := pkgs.ParseDependency(field)
			for _, alt := range d {
				for _, r := range alt {
					if IsInterface(r.Name) {
						i := get(r.Name)
						i.Dependents = append(i.Dependents, p.Package)
					}
				}
			}
		}
	}
	out := make([]Interface, 0, len(found))
	for _, i := range found {
		// Sorted already where the target is; a package may name one twice.
		slices.Sort(i.Providers)
		slices.Sort(i.Dependents)
		i.Providers, i.Dependents = slices.Compact(i.Providers), slices.Compact(i.Dependents)
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b Interface) int { return compareNames(a.Name, b.Name) })
	return out
}
