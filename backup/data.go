package backup

import (
	"crypto/sha256"
	"errors"
	"hash"
	"os"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// digester makes the digest that Entry.Digest describes.
type digester struct {
	all, piece hash.Hash
	zeros      []byte
	zeroPiece  [sha256.Size]byte
	pieces     bool
	n          int // bytes in the current piece
}

func (d *digester) start(size int64) {
	if d.all == nil {
		d.all, d.piece = sha256.New(), sha256.New()
		d.zeros = make([]byte, PieceSize)
		d.zeroPiece = sha256.Sum256(d.zeros)
	}
	d.all.Reset()
	d.piece.Reset()
	d.pieces, d.n = size >= PieceFrom, 0
}

func (d *digester) write(p []byte) {
	if !d.pieces {
		d.all.Write(p)
		return
	}
	for len(p) > 0 {
		n := min(len(p), PieceSize-d.n)
		d.piece.Write(p[:n])
		d.n += n
		p = p[n:]
		if d.n == PieceSize {
			d.endPiece()
		}
	}
}

func (d *digester) endPiece() {
	var sum [sha256.Size]byte
	d.all.Write(d.piece.Sum(sum[:0]))
	d.piece.Reset()
	d.n = 0
}

// hole digests n zero bytes; whole pieces of them cost nearly nothing.
func (d *digester) hole(n int64) {
	for n > 0 {
		if d.pieces && d.n == 0 && n >= PieceSize {
			d.all.Write(d.zeroPiece[:])
			n -= PieceSize
			continue
		}
		m := min(n, int64(len(d.zeros)))
		if d.pieces {
			m = min(m, int64(PieceSize-d.n))
		}
		d.write(d.zeros[:m])
		n -= m
	}
}

func (d *digester) sum(to *[sha256.Size]byte) {
	if d.pieces && d.n > 0 {
		d.endPiece()
	}
	d.all.Sum(to[:0])
}

// cloneFrom is the size from which on sharing blocks is cheaper than writing.
const cloneFrom = 64 << 10

// data brings the bytes of an open file into dst (nil: nowhere) and their digest
// into it. A file that grows is cut at the size that was seen, one that shrank
// ends where it ends.
func (w *worker) data(src int, dst *os.File, it *item) error {
	e := w.e
	e.files.Add(1)
	if it.size == 0 {
		it.sum = sha256.Sum256(nil)
		return nil
	}
	var sparse bool
	if it.size > cloneFrom {
		var st unix.Stat_t
		if err := unix.Fstat(src, &st); err != nil {
			return err
		}
		sparse = st.Blocks*512 < st.Size
	}
	if dst != nil && it.size >= cloneFrom && e.cloning.Load() {
		done, err := w.clone(src, dst, it, sparse)
		if done || err != nil {
			return err
		}
	}
	if it.size > int64(len(w.buf)) || sparse {
		return w.stream(src, dst, it, sparse)
	}
	n, err := pread(src, w.buf[:it.size], 0)
	if err != nil {
		return err
	}
	it.size = int64(n)
	it.sum = sha256.Sum256(w.buf[:n])
	e.bytes.Add(int64(n))
	if dst == nil || n == 0 {
		return nil
	}
	return sys.Write(dst, w.buf[:n])
}

// stream copies what does not fit the buffer, or has holes.
func (w *worker) stream(src int, dst *os.File, it *item, sparse bool) error {
	e := w.e
	size := it.size
	w.sum.start(size)
	var off, written int64
	for off < size {
		end := size
		if sparse {
			from, err := unix.Seek(src, off, unix.SEEK_DATA)
			switch {
			case errors.Is(err, unix.ENXIO):
				// A hole to the end, or the file was cut: look.
				var st unix.Stat_t
				if err := unix.Fstat(src, &st); err != nil {
					return err
				}
				size = min(size, max(off, st.Size))
				from = size
			case err != nil:
				from = off // a file system that tells no holes
			}
			from = min(from, size)
			w.sum.hole(from - off)
			off = from
			end = size
			if to, err := unix.Seek(src, off, unix.SEEK_HOLE); err == nil && to > off {
				end = min(end, to)
			}
		}
		for off < end {
			if e.stop.Load() {
				return unix.EINTR
			}
			n, err := pread(src, w.buf[:min(int64(len(w.buf)), end-off)], off)
			if err != nil {
				return err
			}
			if n == 0 {
				size = off // it was cut meanwhile
				break
			}
			w.sum.write(w.buf[:n])
			if dst != nil {
				if err := sys.Pwrite(dst, w.buf[:n], off); err != nil {
					return err
				}
			}
			off += int64(n)
			written = off
			e.bytes.Add(int64(n))
		}
	}
	it.size = size
	if dst != nil && written < size {
		if err := sys.Truncate(dst, size); err != nil {
			return err
		}
	}
	// A file that was cut below the limit while it was read has got the wrong
	// kind of digest: read what is in the copy.
	if w.sum.pieces != (size >= PieceFrom) {
		if dst != nil {
			src = int(dst.Fd())
		}
		return w.stream(src, nil, it, sparse)
	}
	w.sum.sum(&it.sum)
	return nil
}

// clone shares the blocks of src with dst, and digests them. false: it cannot be
// done here, and dst is as it was.
func (w *worker) clone(src int, dst *os.File, it *item, sparse bool) (bool, error) {
	e := w.e
	fd, err := unix.FcntlInt(uintptr(src), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	from := os.NewFile(uintptr(fd), it.name)
	defer from.Close()
	if err := sys.Clone(dst, from); err != nil {
		switch {
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL),
			errors.Is(err, unix.ENOTTY), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			e.cloning.Store(false)
			return false, nil
		case errors.Is(err, unix.ETXTBSY):
			return false, nil
		}
		return false, err
	}
	e.cloned.Store(true)
	var st unix.Stat_t
	if err := unix.Fstat(int(dst.Fd()), &st); err != nil {
		return false, err
	}
	it.size = st.Size
	// The original's pages are in memory, the copy's are not; but the original
	// may change under the reading, and then the copy must be read.
	if err := w.stream(src, nil, it, sparse); err != nil {
		return false, err
	}
	now, err := jail.Fstat(src)
	if err != nil {
		return false, err
	}
	if it.again || it.size != st.Size || !it.seen.same(&now) {
		it.size = st.Size
		if err := w.stream(int(dst.Fd()), nil, it, sparse); err != nil {
			return false, err
		}
	}
	return true, nil
}

func pread(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}
