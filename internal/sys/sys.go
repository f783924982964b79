// Package sys is the only place from which jailup changes something on disk.
//
// Every function is one mutating system call (or the shortest sequence that has
// one meaning), takes directory descriptors rather than joined paths, retries
// EINTR, and stands between two fault points. In the shipped binary the points
// are empty and compiled away; a build with the tag "faultpoints" can be killed
// or made to fail at exactly the n-th of them (see faults_on.go).
package sys

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// do runs one mutating call between its two fault points, again on EINTR.
func do(op, name string, call func() error) error {
	called := false
	err := retry(func() error {
		if err := before(op, name); err != nil {
			return err
		}
		called = true
		return call()
	})
	if called {
		after(op, name)
	}
	return err
}

// handed is do for a call that makes, renames or removes a name: one of the hands
// makes it. dirs are those in which the names are.
func handed(op, name string, call func() error, dirs ...int) error {
	return do(op, name, func() error { return byHand(call, dirs...) })
}

// retries is how often a call is interrupted before that is an error. No real
// storm of signals gets there; a file system that answers nothing else would.
const retries = 10_000

func retry(call func() error) (err error) {
	for range retries {
		if err = call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return err
}

// Renameat2 renames as renameat2(2) does; flags are unix.RENAME_EXCHANGE,
// unix.RENAME_NOREPLACE or 0.
func Renameat2(oldDir int, oldName string, newDir int, newName string, flags uint) error {
	return watchRename(oldDir, oldName, newDir, newName, flags)(handed("renameat2", newName, func() error {
		return unix.Renameat2(oldDir, oldName, newDir, newName, flags)
	}, oldDir, newDir))
}

// Mkdirat makes a directory with exactly the given permission bits, whatever
// the umask is.
func Mkdirat(dir int, name string, mode uint32) error {
	err := watchName("mkdirat", dir, name)(handed("mkdirat", name, func() error { return unix.Mkdirat(dir, name, mode&0o7777) }, dir))
	if err != nil {
		return err
	}
	return Fchmodat(dir, name, mode)
}

// Unlinkat removes a name; flags is 0 or unix.AT_REMOVEDIR.
func Unlinkat(dir int, name string, flags int) error {
	return watchName("unlinkat", dir, name)(handed("unlinkat", name, func() error { return unix.Unlinkat(dir, name, flags) }, dir))
}

// Symlinkat makes a symbolic link.
func Symlinkat(target string, dir int, name string) error {
	return watchName("symlinkat", dir, name)(handed("symlinkat", name, func() error { return unix.Symlinkat(target, dir, name) }, dir))
}

// Linkat makes a hard link; flags as in linkat(2).
func Linkat(oldDir int, oldName string, newDir int, newName string, flags int) error {
	return watchName("linkat", newDir, newName)(handed("linkat", newName, func() error {
		return unix.Linkat(oldDir, oldName, newDir, newName, flags)
	}, oldDir, newDir))
}

// Mknodat makes a FIFO, a device node or an empty file; mode holds the type and
// the permission bits, which are set exactly, whatever the umask is.
func Mknodat(dir int, name string, mode uint32, dev uint64) error {
	err := watchName("mknodat", dir, name)(handed("mknodat", name, func() error { return unix.Mknodat(dir, name, mode, int(dev)) }, dir))
	if err != nil {
		return err
	}
	return Fchmodat(dir, name, mode)
}

// Create makes a new regular file for writing and reading. An existing name,
// a link included, is an error.
func Create(dir int, name string, perm uint32) (*os.File, error) {
	fd := -1
	err := watchName("create", dir, name)(handed("create", name, func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm&0o7777)
		return err
	}, dir))
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Write writes all of p at the file's position.
func Write(f *os.File, p []byte) error {
	return watchFile("write", f, p)(do("write", f.Name(), func() error {
		_, err := f.Write(p)
		return err
	}))
}

// Pwrite writes all of p at off.
func Pwrite(f *os.File, p []byte, off int64) error {
	return watchFile("pwrite", f, p)(do("pwrite", f.Name(), func() error {
		_, err := f.WriteAt(p, off)
		return err
	}))
}

// CopyRange copies up to n bytes from the position of src to that of dst inside
// the kernel where it can, and advances both. It returns how many were copied;
// fewer than n without an error means that src ended.
func CopyRange(dst, src *os.File, n int64) (int64, error) {
	var copied int64
	err := watchFile("copy", dst, nil)(do("copy", dst.Name(), func() error {
		var err error
		var m int64
		m, err = io.Copy(dst, io.LimitReader(src, n-copied))
		copied += m
		return err
	}))
	return copied, err
}

// Clone makes dst share the blocks of src (FICLONE, ioctl_ficlonerange(2)); both
// must lie on one file system that can.
func Clone(dst, src *os.File) error {
	return watchFile("clone", dst, nil)(do("clone", dst.Name(), func() error {
		return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	}))
}

// Truncate sets the length of a file, in bytes.
func Truncate(f *os.File, size int64) error {
	return watchFile("truncate", f, nil)(do("truncate", f.Name(), func() error { return f.Truncate(size) }))
}

// Allocate reserves size bytes for a file and writes zeros over them, so that a
// later overwrite needs no new block.
func Allocate(f *os.File, size int64) error {
	return watchFile("allocate", f, nil)(do("allocate", f.Name(), func() error {
		_, err := f.WriteAt(make([]byte, size), 0)
		return err
	}))
}

// Fsync makes a file's data and metadata durable.
func Fsync(f *os.File) error {
	if skipSync(f.Name()) {
		return nil
	}
	watchSync("fsync", int(f.Fd()))
	return do("fsync", f.Name(), f.Sync)
}

// Fdatasync makes a file's data durable.
func Fdatasync(f *os.File) error {
	if skipSync(f.Name()) {
		return nil
	}
	watchSync("fdatasync", int(f.Fd()))
	return do("fdatasync", f.Name(), func() error { return unix.Fdatasync(int(f.Fd())) })
}

// FsyncDir makes the names in a directory durable. The descriptor must not be
// an O_PATH one.
func FsyncDir(fd int) error {
	name := strconv.Itoa(fd)
	if skipSync(name) {
		return nil
	}
	watchSync("fsyncdir", fd)
	return do("fsyncdir", name, func() error { return unix.Fsync(fd) })
}

// Syncfs makes a whole file system durable. Never call it while a server is
// down: it waits for everybody's writes.
func Syncfs(fd int) error {
	if skipSync("fs") {
		return nil
	}
	watchSync("syncfs", fd)
	return do("syncfs", strconv.Itoa(fd), func() error { return unix.Syncfs(fd) })
}

// Fchmod sets permission bits of an open file.
func Fchmod(fd int, mode uint32) error {
	return watchPath("fchmod", ProcPath(fd))(do("fchmod", strconv.Itoa(fd), func() error { return unix.Fchmod(fd, mode&0o7777) }))
}

// Fchown sets the owner of an open file; it clears set-id bits, so that it comes
// before Fchmod (chown(2)).
func Fchown(fd, uid, gid int) error {
	return watchPath("fchown", ProcPath(fd))(do("fchown", strconv.Itoa(fd), func() error { return unix.Fchown(fd, uid, gid) }))
}

// Fchownat sets the owner of a name, of a link itself if it is one.
func Fchownat(dir int, name string, uid, gid int) error {
	return watchName("fchownat", dir, name)(do("fchownat", name, func() error {
		return unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// Fchmodat sets the permission bits of a name that is not a link. A link put in
// its place meanwhile is refused with ELOOP rather than followed.
func Fchmodat(dir int, name string, mode uint32) error {
	return watchName("fchmodat", dir, name)(do("fchmodat", name, func() error {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return unix.ELOOP
		}
		// fchmod(2) refuses an O_PATH descriptor; its name in /proc does not.
		return unix.Chmod(ProcPath(fd), mode&0o7777)
	}))
}

// Utimes sets the modification time of a name (of a link itself if it is one),
// in nanoseconds since 1970, and leaves the access time alone.
func Utimes(dir int, name string, mtimeNS int64) error {
	return watchName("utimensat", dir, name)(do("utimensat", name, func() error {
		ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtimeNS)}
		return unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// Futimes is Utimes for an open file or directory.
func Futimes(fd int, mtimeNS int64) error {
	return watchPath("futimens", ProcPath(fd))(do("futimens", strconv.Itoa(fd), func() error {
		ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtimeNS)}
		return unix.UtimesNanoAt(unix.AT_FDCWD, ProcPath(fd), ts, 0)
	}))
}

// Lsetxattr sets an extended attribute; path is usually a ProcPath, or a
// ProcPath of a directory with one name behind it.
func Lsetxattr(path, name string, value []byte) error {
	return watchPath("setxattr", path)(do("setxattr", name, func() error { return unix.Lsetxattr(path, name, value, 0) }))
}

// Setxattr is Lsetxattr that follows the last link: for a ProcPath.
func Setxattr(path, name string, value []byte) error {
	return watchPath("setxattr", path)(do("setxattr", name, func() error { return unix.Setxattr(path, name, value, 0) }))
}

// Removexattr removes an extended attribute; see Setxattr.
func Removexattr(path, name string) error {
	return watchPath("removexattr", path)(do("removexattr", name, func() error { return unix.Removexattr(path, name) }))
}

// ProcPath names an open descriptor in /proc, for calls that take only paths.
func ProcPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
