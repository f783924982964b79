package fileset

import (
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// obsolete takes out what the old packages had and the new ones have not.
func (s *selector) obsolete() error {
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
		if slices.Contains(s.out.Input.Remove, p) {
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
		st := stand{path: p, canonical: Canonical(p), cur: cur, rec: rec, recorded: true}
		if !rec.Pristine(cur.SHA256, cur.Link) {
			if err := s.leave(st, nil); err != nil {
				return err
			}
			continue
		}
		s.remove(st)
	}
	return nil
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
				if cur, err := s.read(p); err == nil && cur != nil && f.Pristine(cur.SHA256, cur.Link) {
					s.remove(stand{path: p, canonical: f.Path, cur: cur, rec: manifest.File{Package: pkg}})
				}
			}
		}
	}
}

// remove wants a file away, and the directories that are empty then.
func (s *selector) remove(st stand) {
	if slices.Contains(s.out.Input.Remove, st.path) {
		return
	}
	s.out.Input.Remove = append(s.out.Input.Remove, st.path)
	s.out.gone[st.path] = manifest.File{Path: st.path, Mode: st.cur.Mode, UID: st.cur.UID, GID: st.cur.GID, Size: st.cur.Size,
		SHA256: st.cur.SHA256, Link: st.cur.Link, Package: st.rec.Package, Conf: st.rec.Conf}
	if s.in.Old != nil {
		s.out.Input.Rmdir = append(s.out.Input.Rmdir, path.Dir(st.path))
	}
	for _, c := range s.in.Carry {
		if c.New == c.Old || !strings.HasSuffix(c.Old, "/") || !strings.HasPrefix(st.canonical, c.Old) {
			continue
		}
		for d := path.Dir(st.canonical); len(d)+1 >= len(c.Old); d = path.Dir(d) {
			s.out.Input.Rmdir = append(s.out.Input.Rmdir, d)
		}
	}
}
