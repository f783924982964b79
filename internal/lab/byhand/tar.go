// Package byhand makes archives and packages byte by byte, with every field of
// their headers in the test's hand: also such as no tool would make.
package byhand

import (
	"bytes"
	"fmt"
)

// block is what a tar is made of, tar(5).
const block = 512

// TarMember is one member of a tar. The fields are written as they are, cut to
// their room; an empty one is what a plain file has.
type TarMember struct {
	Name, Link   string
	Type         byte   // '0' where zero
	Mode         string // octal, as MTime, UID, Major and Minor
	Size         string // of the header, where it shall not be that of Data
	MTime        string
	UID          string
	UName        string
	Major, Minor string
	Magic        string // GNU's where empty; "v7" for none
	Prefix       string // ustar's
	Data         string
	Edit         func(header []byte) // before the checksum; may be nil
}

// Tar makes a tar without its end, so that two of them are one.
func Tar(members ...TarMember) []byte {
	var b bytes.Buffer
	for _, m := range members {
		h := make([]byte, block)
		or := func(s, def string) string {
			if s == "" {
				return def
			}
			return s
		}
		copy(h[0:100], m.Name)
		copy(h[100:108], or(m.Mode, "0000644"))
		copy(h[108:116], or(m.UID, "0000000"))
		copy(h[116:124], "0000000")
		copy(h[124:136], or(m.Size, fmt.Sprintf("%011o", len(m.Data))))
		copy(h[136:148], or(m.MTime, "14000000000"))
		h[156] = '0'
		if m.Type != 0 {
			h[156] = m.Type
		}
		copy(h[157:257], m.Link)
		if magic := or(m.Magic, "ustar  \x00"); magic != "v7" {
			copy(h[257:265], magic)
			copy(h[265:297], or(m.UName, "root"))
			copy(h[297:329], "root")
			copy(h[329:337], m.Major)
			copy(h[337:345], m.Minor)
			copy(h[345:500], m.Prefix)
		}
		if m.Edit != nil {
			m.Edit(h)
		}
		Seal(h)
		b.Write(h)
		b.WriteString(m.Data)
		b.Write(make([]byte, -len(m.Data)&(block-1)))
	}
	return b.Bytes()
}

// TarEnd is the end of a tar.
func TarEnd() []byte { return make([]byte, 2*block) }

// WholeTar is a tar with its end.
func WholeTar(members ...TarMember) []byte { return append(Tar(members...), TarEnd()...) }

// Seal writes the checksum of a header of 512 bytes.
func Seal(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// Dir is a directory; its name ends in a slash.
func Dir(name string) TarMember { return TarMember{Name: name, Type: '5', Mode: "0000755"} }

// File is a plain file of mode 0644.
func File(name, data string) TarMember { return TarMember{Name: name, Data: data} }

// Symlink is a symbolic link.
func Symlink(name, to string) TarMember {
	return TarMember{Name: name, Type: '2', Link: to, Mode: "0000777"}
}

// HardLink is another name of an earlier member.
func HardLink(name, to string) TarMember { return TarMember{Name: name, Type: '1', Link: to} }

// Long is the GNU member that gives the next one a long name ('L'), or a long
// link target ('K').
func Long(typ byte, name string) TarMember {
	return TarMember{Name: "././@LongLink", Type: typ, Data: name + "\x00"}
}
