// Package changeset holds the exact list of operations between a jail as it is
// and as it shall be: computed and saved while the old server still answers,
// installed while it is stopped, undone by the same list backwards.
//
//	        replace: exchange          add: rename, never over something
//	jail  ◀──────────────────▶ stage        ◀──────────────────
//	        remove: rename                  ──────────────────▶
//
// A directory never crosses the jail's boundary: a process whose working
// directory is renamed out of the jail stands outside it. Only files and links
// are exchanged; directories are made and removed in place.
//
// The key of an operation is physical: the parent as resolved in the jail, and
// the last name. In a usr-merged jail /lib/x and /usr/lib/x are one key.
package changeset

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// Kind is what an operation does.
type Kind string

// The kinds of operations.
const (
	Replace Kind = "replace" // exchange a file or link with the staged one
	Add     Kind = "add"     // move the staged one in, never over something
	Remove  Kind = "remove"  // move the jail's one into the stage
	Mkdir   Kind = "mkdir"   // make a directory in place
	Rmdir   Kind = "rmdir"   // remove an empty directory in place
)

// State identifies a file, link or directory. Mode holds the type. SHA256 is
// that of a regular file's content; Link is a link's target.
type State struct {
	Mode    uint32            `json:"mode"`
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	Size    int64             `json:"size"`
	MtimeNS int64             `json:"mtime_ns"`
	Ino     uint64            `json:"ino,omitempty"`
	SHA256  string            `json:"sha256,omitempty"`
	Link    string            `json:"link,omitempty"`
	Xattrs  map[string][]byte `json:"xattrs,omitempty"`
}

func (s *State) isLink() bool    { return s.Mode&unix.S_IFMT == unix.S_IFLNK }
func (s *State) isRegular() bool { return s.Mode&unix.S_IFMT == unix.S_IFREG }

// Same tells whether two states have one content: type, digest, target.
func (s *State) Same(o *State) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.Mode&unix.S_IFMT == o.Mode&unix.S_IFMT && s.SHA256 == o.SHA256 && s.Link == o.Link
}

// Op is one operation on one name of the jail. Stage is its partner in the
// stage: the new file before, the old one after.
type Op struct {
	Kind    Kind   `json:"kind"`
	Path    string `json:"path"`
	Stage   string `json:"stage,omitempty"`
	Old     *State `json:"old,omitempty"`
	New     *State `json:"new,omitempty"`
	Package string `json:"package,omitempty"`
	// Hold marks the pair that takes an unchanged executable out first and puts
	// it back last, so that nobody can start a mixed tree.
	Hold bool `json:"hold,omitempty"`
}

// Dir is an existing directory in which operations take place: they change its
// mtime, which is set again at the end.
type Dir struct {
	Path       string `json:"path"`
	OldMtimeNS int64  `json:"old_mtime_ns"`
	NewMtimeNS int64  `json:"new_mtime_ns"`
}

// Set is a whole changeset. Ops are in the order of their installation: the
// server's executables go out first and come in last.
type Set struct {
	Version int    `json:"version"`
	FSID    string `json:"fsid"` // of the jail's file system, statfs(2)
	Ops     []Op   `json:"ops"`
	Dirs    []Dir  `json:"dirs"`
}

// Empty tells whether there is nothing to do.
func (s *Set) Empty() bool { return s == nil || len(s.Ops) == 0 }

// Changed returns the number of files and links that are replaced, added or
// removed; what only goes out and in again is not counted.
func (s *Set) Changed() int {
	if s == nil {
		return 0
	}
	seen := map[string]bool{}
	for _, op := range s.Ops {
		if !op.Hold && op.Kind != Mkdir && op.Kind != Rmdir {
			seen[op.Path] = true
		}
	}
	return len(seen)
}

// Save writes the set into dir under name, durably.
func (s *Set) Save(dir, name string) error {
	data, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return fmt.Errorf("cannot save the changeset: %w", err)
	}
	return sys.WriteFileAtomic(path.Join(dir, name), data, 0o600)
}

// Load reads a saved set. A newer version is refused.
func Load(file string) (*Set, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the changeset: %w", err)
	}
	var s Set
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot read the changeset %s: %w", file, err)
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("cannot read the changeset %s: its version %d is not known", file, s.Version)
	}
	return &s, nil
}

// FSID names the file system of an open file as statfs(2) does. st_dev would
// not do: btrfs gives another one after a remount.
func FSID(fd int) (string, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x%08x", uint32(st.Fsid.Val[0]), uint32(st.Fsid.Val[1])), nil
}

const maxFile = 1 << 30

// ReadState describes a name in an open directory with its digest; nil where
// nothing is. Something that is no file, link or directory has a state without
// digest. A file of more than 1 GiB is an error: no package has one, and to read
// it would take as long as whoever put it there likes.
func ReadState(dir int, name string) (*State, error) {
	info, err := jail.StatAt(dir, name)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := stateOf(info)
	switch {
	case info.IsSymlink():
		st.Link, err = jail.ReadlinkAt(dir, name)
	case info.IsRegular() && info.Size > maxFile:
		return nil, fmt.Errorf("it has %d bytes, more than 1 GiB", info.Size)
	case info.IsRegular():
		var f *os.File
		if f, err = jail.OpenAt(dir, name); err != nil {
			return nil, err
		}
		defer f.Close()
		if st.SHA256, err = sys.HashFile(io.LimitReader(f, info.Size+1)); err == nil {
			st.Xattrs, err = jail.Xattrs(f)
		}
	}
	if err != nil {
		return nil, err
	}
	return st, nil
}

func stateOf(info jail.Info) *State {
	st := &State{Mode: info.Mode, UID: info.UID, GID: info.GID, Size: info.Size, MtimeNS: info.MtimeNS, Ino: info.Ino}
	if info.IsDir() {
		st.Size = 0 // a directory's size tells nothing
	}
	return st
}

// is tells whether what lies under a name is the thing that want describes: by
// inode, size, mtime and mode, and by digest on any doubt (an inode number may
// have been used again, a copy has another).
func is(dir int, name string, want *State) (bool, error) {
	info, err := jail.StatAt(dir, name)
	if errors.Is(err, unix.ENOENT) {
		return want == nil, nil
	}
	if err != nil {
		return false, err
	}
	if want == nil || info.Type() != want.Mode&unix.S_IFMT {
		return false, nil
	}
	if info.IsDir() {
		return true, nil
	}
	if info.Mode != want.Mode || info.UID != want.UID || info.GID != want.GID || info.IsRegular() && info.Size != want.Size {
		return false, nil
	}
	if want.Ino != 0 && info.Ino == want.Ino && info.MtimeNS == want.MtimeNS {
		return true, nil
	}
	got, err := ReadState(dir, name)
	if err != nil || got == nil {
		return false, err
	}
	return got.Same(want), nil
}

// DirMode is the type of a directory in a State's Mode.
const DirMode = unix.S_IFDIR
