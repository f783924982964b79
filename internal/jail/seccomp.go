//go:build amd64 || arm64

package jail

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter on the system calls of a program in a Box. It is a list of what a
// test of a configuration never needs: what reaches for the kernel itself, for
// other processes, for namespaces and mounts, or is a large target. All else is
// allowed, for what a server may load is not known. It comes on top of the
// capabilities that are gone, for some of these calls ask for none.
//
// A filter is a program for the classic BPF machine over struct seccomp_data:
// number of the call, architecture, instruction pointer, six arguments
// (seccomp(2)). What it says holds for the thread and all that comes of it, over
// execve, for ever.

// refused calls end with EPERM, as for one who may not. Those of one
// architecture alone are in archRefused.
var refused = []uint32{
	// Mounts, the root and namespaces: mount_namespaces(7), namespaces(7). clone(2)
	// is looked at below.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_MOVE_MOUNT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
	unix.SYS_SETNS, unix.SYS_UNSHARE,
	// Files by handle: past every path and every root (open_by_handle_at(2)).
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	// Other processes: ptrace(2), process_vm_readv(2), pidfd_getfd(2), kcmp(2).
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE,
	unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
	// The kernel: kexec_load(2), init_module(2), bpf(2), perf_event_open(2),
	// syslog(2), reboot(2).
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_SYSLOG, unix.SYS_REBOOT,
	// Often the door to it: userfaultfd(2), io_uring_setup(2), which also does by
	// itself what a filter has refused.
	unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	// Keys have no namespace of their own: keyrings(7).
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	// What is of the whole machine: time, swap, quotas, accounting, names.
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_ACCT,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP, unix.SYS_FANOTIFY_INIT,
	unix.SYS_LOOKUP_DCOOKIE, unix.SYS_NFSSERVCTL,
}

// newest is the last call that this list was made with. What a later kernel adds
// is ENOSYS, as on the kernel before it.
const newest = unix.SYS_RSEQ_SLICE_YIELD

// families are the sockets that servers have: socket(2). Of netlink(7) only what
// tells the addresses of the machine.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

// namespaceFlags are those of clone(2) that make a namespace.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Offsets in struct seccomp_data; of an argument the lower half, which comes
// first on all machines that the filter is for.
const (
	seccompNumber = 0
	seccompArch   = 4
	seccompArgs   = 16
)

const (
	seccompAllow = unix.SECCOMP_RET_ALLOW
	seccompKill  = unix.SECCOMP_RET_KILL_PROCESS
)

func seccompErrno(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// bpf is a filter that is being written.
type bpf []unix.SockFilter

func (b *bpf) load(offset uint32) {
	*b = append(*b, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

func (b *bpf) arg(n uint32) { b.load(seccompArgs + 8*n) }

func (b *bpf) mask(bits uint32) {
	*b = append(*b, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: bits})
}

func (b *bpf) end(action uint32) {
	*b = append(*b, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action})
}

// when ends with action where what is loaded compares so with k.
func (b *bpf) when(compare uint16, k, action uint32) {
	*b = append(*b, unix.SockFilter{Code: unix.BPF_JMP | compare | unix.BPF_K, K: k, Jf: 1})
	b.end(action)
}

// call adds rules for one call; the number must be loaded. They must end in
// an action, for another argument is loaded then.
func (b *bpf) call(number uint32, rules func(r *bpf)) {
	var r bpf
	rules(&r)
	*b = append(*b, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jf: uint8(len(r))})
	*b = append(*b, r...)
}

// seccompProgram is the filter for this architecture.
func seccompProgram() bpf {
	refuse := seccompErrno(unix.EPERM)
	var b bpf
	// The numbers mean something for one architecture only, and a kernel may take
	// calls of a second one from the same process: i386's, by int 0x80.
	b.load(seccompArch)
	b = append(b, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: seccompNative, Jt: 1})
	b.end(seccompKill)
	b.load(seccompNumber)
	if seccompForeign != 0 {
		b.when(unix.BPF_JSET, seccompForeign, seccompKill)
	}
	b.when(unix.BPF_JGT, newest, seccompErrno(unix.ENOSYS))
	// Its flags lie in memory, where no filter can look. A C library falls back on
	// clone(2). The other two make files of memory that no limit but a cgroup's
	// counts (memfd_create(2)), and whoever uses them can do without.
	for _, n := range []uint32{unix.SYS_CLONE3, unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET} {
		b.when(unix.BPF_JEQ, n, seccompErrno(unix.ENOSYS))
	}
	for _, n := range refused {
		b.when(unix.BPF_JEQ, n, refuse)
	}
	for _, n := range archRefused {
		b.when(unix.BPF_JEQ, n, refuse)
	}
	b.call(unix.SYS_CLONE, func(r *bpf) {
		r.arg(0)
		r.when(unix.BPF_JSET, namespaceFlags, refuse)
		r.end(seccompAllow)
	})
	b.call(unix.SYS_SOCKET, func(r *bpf) {
		r.arg(0)
		for _, f := range families {
			r.when(unix.BPF_JEQ, f, seccompAllow)
		}
		r.call(unix.AF_NETLINK, func(n *bpf) {
			n.arg(2)
			n.when(unix.BPF_JEQ, unix.NETLINK_ROUTE, seccompAllow)
		})
		r.end(seccompErrno(unix.EAFNOSUPPORT))
	})
	// Both push letters into a terminal's input: ioctl_tty(2), ioctl_console(2).
	b.call(unix.SYS_IOCTL, func(r *bpf) {
		r.arg(1)
		r.when(unix.BPF_JEQ, unix.TIOCSTI, refuse)
		r.when(unix.BPF_JEQ, unix.TIOCLINUX, refuse)
		r.end(seccompAllow)
	})
	device := func(arg uint32) func(r *bpf) {
		return func(r *bpf) {
			r.arg(arg)
			r.mask(unix.S_IFMT)
			r.when(unix.BPF_JEQ, unix.S_IFCHR, refuse)
			r.when(unix.BPF_JEQ, unix.S_IFBLK, refuse)
			r.end(seccompAllow)
		}
	}
	b.call(unix.SYS_MKNODAT, device(2))
	if seccompMknod != 0 {
		b.call(seccompMknod, device(1))
	}
	b.end(seccompAllow)
	return b
}

// seccomp puts the filter on the calling thread, which must be locked and have
// no_new_privs. On a kernel without filters it does nothing: the other walls
// stand.
func seccomp() error {
	b := seccompProgram()
	prog := unix.SockFprog{Len: uint16(len(b)), Filter: &b[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	runtime.KeepAlive(b)
	if errors.Is(err, unix.EINVAL) && !hasSeccomp() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot filter system calls: %w", err)
	}
	return nil
}

// hasSeccomp tells whether the kernel has filters at all: PR_GET_SECCOMP(2const).
func hasSeccomp() bool {
	_, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return !errors.Is(err, unix.EINVAL)
}
