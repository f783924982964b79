package pkgs

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// bigIndex makes an index of the size that a Debian release has.
func bigIndex(stanzas int) []byte {
	var b bytes.Buffer
	for i := range stanzas {
		fmt.Fprintf(&b, `Package: package-%d
Source: source-%d (1:%d.2-3)
Version: 1:%d.2-3+b1
Installed-Size: %d
Maintainer: Somebody With a Name <somebody@example.org>
Architecture: amd64
Depends: libc6 (>= 2.34), libssl3 (>= 3.0.0), libpcre2-8-0 (>= 10.22), zlib1g (>= 1:1.1.4), package-%d (= 1:2.2-3+b1)
Recommends: package-common (>= 1.0) | package-other
Description: short words about the package
Multi-Arch: foreign
Homepage: https://example.org/%d
Description-md5: 0123456789abcdef0123456789abcdef
Tag: implemented-in::c, interface::daemon, network::server, protocol::http,
 role::program, use::serving, works-with::file
Section: web
Priority: optional
Filename: pool/main/p/package-%d/package-%d_1.2-3+b1_amd64.deb
Size: %d
MD5sum: 0123456789abcdef0123456789abcdef
SHA256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef

`, i, i, i, i, i, i, i, i, i, i+1)
	}
	return b.Bytes()
}

// BenchmarkIndex reads an index of 63,000 stanzas, each into a Stanza.
func BenchmarkIndex(b *testing.B) {
	index := bigIndex(63_000)
	b.SetBytes(int64(len(index)))
	b.ReportAllocs()
	for b.Loop() {
		all := make([]Stanza, 0, 63_000)
		err := ReadParagraphs(bytes.NewReader(index), Limits{}, func(p Paragraph) error {
			s, err := ParseStanza(p)
			all = append(all, s)
			return err
		})
		require.NoError(b, err)
	}
}

// BenchmarkIndexOnePackage reads the same and asks each stanza for its name.
func BenchmarkIndexOnePackage(b *testing.B) {
	index := bigIndex(63_000)
	b.SetBytes(int64(len(index)))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		err := ReadParagraphs(bytes.NewReader(index), Limits{}, func(p Paragraph) error {
			if p.Has("Package") {
				n++
			}
			return nil
		})
		require.NoError(b, err)
	}
}

func BenchmarkDecompress(b *testing.B) {
	index := bigIndex(20_000)
	for _, format := range []Format{Gzip, XZ, Zstd} {
		packed := pack(b, format, index)
		b.Run(format.String(), func(b *testing.B) {
			b.SetBytes(int64(len(index)))
			b.ReportAllocs()
			for b.Loop() {
				z, err := Decompress(bytes.NewReader(packed), format, Limits{})
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, z)
				require.NoError(b, err)
				require.NoError(b, z.Close())
			}
		})
	}
}

func BenchmarkDebFiles(b *testing.B) {
	for _, path := range realDebs(b) {
		d := openDeb(b, path, Limits{})
		b.Run(d.Control().Package, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, d.Files(func(_ *Entry, r io.Reader) error {
					_, err := io.Copy(io.Discard, r)
					return err
				}))
			}
		})
	}
}

func BenchmarkCompareVersions(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		n, err := CompareVersions("1:1.22.1-9+deb12u11", "1:1.22.1-9+deb12u9")
		require.NoError(b, err)
		require.Equal(b, 1, n)
	}
}
