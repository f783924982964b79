//go:build faultpoints

package sys

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/wall"
)

// FaultPoints tells whether this binary was built to be killed at will.
const FaultPoints = true

// The environment says what goes wrong where:
//
//	JAILUP_FAULT_COUNTER=FILE     8 bytes, shared by all processes: points passed so far
//	JAILUP_FAULT_TRACE=FILE       one line per point: number, before|after, operation, name
//	JAILUP_FAULT=kill:W           SIGKILL to this process at point W
//	JAILUP_FAULT=signal:W:S,S     the signals S (INT, TERM, HUP, PIPE) to this process there, one after the other
//	JAILUP_FAULT=error:W:E        the call with before-point W fails with errno E, once
//	JAILUP_FAULT=error:W+:E       it and every later mutating call fail with errno E
//	JAILUP_FAULT=space:W:E        it and every later call fail that need room: to make a name or to write,
//	                              as on a full btrfs, which does not even overwrite; W+ is the same
//	JAILUP_FAULT=halt:W           this process stands still at point W, after a word on JAILUP_FAULT_SAY, a file
//	JAILUP_FAULT=nosync:N         the N-th fsync of any kind is left out
//	JAILUP_FAULT=nosync:all       all of them are
//
// W is N, the N-th point of all, or N@POINT, the N-th after the first of that name
// (see Point): N@do install. What comes before differs from run to run, since some
// of it is done by several hands at once; a step's own points hardly do.
type faults struct {
	counter *uint64
	syncs   atomic.Uint64
	trace   *os.File
	mode    string
	n       uint64
	always  bool
	errno   unix.Errno
	signals []unix.Signal

	step  string        // of N@POINT
	begun atomic.Bool   // it was passed
	since atomic.Uint64 // points from then on, itself not counted
}

var setup = sync.OnceValue(func() *faults {
	f := &faults{counter: new(uint64)}
	if path := os.Getenv("JAILUP_FAULT_COUNTER"); path != "" {
		file, err := openOutside(path, os.O_RDWR|os.O_CREATE)
		if err == nil && file.Truncate(8) == nil {
			if m, err := unix.Mmap(int(file.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
				f.counter = (*uint64)(unsafe.Pointer(&m[0]))
			}
			file.Close()
		}
	}
	if path := os.Getenv("JAILUP_FAULT_TRACE"); path != "" {
		f.trace, _ = openOutside(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	}
	part := strings.Split(os.Getenv("JAILUP_FAULT"), ":")
	if len(part) < 2 {
		return f
	}
	f.mode = part[0]
	where, step, _ := strings.Cut(part[1], "@")
	f.step = step
	f.always = where == "all" || strings.HasSuffix(where, "+") || f.mode == "space"
	f.n, _ = strconv.ParseUint(strings.TrimSuffix(where, "+"), 10, 64)
	if len(part) > 2 {
		for _, e := range []unix.Errno{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EDQUOT, unix.EINTR} {
			if unix.ErrnoName(e) == part[2] {
				f.errno = e
			}
		}
		for name := range strings.SplitSeq(part[2], ",") {
			if s := unix.SignalNum("SIG" + name); s != 0 {
				f.signals = append(f.signals, s)
			}
		}
	}
	return f
})

// openOutside opens a file of a test, which lies on the other side of the wall.
func openOutside(path string, flags int) (f *os.File, err error) {
	err = wall.Host(func() error {
		f, err = os.OpenFile(path, flags, 0o600)
		return err
	})
	return f, err
}

// pass tells whether the fault is due here: at its point, or from there on.
func pass(when, op, name string) (now, later bool) {
	f := setup()
	n := atomic.AddUint64(f.counter, 1)
	if f.trace != nil {
		fmt.Fprintf(f.trace, "%d %s %s %q\n", n, when, op, name)
	}
	if f.step != "" {
		if !f.begun.Load() {
			if op == "point" && name == f.step {
				f.begun.Store(true)
			}
			return false, false
		}
		n = f.since.Add(1)
	}
	now, later = n == f.n, n > f.n
	switch {
	case !now:
	case f.mode == "kill":
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case f.mode == "halt":
		if say, err := os.OpenFile(os.Getenv("JAILUP_FAULT_SAY"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
			fmt.Fprintf(say, "\nfault: halted %s %s %q\n", when, op, name)
		}
		select {}
	case f.mode == "signal":
		for i, s := range f.signals {
			if i > 0 {
				time.Sleep(5 * time.Millisecond) // it was heard, and what hears the next is set
			}
			if s == unix.SIGSTOP { // at once: by this thread, and not by the one that is free first
				runtime.LockOSThread()
				_ = unix.Tgkill(os.Getpid(), unix.Gettid(), s)
				runtime.UnlockOSThread()
				continue
			}
			unix.Kill(os.Getpid(), s)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return now, later
}

func before(op, name string) error {
	now, later := pass("before", op, name)
	f := setup()
	if f.errno == 0 || !now && !(later && f.always) {
		return nil
	}
	if f.mode == "error" || f.mode == "space" && needsRoom(op) {
		return f.errno
	}
	return nil
}

// needsRoom tells which calls a full file system refuses. A rename is none of
// them: it finds the room of the name that it takes away, or exchanges two.
func needsRoom(op string) bool {
	switch op {
	case "create", "write", "pwrite", "copy", "clone", "allocate", "mkdirat", "symlinkat", "linkat", "mknodat", "setxattr":
		return true
	}
	return false
}

func after(op, name string) { pass("after", op, name) }

func skipSync(name string) bool {
	f := setup()
	if f.mode != "nosync" {
		return false
	}
	n := f.syncs.Add(1)
	return f.always || n == f.n
}

// Point is a fault point that is no system call, such as "server stopped".
func Point(name string) { pass("at", "point", name) }
