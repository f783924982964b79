package fileset

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/phpconf"
	"golang.org/x/sys/unix"
)

// maxBelow bounds how many entries below a prefix are looked at.
const maxBelow = 10_000

// maxOwn bounds one file that is carried, or laid aside.
const maxOwn = 256 << 20

// oldName is where the canonical path p was before; ok is false for what has not
// moved.
func (s *selector) oldName(p string) (old string, ok bool) {
	return replaced(s.in.Carry, p, func(c Carried) (from, to string) { return c.New, c.Old })
}

// newName is where the canonical path p is now: p itself for what has not moved.
func (s *selector) newName(p string) string {
	now, _ := replaced(s.in.Carry, p, func(c Carried) (from, to string) { return c.Old, c.New })
	return now
}

// replaced exchanges the longest prefix that fits, or the folder that a prefix
// names.
func replaced(all []Carried, p string, of func(Carried) (from, to string)) (string, bool) {
	best, out := -1, p
	for _, c := range all {
		from, to := of(c)
		if from == to || len(from) <= best {
			continue
		}
		switch {
		case strings.HasPrefix(p, from):
			best, out = len(from), to+p[len(from):]
		case p+"/" == from:
			best, out = len(from), path.Clean(to)
		}
	}
	return out, best >= 0
}

// counterpart is where a path of the new packages was before: by Carry, or
// because a package has moved it.
func (s *selector) counterpart(canonical string) (string, bool) {
	if old, ok := s.movedFrom[canonical]; ok {
		return old, true
	}
	return s.oldName(canonical)
}

// findMoved finds the configuration files that a package ships at another path
// than before: with the content that the old one had, where that is told apart
// from others by content, or by content and name.
func (s *selector) findMoved() {
	s.movedFrom = map[string]string{}
	type key struct{ pkg, sum, base string }
	gone, came := map[key][]string{}, map[key][]string{}
	enter := func(m map[key][]string, pkg, sum, p string) {
		for _, base := range []string{"", path.Base(p)} {
			m[key{pkg, sum, base}] = append(m[key{pkg, sum, base}], p)
		}
	}
	for p, rec := range s.old {
		if rec.Conf && rec.Size > 0 && rec.SHA256 != "" && !s.in.World.shipped[Canonical(p)] {
			enter(gone, rec.Package, rec.SHA256, p)
		}
	}
	if len(gone) == 0 {
		return
	}
	for _, n := range s.in.World.sorted() {
		if _, recorded := s.recordedAt(n.Path); n.Conf && !n.Dir && n.State.SHA256 != "" && !recorded {
			enter(came, n.Package, n.State.SHA256, n.Path)
		}
	}
	for k, to := range came {
		from := gone[k]
		if len(from) != 1 || len(to) != 1 {
			continue
		}
		if _, ok := s.movedFrom[to[0]]; !ok || k.base != "" {
			s.movedFrom[to[0]] = Canonical(from[0])
		}
	}
}

// rewrite puts the new places into a text that names the old ones.
func (s *selector) rewrite(text []byte) []byte {
	if len(s.in.Carry) == 0 || !isText(text) {
		return text
	}
	pairs := make([][2]string, 0, len(s.in.Carry))
	for _, c := range s.in.Carry {
		pairs = append(pairs, [2]string{strings.TrimSuffix(c.Old, "."), strings.TrimSuffix(c.New, ".")})
	}
	return phpconf.Rewrite(text, pairs)
}

// copyOf stages what lies at a physical path once more, with its owner and
// times, without set-id bits; rewritten if that is asked and it is text of at most
// maxConf. Of a larger file the bytes are kept: it is data that configuration
// names. ok is false for what is no file or link. What is larger than maxOwn is an
// error: left behind, it would not be where what names it looks from now on.
func (s *selector) copyOf(p string, cur *changeset.State, rewrite bool) (name string, st changeset.State, ok bool, err error) {
	m := Meta{Perm: cur.Mode & 0o1777, UID: int(cur.UID), GID: int(cur.GID), MtimeNS: cur.MtimeNS, Xattrs: map[string]string{}}
	for k, v := range cur.Xattrs {
		if k != "security.capability" {
			m.Xattrs[k] = string(v)
		}
	}
	if cur.Link != "" {
		name, st, err = s.in.Stage.PutLink(cur.Link, m)
		return name, st, err == nil, err
	}
	switch {
	case cur.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", st, false, nil
	case cur.Size > maxOwn:
		return "", st, false, fmt.Errorf("cannot copy %s: it has %d bytes, more than %d", p, cur.Size, maxOwn)
	case cur.Size > maxConf || !rewrite:
		f, err := s.in.Root.OpenFile(p)
		if err != nil {
			return "", st, false, fmt.Errorf("cannot copy %s: %w", p, err)
		}
		defer f.Close()
		name, st, err = s.in.Stage.Put(f, cur.Size, m)
		return name, st, err == nil, err
	}
	text, err := s.in.Root.ReadFile(p, maxConf)
	if err != nil {
		return "", st, false, fmt.Errorf("cannot copy %s: %w", p, err)
	}
	text = s.rewrite(text)
	name, st, err = s.in.Stage.Put(bytes.NewReader(text), int64(len(text)), m)
	return name, st, err == nil, err
}

// carry brings what was changed at another place to the new one.
func (s *selector) carry(p string, n *Node, st stand) error {
	if st.cur.Link != "" {
		s.later = append(s.later, func() error { return s.carryLink(p, n, st) })
		return nil
	}
	name, state, ok, err := s.copyOf(st.path, st.cur, true)
	if err != nil {
		return err
	}
	c := Conf{Path: p, Action: CarriedTo, Was: st.path}
	if !ok || state.SHA256 == n.State.SHA256 {
		c.Action = Moved
		s.note(c)
		return s.want(p, n, n.Package, false)
	}
	c.Diff = s.diff(n, st)
	if err := s.want(p, &Node{Path: n.Path, Package: n.Package, Conf: true, Stage: name, State: state}, n.Package, false); err != nil {
		return err
	}
	s.record(p, n, n.Package) // with the package's content: it is changed
	if !n.enable && !s.samePackaged(n, st) {
		if c.Beside, c.Aside, err = s.layBeside(p+besideNew, n.Path, n); err != nil {
			return err
		}
	}
	s.note(c)
	return nil
}

// samePackaged tells whether the package ships what it shipped at the old place,
// but for the paths in it.
func (s *selector) samePackaged(n *Node, st stand) bool {
	if st.recorded && st.rec.SHA256 == n.State.SHA256 {
		return true
	}
	old, ok := s.pristineText(n, st)
	if !ok {
		return false
	}
	text, err := s.in.World.text(n)
	return err == nil && bytes.Equal(s.rewrite(old), text)
}

// carryLink brings a link of an administrator's to its new place, if what it
// leads to is there. n is what the packages have in that place; nil for nothing.
func (s *selector) carryLink(p string, n *Node, st stand) error {
	before := target(st.canonical, st.cur.Link)
	now := s.newName(before)
	words := st.cur.Link
	if at := target(s.newName(st.canonical), words); at != now {
		words = now
	}
	c := Conf{Path: p, Action: CarriedTo, Was: st.path}
	if now != before && !s.will(now) {
		c.Action = Dropped
		s.note(c)
		if n == nil || n.enable {
			return nil
		}
		return s.want(p, n, n.Package, false)
	}
	name, state, err := s.in.Stage.PutLink(words, Meta{UID: int(st.cur.UID), GID: int(st.cur.GID), MtimeNS: st.cur.MtimeNS})
	if err != nil {
		return err
	}
	s.note(c)
	if n == nil {
		return s.lay(p, &Node{Stage: name, State: state})
	}
	if err := s.want(p, &Node{Path: n.Path, Package: n.Package, Conf: true, Stage: name, State: state}, n.Package, false); err != nil {
		return err
	}
	s.record(p, n, n.Package)
	return nil
}

// will tells whether something will be at a canonical path.
func (s *selector) will(canonical string) bool {
	p, err := s.in.Root.Physical(canonical)
	if err != nil {
		return false
	}
	if _, ok := s.wants[p]; ok {
		return true
	}
	for w := range s.wants {
		if strings.HasPrefix(w, p+"/") {
			return true
		}
	}
	return s.in.Root.Exists(p)
}
