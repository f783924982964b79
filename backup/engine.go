package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

func hostUint16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }

// engine walks a tree with several workers and brings a copy (or only a picture
// in memory, where dst is -1) up to it. Begin, Settle, Restore, Verify and Diff
// are all one walk with other parts switched on.
//
// A unit of work is a directory, or a batch of names of a large one. Directories
// are opened when their turn comes, by a path from the nearest open anchor, so
// that neither depth nor breadth of the tree holds descriptors.
type engine struct {
	ctx     context.Context
	src     int    // the source's root
	dst     int    // the copy's root, or -1
	proc    int    // /proc/self/fd, during run
	mnt     uint64 // mount of the source's root: no other one is entered
	ex      *excluder
	stage   bool  // leave out StageName in the root
	flush   bool  // fsync whatever is written
	racy    int64 // a ctime from here on may hide a later change
	cloning atomic.Bool
	cloned  atomic.Bool
	uid     int
	gid     int

	files  atomic.Int64
	bytes  atomic.Int64
	copied atomic.Int64
	redone atomic.Int64
	taken  atomic.Int64

	anchors atomic.Int32

	twinMu sync.Mutex
	twins  map[inode]*twin

	skipMu  sync.Mutex
	skipped map[string]string

	mu      sync.Mutex
	cond    *sync.Cond
	dirs    []unit // newest first, so that the walk goes deep before it goes wide
	batches []unit // before directories: they hold descriptors
	open    int    // units queued or at work
	err     error
	stop    atomic.Bool
}

// twin is the first copied name of an inode that has several.
type twin struct {
	done chan struct{}
	it   *item
	dir  *dir
	ok   bool
}

// unit is a directory to do, or, with work set, a batch of one.
type unit struct {
	d    *dir
	at   *handle
	rel  string
	work *work
	jobs []job
}

// job is one name of a directory: new, or copied before.
type job struct {
	name string
	old  *item
	kind byte // d_type
}

// work is a directory while it is done.
type work struct {
	d     *dir
	h     *handle
	rel   string // for children: from at
	at    *handle
	path  string // only with excludes
	left  atomic.Int32
	fresh bool // the copy's directory was made in this walk
	// relisted: the source's directory is new or changed, all about it was read
	// again.
	relisted bool
	remeta   bool // owner, mode, attributes have to be set
	mu       sync.Mutex
	touched  bool // names were made or removed in the copy
	plain    bool // the copy's directory has been made safe to write in
}

const (
	batchSize  = 256
	maxAnchors = 200
	anchorLen  = 1500
	// handDepth is how deep a hand works: for every file that it opens the kernel
	// climbs to the folder that it may change, at each level a little longer.
	handDepth = 200
)

type worker struct {
	e     *engine
	buf   []byte
	names []byte
	sum   digester
}

func newEngine(ctx context.Context, src, dst int) (*engine, error) {
	st, err := jail.Fstat(src)
	if err != nil {
		return nil, err
	}
	// Files are opened through /proc; without it each would seem to be gone.
	var proc unix.Stat_t
	if err := unix.Stat(sys.ProcPath(src), &proc); err != nil || proc.Ino != st.Ino {
		return nil, errors.New("/proc is not mounted")
	}
	e := &engine{
		ctx: ctx, src: src, dst: dst, mnt: st.MountID, uid: os.Geteuid(), gid: os.Getegid(),
		twins: map[inode]*twin{}, skipped: map[string]string{},
	}
	e.cond = sync.NewCond(&e.mu)
	return e, nil
}

// run brings root up to the source with the given number of workers.
func (e *engine) run(root *dir, workers int) error {
	if workers <= 0 {
		workers = 4
	}
	// Not by openat2: the way there is a link and a mount.
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot use /proc: %w", err)
	}
	e.proc = fd
	defer unix.Close(fd)
	fd, err = openDir(e.src, "")
	if err != nil {
		return err
	}
	top := newHandle(root, fd)
	defer e.drop(top)
	if e.dst >= 0 {
		if fd, err = openDir(e.dst, ""); err != nil {
			return err
		}
		top.dst.Store(int32(fd))
	}
	e.push(unit{d: root, at: e.hold(top)})
	stop := context.AfterFunc(e.ctx, func() { e.fail(e.ctx.Err()) })
	defer stop()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			if err := sys.ByHand(e.work); err != nil {
				e.fail(err)
			}
		})
	}
	wg.Wait()
	return e.err
}

// work is one of the workers: it ends when there is no more to do.
func (e *engine) work() error {
	w := &worker{e: e, buf: make([]byte, 256<<10), names: make([]byte, 32<<10)}
	for {
		u, ok := e.next()
		if !ok {
			return nil
		}
		if u.d.depth > handDepth {
			// What another goroutine opens is opened by no hand; what it changes it
			// hands on, call by call.
			done := make(chan struct{})
			go func() {
				defer close(done)
				w.do(u)
			}()
			<-done
		} else {
			w.do(u)
		}
		e.finish()
	}
}

// do does one unit of work.
func (w *worker) do(u unit) {
	e := w.e
	var err error
	if !e.stop.Load() {
		if u.work != nil {
			err = w.batch(u.work, u.jobs)
		} else {
			err = w.directory(u)
		}
	}
	if err != nil {
		e.fail(err)
	}
	if u.work != nil {
		if err := w.leave(u.work); err != nil {
			e.fail(err)
		}
	} else {
		e.drop(u.at)
	}
}

func (e *engine) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		if cause := e.ctx.Err(); cause != nil {
			err = cause
		}
		e.err = err
	}
	e.stop.Store(true)
}

func (e *engine) push(u unit) {
	e.mu.Lock()
	if u.work != nil {
		e.batches = append(e.batches, u)
	} else {
		e.dirs = append(e.dirs, u)
	}
	e.open++
	e.mu.Unlock()
	e.cond.Signal()
}

func (e *engine) next() (unit, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		for _, q := range []*[]unit{&e.batches, &e.dirs} {
			if n := len(*q); n > 0 {
				u := (*q)[n-1]
				(*q)[n-1] = unit{}
				*q = (*q)[:n-1]
				return u, true
			}
		}
		if e.open == 0 {
			return unit{}, false
		}
		e.cond.Wait()
	}
}

func (e *engine) finish() {
	e.mu.Lock()
	e.open--
	last := e.open == 0
	e.mu.Unlock()
	if last {
		e.cond.Broadcast()
	}
}

func (e *engine) skip(path, reason string) {
	e.skipMu.Lock()
	defer e.skipMu.Unlock()
	if len(e.skipped) < 10000 {
		e.skipped[show(path)] = reason
	}
}
