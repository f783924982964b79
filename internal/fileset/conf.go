package fileset

import (
	"path"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/manifest"
	"golang.org/x/sys/unix"
)

// Conf is what became of one file of the configuration.
type Conf struct {
	Path   string `json:"path"`
	Action string `json:"action"` // see the constants
	Beside string `json:"beside,omitempty"`
	// Aside is the AsideFile.Name of what would lie at Beside, which is "" then,
	// but that a server would read it there.
	Aside string `json:"aside,omitempty"`
	// Was is the path that it had before, where that was another one.
	Was string `json:"was,omitempty"`
	// Diff tells who changed what, where that can be told.
	Diff ConfDiff `json:"diff,omitzero"`
}

// What becomes of a file of the configuration.
const (
	Kept      = "kept"     // changed here, and stays; the packages did not change it
	Beside    = "beside"   // changed on both sides: stays, the package's lies at Conf.Beside
	Replaced  = "replaced" // the package's is taken; with ConfNew the changed one lies at Conf.Beside
	Added     = "added"    // was not there
	Deleted   = "deleted"  // was deleted here, and stays so
	Moved     = "moved"    // unchanged at Conf.Was; the package's is taken at the new place
	CarriedTo = "carried"  // changed, or made, at Conf.Was: it is now here as well, paths rewritten
	Dropped   = "dropped"  // a link at Conf.Was, to what the target has no more: not carried
	Adapted   = "adapted"  // the package's, but for the line that tells where it listens
	// Obsolete is of no package any more, but of an administrator: it stays. Where
	// it would still be read, in a folder of others, it lies at Conf.Beside.
	Obsolete = "obsolete"
)

// The endings of what is laid beside a file.
const (
	besideNew = ".jailup-new" // the package's
	besideOld = ".jailup-old" // the administrator's
)

// stand is how a file of the configuration stands in the jail: in its place, or
// where it was before.
type stand struct {
	path      string // physical
	canonical string
	moved     bool // it is not in its place
	cur       *changeset.State
	rec       manifest.File
	recorded  bool
}

// pristine is the content as the package shipped it; "" where that is not known.
func (st stand) pristine() string { return st.rec.SHA256 + st.rec.Link }

func (s *selector) standAt(canonical string) (stand, error) {
	st := stand{canonical: canonical}
	var err error
	if st.path, err = s.in.Root.Physical(canonical); err != nil {
		return st, err
	}
	if st.cur, err = s.read(st.path); err != nil {
		return st, err
	}
	st.rec, st.recorded = s.recordedAt(canonical)
	return st, nil
}

// standOf finds by what a file is judged. Where its place is empty, and was never
// filled, that is where it was before.
func (s *selector) standOf(n *Node) (p string, st stand, err error) {
	if st, err = s.standAt(n.Path); err != nil {
		return "", st, err
	}
	before, ok := s.counterpart(n.Path)
	if st.cur != nil || st.recorded || !ok {
		return st.path, st, nil
	}
	old, err := s.standAt(before)
	if err != nil || old.cur == nil && !old.recorded {
		return st.path, st, err
	}
	old.moved = true
	return st.path, old, nil
}

// conf treats a file that an administrator may have changed, as dpkg does
// (Debian policy 10.7.3): his change stays, and the new version is laid beside.
// The two are never merged.
func (s *selector) conf(n *Node) error {
	p, st, err := s.standOf(n)
	if err != nil {
		return err
	}
	if st.cur == nil {
		return s.absent(p, n, st)
	}
	n = s.asCopy(n, st)
	untouched := s.untouched(n, st)
	if st.moved {
		s.judged[st.path] = untouched
	}
	switch {
	case !st.moved && st.cur.Same(&n.State):
		return s.want(p, n, n.Package, false)
	case n.enable && !st.moved && s.leadsTo(st, n):
		s.record(p, n, n.Package) // it is on, whatever the link's words are
		f := s.files[p]
		f.Link = st.cur.Link
		s.files[p] = f
		return nil
	case untouched:
		return s.renew(p, n, st)
	case s.in.ConfNew && st.cur.Mode&unix.S_IFMT != unix.S_IFDIR:
		return s.overrule(p, n, st)
	case st.moved:
		return s.carry(p, n, st)
	}
	s.record(p, n, n.Package)
	c := Conf{Path: p, Action: Kept, Diff: s.diff(n, st)}
	if st.recorded && st.pristine() == n.State.SHA256+n.State.Link || n.enable {
		s.note(c) // changed here, not there
		return nil
	}
	c.Action = Beside
	if c.Beside, c.Aside, err = s.layBeside(p+besideNew, n.Path, n); err != nil {
		return err
	}
	s.note(c)
	return nil
}

func (s *selector) note(c Conf) { s.out.Conf = append(s.out.Conf, c) }

// absent treats a file that the jail does not hold.
func (s *selector) absent(p string, n *Node, st stand) error {
	c := Conf{Path: p, Action: Deleted}
	if st.moved {
		c.Was = st.path
	}
	if st.recorded || n.enable && s.switchedOff(n) {
		s.record(p, n, n.Package)
		s.note(c)
		return nil
	}
	if !s.whole() && !s.asked(n) || n.enable && s.switchedOn(n) {
		return nil
	}
	s.note(Conf{Path: p, Action: Added})
	return s.want(p, n, n.Package, false)
}

// untouched tells whether what lies there is as a package, or jailup, brought it.
func (s *selector) untouched(n *Node, st stand) bool {
	switch {
	case st.recorded:
		return st.rec.Pristine(st.cur.SHA256, st.cur.Link)
	case n.enable && st.cur.Link != "":
		return s.leadsTo(st, n)
	}
	return s.known(st)
}

func (s *selector) known(st stand) bool {
	if s.in.Known == nil {
		return false
	}
	_, _, ok := s.in.Known(st.canonical, st.cur)
	return ok
}

// asCopy is the node as a plain file where the jail has one in the place of a
// link that switches something on, as cp leaves it: it stays one.
func (s *selector) asCopy(n *Node, st stand) *Node {
	if !n.enable || st.cur.Mode&unix.S_IFMT != unix.S_IFREG {
		return n
	}
	_, target, err := s.in.World.resolve(n.Path, true)
	if err != nil || target == nil || target.Stage == "" {
		return n
	}
	m := *n
	m.Stage, m.State = target.Stage, target.State
	return &m
}

// renew takes the package's version of what nobody has changed.
func (s *selector) renew(p string, n *Node, st stand) error {
	c := Conf{Path: p, Action: Replaced}
	if st.moved {
		c.Action, c.Was = Moved, st.path
	}
	adapted, err := s.adapt(p, n, st)
	if err != nil {
		return err
	}
	if adapted == nil {
		s.note(c)
		return s.want(p, n, n.Package, false)
	}
	if st.moved || adapted.State.SHA256 != st.cur.SHA256 {
		c.Action = Adapted
		s.note(c)
	}
	if err := s.want(p, adapted, n.Package, false); err != nil {
		return err
	}
	s.record(p, n, n.Package)
	f := s.files[p]
	f.Adapted = adapted.State.SHA256
	s.files[p] = f
	return nil
}

// overrule takes the package's version of what was changed here, and keeps that
// beside it.
func (s *selector) overrule(p string, n *Node, st stand) error {
	c := Conf{Path: p, Action: Replaced, Diff: s.diff(n, st)}
	if st.moved {
		c.Was = st.path
	}
	name, state, ok, err := s.copyOf(st.path, st.cur, false)
	if err != nil {
		return err
	}
	if ok {
		if c.Beside, c.Aside, err = s.layBeside(p+besideOld, n.Path, &Node{Stage: name, State: state}); err != nil {
			return err
		}
	}
	s.note(c)
	return s.want(p, n, n.Package, false)
}

// lay wants a file that is nobody's: it may be deleted at will.
func (s *selector) lay(p string, n *Node) error {
	if _, ok := s.wants[p]; ok {
		return nil
	}
	changed := len(s.out.Changed)
	err := s.want(p, &Node{Path: p, Package: n.Package, Stage: n.Stage, State: n.State}, n.Package, false)
	s.out.Changed = s.out.Changed[:changed] // what an earlier run has laid there is no news
	delete(s.files, p)
	return err
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
		s.note(Conf{Path: p, Action: Kept})
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

// leadsTo tells whether the link that is there leads to what the node leads to,
// or to what that was before.
func (s *selector) leadsTo(st stand, n *Node) bool {
	if st.cur.Link == "" || n.State.Link == "" {
		return false
	}
	to := target(st.canonical, st.cur.Link)
	if st.moved {
		to = s.newName(to)
	}
	return to == target(n.Path, n.State.Link)
}

// target is the path that a link's words mean, taken literally.
func target(link, words string) string {
	if strings.HasPrefix(words, "/") {
		return path.Clean(words)
	}
	return path.Join(path.Dir(link), words)
}
