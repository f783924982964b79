// Package elfdeps finds the shared libraries that programs and libraries of a
// tree need, in the order in which glibc's ld.so would find them there, and
// never runs anything to learn it. ldd runs the file that it is asked about,
// which is no way to look at a tree that an attacker may have written.
//
// The rules are those of ld.so(8) and of glibc's loader itself:
//
//	a name with a slash      that path, $ORIGIN $LIB $PLATFORM expanded
//	a loaded object          whose name or SONAME is the wanted name
//	DT_RPATH                 of the loader, its loader, ... up to the program;
//	                         not at all where the loader has a DT_RUNPATH
//	DT_RUNPATH               of the loader only
//	/etc/ld.so.conf          where the tree has an /etc/ld.so.cache
//	system directories       read out of the tree's own ld.so; not with
//	                         DF_1_NODEFLIB
//
// A file of another class or machine is passed over; one that is no ELF file,
// or is cut off, ends the search with an error, as it does in ld.so.
// LD_LIBRARY_PATH and the other variables are not looked at: a server is
// started with a clean environment. /etc/ld.so.preload is. The cache itself is
// a derived file that may be stale or forged, so its directories are taken from
// /etc/ld.so.conf, and only where a cache exists: ld.so does not read the
// configuration. A view in which a cache is to be written later shows one.
//
// Where ld.so would choose by the processor (glibc-hwcaps), every variant that
// exists belongs to the closure, because the tree may run on another machine.
// A relative directory in a search path is taken from the root, where a
// chrooted server starts. $ORIGIN of a program is known to ld.so by way of
// /proc/self/exe; this package takes it as known, and Closure.NeedProc names
// the programs for which that matters.
package elfdeps

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// FS is the tree that a closure is computed over, as its own root would see
// it: paths are absolute slash paths, links are followed inside the root.
// Every method answers errors.Is(err, fs.ErrNotExist) for what is not there.
// It must be safe for concurrent use if the Resolver is used so.
type FS interface {
	// Open opens a regular file, links followed inside the root.
	Open(path string) (File, error)
	// Lstat gives S_IFMT and permission bits; the last component is not
	// followed, its parents are.
	Lstat(path string) (mode uint32, err error)
	// Readlink gives the text of a link.
	Readlink(path string) (string, error)
	// ReadDir gives the names in a directory, in any order.
	ReadDir(path string) ([]string, error)
}

// File is an open file of the tree.
type File interface {
	io.ReaderAt
	io.Closer
	// Size is the length in bytes at the time of opening.
	Size() int64
}

// ErrNotELF says that a file does not begin as an ELF file does.
var ErrNotELF = errors.New("not an ELF file")

// Resolver answers questions about one tree. What it has read of the tree it
// remembers, so a tree that changed wants a new Resolver. It is safe for
// concurrent use.
type Resolver struct {
	fs FS

	mu       sync.Mutex
	entries  map[string]entry    // by physical path
	places   map[string]placed   // by path as written
	objects  map[string]parsed   // by physical path
	kept     int64               // bytes of text held by objects
	hwdirs   map[hwKey][]string  // variants' directories
	loaders  map[string]*dialect // by physical path of the interpreter
	confOnce sync.Once
	conf     []string
	preload  []string
}

type parsed struct {
	obj *Object
	err error
}

// New makes a Resolver for the tree.
func New(fsys FS) *Resolver {
	return &Resolver{
		fs:      fsys,
		entries: make(map[string]entry),
		places:  make(map[string]placed),
		objects: make(map[string]parsed),
		hwdirs:  make(map[hwKey][]string),
		loaders: make(map[string]*dialect),
	}
}

// Closure is what a set of programs and libraries needs in order to be loaded.
type Closure struct {
	// Paths is every path needed, sorted, each as it lies in the tree with its
	// parents resolved: ELF files, the interpreter, and each link that leads to
	// them, links among the parent directories (/lib -> usr/lib) included.
	// Directories themselves and ld.so's configuration are not in it.
	Paths []string
	// Objects holds the ELF files of Paths by path.
	Objects map[string]Object
	// Missing is what would stop a program from being loaded.
	Missing []Missing
	// Ignored is what ld.so warns of and goes on without: preloaded
	// libraries and auxiliary filters that are not there.
	Ignored []Missing
	// NeedProc are the programs with $ORIGIN in their own search path, sorted.
	// ld.so learns it from /proc/self/exe: in a jail without /proc it drops
	// these directories, and such a program may not start there.
	NeedProc []string
}

// Missing says that an ELF file needs something that the tree does not give.
type Missing struct {
	By     string   // the path of the file that needs it
	Name   string   // what is needed, as By names it
	Reason string   // "no file", "wrong class: ...", "version V not provided by PATH", ...
	Chain  []string // paths from the root of the closure to By, both included
}

// String gives the fact in one line.
func (m Missing) String() string {
	return fmt.Sprintf("%s needs %s: %s", show(m.By), show(m.Name), m.Reason)
}

// Closure computes what the roots need, as loaded one after the other. Each
// root that is a program begins a process of its own. A root that is a shared
// library is taken as dlopen()ed by the last program named before it, with that
// program's search paths and what it has loaded; with no program before it
// stands alone. A root without a slash is a name to search for as that program
// would, and it may be missing (it is then in Missing).
// A root that cannot be read or is no ELF file to load is an error. What is
// missing is no error.
func (r *Resolver) Closure(ctx context.Context, roots []string) (*Closure, error) {
	b := newBuild(ctx, r, len(roots))
	var cur *space
	for _, root := range roots {
		if err := b.addRoot(&cur, root); err != nil {
			return nil, err
		}
	}
	b.endSpace(cur)
	return b.finish(), nil
}

func (b *build) addRoot(cur **space, root string) error {
	if !strings.Contains(root, "/") {
		if *cur == nil {
			return fmt.Errorf("cannot search for %s: no program is named before it", show(root))
		}
		return (*cur).dlopen(root)
	}
	at, obj, err := b.r.load(root)
	if err != nil {
		return err
	}
	if !obj.loadable() {
		return fmt.Errorf("cannot resolve %s: neither a program nor a shared library", show(root))
	}
	if obj.program() {
		b.endSpace(*cur)
		*cur = b.newSpace(at, obj)
		return (*cur).run()
	}
	if *cur == nil {
		alone := b.newSpace(at, obj)
		defer b.endSpace(alone)
		return alone.run()
	}
	if obj.Class != (*cur).main.obj.Class || obj.Machine != (*cur).main.obj.Machine {
		return fmt.Errorf("cannot load %s into %s: another class or machine", show(root), show((*cur).main.obj.Path))
	}
	return (*cur).dlopenFile(at, obj)
}

// Check tells what the ELF files among paths lack, symbol versions included.
// Each program is resolved with all that it loads; each shared library as a
// program of the list loads it, else alone, else as dlopen()ed by a program of
// the list that has a DT_RPATH. Files that are no ELF files, that are not meant
// to be loaded (object files, detached debug symbols), directories, devices and
// links that lead nowhere are passed over. An ELF file that cannot be parsed is
// reported as missing itself. An error is a path that does not exist, a
// cancelled context, or a limit that was exceeded.
func (r *Resolver) Check(ctx context.Context, paths []string) ([]Missing, error) {
	b := newBuild(ctx, r, len(paths))
	b.brief = true
	progs, libs, err := b.sort(paths)
	if err != nil {
		return nil, err
	}
	covered := make(map[string]bool)
	var hosts []root
	for _, p := range progs {
		s := b.newSpace(p.at, p.obj)
		if err := s.run(); err != nil {
			return nil, err
		}
		b.endSpace(s)
		lacks := make(map[string]bool)
		for _, m := range s.missing {
			lacks[m.By] = true
		}
		for _, n := range s.order {
			if !lacks[n.obj.Path] {
				covered[n.obj.Path] = true
			}
		}
		if len(p.obj.Rpath) > 0 && len(hosts) < maxHosts {
			hosts = append(hosts, p)
		}
	}
	for _, lib := range libs {
		if covered[lib.obj.Path] {
			continue
		}
		if err := b.checkLibrary(lib, hosts); err != nil {
			return nil, err
		}
	}
	return b.finish().Missing, nil
}

// maxHosts bounds how many programs are tried as the one that dlopen()s a
// library which does not resolve alone.
const maxHosts = 16

func (b *build) checkLibrary(lib root, hosts []root) error {
	alone := b.newSpace(lib.at, lib.obj)
	if err := alone.run(); err != nil {
		return err
	}
	if len(alone.check()) > 0 {
		for _, h := range hosts {
			if h.obj.Class != lib.obj.Class || h.obj.Machine != lib.obj.Machine {
				continue
			}
			s := b.newSpace(h.at, h.obj)
			if err := s.run(); err != nil {
				return err
			}
			before := len(s.check())
			if err := s.dlopenFile(lib.at, lib.obj); err != nil {
				return err
			}
			if len(s.check()) == before {
				return nil
			}
		}
	}
	b.endSpace(alone)
	return nil
}

// root is an ELF file that a check begins at.
type root struct {
	at  place
	obj *Object
}

// sort finds the programs and the libraries among paths, each file once.
func (b *build) sort(paths []string) (progs, libs []root, err error) {
	seen := make(map[string]bool)
	for _, p := range paths {
		if err := b.ctx.Err(); err != nil {
			return nil, nil, err
		}
		at, err := b.r.resolve(p)
		switch {
		case err == nil:
		case b.r.dangling(p):
			continue
		default:
			return nil, nil, fmt.Errorf("cannot look at %s: %w", show(p), err)
		}
		if !at.regular() || seen[at.path] {
			continue
		}
		seen[at.path] = true
		obj, err := b.r.object(at.path)
		switch {
		case errors.Is(err, ErrNotELF):
		case err != nil && obj != nil && obj.Type != 0 && !obj.loadable():
		case err != nil:
			b.addMissing(Missing{By: at.path, Name: at.path, Reason: err.Error(), Chain: []string{at.path}})
		case !obj.loadable() || obj.detached:
		case obj.program():
			progs = append(progs, root{at, obj})
		default:
			libs = append(libs, root{at, obj})
		}
	}
	return progs, libs, nil
}

// Object parses the ELF file at path, links followed. What it returns is
// shared: maps and slices must not be changed. It gives an error that is
// ErrNotELF for another kind of file, and fs.ErrNotExist where there is none.
func (r *Resolver) Object(path string) (Object, error) {
	_, obj, err := r.load(path)
	if err != nil {
		return Object{}, err
	}
	return *obj, nil
}

// load resolves a path and parses what is there.
func (r *Resolver) load(path string) (place, *Object, error) {
	at, err := r.resolve(path)
	if err != nil {
		return place{}, nil, fmt.Errorf("cannot open %s: %w", show(path), err)
	}
	if !at.regular() {
		return place{}, nil, fmt.Errorf("cannot read %s: not a regular file", show(path))
	}
	obj, err := r.object(at.path)
	if err != nil {
		return place{}, nil, err
	}
	return at, obj, nil
}

// maxKept bounds the text of all objects that a Resolver remembers. What comes
// after is parsed again each time.
const maxKept = 64 << 20

// object parses the file at a physical path, once. Of a file that is an error
// the object may tell class and machine; it is nil where not even those are
// known.
func (r *Resolver) object(path string) (*Object, error) {
	r.mu.Lock()
	p, ok := r.objects[path]
	r.mu.Unlock()
	if ok {
		return p.obj, p.err
	}
	obj, err := r.parse(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	size := int64(len(path)) + 64
	if obj != nil {
		size += obj.weight
	}
	if r.kept+size <= maxKept {
		r.kept += size
		r.objects[path] = parsed{obj, err}
	}
	return obj, err
}

func (r *Resolver) parse(path string) (*Object, error) {
	f, err := r.fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", show(path), err)
	}
	defer f.Close()
	obj, err := parseObject(f)
	if obj != nil {
		obj.Path = path
	}
	if err != nil {
		err = fmt.Errorf("cannot read ELF file %s: %w", show(path), err)
	}
	return obj, err
}

// IsELF tells whether a file begins as an ELF file does, elf(5).
func IsELF(f io.ReaderAt) bool {
	var magic [4]byte
	n, _ := f.ReadAt(magic[:], 0)
	return n == len(magic) && string(magic[:]) == elfMagic
}

// finish sorts what was gathered.
func (b *build) finish() *Closure {
	b.out.Paths = slices.Sorted(maps.Keys(b.paths))
	slices.Sort(b.out.NeedProc)
	for _, l := range [][]Missing{b.out.Missing, b.out.Ignored} {
		slices.SortStableFunc(l, func(x, y Missing) int {
			return cmp.Or(cmp.Compare(x.By, y.By), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Reason, y.Reason))
		})
	}
	return b.out
}
