package backup

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// racyFrom is the ctime from which on a file may change without its ctime
// showing it: written again within one tick of the kernel's clock, or through a
// mapping whose page was dirty already. Where times have whole seconds only, a
// tick is that long.
func (e *engine) racyFrom(i *jail.Info) int64 {
	if i.CtimeNS%1e9 == 0 {
		return e.racy - 2e9
	}
	return e.racy
}

// add copies one name that the copy does not have. nil means that it vanished.
func (w *worker) add(k *work, j job) (*item, error) {
	e := w.e
	fd := -1
	var st jail.Info
	var err error
	if j.kind != unix.DT_DIR {
		// O_PATH: looking at a device or a FIFO must not open it.
		fd, err = openat2(k.h.src, j.name, unix.O_PATH)
		if err == nil {
			defer func() { unix.Close(fd) }()
			st, err = jail.Fstat(fd)
		} else if errors.Is(err, unix.EXDEV) {
			st, err = jail.StatAt(k.h.src, j.name)
		}
	} else {
		st, err = jail.StatAt(k.h.src, j.name)
	}
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", k.show(j.name), err)
	}
	it := newItem(j.name, &st)
	it.again = st.CtimeNS >= e.racyFrom(&st)
	if st.MountID != e.mnt {
		return w.standIn(k, it)
	}
	if !k.fresh && e.dst >= 0 {
		if err := k.touch(e); err != nil {
			return nil, err
		}
	}
	if fd < 0 && !st.IsDir() { // it was a directory in the listing
		if fd, err = openat2(k.h.src, j.name, unix.O_PATH); err == nil {
			defer func() { unix.Close(fd) }()
			var now jail.Info
			now, err = jail.Fstat(fd)
			if err == nil && (now.Ino != st.Ino || now.Type() != st.Type()) {
				err = unix.ENOENT
			}
		}
		if gone(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look at %s: %w", k.show(j.name), err)
		}
	}
	switch st.Type() {
	case unix.S_IFDIR:
		it.size = 0
		if e.dst >= 0 {
			if err := sys.Mkdirat(k.dst(), j.name, 0o700); err != nil {
				return nil, fmt.Errorf("cannot make the copy of %s: %w", k.show(j.name), err)
			}
		}
		e.copied.Add(1)
		e.descend(k, newDir(k.d, it))
		return it, nil
	case unix.S_IFREG:
		it, err = w.regular(k, fd, it)
	default:
		it.size = 0
		it, err = w.special(k, fd, it, &st)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot copy %s: %w", k.show(j.name), plain(err))
	}
	if it != nil {
		e.copied.Add(1)
	}
	return it, nil
}

// plain takes the raw name, which may hold anything, out of an error of os.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// standIn leaves an empty directory or file where something is mounted, so that
// a restored tree has a place to mount it again.
func (w *worker) standIn(k *work, it *item) (*item, error) {
	e := w.e
	it.mount, it.again = true, false
	it.uid, it.gid, it.size, it.mtime, it.more = 0, 0, 0, 0, nil
	isDir := it.mode&unix.S_IFMT == unix.S_IFDIR
	if isDir {
		it.mode = unix.S_IFDIR | 0o755
		newDir(k.d, it).known = true
	} else {
		it.mode = unix.S_IFREG | 0o644
		it.sum = sha256.Sum256(nil)
	}
	it.uid, it.gid = uint32(e.uid), uint32(e.gid)
	if e.dst < 0 {
		return it, nil
	}
	if err := k.touch(e); err != nil {
		return nil, err
	}
	var err error
	if isDir {
		err = sys.Mkdirat(k.dst(), it.name, 0o755)
	} else {
		err = sys.Mknodat(k.dst(), it.name, it.mode, 0)
	}
	if err == nil {
		err = sys.Fchownat(k.dst(), it.name, e.uid, e.gid)
	}
	if err == nil {
		err = sys.Utimes(k.dst(), it.name, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a place for the mount point %s: %w", k.show(it.name), err)
	}
	return it, nil
}

// special copies a link, FIFO, socket or device: a new node of the same kind.
func (w *worker) special(k *work, fd int, it *item, st *jail.Info) (*item, error) {
	e := w.e
	m := &more{}
	it.more = m
	isLink := it.mode&unix.S_IFMT == unix.S_IFLNK
	switch {
	case isLink:
		n, err := unix.Readlinkat(fd, "", w.buf[:unix.PathMax])
		if err != nil {
			return nil, err
		}
		m.link = string(w.buf[:n])
	case it.mode&unix.S_IFMT == unix.S_IFCHR || it.mode&unix.S_IFMT == unix.S_IFBLK:
		m.rdev = st.Rdev
	}
	x, err := pathXattrs(fd)
	if err != nil {
		return nil, err
	}
	it.setAttrs(x)
	if e.dst < 0 {
		return it, nil
	}
	t, done, err := w.asTwin(k, it)
	if done || err != nil {
		return it, err
	}
	defer func() { e.madeTwin(t, k.d, it, err == nil) }()
	dst := k.dst()
	if isLink {
		err = sys.Symlinkat(m.link, dst, it.name)
	} else {
		err = sys.Mknodat(dst, it.name, it.mode&unix.S_IFMT|0o600, m.rdev)
		if errors.Is(err, unix.EPERM) && e.uid != 0 {
			e.skip(k.d.path()+"/"+it.name, "only root may make a device")
			return nil, nil
		}
	}
	if err == nil && !e.owns(k, it) {
		err = sys.Fchownat(dst, it.name, int(it.uid), int(it.gid))
	}
	for _, a := range m.xattrs {
		if err == nil {
			err = attrError(a.name, sys.Lsetxattr(sys.ProcPath(dst)+"/"+it.name, a.name, []byte(a.value)))
		}
	}
	if err == nil && !isLink {
		err = sys.Fchmodat(dst, it.name, it.mode)
	}
	if err == nil {
		err = sys.Utimes(dst, it.name, it.mtime)
	}
	return it, err
}

// owns tells that a new file belongs to the right owner as it is made.
func (e *engine) owns(k *work, it *item) bool {
	return k.fresh && int(it.uid) == e.uid && int(it.gid) == e.gid
}

func attrError(name string, err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("the file system of the copy cannot hold the attribute %s", show(name))
	}
	return err
}

// twin returns the first copy of an inode with several names, and whether the
// caller is to make it. nil: there is only one name.
func (e *engine) twin(it *item) (t *twin, first bool) {
	if it.seen.nlink < 2 {
		return nil, false
	}
	key := inode{it.seen.dev, it.seen.ino}
	e.twinMu.Lock()
	t = e.twins[key]
	if t == nil {
		t, first = &twin{done: make(chan struct{})}, true
		e.twins[key] = t
	}
	e.twinMu.Unlock()
	if !first {
		<-t.done // its maker waits for nobody
	}
	return t, first
}

func (e *engine) madeTwin(t *twin, d *dir, it *item, ok bool) {
	if t != nil {
		t.dir, t.it, t.ok = d, it, ok
		close(t.done)
	}
}

// asTwin makes it another name of an inode that was copied under its first one:
// then it is done. Else it is to be copied, and t, where it is not nil, is to hear
// from madeTwin how that went.
func (w *worker) asTwin(k *work, it *item) (t *twin, done bool, err error) {
	t, first := w.e.twin(it)
	if t == nil || first {
		return t, false, nil
	}
	done, err = w.link(k, t, it)
	return nil, done, err
}

// link makes it another name of t; false means that t came to nothing.
func (w *worker) link(k *work, t *twin, it *item) (bool, error) {
	if !t.ok {
		return false, nil
	}
	name, group := it.name, it.group
	*it = *t.it
	it.name, it.group = name, group
	if w.e.dst < 0 {
		return true, nil
	}
	rel := t.dir.path() + "/" + t.it.name
	from, last := w.e.dst, rel[1:]
	if len(last) > 4000 {
		fd, err := openDir(w.e.dst, t.dir.path()[1:])
		if err != nil {
			return false, err
		}
		defer unix.Close(fd)
		from, last = fd, t.it.name
	}
	return true, sys.Linkat(from, last, k.dst(), it.name, 0)
}

// regular copies the file behind an O_PATH descriptor: bytes, owner,
// attributes, mode, time, in the order in which the kernel does not undo the
// one by the other (chown and write clear set-id bits and capabilities).
func (w *worker) regular(k *work, fd int, it *item) (_ *item, err error) {
	e := w.e
	t, done, err := w.asTwin(k, it)
	if done || err != nil {
		return it, err
	}
	defer func() { e.madeTwin(t, k.d, it, err == nil) }()
	src, err := openSeen(e.proc, fd, e.ctx.Done())
	if errors.Is(err, unix.ESTALE) {
		e.madeTwin(t, k.d, it, false)
		t = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(src)
	x, err := fileXattrs(src)
	if err != nil {
		return nil, err
	}
	it.setAttrs(x)
	if e.dst < 0 {
		return it, w.data(src, nil, it)
	}
	dst, err := sys.Create(k.dst(), it.name, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		// ENOSPC and EDQUOT may come as late as this (close(2)).
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	if err := w.data(src, dst, it); err != nil {
		return nil, err
	}
	return it, w.dress(k, dst, it)
}

func (w *worker) dress(k *work, dst *os.File, it *item) error {
	e := w.e
	fd := int(dst.Fd())
	if !e.owns(k, it) {
		if err := sys.Fchown(fd, int(it.uid), int(it.gid)); err != nil {
			return err
		}
	}
	if x := it.attrs(); len(x) > 0 {
		for _, a := range x {
			if err := attrError(a.name, sys.Setxattr(sys.ProcPath(fd), a.name, []byte(a.value))); err != nil {
				return err
			}
		}
	}
	if err := sys.Fchmod(fd, it.mode); err != nil {
		return err
	}
	if err := sys.Utimes(k.dst(), it.name, it.mtime); err != nil {
		return err
	}
	if e.flush {
		return sys.Fsync(dst)
	}
	return nil
}

// complete ends a directory all of whose names are done: its own attributes,
// and its time last, since every name that was made has changed it.
func (w *worker) complete(k *work) error {
	e, d := w.e, k.d
	if k.relisted {
		x, err := fileXattrs(k.h.src)
		if err != nil {
			return fmt.Errorf("cannot read attributes of %s: %w", show(d.path()+"/"), err)
		}
		d.it.setAttrs(x)
	}
	if e.dst < 0 || !k.remeta && !k.touched {
		return nil
	}
	err := k.openDst(e)
	if err == nil {
		err = e.dressDir(k.dst(), d.it, !k.fresh)
	}
	if err != nil {
		return fmt.Errorf("cannot complete the copy of %s: %w", show(d.path()+"/"), err)
	}
	e.redone.Add(1)
	return nil
}

func (e *engine) dressDir(fd int, it *item, mayHaveAttrs bool) error {
	if err := sys.Fchown(fd, int(it.uid), int(it.gid)); err != nil {
		return err
	}
	if err := setXattrs(sys.ProcPath(fd), it.attrs(), mayHaveAttrs); err != nil {
		return err
	}
	if err := sys.Fchmod(fd, it.mode); err != nil {
		return err
	}
	if err := sys.Futimes(fd, it.mtime); err != nil {
		return err
	}
	if e.flush {
		return sys.FsyncDir(fd)
	}
	return nil
}

// emptyDir completes the copy of a directory that vanished before it was opened.
func (e *engine) emptyDir(d *dir) error {
	if e.dst < 0 || d.known || d.parent == nil {
		return nil
	}
	fd, err := openDir(e.dst, d.path()[1:])
	if err == nil {
		err = e.dressDir(fd, d.it, false)
		unix.Close(fd)
	}
	d.known = true
	if err != nil {
		return fmt.Errorf("cannot complete the copy of %s: %w", show(d.path()+"/"), err)
	}
	return nil
}
