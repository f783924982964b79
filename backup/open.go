package backup

import (
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// beneath keeps a walk inside the tree: no link, no "..", no mount.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func openat2(at int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: beneath}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(at, name, &how)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN) && tries < 200:
		case errors.Is(err, unix.EPERM) && how.Flags&unix.O_NOATIME != 0:
			how.Flags &^= unix.O_NOATIME // only the owner may (open(2))
		default:
			return fd, err
		}
	}
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOATIME

// openDir opens the directory at a relative path of any length: the kernel takes
// 4 KB at once, so longer ones are walked in pieces. "" is at itself, reopened.
func openDir(at int, rel string) (int, error) {
	if rel == "" {
		rel = "."
	}
	const most = 4000
	from, opened := at, -1
	for len(rel) > most {
		cut := strings.LastIndexByte(rel[:most], '/')
		fd, err := openat2(from, rel[:cut], unix.O_PATH|unix.O_DIRECTORY)
		if opened >= 0 {
			unix.Close(opened)
		}
		if err != nil {
			return -1, err
		}
		from, opened = fd, fd
		rel = rel[cut+1:]
	}
	fd, err := openat2(from, rel, dirFlags)
	if opened >= 0 {
		unix.Close(opened)
	}
	return fd, err
}

// openSeen opens the regular file behind an O_PATH descriptor for reading. That
// way what was looked at is what is opened, and never a device or a FIFO that
// was put in its place. Somebody's lease on the file (fcntl(2)) is waited for:
// the kernel breaks it after /proc/sys/fs/lease-break-time, 45 s.
//
// proc is /proc/self/fd, open: half the cost of the whole path.
func openSeen(proc, fd int, done <-chan struct{}) (int, error) {
	name := strconv.Itoa(fd)
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NOATIME
	for start := time.Now(); ; {
		f, err := unix.Openat(proc, name, flags, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EPERM) && flags&unix.O_NOATIME != 0:
			flags &^= unix.O_NOATIME
		case errors.Is(err, unix.EWOULDBLOCK) && time.Since(start) < time.Minute:
			select {
			case <-done:
				return -1, unix.EINTR
			case <-time.After(10 * time.Millisecond):
			}
		default:
			return f, err
		}
	}
}

// gone tells errors that only say that the name is no longer what it was: no
// error before the server is stopped, and then the entry is not there.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE)
}

// handle is an open directory of the source and its copy, shared by whoever
// still opens something from it.
type handle struct {
	d      *dir
	src    int
	dst    atomic.Int32 // -1 until it is needed, and where nothing is copied
	refs   atomic.Int32
	anchor bool
}

func newHandle(d *dir, src int) *handle {
	h := &handle{d: d, src: src}
	h.dst.Store(-1)
	h.refs.Store(1)
	return h
}

func (e *engine) hold(h *handle) *handle {
	h.refs.Add(1)
	return h
}

func (e *engine) drop(h *handle) {
	if h.refs.Add(-1) > 0 {
		return
	}
	if h.anchor {
		e.anchors.Add(-1)
	}
	if h.src >= 0 {
		unix.Close(h.src)
	}
	if dst := h.dst.Load(); dst >= 0 {
		unix.Close(int(dst))
	}
}

// readNames lists an open directory from its beginning, with the d_type of each
// name (a hint, DT_UNKNOWN on some file systems).
func readNames(fd int, buf []byte) (names []string, types []byte, err error) {
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			return names, types, nil
		}
		for b := buf[:n]; len(b) > 0; {
			// struct linux_dirent64, getdents64(2): ino 8, off 8, reclen 2, type 1, name
			reclen := int(hostUint16(b[16:]))
			name := b[19:reclen]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if s := string(name); s != "." && s != ".." {
				names = append(names, s)
				types = append(types, b[18])
			}
			b = b[reclen:]
		}
	}
}
