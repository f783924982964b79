package lab

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TreeDigest describes every entry of a tree, the root as ".", by all that
// must come back after an undo: type, mode, owner, size, SHA-256, mtime in
// nanoseconds, extended attributes (ACLs are among them), target of a link,
// device number, and which names are one file. Change and birth time, inode
// numbers, and the size of a folder are not in it.
//
// ignore are globs in the manner of path.Match over the path below dir; what
// one matches is left out with everything below it, and "DIR/**" means all in
// DIR. The folder in which something is ignored loses its mtime: it goes with
// what comes and goes in it.
//
// No file but regular ones is opened, and no link is followed. Keys hold the
// raw bytes of names.
func TreeDigest(t testing.TB, dir string, ignore ...string) map[string]string {
	t.Helper()
	w := walker{ignore: ignore, lines: map[string]string{}, groups: map[[2]uint64][]string{}}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("cannot read the tree %s: %v", dir, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if err := w.entry(fd, "", ".", &st); err != nil {
		t.Fatalf("cannot read the tree %s: %v", dir, err)
	}
	if err := w.folder(fd, "."); err != nil {
		t.Fatalf("cannot read the tree %s: %v", dir, err)
	}
	for _, names := range w.groups {
		if len(names) > 1 {
			slices.Sort(names)
			for _, n := range names {
				w.lines[n] += fmt.Sprintf(" same-as=%q", names[0])
			}
		}
	}
	return w.lines
}

type walker struct {
	ignore []string
	lines  map[string]string
	groups map[[2]uint64][]string
}

func (w *walker) folder(fd int, at string) error {
	// A descriptor of its own: the position in a folder belongs to it.
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(own), at)
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		p := path.Join(at, name)
		if w.ignored(p) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
		if err := w.entry(fd, name, p, &st); err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
		err = w.folder(sub, p)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) ignored(p string) bool {
	return slices.ContainsFunc(w.ignore, func(g string) bool { return matches(g, p) })
}

func (w *walker) losesTime(p string) bool {
	return slices.ContainsFunc(w.ignore, func(g string) bool {
		g = strings.TrimPrefix(g, "/")
		ok, _ := path.Match(path.Dir(g), p)
		return ok
	})
}

func matches(glob, p string) bool {
	glob = strings.TrimPrefix(glob, "/")
	if parent, all := strings.CutSuffix(glob, "/**"); all {
		ok, _ := path.Match(parent, path.Dir(p))
		return ok
	}
	ok, _ := path.Match(glob, p)
	return ok
}

// entry describes one name of the folder fd; the empty name is fd itself.
func (w *walker) entry(fd int, name, p string, st *unix.Stat_t) error {
	var b strings.Builder
	kind := st.Mode & unix.S_IFMT
	fmt.Fprintf(&b, "type=%s mode=%04o owner=%d:%d", typeName(kind), st.Mode&0o7777, st.Uid, st.Gid)
	if kind != unix.S_IFDIR || !w.losesTime(p) {
		fmt.Fprintf(&b, " mtime=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	switch kind {
	case unix.S_IFREG:
		sum, err := hashFile(fd, name, st)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, " size=%d sha256=%s", st.Size, sum)
	case unix.S_IFLNK:
		target := make([]byte, 8192)
		n, err := unix.Readlinkat(fd, name, target)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, " target=%q", target[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		rdev := uint64(st.Rdev)
		fmt.Fprintf(&b, " rdev=%d:%d", unix.Major(rdev), unix.Minor(rdev))
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		w.groups[key] = append(w.groups[key], p)
	}
	attrs, err := xattrs("/proc/self/fd/" + strconv.Itoa(fd) + "/" + name)
	if err != nil {
		return err
	}
	b.WriteString(attrs)
	w.lines[p] = b.String()
	return nil
}

func typeName(kind uint32) string {
	switch kind {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "link"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "unknown"
}

func xattrs(file string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, buf)
	if err == unix.ENOTSUP || err == unix.EPERM {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(file, name, buf)
		if err != nil {
			return "", fmt.Errorf("attribute %s: %w", name, err)
		}
		fmt.Fprintf(&b, " xattr:%s=%x", name, buf[:n])
	}
	return b.String(), nil
}

// sparseFrom is the size from which only the blocks that are not all zero are
// hashed: a tree may hold a file of a terabyte with nothing in it.
const sparseFrom = 1 << 30

func hashFile(fd int, name string, st *unix.Stat_t) (string, error) {
	n, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(n), name)
	defer f.Close()
	h := sha256.New()
	if st.Size < sparseFrom {
		if _, err := io.Copy(h, f); err != nil {
			return "", err
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	block := make([]byte, 4096)
	zero := make([]byte, len(block))
	for off := int64(0); ; {
		data, err := unix.Seek(n, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return "sparse-" + hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
		off = data &^ int64(len(block)-1)
		got, err := f.ReadAt(block, off)
		if err != nil && err != io.EOF {
			return "", err
		}
		if !slices.Equal(block[:got], zero[:got]) {
			_ = binary.Write(h, binary.BigEndian, off)
			h.Write(block[:got])
		}
		off += int64(len(block))
	}
}

// DiffTrees lists what differs between two results of TreeDigest, sorted by
// path, one line each; nothing differs if it is empty. Paths are quoted.
func DiffTrees(a, b map[string]string) []string {
	var names []string
	for p := range a {
		names = append(names, p)
	}
	for p := range b {
		if _, both := a[p]; !both {
			names = append(names, p)
		}
	}
	slices.Sort(names)
	var diff []string
	for _, p := range names {
		was, inA := a[p]
		is, inB := b[p]
		switch {
		case !inB:
			diff = append(diff, fmt.Sprintf("gone: %q (%s)", p, was))
		case !inA:
			diff = append(diff, fmt.Sprintf("new: %q (%s)", p, is))
		case was != is:
			diff = append(diff, fmt.Sprintf("changed: %q %s", p, fieldDiff(was, is)))
		}
	}
	return diff
}

// fieldDiff names only the fields that changed.
func fieldDiff(was, is string) string {
	a, b := strings.Split(was, " "), strings.Split(is, " ")
	var d []string
	for _, f := range a {
		if !slices.Contains(b, f) {
			d = append(d, "-"+f)
		}
	}
	for _, f := range b {
		if !slices.Contains(a, f) {
			d = append(d, "+"+f)
		}
	}
	return strings.Join(d, " ")
}
