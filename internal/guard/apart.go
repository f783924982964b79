package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// apartPrefix begins the name of a guardian's cgroup, or scope; the jail's id and
// the guardian's number follow.
const apartPrefix = "jailup-guardian-"

// apart are the cgroups that a guardian made for itself, each beside the one that
// it was in, so that what kills that one (a unit that stops, a supervisor, the
// kernel out of memory) does not kill the guardian along with the run.
type apart struct{ dirs []string }

// stepAside moves this process out of the cgroups of whoever started it: into a
// scope of its own where systemd is init, else into a cgroup made by hand, in each
// hierarchy that has it elsewhere than at its root and lets it go. What cannot be
// had is told, and no reason not to guard.
func stepAside(ctx context.Context, id string) (*apart, error) {
	name := apartPrefix + id + "-" + strconv.Itoa(os.Getpid())
	if Booted() {
		return &apart{}, scope(ctx, name+".scope", "jailup guards a run; what it had to start lives here as well", os.Getpid())
	}
	mine, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return &apart{}, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return &apart{}, err
	}
	a := &apart{}
	var errs []error
	for _, dir := range cgroupDirs(string(mine), string(mounts)) {
		sweepApart(filepath.Dir(dir))
		own := filepath.Join(filepath.Dir(dir), name)
		if err := unix.Mkdir(own, 0o755); err != nil {
			errs = append(errs, fmt.Errorf("cannot make cgroup %s: %w", own, err))
			continue
		}
		if err := enter(own); err != nil {
			errs = append(errs, err, unix.Rmdir(own))
			continue
		}
		a.dirs = append(a.dirs, own)
	}
	return a, errors.Join(errs...)
}

// cgroupDirs are the folders of the cgroups of a process that are not the root of
// their hierarchy, by the texts of /proc/PID/cgroup and mountinfo (cgroups(7),
// proc_pid_mountinfo(5)).
func cgroupDirs(cgroups, mounts string) []string {
	var out []string
	for line := range strings.Lines(cgroups) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || strings.Trim(part[2], "/") == "" || strings.Contains(part[2], "..") {
			continue
		}
		for m := range strings.Lines(mounts) {
			head, tail, _ := strings.Cut(strings.TrimSpace(m), " - ")
			f, g := strings.Fields(head), strings.Fields(tail)
			if len(f) < 5 || len(g) < 3 || f[3] != "/" {
				continue
			}
			same := g[0] == "cgroup2"
			if part[1] != "" {
				same = g[0] == "cgroup" && strings.HasSuffix(","+g[2]+",", ","+part[1]+",")
			}
			if same {
				out = append(out, filepath.Join(f[4], part[2]))
				break
			}
		}
	}
	return out
}

func enter(cgroup string) error {
	f, err := os.OpenFile(filepath.Join(cgroup, "cgroup.procs"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(os.Getpid()))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot enter cgroup %s: %w", cgroup, err)
	}
	return nil
}

// back leaves the cgroups that were made and removes them. The one above may not
// take processes (version 2, where it hands out controllers): then it stays, and
// is swept by a later guardian.
func (a *apart) back() {
	for _, dir := range a.dirs {
		if enter(filepath.Dir(dir)) != nil {
			continue
		}
		for range 50 {
			if err := unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	a.dirs = nil
}

// sweepApart removes what guardians left that are gone. The kernel refuses to
// remove a cgroup with processes in it.
func sweepApart(parent string) {
	old, _ := filepath.Glob(filepath.Join(parent, apartPrefix+"*"))
	for _, dir := range old {
		name := filepath.Base(dir)
		pid, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
		if err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = unix.Rmdir(dir)
		}
	}
}
