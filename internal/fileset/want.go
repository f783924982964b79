package fileset

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/manifest"
	"golang.org/x/sys/unix"
)

// place wants a node at each place that the jail has it, or at its default one.
// Where the jail holds a plain file under a name that the package ships as a
// link (a copy by hand), it stays a plain file, with the new content.
func (s *selector) place(n *Node, exec, needed bool) error {
	places := s.places(n, needed)
	fresh := len(places) == 0
	if at := s.layout.Default(n); s.under(at) {
		fresh, places = true, []string{at}
	} else if fresh {
		places = []string{s.layout.Default(n)}
	}
	for _, p := range places {
		src := n
		if !fresh && n.State.Link != "" {
			info, err := s.in.Root.Lstat(p)
			astray := strings.Contains(n.State.Link, "/") && Canonical(p) != n.Path // its words would lead elsewhere from there
			if err == nil && (info.IsRegular() || astray) {
				_, target, err := s.in.World.resolve(n.Path, true)
				if err != nil || target == nil || target.Stage == "" {
					continue // its content is not in the target
				}
				src = target
			}
		}
		if err := s.want(p, src, n.Package, exec); err != nil {
			return err
		}
		if src.State.Link != "" && !strings.HasPrefix(src.State.Link, "/") {
			// The target of a link beside it goes where the link is.
			if _, target, err := s.in.World.resolve(n.Path, true); err == nil && target != nil && target.Stage != "" &&
				path.Dir(target.Path) == path.Dir(n.Path) {
				if err := s.want(path.Join(path.Dir(p), path.Base(target.Path)), target, target.Package, exec); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// places are where the jail has a node. A library of another kind of machine that
// has only the name is not it. What is needed has at least one place in which
// ld.so looks.
func (s *selector) places(n *Node, needed bool) []string {
	all := names(n.Path)
	var out []string
	found := len(all) <= 2
	for _, p := range s.layout.Existing(n.Path) {
		own := Canonical(p) == n.Path
		if !own && s.otherMachine(p, n) {
			continue
		}
		out = append(out, p)
		dir := Canonical(path.Dir(p))
		found = found || own || dir == "/usr/lib" || isMultiarch(dir)
	}
	if at := s.layout.Default(n); needed && len(out) > 0 && !found && !slices.Contains(out, at) {
		out = append(out, at)
	}
	return out
}

// otherMachine tells whether a file of the jail was built for another kind of
// machine than a node, or is no ELF file.
func (s *selector) otherMachine(p string, n *Node) bool {
	_, target, err := s.in.World.resolve(n.Path, true)
	if err != nil || target == nil || target.Stage == "" {
		return false
	}
	staged, err := s.in.Stage.Open(target.Stage)
	if err != nil {
		return false
	}
	defer staged.Close()
	there, err := s.in.Root.OpenFile(p)
	if err != nil {
		return false
	}
	defer there.Close()
	mine, other := machineOf(staged), machineOf(there)
	return mine != "" && mine != other
}

// machineOf is class, byte order and machine of an ELF file, elf(5); "" for
// another file.
func machineOf(r io.Reader) string {
	var h [20]byte
	if _, err := io.ReadFull(r, h[:]); err != nil || string(h[:4]) != "\x7fELF" {
		return ""
	}
	return string(h[4:6]) + string(h[18:20])
}

// ErrSetID says that a package brings a program with a set-user-ID or set-group-ID
// bit to where the jail has none. No server of a recipe needs one, and who gets into
// a jail asks for nothing better. Where the jail has such a program already, the new
// one comes without the bit.
var ErrSetID = errors.New("is set-user-ID or set-group-ID, and the jail has no such program there")

// want enters one wish. A second one for the same place is passed over; a node
// that is wanted at a second place is copied in the stage.
func (s *selector) want(p string, n *Node, pkg string, exec bool) error {
	p, err := s.turned.Physical(s.in.Root, p)
	if err != nil {
		return err
	}
	if _, ok := s.wants[p]; ok {
		return nil
	}
	if n.SetID {
		if info, err := s.in.Root.Lstat(p); !s.old[p].SetID && (err != nil || info.Mode&(unix.S_ISUID|unix.S_ISGID) == 0) {
			return fmt.Errorf("cannot stage %s: %s of package %s %w", s.in.Recipe.Name, p, n.Package, ErrSetID)
		}
	}
	name, st := n.Stage, n.State
	if s.staged[name] {
		if name, st, err = s.in.Stage.Copy(n.Stage, n.State); err != nil {
			return err
		}
	}
	theirs, err := s.keepMeta(p, name, &st)
	if err != nil {
		return err
	}
	s.staged[name] = true
	base := path.Base(n.Path)
	early := slices.ContainsFunc(earlyLibs, func(l string) bool { return strings.HasPrefix(base, l) })
	s.wants[p] = changeset.Want{Path: p, State: st, Stage: name, Package: pkg, Exec: exec, Early: early, Meta: theirs}
	s.record(p, n, pkg)
	return s.inspect(p, n)
}

// keepMeta leaves alone what an administrator has made stricter: where mode,
// owner or group is no longer what the old package shipped, it stays, each for
// itself. The staged file gets it now: it is exchanged as it is. theirs tells
// that something of it was left alone here and is another in the new package, so
// that it is to be brought even where the content is there already. Of a jail
// without a manifest nothing is known, and the package's counts.
func (s *selector) keepMeta(p, staged string, st *changeset.State) (theirs bool, err error) {
	rec, ok := s.old[p]
	if old, moved := s.counterpart(Canonical(p)); !ok && moved && !s.in.Root.Exists(p) {
		if p, err = s.in.Root.Physical(old); err != nil {
			return false, err
		}
		rec, ok = s.old[p]
	}
	if !ok || st.Link != "" || rec.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, nil
	}
	info, err := s.in.Root.Lstat(p)
	if err != nil || !info.IsRegular() {
		return false, nil // there is nothing, or no file, to keep it of
	}
	now := *st
	keep := func(new *uint32, old, recorded, kept uint32) {
		if old != recorded {
			*new = kept
		} else if *new != recorded {
			theirs = true
		}
	}
	keep(&now.Mode, info.Mode, rec.Mode, info.Mode&^(unix.S_ISUID|unix.S_ISGID))
	keep(&now.UID, info.UID, rec.UID, info.UID)
	keep(&now.GID, info.GID, rec.GID, info.GID)
	if now.Mode != st.Mode || now.UID != st.UID || now.GID != st.GID {
		if err := s.in.Stage.SetMeta(staged, now.Mode&0o7777, int(now.UID), int(now.GID)); err != nil {
			return false, err
		}
	}
	*st = now
	return theirs, nil
}

func (s *selector) record(p string, n *Node, pkg string) {
	s.files[p] = manifest.File{Path: p, Mode: n.State.Mode, UID: n.State.UID, GID: n.State.GID, Size: n.State.Size,
		SHA256: n.State.SHA256, Link: n.State.Link, Package: pkg, Conf: n.Conf, SetID: n.SetID}
}

// inspect says what is known of the file that will be replaced.
func (s *selector) inspect(p string, n *Node) error {
	old, err := s.read(p)
	if err != nil || old == nil {
		return err
	}
	if old.Same(&n.State) {
		// Another version may ship the same file: what is known better counts.
		if _, known := s.out.From[n.Package]; !known {
			s.out.From[n.Package] = s.in.World.packages[n.Package]
		}
		return nil
	}
	if rec, ok := s.old[p]; ok {
		if !rec.Pristine(old.SHA256, old.Link) {
			s.out.Changed = append(s.out.Changed, p)
		}
		return nil
	}
	if old.Link != "" {
		return nil
	}
	if s.in.Known != nil {
		if pkg, version, ok := s.in.Known(n.Path, old); ok {
			s.out.From[pkg] = version
			return nil
		}
	}
	s.out.Changed = append(s.out.Changed, p)
	return nil
}

func (s *selector) read(p string) (*changeset.State, error) {
	d, base, err := s.in.Root.OpenParent(p)
	if err != nil {
		return nil, nil // nothing there
	}
	defer d.Close()
	st, err := changeset.ReadState(int(d.Fd()), base)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", p, err)
	}
	return st, nil
}

func (s *selector) finish() {
	for _, e := range s.in.Recipe.Executables {
		if old, ok := s.oldName(Canonical(e)); ok {
			s.out.exes = append(s.out.exes, s.layout.Existing(old)...)
		}
	}
	for _, w := range s.wants {
		s.out.Input.Wants = append(s.out.Input.Wants, w)
	}
	sort.Slice(s.out.Input.Wants, func(i, k int) bool { return s.out.Input.Wants[i].Path < s.out.Input.Wants[k].Path })
	s.out.Input.MtimeNS = s.mtimeNS
	if s.out.was = s.out.From; s.in.Old != nil {
		s.out.was = s.in.Old.Packages
	}
	m := &manifest.Manifest{Version: 1, Server: s.in.Recipe.Name, Whole: s.whole(), Packages: maps.Clone(s.in.World.packages)}
	for _, f := range s.files {
		m.Files = append(m.Files, f)
	}
	sort.Slice(m.Files, func(i, k int) bool { return m.Files[i].Path < m.Files[k].Path })
	s.out.Manifest = m
	sort.Strings(s.out.Changed)
}
