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
)

// cgroup bounds the number of a box's processes, which RLIMIT_NPROC does not do
// for root (setrlimit(2)).
type cgroup struct{ dir string }

const (
	cgroupPrefix = "jailup-box-" // and the process's id, and something random
	cgroupTasks  = 512           // threads, those of the box's own process 1 included
)

// newCgroup makes one with the pids controller, of version 2 or 1: below this
// process's own, or, where that may not have children with it, below the
// hierarchy's root, as container managers do. It returns nil where none can be
// made, for want of the controller, of rights or of a writable mount: the box
// then has the other limits only.
func newCgroup() *cgroup {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand
	name := cgroupPrefix + strconv.Itoa(os.Getpid()) + "-" + hex.EncodeToString(random[:])
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3) // cgroups(7)
		if len(part) != 3 {
			continue
		}
		base := ""
		switch {
		case part[1] == "":
			base = "/sys/fs/cgroup"
		case strings.Contains(","+part[1]+",", ",pids,"):
			base = "/sys/fs/cgroup/" + part[1]
		default:
			continue
		}
		for _, parent := range []string{filepath.Join(base, filepath.Clean("/"+part[2])), base} {
			sweepCgroups(parent)
			c := &cgroup{dir: filepath.Join(parent, name)}
			if unix.Mkdir(c.dir, 0o755) != nil {
				continue
			}
			if c.set("pids.max", cgroupTasks) == nil {
				return c
			}
			c.remove()
		}
	}
	return nil
}

// set writes to a file that the kernel made; where it did not, none is made.
func (c *cgroup) set(file string, n int) error {
	f, err := os.OpenFile(filepath.Join(c.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(n))
	return errors.Join(err, f.Close())
}

// add moves a process into it; nil is fine.
func (c *cgroup) add(pid int) {
	if c != nil {
		_ = c.set("cgroup.procs", pid)
	}
}

// remove removes it once its processes are gone; nil is fine.
func (c *cgroup) remove() {
	if c == nil {
		return
	}
	for range 50 {
		if err := unix.Rmdir(c.dir); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// sweepCgroups removes those whose maker was killed. The kernel refuses to remove
// one with processes in it.
func sweepCgroups(parent string) {
	old, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
	for _, dir := range old {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		if pid, err := strconv.Atoi(owner); err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = unix.Rmdir(dir)
		}
	}
}
