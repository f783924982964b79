package pkgs

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/lab/byhand"
)

func TestMain(m *testing.M) { lab.Main(m) }

const smallControl = "Package: small\nVersion: 1:2.0-3\nArchitecture: amd64\nDepends: libc6 (>= 2.34)\nInstalled-Size: 12\n"

// controlTar is the control part of a small package, uncompressed.
func controlTar(more ...byhand.TarMember) []byte {
	return byhand.WholeTar(append([]byhand.TarMember{byhand.Dir("./"), byhand.File("./control", smallControl)}, more...)...)
}

// debOf is a small package with the given tree.
func debOf(members ...byhand.TarMember) []byte { return debWith(byhand.WholeTar(members...)) }

// debWith is a small package with the given data.tar.
func debWith(data []byte) []byte {
	return byhand.Deb("", controlTar(), data)
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
	t.Helper()
	return byhand.Pack(t, map[Format]string{None: "", Gzip: ".gz", XZ: ".xz", Zstd: ".zst"}[format], data)
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
