package pkgs

import (
	"bytes"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab/byhand"
)

// small limits keep the fuzzers from measuring the machine.
func small() Limits {
	return Limits{Output: 1 << 20, Dictionary: 1 << 20, Entries: 100, Control: 1 << 16}
}

// FuzzAr: a whole .deb, in whatever state.
func FuzzAr(f *testing.F) {
	tree := []byhand.TarMember{byhand.Dir("./"), byhand.Dir("./etc/"), byhand.File("./etc/x", "data"), byhand.Symlink("./l", "etc/x")}
	f.Add(debOf(tree...))
	for _, format := range []Format{Gzip, XZ, Zstd} {
		ext := map[Format]string{Gzip: ".gz", XZ: ".xz", Zstd: ".zst"}[format]
		f.Add(byhand.Ar(byhand.Part("debian-binary", "2.0\n"), byhand.Part("control.tar"+ext, pack(f, format, controlTar(byhand.File("conffiles", "/etc/x\n")))),
			byhand.Part("data.tar"+ext, pack(f, format, byhand.WholeTar(tree...))), byhand.Part("_sig", "x")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := readDeb(b, small())
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "cannot read package: "))
			return
		}
		require.NoError(t, d.Match(d.Control()))
		for _, c := range d.Conffiles() {
			require.Equal(t, path.Clean(c), c)
		}
		_ = d.Files(func(_ *Entry, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
	})
}

// FuzzTar: whatever tree is let through can be unpacked, in any order of its
// members, without leaving its root.
func FuzzTar(f *testing.F) {
	f.Add(byhand.WholeTar(byhand.Dir("./"), byhand.Dir("./etc/"), byhand.File("./etc/x", "data"), byhand.Symlink("./l", "etc/x"), byhand.TarMember{Name: "./h", Type: '1', Link: "./etc/x"}))
	f.Add(byhand.WholeTar(byhand.Long('L', "./"+strings.Repeat("long/", 40)), byhand.File("x", "1"), byhand.Long('K', strings.Repeat("up/", 60)), byhand.Symlink("./y", "x")))
	f.Add(byhand.WholeTar(byhand.TarMember{Name: "b", Magic: "ustar\x0000", Prefix: "./a", Data: "x"}, byhand.TarMember{Name: "c", Magic: "v7", MTime: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6"}))
	f.Add(byhand.WholeTar(byhand.File("./a/b", ""), byhand.Symlink("./a", "/etc"), byhand.TarMember{Name: "../x"}, byhand.TarMember{Name: "x", Type: 'x', Data: "11 size=99\n"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The fuzzer cannot guess checksums: they are made right for it.
		b := bytes.Clone(data)
		for at := 0; at+tarBlock <= len(b); at += tarBlock {
			if h := b[at : at+tarBlock]; h[148] != 0 && !zero(h) {
				byhand.Seal(h)
			}
		}
		kinds := map[string]EntryType{}
		entries, contents, err := entriesOf(debWith(b), small())
		for i, e := range entries {
			require.True(t, path.IsAbs(e.Path) && path.Clean(e.Path) == e.Path, e.Path)
			require.LessOrEqual(t, len(e.Path), 1024)
			require.NotContains(t, kinds, e.Path)
			require.NotContains(t, e.Path, "\x00")
			kinds[e.Path] = e.Type
			require.Zero(t, e.Mode&^0o7777)
			require.True(t, e.UID >= 0 && e.GID >= 0 && e.Size >= 0)
			if err == nil {
				require.Len(t, contents[i], int(e.Size))
			}
			if e.Type == TypeHardlink {
				require.Contains(t, []EntryType{TypeRegular, TypeHardlink}, kinds[e.Link])
			}
		}
		for p := range kinds {
			for up := path.Dir(p); ; up = path.Dir(up) {
				if k, ok := kinds[up]; ok && up != p {
					require.Equal(t, TypeDir, k, "%s below %s", p, up)
				}
				if up == "/" {
					break
				}
			}
		}
	})
}
