package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// item is one name of a tree in memory: what the copy holds, and what the
// original looked like when it was copied. About 200 bytes each.
type item struct {
	name     string
	mode     uint32 // type and permissions
	uid, gid uint32
	group    uint32 // hard-link group, set by number
	mount    bool   // stand-in for a mount point
	again    bool   // may have changed unseen since: Settle copies it whatever lstat says
	size     int64
	mtime    int64
	sum      [sha256.Size]byte
	more     *more
	seen     seen
	dir      *dir // of a directory
}

// more is what few files have.
type more struct {
	link   string
	rdev   uint64
	xattrs []xattr // by name
}

type xattr struct{ name, value string }

// seen is what tells a file that was left alone from one that was not.
type seen struct {
	ctime, mtime, size int64
	ino, dev           uint64
	mode               uint32
	nlink              uint32
}

func (s *seen) same(i *jail.Info) bool {
	return s.ctime == i.CtimeNS && s.mtime == i.MtimeNS && s.size == i.Size &&
		s.ino == i.Ino && s.dev == i.Dev && s.mode == i.Mode
}

func newItem(name string, i *jail.Info) *item {
	it := &item{name: name}
	it.look(i)
	return it
}

// look takes over what lstat tells. The name is not touched: others read it
// while a directory is looked at again.
func (it *item) look(i *jail.Info) {
	it.mode, it.uid, it.gid, it.size, it.mtime = i.Mode, i.UID, i.GID, i.Size, i.MtimeNS
	it.seen = seen{i.CtimeNS, i.MtimeNS, i.Size, i.Ino, i.Dev, i.Mode, i.Nlink}
}

// dir is a directory of a tree in memory.
type dir struct {
	parent *dir
	it     *item
	mu     sync.Mutex
	kids   []*item // sorted by name once the directory is complete
	known  bool    // copied before
	depth  int32   // below the root
}

func newDir(parent *dir, it *item) *dir {
	d := &dir{parent: parent, it: it}
	if parent != nil {
		d.depth = parent.depth + 1
	}
	it.dir = d
	return d
}

// path is where the jail sees d, without a slash at its end; the root is "".
func (d *dir) path() string {
	n := 0
	for p := d; p.parent != nil; p = p.parent {
		n += len(p.it.name) + 1
	}
	b := make([]byte, n)
	for p := d; p.parent != nil; p = p.parent {
		n -= len(p.it.name)
		copy(b[n:], p.it.name)
		n--
		b[n] = '/'
	}
	return string(b)
}

func (d *dir) sort() {
	less := func(i, j int) bool { return d.kids[i].name < d.kids[j].name }
	if !sort.SliceIsSorted(d.kids, less) {
		sort.Slice(d.kids, less)
	}
}

// each calls f for every item, parents first, names in byte order. path is good
// only during the call.
func (d *dir) each(f func(depth int, path []byte, it *item) error) error {
	buf := make([]byte, 0, 4096)
	var walk func(d *dir, depth int) error
	walk = func(d *dir, depth int) error {
		for _, it := range d.kids {
			n := len(buf)
			buf = append(append(buf, '/'), it.name...)
			if err := f(depth, buf, it); err != nil {
				return err
			}
			if it.dir != nil {
				if err := walk(it.dir, depth+1); err != nil {
					return err
				}
			}
			buf = buf[:n]
		}
		return nil
	}
	if err := f(0, []byte("/"), d.it); err != nil {
		return err
	}
	return walk(d, 1)
}

type inode struct{ dev, ino uint64 }

// totals are the sums that Meta holds.
type totals struct {
	entries, files int
	bytes          int64
	skipped        []Skipped
}

// number gives the hard-link groups their numbers, in the order of their first
// names, and counts. Names outside of the tree do not count.
func (d *dir) number() totals {
	names := map[inode]int{}
	_ = d.each(func(_ int, _ []byte, it *item) error {
		if it.multi() {
			names[inode{it.seen.dev, it.seen.ino}]++
		}
		return nil
	})
	var t totals
	groups := map[inode]uint32{}
	_ = d.each(func(_ int, path []byte, it *item) error {
		t.entries++
		it.group = 0
		first := true
		if it.multi() {
			key := inode{it.seen.dev, it.seen.ino}
			if names[key] > 1 {
				g, ok := groups[key]
				if !ok {
					g = uint32(len(groups) + 1)
					groups[key] = g
				}
				it.group, first = g, !ok
			}
		}
		if it.mode&unix.S_IFMT == unix.S_IFREG && !it.mount {
			t.files++
			if first {
				t.bytes += it.size
			}
		}
		if it.mount {
			t.skipped = append(t.skipped, Skipped{Path: show(string(path)), Reason: "another file system is mounted there"})
		}
		return nil
	})
	return t
}

func (it *item) multi() bool {
	return it.seen.nlink > 1 && it.mode&unix.S_IFMT != unix.S_IFDIR && !it.mount
}

// write makes a manifest (or, with seen, the notes for Resume) under name in the
// open directory at, and returns its digest. The file is synced if durable.
func (d *dir) write(at int, name string, withSeen, durable bool) (digest string, err error) {
	f, err := sys.Create(at, name, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	buf := make([]byte, 0, 320<<10)
	flush := func() error {
		h.Write(buf)
		err := sys.Write(f, buf)
		buf = buf[:0]
		return err
	}
	err = d.each(func(depth int, path []byte, it *item) error {
		buf = it.appendLine(buf, depth, path, withSeen)
		if len(buf) > 256<<10 {
			return flush()
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if err := flush(); err != nil {
		return "", err
	}
	if durable {
		if err := sys.Fsync(f); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// maxLine bounds a manifest line: a path of 4 KB and attributes of 64 KB each,
// in base64, of which ext4, XFS and btrfs take not many.
const maxLine = 16 << 20

// lines calls f for every line of a manifest, with the depth of its entry.
func lines(r io.Reader, f func(it *item, depth int) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; s.Scan(); n++ {
		it, depth, err := parseLine(bytes.TrimSpace(s.Bytes()))
		if err == nil {
			err = f(it, depth)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return s.Err()
}

// readTree builds the tree that a manifest describes.
func readTree(r io.Reader) (*dir, error) {
	var stack []*dir
	err := lines(r, func(it *item, depth int) error {
		isDir := it.mode&unix.S_IFMT == unix.S_IFDIR
		if depth == 0 && (len(stack) > 0 || !isDir) || depth > len(stack) {
			return errors.New("entry without its directory")
		}
		var parent *dir
		if depth > 0 {
			parent = stack[depth-1]
			if n := len(parent.kids); n > 0 && parent.kids[n-1].name >= it.name {
				return errors.New("entries out of order")
			}
			parent.kids = append(parent.kids, it)
		}
		stack = stack[:depth]
		if isDir {
			d := newDir(parent, it)
			d.known = true
			stack = append(stack, d)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(stack) == 0 {
		return nil, errors.New("it is empty")
	}
	return stack[0], nil
}

// readManifest reads a manifest file whose digest must be the given one; "" is
// not checked.
func readManifest(f *os.File, digest string) (*dir, error) {
	h := sha256.New()
	root, err := readTree(io.TeeReader(f, h))
	if err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(h.Sum(nil)); digest != "" && got != digest {
		return nil, errors.New("its digest is not the one that was sealed")
	}
	return root, nil
}

func join(s []string) string { return strings.Join(s, ", ") }
