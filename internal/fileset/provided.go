package fileset

import (
	"context"
	"path"

	"github.com/jailup/jailup/internal/elfdeps"
)

// within takes out of what libraries need all that the process that loads them has
// already, for a server that runs outside of the jail: see Input.Provided. What
// such a library misses is for the caller to judge, who knows that process. A
// program of the jail has nobody else's libraries.
func (s *selector) within(ctx context.Context, res *elfdeps.Resolver, roots []string, all *elfdeps.Closure) (map[string]bool, []elfdeps.Missing, error) {
	var programs []string
	for _, p := range roots {
		if o, err := res.Object(p); err == nil && o.Interp != "" && !isLibrary(p) {
			programs = append(programs, p)
		}
	}
	alone, err := res.Closure(ctx, programs)
	if err != nil {
		return nil, nil, err
	}
	needed := map[string]bool{}
	for _, p := range alone.Paths {
		needed[Canonical(p)] = true
	}
	for _, p := range all.Paths {
		has := s.in.Provided(path.Base(p)) || s.in.Provided(all.Objects[p].SONAME)
		p = Canonical(p)
		if n := s.in.World.nodes[p]; n != nil && !has {
			needed[p] = true
		}
	}
	return needed, alone.Missing, nil
}
