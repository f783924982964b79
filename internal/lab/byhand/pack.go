package byhand

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	txz "github.com/therootcompany/xz"
	"github.com/ulikunitz/xz"
)

// Pack compresses as the extension says: "", ".gz", ".xz", ".zst".
func Pack(t testing.TB, ext string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return data
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.WriterConfig{DictCap: 1 << 20}.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	default:
		t.Fatalf("no way to compress %s", ext)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatalf("cannot compress as %s: %v", ext, err)
	}
	return b.Bytes()
}

// Unpack is the way back from Pack.
func Unpack(t testing.TB, ext string, data []byte) []byte {
	t.Helper()
	var r io.Reader
	var err error
	switch ext {
	case "":
		return data
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(data))
	case ".xz":
		r, err = txz.NewReader(bytes.NewReader(data), 0)
	case ".zst":
		r, err = zstd.NewReader(bytes.NewReader(data))
	default:
		t.Fatalf("no way to decompress %s", ext)
	}
	var out []byte
	if err == nil {
		out, err = io.ReadAll(r)
	}
	if err != nil {
		t.Fatalf("cannot decompress %s: %v", ext, err)
	}
	return out
}
