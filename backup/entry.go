package backup

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Type is the kind of a file, in the words of the manifest.
type Type string

// The types of entries.
const (
	File    Type = "file"
	Dir     Type = "dir"
	Symlink Type = "link"
	FIFO    Type = "fifo"
	Socket  Type = "socket"
	CharDev Type = "char"
	BlkDev  Type = "block"
)

// Entry is one line of a manifest. Paths and link targets are bytes, held in
// strings that need not be UTF-8.
type Entry struct {
	Path     string // as the jail sees it; "/" is the root
	Type     Type
	Mode     uint32 // permission, set-id and sticky bits
	UID, GID uint32
	Size     int64 // of a regular file
	MtimeNS  int64 // since 1970
	// Digest of a regular file: hex SHA-256 of its bytes, or, from PieceFrom
	// bytes on, "p" and the hex SHA-256 of the SHA-256 sums of its PieceSize
	// pieces, so that a sparse terabyte can be digested without reading it.
	Digest   string
	Link     string            // target of a link
	Rdev     uint64            // of a device
	Xattrs   map[string]string // raw values
	Hardlink int               // number of the group of names of one inode; 0: only one name
	Mount    bool              // an empty stand-in for a mount point, whose content is not in the snapshot
}

// Sizes of the digest of large files, in bytes.
const (
	PieceFrom = 256 << 20
	PieceSize = 1 << 20
)

func typeOf(mode uint32) Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return File
	case unix.S_IFDIR:
		return Dir
	case unix.S_IFLNK:
		return Symlink
	case unix.S_IFIFO:
		return FIFO
	case unix.S_IFSOCK:
		return Socket
	case unix.S_IFCHR:
		return CharDev
	}
	return BlkDev
}

var formats = [...]struct {
	t Type
	m uint32
}{
	{File, unix.S_IFREG}, {Dir, unix.S_IFDIR}, {Symlink, unix.S_IFLNK}, {FIFO, unix.S_IFIFO},
	{Socket, unix.S_IFSOCK}, {CharDev, unix.S_IFCHR}, {BlkDev, unix.S_IFBLK},
}

func (t Type) format() (uint32, bool) {
	for _, f := range formats {
		if f.t == t {
			return f.m, true
		}
	}
	return 0, false
}

func (it *item) digest() string {
	if it.mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	if it.size >= PieceFrom {
		return "p" + hex.EncodeToString(it.sum[:])
	}
	return hex.EncodeToString(it.sum[:])
}

func (it *item) entry(path string) Entry {
	e := Entry{
		Path: path, Type: typeOf(it.mode), Mode: it.mode & 0o7777, UID: it.uid, GID: it.gid,
		MtimeNS: it.mtime, Digest: it.digest(), Hardlink: int(it.group), Mount: it.mount,
	}
	if e.Type == File {
		e.Size = it.size
	}
	if m := it.more; m != nil {
		e.Link, e.Rdev = m.link, m.rdev
		for _, x := range m.xattrs {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[x.name] = x.value
		}
	}
	return e
}

// longPath is where a line stops to name the whole path and names only its
// depth and last name: else a hostile tree of 10,000 levels would make a
// manifest of gigabytes.
const longPath = 4096

// appendLine adds the manifest line of an entry that lies at the given depth
// (the root is 0). With seen it also holds what Resume needs.
func (it *item) appendLine(b []byte, depth int, path []byte, seen bool) []byte {
	b = append(b, '{')
	if len(path) < longPath {
		b = appendBytes(b, "path", string(path))
	} else {
		b = append(b, `"depth":`...)
		b = strconv.AppendInt(b, int64(depth), 10)
		b = append(b, ',')
		b = appendBytes(b, "name", it.name)
	}
	t := typeOf(it.mode)
	b = append(b, `,"type":"`...)
	b = append(b, t...)
	b = append(b, `","mode":"`...)
	b = strconv.AppendUint(b, uint64(it.mode&0o7777), 8)
	b = append(b, '"')
	b = appendUint(b, "uid", uint64(it.uid))
	b = appendUint(b, "gid", uint64(it.gid))
	if t == File {
		b = appendInt(b, "size", it.size)
	}
	b = appendInt(b, "mtime_ns", it.mtime)
	if t == File {
		if it.size >= PieceFrom {
			b = append(b, `,"sha256_pieces":"`...)
		} else {
			b = append(b, `,"sha256":"`...)
		}
		b = hex.AppendEncode(b, it.sum[:])
		b = append(b, '"')
	}
	if m := it.more; m != nil {
		if t == Symlink {
			b = append(b, ',')
			b = appendBytes(b, "link", m.link)
		}
		if t == CharDev || t == BlkDev {
			b = append(b, `,"rdev":"`...)
			b = strconv.AppendUint(b, uint64(unix.Major(m.rdev)), 10)
			b = append(b, ':')
			b = strconv.AppendUint(b, uint64(unix.Minor(m.rdev)), 10)
			b = append(b, '"')
		}
		if len(m.xattrs) > 0 {
			b = append(b, `,"xattrs":[`...)
			for i, x := range m.xattrs {
				if i > 0 {
					b = append(b, ',')
				}
				b = append(b, '{')
				b = appendBytes(b, "name", x.name)
				b = append(b, `,"value":"`...)
				b = base64.StdEncoding.AppendEncode(b, []byte(x.value))
				b = append(b, `"}`...)
			}
			b = append(b, ']')
		}
	}
	if it.group != 0 {
		b = appendUint(b, "hardlink", uint64(it.group))
	}
	if it.mount {
		b = append(b, `,"mount":true`...)
	}
	if seen {
		s := &it.seen
		b = append(b, `,"seen":[`...)
		for i, v := range [...]int64{s.ctime, s.mtime, s.size, int64(s.ino), int64(s.dev), int64(s.mode), int64(s.nlink)} {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, v, 10)
		}
		b = append(b, ']')
		if it.again {
			b = append(b, `,"again":true`...)
		}
	}
	return append(b, '}', '\n')
}

func appendUint(b []byte, key string, v uint64) []byte {
	b = append(append(append(b, `,"`...), key...), `":`...)
	return strconv.AppendUint(b, v, 10)
}

func appendInt(b []byte, key string, v int64) []byte {
	b = append(append(append(b, `,"`...), key...), `":`...)
	return strconv.AppendInt(b, v, 10)
}

// appendBytes writes a string that JSON can hold as it is, any other one in
// base64 under the key with _b64 behind.
func appendBytes(b []byte, key, s string) []byte {
	b = append(append(b, '"'), key...)
	plain := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		b = append(b, `":"`...)
		return append(append(b, s...), '"')
	}
	if utf8.ValidString(s) {
		if q, err := json.Marshal(s); err == nil {
			return append(append(b, `":`...), q...)
		}
	}
	b = append(b, `_b64":"`...)
	b = base64.StdEncoding.AppendEncode(b, []byte(s))
	return append(b, '"')
}

type line struct {
	Path    *string   `json:"path"`
	PathB64 []byte    `json:"path_b64"`
	Depth   int       `json:"depth"`
	Name    string    `json:"name"`
	NameB64 []byte    `json:"name_b64"`
	Type    Type      `json:"type"`
	Mode    string    `json:"mode"`
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Size    int64     `json:"size"`
	MtimeNS int64     `json:"mtime_ns"`
	SHA256  string    `json:"sha256"`
	Pieces  string    `json:"sha256_pieces"`
	Link    string    `json:"link"`
	LinkB64 []byte    `json:"link_b64"`
	Rdev    string    `json:"rdev"`
	Xattrs  []lineAtt `json:"xattrs"`
	Group   uint32    `json:"hardlink"`
	Mount   bool      `json:"mount"`
	Seen    []int64   `json:"seen"`
	Again   bool      `json:"again"`
}

type lineAtt struct {
	Name    string `json:"name"`
	NameB64 []byte `json:"name_b64"`
	Value   []byte `json:"value"`
}

func either(s string, b []byte) string {
	if b != nil {
		return string(b)
	}
	return s
}

// parseLine reads one manifest line into an item without its children, and its
// depth.
func parseLine(b []byte) (it *item, depth int, err error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, 0, err
	}
	format, ok := l.Type.format()
	mode, err := strconv.ParseUint(l.Mode, 8, 12)
	if !ok || err != nil {
		return nil, 0, fmt.Errorf("bad type or mode")
	}
	it = &item{
		mode: format | uint32(mode), uid: l.UID, gid: l.GID, size: l.Size, mtime: l.MtimeNS,
		group: l.Group, mount: l.Mount, again: l.Again,
	}
	switch {
	case l.Path != nil || l.PathB64 != nil:
		p := string(l.PathB64)
		if l.Path != nil {
			p = *l.Path
		}
		if p != "/" {
			depth = strings.Count(p, "/")
			it.name = p[strings.LastIndexByte(p, '/')+1:]
		}
	default:
		depth, it.name = l.Depth, either(l.Name, l.NameB64)
	}
	if depth < 0 || l.Size < 0 || depth > 0 && (it.name == "" || it.name == "." || it.name == ".." || strings.IndexByte(it.name, '/') >= 0) {
		return nil, 0, fmt.Errorf("bad name, depth or size")
	}
	if l.Type == File {
		sum := l.SHA256
		if l.Size >= PieceFrom {
			sum = l.Pieces
		}
		if n, err := hex.Decode(it.sum[:], []byte(sum)[:min(len(sum), 64)]); err != nil || n != 32 {
			return nil, 0, fmt.Errorf("bad digest")
		}
	}
	var m more
	if l.Type == Symlink {
		m.link = either(l.Link, l.LinkB64)
	}
	if l.Type != File {
		it.size = 0
	}
	if l.Type == CharDev || l.Type == BlkDev {
		var major, minor uint32
		if _, err := fmt.Sscanf(l.Rdev, "%d:%d", &major, &minor); err != nil {
			return nil, 0, fmt.Errorf("bad device number")
		}
		m.rdev = unix.Mkdev(major, minor)
	}
	for _, x := range l.Xattrs {
		m.xattrs = append(m.xattrs, xattr{either(x.Name, x.NameB64), string(x.Value)})
	}
	if m.link != "" || m.rdev != 0 || m.xattrs != nil || l.Type == CharDev || l.Type == BlkDev {
		it.more = &m
	}
	if s := l.Seen; len(s) == 7 {
		it.seen = seen{ctime: s[0], mtime: s[1], size: s[2], ino: uint64(s[3]), dev: uint64(s[4]), mode: uint32(s[5]), nlink: uint32(s[6])}
	}
	return it, depth, nil
}
