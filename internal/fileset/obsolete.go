package fileset

import (
	"path"
	"sort"

	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// obsolete takes out what the old packages had and the new ones have not.
func (s *selector) obsolete() {
	if s.in.Old == nil {
		return
	}
	paths := make([]string, 0, len(s.old))
	for p := range s.old {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		rec := s.old[p]
		if _, stays := s.files[p]; stays {
			continue
		}
		if _, stays := s.wants[p]; stays {
			continue
		}
		if rec.Package == "" || recipes.Match(s.in.Recipe.State, p) {
			s.files[p] = rec
			continue
		}
		if rec.Mode&unix.S_IFMT == unix.S_IFDIR {
			s.out.Input.Rmdir = append(s.out.Input.Rmdir, p)
			continue
		}
		cur, err := s.read(p)
		if err != nil || cur == nil {
			continue
		}
		if cur.SHA256 != rec.SHA256 || cur.Link != rec.Link {
			s.out.Conf = append(s.out.Conf, Conf{Path: p, Action: "kept"})
			continue
		}
		s.out.Input.Remove = append(s.out.Input.Remove, p)
		s.out.Input.Rmdir = append(s.out.Input.Rmdir, path.Dir(p))
	}
}

// outgrown does the same in a jail without a manifest: for the packages that
// were recognised in it.
func (s *selector) outgrown() {
	if s.in.Old != nil || s.in.Shipped == nil {
		return
	}
	for pkg, version := range s.out.From {
		if version == s.in.World.packages[pkg] {
			continue
		}
		for _, f := range s.in.Shipped(pkg, version) {
			if f.Conf || s.in.World.shipped[f.Path] || recipes.Match(s.in.Recipe.State, f.Path) {
				continue
			}
			for _, p := range s.layout.Existing(f.Path) {
				if _, wanted := s.wants[p]; wanted {
					continue
				}
				if cur, err := s.read(p); err == nil && cur != nil && cur.SHA256 == f.SHA256 && cur.Link == f.Link {
					s.out.Input.Remove = append(s.out.Input.Remove, p)
				}
			}
		}
	}
}
