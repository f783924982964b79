// Package wall is the second wall around what jailup does to a jail.
//
// The first one is package jail: every path is opened by descriptors, as the
// kernel resolves it inside of the jail. This one stands where that has a hole:
// the process that is about to change a jail is executed once more, in its place
// and under its process id, in a mount namespace of its own in which all but the
// jail, its stage, and jailup's own folders is read-only, nosuid and nodev; and
// what it changes is changed by threads that Landlock keeps within the same
// folders (see package sys).
//
// What has to live on the host's side, a started server above all, is started by
// Host.
package wall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spec says what stays writable. All paths are absolute and without links.
type Spec struct {
	// Keep are jails, each with the folders of its stages, there or not: these
	// stay on one mount, so that a file can be exchanged between them. What lies
	// beside them, and beside the folders on the way to them, is covered.
	Keep [][]string
	// Free are regular expressions of names that are not covered.
	Free []string
	// Dirs are folders that are writable with what is mounted below them. Those
	// that are not there are left out.
	Dirs []string
	// Beneath are further folders in which Landlock lets names be made.
	Beneath []string
	// NoMounts and NoLandlock leave out one half, for tests of the other.
	NoMounts, NoLandlock bool
}

// The descriptors by which the process in the namespace is told what it is in.
// They are far above those that a program has open as it begins.
const (
	noteFd = 60
	hostFd = 61
)

const noteName = "jailup-wall"

// note is what the process before the execution leaves to the one after it: a
// piece of memory that nobody can change. That it speaks of this very process,
// its number and the time of its start, cannot come about by chance.
type note struct {
	PID    int      `json:"pid"`
	Start  uint64   `json:"start"` // field 22 of proc_pid_stat(5), the same over execve(2)
	Comm   string   `json:"comm"`
	Mounts bool     `json:"mounts"`
	Why    string   `json:"why,omitempty"`   // there are no mounts
	Open   int      `json:"open,omitempty"`  // siblings that are not covered
	Rules  []string `json:"rules,omitempty"` // folders for Landlock; empty for none
}

// State is the wall around this process.
type State struct{ note }

// Mounts tells whether the process is in a mount namespace of its own.
func (s *State) Mounts() bool { return s.note.Mounts }

// Why tells why it is not.
func (s *State) Why() string { return s.note.Why }

// Open is how many names beside the jail could not be made read-only.
func (s *State) Open() int { return s.note.Open }

// Rules are the folders that Landlock leaves writable; none if it is not used.
func (s *State) Rules() []string { return s.note.Rules }

var inside = sync.OnceValue(read)

// Inside returns the wall around this process; nil where there is none.
func Inside() *State { return inside() }

const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

func read() *State {
	got, err := unix.FcntlInt(noteFd, unix.F_GET_SEALS, 0)
	if err != nil || got&seals != seals {
		return nil
	}
	data, err := io.ReadAll(io.NewSectionReader(preader(noteFd), 0, 1<<20))
	var s State
	if err != nil || json.Unmarshal(data, &s.note) != nil || s.PID != os.Getpid() {
		return nil
	}
	if start, err := startTime(); err != nil || start != s.Start {
		return nil
	}
	unix.CloseOnExec(noteFd)
	if s.note.Mounts {
		unix.CloseOnExec(hostFd)
	}
	return &s
}

type preader int

func (fd preader) ReadAt(p []byte, off int64) (int, error) {
	n, err := unix.Pread(int(fd), p, off)
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

// startTime is when this process was started, in ticks since the boot.
func startTime() (uint64, error) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	// The name is in parentheses, and may hold anything.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return 0, errors.New("/proc/self/stat is too short")
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// Resume gives the process its name back, which the execution took. It is called
// once, by main, and does nothing outside of a wall.
func Resume() {
	s := Inside()
	if s == nil || s.Comm == "" {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() == os.Getpid() {
		name := append([]byte(s.Comm), 0)
		_ = prctlName(name)
		return
	}
	_ = Host(func() error { return os.WriteFile("/proc/self/comm", []byte(s.Comm), 0) })
}

// Host runs fn where the host's mounts are seen as they are, in a thread that is
// ended afterwards. What fn starts lives there. fn must not wait for another Host.
func Host(fn func() error) error {
	res := make(chan error, 1)
	go apart(func() {
		if s := Inside(); s != nil && s.Mounts() {
			if err := leave(hostFd); err != nil {
				res <- fmt.Errorf("cannot go back to the host's mounts: %w", err)
				return
			}
		}
		res <- fn()
	})
	return <-res
}

func leave(fd int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(fd, unix.CLONE_NEWNS)
}

// apart runs fn on a thread that ends with it, and never on the first one: what
// /proc tells of a process is what its first thread sees.
func apart(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		fn()
		return // never unlocked: the thread ends
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		apart(fn)
	}()
	<-done
	runtime.UnlockOSThread()
}

// Apart runs fn on a thread of its own and waits for it.
func Apart(fn func() error) error {
	res := make(chan error, 1)
	go apart(func() { res <- fn() })
	return <-res
}

// Enter executes this program once more behind the wall, with the same arguments,
// environment, streams and process id. It returns only where that cannot be: then
// this process is as it was, and the error tells why. Each attempt has a thread of
// its own, which ends with it: a half-made view ends with its thread.
func Enter(s Spec) error {
	why := "switched off"
	if !s.NoMounts {
		err := Apart(outermost)
		if err == nil {
			var built bool
			err = Apart(func() (err error) {
				built, err = enter(s, "")
				return err
			})
			if built {
				return err
			}
		}
		why = err.Error()
	}
	return Apart(func() error {
		_, err := enter(s, why)
		return err
	})
}

// outermost returns an error where this process could not come back from another
// mount namespace: setns(2) sets the root to that of the namespace, which leads
// out of a chroot. It leaves the thread wherever that is.
func outermost() error {
	var was, is unix.Statx_t
	const mask = unix.STATX_INO | unix.STATX_MNT_ID
	if err := unix.Statx(unix.AT_FDCWD, "/", 0, mask, &was); err != nil {
		return fmt.Errorf("cannot look at the root: %w", err)
	}
	own, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot look at the mounts: %w", err)
	}
	defer unix.Close(own)
	if err := leave(own); err != nil {
		return fmt.Errorf("cannot have mounts apart: %w", err)
	}
	if err := unix.Statx(unix.AT_FDCWD, "/", 0, mask, &is); err != nil {
		return fmt.Errorf("cannot look at the root: %w", err)
	}
	if was.Mnt_id != is.Mnt_id || was.Ino != is.Ino || was.Dev_major != is.Dev_major || was.Dev_minor != is.Dev_minor {
		return errors.New("this process is in a chroot")
	}
	return nil
}

// enter is one attempt, without mounts if there is a reason why. After an error
// the thread may be anywhere; built tells whether it is in the finished view.
func enter(s Spec, why string) (built bool, err error) {
	n := note{PID: os.Getpid(), Why: why, Mounts: why == ""}
	if n.Start, err = startTime(); err != nil {
		return false, err
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return false, err
	}
	n.Comm = strings.TrimSpace(string(comm))
	host, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(host)
	if n.Mounts {
		wd, wdErr := os.Getwd()
		if n.Open, err = build(s); err != nil {
			return false, err
		}
		if wdErr == nil {
			_ = unix.Chdir(wd) // it is another mount now
		}
	}
	if !s.NoLandlock && ABI() >= minABI {
		for _, list := range append(slices.Clone(s.Keep), s.Dirs, s.Beneath) {
			n.Rules = append(n.Rules, list...)
		}
	}
	if !n.Mounts && len(n.Rules) == 0 {
		return false, errors.New(n.Why)
	}
	return n.Mounts, again(n, host)
}

// again executes this program with the note.
func again(n note, host int) error {
	for _, fd := range []int{noteFd, hostFd} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("descriptor %d is in use", fd)
		}
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate(noteName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(noteName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, data); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return err
	}
	for to, from := range map[int]int{noteFd: fd, hostFd: host} {
		if err := unix.Dup3(from, to, 0); err != nil {
			return err
		}
		defer unix.Close(to)
	}
	// By this name it is the same file, also where another has taken its place.
	return fmt.Errorf("cannot execute the program again: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// common is the folder that holds all of the paths, or is the one path.
func common(paths []string) string {
	if len(paths) == 0 {
		return ""
	}
	at := paths[0]
	for _, p := range paths[1:] {
		for !under(p, at) {
			at = filepath.Dir(at)
		}
	}
	return at
}

// under tells whether p is dir or lies below it.
func under(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
