package jail

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/wall"
)

// cgroup bounds the threads of a box, which RLIMIT_NPROC does not do for root
// (setrlimit(2)), and its memory, which no limit of one process does. With the
// controllers of version 1 it is one folder for each.
type cgroup struct{ dirs []string }

const cgroupPrefix = "jailup-box-" // and the process's id, its pid namespace, and something random

// newCgroup makes one with the controllers for pids and memory, of version 2 or
// 1: below this process's own, or, where that may not have children with it,
// below the hierarchy's root, as container managers do. It returns nil where none
// can be made, for want of the controllers, of rights or of a writable mount: the
// box then has the other limits only.
func newCgroup(memory int64) (c *cgroup) {
	_ = wall.Host(func() error { // the wall has /sys read-only
		c = makeCgroup(memory)
		return nil
	})
	return c
}

func makeCgroup(memory int64) *cgroup {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand
	name := cgroupPrefix + strconv.Itoa(os.Getpid()) + "-" + pidNamespace() + "-" + hex.EncodeToString(random[:])
	c := &cgroup{}
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3) // cgroups(7)
		if len(part) != 3 {
			continue
		}
		base := ""
		set := map[string]int64{}
		switch controllers := "," + part[1] + ","; {
		case part[1] == "":
			base = "/sys/fs/cgroup"
			set["pids.max"], set["memory.max"], set["memory.swap.max"] = boxTasks, memory, 0
		case strings.Contains(controllers, ",pids,"):
			base = "/sys/fs/cgroup/" + part[1]
			set["pids.max"] = boxTasks
		case strings.Contains(controllers, ",memory,"):
			base = "/sys/fs/cgroup/" + part[1]
			set["memory.limit_in_bytes"] = memory
		default:
			continue
		}
		for _, parent := range []string{filepath.Join(base, filepath.Clean("/"+part[2])), base} {
			sweepCgroups(parent)
			dir := filepath.Join(parent, name)
			if unix.Mkdir(dir, 0o755) != nil {
				continue
			}
			done := 0
			for file, value := range set {
				if setCgroup(dir, file, value) == nil {
					done++
				}
			}
			if done > 0 {
				c.dirs = append(c.dirs, dir)
				break
			}
			_ = unix.Rmdir(dir)
		}
	}
	if len(c.dirs) == 0 {
		return nil
	}
	return c
}

// setCgroup writes to a file that the kernel made; where it did not, none is made.
func setCgroup(dir, file string, n int64) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(n, 10))
	return errors.Join(err, f.Close())
}

// add moves a process into it; nil is fine.
func (c *cgroup) add(pid int) {
	if c == nil {
		return
	}
	_ = wall.Host(func() error {
		for _, d := range c.dirs {
			_ = setCgroup(d, "cgroup.procs", int64(pid))
		}
		return nil
	})
}

// remove removes it once its processes are gone; nil is fine.
func (c *cgroup) remove() {
	if c == nil {
		return
	}
	_ = wall.Host(func() error {
		for _, d := range c.dirs {
			for range 50 {
				if err := unix.Rmdir(d); !errors.Is(err, unix.EBUSY) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		return nil
	})
}

// pidNamespace names that of this process: a number of a process means nothing in
// another one.
func pidNamespace() string {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return "0"
	}
	return strconv.FormatUint(st.Ino, 10)
}

// sweepCgroups removes those whose maker was killed, as far as its namespace is this
// one. The kernel refuses to remove one with processes in it.
func sweepCgroups(parent string) {
	old, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
	for _, dir := range old {
		owner, rest, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		if !strings.HasPrefix(rest, pidNamespace()+"-") {
			continue
		}
		if pid, err := strconv.Atoi(owner); err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = unix.Rmdir(dir)
		}
	}
}
