package pkgs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"golang.org/x/sys/unix"
)

// An EntryType tells what a member of a package is.
type EntryType uint8

const (
	TypeRegular EntryType = iota + 1
	TypeDir
	TypeSymlink
	TypeHardlink // another name of a file that came before
	TypeFIFO
	TypeChar
	TypeBlock
)

// String returns a word for the type: "file", "directory" and so on.
func (t EntryType) String() string {
	switch t {
	case TypeRegular:
		return "file"
	case TypeDir:
		return "directory"
	case TypeSymlink:
		return "symlink"
	case TypeHardlink:
		return "hard link"
	case TypeFIFO:
		return "fifo"
	case TypeChar:
		return "character device"
	case TypeBlock:
		return "block device"
	}
	return "unknown"
}

// An Entry is one member of a package's tree.
type Entry struct {
	// Path is clean and absolute, with slashes: "/usr/sbin/nginx"; "/" is the
	// root. It is valid UTF-8, without control characters.
	Path string
	Type EntryType
	// Mode holds the permissions, 07777: set-user-ID and the like are kept as
	// data, and it is for the caller to allow or refuse them.
	Mode         uint32
	UID, GID     int
	Uname, Gname string // as the builder called them; may be empty
	Size         int64  // bytes of content; 0 unless it is a regular file
	MtimeNS      int64  // since 1970, in nanoseconds; may be negative
	// Link is the text of a symbolic link as it stands, wherever that leads,
	// or the clean path of the file that a hard link names.
	Link   string
	Xattrs map[string]string // nil: a .deb cannot hold any
	Rdev   uint64            // of a device, as mknod(2) takes it
}

// Special reports whether the mode has the set-user-ID, set-group-ID or sticky
// bit on something that is no directory, or set-user-ID on one.
func (e *Entry) Special() bool {
	if e.Type == TypeDir {
		return e.Mode&0o4000 != 0
	}
	return e.Mode&0o7000 != 0
}

// A Deb is an open binary package, format 2 (deb(5)). Its methods may be called
// from several goroutines if the ReaderAt allows that.
type Deb struct {
	r         io.ReaderAt
	lim       Limits
	data      arMember
	format    Format
	stanza    Stanza
	files     map[string][]byte
	conffiles []string
	removed   []string
}

// OpenDeb reads the outline of a package of size bytes, and its control part
// whole; its data is looked at by Files alone. r must stay open as long as the
// Deb is used, and must not change: whoever verified a digest keeps the file to
// himself. Nothing of the package is run.
func OpenDeb(r io.ReaderAt, size int64, lim Limits) (*Deb, error) {
	d := &Deb{r: r, lim: lim.withDefaults()}
	if err := d.open(size); err != nil {
		return nil, fmt.Errorf("cannot read package: %w", err)
	}
	return d, nil
}

func (d *Deb) open(size int64) error {
	members, err := readAr(d.r, size)
	if err != nil {
		return err
	}
	if err := d.version(members); err != nil {
		return err
	}
	// Members whose name starts with "_" may stand anywhere behind the first,
	// and readers that do not know them pass over them: signatures do that.
	var parts []arMember
	for _, m := range members[1:] {
		if m.name[0] != '_' {
			parts = append(parts, m)
		}
	}
	if len(parts) != 2 {
		return fmt.Errorf("%d members behind debian-binary, not control.tar and data.tar", len(parts))
	}
	control := parts[0]
	d.data = parts[1]
	format, err := d.tarFormat(control, "control.tar")
	if err != nil {
		return err
	}
	if d.format, err = d.tarFormat(d.data, "data.tar"); err != nil {
		return err
	}
	if err := d.readControl(control, format); err != nil {
		return fmt.Errorf("%s: %w", control.name, err)
	}
	return nil
}

// version checks the first member: "2.0\n", or a later 2.x, which by deb(5)
// stays readable.
func (d *Deb) version(members []arMember) error {
	if len(members) == 0 || members[0].name != "debian-binary" {
		return errors.New("the first member is not debian-binary")
	}
	m := members[0]
	if m.size > 16 {
		return errors.New("debian-binary is too long")
	}
	b := make([]byte, m.size)
	if err := readFullAt(d.r, b, m.offset, m.offset+m.size); err != nil {
		return err
	}
	minor, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), "2.")
	if !ok || minor == "" || strings.Trim(minor, "0123456789") != "" || b[len(b)-1] != '\n' {
		return fmt.Errorf("format %s is not supported, only 2.x is", quote(b))
	}
	return nil
}

// tarFormat tells how a member is compressed, by its name and its content.
func (d *Deb) tarFormat(m arMember, base string) (Format, error) {
	ext, ok := strings.CutPrefix(m.name, base)
	if !ok {
		return None, fmt.Errorf("member %s where %s belongs", quote(m.name), base)
	}
	head := make([]byte, min(m.size, 6))
	if err := readFullAt(d.r, head, m.offset, m.offset+m.size); err != nil {
		return None, err
	}
	format, err := DetectFormat(m.name, head)
	if err != nil {
		return None, err
	}
	if ext != "" && format == None {
		return None, fmt.Errorf("member %s where %s belongs", quote(m.name), base)
	}
	return format, nil
}

// walk calls fn for every member of a tar and reads it to its verified end.
func (d *Deb) walk(m arMember, format Format, lim Limits, fn func(*tarHeader, io.Reader) error) (err error) {
	z, err := Decompress(io.NewSectionReader(d.r, m.offset, m.size), format, lim)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := z.Close(); err == nil {
			err = cerr
		}
	}()
	t := &tarReader{r: bufio.NewReaderSize(z, 64<<10), maxName: lim.Name, maxSize: lim.Output}
	for {
		h, err := t.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c := &content{t}
		err = fn(h, c)
		c.t = nil // whoever kept it must not read the next member by it
		if err != nil {
			return err
		}
	}
}

// content is the content of one member, for as long as that is the current one.
type content struct{ t *tarReader }

func (c *content) Read(p []byte) (int, error) {
	if c.t == nil {
		return 0, errors.New("cannot read package: the member is gone by")
	}
	return c.t.Read(p)
}

// Control returns what the control file tells of the package. Filename, SHA256
// and Size are empty: a package does not know them.
func (d *Deb) Control() Stanza { return d.stanza }

// ControlFiles returns the files of the control part by their names: control,
// md5sums, conffiles, triggers, maintainer scripts. They are data, and may be
// hostile. The map is the caller's, the bytes must not be changed.
func (d *Deb) ControlFiles() map[string][]byte { return maps.Clone(d.files) }

// Conffiles returns the clean absolute paths that the package declares to be
// configuration files and brings along, in their order.
func (d *Deb) Conffiles() []string { return append([]string(nil), d.conffiles...) }

// ObsoleteConffiles returns the paths that the package's conffiles list flags
// remove-on-upgrade: an older version brought them, this one does not.
func (d *Deb) ObsoleteConffiles() []string { return append([]string(nil), d.removed...) }

// Match returns an error unless the package is the one that the stanza of an
// index tells of: its name, version and architecture, to the letter.
func (d *Deb) Match(s Stanza) error {
	for _, c := range []struct{ what, in, want string }{
		{"name", d.stanza.Package, s.Package},
		{"version", d.stanza.Version, s.Version},
		{"architecture", d.stanza.Architecture, s.Architecture},
	} {
		if c.in != c.want {
			return fmt.Errorf("cannot use package %s: its %s is %s inside and %s in the index",
				quote(s.Package), c.what, quote(c.in), quote(c.want))
		}
	}
	return nil
}

// Files calls fn for each member of the package's tree in the order of the
// archive, which need not name a directory before what lies in it. content is
// never nil; it holds the file's bytes while fn runs, and nothing for other
// types. fn need not read it all. The entry is fn's to keep.
//
// What comes late may be refused after fn saw what came before: only a nil
// error tells that the package is sound to its end. An error of fn ends the walk
// and is returned wrapped.
func (d *Deb) Files(fn func(h *Entry, content io.Reader) error) error {
	tree := newLayout(d.lim)
	err := d.walk(d.data, d.format, d.lim, func(h *tarHeader, c io.Reader) error {
		e, err := d.entry(h)
		if err == nil {
			err = tree.add(e.Path, e.Type, e.Link)
		}
		if err != nil {
			return fmt.Errorf("member %s: %w", quote(h.name), err)
		}
		return fn(e, c)
	})
	if err != nil {
		return fmt.Errorf("cannot read package %s: %s: %w", d.stanza.Package, d.data.name, err)
	}
	return nil
}

// entry makes an Entry of a header, or says what is wrong with it.
func (d *Deb) entry(h *tarHeader) (*Entry, error) {
	e := &Entry{
		Mode: uint32(h.mode & 0o7777), UID: int(h.uid), GID: int(h.gid),
		Uname: h.uname, Gname: h.gname, Size: h.size, MtimeNS: h.mtime * 1e9,
	}
	switch h.typ {
	case '0':
		e.Type = TypeRegular
	case '1':
		e.Type = TypeHardlink
	case '2':
		e.Type = TypeSymlink
	case '3':
		e.Type = TypeChar
	case '4':
		e.Type = TypeBlock
	case '5':
		e.Type = TypeDir
	case '6':
		e.Type = TypeFIFO
	}
	var err error
	if e.Path, err = cleanPath(h.name, e.Type == TypeDir, d.lim); err != nil {
		return nil, err
	}
	switch e.Type {
	case TypeChar, TypeBlock, TypeFIFO:
		if !d.lim.Devices {
			return nil, fmt.Errorf("a %v, which is not allowed", e.Type)
		}
		e.Rdev = unix.Mkdev(uint32(h.major), uint32(h.minor))
	case TypeSymlink:
		e.Link = h.link
		if len(e.Link) > d.lim.Name {
			return nil, fmt.Errorf("a link target of %d bytes, more than %d", len(e.Link), d.lim.Name)
		}
		if err := plainText(e.Link); err != nil {
			return nil, fmt.Errorf("link target: %w", err)
		}
	case TypeHardlink:
		if e.Link, err = cleanPath(h.link, false, d.lim); err != nil {
			return nil, fmt.Errorf("hard link to %s: %w", quote(h.link), err)
		}
	}
	for _, s := range []string{e.Uname, e.Gname} {
		if err := plainText(s); err != nil {
			return nil, fmt.Errorf("owner's name: %w", err)
		}
	}
	return e, nil
}
