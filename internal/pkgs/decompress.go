package pkgs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// A Format is a way to compress a stream.
type Format int

const (
	None Format = iota // as it is
	Gzip
	XZ
	Zstd
)

// formats tells all there is to know of each, those that jailup refuses
// included, so that they can be called by their name.
func formats() []struct {
	format Format
	name   string
	ext    string
	magic  string
	taken  bool
} {
	return []struct {
		format Format
		name   string
		ext    string
		magic  string
		taken  bool
	}{
		{Gzip, "gzip", ".gz", "\x1f\x8b", true},
		{XZ, "xz", ".xz", "\xfd7zXZ\x00", true},
		{Zstd, "zstd", ".zst", "\x28\xb5\x2f\xfd", true},
		{-1, "bzip2", ".bz2", "BZh", false},
		{-1, "lzma", ".lzma", "\x5d\x00\x00", false},
		{-1, "lz4", ".lz4", "\x04\x22\x4d\x18", false},
	}
}

// String returns the name of the format: "none", "gzip", "xz" or "zstd".
func (f Format) String() string {
	for _, k := range formats() {
		if k.taken && k.format == f {
			return k.name
		}
	}
	if f == None {
		return "none"
	}
	return "unknown"
}

// DetectFormat tells a stream's format by its file name and its first bytes (six
// are enough). Where head is empty the name alone decides, where the name is
// empty the bytes do; where both are there and disagree, that is an error, as is
// a format that jailup does not read (bzip2, lzma, lz4).
func DetectFormat(name string, head []byte) (Format, error) {
	byName, byMagic := None, None
	for _, k := range formats() {
		named := strings.HasSuffix(name, k.ext)
		begins := len(head) > 0 && bytes.HasPrefix(head, []byte(k.magic))
		if (named || begins) && !k.taken {
			return None, fmt.Errorf("cannot decompress %s: %s is not supported, only gzip, xz and zstd are", subject(name), k.name)
		}
		if named {
			byName = k.format
		}
		if begins {
			byMagic = k.format
		}
	}
	switch {
	case len(head) == 0:
		return byName, nil
	case name != "" && byName != byMagic:
		return None, fmt.Errorf("cannot decompress %s: its name says %v, its content %v", subject(name), byName, byMagic)
	}
	return byMagic, nil
}

func subject(name string) string {
	if name == "" {
		return "the stream"
	}
	return quote(name)
}

// Decompress returns the unpacked stream. Reading it fails where the stream is
// damaged, cut off, followed by anything, or goes over a limit; only a reader
// that reached io.EOF has seen all of it verified. Close releases memory and
// does not close r. One reader holds a dictionary of up to lim.Dictionary bytes,
// so few should be open at a time.
func Decompress(r io.Reader, format Format, lim Limits) (io.ReadCloser, error) {
	lim = lim.withDefaults()
	in := &countingReader{r: r}
	br := bufio.NewReaderSize(in, 64<<10)
	if format != None {
		// The libraries differ in what they make of an empty or a foreign
		// stream; the magic says it at once.
		head, err := br.Peek(6)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("cannot decompress: %w", err)
		}
		if got, err := DetectFormat("", head); err != nil || got != format {
			return nil, fmt.Errorf("cannot decompress: not a stream of %v", format)
		}
	}
	d := &decompressor{in: in, format: format, max: lim.Output, ratio: lim.Ratio}
	var err error
	switch format {
	case None:
		d.src = br
	case Gzip:
		d.src, err = gzip.NewReader(br)
	case XZ:
		d.src, err = newXZ(br, lim.Dictionary, lim.OneStream)
	case Zstd:
		var z *zstd.Decoder
		z, err = zstd.NewReader(br,
			zstd.WithDecoderConcurrency(1), // no goroutines, no read-ahead of blocks
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(max(lim.Dictionary, 1<<10))),
			zstd.WithDecoderMaxMemory(uint64(max(lim.Dictionary, 1<<10))))
		if err == nil {
			d.src, d.close = z, z.Close
		}
	default:
		return nil, fmt.Errorf("cannot decompress: unknown format %d", format)
	}
	if err != nil {
		return nil, d.wrap(err)
	}
	return d, nil
}

// decompressor holds a library's reader to the limits and to one kind of error.
type decompressor struct {
	src    io.Reader
	close  func()
	in     *countingReader
	format Format
	out    int64
	max    int64
	ratio  int64
	err    error
}

func (d *decompressor) Read(p []byte) (n int, err error) {
	if d.err != nil {
		return 0, d.err
	}
	// A decoder that trips over hostile input must not take the run with it.
	defer func() {
		if recover() != nil {
			n, err = 0, d.fail(errors.New("the stream is damaged"))
		}
	}()
	n, err = d.src.Read(p)
	d.out += int64(n)
	if d.out > d.max {
		return 0, d.fail(fmt.Errorf("more than %d bytes come out of it", d.max))
	}
	if d.ratio > 0 && d.out > 1<<20 && d.out/d.ratio > d.in.n {
		return 0, d.fail(fmt.Errorf("it unpacks to more than %d times its size", d.ratio))
	}
	if errors.Is(err, io.EOF) {
		d.err = io.EOF
		return n, io.EOF
	}
	if err != nil {
		return n, d.fail(err)
	}
	return n, nil
}

func (d *decompressor) fail(err error) error {
	d.err = d.wrap(err)
	return d.err
}

func (d *decompressor) wrap(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if d.format == None {
		return fmt.Errorf("cannot read: %w", err)
	}
	return fmt.Errorf("cannot decompress %v: %w", d.format, err)
}

func (d *decompressor) Close() error {
	if d.close != nil {
		d.close()
		d.close = nil
	}
	if d.err == nil {
		d.err = errors.New("cannot decompress: closed")
	}
	d.src = nil
	return nil
}

// countingReader counts what the decoder took.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// xzReader reads one xz stream after another.
//
// The decoder is therootcompany/xz, a port of XZ Embedded. Unpacking a Packages
// index of 50 MB and libc6 it was as fast as or faster than ulikunitz/xz, took
// 8 MB of memory in 23 allocations where that took 34 MB in a million, reads
// the BCJ filters, and it takes a limit for the dictionary that it compares
// before it allocates, which ulikunitz/xz does not: that one allocates whatever
// the header asks for. (mikelolasagasti/xz is the same code under another name.)
//
// It verifies CRC32, CRC64 and SHA-256, and knows streams without any check,
// which we refuse. Streams are stepped through one by one because only so the
// check of each can be seen.
type xzReader struct {
	z   *xz.Reader
	one bool // a second stream is an error
}

func newXZ(r io.Reader, dictionary int64, one bool) (*xzReader, error) {
	// The decoder's own limit is 32 bits and takes 0 for its default.
	z, err := xz.NewReader(&lateEOF{r}, uint32(min(max(dictionary, 1), 1<<32-1)))
	if err != nil {
		return nil, xzError(err)
	}
	return &xzReader{z, one}, checked(z)
}

func (x *xzReader) Read(p []byte) (int, error) {
	x.z.Multistream(false)
	for {
		n, err := x.z.Read(p)
		if err == nil && n == 0 && len(p) > 0 {
			continue
		}
		if !errors.Is(err, io.EOF) || n > 0 {
			if errors.Is(err, io.EOF) {
				err = nil // asked again, it says so again
			}
			return n, xzError(err)
		}
		if err := x.z.Reset(nil); err != nil {
			return 0, xzError(err) // io.EOF: no further stream
		}
		if x.one {
			return 0, errors.New("there is more than one stream in it")
		}
		if err := checked(x.z); err != nil {
			return 0, err
		}
		x.z.Multistream(false)
	}
}

func checked(z *xz.Reader) error {
	if z.CheckType == xz.CheckNone {
		return errors.New("the stream has no integrity check")
	}
	return nil
}

// xzError puts the decoder's errors into plain words.
func xzError(err error) error {
	switch {
	case errors.Is(err, xz.ErrMemlimit):
		return errors.New("the stream asks for a larger dictionary than allowed")
	case errors.Is(err, xz.ErrFormat):
		return errors.New("not an xz stream, or followed by something that is none")
	case errors.Is(err, xz.ErrBuf):
		return io.ErrUnexpectedEOF
	case errors.Is(err, xz.ErrData):
		return errors.New("the stream is damaged")
	}
	return err
}

// lateEOF never returns io.EOF along with data: the decoder would take what it
// has buffered after a stream's end for read, and not look at trailing garbage.
type lateEOF struct{ r io.Reader }

func (l *lateEOF) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
