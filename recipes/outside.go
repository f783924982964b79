package recipes

import "slices"

// OnHost returns the recipe for a jail whose server runs on the host, from that
// path: of the packages only those named are the jail's, and no program is. See
// Outside.
func (r *Recipe) OnHost(program string, packages []string) *Recipe {
	out := *r
	out.parts = nil
	out.Outside.Program = program
	out.Packages = union(packages, nil)
	out.Without = slices.DeleteFunc(slices.Clone(r.Without), func(w string) bool { return slices.Contains(packages, w) })
	out.Executables = []string{program}
	out.Owns, out.Runtime = slices.Clone(r.Outside.Owns), slices.Clone(r.Outside.Runtime)
	// What packages and maintainer scripts do for the server is done on the host.
	out.Effects, out.Modules, out.Carry, out.Create = Effects{}, Modules{}, nil, Create{}
	out.Configuration.Test, out.Version = nil, nil
	return &out
}

// IsOnHost tells whether the recipe, or the main part of a joined one, came from
// OnHost.
func (r *Recipe) IsOnHost() bool { return r.Outside.Program != "" }
