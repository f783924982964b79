package sys

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// WriteFileAtomic gives path the given content, whole or not at all, also over
// a power cut: temporary name, write, fsync, rename, fsync of the directory.
// perm is set exactly, whatever the umask is.
func WriteFileAtomic(path string, data []byte, perm os.FileMode) error {
	dir, err := OpenDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer dir.Close()
	if err := WriteFileAt(int(dir.Fd()), filepath.Base(path), data, perm); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// WriteFileAt is WriteFileAtomic for a name in an open directory.
func WriteFileAt(dir int, name string, data []byte, perm os.FileMode) error {
	if err := writeFileAt(dir, name, data, perm, Fsync); err != nil {
		return err
	}
	return FsyncDir(dir)
}

// PutFileAt is WriteFileAt without the syncs: for a tree that has no name yet,
// and is made durable as a whole before it gets it.
func PutFileAt(dir int, name string, data []byte, perm os.FileMode) error {
	return writeFileAt(dir, name, data, perm, func(*os.File) error { return nil })
}

func writeFileAt(dir int, name string, data []byte, perm os.FileMode, durable func(*os.File) error) error {
	tmp := TempName(name)
	f, err := Create(dir, tmp, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	err = func() error {
		if err := Write(f, data); err != nil {
			return err
		}
		if err := Fchmod(int(f.Fd()), uint32(perm.Perm())); err != nil {
			return err
		}
		if err := durable(f); err != nil {
			return err
		}
		return Renameat2(dir, tmp, dir, name, 0)
	}()
	if err != nil {
		return errors.Join(err, ignoreNotExist(Unlinkat(dir, tmp, 0)))
	}
	return nil
}

// tempMark is in each name of TempName.
const tempMark = ".tmp-"

// TempName returns a name that nobody else uses, for something that gets its
// own name only when it is whole.
func TempName(name string) string {
	return "." + name + tempMark + strconv.FormatUint(rand.Uint64(), 36)
}

// SweepFiles removes the files that a killed WriteFileAt left in a folder under a
// name of TempName. Only whoever keeps all others from writing there may call it.
// A missing folder is no error; it goes on after an error and returns all.
func SweepFiles(path string) error {
	list, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range list {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), tempMark) {
			continue
		}
		dir, err := OpenDir(path)
		if err == nil {
			err = ignoreNotExist(Unlinkat(int(dir.Fd()), e.Name(), 0))
			dir.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot remove %s, which a killed run left: %w", filepath.Join(path, e.Name()), err))
		}
	}
	return errors.Join(errs...)
}

// Writer writes with Write: each piece stands between two fault points.
func Writer(f *os.File) io.Writer { return writer{f} }

type writer struct{ f *os.File }

func (w writer) Write(p []byte) (int, error) {
	if err := Write(w.f, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// OpenDir opens a directory for FsyncDir and the *at calls. A link is followed:
// use it only for directories of jailup's own.
func OpenDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// MkdirAll makes a directory of jailup's own and its missing parents, each made
// durable in its parent. Existing directories are left as they are.
func MkdirAll(path string, perm os.FileMode) error {
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return fmt.Errorf("cannot make directory %s: a file is in its place", path)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	dir, err := OpenDir(parent)
	if err != nil {
		return fmt.Errorf("cannot make directory %s: %w", path, err)
	}
	defer dir.Close()
	if err := Mkdirat(int(dir.Fd()), filepath.Base(path), uint32(perm.Perm())); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot make directory %s: %w", path, err)
	}
	return FsyncDir(int(dir.Fd()))
}

// deepest is how many directories RemoveTree has open at once. What lies deeper is
// moved up to the top of the tree first: somebody who makes ten thousand levels
// must not make it run out of descriptors.
const deepest = 100

// RemoveTree removes name and all below it. It walks by descriptors, follows no
// link, and stops with EXDEV at a mount, so that what an administrator mounted
// below is never emptied. A missing name is no error.
func RemoveTree(dir int, name string) error {
	return ByHand(func() error { return removeTree(dir, name, -1, 0) })
}

// removeTree is RemoveTree at that depth of the tree whose open root is top, -1 at
// the root itself.
func removeTree(dir int, name string, top, depth int) error {
	err := Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, oerr := OpenDirBeneath(dir, name)
	if oerr != nil {
		if errors.Is(oerr, unix.ENOTDIR) || errors.Is(oerr, unix.ELOOP) {
			return err // a file that cannot be unlinked, immutable perhaps
		}
		return oerr
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if depth == 0 {
		top = fd
	}
	for {
		names, rerr := f.Readdirnames(256)
		if len(names) == 0 {
			if rerr != nil && rerr != io.EOF {
				return rerr
			}
			break
		}
		for _, n := range names {
			if depth >= deepest {
				// The top reads its names until there are none left.
				err := Renameat2(fd, n, top, TempName("deep"), unix.RENAME_NOREPLACE)
				if err == nil || errors.Is(err, unix.ENOENT) {
					continue
				}
			}
			if err := removeTree(fd, n, top, depth+1); err != nil {
				return err
			}
		}
		if _, err := f.Seek(0, 0); err != nil {
			return err
		}
	}
	return ignoreNotExist(Unlinkat(dir, name, unix.AT_REMOVEDIR))
}

func ignoreNotExist(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// HashFile returns the SHA-256 of all that r has left, in hexadecimal.
func HashFile(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
