// Package jail is the only room that opens a path or runs a program inside a
// jail.
//
// Whatever lies in a jail may have been written by an attacker. Every path in it
// is resolved by the kernel as the jail's own root would resolve it, relative to
// one descriptor (openat2(2), RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS), and
// jailup then acts on descriptors, never on joined path strings. Whatever may
// write also refuses to cross a mount (RESOLVE_NO_XDEV).
//
// Paths are slash paths as the jail sees them: "/etc/nginx/nginx.conf".
package jail

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/wall"
)

// Root is an open jail. It is safe for concurrent use; after Close every call
// fails.
type Root struct {
	dir  *os.File
	host *os.File // the same directory on the host's mounts; nil where dir is
	path string
	dev  uint64
	ino  uint64
	mnt  uint64
}

// Info is what lstat(2) tells, with times in nanoseconds since 1970.
type Info struct {
	Mode      uint32 // type (S_IFMT) and permission bits
	UID, GID  uint32
	Size      int64
	MtimeNS   int64
	CtimeNS   int64
	Ino, Dev  uint64
	Rdev      uint64
	Nlink     uint32
	Blocks    int64 // of 512 bytes, that it takes on disk
	MountID   uint64
	Immutable bool // chattr +i
	Append    bool // chattr +a
}

// IsRegular tells whether it is a regular file.
func (i Info) IsRegular() bool { return i.Mode&unix.S_IFMT == unix.S_IFREG }

// IsDir tells whether it is a directory.
func (i Info) IsDir() bool { return i.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsSymlink tells whether it is a symbolic link.
func (i Info) IsSymlink() bool { return i.Mode&unix.S_IFMT == unix.S_IFLNK }

// Perm returns the permission bits, set-id and sticky bits included.
func (i Info) Perm() uint32 { return i.Mode & 0o7777 }

// Type returns the S_IFMT bits.
func (i Info) Type() uint32 { return i.Mode & unix.S_IFMT }

// TypeName says the type in the field's words.
func TypeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "link"
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return "unknown"
}

// Open opens the directory that is the jail's root. Links in dir itself are
// followed once, here: the result is one fixed directory.
func Open(dir string) (*Root, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open jail %s: %w", dir, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, fmt.Errorf("cannot open jail %s: %w", dir, plain(err))
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, real, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open jail %s: %w", dir, err)
	}
	r := &Root{dir: os.NewFile(uintptr(fd), real), path: real}
	info, err := statx(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("cannot open jail %s: %w", dir, err)
	}
	r.dev, r.ino, r.mnt = info.Dev, info.Ino, info.MountID
	if w := wall.Inside(); w != nil && w.Mounts() {
		if r.host, err = r.onHost(); err != nil {
			r.Close()
			return nil, fmt.Errorf("cannot open jail %s: %w", dir, err)
		}
	}
	return r, nil
}

// onHost opens the root once more where it lies on the host's own mounts: those
// of this process are read-only for the most part, nosuid and nodev, and what is
// started in the jail shall live on none of them.
func (r *Root) onHost() (f *os.File, err error) {
	err = wall.Host(func() error {
		fd, err := unix.Openat2(unix.AT_FDCWD, r.path, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), r.path)
		info, err := Fstat(fd)
		if err == nil && (info.Dev != r.dev || info.Ino != r.ino) {
			err = errors.New("another directory has taken its place")
		}
		if err != nil {
			f.Close()
		}
		return err
	})
	return f, err
}

// OnHost is the same root on the host's own mounts, where a second wall does not
// stand; r itself where there is none. It is closed with r.
func (r *Root) OnHost() *Root {
	if r.host == nil {
		return r
	}
	h := *r
	h.dir, h.host = r.host, nil
	if info, err := Fstat(int(h.dir.Fd())); err == nil {
		h.mnt = info.MountID
	}
	return &h
}

// plain takes the path out of an error that will be named by its caller.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Close releases the descriptors. A second call returns an error.
func (r *Root) Close() error {
	if r.host != nil {
		r.host.Close()
	}
	return r.dir.Close()
}

// Path returns the jail's real path on the host. It is for messages: whoever
// joins something to it has left the jail's protection.
func (r *Root) Path() string { return r.path }

// Fd returns the descriptor of the root directory, good as long as r is open.
func (r *Root) Fd() int { return int(r.dir.Fd()) }

// HostFd is Fd for what is started in the jail: the directory as the host has it
// mounted.
func (r *Root) HostFd() int {
	if r.host != nil {
		return int(r.host.Fd())
	}
	return r.Fd()
}

// DevIno identifies the root directory now, as stat of /proc/PID/root/. shows it
// for a process that is chrooted into it.
func (r *Root) DevIno() (dev, ino uint64) { return r.dev, r.ino }

// MountID is the mount that the root directory lies on (STATX_MNT_ID).
func (r *Root) MountID() uint64 { return r.mnt }

func rel(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

func wrap(op, p string, err error) error {
	return &fs.PathError{Op: op, Path: p, Err: err}
}

const resolveIn = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// open resolves p in the jail. openat2 answers EAGAIN when ".." was walked and a
// rename raced with it, anywhere on the machine; it is tried again with growing
// pauses, for half a second: somebody who renames all the time must not make a
// path look as if it were not there.
func (r *Root) open(p string, flags, resolve uint64) (int, error) {
	if naive() {
		return r.openNaively(p, flags)
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	var err error
	for try := range 100 {
		var fd int
		fd, err = unix.Openat2(r.Fd(), rel(p), &how)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
		time.Sleep(time.Duration(try) * 100 * time.Microsecond)
	}
	return -1, err
}

func statx(fd int, name string, flags int) (Info, error) {
	var st unix.Statx_t
	mask := unix.STATX_BASIC_STATS | unix.STATX_MNT_ID
	for {
		err := unix.Statx(fd, name, flags|unix.AT_STATX_SYNC_AS_STAT, mask, &st)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Info{}, err
		}
		break
	}
	return Info{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Size: int64(st.Size),
		MtimeNS: st.Mtime.Sec*1e9 + int64(st.Mtime.Nsec),
		CtimeNS: st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec),
		Ino:     st.Ino, Dev: unix.Mkdev(st.Dev_major, st.Dev_minor),
		Rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor), Nlink: st.Nlink, Blocks: int64(st.Blocks), MountID: st.Mnt_id,
		Immutable: st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0,
		Append:    st.Attributes&unix.STATX_ATTR_APPEND != 0,
	}, nil
}

// StatAt is lstat of a name in an open directory.
func StatAt(dir int, name string) (Info, error) {
	return statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
}

// Fstat is fstat of a descriptor.
func Fstat(fd int) (Info, error) { return statx(fd, "", unix.AT_EMPTY_PATH) }

// Lstat describes p itself; links before its last name are followed.
func (r *Root) Lstat(p string) (Info, error) { return r.stat("lstat", p, unix.O_NOFOLLOW) }

// Stat describes what p leads to.
func (r *Root) Stat(p string) (Info, error) { return r.stat("stat", p, 0) }

func (r *Root) stat(op, p string, flags uint64) (Info, error) {
	fd, err := r.open(p, unix.O_PATH|flags, resolveIn)
	if err != nil {
		return Info{}, wrap(op, p, err)
	}
	defer unix.Close(fd)
	info, err := Fstat(fd)
	if err != nil {
		return Info{}, wrap(op, p, err)
	}
	return info, nil
}

// Exists tells whether the name is there, be it a dangling link.
func (r *Root) Exists(p string) bool {
	_, err := r.Lstat(p)
	return err == nil
}

// ErrNotRegular says that a path leads to something that is no regular file: a
// FIFO, a device, a directory, or a file of a kernel file system.
var ErrNotRegular = errors.New("not a regular file")

// pseudo are file systems whose files are the kernel's switches, or block.
var pseudo = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.DEBUGFS_MAGIC: true,
	unix.TRACEFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
	unix.SECURITYFS_MAGIC: true, unix.BPF_FS_MAGIC: true, unix.DEVPTS_SUPER_MAGIC: true,
	unix.BINFMTFS_MAGIC: true, unix.EFIVARFS_MAGIC: true,
}

// OpenFile opens a regular file for reading. It follows links as the jail would,
// never waits (on a FIFO, say), and never opens a device or a file of procfs or
// sysfs: those are ErrNotRegular.
func (r *Root) OpenFile(p string) (*os.File, error) {
	// Looked at first through O_PATH, because opening a device can have effects.
	pathFd, err := r.open(p, unix.O_PATH, resolveIn)
	if err != nil {
		return nil, wrap("open", p, err)
	}
	defer unix.Close(pathFd)
	return reopen(pathFd, p)
}

// OpenFIFO opens a FIFO to write, without waiting: ENXIO where nobody reads from it.
// It follows links as the jail would; what is no FIFO is not opened.
func (r *Root) OpenFIFO(p string) (*os.File, error) {
	pathFd, err := r.open(p, unix.O_PATH, resolveIn)
	if err != nil {
		return nil, wrap("open", p, err)
	}
	defer unix.Close(pathFd)
	info, err := Fstat(pathFd)
	if err == nil && info.Mode&unix.S_IFMT != unix.S_IFIFO {
		err = unix.ENOTSUP
	}
	if err != nil {
		return nil, wrap("open", p, err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", pathFd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, wrap("open", p, err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

func regular(fd int) error {
	info, err := Fstat(fd)
	if err != nil {
		return err
	}
	if !info.IsRegular() {
		return ErrNotRegular
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return err
	}
	if pseudo[int64(sfs.Type)] {
		return ErrNotRegular
	}
	return nil
}

// OpenAt opens a regular file of that name in an open directory for reading,
// without following a link. Like OpenFile it looks before it opens: a device that
// was put in the file's place a moment ago is not opened.
func OpenAt(dir int, name string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	pathFd, err := sys.Openat2(dir, name, &how)
	if err != nil {
		return nil, wrap("open", name, err)
	}
	defer unix.Close(pathFd)
	return reopen(pathFd, name)
}

// reopen opens for reading what an O_PATH descriptor names, where that is a
// regular file.
func reopen(pathFd int, p string) (*os.File, error) {
	if err := regular(pathFd); err != nil {
		return nil, wrap("open", p, err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", pathFd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, wrap("open", p, err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

// ReadFile reads a regular file of at most limit bytes; a longer one is an error.
func (r *Root) ReadFile(p string, limit int64) ([]byte, error) {
	f, err := r.OpenFile(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, wrap("read", p, fmt.Errorf("longer than %d bytes", limit))
	}
	return data, nil
}

// Readlink returns the target of a link, as it is written in it.
func (r *Root) Readlink(p string) (string, error) {
	fd, err := r.open(p, unix.O_PATH|unix.O_NOFOLLOW, resolveIn)
	if err != nil {
		return "", wrap("readlink", p, err)
	}
	defer unix.Close(fd)
	target, err := ReadlinkAt(fd, "")
	if errors.Is(err, unix.ENOENT) {
		err = unix.EINVAL // what readlinkat(2) says of a descriptor that is no link's
	}
	if err != nil {
		return "", wrap("readlink", p, err)
	}
	return target, nil
}

// ReadlinkAt is readlinkat(2); an empty name reads the link that dir itself is.
func ReadlinkAt(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// ReadDir returns the names in a directory, sorted, without "." and "..".
func (r *Root) ReadDir(p string) ([]string, error) {
	d, err := r.openDir(p, resolveIn)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, wrap("readdir", p, plain(err))
	}
	sort.Strings(names)
	return names, nil
}

func (r *Root) openDir(p string, resolve uint64) (*os.File, error) {
	fd, err := r.open(p, unix.O_RDONLY|unix.O_DIRECTORY, resolve)
	if err != nil {
		return nil, wrap("open", p, err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

// OpenDir opens a directory of the jail to act in it (renames, new names). It
// never crosses a mount: with /proc mounted in the jail, a link planted in place
// of /etc must not aim a write at the kernel.
func (r *Root) OpenDir(p string) (*os.File, error) {
	return r.openDir(p, resolveIn|unix.RESOLVE_NO_XDEV)
}

// OpenPhysical opens a directory by its physical path, to act in it: a link that
// was put in a parent's place since the path was found is refused (ELOOP),
// wherever it leads.
func (r *Root) OpenPhysical(p string) (*os.File, error) {
	return r.openDir(p, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// OpenParent opens the directory that holds p, as OpenDir does, and returns the
// last name of p.
func (r *Root) OpenParent(p string) (*os.File, string, error) {
	clean := path.Clean("/" + p)
	if clean == "/" {
		return nil, "", wrap("open", p, errors.New("the jail's root has no parent"))
	}
	d, err := r.OpenDir(path.Dir(clean))
	if err != nil {
		return nil, "", err
	}
	return d, path.Base(clean), nil
}

// RealPath resolves every link of p and returns where it leads, as the jail sees
// it.
func (r *Root) RealPath(p string) (string, error) {
	fd, err := r.open(p, unix.O_PATH, resolveIn)
	if err != nil {
		return "", wrap("resolve", p, err)
	}
	defer unix.Close(fd)
	return r.nameOf(fd, p)
}

// nameOf asks the kernel for the path of a descriptor and for that of the root,
// and takes one from the other: both answers move together when somebody
// renames a parent of the jail.
func (r *Root) nameOf(fd int, p string) (string, error) {
	if naive() {
		return path.Clean("/" + p), nil
	}
	for range 5 {
		root, err := ReadlinkAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", r.Fd()))
		if err != nil {
			return "", wrap("resolve", p, err)
		}
		got, err := ReadlinkAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			return "", wrap("resolve", p, err)
		}
		if got == root {
			return "/", nil
		}
		if rest, ok := strings.CutPrefix(got, strings.TrimSuffix(root, "/")+"/"); ok {
			return "/" + rest, nil
		}
	}
	return "", wrap("resolve", p, errors.New("its name in the jail cannot be told"))
}

// Physical resolves the parent of p and keeps the last name: two paths with the
// same physical path are one name on disk. Parents that do not exist are kept as
// written.
func (r *Root) Physical(p string) (string, error) {
	clean := path.Clean("/" + p)
	if clean == "/" {
		return "/", nil
	}
	parent, base := path.Split(clean)
	parent = path.Clean(parent)
	real, err := r.RealPath(parent)
	if errors.Is(err, fs.ErrNotExist) {
		if info, lerr := r.Lstat(parent); lerr == nil && info.IsSymlink() {
			return "", wrap("resolve", p, errors.New("a link on the way leads nowhere"))
		}
		real, err = r.Physical(parent)
	}
	if err != nil {
		return "", err
	}
	return path.Join(real, base), nil
}
