package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/sys"
)

// Restore writes the whole tree into a new folder, which gets its name when it
// is complete, compared with the manifest while it was copied, and durable. A
// folder that is there must be empty; its parent must exist. A mount point
// becomes an empty folder.
func (s *Snapshot) Restore(ctx context.Context, into string) (err error) {
	fail := func(err error) error {
		return fmt.Errorf("cannot restore snapshot %s into %s: %w", s.meta.ID, into, err)
	}
	abs, err := filepath.Abs(into)
	if err != nil {
		return fail(err)
	}
	want, err := s.load()
	if err != nil {
		return fail(err)
	}
	parent, err := sys.OpenDir(filepath.Dir(abs))
	if err != nil {
		return fail(err)
	}
	defer parent.Close()
	at, name := int(parent.Fd()), filepath.Base(abs)
	if err := vacant(at, name); err != nil {
		return fail(err)
	}
	tmp := sys.TempName(name)
	if err := sys.Mkdirat(at, tmp, 0o700); err != nil {
		return fail(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sys.RemoveTree(at, tmp))
		}
	}()
	if err := s.copyOut(ctx, at, tmp, want); err != nil {
		return fail(err)
	}
	// Plain rename takes the place of an empty folder, and of nothing else.
	if err := sys.Renameat2(at, tmp, at, name, 0); err != nil {
		return fail(err)
	}
	if err := sys.FsyncDir(at); err != nil {
		return fail(err)
	}
	return nil
}

func (s *Snapshot) copyOut(ctx context.Context, at int, tmp string, want *dir) error {
	tree, err := s.open(treeName, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer tree.Close()
	fd, err := openat2(at, tmp, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A default ACL of the folder above is not part of the tree.
	if err := setXattrs(sys.ProcPath(fd), nil, true); err != nil {
		return err
	}
	e, err := newEngine(ctx, int(tree.Fd()), fd)
	if err != nil {
		return err
	}
	e.cloning.Store(true)
	have := newDir(nil, &item{mode: unix.S_IFDIR})
	if err := e.run(have, 0); err != nil {
		return err
	}
	have.number()
	if bad := compare(want, have); len(bad) > 0 {
		return fmt.Errorf("the snapshot is damaged at %s (%d in all); see jailup snapshot verify", show(bad[0].path), len(bad))
	}
	return sys.Syncfs(fd)
}

// vacant tells whether name is free, or an empty directory.
func vacant(at int, name string) error {
	fd, err := openat2(at, name, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return errors.New("it is there and no folder")
	case errors.Is(err, unix.EXDEV):
		return errors.New("something is mounted there")
	case err != nil:
		return err
	}
	defer unix.Close(fd)
	names, _, err := readNames(fd, make([]byte, 4096))
	if err == nil && len(names) > 0 {
		err = errors.New("it is there and not empty")
	}
	return err
}
