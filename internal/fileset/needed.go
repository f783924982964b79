package fileset

import (
	"context"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/jail"
)

// KeptFor is a library that no package of the target has, and that stays because
// a program or library of the jail needs it.
type KeptFor struct{ Path, By string }

// KeepNeeded computes the changeset, and takes back the removals of libraries that
// something in the jail still needs: what an administrator has built himself keeps
// what it is linked to, and what that needs. The manifest goes on naming these
// libraries, so that a later run removes them when nobody needs them any more. Of
// a series that goes the executables go out first.
//
// view shows the jail as it will be with a changeset, and as it is with nil;
// programs lists the programs and libraries that are there then. What cannot be
// loaded for another reason is not looked at here.
func (s *Selection) KeepNeeded(ctx context.Context, root *jail.Root, view func(*changeset.Set) elfdeps.FS,
	programs func(context.Context, *changeset.Set) ([]string, error)) (*changeset.Set, []KeptFor, error) {
	var kept []KeptFor
	before := elfdeps.New(view(nil))
	for {
		set, err := changeset.Compute(root, s.Input)
		if err != nil {
			return nil, nil, err
		}
		set.TakeFirst(s.exes...)
		if !slices.ContainsFunc(s.Input.Remove, mayBeLibrary) {
			return set, kept, nil
		}
		files, err := programs(ctx, set)
		if err != nil {
			return nil, nil, err
		}
		missing, err := elfdeps.New(view(set)).Check(ctx, files)
		if err != nil {
			return nil, nil, err
		}
		again := false
		for _, m := range missing {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			for _, p := range s.gives(ctx, root, before, m) {
				s.keep(p)
				kept = append(kept, KeptFor{p, m.Chain[0]})
				again = true
			}
		}
		if !again {
			return set, kept, nil
		}
	}
}

func mayBeLibrary(p string) bool { return strings.Contains(path.Base(p), ".so") }

// gives finds, of what is to be removed, the file by which the jail gives what is
// missing: with the links that lead to it.
func (s *Selection) gives(ctx context.Context, root *jail.Root, before *elfdeps.Resolver, m elfdeps.Missing) []string {
	if len(m.Chain) == 0 {
		return nil
	}
	c, err := before.Closure(ctx, []string{m.Chain[0]})
	if err != nil {
		return nil // it is not there yet
	}
	var out []string
	for _, p := range c.Paths {
		if path.Base(p) != path.Base(m.Name) {
			continue
		}
		for links := 0; links < 40; links++ {
			rec, goes := s.gone[p]
			if goes && slices.Contains(s.Input.Remove, p) && !slices.Contains(out, p) {
				out = append(out, p)
			}
			if !goes || rec.Link == "" {
				break
			}
			if p, err = root.Physical(target(p, rec.Link)); err != nil {
				break
			}
		}
	}
	return out
}

// keep takes back a removal.
func (s *Selection) keep(p string) {
	s.Input.Remove = slices.DeleteFunc(s.Input.Remove, func(r string) bool { return r == p })
	rec := s.gone[p]
	delete(s.gone, p)
	m := s.Manifest
	m.Files = append(m.Files, rec)
	sort.Slice(m.Files, func(i, k int) bool { return m.Files[i].Path < m.Files[k].Path })
	if _, ok := m.Packages[rec.Package]; !ok && s.was[rec.Package] != "" {
		m.Packages[rec.Package] = s.was[rec.Package]
	}
}
