package changeset

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/jailup/jailup/internal/jail"
	"golang.org/x/sys/unix"
)

// Want is a file or link that the jail shall hold.
type Want struct {
	Path    string // as the jail sees it; made physical by Compute
	State   State  // Ino may be 0 where Stage is empty
	Stage   string // its name in the stage
	Package string
	Exec    bool // an executable of the server: out first, in last
	Early   bool // of the C library's set: exchanged back to back
	Meta    bool // mode and owner count as well: brought also where the content is there already
}

// WantDir gives the mode and owner of a directory that may have to be made.
type WantDir struct {
	Path     string
	Mode     uint32 // permission bits
	UID, GID uint32
	MtimeNS  int64
}

// Input is what Compute compares with the jail.
type Input struct {
	Wants   []Want
	Dirs    []WantDir // directories to make, and modes for missing parents
	Remove  []string  // files and links to take out
	Rmdir   []string  // directories to remove if nothing else is in them
	MtimeNS int64     // given to the directories in which something changes
	// DirTimes are the times of those that had one of their own, by path.
	DirTimes map[string]int64
}

// BlockedError says that no rename can change what is at Path: it has a flag of
// chattr(1), or is not on the jail's mount.
type BlockedError struct {
	what string
	Path string
	why  string
}

const immutable = "it is immutable (chattr)"

func (e *BlockedError) Error() string { return "cannot " + e.what + ": " + e.why }

// OtherMount says that what is at p is not on the jail's mount.
func OtherMount(p string) error {
	return &BlockedError{"change " + p, p, "it lies on another mount"}
}

// Flagged tells whether it is a flag of chattr(1) that is in the way.
func (e *BlockedError) Flagged() bool { return e.why == immutable }

// Compute returns the operations that bring the jail to what is wanted. Files
// that have the wanted content already are left alone, whatever their mode, unless
// Meta says that it counts. Two wishes for one
// physical name become one; a file beats a removal. What cannot be done is
// refused here, with its name, while nothing is touched yet: immutable files and
// directories, other mounts, directories that hold what nobody asked to remove.
func Compute(root *jail.Root, in Input) (*Set, error) {
	fsid, err := FSID(root.Fd())
	if err != nil {
		return nil, fmt.Errorf("cannot compute the changeset: %w", err)
	}
	c := &computer{root: root, in: in, wants: map[string]Want{}, mkdirs: map[string]Op{}, touched: map[string]bool{}, removes: map[string]bool{}}
	if err := c.run(); err != nil {
		return nil, err
	}
	return c.set(fsid)
}

type computer struct {
	root    *jail.Root
	in      Input
	wants   map[string]Want // by physical path
	removes map[string]bool
	mkdirs  map[string]Op
	touched map[string]bool // existing directories in which something changes
	out     []Op            // executables out, links out of the way of directories
	mid     []Op
	gone    []Op
	last    []Op // executables in
}

func (c *computer) run() error {
	removes := map[string]bool{}
	for _, p := range c.in.Remove {
		p, err := c.root.Physical(p)
		if err != nil {
			return err
		}
		removes[p] = true
	}
	turned := Turned{}
	for p := range removes {
		if info, err := c.root.Lstat(p); err == nil && !info.IsDir() {
			turned[p] = true
		}
	}
	modes := map[string]WantDir{}
	for _, d := range c.in.Dirs {
		p, err := turned.Physical(c.root, d.Path)
		if err != nil {
			return err
		}
		if _, ok := modes[p]; !ok {
			modes[p] = d
		}
	}
	for _, w := range c.in.Wants {
		p, err := turned.Physical(c.root, w.Path)
		if err != nil {
			return err
		}
		if old, ok := c.wants[p]; ok && !old.State.Same(&w.State) {
			return fmt.Errorf("cannot compute the changeset: %s and %s are one name and shall hold different files", old.Path, w.Path)
		}
		w.Path = p
		c.wants[p] = w
	}
	for p := range removes {
		if _, ok := c.wants[p]; !ok {
			c.removes[p] = true
		}
	}
	return c.plan(modes)
}

// plan makes the operations: directories, what goes, what is emptied by that,
// what comes.
func (c *computer) plan(modes map[string]WantDir) error {
	for _, p := range sortedKeys(modes) {
		if err := c.mkdirAll(p, modes); err != nil {
			return err
		}
	}
	for _, p := range sortedKeys(c.wants) {
		if err := c.mkdirAll(path.Dir(p), modes); err != nil {
			return err
		}
	}
	for _, p := range sortedKeys(c.removes) {
		if err := c.remove(p); err != nil {
			return err
		}
	}
	if err := c.rmdirs(); err != nil {
		return err
	}
	for _, p := range sortedKeys(c.wants) {
		if err := c.want(c.wants[p]); err != nil {
			return err
		}
	}
	return nil
}

// Turned are links and files, by physical path, that go away and may become
// directories: what shall lie below one of them lies in the new directory, not
// where the link leads today.
type Turned map[string]bool

// Physical is root.Physical in the layout that will be.
func (t Turned) Physical(root *jail.Root, p string) (string, error) {
	if len(t) > 0 {
		names := strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/")
		for i := 1; i < len(names); i++ {
			above, err := root.Physical("/" + strings.Join(names[:i], "/"))
			if err == nil && t[above] {
				return path.Join(above, path.Join(names[i:]...)), nil
			}
		}
	}
	return root.Physical(p)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// mkdirAll plans p and its missing parents.
func (c *computer) mkdirAll(p string, modes map[string]WantDir) error {
	if p == "/" {
		return nil
	}
	if _, ok := c.mkdirs[p]; ok {
		return nil
	}
	if err := c.mkdirAll(path.Dir(p), modes); err != nil {
		return err
	}
	info, err := jail.Info{}, error(unix.ENOENT)
	if _, made := c.mkdirs[path.Dir(p)]; !made { // else what is there now is in another directory
		info, err = c.root.Lstat(p)
	}
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil && info.IsSymlink() && !c.removes[p]:
		if to, serr := c.root.Stat(p); serr == nil && to.IsDir() {
			return nil
		}
		return fmt.Errorf("cannot make directory %s: a link that leads nowhere is in its place", p)
	case err == nil && !c.removes[p]:
		return fmt.Errorf("cannot make directory %s: a %s is in its place", p, jail.TypeName(info.Mode))
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	}
	d, ok := modes[p]
	if !ok {
		d = WantDir{Mode: 0o755, MtimeNS: c.in.MtimeNS}
	}
	if d.MtimeNS == 0 {
		d.MtimeNS = c.in.MtimeNS
	}
	c.touch(path.Dir(p))
	c.mkdirs[p] = Op{Kind: Mkdir, Path: p, New: &State{Mode: unix.S_IFDIR | d.Mode&0o7777, UID: d.UID, GID: d.GID, MtimeNS: d.MtimeNS}}
	return nil
}

func (c *computer) touch(dir string) {
	if _, made := c.mkdirs[dir]; !made {
		c.touched[dir] = true
	}
}

// read returns what is at a physical path now; nil where nothing is.
func (c *computer) read(p string) (*State, error) {
	if _, made := c.mkdirs[path.Dir(p)]; made {
		return nil, nil
	}
	d, base, err := c.root.OpenParent(p)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if errors.Is(err, unix.EXDEV) {
		return nil, OtherMount(p)
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if info, err := jail.StatAt(int(d.Fd()), base); err == nil {
		if info.Immutable || info.Append {
			return nil, &BlockedError{"change " + p, p, immutable}
		}
		if info.MountID != c.root.MountID() {
			return nil, &BlockedError{"change " + p, p, "something is mounted on it"}
		}
	}
	st, err := ReadState(int(d.Fd()), base)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", p, err)
	}
	return st, nil
}

func (c *computer) remove(p string) error {
	old, err := c.read(p)
	if err != nil || old == nil {
		return err
	}
	if !old.isLink() && !old.isRegular() {
		return fmt.Errorf("cannot remove %s: it is a %s", p, jail.TypeName(old.Mode))
	}
	op := Op{Kind: Remove, Path: p, Old: old}
	if _, made := c.mkdirs[p]; made {
		c.out = append(c.out, op) // out of the way before the directory is made
	} else {
		c.gone = append(c.gone, op)
	}
	c.touch(path.Dir(p))
	return nil
}

// sameMeta tells whether two files have one mode and owner. Those of a link say
// nothing.
func (s *State) sameMeta(o *State) bool {
	return s.isLink() || s.Mode == o.Mode && s.UID == o.UID && s.GID == o.GID
}

func (c *computer) want(w Want) error {
	if _, made := c.mkdirs[w.Path]; made {
		return fmt.Errorf("cannot compute the changeset: %s shall be a directory and a file", w.Path)
	}
	old, err := c.read(w.Path)
	if err != nil {
		return err
	}
	st := w.State
	op := Op{Path: w.Path, Stage: w.Stage, New: &st, Old: old, Package: w.Package}
	switch {
	case old == nil:
		op.Kind = Add
		c.touch(path.Dir(w.Path))
		if w.Exec {
			c.last = append(c.last, op)
		} else {
			c.mid = append(c.mid, op)
		}
		return nil
	case !old.isLink() && !old.isRegular():
		if old.Mode&unix.S_IFMT == unix.S_IFDIR {
			return c.overDir(op)
		}
		return fmt.Errorf("cannot replace %s: it is a %s", w.Path, jail.TypeName(old.Mode))
	case old.Same(&st) && (!w.Meta || old.sameMeta(&st)):
		if w.Exec {
			c.last = append(c.last, Op{Kind: Replace, Path: w.Path, Old: old, New: old, Hold: true, Package: w.Package})
		}
		return nil
	}
	op.Kind = Replace
	c.touch(path.Dir(w.Path))
	switch {
	case w.Exec:
		c.last = append(c.last, op)
	case w.Early:
		c.mid = slices.Insert(c.mid, 0, op)
	default:
		c.mid = append(c.mid, op)
	}
	return nil
}

// overDir plans a link or file where a directory is: only if all that is left in
// it goes away with this changeset.
func (c *computer) overDir(op Op) error {
	left, err := c.leftIn(op.Path)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("cannot replace directory %s by a %s: it holds %s, which is not jailup's",
			op.Path, jail.TypeName(op.New.Mode), strings.Join(left[:min(3, len(left))], ", "))
	}
	op.Kind, op.Old = Add, nil
	if !c.removes[op.Path] { // planned already, where it was named as one that may go
		if err := c.rmdir(op.Path); err != nil {
			return err
		}
	}
	c.gone = append(c.gone, op)
	return nil
}

// leftIn returns what stays in a directory after all planned removals.
func (c *computer) leftIn(p string) ([]string, error) {
	names, err := c.root.ReadDir(p)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, n := range names {
		full := path.Join(p, n)
		if !c.removes[full] {
			left = append(left, full)
		}
	}
	return left, nil
}

func (c *computer) rmdirs() error {
	dirs := slices.Clone(c.in.Rmdir)
	sort.Slice(dirs, func(i, k int) bool { return len(dirs[i]) > len(dirs[k]) })
	for _, d := range dirs {
		p, err := c.root.Physical(d)
		if err != nil {
			return err
		}
		info, err := c.root.Lstat(p)
		if err != nil || !info.IsDir() || c.removes[p] {
			continue
		}
		used := false
		for w := range c.wants {
			used = used || strings.HasPrefix(w, p+"/")
		}
		for m := range c.mkdirs {
			used = used || strings.HasPrefix(m, p+"/")
		}
		left, err := c.leftIn(p)
		if err != nil {
			return err
		}
		if used || len(left) > 0 || info.MountID != c.root.MountID() {
			continue
		}
		if err := c.rmdir(p); err != nil {
			return err
		}
	}
	return nil
}

// rmdir plans the removal of a directory, all of it that must come back included.
func (c *computer) rmdir(p string) error {
	d, err := c.root.OpenDir(p)
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := jail.Fstat(int(d.Fd()))
	if err != nil {
		return err
	}
	if info.Immutable || info.Append {
		return &BlockedError{"remove " + p, p, immutable}
	}
	st := stateOf(info)
	if st.Xattrs, err = jail.Xattrs(d); err != nil {
		return fmt.Errorf("cannot read %s: %w", p, err)
	}
	c.removes[p] = true // so that its parent may go too
	c.touch(path.Dir(p))
	c.gone = append(c.gone, Op{Kind: Rmdir, Path: p, Old: st})
	return nil
}

// set puts the operations in order and gives each its name in the stage.
func (c *computer) set(fsid string) (*Set, error) {
	s := &Set{Version: 1, FSID: fsid}
	changes := len(c.out)+len(c.mid)+len(c.gone)+len(c.mkdirs) > 0
	var in []Op
	for _, op := range c.last {
		if op.Hold && !changes && !c.execChanges() {
			continue
		}
		name := op.Stage + ".old"
		if op.Hold {
			name = "hold" + strings.ReplaceAll(op.Path, "/", "~")
			c.touch(path.Dir(op.Path))
		}
		if op.Kind == Replace {
			s.Ops = append(s.Ops, Op{Kind: Remove, Path: op.Path, Stage: name, Old: op.Old, Hold: op.Hold, Package: op.Package})
			op.Old, op.Kind = nil, Add
			if op.Hold {
				op.Stage = name
			}
		}
		in = append(in, op)
	}
	s.Ops = append(s.Ops, c.out...)
	for _, p := range sortedKeys(c.mkdirs) { // sorted: parents first
		s.Ops = append(s.Ops, c.mkdirs[p])
	}
	s.Ops = append(s.Ops, c.mid...)
	s.Ops = append(s.Ops, c.gone...)
	s.Ops = append(s.Ops, in...)
	for i := range s.Ops {
		if s.Ops[i].Kind == Remove && s.Ops[i].Stage == "" {
			s.Ops[i].Stage = fmt.Sprintf("gone-%06d", i)
		}
	}
	for _, p := range sortedKeys(c.touched) {
		if c.removes[p] {
			continue
		}
		info, err := c.root.Lstat(p)
		if err != nil {
			return nil, err
		}
		if info.Immutable || info.Append {
			return nil, &BlockedError{"change what is in " + p, p, immutable}
		}
		if info.MountID != c.root.MountID() {
			return nil, &BlockedError{"change what is in " + p, p, "it lies on another mount"}
		}
		then := c.in.MtimeNS
		if own, ok := c.in.DirTimes[p]; ok {
			then = own
		}
		s.Dirs = append(s.Dirs, Dir{Path: p, OldMtimeNS: info.MtimeNS, NewMtimeNS: then})
	}
	return s, nil
}

func (c *computer) execChanges() bool {
	return slices.ContainsFunc(c.last, func(op Op) bool { return !op.Hold })
}
