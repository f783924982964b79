package sys

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/wall"
)

// hands are threads that may make, rename and remove names only beneath the
// folders of the wall (Landlock). Not the whole process is put under it: whoever
// is may not look at processes outside, a server's root and executable for
// instance, and hands it on to all that it starts. What works on an open file, or
// changes a mode or a time, Landlock does not judge: it needs no hand.
type hands struct {
	tids sync.Map // of the threads that are hands

	mu      sync.RWMutex
	folders []int // O_PATH, never closed: a rule needs them again
	rules   *wall.Rules
	jobs    chan job // of the present crew
	direct  []place  // folders that no crew could be had for: all is called directly there
}

// place is a folder, by device and inode.
type place struct{ dev, ino uint64 }

type job struct {
	call func() error
	done chan error
}

// crew is how many threads wait for single calls.
const crew = 2

// handsOf are those of this process, nil where it is behind no wall: all is called
// directly then.
var handsOf = sync.OnceValue(func() *hands {
	s := wall.Inside()
	if s == nil || len(s.Rules()) == 0 {
		return nil
	}
	h := &hands{}
	for _, p := range s.Rules() {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil { // what is not there yet is let in when it is made
			h.folders = append(h.folders, fd)
		}
	}
	if h.hire() != nil {
		return nil // the first wall and the mounts stand
	}
	return h
})

// hire makes a crew under the present folders and lets the one before it go. The
// lock is held, or nobody else has h.
func (h *hands) hire() error {
	rules, err := wall.NewRules(h.folders)
	if err != nil {
		return err
	}
	jobs := make(chan job)
	ready := make(chan error, crew)
	for range crew {
		go func() {
			_ = h.hand(rules, func() error {
				ready <- nil
				for j := range jobs {
					j.done <- j.call()
				}
				return nil
			}, ready)
		}()
	}
	for range crew {
		err = errors.Join(err, <-ready)
	}
	if err != nil {
		close(jobs)
		rules.Close()
		return err
	}
	if h.jobs != nil {
		close(h.jobs)
		h.rules.Close()
	}
	h.rules, h.jobs = rules, jobs
	return nil
}

// hand runs fn on a new thread under the rules. Where that cannot be, fn is not
// run, and failed, which may be nil, gets the error as well.
func (h *hands) hand(rules *wall.Rules, fn func() error, failed chan<- error) error {
	return wall.Apart(func() error {
		if err := rules.Restrict(); err != nil {
			if failed != nil {
				failed <- err
			}
			return err
		}
		tid := unix.Gettid()
		h.tids.Store(tid, true)
		defer h.tids.Delete(tid)
		return fn()
	})
}

func (h *hands) here() bool {
	_, yes := h.tids.Load(unix.Gettid())
	return yes
}

// byHand runs a call that makes, renames or removes a name in one of these folders.
func byHand(call func() error, dirs ...int) error {
	h := handsOf()
	if h == nil {
		return call()
	}
	return h.run(call, dirs...)
}

func (h *hands) run(call func() error, dirs ...int) error {
	h.mu.RLock()
	if slices.ContainsFunc(dirs, h.spares) {
		h.mu.RUnlock()
		if !h.here() {
			return call()
		}
		done := make(chan error, 1)
		go func() { done <- call() }() // on a thread that is no hand
		return <-done
	}
	if h.here() {
		h.mu.RUnlock()
		return call()
	}
	j := job{call, make(chan error, 1)}
	h.jobs <- j
	h.mu.RUnlock()
	return <-j.done
}

// maxDepth bounds how far up is looked for a folder.
const maxDepth = 1000

// spares tells whether a directory is, or lies beneath, one in which all is called
// directly. It needs no new descriptor: there may be none. The lock is held.
func (h *hands) spares(dir int) bool {
	if len(h.direct) == 0 {
		return false
	}
	at, last := ".", place{}
	for range maxDepth {
		var st unix.Stat_t
		if unix.Fstatat(dir, at, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			return false
		}
		now := place{st.Dev, st.Ino}
		if slices.Contains(h.direct, now) {
			return true
		}
		if now == last { // the root
			return false
		}
		at, last = at+"/..", now
	}
	return false
}

// ByHand runs fn, which changes much, on a thread of its own: its calls are then
// not handed on one by one, which would cost more than they do. fn must start no
// process, and must not look at other processes.
func ByHand(fn func() error) error {
	h := handsOf()
	if h == nil || h.here() {
		return fn()
	}
	h.mu.RLock()
	rules, err := h.rules.Clone()
	h.mu.RUnlock()
	if err != nil {
		return fn() // call by call then: an undo must not fail for this
	}
	defer rules.Close()
	ran := false
	err = h.hand(rules, func() error {
		ran = true
		return fn()
	}, nil)
	if !ran {
		return fn()
	}
	return err
}

// Admit lets changes be made beneath an open folder that the wall did not know
// when it was built: one that jailup has made itself, or was told to write to.
// Where no hand can be had for it, for want of descriptors for instance, it is
// changed without: an undo must not fail for this, and the first wall and the
// mounts stand.
func Admit(dir *os.File) error {
	h := handsOf()
	if h == nil {
		return nil
	}
	return h.admit(dir)
}

func (h *hands) admit(dir *os.File) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.knows(int(dir.Fd())) {
		return nil
	}
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		h.folders = append(h.folders, fd)
		err = h.hire()
	}
	if err == nil {
		return nil
	}
	var st unix.Stat_t
	if serr := unix.Fstat(int(dir.Fd()), &st); serr != nil {
		return fmt.Errorf("cannot let %s into the wall: %w", dir.Name(), errors.Join(err, serr))
	}
	if at := (place{st.Dev, st.Ino}); !slices.Contains(h.direct, at) {
		h.direct = append(h.direct, at)
	}
	return nil
}

func (h *hands) knows(dir int) bool {
	var a, b unix.Stat_t
	if unix.Fstat(dir, &a) != nil {
		return false
	}
	for _, fd := range h.folders {
		if unix.Fstat(fd, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino {
			return true
		}
	}
	return false
}

// MkdiratOwn is Mkdirat for a folder of jailup's own beside a jail, where nothing
// else may be made: no hand could. See Admit.
func MkdiratOwn(dir int, name string, mode uint32) error {
	err := watchName("mkdirat", dir, name)(do("mkdirat", name, func() error { return unix.Mkdirat(dir, name, mode&0o7777) }))
	if err != nil {
		return err
	}
	return Fchmodat(dir, name, mode)
}

// RmdirOwn removes what MkdiratOwn made, when it is empty.
func RmdirOwn(dir int, name string) error {
	return watchName("unlinkat", dir, name)(do("unlinkat", name, func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) }))
}

// UnlinkatHost is Unlinkat on the host's side, where no hand reaches: dir must be
// open on the host's own mounts.
func UnlinkatHost(dir int, name string, flags int) error {
	return watchName("unlinkat", dir, name)(do("unlinkat", name, func() error { return unix.Unlinkat(dir, name, flags) }))
}
