// Package fileset decides which files of packages a jail shall hold, where they
// lie in it, and what becomes of its configuration. It turns unpacked packages
// into the wishes that a changeset is computed from.
package fileset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// Stage is the private folder on the jail's own file system that holds the new
// files before, and the old ones after, an install. Its names are numbers:
// nothing that a package says ever becomes a path in it.
type Stage struct {
	dir     *os.File
	next    int
	written int64
}

// MakeStage makes a stage that no jail has, in a folder of jailup's own. One that
// is there already is opened, if it is jailup's own: see Stages. Missing parents
// are made.
func MakeStage(path string) (*Stage, error) {
	if err := sys.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	s, name, err := lone(path)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Make(name)
}

// OpenStage opens what MakeStage made.
func OpenStage(path string) (*Stage, error) {
	s, name, err := lone(path)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Open(name)
}

// lone opens the folder of a stage that has no Stages.
func lone(path string) (*Stages, string, error) {
	parent, err := sys.OpenDir(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	return &Stages{dir: parent, path: filepath.Dir(path)}, filepath.Base(path), nil
}

// Dir returns the open folder.
func (s *Stage) Dir() *os.File { return s.dir }

// Close releases the folder; what is in it stays.
func (s *Stage) Close() error { return s.dir.Close() }

// RemoveStage removes what MakeStage made and all in it. A missing one is no
// error.
func RemoveStage(path string) error {
	s, name, err := lone(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Remove(name)
}

// Meta is what a staged file gets besides its content.
type Meta struct {
	Perm     uint32
	UID, GID int
	MtimeNS  int64
	Xattrs   map[string]string
}

// Put writes a regular file of exactly size bytes and returns its name and
// state. It is not durable before Sync.
func (s *Stage) Put(r io.Reader, size int64, m Meta) (string, changeset.State, error) {
	name := s.name()
	f, err := sys.Create(int(s.dir.Fd()), name, 0o600)
	if err != nil {
		return "", changeset.State{}, fmt.Errorf("cannot stage a file: %w", err)
	}
	defer f.Close()
	st, err := s.fill(f, r, size, m)
	if err != nil {
		_ = sys.Unlinkat(int(s.dir.Fd()), name, 0)
		return "", changeset.State{}, fmt.Errorf("cannot stage a file: %w", err)
	}
	s.written += (size + block - 1) / block * block
	return name, st, nil
}

// block is what a file system gives to a file at a time, most often.
const block = 4096

// Written is what the files take that were put here, in bytes, those included that
// Keep has removed since: the room that the stage needed for a while.
func (s *Stage) Written() int64 { return s.written }

func (s *Stage) name() string {
	for {
		s.next++
		name := fmt.Sprintf("%06d", s.next)
		var st unix.Stat_t
		if unix.Fstatat(int(s.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			return name // a stage that is opened again goes on behind what it holds
		}
	}
}

func (s *Stage) fill(f *os.File, r io.Reader, size int64, m Meta) (changeset.State, error) {
	h := sha256.New()
	buf := make([]byte, min(max(size, 1), 1<<20))
	var n int64
	for n < size {
		k, err := io.ReadFull(r, buf[:min(int64(len(buf)), size-n)])
		if k > 0 {
			h.Write(buf[:k])
			if werr := sys.Write(f, buf[:k]); werr != nil {
				return changeset.State{}, werr
			}
			n += int64(k)
		}
		if err != nil && n < size {
			return changeset.State{}, err
		}
	}
	fd := int(f.Fd())
	if err := sys.Fchown(fd, m.UID, m.GID); err != nil {
		return changeset.State{}, err
	}
	if err := sys.Fchmod(fd, m.Perm); err != nil {
		return changeset.State{}, err
	}
	xattrs := map[string][]byte{}
	for k, v := range m.Xattrs {
		if err := sys.Setxattr(sys.ProcPath(fd), k, []byte(v)); err != nil {
			return changeset.State{}, err
		}
		xattrs[k] = []byte(v)
	}
	if err := sys.Futimes(fd, m.MtimeNS); err != nil {
		return changeset.State{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return changeset.State{}, err
	}
	return changeset.State{
		Mode: unix.S_IFREG | m.Perm&0o7777, UID: uint32(m.UID), GID: uint32(m.GID), Size: size,
		MtimeNS: m.MtimeNS, Ino: st.Ino, SHA256: hex.EncodeToString(h.Sum(nil)), Xattrs: xattrs,
	}, nil
}

// PutLink makes a symbolic link and returns its name and state.
func (s *Stage) PutLink(target string, m Meta) (string, changeset.State, error) {
	name, dir := s.name(), int(s.dir.Fd())
	if err := sys.Symlinkat(target, dir, name); err != nil {
		return "", changeset.State{}, fmt.Errorf("cannot stage a link: %w", err)
	}
	if m.UID != 0 || m.GID != 0 {
		if err := sys.Fchownat(dir, name, m.UID, m.GID); err != nil {
			return "", changeset.State{}, fmt.Errorf("cannot stage a link: %w", err)
		}
	}
	if err := sys.Utimes(dir, name, m.MtimeNS); err != nil {
		return "", changeset.State{}, fmt.Errorf("cannot stage a link: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "", changeset.State{}, fmt.Errorf("cannot stage a link: %w", err)
	}
	return name, changeset.State{
		Mode: st.Mode, UID: uint32(m.UID), GID: uint32(m.GID), Size: st.Size,
		MtimeNS: m.MtimeNS, Ino: st.Ino, Link: target,
	}, nil
}

// Copy stages the content of a staged file once more, with its metadata, for a
// second place in the jail: one staged file is exchanged with one name.
func (s *Stage) Copy(name string, st changeset.State) (string, changeset.State, error) {
	m := Meta{Perm: st.Mode & 0o7777, UID: int(st.UID), GID: int(st.GID), MtimeNS: st.MtimeNS}
	for k, v := range st.Xattrs {
		if m.Xattrs == nil {
			m.Xattrs = map[string]string{}
		}
		m.Xattrs[k] = string(v)
	}
	if st.Link != "" {
		return s.PutLink(st.Link, m)
	}
	f, err := s.Open(name)
	if err != nil {
		return "", changeset.State{}, err
	}
	defer f.Close()
	return s.Put(f, st.Size, m)
}

// SetMeta gives a staged file other permission bits and another owner. Its
// content and times stay.
func (s *Stage) SetMeta(name string, perm uint32, uid, gid int) error {
	f, err := s.Open(name)
	if err != nil {
		return fmt.Errorf("cannot stage a file: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (int(st.Uid) != uid || int(st.Gid) != gid) {
		err = sys.Fchown(int(f.Fd()), uid, gid) // first: it may clear bits of the mode
	}
	if err == nil {
		err = sys.Fchmod(int(f.Fd()), perm)
	}
	if err != nil {
		return fmt.Errorf("cannot stage a file: %w", err)
	}
	return nil
}

// Open opens a staged regular file.
func (s *Stage) Open(name string) (*os.File, error) {
	fd, err := unix.Openat(int(s.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Keep makes the named files durable and removes all others, so that the stage
// holds exactly what the changeset names.
func (s *Stage) Keep(names map[string]bool) error {
	list, err := os.ReadDir(sys.ProcPath(int(s.dir.Fd())))
	if err != nil {
		return fmt.Errorf("cannot read the stage: %w", err)
	}
	for _, e := range list {
		if !names[e.Name()] {
			if err := sys.Unlinkat(int(s.dir.Fd()), e.Name(), 0); err != nil {
				return fmt.Errorf("cannot tidy the stage: %w", err)
			}
			continue
		}
		if e.Type().IsRegular() {
			f, err := s.Open(e.Name())
			if err == nil {
				err = sys.Fsync(f)
				f.Close()
			}
			if err != nil {
				return fmt.Errorf("cannot make the stage durable: %w", err)
			}
		}
	}
	if err := sys.FsyncDir(int(s.dir.Fd())); err != nil {
		return fmt.Errorf("cannot make the stage durable: %w", err)
	}
	return nil
}
