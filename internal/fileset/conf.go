package fileset

import (
	"strings"
)

// Conf is what became of one file of the configuration.
type Conf struct {
	Path   string `json:"path"`
	Action string `json:"action"` // see the constants
	Beside string `json:"beside,omitempty"`
	// Was is the path that it had before, where that was another one.
	Was string `json:"was,omitempty"`
	// Diff tells who changed what, where that can be told.
	Diff ConfDiff `json:"diff,omitzero"`
}

// ConfDiff holds unified diffs from the old package's text: to the new package's,
// and to the administrator's. A diff is empty where nothing differs, where the old
// text is not known, and for what is no text or larger than 64 KiB. They are text
// of the jail and of packages: show them only through event.Clean.
type ConfDiff struct {
	Package string `json:"package,omitempty"`
	Yours   string `json:"yours,omitempty"`
}

// What becomes of a file of the configuration.
const (
	Kept      = "kept"     // changed here, and stays; the packages did not change it
	Beside    = "beside"   // changed on both sides: stays, the package's lies at Conf.Beside
	Replaced  = "replaced" // the package's is taken; with --conf new the old one lies at Conf.Beside
	Added     = "added"    // was not there
	Deleted   = "deleted"  // was deleted here, and stays so
	Moved     = "moved"    // unchanged at Conf.Was; the package's is taken at the new place
	CarriedTo = "carried"  // changed at Conf.Was: that text is now here as well, paths rewritten
	Dropped   = "dropped"  // a link at Conf.Was, to what the target has no more: not carried
	Adapted   = "adapted"  // the package's, but for the line that tells where it listens
	Obsolete  = "obsolete" // of no package any more, but changed here: stays, and has no effect where it is
)

// conf treats a file that an administrator may have changed, as dpkg does
// (Debian policy 10.7.3): his change stays, and the new version is laid beside.
func (s *selector) conf(n *Node) error {
	p, err := s.in.Root.Physical(n.Path)
	if err != nil {
		return err
	}
	cur, err := s.read(p)
	if err != nil {
		return err
	}
	rec, recorded := s.recordedAt(n.Path)
	note := func(action, beside string) {
		s.out.Conf = append(s.out.Conf, Conf{Path: p, Action: action, Beside: beside})
	}
	pristine := ""
	if recorded {
		pristine = rec.SHA256 + rec.Link
	} else if cur != nil && s.in.Known != nil {
		if _, _, ok := s.in.Known(n.Path, cur); ok {
			pristine = cur.SHA256 + cur.Link
		}
	}
	fresh := n.State.SHA256 + n.State.Link
	switch {
	case cur == nil && recorded:
		s.record(p, n, n.Package)
		note("deleted", "")
		return nil
	case cur == nil && !s.whole() && !s.asked(n):
		return nil
	case cur == nil, cur.Same(&n.State), s.in.ConfNew, pristine != "" && pristine == cur.SHA256+cur.Link:
		if cur == nil {
			note("added", "")
		} else if !cur.Same(&n.State) {
			note("replaced", "")
		}
		return s.want(p, n, n.Package, false)
	case pristine == fresh:
		s.record(p, n, n.Package) // changed here, not there
		note("kept", "")
		return nil
	}
	s.record(p, n, n.Package)
	beside := p + ".jailup-new"
	note("beside", beside)
	m := &Node{Path: beside, Package: n.Package, Stage: n.Stage, State: n.State}
	if err := s.want(beside, m, n.Package, false); err != nil {
		return err
	}
	delete(s.files, beside) // not the package's: it may be deleted at will
	return nil
}

// caBundle keeps /etc/ssl/certs/ca-certificates.crt, which is in no package.
func (s *selector) caBundle() error {
	const p = "/etc/ssl/certs/ca-certificates.crt"
	data := s.in.World.bundle()
	rec, recorded := s.old[p]
	if len(data) == 0 || !s.whole() {
		return nil
	}
	cur, err := s.read(p)
	if err != nil {
		return err
	}
	if recorded && (cur == nil || cur.SHA256 != rec.SHA256) {
		s.files[p] = rec
		s.out.Conf = append(s.out.Conf, Conf{Path: p, Action: "kept"})
		return nil
	}
	return s.Generated(p, data, 0o644)
}

// Generated wants a file that jailup itself makes.
func (s *selector) Generated(p string, data []byte, perm uint32) error {
	name, st, err := s.in.Stage.Put(strings.NewReader(string(data)), int64(len(data)), Meta{Perm: perm, MtimeNS: s.mtimeNS})
	if err != nil {
		return err
	}
	n := &Node{Path: p, Stage: name, State: st}
	return s.want(p, n, "", false)
}
