package elfdeps

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// Limits of the kernel's own path walk (path_resolution(7)).
const (
	maxLinks = 40
	maxPath  = 4096
	maxPart  = 255
)

const (
	modeType = 0o170000
	modeReg  = 0o100000
	modeDir  = 0o040000
	modeLink = 0o120000
	modeSetX = 0o6000 // set-user-ID and set-group-ID
	modeExec = 0o111
)

// maxEntries bounds what a Resolver remembers of directory entries and paths.
const maxEntries = 200_000

// entry is what lies at a physical path.
type entry struct {
	mode   uint32
	target string // of a link
	err    error
}

// place is where a path leads.
type place struct {
	path string // physical
	mode uint32
	hops []string // the links on the way, each by its physical path
}

type placed struct {
	place
	err error
}

func (p place) regular() bool { return p.mode&modeType == modeReg }
func (p place) dir() bool     { return p.mode&modeType == modeDir }

// absent tells errors that say that there is nothing from those that hide what
// there is.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// entry looks at a physical path, once.
func (r *Resolver) entry(path string) entry {
	r.mu.Lock()
	e, ok := r.entries[path]
	r.mu.Unlock()
	if ok {
		return e
	}
	e.mode, e.err = r.fs.Lstat(path)
	if e.err == nil && e.mode&modeType == modeLink {
		e.target, e.err = r.fs.Readlink(path)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.entries) < maxEntries {
		r.entries[path] = e
	}
	return e
}

// resolve walks a path as the kernel would with the tree as its root: every
// link followed, ".." taken of where the walk really is, and never above the
// root. A relative path begins at the root.
func (r *Resolver) resolve(path string) (place, error) {
	r.mu.Lock()
	p, ok := r.places[path]
	r.mu.Unlock()
	if ok {
		return p.place, p.err
	}
	p.place, p.err = r.walk(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.places) < maxEntries {
		r.places[path] = p
	}
	return p.place, p.err
}

func (r *Resolver) walk(path string) (place, error) {
	cur := place{path: "/", mode: modeDir}
	if len(path) >= maxPath {
		return cur, syscall.ENAMETOOLONG
	}
	rest := components(path)
	for len(rest) > 0 {
		name := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if !cur.dir() {
			return cur, syscall.ENOTDIR
		}
		if name == ".." {
			cur.path, cur.mode = parent(cur.path), modeDir
			continue
		}
		next, e, err := r.step(cur.path, name)
		if err != nil {
			return cur, err
		}
		if e.mode&modeType != modeLink {
			cur.path, cur.mode = next, e.mode
			continue
		}
		cur.hops = append(cur.hops, next)
		if len(cur.hops) > maxLinks {
			return cur, syscall.ELOOP
		}
		if e.target == "" {
			return cur, fs.ErrNotExist
		}
		if len(e.target) >= maxPath {
			return cur, syscall.ENAMETOOLONG
		}
		if e.target[0] == '/' {
			cur.path, cur.mode = "/", modeDir
		}
		rest = append(rest, components(e.target)...)
	}
	return cur, nil
}

// step looks at one name in a physical directory.
func (r *Resolver) step(dir, name string) (string, entry, error) {
	if len(name) > maxPart {
		return "", entry{}, syscall.ENAMETOOLONG
	}
	next := join(dir, name)
	e := r.entry(next)
	return next, e, e.err
}

// in gives where a name in a resolved directory leads, links followed.
func (r *Resolver) in(dir place, name string) (place, error) {
	next, e, err := r.step(dir.path, name)
	if err != nil {
		return place{}, err
	}
	if e.mode&modeType != modeLink {
		return place{path: next, mode: e.mode, hops: dir.hops}, nil
	}
	at, err := r.resolve(next)
	if err == nil && len(dir.hops) > 0 {
		at.hops = slices.Concat(dir.hops, at.hops)
	}
	if len(at.hops) > maxLinks {
		return at, syscall.ELOOP
	}
	return at, err
}

// dangling tells whether a path that does not resolve is a link itself.
func (r *Resolver) dangling(path string) bool {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	dir, err := r.resolve(path[:i+1])
	if err != nil || !dir.dir() {
		return false
	}
	_, e, err := r.step(dir.path, path[i+1:])
	return err == nil && e.mode&modeType == modeLink
}

// components splits a path, last component first: a stack to pop from.
func components(path string) []string {
	parts := strings.Split(path, "/")
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" || s == "." })
	slices.Reverse(parts)
	return parts
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return "/"
	}
	return path[:i]
}
