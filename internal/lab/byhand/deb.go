package byhand

import (
	"fmt"
	"strings"
	"testing"
)

// arMagic begins an ar archive, ar(5).
const arMagic = "!<arch>\n"

// ArMember is one member of an ar archive, with its name as it is written.
type ArMember struct {
	Name string
	Data []byte
}

// Part is a member of an ar archive.
func Part[T ~string | ~[]byte](name string, data T) ArMember { return ArMember{name, []byte(data)} }

// Ar makes an ar archive. Without members it is the magic alone.
func Ar(members ...ArMember) []byte {
	b := []byte(arMagic)
	for _, m := range members {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, 1700000000, 0, 0, "100644", len(m.Data))
		b = append(b, m.Data...)
		if len(m.Data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

// Deb is a package of two whole tars, deb(5). ext says how they are compressed,
// which they are already: "", ".gz", ".xz", ".zst".
func Deb(ext string, control, data []byte) []byte {
	return Ar(Part("debian-binary", "2.0\n"), Part("control.tar"+ext, control), Part("data.tar"+ext, data))
}

// ArMembers takes a sound ar archive apart. The data are not copied.
func ArMembers(t testing.TB, archive []byte) []ArMember {
	t.Helper()
	var list []ArMember
	for at := len(arMagic); at < len(archive); {
		var size int
		if _, err := fmt.Sscan(string(archive[at+48:at+58]), &size); err != nil {
			t.Fatalf("cannot take an archive apart: %v", err)
		}
		list = append(list, ArMember{strings.TrimRight(string(archive[at:at+16]), " /"), archive[at+60 : at+60+size]})
		at += 60 + size + size%2
	}
	return list
}
