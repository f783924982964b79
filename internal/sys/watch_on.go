//go:build faultpoints

package sys

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// With JAILUP_FAULT_CALLS=FILE every mutating call that succeeded is told there,
// one JSON line each, with the identity of what it touched: a model of a file
// system that loses all that it may lose can be led through a run by it. A sync
// is told before it begins (it covers what was told before it), all else after it
// has ended.

// Call is one line.
type Call struct {
	Op    string `json:"op"`
	Dir   string `json:"dir,omitempty"`   // the directory of the name, as device:inode
	Path  string `json:"path,omitempty"`  // where that directory, or else the file, is now
	Name  string `json:"name,omitempty"`  // in the directory
	Dir2  string `json:"dir2,omitempty"`  // where to, of a rename
	Path2 string `json:"path2,omitempty"` // likewise
	Name2 string `json:"name2,omitempty"` // likewise
	Ino   string `json:"ino,omitempty"`   // the file: of a rename the one that lay under Name before
	Ino2  string `json:"ino2,omitempty"`  // of an exchange, the one that lay under Name2
	Type  uint32 `json:"type,omitempty"`  // of Ino, as in st_mode
	Links uint64 `json:"links,omitempty"` // of Ino, before it
	Flags uint   `json:"flags,omitempty"`
	Data  []byte `json:"data,omitempty"` // what was written, where it is short
}

// maxData is how much of a write is told: a journal record is shorter.
const maxData = 64 << 10

var calls = sync.OnceValue(func() *os.File {
	path := os.Getenv("JAILUP_FAULT_CALLS")
	if path == "" {
		return nil
	}
	f, _ := openOutside(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	return f
})

func untold(err error) error { return err }

func (c Call) tell() {
	line, err := json.Marshal(c)
	if err == nil {
		_, _ = calls().Write(append(line, '\n'))
	}
}

func (c Call) after(err error) error {
	if err == nil {
		c.tell()
	}
	return err
}

func identity(st *unix.Stat_t) string { return fmt.Sprintf("%x:%d", st.Dev, st.Ino) }

// look tells what lies under a name; "" for nothing.
func look(dir int, name string) (st unix.Stat_t, id string) {
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return st, ""
	}
	return st, identity(&st)
}

func folder(dir int) (id, path string) {
	var st unix.Stat_t
	if unix.Fstat(dir, &st) == nil {
		id = identity(&st)
	}
	path, _ = os.Readlink(ProcPath(dir))
	return id, path
}

// parent is folder for a name that may be a path of its own.
func parent(dir int, name string) (id, path, base string) {
	if dir != unix.AT_FDCWD {
		id, path = folder(dir)
		return id, path, name
	}
	var st unix.Stat_t
	path = filepath.Dir(name)
	if unix.Stat(path, &st) == nil {
		id = identity(&st)
	}
	return id, path, filepath.Base(name)
}

func watchName(op string, dir int, name string) func(error) error {
	if calls() == nil {
		return untold
	}
	c := Call{Op: op}
	c.Dir, c.Path, c.Name = parent(dir, name)
	st, id := look(dir, name)
	return func(err error) error {
		if id == "" {
			st, id = look(dir, name)
		}
		c.Ino, c.Type, c.Links = id, st.Mode&unix.S_IFMT, st.Nlink
		return c.after(err)
	}
}

func watchRename(oldDir int, oldName string, newDir int, newName string, flags uint) func(error) error {
	if calls() == nil {
		return untold
	}
	c := Call{Op: "rename", Flags: flags}
	c.Dir, c.Path, c.Name = parent(oldDir, oldName)
	c.Dir2, c.Path2, c.Name2 = parent(newDir, newName)
	st, id := look(oldDir, oldName)
	c.Ino, c.Type = id, st.Mode&unix.S_IFMT
	_, c.Ino2 = look(newDir, newName)
	return c.after
}

func watchFile(op string, f *os.File, data []byte) func(error) error {
	if calls() == nil {
		return untold
	}
	c := Call{Op: op}
	if len(data) <= maxData {
		c.Data = data
	}
	c.Ino, c.Path = folder(int(f.Fd()))
	return c.after
}

func watchPath(op, path string) func(error) error {
	if calls() == nil {
		return untold
	}
	var st unix.Stat_t
	c := Call{Op: op, Path: path}
	if unix.Stat(path, &st) == nil {
		c.Ino = identity(&st)
	}
	if to, err := os.Readlink(path); err == nil {
		c.Path = to
	}
	return c.after
}

func watchSync(op string, fd int) {
	if calls() == nil {
		return
	}
	c := Call{Op: op}
	c.Ino, c.Path = folder(fd)
	c.tell()
}
