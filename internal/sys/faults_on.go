//go:build faultpoints

package sys

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FaultPoints tells whether this binary was built to be killed at will.
const FaultPoints = true

// The environment says what goes wrong where:
//
//	JAILUP_FAULT_COUNTER=FILE   8 bytes, shared by all processes: points passed so far
//	JAILUP_FAULT_TRACE=FILE     one line per point: number, before|after, operation, name
//	JAILUP_FAULT=kill:N         SIGKILL to this process at point N
//	JAILUP_FAULT=error:N:E      call with before-point N fails with errno E, once
//	JAILUP_FAULT=error:N+:E     it and every later mutating call fail with errno E
//	JAILUP_FAULT=nosync:N       the N-th fsync of any kind is left out
//	JAILUP_FAULT=nosync:all     all of them are
type faults struct {
	counter *uint64
	syncs   atomic.Uint64
	trace   *os.File
	mode    string
	n       uint64
	always  bool
	errno   unix.Errno
}

var setup = sync.OnceValue(func() *faults {
	f := &faults{counter: new(uint64)}
	if path := os.Getenv("JAILUP_FAULT_COUNTER"); path != "" {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil && file.Truncate(8) == nil {
			if m, err := unix.Mmap(int(file.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
				f.counter = (*uint64)(unsafe.Pointer(&m[0]))
			}
			file.Close()
		}
	}
	if path := os.Getenv("JAILUP_FAULT_TRACE"); path != "" {
		f.trace, _ = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	}
	part := strings.Split(os.Getenv("JAILUP_FAULT"), ":")
	if len(part) < 2 {
		return f
	}
	f.mode = part[0]
	f.always = part[1] == "all" || strings.HasSuffix(part[1], "+")
	f.n, _ = strconv.ParseUint(strings.TrimSuffix(part[1], "+"), 10, 64)
	if len(part) > 2 {
		for _, e := range []unix.Errno{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EDQUOT, unix.EINTR} {
			if unix.ErrnoName(e) == part[2] {
				f.errno = e
			}
		}
	}
	return f
})

func pass(when, op, name string) (n uint64) {
	f := setup()
	n = atomic.AddUint64(f.counter, 1)
	if f.trace != nil {
		fmt.Fprintf(f.trace, "%d %s %s %q\n", n, when, op, name)
	}
	if f.mode == "kill" && n == f.n {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	return n
}

func before(op, name string) error {
	n := pass("before", op, name)
	f := setup()
	if f.mode == "error" && (n == f.n || f.always && n > f.n) {
		return f.errno
	}
	return nil
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
