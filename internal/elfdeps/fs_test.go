package elfdeps

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// osFS is a directory seen as its own root would see it.
type osFS struct{ dir string }

func (o osFS) open(p string, flags uint64) (int, error) {
	root, err := unix.Open(o.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return unix.Openat2(root, p, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

func (o osFS) Open(p string) (File, error) {
	fd, err := o.open(p, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), p)
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	}
	return osFile{f, fi.Size()}, nil
}

type osFile struct {
	*os.File
	size int64
}

func (f osFile) Size() int64 { return f.size }

func (o osFS) Lstat(p string) (uint32, error) {
	fd, err := o.open(p, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Mode, nil
}

func (o osFS) Readlink(p string) (string, error) {
	fd, err := o.open(p, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (o osFS) ReadDir(p string) ([]string, error) {
	fd, err := o.open(p, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	return f.Readdirnames(-1)
}

// memFS is a tree in memory: by physical path either the bytes of a file, or
// "-> target" for a link. Directories come with what is in them.
type memFS struct {
	files map[string][]byte
	links map[string]string
	modes map[string]uint32 // where it is not 0755
	sizes map[string]int64  // where it is not the length: sparse behind it
}

func newMemFS() *memFS {
	return &memFS{map[string][]byte{}, map[string]string{}, map[string]uint32{}, map[string]int64{}}
}

func (m *memFS) file(p string, b []byte) *memFS { m.files[p] = b; return m }
func (m *memFS) link(p, target string) *memFS   { m.links[p] = target; return m }
func (m *memFS) text(p, text string) *memFS     { return m.file(p, []byte(text)) }
func (m *memFS) without(p string) *memFS        { delete(m.files, p); return m }
func (m *memFS) mode(p string, v uint32) *memFS { m.modes[p] = v; return m }

func (m *memFS) isDir(p string) bool {
	if p == "/" {
		return true
	}
	for f := range m.files {
		if strings.HasPrefix(f, p+"/") {
			return true
		}
	}
	for f := range m.links {
		if strings.HasPrefix(f, p+"/") {
			return true
		}
	}
	return false
}

// Lstat and its sisters take physical paths only: the walk is the package's.
func (m *memFS) Lstat(p string) (uint32, error) {
	switch _, ok := m.links[p]; {
	case path.Clean(p) != p:
		return 0, fmt.Errorf("not a physical path: %s", p)
	case ok:
		return modeLink | 0o777, nil
	case m.isDir(p):
		return modeDir | 0o755, nil
	}
	if _, ok := m.files[p]; !ok {
		return 0, fs.ErrNotExist
	}
	if v, ok := m.modes[p]; ok {
		return v, nil
	}
	return modeReg | 0o755, nil
}

func (m *memFS) Readlink(p string) (string, error) { return m.links[p], nil }

func (m *memFS) ReadDir(p string) ([]string, error) {
	var out []string
	prefix := strings.TrimSuffix(p, "/") + "/"
	add := func(f string) {
		if rest, ok := strings.CutPrefix(f, prefix); ok {
			name, _, _ := strings.Cut(rest, "/")
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	for f := range m.files {
		add(f)
	}
	for f := range m.links {
		add(f)
	}
	return out, nil
}

func (m *memFS) Open(p string) (File, error) {
	b, ok := m.files[p]
	if !ok {
		return nil, fs.ErrNotExist
	}
	size := int64(len(b))
	if s, ok := m.sizes[p]; ok {
		size = s
	}
	return &memFile{bytes.NewReader(b), size}, nil
}

type memFile struct {
	r    *bytes.Reader
	size int64
}

// ReadAt gives zeros behind the content, as a sparse file does.
func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.r.ReadAt(p, off)
	if int64(len(p))+off <= f.size {
		clear(p[n:])
		return len(p), nil
	}
	return n, err
}
func (f *memFile) Close() error { return nil }
func (f *memFile) Size() int64  { return f.size }
