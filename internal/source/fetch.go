package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cavaliergopher/grab/v3"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/sys"
)

// fetcher downloads into the cache.
type fetcher struct {
	cache  *Cache
	o      HTTPOptions
	client *http.Client
}

func newFetcher(c *Cache, o HTTPOptions) *fetcher {
	o = o.withDefaults()
	return &fetcher{c, o, newClient(o)}
}

// statusError is an answer that is not the file.
type statusError int

func (s statusError) Error() string {
	return fmt.Sprintf("HTTP status %d %s", int(s), http.StatusText(int(s)))
}

// passing tells whether the same request may succeed a little later.
func (s statusError) passing() bool {
	return s >= 500 && s != http.StatusNotImplemented || s == http.StatusRequestTimeout || s == http.StatusTooManyRequests
}

func isMissing(err error) bool {
	var s statusError
	return errors.As(err, &s) && (s == http.StatusNotFound || s == http.StatusGone || s == http.StatusForbidden) ||
		errors.Is(err, fs.ErrNotExist)
}

// retry runs try until it succeeds, fails for good, or has cost too much. try is
// told how long it may wait for the headers of its answers.
func (f *fetcher) retry(ctx context.Context, try func(wait time.Duration) (final bool, err error)) error {
	wait := f.o.Connect + f.o.Header
	var lost time.Duration
	for n := 0; ; n++ {
		start := time.Now()
		final, err := try(wait)
		if err == nil {
			return nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		lost += time.Since(start)
		if final || n+1 >= f.o.Attempts || lost >= f.o.Lost {
			return err
		}
		wait = max(f.o.Lost-lost, f.o.Lost/5)
		pause := min(100*time.Millisecond<<n, f.o.Lost-lost)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// isFinal tells whether to ask again is in vain.
func isFinal(err error) bool {
	var s statusError
	if errors.As(err, &s) {
		return !s.passing()
	}
	return errors.Is(err, errRedirect) || errors.Is(err, errTooLong)
}

// small is a file of unknown size and digest, read into memory.
type small struct {
	data         []byte
	etag         string
	lastModified string
	unchanged    bool // 304
}

// small gets at most limit bytes. With conditions, the server may answer that
// nothing has changed.
func (f *fetcher) small(ctx context.Context, rawURL string, limit int64, etag, lastModified string) (small, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return small{}, err
	}
	if path, ok := localPath(u); ok {
		data, err := readLimited(path, limit)
		return small{data: data}, err
	}
	var got small
	err = f.retry(ctx, func(wait time.Duration) (bool, error) {
		got, err = f.trySmall(ctx, wait, rawURL, limit, etag, lastModified)
		return isFinal(err), err
	})
	return got, err
}

func (f *fetcher) trySmall(ctx context.Context, wait time.Duration, rawURL string, limit int64, etag, lastModified string) (small, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return small{}, err
	}
	req.Header.Set("Cache-Control", "max-age=0") // a cache in between asks the mirror
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	if lastModified != "" {
		req.Header.Set("If-Modified-Since", lastModified)
	}
	g := &guard{client: f.client, o: f.o, size: -1, limit: limit, wait: wait, cancel: cancel}
	resp, err := g.Do(req)
	if err != nil {
		return small{}, plainCause(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && (etag != "" || lastModified != ""):
		return small{unchanged: true}, nil
	case resp.StatusCode != http.StatusOK:
		return small{}, statusError(resp.StatusCode)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return small{}, plainCause(ctx, err)
	}
	s := small{data: data, etag: resp.Header.Get("ETag"), lastModified: resp.Header.Get("Last-Modified")}
	if len(s.etag)+len(s.lastModified) > 1000 {
		s.etag, s.lastModified = "", ""
	}
	return s, nil
}

// plainCause prefers why we cancelled over that it was cancelled, and leaves the
// URL out, which the caller names.
func plainCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return fmt.Errorf("%w (%v)", errNoAnswer, err)
	}
	return err
}

// localPath is the path of a file: or copy: URL.
func localPath(u *url.URL) (string, bool) {
	if u.Scheme != "file" && u.Scheme != "copy" {
		return "", false
	}
	return filepath.Clean("/" + u.Path), true
}

// want is a file of known content and the places that may have it.
type want struct {
	name string // for messages
	urls []string
	sha  string
	size int64
}

// file brings one file into the cache, unless it is there. progress may be nil;
// it is told how many bytes of the file are there.
func (f *fetcher) file(ctx context.Context, w want, progress func(int64)) (Blob, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	blob, err := f.cache.Get(w.sha, w.size)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		progress(w.size)
		return blob, err
	}
	unlock, err := f.cache.lock(ctx, w.sha)
	if err != nil {
		return Blob{}, err
	}
	defer unlock()
	if blob, err := f.cache.Get(w.sha, w.size); err == nil { // another run was faster
		progress(w.size)
		return blob, nil
	}
	if w.size == 0 {
		return f.cache.Put(ctx, strings.NewReader(""), w.sha, 0)
	}
	for i, u := range w.urls {
		blob, err = f.fileFrom(ctx, u, w, progress)
		if err == nil || i == len(w.urls)-1 || !isMissing(err) {
			break
		}
	}
	if err == nil || context.Cause(ctx) != nil {
		return blob, err
	}
	if errors.Is(err, ErrHash) {
		return Blob{}, &Error{Kind: ErrHash, Source: event.Clean(w.name, 300), Err: rootCause(err)}
	}
	if isDownload(err) {
		return Blob{}, &Error{Kind: ErrUnreachable, Source: event.Clean(w.name, 300), Err: errors.New(event.Clean(err.Error(), 300))}
	}
	return Blob{}, fmt.Errorf("cannot fetch %s: %w", event.Clean(w.name, 300), err)
}

// rootCause takes an *Error's own cause, so that names are not told twice.
func rootCause(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// isDownload tells trouble with the mirror from trouble with this machine's disk.
func isDownload(err error) bool {
	var p *fs.PathError
	var no unix.Errno
	if errors.As(err, &p) {
		return errors.Is(err, fs.ErrNotExist)
	}
	if errors.As(err, &no) {
		switch no {
		case unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, unix.EMFILE, unix.ENFILE, unix.EACCES, unix.EPERM:
			return false
		}
	}
	return true
}

func (f *fetcher) fileFrom(ctx context.Context, rawURL string, w want, progress func(int64)) (Blob, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return Blob{}, err
	}
	if path, ok := localPath(u); ok {
		src, err := openRegular(path)
		if err != nil {
			return Blob{}, err
		}
		defer src.Close()
		blob, err := f.cache.Put(ctx, src, w.sha, w.size)
		if err == nil {
			progress(w.size)
		}
		return blob, err
	}
	var blob Blob
	resume, mismatches := true, 0
	err = f.retry(ctx, func(wait time.Duration) (bool, error) {
		var resumed bool
		var err error
		blob, resumed, err = f.download(ctx, wait, rawURL, w, resume, progress)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, errNoRange):
			resume = false
			return false, err
		case errors.Is(err, ErrHash):
			// What was resumed may have begun over other bytes; what was not may
			// have met a proxy's copy cut off. Both get one fresh try.
			resume = false
			if !resumed {
				mismatches++
			}
			return mismatches > 1, err
		}
		return isFinal(err), err
	})
	return blob, err
}

// download is one attempt. resumed tells whether it went on from a part.
func (f *fetcher) download(ctx context.Context, wait time.Duration, rawURL string, w want, resume bool, progress func(int64)) (blob Blob, resumed bool, err error) {
	dir, err := os.Open(filepath.Join(f.cache.dir, "partial"))
	if err != nil {
		return Blob{}, false, err
	}
	defer dir.Close()
	part := filepath.Join(f.cache.dir, "partial", w.sha)
	if resumed, err = usablePart(int(dir.Fd()), w, resume); err != nil {
		return Blob{}, false, err
	}
	if err := f.grab(ctx, wait, rawURL, part, w, progress); err != nil {
		if errors.Is(err, ErrHash) || errors.Is(err, errNoRange) {
			if err := f.cache.remove(part); err != nil {
				return Blob{}, resumed, err
			}
		}
		return Blob{}, resumed, err
	}
	file, err := openFile(part, unix.O_NOFOLLOW)
	if err != nil {
		return Blob{}, resumed, err
	}
	defer file.Close()
	if err := verifyFile(file, w.sha, w.size); err != nil {
		if err := f.cache.remove(part); err != nil {
			return Blob{}, resumed, err
		}
		return Blob{}, resumed, err
	}
	if err := f.cache.keep(file, int(dir.Fd()), w.sha, w.sha); err != nil {
		return Blob{}, resumed, err
	}
	progress(w.size)
	return Blob{Path: f.cache.Path(w.sha), SHA256: w.sha, Size: w.size, hashed: f.cache.hashed}, resumed, nil
}

// usablePart looks at what an earlier attempt left. Only a plain file of ours
// that is shorter than the whole is gone on from; grab would follow a link, and
// would take a file of the right size for the right one.
func usablePart(dirfd int, w want, resume bool) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dirfd, w.sha, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if resume && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && st.Size > 0 && st.Size < w.size {
		return true, nil
	}
	return false, sys.Unlinkat(dirfd, w.sha, 0)
}

// grab has the grab library transfer the file, under guard.
func (f *fetcher) grab(ctx context.Context, wait time.Duration, rawURL, part string, w want, progress func(int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sum, err := hex.DecodeString(w.sha)
	if err != nil {
		return err
	}
	req, err := grab.NewRequest(part, rawURL)
	if err != nil {
		return err
	}
	req = req.WithContext(ctx)
	req.Size = w.size
	req.NoCreateDirectories = true
	req.IgnoreRemoteTime = true
	req.SetChecksum(sha256.New(), sum, false)
	g := &guard{client: f.client, o: f.o, size: w.size, limit: w.size, wait: wait, cancel: cancel}
	c := grab.Client{HTTPClient: g, UserAgent: "jailup", BufferSize: 128 << 10}
	resp := c.Do(req)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			progress(min(resp.BytesComplete(), w.size))
			continue
		case <-resp.Done:
		}
		return grabError(ctx, resp.Err(), w)
	}
}

// grabError puts grab's errors into this package's.
func grabError(ctx context.Context, err error, w want) error {
	var status grab.StatusCodeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status):
		return statusError(status)
	case errors.Is(err, grab.ErrBadLength), errors.Is(err, errTooLong):
		return fail(ErrHash, w.name, "it has not the %d bytes that were signed", w.size)
	case errors.Is(err, grab.ErrBadChecksum):
		return fail(ErrHash, w.name, "its SHA-256 is not %s", w.sha)
	}
	return plainCause(ctx, err)
}
