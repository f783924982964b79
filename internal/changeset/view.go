package changeset

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"sync"

	"github.com/jailup/jailup/internal/jail"
	"golang.org/x/sys/unix"
)

// View is the jail as it will be: what the changeset adds and replaces is read
// from the stage, what it removes is not there, the rest is the jail's own. It
// resolves links as the jail would. It only reads, and is safe for concurrent
// use while nothing is being installed.
type View struct {
	root  *jail.Root
	stage *os.File
	set   map[string]*Op // by physical path: the state that will be

	mu    sync.Mutex
	stats map[string]statResult
}

type statResult struct {
	mode uint32
	err  error
}

// NewView looks through set at root. stage is the open stage directory.
func NewView(root *jail.Root, stage *os.File, set *Set) *View {
	v := &View{root: root, stage: stage, set: map[string]*Op{}, stats: map[string]statResult{}}
	if set == nil {
		return v
	}
	for i := range set.Ops {
		op := &set.Ops[i]
		if op.Hold {
			continue
		}
		if prev := v.set[op.Path]; prev != nil && (op.Kind == Remove || op.Kind == Rmdir) {
			continue // what comes in its place counts
		}
		v.set[op.Path] = op
	}
	return v
}

const maxLinks = 40 // as the kernel, path_resolution(7)

var errLoop = &fs.PathError{Op: "resolve", Err: unix.ELOOP}

// at describes a physical path.
func (v *View) at(p string) (mode uint32, op *Op, err error) {
	if op := v.set[p]; op != nil {
		if op.Kind == Remove || op.Kind == Rmdir {
			return 0, nil, unix.ENOENT
		}
		return op.New.Mode, op, nil
	}
	if up := v.set[path.Dir(p)]; up != nil && up.Kind == Mkdir {
		return 0, nil, unix.ENOENT // new, and all that will be in it is in the set
	}
	v.mu.Lock()
	st, ok := v.stats[p]
	v.mu.Unlock()
	if !ok {
		info, err := v.root.Lstat(p)
		st = statResult{mode: info.Mode, err: err}
		v.mu.Lock()
		v.stats[p] = st
		v.mu.Unlock()
	}
	return st.mode, nil, st.err
}

func (v *View) readlink(p string, op *Op) (string, error) {
	if op != nil {
		return op.New.Link, nil
	}
	return v.root.Readlink(p)
}

// resolve walks p component by component and returns the physical path it leads
// to, its mode and its operation, if it has one.
func (v *View) resolve(p string, followLast bool) (string, uint32, *Op, error) {
	rest := strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/")
	cur, links := "/", 0
	mode, op := uint32(unix.S_IFDIR), (*Op)(nil)
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".", "..":
			if mode&unix.S_IFMT != unix.S_IFDIR {
				return "", 0, nil, unix.ENOTDIR
			}
			if name == ".." {
				cur = path.Dir(cur)
				if mode, op = unix.S_IFDIR, nil; cur != "/" {
					var err error
					if mode, op, err = v.at(cur); err != nil {
						return "", 0, nil, err
					}
				}
			}
			continue
		}
		if mode&unix.S_IFMT != unix.S_IFDIR {
			return "", 0, nil, unix.ENOTDIR
		}
		next := path.Join(cur, name)
		m, o, err := v.at(next)
		if err != nil {
			return "", 0, nil, err
		}
		if m&unix.S_IFMT == unix.S_IFLNK && (followLast || len(rest) > 0) {
			if links++; links > maxLinks {
				return "", 0, nil, errLoop
			}
			target, err := v.readlink(next, o)
			if err != nil {
				return "", 0, nil, err
			}
			if strings.HasPrefix(target, "/") {
				cur, mode, op = "/", unix.S_IFDIR, nil
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		cur, mode, op = next, m, o
	}
	if cur == "/" {
		mode, op, err := v.at(cur)
		return cur, mode, op, err
	}
	return cur, mode, op, nil
}

func wrap(op, p string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// Lstat returns type and permission bits of p itself.
func (v *View) Lstat(p string) (uint32, error) {
	_, mode, _, err := v.resolve(p, false)
	if err != nil {
		return 0, wrap("lstat", p, err)
	}
	return mode, nil
}

// Readlink returns the target that is written in the link p.
func (v *View) Readlink(p string) (string, error) {
	cur, mode, op, err := v.resolve(p, false)
	if err == nil && mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.EINVAL
	}
	var target string
	if err == nil {
		target, err = v.readlink(cur, op)
	}
	if err != nil {
		return "", wrap("readlink", p, err)
	}
	return target, nil
}

// RealPath returns the physical path that p leads to.
func (v *View) RealPath(p string) (string, error) {
	cur, _, _, err := v.resolve(p, true)
	if err != nil {
		return "", wrap("resolve", p, err)
	}
	return cur, nil
}

// Open opens the regular file that p leads to.
func (v *View) Open(p string) (*os.File, error) {
	cur, _, op, err := v.resolve(p, true)
	if err != nil {
		return nil, wrap("open", p, err)
	}
	if op == nil {
		return v.root.OpenFile(cur)
	}
	if op.New.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, wrap("open", p, jail.ErrNotRegular)
	}
	return jail.OpenAt(int(v.stage.Fd()), op.Stage)
}

// ReadDir returns the names that the directory p will hold, sorted.
func (v *View) ReadDir(p string) ([]string, error) {
	cur, mode, op, err := v.resolve(p, true)
	if err == nil && mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err != nil {
		return nil, wrap("readdir", p, err)
	}
	names := map[string]bool{}
	if op == nil {
		list, err := v.root.ReadDir(cur)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			names[n] = true
		}
	}
	for p, op := range v.set {
		if path.Dir(p) == cur && p != "/" {
			names[path.Base(p)] = op.Kind != Remove && op.Kind != Rmdir
		}
	}
	out := make([]string, 0, len(names))
	for n, there := range names {
		if there {
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out, nil
}
