package backup

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// directory opens u and does its names: all if it is new or was changed, else
// those that it had. More than a batch is shared out.
func (w *worker) directory(u unit) error {
	e, d := w.e, u.d
	src, err := openDir(u.at.src, u.rel)
	if err != nil {
		if gone(err) || errors.Is(err, unix.EXDEV) {
			// Its parent saw it a moment ago: the copy keeps it, empty, and
			// Settle looks again.
			d.it.again = true
			return e.emptyDir(d)
		}
		return fmt.Errorf("cannot read %s: %w", show(d.path()+"/"), err)
	}
	h := newHandle(d, src)
	k := &work{d: d, h: h, rel: u.rel, at: u.at, fresh: !d.known, remeta: true}
	k.left.Store(1)
	if e.ex != nil {
		k.path = d.path()
	}
	st, err := jail.Fstat(src)
	if err != nil {
		e.drop(h)
		return fmt.Errorf("cannot look at %s: %w", show(d.path()+"/"), err)
	}
	old := d.kids
	relist := true
	if d.known {
		relist = d.it.again || !d.it.seen.same(&st)
		k.remeta = relist
	}
	k.relisted = relist
	if relist {
		d.it.look(&st)
	}
	d.it.again = st.CtimeNS >= e.racyFrom(&st)
	d.it.size = 0
	d.known = true

	var jobs []job
	if relist {
		names, types, err := readNames(src, w.names)
		if err != nil && !gone(err) {
			e.drop(h)
			return fmt.Errorf("cannot read %s: %w", show(d.path()+"/"), err)
		}
		jobs = make([]job, len(names))
		var had map[string]*item
		if len(old) > 0 {
			had = make(map[string]*item, len(old))
			for _, it := range old {
				had[it.name] = it
			}
		}
		for i, n := range names {
			jobs[i] = job{n, had[n], types[i]}
			delete(had, n)
		}
		for _, it := range had {
			jobs = append(jobs, job{name: it.name, old: it})
		}
	} else {
		jobs = make([]job, len(old))
		for i, it := range old {
			jobs[i] = job{name: it.name, old: it}
		}
	}
	d.kids = make([]*item, 0, len(jobs))
	if k.fresh && e.dst >= 0 {
		if err := k.openDst(e); err != nil {
			e.drop(h)
			return err
		}
		k.plain = true
	}
	for len(jobs) > batchSize {
		k.left.Add(1)
		e.push(unit{d: d, work: k, jobs: jobs[len(jobs)-batchSize:]})
		jobs = jobs[:len(jobs)-batchSize]
	}
	err = w.batch(k, jobs)
	return errors.Join(err, w.leave(k))
}

// leave ends one batch; the last one completes the directory.
func (w *worker) leave(k *work) error {
	if k.left.Add(-1) > 0 {
		return nil
	}
	defer w.e.drop(k.h)
	if w.e.stop.Load() {
		return nil
	}
	k.d.sort()
	return w.complete(k)
}

func (w *worker) batch(k *work, jobs []job) error {
	made := make([]*item, 0, len(jobs))
	for _, j := range jobs {
		if w.e.stop.Load() {
			return nil
		}
		it, err := w.one(k, j)
		if err != nil {
			return err
		}
		if it != nil {
			made = append(made, it)
		}
	}
	k.d.mu.Lock()
	k.d.kids = append(k.d.kids, made...)
	k.d.mu.Unlock()
	return nil
}

// one brings one name up to date and returns its item, nil if it is not there.
func (w *worker) one(k *work, j job) (*item, error) {
	e := w.e
	if e.stage && k.d.parent == nil && j.name == StageName {
		return nil, nil
	}
	if e.ex != nil && e.ex.match(k.path, j.name) {
		return nil, nil
	}
	if j.old == nil {
		return w.add(k, j)
	}
	old := j.old
	st, err := jail.StatAt(k.h.src, j.name)
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("cannot look at %s: %w", k.show(j.name), err)
	}
	if err == nil && old.mount == (st.MountID != e.mnt) {
		isDir := old.dir != nil
		switch {
		case old.mount && isDir == st.IsDir():
			return old, nil
		case !old.mount && isDir && st.IsDir() && st.Ino == old.seen.ino && st.Dev == old.seen.dev:
			e.descend(k, old.dir)
			return old, nil
		case !old.mount && !isDir && !old.again && old.seen.same(&st):
			return old, nil
		}
	}
	if e.dst >= 0 {
		if err := k.touch(e); err != nil {
			return nil, err
		}
		if err := sys.RemoveTree(k.dst(), j.name); err != nil {
			return nil, fmt.Errorf("cannot remove the old copy of %s: %w", k.show(j.name), err)
		}
	}
	if err != nil {
		e.taken.Add(1)
		return nil, nil
	}
	it, err := w.add(k, job{name: j.name})
	if it == nil && err == nil {
		e.taken.Add(1)
	}
	return it, err
}

// descend queues a subdirectory, to be opened from the nearest anchor: k itself
// once the path from the last one has become long.
func (e *engine) descend(k *work, d *dir) {
	rel := d.it.name
	at := k.at
	k.mu.Lock()
	if len(k.rel) > anchorLen && !k.h.anchor && e.anchors.Load() < maxAnchors {
		k.h.anchor = true
		e.anchors.Add(1)
	}
	if k.h.anchor {
		at = k.h
	} else if k.rel != "" {
		rel = k.rel + "/" + rel
	}
	k.mu.Unlock()
	e.push(unit{d: d, at: e.hold(at), rel: rel})
}

func (k *work) dst() int { return int(k.h.dst.Load()) }

func (k *work) show(name string) string { return show(k.d.path() + "/" + name) }

// openDst opens the copy's directory from the copy of the anchor, which is
// opened by its whole path if it was not needed before.
func (k *work) openDst(e *engine) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.h.dst.Load() >= 0 {
		return nil
	}
	if k.at.dst.Load() < 0 {
		fd, err := openDir(e.dst, strings.TrimPrefix(k.at.d.path(), "/"))
		if err != nil {
			return fmt.Errorf("cannot open the copy of %s: %w", show(k.at.d.path()+"/"), err)
		}
		if !k.at.dst.CompareAndSwap(-1, int32(fd)) {
			unix.Close(fd)
		}
	}
	fd, err := openDir(int(k.at.dst.Load()), k.rel)
	if err != nil {
		return fmt.Errorf("cannot open the copy of %s: %w", show(k.d.path()+"/"), err)
	}
	if !k.h.dst.CompareAndSwap(-1, int32(fd)) {
		unix.Close(fd) // a child has opened it
	}
	return nil
}

// touch makes the copy's directory ready to be changed: a directory that was
// completed before may hand its group or its default ACL down to new files.
func (k *work) touch(e *engine) error {
	if err := k.openDst(e); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.touched = true
	if k.plain {
		return nil
	}
	k.plain = true
	k.remeta = true
	if err := sys.Fchmod(k.dst(), 0o700); err != nil {
		return fmt.Errorf("cannot change the copy of %s: %w", show(k.d.path()+"/"), err)
	}
	err := sys.Removexattr(sys.ProcPath(k.dst()), defaultACL)
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("cannot change the copy of %s: %w", show(k.d.path()+"/"), err)
	}
	return nil
}
