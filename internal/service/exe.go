package service

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
)

// executable is a file that makes a process one of the server's.
type executable struct {
	Inode
	fsid unix.Fsid
	typ  int64
}

// want is what a process is compared with.
type want struct {
	dev, ino uint64 // of the jail's root
	host     Inode  // of the host's root
	outside  bool   // the server's master runs there
	exes     []executable
	names    map[string]bool // paths of the executables on the host and as the jail sees them
	comms    map[string]bool // last names of the executables, as the kernel cuts them
	self     map[int]bool    // this process and its ancestors: never of the server
}

// want looks the executables up anew: an install exchanges them. An error is one
// of this machine (no descriptors left, a disk that fails): it must not make a
// server look as if it were down.
func (c *ProcessController) want() (want, error) {
	w := want{names: map[string]bool{}, comms: map[string]bool{}, self: ancestors(c.procRoot), outside: c.outside}
	w.dev, w.ino = c.root.DevIno()
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return want{}, fmt.Errorf("cannot look for %s: %w", c.spec.Name, err)
	}
	w.host = Inode{uint64(st.Dev), st.Ino}
	for _, p := range c.spec.Executables {
		base := path.Base(p)
		w.comms[base[:min(len(base), 15)]] = true
		w.names[path.Clean(p)] = true
		if c.outside {
			if real, err := filepath.EvalSymlinks(p); err == nil {
				w.names[real] = true
			}
		} else {
			w.names[path.Join(c.root.Path(), p)] = true
			if real, err := c.root.RealPath(p); err == nil {
				w.names[real] = true
				w.names[path.Join(c.root.Path(), real)] = true
			}
		}
		f, err := c.openExe(p)
		if absent(err) {
			continue // taken out by an install, or never there
		}
		if err != nil {
			return want{}, fmt.Errorf("cannot look for %s: %w", c.spec.Name, err)
		}
		var st unix.Stat_t
		var fs unix.Statfs_t
		fd := int(f.Fd())
		if unix.Fstat(fd, &st) == nil && unix.Fstatfs(fd, &fs) == nil {
			w.exes = append(w.exes, executable{Inode{uint64(st.Dev), st.Ino}, fs.Fsid, int64(fs.Type)})
		}
		f.Close()
	}
	if c.extraExes != nil {
		for _, in := range c.extraExes() {
			w.exes = append(w.exes, executable{Inode: in})
		}
	}
	return w, nil
}

// openExe opens an executable of the server where the master sees it.
func (c *ProcessController) openExe(p string) (*os.File, error) {
	if !c.outside {
		return c.root.OpenFile(p)
	}
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

// absent tells whether an error says that there is no such program in the jail.
func absent(err error) bool {
	for _, no := range []error{os.ErrNotExist, jail.ErrNotRegular, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.ENXIO} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// exeOf identifies what a process runs, and tells whether that is the server's.
// A process that runs nothing any more is an error for which gone is true.
func exeOf(d int, base string, w want) (in Inode, core bool, err error) {
	fd, err := unix.Openat(d, base+"exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Inode{}, false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Inode{}, false, err
	}
	in = Inode{uint64(st.Dev), st.Ino}
	for _, e := range w.exes {
		if e.Inode == in {
			return in, true, nil
		}
		if e.Ino != in.Ino || e.typ == 0 {
			continue
		}
		// One file can show two st_dev (btrfs gives each subvolume its own, and
		// another one after a remount): the file system's id decides.
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && fs.Fsid == e.fsid && int64(fs.Type) == e.typ && fs.Fsid != (unix.Fsid{}) {
			return in, true, nil
		}
	}
	// A file that was replaced under the running server, by a package manager or
	// by hand, is no longer in the jail. The kernel still tells what it was called.
	if st.Nlink == 0 {
		buf := make([]byte, unix.PathMax)
		if n, err := unix.Readlinkat(d, base+"exe", buf); err == nil {
			if name, ok := strings.CutSuffix(string(buf[:n]), " (deleted)"); ok && w.names[name] {
				return in, true, nil
			}
		}
	}
	return in, false, nil
}

// maxDepth is how deep below the jail's root a pool's own root is looked for.
const maxDepth = 40

// holds tells whether the root of a process lies below the jail's.
func (w want) holds(d int, base string) bool {
	fd, err := unix.Openat(d, base+"root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { unix.Close(fd) }()
	for range maxDepth {
		up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return false
		}
		unix.Close(fd)
		fd = up
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			return false
		}
		switch (Inode{uint64(st.Dev), st.Ino}) {
		case Inode{w.dev, w.ino}:
			return true
		case w.host:
			return false
		}
	}
	return false
}

// pools counts those among the server's processes that have left the jail's root
// for one below it. In another server's jail there, which may share its files
// with this one, it is the master that has the deeper root already.
func (c *ProcessController) pools(t *table) {
	for _, p := range t.byPID {
		if !p.below {
			continue
		}
		_, _, child := title(p.args, c.spec.Name)
		parent := t.byPID[p.PPID]
		p.core = child && (parent == nil || !parent.below)
	}
}
