package fileset

import (
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"golang.org/x/sys/unix"
)

// carryOwn looks at all that lies at the old places and that no package of the
// target has: an administrator's files go along, what packages brought is removed.
func (s *selector) carryOwn() error {
	seen, links := map[string]bool{}, []string(nil)
	for _, c := range s.in.Carry {
		if c.New == c.Old {
			continue
		}
		files, err := s.below(c.Old)
		if err != nil {
			return err
		}
		for _, f := range files {
			if seen[f] {
				continue
			}
			seen[f] = true
			if info, err := s.in.Root.Lstat(f); err == nil && info.IsSymlink() {
				links = append(links, f) // judged by what becomes of the files
			} else if err := s.leftAt(f); err != nil {
				return err
			}
		}
	}
	for _, f := range links {
		if err := s.leftAt(f); err != nil {
			return err
		}
	}
	for _, carry := range s.later {
		if err := carry(); err != nil {
			return err
		}
	}
	return nil
}

// leftAt decides on one file at an old place.
func (s *selector) leftAt(f string) error {
	st, err := s.standAt(f)
	if err != nil || st.cur == nil {
		return err
	}
	if _, wanted := s.wants[st.path]; wanted || st.recorded && st.rec.Package != "" {
		return nil // what is recorded is looked at in obsolete
	}
	untouched, judged := s.judged[st.path]
	if !judged {
		if st.recorded {
			untouched = st.rec.Pristine(st.cur.SHA256, st.cur.Link)
		} else if s.in.Known != nil && st.cur.Link == "" {
			var pkg, version string
			if pkg, version, untouched = s.in.Known(f, st.cur); untouched {
				s.out.From[pkg] = version
			}
		}
	}
	if !judged && (!untouched || st.recorded) {
		if err := s.carryFile(st); err != nil {
			return err
		}
	}
	if untouched || s.leadsAway(st) {
		s.remove(st)
		return nil
	}
	return s.leave(st, nil)
}

// leadsAway tells of a link that nobody has recorded whether what it leads to was
// recognised, and goes: with it goes the link that switched it on.
func (s *selector) leadsAway(st stand) bool {
	if st.cur.Link == "" || st.recorded {
		return false
	}
	p, err := s.in.Root.Physical(target(st.canonical, st.cur.Link))
	_, goes := s.out.gone[p]
	return err == nil && goes
}

// carryFile brings a file that no package knows, or that jailup has made, to its
// new place. Only configuration goes along: what else lies there was built for
// what is no more.
func (s *selector) carryFile(st stand) error {
	to := s.newName(st.canonical)
	if !strings.HasPrefix(to, "/etc/") || strings.HasSuffix(to, besideNew) || strings.HasSuffix(to, besideOld) {
		return nil
	}
	p, err := s.in.Root.Physical(to)
	if err != nil || s.in.Root.Exists(p) || s.taken(p) {
		return err
	}
	s.carryDirs(to)
	if st.cur.Link != "" {
		s.later = append(s.later, func() error { return s.carryLink(p, nil, st) })
		return nil
	}
	name, state, ok, err := s.copyOf(st.path, st.cur, true)
	if err != nil || !ok {
		return err
	}
	s.note(Conf{Path: p, Action: CarriedTo, Was: st.path})
	if err := s.lay(p, &Node{Stage: name, State: state}); err != nil {
		return err
	}
	if st.recorded {
		rec := st.rec
		rec.Path, rec.SHA256, rec.Size = p, state.SHA256, state.Size
		if !st.rec.Pristine(st.cur.SHA256, st.cur.Link) {
			rec.SHA256 = st.rec.SHA256
		}
		s.files[p] = rec
	}
	return nil
}

// taken tells whether something else is wanted at p, below it, or in the place of
// one of its parents.
func (s *selector) taken(p string) bool {
	if n := s.in.World.nodes[Canonical(p)]; n != nil && n.Dir && s.whole() {
		return true
	}
	for w := range s.wants {
		if strings.HasPrefix(w, p+"/") {
			return true
		}
	}
	for ; p != "/"; p = path.Dir(p) {
		if _, ok := s.wants[p]; ok {
			return true
		}
	}
	return false
}

// carryDirs gives the missing parents of a new place the mode and owner that they
// had at the old one.
func (s *selector) carryDirs(to string) {
	for d := path.Dir(to); d != "/"; d = path.Dir(d) {
		old, ok := s.oldName(d)
		if !ok || s.in.Root.Exists(d) {
			return
		}
		if info, err := s.in.Root.Stat(old); err == nil && info.IsDir() {
			s.out.Input.Dirs = append(s.out.Input.Dirs, changeset.WantDir{
				Path: d, Mode: info.Mode & 0o1777, UID: info.UID, GID: info.GID, MtimeNS: s.mtimeNS})
		}
	}
}

// below lists files and links whose canonical path begins with a prefix, sorted.
func (s *selector) below(prefix string) ([]string, error) {
	var out []string
	left := maxBelow
	var walk func(dir, begins string, depth int) error
	walk = func(dir, begins string, depth int) error {
		names, err := s.in.Root.ReadDir(dir)
		if err != nil {
			return nil // there is no such folder
		}
		for _, name := range names {
			if !strings.HasPrefix(name, begins) {
				continue
			}
			if left--; left < 0 || depth > 32 {
				return fmt.Errorf("cannot carry over %s: more than %d entries lie there", prefix, maxBelow)
			}
			p := path.Join(dir, name)
			info, err := s.in.Root.Lstat(p)
			switch {
			case err != nil:
			case info.IsDir() && info.MountID == s.in.Root.MountID():
				if err := walk(p, "", depth+1); err != nil {
					return err
				}
			case info.IsRegular(), info.IsSymlink():
				out = append(out, p)
			}
		}
		return nil
	}
	dir, begins := path.Split(prefix)
	err := walk(path.Clean(dir), begins, 0)
	sort.Strings(out)
	return out, err
}

// shared tells whether a path is at an old place in a folder that others use:
// what stays there would still be read.
func (s *selector) shared(canonical string) bool {
	for _, c := range s.in.Carry {
		if c.New != c.Old && !strings.HasSuffix(c.Old, "/") && strings.HasPrefix(canonical, c.Old) && strings.HasPrefix(canonical, "/etc/") {
			return true
		}
	}
	return false
}

// leave lets stay what is of no package any more but was changed, or made, here;
// out of the way where it would still be read.
func (s *selector) leave(st stand, n *Node) error {
	base := path.Base(st.path)
	if strings.HasSuffix(base, besideNew) || strings.HasSuffix(base, besideOld) {
		return nil
	}
	c := Conf{Path: st.path, Action: Obsolete}
	if st.recorded {
		c.Diff = s.diff(n, st)
	}
	if s.shared(st.canonical) && st.cur.Mode&unix.S_IFMT != unix.S_IFDIR {
		name, state, ok, err := s.copyOf(st.path, st.cur, false)
		if err != nil {
			return err
		}
		if ok {
			if c.Beside, c.Aside, err = s.layBeside(st.path+besideOld, st.canonical, &Node{Stage: name, State: state}); err != nil {
				return err
			}
			s.out.Input.Remove = append(s.out.Input.Remove, st.path)
		}
	}
	s.note(c)
	return nil
}
