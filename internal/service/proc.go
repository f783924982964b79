package service

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
)

func clean(s string, limit int) string { return event.Clean(s, limit) }

const (
	maxCmdline = 4096
	maxStatus  = 16 << 10
)

// key names a process for good.
type key struct {
	pid   int
	ticks uint64
}

// proc is a process of one scan.
type proc struct {
	Process
	threads int
	nspid   int  // its number in its own pid namespace
	inJail  bool // its root is the jail's
	onHost  bool // its root is the host's; only looked at where the master is outside
	ending  bool // it had no root or program any more
	core    bool // inJail or onHost, and it runs one of the server's executables
	// below says the same of a root below the jail's: a pool with a chroot of its own.
	below bool
	// elsewhere says that it runs one of the executables with a third root.
	elsewhere bool
	caught    uint64 // signals that it handles, bit N-1 for signal N
}

// catches tells whether a process handles a signal. What is not known is true.
func (p *proc) catches(sig unix.Signal) bool {
	return p.caught == 0 || p.caught&(1<<(sig-1)) != 0
}

func (p *proc) key() key { return key{p.PID, p.StartTicks} }

// dead tells a zombie from a process of which only the first thread has ended:
// the kernel shows both in state Z.
func (p *proc) dead() bool {
	return p.State == 'X' || p.State == 'x' || (p.State == 'Z' && p.threads <= 1)
}

// table is what one scan of /proc saw. It is no instant: processes come and go
// while it is made.
type table struct {
	byPID   map[int]*proc // alive ones
	zombies []*proc
	denied  []*proc // alive, but their root cannot be read
	// restless says that processes ended while the scan was made, or had ended just
	// before: what forks all the time may have been overlooked.
	restless bool
}

// pids returns the numbers in order, so that all that follows is repeatable.
func (t *table) pids() []int {
	pids := make([]int, 0, len(t.byPID))
	for pid := range t.byPID {
		pids = append(pids, pid)
	}
	sort.Ints(pids)
	return pids
}

func (t *table) has(k key) *proc {
	if p := t.byPID[k.pid]; p != nil && p.StartTicks == k.ticks {
		return p
	}
	return nil
}

// gone tells whether an error says that a process has ended.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// ancestors are this process and those it descends from.
func ancestors(procRoot string) map[int]bool {
	set := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !set[pid]; {
		set[pid] = true
		b, err := os.ReadFile(fmt.Sprintf("%s/%d/stat", procRoot, pid))
		if err != nil {
			break
		}
		p, err := parseStat(b)
		if err != nil {
			break
		}
		pid = p.PPID
	}
	return set
}

// listed opens /proc, for the caller to close, and lists what is in it.
func (c *ProcessController) listed() (dir *os.File, names []string, err error) {
	if dir, err = os.Open(c.procRoot); err == nil {
		if names, err = dir.Readdirnames(-1); err == nil {
			return dir, names, nil
		}
		dir.Close()
	}
	return nil, nil, fmt.Errorf("cannot list processes: %w", err)
}

// scan reads all processes.
func (c *ProcessController) scan(w want) (*table, error) { return c.rescan(w, nil, nil) }

// rescan is scan, but takes the processes of old that are in known over without
// looking at them again.
func (c *ProcessController) rescan(w want, old *table, known map[int]bool) (*table, error) {
	dir, names, err := c.listed()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	t := &table{byPID: make(map[int]*proc, len(names))}
	// The newest first: what forks all the time is gone again soon.
	for _, name := range slices.Backward(names) {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 0 {
			continue
		}
		if known[pid] {
			t.byPID[pid] = old.byPID[pid]
			continue
		}
		p, err := look(int(dir.Fd()), pid, w)
		switch {
		case errors.Is(err, errDenied):
			t.denied = append(t.denied, p)
			t.byPID[pid] = p
		case gone(err): // it ended meanwhile
			t.restless = true
		case err != nil:
			return nil, fmt.Errorf("cannot read process %d: %w", pid, err)
		case p.dead():
			t.zombies = append(t.zombies, p)
			if w.comms[p.Comm] && age(p) < time.Second {
				t.restless = true
			}
		default:
			t.byPID[pid] = p
			t.restless = t.restless || p.ending
		}
	}
	c.pools(t)
	return t, nil
}

func denied(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }

var errDenied = errors.New("permission denied")

// look reads one process. All is read through one descriptor of its directory,
// which goes stale with the process: what is returned is of one process, even if
// its number is given out again meanwhile.
func look(procDir, pid int, w want) (*proc, error) {
	d, err := unix.Openat(procDir, strconv.Itoa(pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	raw, err := readSmall(d, "stat", 1024)
	if err != nil {
		return nil, err
	}
	p, err := parseStat(raw)
	if err != nil {
		return nil, err
	}
	if p.PID != pid {
		return nil, fmt.Errorf("cannot read process %d", pid)
	}
	p.UID = -1
	if p.dead() {
		return p, nil
	}
	base := ""
	if p.State == 'Z' { // its first thread has ended: root and exe are those of another
		base = liveThread(d, pid)
	}
	var st unix.Statx_t
	err = unix.Statx(d, base+"root", unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO|unix.STATX_TYPE, &st)
	switch {
	case denied(err):
		return p, errDenied
	case errors.Is(err, unix.ENOMEM):
		return nil, err
	case err != nil: // it ends, or its root lies on a dead file system: that is not the jail
		p.ending = gone(err)
		return p, nil
	}
	root := Inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	p.inJail = root == Inode{w.dev, w.ino}
	p.onHost = w.outside && root == w.host
	switch {
	case p.inJail:
		p.Exe, p.core, err = exeOf(d, base, w)
		if denied(err) {
			return p, errDenied
		}
		if p.ending = gone(err); err != nil && !p.ending {
			return nil, err
		}
		p.fill(d)
		p.ending = p.ending || len(p.args) == 0 // its memory is gone, or not there yet
	case p.onHost || root != w.host:
		in, core, err := exeOf(d, base, w)
		if denied(err) && p.onHost {
			return p, errDenied
		}
		if err != nil && !gone(err) && !denied(err) {
			return nil, err
		}
		if p.below = core && !p.onHost && w.holds(d, base); core && (p.onHost || p.below) {
			p.Exe, p.core = in, p.onHost
			p.fill(d)
		}
		p.elsewhere = core && !p.onHost && !p.below
	}
	if w.self[pid] {
		p.core, p.below = false, false
	}
	return p, nil
}

// liveThread returns the prefix of a thread of the process that still has a
// root.
func liveThread(d, pid int) string {
	fd, err := unix.Openat(d, "task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	task := os.NewFile(uintptr(fd), "task")
	defer task.Close()
	names, _ := task.Readdirnames(1024)
	for _, n := range names {
		var st unix.Stat_t
		if n != strconv.Itoa(pid) && unix.Fstatat(d, "task/"+n+"/exe", &st, 0) == nil {
			return "task/" + n + "/"
		}
	}
	return ""
}

// fill reads what is shown of a process: its user and its command line.
func (p *proc) fill(d int) {
	if b, err := readSmall(d, "status", maxStatus); err == nil {
		for line := range strings.Lines(string(b)) {
			name, rest, _ := strings.Cut(line, ":")
			f := strings.Fields(rest)
			switch {
			case name == "Uid" && len(f) >= 2:
				if n, err := strconv.Atoi(f[1]); err == nil {
					p.UID = n
				}
			case name == "SigCgt" && len(f) == 1:
				p.caught, _ = strconv.ParseUint(f[0], 16, 64)
			case name == "NSpid" && len(f) > 0:
				p.nspid, _ = strconv.Atoi(f[len(f)-1])
			}
		}
	}
	b, err := readSmall(d, "cmdline", maxCmdline)
	if err != nil {
		return
	}
	p.cut = len(b) == maxCmdline
	b = bytes.TrimRight(b, "\x00 ")
	if len(b) == 0 {
		return
	}
	p.args = strings.Split(string(b), "\x00")
	p.Cmdline = clean(strings.Join(p.args, " "), maxCmdline)
}

// readSmall reads the beginning of a file of /proc.
func readSmall(d int, name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(d, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, limit)
	n := 0
	for n < limit {
		m, err := unix.Read(fd, buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return buf[:n], nil
}

// parseStat reads proc_pid_stat(5). The name stands in parentheses and may hold
// any byte, parentheses too: the fields are counted from the last one.
func parseStat(b []byte) (*proc, error) {
	bad := errors.New("cannot read the state of a process")
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return nil, bad
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	f := strings.Fields(string(b[end+1:]))
	if err != nil || len(f) < 20 || len(f[0]) != 1 {
		return nil, bad
	}
	num := func(field int) int { // numbered from 1, as in the manual page
		n, e := strconv.Atoi(f[field-3])
		if e != nil {
			err = e
		}
		return n
	}
	p := &proc{threads: num(20)}
	p.PID, p.PPID, p.PGID, p.SID = pid, num(4), num(5), num(6)
	ticks, e := strconv.ParseUint(f[22-3], 10, 64)
	if err != nil || e != nil {
		return nil, bad
	}
	p.StartTicks = ticks
	p.State = f[0][0]
	p.Comm = clean(string(b[open+1:end]), 15)
	return p, nil
}
