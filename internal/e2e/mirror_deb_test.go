//go:build faultpoints

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	txz "github.com/therootcompany/xz"
)

// A debMaker makes hostile packages out of the newest real nginx: what an attack
// does not change is that one's.
type debMaker struct {
	t     testing.TB
	parts []arPart // debian-binary, control.tar, data.tar; both tars uncompressed, without their ends
}

type arPart struct {
	name string
	data []byte
}

// newDeb takes the shop's nginx apart.
func newDeb(m *mirror) *debMaker {
	m.t.Helper()
	m.s.apart.Do(func() {
		for _, p := range arParts(m.t, m.s.debs[m.s.nginx]) {
			if base, ext, ok := strings.Cut(p.name, ".tar"); ok {
				data := bytes.TrimRight(unpacked(m.t, ext, p.data), "\x00")
				p = arPart{base + ".tar", append(data, make([]byte, -len(data)&511)...)}
			}
			m.s.parts = append(m.s.parts, p)
		}
	})
	require.Len(m.t, m.s.parts, 3)
	return &debMaker{t: m.t, parts: append([]arPart{}, m.s.parts...)}
}

func unpacked(t testing.TB, ext string, data []byte) []byte {
	var r io.Reader
	var err error
	switch ext {
	case ".xz":
		r, err = txz.NewReader(bytes.NewReader(data), 0)
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(data))
	case ".zst":
		r, err = zstd.NewReader(bytes.NewReader(data))
	default:
		return data
	}
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return out
}

func arParts(t testing.TB, deb []byte) (parts []arPart) {
	for at := 8; at < len(deb); {
		var size int
		_, err := fmt.Sscan(string(deb[at+48:at+58]), &size)
		require.NoError(t, err)
		parts = append(parts, arPart{strings.TrimRight(string(deb[at:at+16]), " /"), deb[at+60 : at+60+size]})
		at += 60 + size + size%2
	}
	return parts
}

func arOf(parts ...arPart) []byte {
	b := []byte("!<arch>\n")
	for _, p := range parts {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", p.name, 1700000000, 0, 0, "100644", len(p.data))
		b = append(b, p.data...)
		if len(p.data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

var tarEnd = make([]byte, 1024)

func (d *debMaker) bytes() []byte {
	parts := append([]arPart{}, d.parts...)
	for i := range parts {
		if strings.HasSuffix(parts[i].name, ".tar") {
			parts[i].data = append(bytes.Clone(parts[i].data), tarEnd...)
		}
	}
	return arOf(parts...)
}

// data adds members to the tree.
func (d *debMaker) data(members ...tarMember) *debMaker {
	d.parts[2].data = append(bytes.Clone(d.parts[2].data), tarOf(members...)...)
	return d
}

// first puts members before the tree.
func (d *debMaker) first(members ...tarMember) *debMaker {
	d.parts[2].data = append(tarOf(members...), d.parts[2].data...)
	return d
}

// more adds members to the control part.
func (d *debMaker) more(members ...tarMember) *debMaker {
	d.parts[1].data = append(bytes.Clone(d.parts[1].data), tarOf(members...)...)
	return d
}

// control changes the control file.
func (d *debMaker) control(change func(string) string) *debMaker {
	tar := d.parts[1].data
	for at := 0; at+512 <= len(tar); {
		h := tar[at : at+512]
		var size int
		_, err := fmt.Sscanf(strings.Trim(string(h[124:136]), " \x00"), "%o", &size)
		require.NoError(d.t, err)
		next := at + 512 + (size+511)/512*512
		if name := strings.TrimRight(string(h[:100]), "\x00"); strings.TrimPrefix(name, "./") == "control" {
			text := string(tar[at+512 : at+512+size])
			now := change(text)
			require.NotEqual(d.t, text, now)
			d.parts[1].data = bytes.Join([][]byte{tar[:at], tarOf(tarMember{name: "./control", data: now}), tar[next:]}, nil)
			return d
		}
		at = next
	}
	d.t.Fatal("the package has no control file")
	return d
}

// pack compresses a part and gives it its name.
func (d *debMaker) pack(i int, ext string, make func([]byte) []byte) *debMaker {
	d.parts[i].data = make(append(bytes.Clone(d.parts[i].data), tarEnd...))
	d.parts[i].name += ext
	return d
}

// tarMember is one member, with every field of its header in the test's hand.
type tarMember struct {
	name, link   string
	typ          byte // '0' where zero
	mode         string
	size         string // of the header, where it shall not be that of data
	uid, uname   string
	major, minor string
	magic        string // GNU where empty
	prefix       string
	data         string
	edit         func(header []byte)
}

func tarOf(members ...tarMember) []byte {
	var b bytes.Buffer
	for _, m := range members {
		h := make([]byte, 512)
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
		copy(h[136:148], "14000000000")
		h[156] = '0'
		if m.typ != 0 {
			h[156] = m.typ
		}
		copy(h[157:257], m.link)
		copy(h[257:265], or(m.magic, "ustar  \x00"))
		copy(h[265:297], or(m.uname, "root"))
		copy(h[297:329], "root")
		copy(h[329:337], m.major)
		copy(h[337:345], m.minor)
		copy(h[345:500], m.prefix)
		if m.edit != nil {
			m.edit(h)
		}
		copy(h[148:156], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h)
		b.WriteString(m.data)
		b.Write(make([]byte, -len(m.data)&511))
	}
	return b.Bytes()
}

func tarDir(name string) tarMember { return tarMember{name: name, typ: '5', mode: "0000755"} }
func tarLink(name, to string) tarMember {
	return tarMember{name: name, typ: '2', link: to, mode: "0000777"}
}
func tarHard(name, to string) tarMember   { return tarMember{name: name, typ: '1', link: to} }
func tarFile(name, data string) tarMember { return tarMember{name: name, data: data} }
func tarLong(typ byte, s string) tarMember {
	return tarMember{name: "././@LongLink", typ: typ, data: s + "\x00"}
}

// debFouls: the package is the one that was signed, and hostile inside.
func debFouls(*shop) []foul {
	made := func(make func(d *debMaker) []byte) func(*mirror) {
		return func(m *mirror) { m.put(m.s.nginx, make(newDeb(m))) }
	}
	data := func(members ...tarMember) func(*mirror) {
		return made(func(d *debMaker) []byte { return d.data(members...).bytes() })
	}
	first := func(members ...tarMember) func(*mirror) {
		return made(func(d *debMaker) []byte { return d.first(members...).bytes() })
	}
	more := func(members ...tarMember) func(*mirror) {
		return made(func(d *debMaker) []byte { return d.more(members...).bytes() })
	}
	sparse := func(h []byte) { h[482] = 1; copy(h[386:398], "00000000000\x00") }
	list := []foul{
		{name: "nothing wrong inside", set: made(func(d *debMaker) []byte { return d.bytes() }), exit: took},

		{name: "ar: no ar", set: made(func(*debMaker) []byte { return []byte("!<arch>\nnot really\n") }), says: "not the package"},
		{name: "ar: empty", set: made(func(*debMaker) []byte { return []byte("!<arch>\n") })},
		{name: "ar: no data", set: made(func(d *debMaker) []byte { return arOf(d.parts[0], d.parts[1]) })},
		{name: "ar: no control", set: made(func(d *debMaker) []byte { return arOf(d.parts[0], d.parts[2]) })},
		{name: "ar: no version", set: made(func(d *debMaker) []byte { return arOf(d.parts[1], d.parts[2]) })},
		{name: "ar: another version", set: made(func(d *debMaker) []byte { d.parts[0].data = []byte("3.0\n"); return d.bytes() })},
		{name: "ar: data before control", set: made(func(d *debMaker) []byte { d.parts[1], d.parts[2] = d.parts[2], d.parts[1]; return d.bytes() })},
		{name: "ar: control twice", set: made(func(d *debMaker) []byte { d.parts = append(d.parts, d.parts[1]); return d.bytes() })},
		{name: "ar: data twice, packed otherwise", set: made(func(d *debMaker) []byte {
			d.parts = append(d.parts, arPart{"data.tar.gz", gzBomb(bytes.NewReader(d.parts[2].data))})
			return d.bytes()
		})},
		{name: "ar: one member more", set: made(func(d *debMaker) []byte { d.parts = append(d.parts, arPart{"extra", []byte("x")}); return d.bytes() })},
		{name: "ar: a member with a path", set: made(func(d *debMaker) []byte {
			d.parts = append(d.parts, arPart{"../../etc/x", []byte("x")})
			return d.bytes()
		})},
		{name: "ar: a thousand members", set: made(func(d *debMaker) []byte {
			for i := range 1000 {
				d.parts = append(d.parts, arPart{fmt.Sprintf("_x%d", i), []byte("x")})
			}
			return d.bytes()
		})},
		{name: "ar: a size past the end", set: made(func(d *debMaker) []byte {
			b := d.bytes()
			copy(b[8+48:], "9999999999")
			return b
		})},
		{name: "ar: a tail", set: made(func(d *debMaker) []byte { return append(d.bytes(), "tail"...) })},
		{name: "ar: a name in the long table", set: made(func(d *debMaker) []byte { d.parts[2].name = "/0"; return d.bytes() })},

		{name: "control: no control file", set: made(func(d *debMaker) []byte { d.parts[1].data = tarOf(tarFile("./md5sums", "")); return d.bytes() })},
		{name: "control: control twice", set: more(tarFile("./control", "Package: evil\n"))},
		{name: "control: a file outside", set: more(tarFile("../../etc/cron.d/evil", "x"))},
		{name: "control: a link", set: more(tarLink("./postinst", "/bin/sh"))},
		{name: "control: a device", set: more(tarMember{name: "./dev", typ: '3', major: "0000001", minor: "0000003"})},
		{name: "control: a folder with a file", set: more(tarDir("./sub/"), tarFile("./sub/x", ""))},
		{name: "control: a file of 64 MB", set: made(func(d *debMaker) []byte {
			d.parts[1].data = append(bytes.Clone(d.parts[1].data), tarOf(tarFile("./big", strings.Repeat("x", 64<<20)))...)
			return d.pack(1, ".gz", func(b []byte) []byte { return gzBomb(bytes.NewReader(b)) }).bytes()
		})},
		{name: "control: ten thousand files", set: made(func(d *debMaker) []byte {
			for i := range 10_000 {
				d.parts[1].data = append(d.parts[1].data, tarOf(tarFile(fmt.Sprintf("./f%d", i), ""))...)
			}
			return d.pack(1, ".gz", func(b []byte) []byte { return gzBomb(bytes.NewReader(b)) }).bytes()
		})},
		{name: "control: a bomb", set: made(func(d *debMaker) []byte {
			return d.pack(1, ".gz", func(b []byte) []byte { return gzBomb(io.MultiReader(bytes.NewReader(b[:len(b)-1024]), zeros(1<<30))) }).bytes()
		})},
		{name: "control: conffiles outside", set: more(tarFile("./conffiles", "/../../etc/passwd\n"))},
		{name: "control: two paragraphs", set: made(func(d *debMaker) []byte {
			return d.control(func(c string) string { return c + "\n\nPackage: evil\n" }).bytes()
		})},
		{name: "control: a field twice", set: made(func(d *debMaker) []byte {
			return d.control(func(c string) string { return c + "Package: evil\n" }).bytes()
		})},
		{name: "control: escapes in a version", set: made(func(d *debMaker) []byte {
			return d.control(func(c string) string { return strings.Replace(c, "Version: ", "Version: \x1b[31m", 1) }).bytes()
		})},

		{name: "tar: up and out", set: data(tarFile("../outside", "x"))},
		{name: "tar: up and out of a folder", set: data(tarFile("./usr/../../outside", "x"))},
		{name: "tar: absolute", set: data(tarFile("/etc/outside", "x"))},
		{name: "tar: dots in the middle", set: data(tarFile("./usr/./x", "x"))},
		{name: "tar: two slashes", set: data(tarFile("./usr//x", "x"))},
		{name: "tar: no name", set: data(tarFile("", "x"))},
		{name: "tar: through a link planted before", set: data(tarLink("./usr/share/evil", "/etc"), tarFile("./usr/share/evil/cron.d", "x"))},
		{name: "tar: through a relative link planted before", set: data(tarLink("./usr/share/evil", "../../../../../../../etc"), tarFile("./usr/share/evil/cron.d", "x"))},
		{name: "tar: a link planted after", set: data(tarFile("./usr/share/evil/cron.d", "x"), tarLink("./usr/share/evil", "/etc"))},
		{name: "tar: a link, then a folder of the same name", set: data(tarLink("./usr/share/evil", "/etc"), tarDir("./usr/share/evil/"))},
		{name: "tar: the same name twice", set: data(tarFile("./usr/share/evil", "a"), tarFile("./usr/share/evil", "b"))},
		{name: "tar: the same name twice, otherwise written", set: data(tarFile("./usr/share/evil", "a"), tarFile("usr/share/evil", "b"))},
		{name: "tar: the server twice", set: data(tarFile("./usr/sbin/nginx", "evil"))},
		{name: "tar: the server first as a link", set: first(tarDir("./"), tarDir("./usr/"), tarDir("./usr/sbin/"), tarLink("./usr/sbin/nginx", "/bin/true"))},
		{name: "tar: a folder's name twice as a file", set: data(tarFile("./usr", "x"))},
		{name: "tar: hard link out", set: data(tarHard("./usr/share/evil", "../../etc/shadow"))},
		{name: "tar: hard link, absolute", set: data(tarHard("./usr/share/evil", "/etc/shadow"))},
		{name: "tar: hard link to nothing", set: data(tarHard("./usr/share/evil", "./usr/share/none"))},
		{name: "tar: hard link to itself", set: data(tarHard("./usr/share/evil", "./usr/share/evil"))},
		{name: "tar: hard link through a link", set: data(tarLink("./usr/share/e", "/etc"), tarHard("./usr/share/evil", "./usr/share/e/shadow"))},
		{name: "tar: character device", set: data(tarMember{name: "./dev/mem", typ: '3', major: "0000001", minor: "0000001"})},
		{name: "tar: block device", set: data(tarMember{name: "./dev/sda", typ: '4', major: "0000010", minor: "0000000"})},
		{name: "tar: FIFO", set: data(tarMember{name: "./usr/share/fifo", typ: '6'})},
		{name: "tar: PAX path", set: data(tarMember{name: "./x", typ: 'x', data: "20 path=/etc/passwd\n"}, tarFile("./usr/share/evil", "x")), says: "PAX"},
		{name: "tar: PAX size against the header", set: data(tarMember{name: "./x", typ: 'x', data: "11 size=99\n"}, tarFile("./usr/share/evil", "abc")), says: "PAX"},
		{name: "tar: PAX for all", set: first(tarMember{name: "./x", typ: 'g', data: "20 path=/etc/passwd\n"}), says: "PAX"},
		{name: "tar: sparse", set: data(tarMember{name: "./usr/share/evil", typ: 'S', data: "x", edit: sparse}), says: "sparse"},
		{name: "tar: a sparse map in a file", set: data(tarMember{name: "./usr/share/evil", data: "x", edit: sparse}), says: "sparse"},
		{name: "tar: another volume", set: data(tarMember{name: "./usr/share/evil", typ: 'M', data: "x"})},
		{name: "tar: an unknown type", set: data(tarMember{name: "./usr/share/evil", typ: 'Q'})},
		{name: "tar: ustar's prefix leads out", set: data(tarMember{name: "passwd", prefix: "../../etc", magic: "ustar\x0000", data: "x"})},
		{name: "tar: a long name leads out", set: data(tarLong('L', "./usr/../../../etc/"+strings.Repeat("x", 120)), tarFile("./usr/share/evil", "x"))},
		{name: "tar: a long name twice", set: data(tarLong('L', "./a"), tarLong('L', "./b"), tarFile("./usr/share/evil", "x"))},
		{name: "tar: a long name and no member", set: data(tarLong('L', "./a"))},
		{name: "tar: a name of 4 KB", set: data(tarLong('L', "./usr/share/"+strings.Repeat("n", 4096)), tarFile("./usr/share/evil", "x"))},
		{name: "tar: a path of 4 KB", set: data(tarLong('L', "./usr/share/"+strings.Repeat("n/", 2048)+"x"), tarFile("./usr/share/evil", "x"))},
		{name: "tar: a name of 300 bytes", set: data(tarLong('L', "./usr/share/"+strings.Repeat("n", 300)), tarFile("./usr/share/evil", "x"))},
		{name: "tar: a name with a newline", set: data(tarFile("./usr/share/evil\nname", "x"))},
		{name: "tar: a name with escapes", set: data(tarFile("./usr/share/\x1b]0;evil\x07", "x"))},
		{name: "tar: a name with C1 controls", set: data(tarFile("./usr/share/\u009b31m", "x"))},
		{name: "tar: a name that is no UTF-8", set: data(tarFile("./usr/share/\xff\xfe", "x"))},
		{name: "tar: a NUL in a name", set: data(tarFile("./usr/share/evil\x00more", "x"))},
		{name: "tar: a link to 4 KB", set: data(tarLong('K', strings.Repeat("../", 1400)+"etc"), tarLink("./usr/share/evil", "x"))},
		{name: "tar: a million members", set: made(func(d *debMaker) []byte {
			one := tarOf(tarFile("./usr/share/x", ""))
			return d.pack(2, ".gz", func([]byte) []byte {
				return gzBomb(io.MultiReader(bytes.NewReader(d.parts[2].data), bytes.NewReader(one), &numbered{n: 1_000_000}, bytes.NewReader(tarEnd)))
			}).bytes()
		})},
		{name: "tar: a file of a terabyte", set: data(tarMember{name: "./usr/share/evil", size: "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00", data: "x"})},
		{name: "tar: a size below zero", set: data(tarMember{name: "./usr/share/evil", size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6", data: "x"})},
		{name: "tar: an owner of minus one", set: data(tarMember{name: "./usr/share/evil", uid: "\xff\xff\xff\xff\xff\xff\xff\xff", data: "x"})},
		{name: "tar: a wrong checksum", set: made(func(d *debMaker) []byte {
			one := tarOf(tarFile("./usr/share/evil", "x"))
			one[0] ^= 1
			d.parts[2].data = append(bytes.Clone(d.parts[2].data), one...)
			return d.bytes()
		})},
		{name: "tar: no end", set: made(func(d *debMaker) []byte {
			return arOf(d.parts[0], arPart{"control.tar", append(bytes.Clone(d.parts[1].data), tarEnd...)}, d.parts[2])
		})},
		{name: "tar: members behind the end", set: made(func(d *debMaker) []byte {
			d.parts[2].data = bytes.Join([][]byte{d.parts[2].data, tarEnd, tarOf(tarFile("./usr/share/evil", "x"))}, nil)
			return d.bytes()
		})},
		{name: "tar: cut off", set: made(func(d *debMaker) []byte {
			return arOf(d.parts[0], arPart{"control.tar", append(bytes.Clone(d.parts[1].data), tarEnd...)}, arPart{"data.tar", d.parts[2].data[:len(d.parts[2].data)/2]})
		})},

		{name: "data: gzip bomb", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".gz", func(b []byte) []byte { return gzBomb(io.MultiReader(bytes.NewReader(b), zeros(4<<30))) }).bytes()
		})},
		{name: "data: gzip bomb in a file", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".gz", func([]byte) []byte {
				h := tarOf(tarMember{name: "./usr/share/evil", size: fmt.Sprintf("%011o", int64(4)<<30)})
				return gzBomb(io.MultiReader(bytes.NewReader(d.parts[2].data), bytes.NewReader(h), zeros(4<<30), bytes.NewReader(tarEnd)))
			}).bytes()
		})},
		{name: "data: xz bomb", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".xz", func(b []byte) []byte { return xzBomb(io.MultiReader(bytes.NewReader(b), zeros(1280<<20))) }).bytes()
		})},
		{name: "data: zstd bomb", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".zst", func(b []byte) []byte { return zstBomb(io.MultiReader(bytes.NewReader(b), zeros(4<<30))) }).bytes()
		})},
		{name: "data: xz dictionary of 1 GiB", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".xz", func(b []byte) []byte { return xzDictionary(xzBomb(bytes.NewReader(b)), 36) }).bytes()
		}), says: "dictionary"},
		{name: "control: xz dictionary of 1 GiB", set: made(func(d *debMaker) []byte {
			return d.pack(1, ".xz", func(b []byte) []byte { return xzDictionary(xzBomb(bytes.NewReader(b)), 36) }).bytes()
		}), says: "dictionary"},
		{name: "data: zstd window of 2 GiB", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".zst", func([]byte) []byte { return zstWindow(31) }).bytes()
		})},
		{name: "control: zstd window of 2 GiB", set: made(func(d *debMaker) []byte {
			return d.pack(1, ".zst", func([]byte) []byte { return zstWindow(31) }).bytes()
		})},
		{name: "data: packed otherwise than it is called", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".xz", func(b []byte) []byte { return gzBomb(bytes.NewReader(b)) }).bytes()
		})},
		{name: "data: a tail behind the stream", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".xz", func(b []byte) []byte { return append(xzBomb(bytes.NewReader(b)), "tail"...) }).bytes()
		})},
		{name: "data: xz without a check's proof", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".xz", func(b []byte) []byte {
				x := xzBomb(bytes.NewReader(b))
				x[len(x)/2] ^= 1
				return x
			}).bytes()
		})},
		{name: "data: bzip2", set: made(func(d *debMaker) []byte { d.parts[2].name += ".bz2"; return d.bytes() })},
	}
	for i := range list {
		list[i].deb, list[i].warm = true, true
	}
	return list
}

// numbered is a tar of n empty files, each with a name of its own.
type numbered struct {
	n   int
	buf []byte
}

func (s *numbered) Read(p []byte) (int, error) {
	if len(s.buf) == 0 {
		if s.n == 0 {
			return 0, io.EOF
		}
		s.n--
		s.buf = tarOf(tarFile(fmt.Sprintf("./usr/share/m/%d", s.n), ""))
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

// mode gives a file of the tree another mode.
func (d *debMaker) mode(path, mode string) *debMaker {
	tar := bytes.Clone(d.parts[2].data)
	d.parts[2].data = tar
	for at := 0; at+512 <= len(tar); {
		h := tar[at : at+512]
		var size int
		_, err := fmt.Sscanf(strings.Trim(string(h[124:136]), " \x00"), "%o", &size)
		require.NoError(d.t, err)
		if strings.TrimRight(string(h[:100]), "\x00") == path {
			copy(h[100:108], mode)
			sum := 0
			copy(h[148:156], "        ")
			for _, c := range h {
				sum += int(c)
			}
			copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
			return d
		}
		at += 512 + (size+511)/512*512
	}
	d.t.Fatalf("the package has no %s", path)
	return d
}
