package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// MakeTemp makes the folder name, mode 0700, in the open directory and locks it:
// as long as the returned file is open, SweepTemp leaves it alone, and when the
// process is gone, however it went, it does not. An existing name is an error.
func MakeTemp(dir *os.File, name string) (*os.File, error) {
	there := false
	for range 1000 {
		if !there {
			if err := Mkdirat(int(dir.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("cannot make folder %s: %w", filepath.Join(dir.Name(), name), err)
			}
		}
		f, err := lockTemp(dir, name)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.ENOENT):
			there = false // swept before it was locked
		case errors.Is(err, unix.EWOULDBLOCK):
			there = true // it is about to be swept, and only then may the name be used again
			time.Sleep(5 * time.Millisecond)
		default:
			return nil, fmt.Errorf("cannot lock folder %s: %w", filepath.Join(dir.Name(), name), err)
		}
	}
	return nil, fmt.Errorf("cannot lock folder %s: somebody else has it", filepath.Join(dir.Name(), name))
}

// SweepTemp removes those folders in dir that ours accepts by their name, that
// belong to this user, and that nobody has locked: what MakeTemp made for a
// process that was killed. Links, files and mount points are never ours. It goes
// on after an error and returns all of them.
func SweepTemp(dir *os.File, ours func(name string) bool) error {
	list, err := os.ReadDir(ProcPath(int(dir.Fd())))
	if err != nil {
		return fmt.Errorf("cannot sweep %s: %w", dir.Name(), err)
	}
	var errs []error
	for _, e := range list {
		if !e.IsDir() || !ours(e.Name()) {
			continue
		}
		f, err := lockTemp(dir, e.Name())
		switch {
		case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.ENOENT), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EXDEV):
			continue
		case err == nil:
			err = RemoveTree(int(dir.Fd()), e.Name())
			f.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot remove %s, which a killed run left: %w", filepath.Join(dir.Name(), e.Name()), err))
		}
	}
	return errors.Join(errs...)
}

// lockTemp opens and locks a folder of this user; EWOULDBLOCK says that another
// has the lock, ENOENT that the name is gone or another's by now.
func lockTemp(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	err = func() error {
		if err := retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
			return err
		}
		var mine, there unix.Stat_t
		if err := unix.Fstat(fd, &mine); err != nil {
			return err
		}
		if int(mine.Uid) != os.Geteuid() {
			return unix.EPERM
		}
		if err := unix.Fstatat(int(dir.Fd()), name, &there, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if mine.Dev != there.Dev || mine.Ino != there.Ino {
			return unix.ENOENT
		}
		return nil
	}()
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
