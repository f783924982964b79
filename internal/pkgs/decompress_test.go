package pkgs

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/jailup/jailup/internal/lab"
)

func unpack(b []byte, format Format, lim Limits) ([]byte, error) {
	return unpackFrom(bytes.NewReader(b), format, lim)
}

func unpackFrom(r io.Reader, format Format, lim Limits) ([]byte, error) {
	z, err := Decompress(r, format, lim)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

// sample is text that packs, with noise that does not, over several blocks.
func sample(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		if r.IntN(4) == 0 {
			b = binary.LittleEndian.AppendUint64(b, r.Uint64())
		} else {
			b = append(b, "Package: nginx\n"...)
		}
	}
	return b[:n]
}

func TestDetectFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, head string
		want       Format
		err        string
	}{
		{"Packages", "", None, ""},
		{"Packages.gz", "", Gzip, ""},
		{"Packages.xz", "\xfd7zXZ\x00", XZ, ""},
		{"data.tar.zst", "\x28\xb5\x2f\xfd\x00\x00", Zstd, ""},
		{"", "\x1f\x8b\x08\x00\x00\x00", Gzip, ""},
		{"", "Package: ", None, ""},
		{"", "", None, ""},
		{"Packages.gz", "Packag", None, "says gzip, its content none"},
		{"Packages", "\xfd7zXZ\x00", None, "says none, its content xz"},
		{"Packages.xz", "<html>", None, "says xz, its content none"},
		{"Packages.bz2", "", None, "bzip2 is not supported"},
		{"Packages.lzma", "", None, "lzma is not supported"},
		{"Packages.lz4", "", None, "lz4 is not supported"},
		{"", "BZh91A", None, "bzip2 is not supported"},
		{"Packages.xz", "BZh91A", None, "bzip2 is not supported"},
		{"x\x1b[31m.gz", "Packag", None, `\x1b`},
	} {
		got, err := DetectFormat(c.name, []byte(c.head))
		if c.err == "" {
			require.NoError(t, err)
			require.Equal(t, c.want, got, c.name)
			continue
		}
		require.ErrorContains(t, err, c.err)
	}
	require.Equal(t, "none gzip xz zstd unknown", strings.Join([]string{None.String(), Gzip.String(), XZ.String(), Zstd.String(), Format(9).String()}, " "))
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	data := sample(3 << 20)
	for _, format := range []Format{None, Gzip, XZ, Zstd} {
		packed := pack(t, format, data)
		for name, r := range map[string]io.Reader{
			"plain": bytes.NewReader(packed), "half": iotest.HalfReader(bytes.NewReader(packed)),
			"error with data": iotest.DataErrReader(bytes.NewReader(packed)),
		} {
			got, err := unpackFrom(r, format, Limits{})
			require.NoError(t, err, "%v %s", format, name)
			require.True(t, bytes.Equal(data, got), "%v %s", format, name)
		}
		got, err := unpackFrom(iotest.OneByteReader(bytes.NewReader(pack(t, format, data[:5000]))), format, Limits{})
		require.NoError(t, err)
		require.True(t, bytes.Equal(data[:5000], got))

		// An empty content is one, an empty stream is none.
		got, err = unpack(pack(t, format, nil), format, Limits{})
		if format != Zstd { // its writer writes nothing at all for nothing
			require.NoError(t, err, format)
			require.Empty(t, got)
		}
		_, err = unpack(nil, format, Limits{})
		require.Equal(t, format == None, err == nil)

		// To the byte, and one less.
		_, err = unpack(packed, format, Limits{Output: int64(len(data))})
		require.NoError(t, err)
		_, err = unpack(packed, format, Limits{Output: int64(len(data)) - 1})
		require.ErrorContains(t, err, "more than 3145727 bytes")

		// The wrong format, an error from below, a closed reader.
		if format != None {
			_, err = unpack([]byte("<html>login</html>"), format, Limits{})
			require.ErrorContains(t, err, "not a stream of "+format.String())
		}
		_, err = unpackFrom(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(packed))), format, Limits{})
		require.ErrorIs(t, err, iotest.ErrTimeout)
		z, err := Decompress(bytes.NewReader(packed), format, Limits{})
		require.NoError(t, err)
		require.NoError(t, z.Close())
		require.NoError(t, z.Close())
		_, err = z.Read(make([]byte, 1))
		require.ErrorContains(t, err, "closed")
	}
	_, err := Decompress(strings.NewReader("x"), Format(7), Limits{})
	require.Error(t, err)
}

// Whatever follows a stream is refused, also where the last bytes come together
// with io.EOF.
func TestTrailingGarbage(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{Gzip, XZ, Zstd} {
		packed := pack(t, format, []byte("content"))
		for _, tail := range []string{"x", "\n", "garbage", "\x00\x00\x00\x00garbage", strings.Repeat("g", 100_000), "\xfd7zXZ", "\x1f\x8b", "\x28\xb5"} {
			b := append(bytes.Clone(packed), tail...)
			_, err := unpack(b, format, Limits{})
			require.Error(t, err, "%v and %.10q", format, tail)
			_, err = unpackFrom(iotest.DataErrReader(bytes.NewReader(b)), format, Limits{})
			require.Error(t, err, "%v and %.10q, with EOF", format, tail)
		}
		// Several streams are one content.
		got, err := unpack(append(bytes.Clone(packed), packed...), format, Limits{})
		require.NoError(t, err)
		require.Equal(t, "contentcontent", string(got))
	}
	// xz has padding in fours.
	packed := pack(t, XZ, []byte("content"))
	_, err := unpack(append(bytes.Clone(packed), 0, 0, 0, 0), XZ, Limits{})
	require.NoError(t, err)
	got, err := unpack(append(append(bytes.Clone(packed), make([]byte, 8)...), packed...), XZ, Limits{})
	require.NoError(t, err)
	require.Equal(t, "contentcontent", string(got))
	_, err = unpack(append(bytes.Clone(packed), 0, 0, 0), XZ, Limits{})
	require.Error(t, err)
}

// A flipped bit is found, or it is one that means nothing (the first byte of a
// range coder, a time in a gzip header) and what comes out is right.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	data := []byte(strings.Repeat("0123456789", 30))
	packed := map[string][]byte{"gzip": pack(t, Gzip, data), "zstd": pack(t, Zstd, data)}
	for name, check := range map[string]byte{"crc32": xz.CRC32, "crc64": xz.CRC64, "sha256": xz.SHA256} {
		packed[name] = xzOf(t, data, check)
	}
	for name, whole := range packed {
		format := map[string]Format{"gzip": Gzip, "zstd": Zstd}[name]
		if format == None {
			format = XZ
		}
		harmless := 0
		for i := range whole {
			for bit := range 8 {
				b := bytes.Clone(whole)
				b[i] ^= 1 << bit
				if got, err := unpack(b, format, Limits{}); err == nil {
					require.Equal(t, data, got, "%s: byte %d bit %d", name, i, bit)
					harmless++
				}
			}
		}
		if format == XZ {
			require.LessOrEqual(t, harmless, 8, name)
		}
	}
}

// withDictionary writes a dictionary size (as its LZMA2 property) into the block
// header of an xz file.
func withDictionary(b []byte, property byte) []byte {
	b = bytes.Clone(b)
	h := b[12:]
	n := (int(h[0]) + 1) * 4
	// Filter flags: ID 0x21, one byte of properties.
	at := bytes.Index(h[:n], []byte{0x21, 1})
	h[at+2] = property
	binary.LittleEndian.PutUint32(h[n-4:], crc32.ChecksumIEEE(h[:n-4]))
	return b
}

// allocated tells how many bytes fn asked for, all in all.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

func TestDictionaryIsRefusedBeforeItIsAllocated(t *testing.T) {
	data := sample(100_000)
	packed := pack(t, XZ, data)
	for property, size := range map[byte]int64{28: 64 << 20, 29: 96 << 20, 36: 1 << 30, 39: 3 << 30, 40: 4<<30 - 1} {
		b := withDictionary(packed, property)
		var err error
		got := allocated(func() { _, err = unpack(b, XZ, Limits{}) })
		if size <= 64<<20 {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, "larger dictionary than allowed")
		require.Less(t, got, int64(2<<20), "dictionary of %d", size)
	}
	_, err := unpack(withDictionary(packed, 41), XZ, Limits{})
	require.Error(t, err)
	_, err = unpack(withDictionary(packed, 10), XZ, Limits{Dictionary: 1})
	require.ErrorContains(t, err, "dictionary")
	// In the second stream as well.
	_, err = unpack(append(bytes.Clone(packed), withDictionary(packed, 36)...), XZ, Limits{})
	require.ErrorContains(t, err, "dictionary")

	var z bytes.Buffer
	w, err := zstd.NewWriter(&z, zstd.WithWindowSize(256<<20), zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Flush()) // or the window shrinks to what was written
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	got := allocated(func() { _, err = unpack(z.Bytes(), Zstd, Limits{}) })
	require.ErrorIs(t, err, zstd.ErrWindowSizeExceeded)
	require.Less(t, got, int64(4<<20))
}

func TestXZWithoutCheckIsRefused(t *testing.T) {
	t.Parallel()
	none := xzOf(t, []byte("content"), xz.None)
	_, err := unpack(none, XZ, Limits{})
	require.ErrorContains(t, err, "no integrity check")
	// Not between checked ones either.
	good := xzOf(t, []byte("content"), xz.CRC32)
	_, err = unpack(append(append(bytes.Clone(good), none...), good...), XZ, Limits{})
	require.ErrorContains(t, err, "no integrity check")
	// A check that nobody knows.
	odd := bytes.Clone(good)
	odd[7] = 2
	binary.LittleEndian.PutUint32(odd[8:], crc32.ChecksumIEEE(odd[6:8]))
	_, err = unpack(odd, XZ, Limits{})
	require.Error(t, err)
}

func TestBombs(t *testing.T) {
	for _, format := range []Format{Gzip, XZ, Zstd} {
		bomb := pack(t, format, make([]byte, 16<<20))
		require.Less(t, len(bomb), 100_000)
		var err error
		var n int64
		got := allocated(func() {
			var z io.ReadCloser
			z, err = Decompress(bytes.NewReader(bomb), format, Limits{Output: 8 << 20})
			require.NoError(t, err)
			n, err = io.Copy(io.Discard, z)
			z.Close()
		})
		require.ErrorContains(t, err, "more than 8388608 bytes")
		require.LessOrEqual(t, n, int64(8<<20))
		require.Less(t, got, int64(24<<20), format)
		_, err = unpack(bomb, format, Limits{Ratio: 50})
		require.ErrorContains(t, err, "more than 50 times")
		_, err = unpack(bomb, format, Limits{Ratio: 1 << 20})
		require.NoError(t, err)
	}
}

// What the programs of the distribution write, with all their filters and
// levels, must be readable.
func TestForeignWriters(t *testing.T) {
	t.Parallel()
	data := sample(1 << 20)
	for _, c := range []struct {
		format Format
		argv   []string
	}{
		{Gzip, []string{"gzip", "-9"}},
		{XZ, []string{"xz", "-0"}},
		{XZ, []string{"xz", "-6", "-T2", "--block-size=100000"}},
		{XZ, []string{"xz", "-9e"}},
		{XZ, []string{"xz", "--check=crc32"}},
		{XZ, []string{"xz", "--check=sha256"}},
		{XZ, []string{"xz", "--x86", "--lzma2"}},
		{XZ, []string{"xz", "--arm", "--lzma2"}},
		{XZ, []string{"xz", "--delta=dist=4", "--lzma2"}},
		{Zstd, []string{"zstd", "-19"}},
		{Zstd, []string{"zstd", "--ultra", "-22"}},
		{Zstd, []string{"zstd", "-1", "--no-check"}},
	} {
		t.Run(strings.Join(c.argv, " "), func(t *testing.T) {
			t.Parallel()
			lab.Need(t, c.argv[0])
			cmd := exec.Command(c.argv[0], append(c.argv[1:], "-c")...)
			cmd.Stdin = bytes.NewReader(data)
			packed, err := cmd.Output()
			require.NoError(t, err)
			lim := Limits{}
			if c.argv[len(c.argv)-1] == "-22" {
				lim.Dictionary = 128 << 20 // the window of that level
			}
			got, err := unpack(packed, c.format, lim)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
		})
	}
}
