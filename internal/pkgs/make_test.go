package pkgs

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// member is one member of a tar that a test makes, with every field of its
// header in the test's hand.
type member struct {
	name, link string
	typ        byte // '0' where zero
	mode       string
	size       string // of the header, where it shall not be that of data
	mtime      string
	uid        string
	major      string
	minor      string
	magic      string // GNU where empty; "v7" for none
	prefix     string
	uname      string
	data       string
	edit       func(header []byte) // before the checksum
}

// tarOf makes a tar without its end.
func tarOf(members ...member) []byte {
	var b bytes.Buffer
	for _, m := range members {
		h := make([]byte, tarBlock)
		or := func(s, def string) string {
			if s == "" {
				return def
			}
			return s
		}
		copy(h[0:100], m.name)
		copy(h[100:108], or(m.mode, "0000644"))
		copy(h[108:116], or(m.uid, "0000000"))
		copy(h[116:124], "0000000")
		copy(h[124:136], or(m.size, fmt.Sprintf("%011o", len(m.data))))
		copy(h[136:148], or(m.mtime, "14000000000"))
		h[156] = '0'
		if m.typ != 0 {
			h[156] = m.typ
		}
		copy(h[157:257], m.link)
		if magic := or(m.magic, "ustar  \x00"); magic != "v7" {
			copy(h[257:265], magic)
			copy(h[265:297], or(m.uname, "root"))
			copy(h[297:329], "root")
			copy(h[329:337], m.major)
			copy(h[337:345], m.minor)
			copy(h[345:500], m.prefix)
		}
		if m.edit != nil {
			m.edit(h)
		}
		seal(h)
		b.Write(h)
		b.WriteString(m.data)
		b.Write(make([]byte, -len(m.data)&(tarBlock-1)))
	}
	return b.Bytes()
}

// seal writes the checksum of a header.
func seal(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func dir(name string) member        { return member{name: name, typ: '5', mode: "0000755"} }
func file(name, data string) member { return member{name: name, data: data} }
func symlink(name, to string) member {
	return member{name: name, typ: '2', link: to, mode: "0000777"}
}

// long is the GNU member that gives the next one a long name, or with 'K' a
// long link target.
func long(typ byte, name string) member {
	return member{name: "././@LongLink", typ: typ, data: name + "\x00"}
}

// ended is a tar with its end.
func ended(members ...member) []byte { return append(tarOf(members...), make([]byte, 2*tarBlock)...) }

// arPart is one member of an ar archive.
type arPart struct{ name, data string }

func arOf(parts ...arPart) []byte {
	b := []byte(arMagic)
	for _, p := range parts {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", p.name, 1700000000, 0, 0, "100644", len(p.data))
		b = append(b, p.data...)
		if len(p.data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

const smallControl = "Package: small\nVersion: 1:2.0-3\nArchitecture: amd64\nDepends: libc6 (>= 2.34)\nInstalled-Size: 12\n"

// controlTar is the control part of a small package, uncompressed.
func controlTar(more ...member) []byte {
	return ended(append([]member{dir("./"), file("./control", smallControl)}, more...)...)
}

// debOf is a small package with the given tree.
func debOf(members ...member) []byte { return debWith(ended(members...)) }

// debWith is a small package with the given data.tar.
func debWith(data []byte) []byte {
	return arOf(arPart{"debian-binary", "2.0\n"}, arPart{"control.tar", string(controlTar())}, arPart{"data.tar", string(data)})
}

func readDeb(b []byte, lim Limits) (*Deb, error) {
	return OpenDeb(bytes.NewReader(b), int64(len(b)), lim)
}

// entriesOf opens a package and walks over it.
func entriesOf(b []byte, lim Limits) (entries []Entry, contents []string, err error) {
	d, err := readDeb(b, lim)
	if err != nil {
		return nil, nil, err
	}
	err = d.Files(func(e *Entry, r io.Reader) error {
		data, err := io.ReadAll(r)
		entries = append(entries, *e)
		contents = append(contents, string(data))
		return err
	})
	return entries, contents, err
}

func pack(t testing.TB, format Format, data []byte) []byte {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case None:
		return data
	case Gzip:
		w = gzip.NewWriter(&b)
	case XZ:
		return xzOf(t, data, xz.CRC64)
	case Zstd:
		w, err = zstd.NewWriter(&b)
	}
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func xzOf(t testing.TB, data []byte, check byte) []byte {
	var b bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: check, NoCheckSum: check == xz.None, DictCap: 1 << 16}.NewWriter(&b)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}
