package fileset

import (
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// Input is what a selection is made from.
type Input struct {
	Root   *jail.Root
	Recipe *recipes.Recipe
	World  *World
	Stage  *Stage
	// Old is what jailup knows of the jail; nil for one made by hand.
	Old *manifest.Manifest
	// Whole asks for all that the owned packages bring, as in a new jail.
	Whole bool
	// ConfNew takes the packages' configuration over the administrator's.
	ConfNew bool
	// Known identifies the content of files that are about to be replaced or
	// left; nil knows nothing.
	Known func(canonical string, st *changeset.State) (pkg, version string, ok bool)
	// Shipped lists what a recognised version of a package held, by canonical
	// path; nil, or an empty list, where that is not known.
	Shipped func(pkg, version string) []manifest.File
	// Wanted names what is wanted besides, by canonical path, in a jail made by
	// hand as well: what a module brings that is newly asked for, its link of
	// Effects included. nil names nothing.
	Wanted func(canonical string) bool
	// Provided is for a jail into which a server outside of it puts its children:
	// it names the libraries, by their SONAME, that these have loaded before. They
	// are not brought along for the libraries of the jail. nil: there is none.
	Provided func(soname string) bool
	// Carry are the places to which things have moved. See Carried.
	Carry []Carried
	// KeepListen tells, for a pool's file of PHP-FPM by its canonical path in the
	// new packages, that an unchanged pool must go on listening on a value, because
	// a web server's configuration names it. nil: none must.
	KeepListen func(canonical string) (value string, ok bool)
	// Pristine is the text of a configuration file as the old packages shipped it,
	// by the canonical path that it had there; for Conf.Diff. nil knows none.
	Pristine func(canonical string) ([]byte, bool)
	// ReadByServer tells whether a server of the jail would read a file that is
	// laid at a path, physical or canonical, as with an include of all that lies in
	// a folder. Such a file is not laid: see Conf.Aside. nil: none would be read.
	ReadByServer func(path string) bool
}

// Carried is a pair of path prefixes: what lies under New in the new packages lay
// under Old before, as of two series of PHP: /etc/php/8.4/ and /etc/php/8.2/. Both
// are canonical.
type Carried struct{ New, Old string }

// Selection is what the jail shall hold.
type Selection struct {
	Input    changeset.Input
	Manifest *manifest.Manifest
	Conf     []Conf
	// Aside are files that are not laid into the jail; Conf.Aside names them.
	Aside []AsideFile
	// Changed are files that no package knows: replaced, and kept in the stage.
	Changed []string
	// From holds the versions that were recognised in the jail.
	From map[string]string

	gone map[string]manifest.File // what Input.Remove names, by path
	was  map[string]string        // versions of the packages that the jail held files of
	exes []string                 // executables, by path, that others take the place of under other names
}

// earlyLibs are the C library's set, which must never be mixed.
var earlyLibs = []string{"ld-linux", "libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "libresolv.so", "libnss_", "libutil.so", "libanl.so"}

type selector struct {
	in     Input
	layout *Layout
	old    map[string]manifest.File
	out    *Selection
	wants  map[string]changeset.Want // by path in the jail
	staged map[string]bool           // stage names that are in use
	files  map[string]manifest.File
	copied map[string]bool  // what links lead to, where the jail holds copies in the links' places
	turned changeset.Turned // links of the old packages that are directories in the new ones

	movedFrom map[string]string // canonical paths of the packages that have moved a file, to where it was
	judged    map[string]bool   // files at their old places, and whether they were unchanged
	later     []func() error    // links, which go along if what they lead to does
	mtimeNS   int64
}

// Select decides. Directories in which something changes, and files that jailup
// makes, get the time of the newest file of the packages, so that the same
// upgrade has the same result wherever and whenever it is run.
func Select(ctx context.Context, in Input) (*Selection, error) {
	s := &selector{
		in: in, layout: NewLayout(in.Root), old: in.Old.Index(), mtimeNS: in.World.newest(),
		out:    &Selection{From: map[string]string{}, gone: map[string]manifest.File{}},
		judged: map[string]bool{},
		wants:  map[string]changeset.Want{},
		staged: map[string]bool{}, files: map[string]manifest.File{},
	}
	s.findMoved()
	needed, err := s.closure(ctx)
	if err != nil {
		return nil, err
	}
	s.findCopies(needed)
	if err := s.findTurned(); err != nil {
		return nil, err
	}
	for _, n := range in.World.sorted() {
		if err := s.node(n, needed[n.Path]); err != nil {
			return nil, err
		}
	}
	if err := s.caBundle(); err != nil {
		return nil, err
	}
	if err := s.carryOwn(); err != nil {
		return nil, err
	}
	if err := s.obsolete(); err != nil {
		return nil, err
	}
	s.outgrown()
	s.finish()
	return s.out, nil
}

// findCopies finds the targets of links in whose places the jail has plain files,
// as cp leaves them.
func (s *selector) findCopies(needed map[string]bool) {
	s.copied = map[string]bool{}
	for _, n := range s.in.World.sorted() {
		if !needed[n.Path] || n.State.Link == "" {
			continue
		}
		places := s.layout.Existing(n.Path)
		plain := len(places) > 0
		for _, p := range places {
			info, err := s.in.Root.Lstat(p)
			plain = plain && err == nil && info.IsRegular()
		}
		if _, target, err := s.in.World.resolve(n.Path, true); err == nil && target != nil && plain {
			s.copied[target.Path] = true
		}
	}
}

// findTurned finds the links that will be directories: what the packages have in
// them must not go to where the links lead today.
func (s *selector) findTurned() error {
	s.turned = changeset.Turned{}
	for p, rec := range s.old {
		n := s.in.World.nodes[Canonical(p)]
		if rec.Link == "" || rec.Package == "" || n == nil || !n.Dir {
			continue
		}
		cur, err := s.read(p)
		if err != nil {
			return err
		}
		if cur == nil || cur.Link != rec.Link {
			continue // made otherwise by an administrator: his stays
		}
		if p, err = s.in.Root.Physical(p); err != nil {
			return err
		}
		s.turned[p] = true
	}
	return nil
}

// under tells whether a path lies below one of the turned links.
func (s *selector) under(p string) bool {
	for d := path.Dir(path.Clean(p)); len(s.turned) > 0 && d != "/"; d = path.Dir(d) {
		if phys, err := s.in.Root.Physical(d); err == nil && s.turned[phys] {
			return true
		}
	}
	return false
}

// closure computes what the wanted executables, modules and run-time files need,
// over the tree of the packages.
func (s *selector) closure(ctx context.Context) (map[string]bool, error) {
	var roots []string
	for _, e := range s.in.Recipe.Executables {
		if n := s.in.World.nodes[Canonical(e)]; n == nil {
			return nil, fmt.Errorf("cannot stage %s: no package of the target holds %s", s.in.Recipe.Name, e)
		}
		roots = append(roots, Canonical(e))
	}
	for _, n := range s.in.World.sorted() {
		if n.Dir {
			continue
		}
		wanted := n.Owned && s.wantsOwned(n) || recipes.Match(s.in.Recipe.Runtime, n.Path) && (s.whole() || s.present(n))
		if !n.Owned && (s.present(n) || s.asked(n)) {
			wanted = true // a library that the jail holds already goes along
		}
		if wanted && s.isELF(n) && !slices.Contains(roots, n.Path) {
			roots = append(roots, n.Path)
		}
	}
	res := elfdeps.New(s.in.World.fs())
	c, err := res.Closure(ctx, roots)
	if err != nil {
		return nil, err
	}
	var needed map[string]bool
	if s.in.Provided != nil {
		if needed, c.Missing, err = s.within(ctx, res, roots, c); err != nil {
			return nil, err
		}
	}
	if len(c.Missing) > 0 {
		m := c.Missing[0]
		return nil, fmt.Errorf("cannot stage %s: %s needs %s: %s", s.in.Recipe.Name, m.By, m.Name, m.Reason)
	}
	if needed != nil {
		return needed, nil
	}
	needed = map[string]bool{}
	for _, p := range c.Paths {
		needed[Canonical(p)] = true
	}
	return needed, nil
}

// isELF looks at what a node leads to: a runtime file may be a link.
func (s *selector) isELF(n *Node) bool {
	_, target, err := s.in.World.resolve(n.Path, true)
	if err != nil || target == nil || target.State.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	f, err := s.in.Stage.Open(target.Stage)
	if err != nil {
		return false
	}
	defer f.Close()
	return elfdeps.IsELF(f)
}

func (s *selector) whole() bool { return s.in.Whole || s.in.Old != nil && s.in.Old.Whole }

// present tells whether the jail has a node, or had it where it was before.
func (s *selector) present(n *Node) bool {
	if len(s.layout.Existing(n.Path)) > 0 {
		return true
	}
	old, ok := s.oldName(n.Path)
	return ok && len(s.layout.Existing(old)) > 0
}

// wantsOwned: all of it in a jail that jailup built; what is there already, or is
// newly asked for, in one made by hand.
func (s *selector) wantsOwned(n *Node) bool { return s.whole() || s.present(n) || s.asked(n) }

// asked tells what is newly asked for. A link that switches something on is so
// together with what it leads to, in the folders that the jail has.
func (s *selector) asked(n *Node) bool {
	if s.in.Wanted == nil {
		return false
	}
	if s.in.Wanted(n.Path) {
		return true
	}
	if !n.enable || !s.in.Root.Exists(path.Dir(n.Path)) {
		return false
	}
	to, _, err := s.in.World.resolve(n.Path, true)
	return err == nil && s.in.Wanted(to)
}

// recordedAt is where the manifest has a canonical path.
func (s *selector) recordedAt(canonical string) (manifest.File, bool) {
	for _, n := range names(canonical) {
		if f, ok := s.old[n]; ok {
			return f, true
		}
		if p, err := s.in.Root.Physical(n); err == nil {
			if f, ok := s.old[p]; ok {
				return f, true
			}
		}
	}
	return manifest.File{}, false
}

func (s *selector) node(n *Node, needed bool) error {
	exec := s.isExec(n.Path)
	runtime := recipes.Match(s.in.Recipe.Runtime, n.Path)
	switch {
	case n.Dir:
		if n.Owned && s.whole() {
			s.carryDirs(n.Path + "/x") // an administrator's mode counts
			s.out.Input.Dirs = append(s.out.Input.Dirs, changeset.WantDir{
				Path: s.layout.Default(n), Mode: n.State.Mode & 0o7777, UID: n.State.UID, GID: n.State.GID, MtimeNS: n.State.MtimeNS})
		}
		return nil
	case n.Conf:
		return s.conf(n)
	case needed && s.copied[n.Path] && !s.present(n):
		return nil // the jail holds its content under the link's name
	case exec, needed, n.Owned && s.wantsOwned(n), runtime && s.whole(), s.present(n), s.asked(n), s.in.World.extra(n.Path):
		return s.place(n, exec, exec || needed)
	}
	return nil
}

func (s *selector) isExec(canonical string) bool {
	return slices.ContainsFunc(s.in.Recipe.Executables, func(e string) bool { return Canonical(e) == canonical })
}
