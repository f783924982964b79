package wall

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxCovers bounds how many names beside a jail are covered: each is a mount, and
// costs some fifty microseconds.
const maxCovers = 500

// mount is a line of proc_pid_mountinfo(5).
type mount struct {
	point           string
	readOnly, noDev bool
}

func mounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []mount
	// Blanks and the like are written as octal numbers.
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		opts := strings.Split(f[5], ",")
		out = append(out, mount{plain.Replace(f[4]), slices.Contains(opts, "ro"), slices.Contains(opts, "nodev")})
	}
	return out, nil
}

// tree is something that becomes writable: a folder with all that is mounted below
// it, or (keep) one of which only some parts are meant.
type tree struct {
	path string
	keep []string
}

// build gives this thread a mount namespace of its own and makes the view. After
// an error the thread is in an unfinished one. open is how many names beside the
// jail it could not cover.
func build(s Spec) (open int, err error) {
	var trees []tree
	for _, d := range s.Dirs {
		if _, err := os.Lstat(d); err == nil {
			trees = append(trees, tree{path: d})
		}
	}
	for _, keep := range s.Keep {
		at := common(keep)
		i := slices.IndexFunc(trees, func(t tree) bool { return t.keep != nil && t.path == at })
		if i < 0 {
			trees = append(trees, tree{path: at, keep: keep})
		} else { // jails side by side
			trees[i].keep = slices.Concat(trees[i].keep, keep)
		}
	}
	// What is read-only on the host stays so.
	was, err := mounts()
	if err != nil {
		return 0, fmt.Errorf("cannot read the mounts: %w", err)
	}
	readOnly := map[string]bool{}
	for _, t := range trees {
		var fs unix.Statfs_t
		if err := unix.Statfs(t.path, &fs); err != nil {
			return 0, fmt.Errorf("cannot look at %s: %w", t.path, err)
		}
		readOnly[t.path] = fs.Flags&unix.ST_RDONLY != 0
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return 0, fmt.Errorf("cannot have mounts apart: %w", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("cannot keep mounts apart: %w", err)
	}
	all := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &all); err != nil {
		return 0, fmt.Errorf("cannot make the mounts read-only: %w", err)
	}
	if err := devices(was); err != nil {
		return 0, fmt.Errorf("cannot keep the devices: %w", err)
	}
	// Upper ones first: a lower one lies on top of what covers it.
	slices.SortStableFunc(trees, func(a, b tree) int { return cmp.Compare(len(a.path), len(b.path)) })
	for _, t := range trees {
		if readOnly[t.path] {
			continue
		}
		if err := writable(t.path); err != nil {
			return 0, fmt.Errorf("cannot make %s writable: %w", t.path, err)
		}
		if t.keep == nil {
			for _, m := range was {
				if m.point != t.path && under(m.point, t.path) && !m.readOnly {
					// One that lies hidden below another is nobody's loss.
					_ = writable(m.point)
				}
			}
			continue
		}
		c := cover{keep: t.keep, dirs: s.Dirs}
		if slices.Contains(s.Dirs, t.path) {
			continue
		}
		for _, f := range s.Free {
			re, err := regexp.Compile(f)
			if err != nil {
				return 0, err
			}
			c.free = append(c.free, re)
		}
		if err := c.dir(t.path); err != nil {
			return 0, fmt.Errorf("cannot cover what lies beside %s: %w", t.keep[0], err)
		}
		open += c.open
	}
	// Nearly every program needs it.
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return 0, fmt.Errorf("cannot open %s there: %w", os.DevNull, err)
	}
	if err == nil {
		unix.Close(null)
	}
	return open, nil
}

// devices lets the devices of /dev be opened, which all programs need: of /dev
// itself, and of all that is mounted below it, each device alone in a container.
// What is mounted in a place where anybody makes names, /dev/shm, has none.
func devices(was []mount) error {
	allow := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NODEV}
	if !slices.ContainsFunc(was, func(m mount) bool { return m.point == "/dev" }) {
		fd, err := openPath("/dev")
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := bind(fd, "", fd, "", &allow); err != nil {
			return err
		}
	}
	for i, m := range was {
		// Of several on one place the last one is seen.
		covered := slices.ContainsFunc(was[i+1:], func(o mount) bool { return o.point == m.point })
		if m.noDev || covered || !under(m.point, "/dev") || under(m.point, "/dev/shm") {
			continue
		}
		fd, err := openAt(m.point, 0)
		if err == nil {
			err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &allow)
			unix.Close(fd)
		}
		// One that lies hidden below another is nobody's loss.
		for _, hidden := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EINVAL} {
			if errors.Is(err, hidden) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.point, err)
		}
	}
	return nil
}

// openPath opens a directory by a path without links.
func openPath(path string) (int, error) { return openAt(path, unix.O_DIRECTORY) }

func openAt(path string, flags uint64) (int, error) {
	for range 100 {
		fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC | flags,
			Resolve: unix.RESOLVE_NO_SYMLINKS,
		})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// look tells the type of a file and whether something is mounted there, without
// asking a server that is far away.
func look(dir int, name string, flags int) (mode uint16, root bool, err error) {
	var st unix.Statx_t
	flags |= unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(dir, name, flags, unix.STATX_TYPE, &st); err != nil {
		return 0, false, err
	}
	return st.Mode & unix.S_IFMT, st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// writable makes a directory writable: where it is a mount point that mount, else
// a new one of it on its own place.
func writable(path string) error {
	fd, err := openPath(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, root, err := look(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	allow := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if root {
		return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &allow)
	}
	return bind(fd, "", fd, "", &allow)
}

// bind mounts a tree, with all that is mounted in it, over a place.
func bind(from int, fromName string, to int, toName string, attr *unix.MountAttr) error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT)
	if fromName == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	t, err := unix.OpenTree(from, fromName, flags)
	if err != nil {
		return err
	}
	defer unix.Close(t)
	if err := unix.MountSetattr(t, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return err
	}
	move := unix.MOVE_MOUNT_F_EMPTY_PATH
	if toName == "" {
		move |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	return unix.MoveMount(t, "", to, toName, move)
}

// cover makes what lies beside some paths read-only.
type cover struct {
	keep, dirs []string
	free       []*regexp.Regexp
	made, open int
}

func (c *cover) dir(path string) error {
	if slices.Contains(c.keep, path) {
		return nil
	}
	fd, err := openPath(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	d, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		p := filepath.Join(path, name)
		if slices.Contains(c.keep, p) || slices.Contains(c.dirs, p) || c.isFree(name) {
			continue
		}
		if slices.ContainsFunc(c.keep, func(k string) bool { return under(k, p) }) {
			if err := c.dir(p); err != nil {
				return err
			}
			continue
		}
		mode, root, err := look(fd, name, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil || root || mode == unix.S_IFLNK {
			continue // gone; read-only by now; leads to what is
		}
		if c.made >= maxCovers {
			c.open++
			continue
		}
		c.made++
		deny := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := bind(fd, name, fd, name, &deny); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c *cover) isFree(name string) bool {
	return slices.ContainsFunc(c.free, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}
