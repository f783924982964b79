package service

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Surroundings are what a process has from whoever started it, and hands on: a
// server that is started again is to have those of before, not those of the shell,
// the cron job or the unit that happens to run the upgrade.
type Surroundings struct {
	// Limits are the soft and the hard limit by number of the resource
	// (getrlimit(2)); RLIM_INFINITY is the highest number.
	Limits [][2]uint64 `json:"limits"`
	Nice   int         `json:"nice,omitempty"`
	// OOM is added to its score when memory runs out: proc_pid_oom_score_adj(5).
	OOM int `json:"oom,omitempty"`
}

// resources is RLIM_NLIMITS of Linux.
const resources = 16

// SurroundingsOf reads them of a process that runs. An error wraps ErrNotRunning
// if it has ended.
func SurroundingsOf(p Process) (*Surroundings, error) {
	s, err := surroundings(p.PID)
	if err == nil {
		err = still(p)
	}
	if gone(err) {
		err = ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the limits of process %s: %w", p, err)
	}
	return s, nil
}

// still is ESRCH unless the number still means that process.
func still(p Process) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return err
	}
	now, err := parseStat(b)
	if err == nil && now.StartTicks != p.StartTicks {
		err = unix.ESRCH
	}
	return err
}

// surroundings reads them; 0 is this process.
func surroundings(pid int) (*Surroundings, error) {
	s := &Surroundings{}
	for r := range resources {
		var lim unix.Rlimit
		if err := unix.Prlimit(pid, r, nil, &lim); err != nil {
			return nil, err
		}
		s.Limits = append(s.Limits, [2]uint64{lim.Cur, lim.Max})
	}
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil {
		return nil, err
	}
	s.Nice = 20 - raw // the raw call has no negative answers: getpriority(2)
	dir := "self"
	if pid > 0 {
		dir = strconv.Itoa(pid)
	}
	b, err := os.ReadFile("/proc/" + dir + "/oom_score_adj")
	if err != nil {
		return nil, err
	}
	s.OOM, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return s, err
}

// inherited tells whether a child of this process has them by itself.
func (s *Surroundings) inherited() bool {
	own, err := surroundings(0)
	return err == nil && own.Nice == s.Nice && own.OOM == s.OOM && slices.Equal(own.Limits, s.Limits)
}

// give gives them to a process, as far as that may be done.
func (s *Surroundings) give(pid int) error {
	var all []error
	for r, want := range s.Limits {
		if r >= resources {
			break // of a later kernel
		}
		err := unix.Prlimit(pid, r, &unix.Rlimit{Cur: want[0], Max: want[1]}, nil)
		if errors.Is(err, unix.EPERM) { // only who may can raise the hard limit
			var is unix.Rlimit
			if err = unix.Prlimit(pid, r, nil, &is); err == nil {
				hard := min(want[1], is.Max)
				err = unix.Prlimit(pid, r, &unix.Rlimit{Cur: min(want[0], hard), Max: hard}, nil)
			}
		}
		all = append(all, err)
	}
	err := unix.Setpriority(unix.PRIO_PROCESS, pid, s.Nice)
	all = append(all, err)
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(s.OOM))
		err = errors.Join(err, f.Close())
	}
	return errors.Join(append(all, err)...)
}

// settled lets a traced child, which stops before the first instruction of its
// program, have its surroundings first. The calling thread must be the one that
// forked it.
func (s *Surroundings) settled(pid int) error {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if !ws.Stopped() {
		return nil
	}
	err := s.give(pid)
	return errors.Join(err, unix.PtraceDetach(pid))
}
