package jail

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a program in a Box may use up. A cgroup holds it to the first two, where
// one could be made; everywhere process 1 of the box looks, and ends the box.
const (
	boxTasks   = 512     // threads
	boxProcs   = 400     // processes; beyond, the box is ended
	boxMemory  = 2 << 30 // bytes in memory, beside what the view may hold
	boxFile    = 1 << 30 // bytes of one file
	boxSpace   = 4 << 30 // bytes of addresses of one process
	boxFiles   = 16384   // descriptors of one process: a test opens each log and each socket
	boxWatch   = 25 * time.Millisecond
	boxLimited = "limit: " // before a report that is no failure of the box
)

// kept are the capabilities that the test of a server's configuration needs: to
// be root among files, to become the worker's user, to bind low ports.
var kept = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_NET_BIND_SERVICE,
}

// shut makes the view the root of all that there is: the host's files are no
// longer mounted in this namespace, so that there is nothing to break out to.
// Where the kernel cannot do that (the root is the first RAM disk, or a directory
// that somebody else has changed into: pivot_root(2)) this thread alone gets the
// root, for good: the program has no right to change it back.
func shut(view string) error {
	if err := unix.Chdir(view); err != nil {
		return err
	}
	err := unix.PivotRoot(".", ".")
	if err == nil {
		// The old root lies on top of the new one now: pivot_root(2), NOTES.
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("cannot take the host's files away: %w", err)
		}
		return unix.Chdir("/")
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("cannot change the root: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot change the root: %w", err)
	}
	if err := unix.Chroot(view); err != nil {
		return fmt.Errorf("cannot change the root: %w", err)
	}
	return unix.Chdir("/")
}

// confine takes from this thread, and so from its children, all that the program
// does not need. Other threads of this process keep their rights.
func confine(proc *os.File) error {
	// What names a cgroup or a key of the host; a kernel may have neither.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("cannot hide the cgroup: %w", err)
	}
	_, _ = unix.KeyctlJoinSessionKeyring("")
	limits := map[int]uint64{
		unix.RLIMIT_FSIZE: boxFile, unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: boxFiles,
		unix.RLIMIT_AS: boxSpace, unix.RLIMIT_DATA: boxMemory, unix.RLIMIT_MEMLOCK: 64 << 20, unix.RLIMIT_RTPRIO: 0,
	}
	// In a user namespace it counts all that its root runs, and before Linux 5.14 what
	// the roots of other containers with the same map run as well.
	if allUsers(proc) {
		limits[unix.RLIMIT_NPROC] = boxTasks
	}
	for what, max := range limits {
		var lim unix.Rlimit
		if unix.Getrlimit(what, &lim) == nil {
			lim.Cur, lim.Max = min(lim.Cur, max), min(lim.Max, max)
			if err := unix.Setrlimit(what, &lim); err != nil && what != unix.RLIMIT_AS {
				return fmt.Errorf("cannot limit the program: %w", err)
			}
		}
	}
	// Memory that is in no process's sight: segments of System V (the limit is the
	// IPC namespace's own, sysvipc(7)). Of what is left the kernel is to take from
	// the box first when the machine has no more: proc_pid_oom_score_adj(5).
	for file, value := range map[string]int{shmall: boxMemory / os.Getpagesize(), "self/oom_score_adj": 1000} {
		if err := write(proc, file, value); err != nil && !errors.Is(err, unix.ENOENT) && (file != shmall || !isRefusal(err)) {
			return fmt.Errorf("cannot limit the program: %w", err)
		}
	}
	// Not to be traced, and its /proc is nobody's: it has rights that the program
	// has not.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if slices.Contains(kept, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot drop capabilities: %w", err)
		}
	}
	if err := DropInheritable(); err != nil {
		return fmt.Errorf("cannot drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	return seccomp()
}

// shmall may be out of reach in a container; the memory is counted all the same.
const shmall = "sys/kernel/shmall"

func isRefusal(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)
}

// allUsers tells whether this is the first user namespace, or one that maps all users
// to themselves (user_namespaces(7)).
func allUsers(proc *os.File) bool {
	fd, err := unix.Openat(int(proc.Fd()), "self/uid_map", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.ENOENT) // a kernel without user namespaces
	}
	defer unix.Close(fd)
	var buf [128]byte
	n, _ := unix.Read(fd, buf[:])
	return everyUser(string(buf[:max(n, 0)]))
}

func everyUser(uidMap string) bool {
	return slices.Equal(strings.Fields(uidMap), []string{"0", "0", "4294967295"})
}

// write writes a number to a file of the kernel.
func write(proc *os.File, file string, n int) error {
	fd, err := unix.Openat(int(proc.Fd()), file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(strconv.Itoa(n)))
	return err
}

// DropInheritable empties the inheritable set of this thread, which must be
// locked, and with it the ambient one. A root's execve adds it to what the bounding set allows
// (capabilities(7)): with it the program would have all that whoever started us
// let us inherit.
func DropInheritable() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&head, &data[0])
}

// steady keeps the program's signals from ending process 1: it could send some,
// as the same user. They are caught, not ignored, for what is ignored is
// inherited.
func steady() { signal.Notify(make(chan os.Signal, 1)) }

// keepWatch ends the box when its processes, or their memory, are too many. It
// needs no cgroup. Its thread runs before others where it may, and the end of
// process 1 is the end of all: nothing forks faster than that.
func keepWatch(proc *os.File, memory int64, end func(why string)) {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	for range time.Tick(boxWatch) {
		procs, bytes := usage(proc)
		switch {
		case procs > boxProcs:
			end(fmt.Sprintf("more than %d processes", boxProcs))
		case bytes > memory:
			end(fmt.Sprintf("more than %d MiB of memory", memory>>20))
		}
	}
}

// usage counts the processes that proc shows, and what they have in memory
// (proc_pid_statm(5)): what two of them share is counted twice.
func usage(proc *os.File) (procs int, bytes int64) {
	if _, err := proc.Seek(0, 0); err != nil {
		return 0, 0
	}
	names, _ := proc.Readdirnames(-1)
	page := int64(os.Getpagesize())
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || pid == 1 {
			continue
		}
		if procs++; procs > boxProcs {
			return procs, bytes
		}
		fd, err := unix.Openat(int(proc.Fd()), n+"/statm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		var buf [128]byte
		k, _ := unix.Read(fd, buf[:])
		unix.Close(fd)
		var size, resident int64
		if _, err := fmt.Sscan(string(buf[:max(k, 0)]), &size, &resident); err == nil && resident < math.MaxInt32 {
			bytes += resident * page
		}
	}
	return procs, bytes
}
