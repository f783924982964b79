package source

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/sys"
)

const (
	maxIndexText = 96 << 20 // kept of one index, in bytes of values
	maxStanzas   = 400_000  // of one index
	maxBad       = 100_000  // remembered of one index
)

// readPackages reads a Packages file, and holds its unpacked size and digest
// against the Release file where that tells them. Stanzas for another
// architecture are passed over; of those that break the format or
// lack a verifiable file bad tells what is wrong, by name.
//
// Most of the time goes into xz. So the first reading leaves a copy in the
// cache that unpacks ten times as fast, named by the digest of the plain text
// and held against it on each use: it need not be trusted.
func (f *fetcher) readPackages(ctx context.Context, get func() (Blob, error), file indexFile, arch string) (list []*pkgs.Stanza, bad map[string]string, err error) {
	if file.Plain.SHA256 != "" && file.Plain.Size > 0 {
		if q, err := f.cache.openQuick(file.Plain.SHA256); err == nil {
			list, bad, err = parsePackages(ctx, q, pkgs.Zstd, file.Plain, arch, nil)
			q.Close()
			if err == nil || context.Cause(ctx) != nil {
				return list, bad, err
			}
			if err := f.cache.remove(f.cache.quickPath(file.Plain.SHA256)); err != nil {
				return nil, nil, err
			}
		}
	}
	blob, err := get()
	if err != nil {
		return nil, nil, err
	}
	r, err := blob.Open()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	head := make([]byte, 6)
	n, _ := io.ReadFull(r, head)
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, nil, err
	}
	if file.Format == "" || n == 0 {
		return parsePackages(ctx, r, pkgs.None, file.Plain, arch, nil)
	}
	format, err := pkgs.DetectFormat(file.Name, head[:n])
	if err != nil {
		return nil, nil, err
	}
	if file.Plain.SHA256 == "" || format == pkgs.Zstd {
		return parsePackages(ctx, r, format, file.Plain, arch, nil)
	}
	quick := f.cache.newQuick()
	list, bad, err = parsePackages(ctx, r, format, file.Plain, arch, quick)
	quick.finish(file.Plain.SHA256, err == nil)
	return list, bad, err
}

// parsePackages unpacks and parses at the same time. copyTo may be nil.
func parsePackages(ctx context.Context, r io.Reader, format pkgs.Format, plain releaseFile, arch string, copyTo *quickCopy) (list []*pkgs.Stanza, bad map[string]string, err error) {
	limits := pkgs.Limits{Output: maxIndexFile, Paragraphs: maxStanzas, OneStream: true}
	if plain.SHA256 != "" {
		limits.Output = max(plain.Size, 1)
	}
	z, err := pkgs.Decompress(ctxReader{ctx, r}, format, limits)
	if err != nil {
		return nil, nil, err
	}
	text := startAhead(&plainReader{r: z, hash: sha256.New(), want: plain, copyTo: copyTo}, z)
	defer text.Close()
	var block []pkgs.Stanza
	kept := 0
	err = pkgs.ReadParagraphs(text, limits, func(p pkgs.Paragraph) error {
		if a := p.Get("Architecture"); a != arch && a != "all" {
			return nil
		}
		s, err := pkgs.ParseStanza(p)
		if err == nil {
			err = s.Fetchable()
		}
		if err != nil {
			if bad == nil {
				bad = map[string]string{}
			}
			if len(bad) < maxBad {
				bad[event.Clean(p.Get("Package"), 100)] = event.Clean(err.Error(), 300)
			}
			return nil
		}
		if len(block) == cap(block) {
			block = make([]pkgs.Stanza, 0, 512)
		}
		block = append(block, s)
		list = append(list, &block[len(block)-1])
		if kept += len(s.Depends) + len(s.Provides) + len(s.Filename) + 300; kept > maxIndexText {
			return errors.New("it is too large")
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return list, bad, nil
}

// plainReader checks the unpacked text at its end.
type plainReader struct {
	r      io.Reader
	hash   hash.Hash
	n      int64
	want   releaseFile
	copyTo *quickCopy
}

func (p *plainReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	if p.want.SHA256 != "" {
		p.hash.Write(b[:n])
	}
	p.copyTo.write(b[:n])
	if errors.Is(err, io.EOF) && p.want.SHA256 != "" {
		if p.n != p.want.Size {
			return n, fail(ErrHash, "", "unpacked it has %d, not %d bytes", p.n, p.want.Size)
		}
		if got := hex.EncodeToString(p.hash.Sum(nil)); got != p.want.SHA256 {
			return n, fail(ErrHash, "", "unpacked its SHA-256 is %s, not %s", got, p.want.SHA256)
		}
	}
	return n, err
}

// ahead reads a few blocks ahead in a goroutine of its own.
type ahead struct {
	blocks chan aheadBlock
	free   chan []byte
	stop   chan struct{}
	done   chan struct{}
	now    aheadBlock
	buf    []byte // of now, whole
}

type aheadBlock struct {
	data []byte
	err  error
}

const aheadSize = 256 << 10

// startAhead takes r over, and closes c when it has stopped.
func startAhead(r io.Reader, c io.Closer) *ahead {
	a := &ahead{blocks: make(chan aheadBlock, 4), free: make(chan []byte, 6), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		defer c.Close()
		for {
			var b []byte
			select {
			case b = <-a.free:
			default:
				b = make([]byte, aheadSize)
			}
			n, err := 0, error(nil)
			for n < len(b) && err == nil {
				var m int
				m, err = r.Read(b[n:])
				n += m
			}
			select {
			case a.blocks <- aheadBlock{b[:n], err}:
			case <-a.stop:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// Read gives no byte of the last block before all of the text was checked, so
// that an error of the check comes before the last stanzas are parsed.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.now.data) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.buf != nil {
			select {
			case a.free <- a.buf[:aheadSize]:
			default:
			}
		}
		a.now = <-a.blocks
		a.buf = a.now.data
		if a.now.err != nil && !errors.Is(a.now.err, io.EOF) {
			a.now.data = nil
		}
	}
	n := copy(p, a.now.data)
	a.now.data = a.now.data[n:]
	return n, nil
}

// Close waits until nothing is read any more.
func (a *ahead) Close() error {
	close(a.stop)
	<-a.done
	return nil
}

// quickPath is where the quick copy of a plain text lies.
func (c *Cache) quickPath(plainSHA string) string {
	return filepath.Join(c.dir, "quick", plainSHA+".zst")
}

func (c *Cache) openQuick(plainSHA string) (*os.File, error) {
	f, err := openFile(c.quickPath(plainSHA), unix.O_NOFOLLOW)
	if err == nil {
		_ = sys.Futimes(int(f.Fd()), time.Now().UnixNano()) // for Prune
	}
	return f, err
}

// quickCopy writes a quick copy. Whatever fails, there is just no copy: it
// saves time and nothing else. A nil *quickCopy does nothing.
type quickCopy struct {
	c    *Cache
	dir  *os.File
	name string
	f    *os.File
	z    *zstd.Encoder
	err  error
}

func (c *Cache) newQuick() *quickCopy {
	q := &quickCopy{c: c, name: quickPrefix + rand.Text()}
	q.err = q.open()
	return q
}

func (q *quickCopy) open() (err error) {
	if err := privateDir(filepath.Join(q.c.dir, "quick")); err != nil {
		return err
	}
	if q.dir, err = os.Open(filepath.Join(q.c.dir, "partial")); err != nil {
		return err
	}
	if err := share(q.dir); err != nil {
		return err
	}
	if q.f, err = sys.Create(int(q.dir.Fd()), q.name, 0o600); err != nil {
		return err
	}
	q.z, err = zstd.NewWriter(sys.Writer(q.f), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	return err
}

func (q *quickCopy) write(p []byte) {
	if q != nil && q.err == nil {
		_, q.err = q.z.Write(p)
	}
}

// finish gives the copy its name if the text was whole and right.
func (q *quickCopy) finish(plainSHA string, ok bool) {
	if q.z != nil {
		if err := q.z.Close(); q.err == nil {
			q.err = err
		}
	}
	if q.f == nil {
		if q.dir != nil {
			q.dir.Close()
		}
		return
	}
	defer q.dir.Close()
	defer q.f.Close()
	if ok && q.err == nil {
		q.err = q.keep(plainSHA)
	}
	if !ok || q.err != nil {
		_ = sys.Unlinkat(int(q.dir.Fd()), q.name, 0)
	}
}

func (q *quickCopy) keep(plainSHA string) error {
	if err := sys.Fsync(q.f); err != nil {
		return err
	}
	err := sys.Renameat2(int(q.dir.Fd()), q.name, unix.AT_FDCWD, q.c.quickPath(plainSHA), 0)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
