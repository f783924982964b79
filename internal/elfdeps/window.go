package elfdeps

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	blockSize = 4096
	// maxBlocks bounds the blocks held at a time, maxReads those read in all,
	// so that a file costs bounded memory and time whatever its headers claim.
	maxBlocks = 64
	maxReads  = 4096
	// maxText bounds the names kept of one file, in bytes.
	maxText = 1 << 20
)

// window reads a file in blocks. The tables of an ELF file lie close together,
// so few blocks serve them, and a sparse file of any size costs no more.
type window struct {
	r      io.ReaderAt
	size   uint64
	blocks map[uint64][]byte
	reads  int
}

func newWindow(f File) *window {
	return &window{r: f, size: uint64(max(f.Size(), 0)), blocks: make(map[uint64][]byte, 8)}
}

// block gives the block with that number; the last of a file may be short.
func (w *window) block(n uint64) ([]byte, error) {
	if b, ok := w.blocks[n]; ok {
		return b, nil
	}
	if w.reads++; w.reads > maxReads {
		return nil, errors.New("its tables are spread too far")
	}
	off := n * blockSize
	if off >= w.size {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, min(blockSize, w.size-off))
	// A file that shrank since it was opened gives less.
	k, err := w.r.ReadAt(b, int64(off))
	if k < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if len(w.blocks) >= maxBlocks {
		clear(w.blocks)
	}
	w.blocks[n] = b
	return b, nil
}

// bytes gives n bytes at an offset. They hold until the next call at least and
// must not be changed.
func (w *window) bytes(off uint64, n int) ([]byte, error) {
	end := off + uint64(n)
	if end < off || end > w.size {
		return nil, fmt.Errorf("cut off: %d bytes are wanted at %d and the file has %d", n, off, w.size)
	}
	if n == 0 {
		return nil, nil
	}
	in := off % blockSize
	if in+uint64(n) <= blockSize {
		b, err := w.block(off / blockSize)
		if err != nil {
			return nil, err
		}
		return b[in : in+uint64(n)], nil
	}
	out := make([]byte, 0, n)
	for off < end {
		b, err := w.block(off / blockSize)
		if err != nil {
			return nil, err
		}
		b = b[off%blockSize:]
		b = b[:min(uint64(len(b)), end-off)]
		out = append(out, b...)
		off += uint64(len(b))
	}
	return out, nil
}

// cstring gives the string that begins at an offset and ends with a NUL within
// rest bytes. One longer than limit is an error.
func (w *window) cstring(off, rest uint64, limit int) (string, error) {
	var out []byte
	for rest > 0 {
		if off >= w.size {
			return "", errors.New("a name is cut off")
		}
		b, err := w.block(off / blockSize)
		if err != nil {
			return "", err
		}
		b = b[off%blockSize:]
		b = b[:min(uint64(len(b)), rest)]
		i := bytes.IndexByte(b, 0)
		part := b
		if i >= 0 {
			part = b[:i]
		}
		if len(out)+len(part) > limit {
			return "", fmt.Errorf("a name is longer than %d bytes", limit)
		}
		if i >= 0 && out == nil {
			return string(part), nil
		}
		out = append(out, part...)
		if i >= 0 {
			return string(out), nil
		}
		off += uint64(len(b))
		rest -= uint64(len(b))
	}
	return "", errors.New("a name has no end")
}

// show gives a name of the tree as text for messages: quoted if it holds
// anything but printable characters, and cut if it is long.
func show(s string) string {
	const limit = 512
	cut := ""
	if len(s) > limit {
		s, cut = s[:limit], "..."
	}
	if q := strconv.QuoteToGraphic(s); s == "" || q != `"`+s+`"` {
		return q + cut
	}
	return s + cut
}
