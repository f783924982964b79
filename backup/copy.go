package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// Copy is the store for any file system: each snapshot is a folder with a plain
// copy of the tree. Where the jail lies on the same file system and that can
// share blocks (XFS, btrfs), larger files share theirs (FICLONE); an inode is
// never shared.
//
//	DIR/ID/tree/           the copy
//	DIR/ID/manifest.jsonl  one line per entry, parents first, names in byte order
//	DIR/ID/meta.json       Meta and its digest
//	DIR/.ID.partial/       not yet sealed; seen.json and seen.jsonl are for Resume
//	DIR/.ID.removed/       about to go
type Copy struct {
	dir string
	fd  *os.File
}

const (
	treeName     = "tree"
	manifestName = "manifest.jsonl"
	metaName     = "meta.json"
	seenName     = "seen.jsonl"
	noteName     = "seen.json"
	partial      = ".partial"
	removed      = ".removed"
)

// NewCopy opens the store in dir, and makes the folder (0700) if it is missing.
// A folder that others may write, or of another owner, is refused: whoever can
// change a snapshot can change what a rollback installs.
func NewCopy(dir string) (*Copy, error) {
	if err := sys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open the snapshot folder %s: %w", dir, err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the snapshot folder %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	st, err := jail.Fstat(fd)
	if err == nil && int(st.UID) != os.Geteuid() {
		err = fmt.Errorf("it belongs to user %d", st.UID)
	}
	if err == nil && st.Perm()&0o022 != 0 {
		err = fmt.Errorf("others may write to it (mode %04o)", st.Perm())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use the snapshot folder %s: %w", dir, err)
	}
	return &Copy{dir: dir, fd: f}, nil
}

// Kind returns "copy".
func (s *Copy) Kind() string { return "copy" }

// Dir returns the store's folder.
func (s *Copy) Dir() string { return s.dir }

// Close releases the store's descriptor.
func (s *Copy) Close() error { return s.fd.Close() }

func (s *Copy) at() int { return int(s.fd.Fd()) }

// Begin implements Store.
func (s *Copy) Begin(ctx context.Context, src *jail.Root, id string, opts CopyOptions) (*Pending, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	fail := func(err error) error { return fmt.Errorf("cannot make snapshot %s in %s: %w", id, s.dir, err) }
	ex, err := newExcluder(opts.Exclude)
	if err != nil {
		return nil, err
	}
	if err := s.outside(src); err != nil {
		return nil, fail(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(s.at(), id, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return nil, fail(ErrExist)
	}
	p, err := s.newPending(id)
	if err != nil {
		return nil, fail(err)
	}
	p.opts, p.ex = opts, ex
	if err := p.begin(ctx, src); err != nil {
		// The undo does not inherit a cancelled context.
		return nil, errors.Join(fail(err), p.Drop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// outside refuses a store that lies in the jail: the copy would copy itself.
func (s *Copy) outside(src *jail.Root) error {
	real, err := filepath.EvalSymlinks(s.dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return err
	}
	for p := real; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return err
		}
		if dev, ino := src.DevIno(); st.Ino == ino && uint64(st.Dev) == dev {
			return errors.New("the snapshot folder lies in the jail itself")
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// newPending makes the folder of a copy and locks it.
func (s *Copy) newPending(id string) (*Pending, error) {
	name := "." + id + partial
	if err := sys.Mkdirat(s.at(), name, 0o700); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("%w: an interrupted copy of that name is there", ErrExist)
		}
		return nil, err
	}
	p, err := s.openPending(id)
	if err != nil {
		return nil, errors.Join(err, sys.RemoveTree(s.at(), name))
	}
	err = p.makeTree()
	if err != nil {
		return nil, errors.Join(err, p.Drop(context.Background()))
	}
	return p, nil
}

// openPending opens and locks the folder of an unsealed copy.
func (s *Copy) openPending(id string) (*Pending, error) {
	fd, err := openat2(s.at(), "."+id+partial, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	// A kernel lock: it ends with the process, however that ends.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		return nil, ErrBusy
	}
	return &Pending{store: s, id: id, fd: os.NewFile(uintptr(fd), id), tree: -1}, nil
}

// Resume implements Store.
func (s *Copy) Resume(ctx context.Context, id string) (*Pending, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	fail := func(err error) error { return fmt.Errorf("cannot take up snapshot %s in %s: %w", id, s.dir, err) }
	p, err := s.openPending(id)
	if errors.Is(err, unix.ENOENT) {
		return nil, fail(ErrNotFound)
	}
	if err != nil {
		return nil, fail(err)
	}
	if err := p.resume(); err != nil {
		p.close()
		return nil, fail(fmt.Errorf("%w: %v", ErrNotResumable, err))
	}
	return p, nil
}

// List implements Store.
func (s *Copy) List(ctx context.Context) ([]Meta, error) {
	names, err := s.names()
	if err != nil {
		return nil, fmt.Errorf("cannot list the snapshots in %s: %w", s.dir, err)
	}
	var all []Meta
	for _, name := range names {
		if validID(name) != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		fd, err := openat2(s.at(), name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			continue // a file, or removed meanwhile
		}
		m, err := readMeta(fd, name)
		unix.Close(fd)
		if errors.Is(err, unix.ENOENT) {
			var st unix.Stat_t
			if unix.Fstatat(s.at(), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
		}
		if err != nil {
			m = Meta{ID: name, Broken: err.Error()}
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Meta) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

func (s *Copy) names() ([]string, error) {
	fd, err := openDir(s.at(), "")
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names, _, err := readNames(fd, make([]byte, 32<<10))
	return names, err
}

// Open implements Store.
func (s *Copy) Open(ctx context.Context, id string) (*Snapshot, error) {
	if err := validID(id); err != nil {
		return nil, err
	}
	fail := func(err error) error { return fmt.Errorf("cannot open snapshot %s in %s: %w", id, s.dir, err) }
	fd, err := openat2(s.at(), id, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil, fail(ErrNotFound)
	}
	if err != nil {
		return nil, fail(err)
	}
	snap := &Snapshot{fd: os.NewFile(uintptr(fd), id), path: filepath.Join(s.dir, id)}
	if snap.meta, err = readMeta(fd, id); err == nil {
		err = snap.checkManifest()
	}
	if err != nil {
		snap.Close()
		return nil, fail(err)
	}
	return snap, nil
}

// Remove implements Store.
func (s *Copy) Remove(ctx context.Context, id string) error {
	if err := validID(id); err != nil {
		return err
	}
	gone := "." + id + removed
	err := sys.RemoveTree(s.at(), gone) // of an earlier, interrupted Remove
	if err == nil {
		err = sys.Renameat2(s.at(), id, s.at(), gone, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
	}
	if err == nil {
		err = sys.FsyncDir(s.at())
	}
	if err == nil {
		err = sys.RemoveTree(s.at(), gone)
	}
	if err != nil {
		return fmt.Errorf("cannot remove snapshot %s in %s: %w", id, s.dir, err)
	}
	return nil
}

// Sweep implements Store.
func (s *Copy) Sweep(ctx context.Context) ([]string, error) {
	names, err := s.names()
	if err != nil {
		return nil, fmt.Errorf("cannot sweep %s: %w", s.dir, err)
	}
	slices.Sort(names)
	var swept []string
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return swept, err
		}
		id, isPartial := strings.CutSuffix(strings.TrimPrefix(name, "."), partial)
		id, isRemoved := strings.CutSuffix(id, removed)
		if name[0] != '.' || isPartial == isRemoved || validID(id) != nil {
			continue
		}
		if isPartial {
			p, err := s.openPending(id)
			if errors.Is(err, ErrBusy) || errors.Is(err, unix.ENOENT) {
				continue
			}
			if err == nil {
				err = p.Drop(ctx)
			}
			if err != nil {
				return swept, fmt.Errorf("cannot sweep %s: %w", s.dir, err)
			}
		} else if err := sys.RemoveTree(s.at(), name); err != nil {
			return swept, fmt.Errorf("cannot sweep %s: %w", s.dir, err)
		}
		swept = append(swept, id)
	}
	return swept, nil
}

// metaFile guards the meta data against a flipped bit: sha256 is that of the
// bytes of meta.
type metaFile struct {
	Meta   json.RawMessage `json:"meta"`
	SHA256 string          `json:"sha256"`
}

func now() time.Time { return time.Now().UTC() }
