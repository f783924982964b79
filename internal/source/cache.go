package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/sys"
)

// Cache keeps files by the SHA-256 of their content, as DIR/sha256/ab/abcdef….
// A name there is only ever given to a whole, synced file, and no content is
// used that this process has not hashed since it was last changed. Several processes
// may use one cache at once.
type Cache struct {
	dir    string
	hashed *hashed
}

// OpenCache makes the folder if there is none. It must belong to the caller and
// not be writable by others.
func OpenCache(dir string) (*Cache, error) {
	if dir == "" {
		return nil, errors.New("cannot use the cache: no folder is named")
	}
	for _, d := range []string{dir, filepath.Join(dir, "sha256"), filepath.Join(dir, "partial")} {
		if err := privateDir(d); err != nil {
			return nil, fmt.Errorf("cannot use the cache: %w", err)
		}
	}
	return &Cache{dir: dir, hashed: &hashed{}}, nil
}

// SweepCache removes what killed runs were about to put into the cache in dir. A
// download that is not whole stays: the next one goes on with it. Without a cache
// there is nothing to do.
func SweepCache(dir string) error {
	partial, err := os.Open(filepath.Join(dir, "partial"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot sweep the cache: %w", err)
	}
	defer partial.Close()
	// Who makes one holds the folder, see share: then it is left to the next sweep.
	if err := unix.Flock(int(partial.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil
	}
	names, err := partial.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("cannot sweep the cache: %w", err)
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, putPrefix) || strings.HasPrefix(name, quickPrefix) {
			errs = append(errs, sys.Unlinkat(int(partial.Fd()), name, 0))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot sweep the cache: %w", err)
	}
	return nil
}

// share keeps SweepCache away from the open folder until it is closed, by death as
// well.
func share(partial *os.File) error {
	for {
		err := unix.Flock(int(partial.Fd()), unix.LOCK_SH)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot write to the cache: %w", err)
		}
		return nil
	}
}

// What is about to be put, and the quick copies, have these names until they are whole.
const (
	putPrefix   = "put-"
	quickPrefix = "quick-"
)

// privateDir makes a folder 0700, or checks the one that is there: what others
// can write into is not used.
func privateDir(path string) error {
	if err := sys.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := sys.MkdirAll(path, 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", path)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user (uid %d)", path, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%s may be written by others (mode %04o)", path, st.Mode&0o7777)
	}
	return nil
}

// Path is where content of this digest lies or would lie.
func (c *Cache) Path(sha string) string {
	return filepath.Join(c.dir, "sha256", sha[:2], sha)
}

// Get returns the file of this digest, hashed since it was last changed. What has changed on disk is
// deleted, and like what is absent an fs.ErrNotExist.
func (c *Cache) Get(sha string, size int64) (Blob, error) {
	if !isSHA256(sha) {
		return Blob{}, fmt.Errorf("cannot look up %q: not a SHA-256", sha)
	}
	path := c.Path(sha)
	// Prune goes by the time of the last use; a cache on a read-only disk still serves.
	_ = sys.Utimes(unix.AT_FDCWD, path, time.Now().UnixNano())
	f, err := openVerified(path, sha, size, c.hashed)
	if errors.Is(err, ErrHash) {
		if err := c.remove(path); err != nil {
			return Blob{}, fmt.Errorf("cannot remove a damaged file from the cache: %w", err)
		}
		return Blob{}, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if err != nil {
		return Blob{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Blob{}, err
	}
	return Blob{Path: path, SHA256: sha, Size: fi.Size(), hashed: c.hashed}, nil
}

// Put stores what it reads from r, if it has this digest and size; a size below
// 0 means that only the digest is known. To put what is there already is fine.
func (c *Cache) Put(ctx context.Context, r io.Reader, sha string, size int64) (Blob, error) {
	dir, err := os.Open(filepath.Join(c.dir, "partial"))
	if err != nil {
		return Blob{}, err
	}
	defer dir.Close()
	if err := share(dir); err != nil {
		return Blob{}, err
	}
	name := putPrefix + rand.Text()
	f, err := sys.Create(int(dir.Fd()), name, 0o600)
	if err != nil {
		return Blob{}, fmt.Errorf("cannot write to the cache: %w", err)
	}
	defer f.Close()
	limit := size
	if limit < 0 {
		limit = maxIndexFile
	}
	err = func() error {
		h := sha256.New()
		r := io.LimitReader(ctxReader{ctx, r}, limit+1)
		buf := make([]byte, min(max(limit, 1), 1<<20))
		n, err := io.CopyBuffer(sys.Writer(f), io.TeeReader(r, h), buf)
		if err != nil {
			return err
		}
		if size >= 0 && n != size || n > limit {
			return fail(ErrHash, "", "it has %s, not %d bytes", count(n, limit), size)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != sha {
			return fail(ErrHash, "", "its SHA-256 is %s, not %s", got, sha)
		}
		size = n
		return nil
	}()
	if err == nil {
		err = c.keep(f, int(dir.Fd()), name, sha)
	}
	if err != nil {
		_ = sys.Unlinkat(int(dir.Fd()), name, 0)
		return Blob{}, err
	}
	return Blob{Path: c.Path(sha), SHA256: sha, Size: size, hashed: c.hashed}, nil
}

func count(n, limit int64) string {
	if n > limit {
		return fmt.Sprintf("more than %d", limit)
	}
	return fmt.Sprint(n)
}

// PutBytes stores data under its digest.
func (c *Cache) PutBytes(data []byte) (Blob, error) {
	sum := sha256.Sum256(data)
	return c.Put(context.Background(), bytes.NewReader(data), hex.EncodeToString(sum[:]), int64(len(data)))
}

// keep gives the verified, open file name in dirfd its place: sync, rename, sync.
func (c *Cache) keep(f *os.File, dirfd int, name, sha string) error {
	if err := sys.Fchmod(int(f.Fd()), 0o600); err != nil {
		return fmt.Errorf("cannot write to the cache: %w", err)
	}
	if err := sys.Fsync(f); err != nil {
		return fmt.Errorf("cannot write to the cache: %w", err)
	}
	top, err := os.Open(filepath.Join(c.dir, "sha256"))
	if err != nil {
		return err
	}
	defer top.Close()
	switch err := sys.Mkdirat(int(top.Fd()), sha[:2], 0o700); {
	case err == nil:
		if err := sys.FsyncDir(int(top.Fd())); err != nil {
			return fmt.Errorf("cannot write to the cache: %w", err)
		}
	case !errors.Is(err, fs.ErrExist):
		return fmt.Errorf("cannot write to the cache: %w", err)
	}
	sub, err := os.OpenFile(filepath.Join(c.dir, "sha256", sha[:2]), unix.O_DIRECTORY|unix.O_NOFOLLOW|os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := sys.Renameat2(dirfd, name, int(sub.Fd()), sha, 0); err != nil {
		return fmt.Errorf("cannot write to the cache: %w", err)
	}
	if err := sys.FsyncDir(int(sub.Fd())); err != nil {
		return fmt.Errorf("cannot write to the cache: %w", err)
	}
	return nil
}

func (c *Cache) remove(path string) error {
	err := sys.Unlinkat(unix.AT_FDCWD, path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Prune deletes what was not used for longer than age, then what was used
// longest ago until at most size bytes are left; 0 means no such bound. Left-over
// parts of downloads older than a week go as well. It returns how many bytes it
// freed. Digests in keep stay.
func (c *Cache) Prune(age time.Duration, size int64, keep ...string) (freed int64, err error) {
	type item struct {
		path string
		size int64
		used time.Time
	}
	var items []item
	var total int64
	now := time.Now()
	err = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(c.dir, path)
		switch {
		case strings.HasPrefix(rel, "partial/"):
			if now.Sub(fi.ModTime()) > 7*24*time.Hour {
				freed += fi.Size()
				return c.remove(path)
			}
		case strings.HasPrefix(rel, "quick/"), strings.HasPrefix(rel, "sha256/") && isSHA256(d.Name()) && !slices.Contains(keep, d.Name()):
			items = append(items, item{path, fi.Size(), fi.ModTime()})
			total += fi.Size()
		}
		return nil
	})
	if err != nil {
		return freed, fmt.Errorf("cannot prune the cache: %w", err)
	}
	slices.SortFunc(items, func(a, b item) int { return a.used.Compare(b.used) })
	for _, it := range items {
		if (age == 0 || now.Sub(it.used) <= age) && (size == 0 || total <= size) {
			continue
		}
		if err := c.remove(it.path); err != nil {
			return freed, fmt.Errorf("cannot prune the cache: %w", err)
		}
		freed += it.size
		total -= it.size
	}
	return freed, nil
}

// lock holds one digest against other processes that download it. The lock is
// the kernel's and dies with its holder.
func (c *Cache) lock(ctx context.Context, sha string) (unlock func(), err error) {
	path := filepath.Join(c.dir, "partial", sha+".lock")
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("cannot lock a download: %w", err)
		}
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		var held, named unix.Stat_t
		if err == nil && unix.Fstat(fd, &held) == nil && unix.Lstat(path, &named) == nil && held.Ino == named.Ino {
			return func() {
				_ = sys.Unlinkat(unix.AT_FDCWD, path, 0)
				unix.Close(fd)
			}, nil
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("cannot lock a download: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// openRegular opens a regular file for reading, and never waits for a FIFO or
// touches a device.
func openRegular(path string) (*os.File, error) {
	return openFile(path, 0)
}

func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		if err == nil {
			err = errors.New("not a regular file")
		}
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openVerified opens a file of the cache and hashes it through the descriptor
// it returns. size below 0 means unknown. What this process has hashed before, and
// nobody has written to or changed since by its times, is not hashed again: a package is opened
// for its control data, for its list of files and for the files.
func openVerified(path, sha string, size int64, known *hashed) (*os.File, error) {
	f, err := openFile(path, unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	was, ours := asOf(f, sha)
	if known.has(was) && ours && (size < 0 || size == was.size) {
		return f, nil
	}
	if err := verifyFile(f, sha, size); err != nil {
		f.Close()
		return nil, err
	}
	if is, _ := asOf(f, sha); ours && is == was {
		known.add(is)
	}
	return f, nil
}

// fileState is a file as it was at one time: each change of its data or of its inode
// changes ctime, which only the clock sets (inode(7)).
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
	sha          string
}

// hashed are states of files that have the digest that they name. It is safe for
// concurrent use; nil knows none and keeps none.
type hashed struct{ m sync.Map }

func (h *hashed) has(s fileState) bool {
	if h == nil {
		return false
	}
	_, ok := h.m.Load(s)
	return ok
}

func (h *hashed) add(s fileState) {
	if h != nil {
		h.m.Store(s, nil)
	}
}

// asOf tells what a file is now, and whether it is this user's and nobody else may
// write to it: of such a file alone the times are trusted.
func asOf(f *os.File, sha string) (fileState, bool) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileState{}, false
	}
	ours := int(st.Uid) == os.Geteuid() && st.Mode&0o022 == 0
	return fileState{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim, sha}, ours
}

// verifyFile hashes an open file from its start and leaves it there.
func verifyFile(f *os.File, sha string, size int64) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if size >= 0 && fi.Size() != size {
		return fail(ErrHash, f.Name(), "it has %d, not %d bytes", fi.Size(), size)
	}
	got, err := hashFile(f)
	if err != nil {
		return err
	}
	if got != sha {
		return fail(ErrHash, f.Name(), "its SHA-256 is %s, not %s", got, sha)
	}
	return nil
}

func hashFile(f *os.File) (string, error) {
	h := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return "", err
	}
	_, err := f.Seek(0, io.SeekStart)
	return hex.EncodeToString(h.Sum(nil)), err
}

// ctxReader ends a copy when its context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
