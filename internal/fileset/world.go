package fileset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// topDirs are those that a usr-merged system links into /usr.
var topDirs = map[string]bool{"bin": true, "sbin": true, "lib": true, "lib32": true, "lib64": true, "libx32": true}

// Canonical gives a package path its usr-merged form: /lib/x is /usr/lib/x.
func Canonical(p string) string {
	p = path.Clean("/" + p)
	top, _, _ := strings.Cut(p[1:], "/")
	if topDirs[top] {
		return "/usr" + p
	}
	return p
}

// Node is one path of the unpacked packages.
type Node struct {
	Path    string // canonical
	Shipped string // as the package ships it
	Package string
	Owned   bool // of a package whose files the jail holds whole
	Conf    bool
	Dir     bool
	SetID   bool // the package ships it with a set-user-ID or set-group-ID bit; State has none
	Stage   string
	State   changeset.State

	from   string // of what Effects have copied: where it lies in the package
	enable bool   // a link by which Effects switch something on
}

// World is the tree that the target's packages make, usr-merged, as far as a
// file jail could need it. Contents lie in the stage.
type World struct {
	nodes    map[string]*Node
	linked   map[string]bool // by folder and name: what Effects have switched on there
	shipped  map[string]bool // every canonical path of the packages, also of what is not unpacked
	stage    *Stage
	packages map[string]string
	extra    func(canonical string) bool
	ca       map[string][]byte // certificates of ca-certificates, for the bundle
}

// maxCert bounds one certificate file.
const maxCert = 64 << 10

// NewWorld begins an empty world. extra names paths, besides those that the
// recipe asks for, that are wanted: those that the jail holds already, say; nil
// names none.
func NewWorld(stage *Stage, extra func(canonical string) bool) *World {
	if extra == nil {
		extra = func(string) bool { return false }
	}
	return &World{nodes: map[string]*Node{}, shipped: map[string]bool{}, linked: map[string]bool{}, stage: stage, packages: map[string]string{}, extra: extra, ca: map[string][]byte{}}
}

// Unpack adds one package. Of a package that the recipe does not own only
// shared objects and what the runtime list names are taken. What the recipe
// excludes is not taken, unless its runtime list names it: of a joined recipe one
// part has no use for what another looks for by name. Set-id bits and devices never come out of a package.
func (w *World) Unpack(deb *pkgs.Deb, r *recipes.Recipe) error {
	control := deb.Control()
	owned := matchAny(r.Owns, control.Package)
	conf := map[string]bool{}
	for _, c := range deb.Conffiles() {
		conf[path.Clean(c)] = true
	}
	w.packages[control.Package] = control.Version
	hard := map[string]string{}
	err := deb.Files(func(e *pkgs.Entry, content io.Reader) error {
		p := Canonical(e.Path)
		if e.Type == pkgs.TypeSymlink && path.Dir(path.Clean(e.Path)) == "/" && topDirs[path.Base(e.Path)] {
			return nil // a usr-merged system's own: a jail keeps its layout
		}
		w.shipped[p] = true
		if strings.HasPrefix(p, "/usr/share/ca-certificates/") && e.Type == pkgs.TypeRegular {
			if e.Size > maxCert {
				return fmt.Errorf("%s is no certificate: it has %d bytes", e.Path, e.Size)
			}
			data, err := io.ReadAll(content)
			w.ca[p] = data
			return err
		}
		runtime := recipes.Match(r.Runtime, p)
		if !runtime && (recipes.Match(r.Exclude, p) || e.Type == pkgs.TypeDir && recipes.Match(r.Exclude, p+"/x")) {
			return nil
		}
		n := &Node{Path: p, Shipped: path.Clean(e.Path), Package: control.Package, Owned: owned,
			Conf: conf[path.Clean(e.Path)] || e.Type != pkgs.TypeDir && strings.HasPrefix(p, "/etc/")}
		if !owned && e.Type != pkgs.TypeDir && !isLibrary(p) && !runtime && !w.extra(p) {
			return nil
		}
		n.SetID = e.Type != pkgs.TypeDir && e.Mode&(unix.S_ISUID|unix.S_ISGID) != 0
		m := Meta{Perm: e.Mode & 0o1777, UID: e.UID, GID: e.GID, MtimeNS: e.MtimeNS, Xattrs: e.Xattrs}
		var err error
		switch e.Type {
		case pkgs.TypeDir:
			if old := w.nodes[p]; old != nil {
				old.Owned = old.Owned || owned
				return nil
			}
			n.Dir = true
			n.State = changeset.State{Mode: unix.S_IFDIR | e.Mode&0o1777, UID: uint32(e.UID), GID: uint32(e.GID), MtimeNS: e.MtimeNS}
		case pkgs.TypeRegular:
			n.Stage, n.State, err = w.stage.Put(content, e.Size, m)
		case pkgs.TypeSymlink:
			n.Stage, n.State, err = w.stage.PutLink(e.Link, m)
		case pkgs.TypeHardlink:
			hard[p] = Canonical(e.Link)
			n.State = changeset.State{}
		default:
			return nil
		}
		if err != nil {
			return err
		}
		if old := w.nodes[p]; old != nil && !old.Dir {
			return fmt.Errorf("%s is in %s as well", e.Path, old.Package)
		}
		w.nodes[p] = n
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot unpack %s: %w", control.Package, err)
	}
	for p, to := range hard {
		target, ok := w.nodes[to]
		if !ok || target.Stage == "" {
			delete(w.nodes, p) // its target is nothing that a jail needs
			continue
		}
		n := w.nodes[p]
		if n.Stage, n.State, err = w.stage.Copy(target.Stage, target.State); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", control.Package, err)
		}
	}
	return nil
}

func isLibrary(p string) bool {
	return (strings.HasPrefix(p, "/usr/lib") || strings.HasPrefix(p, "/usr/libexec")) && strings.Contains(path.Base(p), ".so")
}

func matchAny(globs []string, name string) bool {
	for _, g := range globs {
		if ok, err := path.Match(g, name); err == nil && ok {
			return true
		}
	}
	return false
}

// Sorted returns the nodes by path.
func (w *World) sorted() []*Node {
	out := make([]*Node, 0, len(w.nodes))
	for _, n := range w.nodes {
		out = append(out, n)
	}
	sort.Slice(out, func(i, k int) bool { return out[i].Path < out[k].Path })
	return out
}

// resolve follows the links of the world from a canonical path.
func (w *World) resolve(p string, followLast bool) (string, *Node, error) {
	rest := strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/")
	cur, links := "/", 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			cur = path.Dir(cur)
			continue
		}
		if cur == "/" && topDirs[name] {
			cur = "/usr"
		}
		next := path.Join(cur, name)
		n := w.nodes[next]
		if n != nil && n.State.Link != "" && (followLast || len(rest) > 0) {
			if links++; links > 40 {
				return "", nil, unix.ELOOP
			}
			if strings.HasPrefix(n.State.Link, "/") {
				cur = "/"
			}
			rest = append(strings.Split(n.State.Link, "/"), rest...)
			continue
		}
		cur = next
	}
	return cur, w.nodes[cur], nil
}

// worldFS shows the world to elfdeps.
type worldFS struct {
	w    *World
	dirs map[string]map[string]bool // names in each directory
}

func (w *World) fs() worldFS {
	f := worldFS{w: w, dirs: map[string]map[string]bool{}}
	add := func(p string) {
		for p != "/" {
			d := path.Dir(p)
			if f.dirs[d] == nil {
				f.dirs[d] = map[string]bool{}
			}
			f.dirs[d][path.Base(p)] = true
			p = d
		}
	}
	for p := range w.nodes {
		add(p)
	}
	return f
}

type stagedFile struct {
	io.ReaderAt
	io.Closer
	size int64
}

func (s stagedFile) Size() int64 { return s.size }

func (f worldFS) Open(p string) (elfdeps.File, error) {
	_, n, err := f.w.resolve(p, true)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	if err == nil && n.State.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	file, err := f.w.stage.Open(n.Stage)
	if err != nil {
		return nil, err
	}
	return stagedFile{file, file, n.State.Size}, nil
}

func (f worldFS) Lstat(p string) (uint32, error) {
	clean := path.Clean("/" + p)
	if topDirs[strings.TrimPrefix(clean, "/")] {
		return unix.S_IFLNK | 0o777, nil
	}
	cur, n, err := f.w.resolve(p, false)
	switch {
	case err != nil:
	case n != nil:
		return n.State.Mode, nil
	case cur == "/" || f.dirs[cur] != nil:
		return unix.S_IFDIR | 0o755, nil
	default:
		err = fs.ErrNotExist
	}
	return 0, &fs.PathError{Op: "lstat", Path: p, Err: err}
}

func (f worldFS) Readlink(p string) (string, error) {
	clean := path.Clean("/" + p)
	if top := strings.TrimPrefix(clean, "/"); topDirs[top] {
		return "usr/" + top, nil
	}
	_, n, err := f.w.resolve(p, false)
	if err == nil && (n == nil || n.State.Link == "") {
		err = fs.ErrNotExist
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: p, Err: err}
	}
	return n.State.Link, nil
}

func (f worldFS) ReadDir(p string) ([]string, error) {
	cur, _, err := f.w.resolve(p, true)
	if err == nil && f.dirs[cur] == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: err}
	}
	var names []string
	for n := range f.dirs[cur] {
		names = append(names, n)
	}
	return names, nil
}

// bundle concatenates the certificates as ca-certificates' own script does for
// a system that trusts all of them. Nil where the package is not in the target.
func (w *World) bundle() []byte {
	paths := make([]string, 0, len(w.ca))
	for p := range w.ca {
		if strings.HasSuffix(p, ".crt") {
			paths = append(paths, p)
		}
	}
	sort.Strings(paths)
	var b bytes.Buffer
	for _, p := range paths {
		b.Write(bytes.TrimRight(w.ca[p], "\n"))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// Holds tells whether the packages ship exactly this content at a path.
func (w *World) Holds(p string, st *changeset.State) bool {
	_, n, err := w.resolve(Canonical(p), true)
	return err == nil && n != nil && n.State.Same(st)
}

// Files returns all files and links, by path.
func (w *World) Files() []*Node {
	var out []*Node
	for _, n := range w.sorted() {
		if !n.Dir {
			out = append(out, n)
		}
	}
	return out
}

// newest is the newest mtime of all files.
func (w *World) newest() int64 {
	var t int64
	for _, n := range w.nodes {
		if !n.Dir {
			t = max(t, n.State.MtimeNS)
		}
	}
	return t
}
