package fileset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// ForeignError says that what lies in the place of a folder of jailup's is not
// one that jailup made: nothing is read, made or removed there.
type ForeignError struct {
	Path string // of what lies there
	Why  string // in the words after "it"
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("cannot use %s for stages: it %s; it is no folder of jailup's own", e.Path, e.Why)
}

// Stages is the folder of all stages of one jail, open. Others may be able to
// make names beside it, or in it: in a parent such as /tmp, and in the root of a
// jail that is a mount point. So it is reached by descriptors alone, no link is
// followed and no mount crossed, and it must be root's and closed to all others.
type Stages struct {
	parent *os.File // nil where it is none of a jail's
	dir    *os.File
	name   string
	path   string // for messages only
}

// OpenStages opens the folder of that name in parent, which it takes over. It
// must lie on the mount with that id (STATX_MNT_ID), the jail's. fs.ErrNotExist
// where there is none; a ForeignError where it is not jailup's own.
func OpenStages(parent *os.File, name string, mount uint64) (*Stages, error) {
	s := &Stages{parent: parent, name: name, path: filepath.Join(parent.Name(), name)}
	var err error
	if s.dir, err = openOwn(parent, name, s.path); err == nil {
		var info jail.Info
		if info, err = jail.Fstat(int(s.dir.Fd())); err == nil && info.MountID != mount {
			err = &ForeignError{s.path, "lies on another mount than the jail"}
		}
	}
	if err == nil {
		err = sys.Admit(s.dir)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// MakeStages is OpenStages that makes the folder, mode 0700, where there is none.
func MakeStages(parent *os.File, name string, mount uint64) (*Stages, error) {
	if err := makeOwn(parent, name, sys.MkdiratOwn); err != nil {
		parent.Close()
		return nil, fmt.Errorf("cannot make %s: %w", filepath.Join(parent.Name(), name), err)
	}
	return OpenStages(parent, name, mount)
}

func makeOwn(parent *os.File, name string, mkdirat func(dir int, name string, mode uint32) error) error {
	err := mkdirat(int(parent.Fd()), name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		return nil // whose it is, is looked at when it is open
	}
	if err != nil {
		return err
	}
	return sys.FsyncDir(int(parent.Fd()))
}

// openOwn opens a directory in an open one, and looks whether it is jailup's.
func openOwn(parent *os.File, name, path string) (*os.File, error) {
	fd, err := sys.OpenDirBeneath(int(parent.Fd()), name)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, &ForeignError{path, "is a link"}
	case errors.Is(err, unix.ENOTDIR):
		// With O_DIRECTORY and O_NOFOLLOW a link may be told so as well.
		info, serr := jail.StatAt(int(parent.Fd()), name)
		if serr != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: serr}
		}
		return nil, &ForeignError{path, "is a " + jail.TypeName(info.Mode)}
	case errors.Is(err, unix.EXDEV):
		return nil, &ForeignError{path, "has something mounted on it"}
	case err != nil:
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := jail.Fstat(fd)
	switch {
	case err != nil:
		err = &os.PathError{Op: "stat", Path: path, Err: err}
	case info.UID != 0 && int(info.UID) != os.Geteuid():
		err = &ForeignError{path, fmt.Sprintf("belongs to user %d", info.UID)}
	case info.Mode&0o077 != 0:
		err = &ForeignError{path, fmt.Sprintf("is open to others, by its mode %04o", info.Perm())}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Path is where the folder was when it was opened, for messages and records.
func (s *Stages) Path() string { return s.path }

// Close releases the folder and its parent.
func (s *Stages) Close() {
	for _, f := range []*os.File{s.parent, s.dir} {
		if f != nil {
			f.Close()
		}
	}
}

// Make makes the stage of that name; one that is there is opened.
func (s *Stages) Make(name string) (*Stage, error) {
	if err := makeOwn(s.dir, name, sys.Mkdirat); err != nil {
		return nil, fmt.Errorf("cannot make the stage %s: %w", filepath.Join(s.path, name), err)
	}
	return s.Open(name)
}

// Open opens the stage of that name: errors as of OpenStages.
func (s *Stages) Open(name string) (*Stage, error) {
	dir, err := openOwn(s.dir, name, filepath.Join(s.path, name))
	if err != nil {
		return nil, err
	}
	return &Stage{dir: dir}, nil
}

// Has tells whether there is anything of that name.
func (s *Stages) Has(name string) bool {
	_, err := jail.StatAt(int(s.dir.Fd()), name)
	return err == nil
}

// Remove removes the stage of that name and all in it; a link is removed and not
// followed. A missing one is no error. What a power cut brings back of it is
// swept by the next run, so that nothing is synced.
func (s *Stages) Remove(name string) error {
	if err := sys.RemoveTree(int(s.dir.Fd()), name); err != nil {
		return fmt.Errorf("cannot remove the stage %s: %w", filepath.Join(s.path, name), err)
	}
	return nil
}

// RemoveIfEmpty removes the folder itself when nothing is in it any more. Where
// something is, or it is gone already, that is no error.
func (s *Stages) RemoveIfEmpty() error {
	if s.parent == nil {
		return nil
	}
	err := sys.RmdirOwn(int(s.parent.Fd()), s.name)
	if err == nil || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("cannot remove %s: %w", s.path, err)
}

// Runs returns the names in the folder that are those of runs, sorted. All
// others were not made by jailup, and are nobody's to remove.
func (s *Stages) Runs() ([]string, error) {
	all, err := os.ReadDir(sys.ProcPath(int(s.dir.Fd())))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", s.path, err)
	}
	var out []string
	for _, e := range all {
		if IsRun(e.Name()) {
			out = append(out, e.Name())
		}
	}
	sort.Strings(out)
	return out, nil
}

// runID is the time in UTC, a dash, and what tells runs of one second apart.
var runID = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[0-9a-z]{1,32}$`)

// IsRun tells whether a name has the shape of a run's id.
func IsRun(name string) bool { return runID.MatchString(name) }
