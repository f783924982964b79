package sys

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Openat2 is openat2(2), which answers EAGAIN when a rename anywhere on the machine
// raced with its walk: it is tried again, 200 times at the most. It is for what
// changes nothing: there is no fault point.
func Openat2(dir int, path string, how *unix.OpenHow) (fd int, err error) {
	for range 200 {
		fd, err = unix.Openat2(dir, path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}

// OpenDirBeneath opens a directory in an open one, and nothing else: EXDEV where
// something is mounted on it, ELOOP or ENOTDIR where it is a link or no directory.
func OpenDirBeneath(dir int, name string) (fd int, err error) {
	return Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}
