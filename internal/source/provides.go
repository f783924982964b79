package source

// Providing lists the packages that have a name or provide it, each once, in the
// newest version that does.
func (ix *Index) Providing(name string) []Package { return nil }

// Needing lists the packages that depend on a name, each once, in the newest
// version that does.
func (ix *Index) Needing(name string) []Package { return nil }

// Matching lists the names of packages that match a pattern of path.Match.
func (ix *Index) Matching(glob string) []string { return nil }

// Interface is a name by which packages of modules are tied to their server:
// "phpapi-20220829".
type Interface struct {
	Name       string
	Providers  []string // packages of the target, sorted
	Dependents []string // packages of the target, sorted
}

// Interfaces lists the module interfaces of nginx, Apache and PHP that the packages
// of a target provide or depend on, by name.
func (t *Target) Interfaces() []Interface { return nil }
