//go:build faultpoints

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab/byhand"
)

// A debMaker makes hostile packages out of the newest real nginx: what an attack
// does not change is that one's.
type debMaker struct {
	t     testing.TB
	parts []byhand.ArMember // debian-binary, control.tar, data.tar; both tars uncompressed, without their ends
}

// newDeb takes the shop's nginx apart.
func newDeb(m *mirror) *debMaker {
	m.t.Helper()
	m.s.apart.Do(func() {
		for _, p := range byhand.ArMembers(m.t, m.s.debs[m.s.nginx]) {
			if base, ext, ok := strings.Cut(p.Name, ".tar"); ok {
				data := bytes.TrimRight(byhand.Unpack(m.t, ext, p.Data), "\x00")
				p = byhand.Part(base+".tar", append(data, make([]byte, -len(data)&511)...))
			}
			m.s.parts = append(m.s.parts, p)
		}
	})
	require.Len(m.t, m.s.parts, 3)
	return &debMaker{t: m.t, parts: append([]byhand.ArMember{}, m.s.parts...)}
}

func (d *debMaker) bytes() []byte {
	parts := append([]byhand.ArMember{}, d.parts...)
	for i := range parts {
		if strings.HasSuffix(parts[i].Name, ".tar") {
			parts[i].Data = append(bytes.Clone(parts[i].Data), byhand.TarEnd()...)
		}
	}
	return byhand.Ar(parts...)
}

// data adds members to the tree.
func (d *debMaker) data(members ...byhand.TarMember) *debMaker {
	d.parts[2].Data = append(bytes.Clone(d.parts[2].Data), byhand.Tar(members...)...)
	return d
}

// first puts members before the tree.
func (d *debMaker) first(members ...byhand.TarMember) *debMaker {
	d.parts[2].Data = append(byhand.Tar(members...), d.parts[2].Data...)
	return d
}

// more adds members to the control part.
func (d *debMaker) more(members ...byhand.TarMember) *debMaker {
	d.parts[1].Data = append(bytes.Clone(d.parts[1].Data), byhand.Tar(members...)...)
	return d
}

// control changes the control file.
func (d *debMaker) control(change func(string) string) *debMaker {
	tar := d.parts[1].Data
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
			d.parts[1].Data = bytes.Join([][]byte{tar[:at], byhand.Tar(byhand.TarMember{Name: "./control", Data: now}), tar[next:]}, nil)
			return d
		}
		at = next
	}
	d.t.Fatal("the package has no control file")
	return d
}

// pack compresses a part and gives it its name.
func (d *debMaker) pack(i int, ext string, make func([]byte) []byte) *debMaker {
	d.parts[i].Data = make(append(bytes.Clone(d.parts[i].Data), byhand.TarEnd()...))
	d.parts[i].Name += ext
	return d
}

// debFouls: the package is the one that was signed, and hostile inside.
func debFouls(*shop) []foul {
	made := func(make func(d *debMaker) []byte) func(*mirror) {
		return func(m *mirror) { m.put(m.s.nginx, make(newDeb(m))) }
	}
	data := func(members ...byhand.TarMember) func(*mirror) {
		return made(func(d *debMaker) []byte { return d.data(members...).bytes() })
	}
	first := func(members ...byhand.TarMember) func(*mirror) {
		return made(func(d *debMaker) []byte { return d.first(members...).bytes() })
	}
	more := func(members ...byhand.TarMember) func(*mirror) {
		return made(func(d *debMaker) []byte { return d.more(members...).bytes() })
	}
	sparse := func(h []byte) { h[482] = 1; copy(h[386:398], "00000000000\x00") }
	list := []foul{
		{name: "nothing wrong inside", set: made(func(d *debMaker) []byte { return d.bytes() }), exit: took},

		{name: "ar: no ar", set: made(func(*debMaker) []byte { return []byte("!<arch>\nnot really\n") }), says: "not the package"},
		{name: "ar: empty", set: made(func(*debMaker) []byte { return []byte("!<arch>\n") })},
		{name: "ar: no data", set: made(func(d *debMaker) []byte { return byhand.Ar(d.parts[0], d.parts[1]) })},
		{name: "ar: no control", set: made(func(d *debMaker) []byte { return byhand.Ar(d.parts[0], d.parts[2]) })},
		{name: "ar: no version", set: made(func(d *debMaker) []byte { return byhand.Ar(d.parts[1], d.parts[2]) })},
		{name: "ar: another version", set: made(func(d *debMaker) []byte { d.parts[0].Data = []byte("3.0\n"); return d.bytes() })},
		{name: "ar: data before control", set: made(func(d *debMaker) []byte { d.parts[1], d.parts[2] = d.parts[2], d.parts[1]; return d.bytes() })},
		{name: "ar: control twice", set: made(func(d *debMaker) []byte { d.parts = append(d.parts, d.parts[1]); return d.bytes() })},
		{name: "ar: data twice, packed otherwise", set: made(func(d *debMaker) []byte {
			d.parts = append(d.parts, byhand.Part("data.tar.gz", gzBomb(bytes.NewReader(d.parts[2].Data))))
			return d.bytes()
		})},
		{name: "ar: one member more", set: made(func(d *debMaker) []byte {
			d.parts = append(d.parts, byhand.Part("extra", []byte("x")))
			return d.bytes()
		})},
		{name: "ar: a member with a path", set: made(func(d *debMaker) []byte {
			d.parts = append(d.parts, byhand.Part("../../etc/x", []byte("x")))
			return d.bytes()
		})},
		{name: "ar: a thousand members", set: made(func(d *debMaker) []byte {
			for i := range 1000 {
				d.parts = append(d.parts, byhand.Part(fmt.Sprintf("_x%d", i), []byte("x")))
			}
			return d.bytes()
		})},
		{name: "ar: a size past the end", set: made(func(d *debMaker) []byte {
			b := d.bytes()
			copy(b[8+48:], "9999999999")
			return b
		})},
		{name: "ar: a tail", set: made(func(d *debMaker) []byte { return append(d.bytes(), "tail"...) })},
		{name: "ar: a name in the long table", set: made(func(d *debMaker) []byte { d.parts[2].Name = "/0"; return d.bytes() })},

		{name: "control: no control file", set: made(func(d *debMaker) []byte { d.parts[1].Data = byhand.Tar(byhand.File("./md5sums", "")); return d.bytes() })},
		{name: "control: control twice", set: more(byhand.File("./control", "Package: evil\n"))},
		{name: "control: a file outside", set: more(byhand.File("../../etc/cron.d/evil", "x"))},
		{name: "control: a link", set: more(byhand.Symlink("./postinst", "/bin/sh"))},
		{name: "control: a device", set: more(byhand.TarMember{Name: "./dev", Type: '3', Major: "0000001", Minor: "0000003"})},
		{name: "control: a folder with a file", set: more(byhand.Dir("./sub/"), byhand.File("./sub/x", ""))},
		{name: "control: a file of 64 MB", set: made(func(d *debMaker) []byte {
			d.parts[1].Data = append(bytes.Clone(d.parts[1].Data), byhand.Tar(byhand.File("./big", strings.Repeat("x", 64<<20)))...)
			return d.pack(1, ".gz", func(b []byte) []byte { return gzBomb(bytes.NewReader(b)) }).bytes()
		})},
		{name: "control: ten thousand files", set: made(func(d *debMaker) []byte {
			for i := range 10_000 {
				d.parts[1].Data = append(d.parts[1].Data, byhand.Tar(byhand.File(fmt.Sprintf("./f%d", i), ""))...)
			}
			return d.pack(1, ".gz", func(b []byte) []byte { return gzBomb(bytes.NewReader(b)) }).bytes()
		})},
		{name: "control: a bomb", set: made(func(d *debMaker) []byte {
			return d.pack(1, ".gz", func(b []byte) []byte { return gzBomb(io.MultiReader(bytes.NewReader(b[:len(b)-1024]), zeros(1<<30))) }).bytes()
		})},
		{name: "control: conffiles outside", set: more(byhand.File("./conffiles", "/../../etc/passwd\n"))},
		{name: "control: two paragraphs", set: made(func(d *debMaker) []byte {
			return d.control(func(c string) string { return c + "\n\nPackage: evil\n" }).bytes()
		})},
		{name: "control: a field twice", set: made(func(d *debMaker) []byte {
			return d.control(func(c string) string { return c + "Package: evil\n" }).bytes()
		})},
		{name: "control: escapes in a version", set: made(func(d *debMaker) []byte {
			return d.control(func(c string) string { return strings.Replace(c, "Version: ", "Version: \x1b[31m", 1) }).bytes()
		})},

		{name: "tar: up and out", set: data(byhand.File("../outside", "x"))},
		{name: "tar: up and out of a folder", set: data(byhand.File("./usr/../../outside", "x"))},
		{name: "tar: absolute", set: data(byhand.File("/etc/outside", "x"))},
		{name: "tar: dots in the middle", set: data(byhand.File("./usr/./x", "x"))},
		{name: "tar: two slashes", set: data(byhand.File("./usr//x", "x"))},
		{name: "tar: no name", set: data(byhand.File("", "x"))},
		{name: "tar: through a link planted before", set: data(byhand.Symlink("./usr/share/evil", "/etc"), byhand.File("./usr/share/evil/cron.d", "x"))},
		{name: "tar: through a relative link planted before", set: data(byhand.Symlink("./usr/share/evil", "../../../../../../../etc"), byhand.File("./usr/share/evil/cron.d", "x"))},
		{name: "tar: a link planted after", set: data(byhand.File("./usr/share/evil/cron.d", "x"), byhand.Symlink("./usr/share/evil", "/etc"))},
		{name: "tar: a link, then a folder of the same name", set: data(byhand.Symlink("./usr/share/evil", "/etc"), byhand.Dir("./usr/share/evil/"))},
		{name: "tar: the same name twice", set: data(byhand.File("./usr/share/evil", "a"), byhand.File("./usr/share/evil", "b"))},
		{name: "tar: the same name twice, otherwise written", set: data(byhand.File("./usr/share/evil", "a"), byhand.File("usr/share/evil", "b"))},
		{name: "tar: the server twice", set: data(byhand.File("./usr/sbin/nginx", "evil"))},
		{name: "tar: the server first as a link", set: first(byhand.Dir("./"), byhand.Dir("./usr/"), byhand.Dir("./usr/sbin/"), byhand.Symlink("./usr/sbin/nginx", "/bin/true"))},
		{name: "tar: a folder's name twice as a file", set: data(byhand.File("./usr", "x"))},
		{name: "tar: hard link out", set: data(byhand.HardLink("./usr/share/evil", "../../etc/shadow"))},
		{name: "tar: hard link, absolute", set: data(byhand.HardLink("./usr/share/evil", "/etc/shadow"))},
		{name: "tar: hard link to nothing", set: data(byhand.HardLink("./usr/share/evil", "./usr/share/none"))},
		{name: "tar: hard link to itself", set: data(byhand.HardLink("./usr/share/evil", "./usr/share/evil"))},
		{name: "tar: hard link through a link", set: data(byhand.Symlink("./usr/share/e", "/etc"), byhand.HardLink("./usr/share/evil", "./usr/share/e/shadow"))},
		{name: "tar: character device", set: data(byhand.TarMember{Name: "./dev/mem", Type: '3', Major: "0000001", Minor: "0000001"})},
		{name: "tar: block device", set: data(byhand.TarMember{Name: "./dev/sda", Type: '4', Major: "0000010", Minor: "0000000"})},
		{name: "tar: FIFO", set: data(byhand.TarMember{Name: "./usr/share/fifo", Type: '6'})},
		{name: "tar: PAX path", set: data(byhand.TarMember{Name: "./x", Type: 'x', Data: "20 path=/etc/passwd\n"}, byhand.File("./usr/share/evil", "x")), says: "PAX"},
		{name: "tar: PAX size against the header", set: data(byhand.TarMember{Name: "./x", Type: 'x', Data: "11 size=99\n"}, byhand.File("./usr/share/evil", "abc")), says: "PAX"},
		{name: "tar: PAX for all", set: first(byhand.TarMember{Name: "./x", Type: 'g', Data: "20 path=/etc/passwd\n"}), says: "PAX"},
		{name: "tar: sparse", set: data(byhand.TarMember{Name: "./usr/share/evil", Type: 'S', Data: "x", Edit: sparse}), says: "sparse"},
		{name: "tar: a sparse map in a file", set: data(byhand.TarMember{Name: "./usr/share/evil", Data: "x", Edit: sparse}), says: "sparse"},
		{name: "tar: another volume", set: data(byhand.TarMember{Name: "./usr/share/evil", Type: 'M', Data: "x"})},
		{name: "tar: an unknown type", set: data(byhand.TarMember{Name: "./usr/share/evil", Type: 'Q'})},
		{name: "tar: ustar's prefix leads out", set: data(byhand.TarMember{Name: "passwd", Prefix: "../../etc", Magic: "ustar\x0000", Data: "x"})},
		{name: "tar: a long name leads out", set: data(byhand.Long('L', "./usr/../../../etc/"+strings.Repeat("x", 120)), byhand.File("./usr/share/evil", "x"))},
		{name: "tar: a long name twice", set: data(byhand.Long('L', "./a"), byhand.Long('L', "./b"), byhand.File("./usr/share/evil", "x"))},
		{name: "tar: a long name and no member", set: data(byhand.Long('L', "./a"))},
		{name: "tar: a name of 4 KB", set: data(byhand.Long('L', "./usr/share/"+strings.Repeat("n", 4096)), byhand.File("./usr/share/evil", "x"))},
		{name: "tar: a path of 4 KB", set: data(byhand.Long('L', "./usr/share/"+strings.Repeat("n/", 2048)+"x"), byhand.File("./usr/share/evil", "x"))},
		{name: "tar: a name of 300 bytes", set: data(byhand.Long('L', "./usr/share/"+strings.Repeat("n", 300)), byhand.File("./usr/share/evil", "x"))},
		{name: "tar: a name with a newline", set: data(byhand.File("./usr/share/evil\nname", "x"))},
		{name: "tar: a name with escapes", set: data(byhand.File("./usr/share/\x1b]0;evil\x07", "x"))},
		{name: "tar: a name with C1 controls", set: data(byhand.File("./usr/share/\u009b31m", "x"))},
		{name: "tar: a name that is no UTF-8", set: data(byhand.File("./usr/share/\xff\xfe", "x"))},
		{name: "tar: a NUL in a name", set: data(byhand.File("./usr/share/evil\x00more", "x"))},
		{name: "tar: a link to 4 KB", set: data(byhand.Long('K', strings.Repeat("../", 1400)+"etc"), byhand.Symlink("./usr/share/evil", "x"))},
		{name: "tar: a million members", set: made(func(d *debMaker) []byte {
			one := byhand.Tar(byhand.File("./usr/share/x", ""))
			return d.pack(2, ".gz", func([]byte) []byte {
				return gzBomb(io.MultiReader(bytes.NewReader(d.parts[2].Data), bytes.NewReader(one), &numbered{n: 1_000_000}, bytes.NewReader(byhand.TarEnd())))
			}).bytes()
		})},
		{name: "tar: a file of a terabyte", set: data(byhand.TarMember{Name: "./usr/share/evil", Size: "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00", Data: "x"})},
		{name: "tar: a size below zero", set: data(byhand.TarMember{Name: "./usr/share/evil", Size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6", Data: "x"})},
		{name: "tar: an owner of minus one", set: data(byhand.TarMember{Name: "./usr/share/evil", UID: "\xff\xff\xff\xff\xff\xff\xff\xff", Data: "x"})},
		{name: "tar: a wrong checksum", set: made(func(d *debMaker) []byte {
			one := byhand.Tar(byhand.File("./usr/share/evil", "x"))
			one[0] ^= 1
			d.parts[2].Data = append(bytes.Clone(d.parts[2].Data), one...)
			return d.bytes()
		})},
		{name: "tar: no end", set: made(func(d *debMaker) []byte {
			return byhand.Ar(d.parts[0], byhand.Part("control.tar", append(bytes.Clone(d.parts[1].Data), byhand.TarEnd()...)), d.parts[2])
		})},
		{name: "tar: members behind the end", set: made(func(d *debMaker) []byte {
			d.parts[2].Data = bytes.Join([][]byte{d.parts[2].Data, byhand.TarEnd(), byhand.Tar(byhand.File("./usr/share/evil", "x"))}, nil)
			return d.bytes()
		})},
		{name: "tar: cut off", set: made(func(d *debMaker) []byte {
			return byhand.Ar(d.parts[0], byhand.Part("control.tar", append(bytes.Clone(d.parts[1].Data), byhand.TarEnd()...)), byhand.Part("data.tar", d.parts[2].Data[:len(d.parts[2].Data)/2]))
		})},

		{name: "data: gzip bomb", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".gz", func(b []byte) []byte { return gzBomb(io.MultiReader(bytes.NewReader(b), zeros(4<<30))) }).bytes()
		})},
		{name: "data: gzip bomb in a file", set: made(func(d *debMaker) []byte {
			return d.pack(2, ".gz", func([]byte) []byte {
				h := byhand.Tar(byhand.TarMember{Name: "./usr/share/evil", Size: fmt.Sprintf("%011o", int64(4)<<30)})
				return gzBomb(io.MultiReader(bytes.NewReader(d.parts[2].Data), bytes.NewReader(h), zeros(4<<30), bytes.NewReader(byhand.TarEnd())))
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
		{name: "data: bzip2", set: made(func(d *debMaker) []byte { d.parts[2].Name += ".bz2"; return d.bytes() })},
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
		s.buf = byhand.Tar(byhand.File(fmt.Sprintf("./usr/share/m/%d", s.n), ""))
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

// mode gives a file of the tree another mode.
func (d *debMaker) mode(path, mode string) *debMaker {
	tar := bytes.Clone(d.parts[2].Data)
	d.parts[2].Data = tar
	for at := 0; at+512 <= len(tar); {
		h := tar[at : at+512]
		var size int
		_, err := fmt.Sscanf(strings.Trim(string(h[124:136]), " \x00"), "%o", &size)
		require.NoError(d.t, err)
		if strings.TrimRight(string(h[:100]), "\x00") == path {
			copy(h[100:108], mode)
			byhand.Seal(h)
			return d
		}
		at += 512 + (size+511)/512*512
	}
	d.t.Fatalf("the package has no %s", path)
	return d
}
