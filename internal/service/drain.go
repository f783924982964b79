package service

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// member is a process that is to end.
type member struct {
	proc   *proc // as last seen
	fd     int   // pidfd; -1 until it could be opened
	gone   bool
	first  time.Time
	last   time.Time
	signal unix.Signal // the last one sent
	times  int         // how often
}

// drain ends a set of processes and all that comes of them.
type drain struct {
	c        *ProcessController
	master   key
	members  map[key]*member
	order    []key
	seen     int // length of order at the last pass
	spared   map[key]bool
	sessions map[int]bool     // led by a member
	foreign  map[int]bool     // sessions led by a process of another server
	ports    map[int]bool     // that the master listened on; see hangUp
	adopted  func(*proc) bool // besides, what was left to us; nil for nothing
	held     bool             // the master was stopped by SIGSTOP
	like     Spec             // the server as it runs: with its own command line
	groups   map[int]int      // process group led by a member, and a pidfd of that
	passes   int
	begun    time.Time
	report   StopReport
	entries  map[entry]int // index in report.Signals
}

type entry struct {
	key
	signal unix.Signal
}

func newDrain(c *ProcessController, s Server) *drain {
	d := &drain{
		c: c, members: map[key]*member{}, spared: map[key]bool{}, sessions: map[int]bool{},
		foreign: map[int]bool{}, groups: map[int]int{}, entries: map[entry]int{},
		begun: time.Now(), like: c.spec,
	}
	if s.Master != nil {
		d.master = key{s.Master.PID, s.Master.StartTicks}
		d.like.Start = ArgvOf(*s.Master, c.spec)
	}
	for _, p := range s.All() {
		d.admit(&proc{Process: p})
	}
	return d
}

func (d *drain) spare(f *family) {
	for _, p := range f.members {
		d.spareProc(p)
	}
	d.report.Survived = append(d.report.Survived, f.master.Process)
}

func (d *drain) spareProc(p *proc) {
	d.spared[p.key()] = true
	if p.SID == p.PID {
		d.foreign[p.SID] = true
	}
}

func (d *drain) admit(p *proc) {
	k := p.key()
	if d.members[k] != nil {
		return
	}
	d.members[k] = &member{proc: p, fd: -1}
	d.order = append(d.order, k)
	d.report.Stopped = append(d.report.Stopped, p.Process)
	if p.SID == p.PID {
		d.sessions[p.SID] = true
	}
}

func (d *drain) close() {
	for _, m := range d.members {
		if m.fd >= 0 {
			unix.Close(m.fd)
		}
	}
	for _, fd := range d.groups {
		unix.Close(fd)
	}
}

// strangers are the processes of a scan that are not to end. To win against one
// that forks all the time, the time between seeing and killing it must be short:
// at that level most looks are only for what is new.
func (d *drain) strangers(t *table) map[int]bool {
	s := make(map[int]bool, len(t.byPID))
	for pid, p := range t.byPID {
		if !p.ending && d.members[p.key()] == nil {
			s[pid] = true
		}
	}
	return s
}

// update compares the members with what runs and takes in what is new. It
// returns those that are alive.
func (d *drain) update(t *table, w want) []*member {
	for _, z := range t.zombies {
		if d.members[z.key()] != nil {
			d.c.reap(z)
		}
	}
	in, out := map[int]bool{}, map[int]bool{}
	for k := range d.members {
		if t.has(k) != nil {
			in[k.pid] = true
		}
	}
	for k := range d.spared {
		if t.has(k) != nil {
			out[k.pid] = true
		}
	}
	descend(t, out, in, w.self)
	descend(t, in, out, w.self)
	for _, pid := range t.pids() {
		p := t.byPID[pid]
		switch {
		case in[pid] || out[pid] || w.self[pid] || pid == 1:
		case (p.inJail || p.onHost || p.below) && d.sessions[p.SID]:
			in[pid] = true // left of a session that the server led
		case d.adopted != nil && d.adopted(p):
			in[pid] = true
		case !p.core:
		case top(t, p).onHost:
			out[pid] = true // another server of the host, begun just now, or a child of it
		case d.foreign[p.SID] || fit(p.Process, d.like) == differs || oneShot(p.Process, d.like):
			out[pid] = true // another server, begun just now
		default:
			in[pid] = true // runs the server's executable in the jail, and is of no other
		}
	}
	descend(t, in, out, w.self)
	for _, pid := range t.pids() {
		if in[pid] {
			d.admit(t.byPID[pid])
		} else if out[pid] {
			d.spareProc(t.byPID[pid])
		}
	}
	var alive []*member
	for _, k := range d.order {
		m := d.members[k]
		p := t.has(k)
		if p != nil && !m.gone {
			m.proc = p
			d.open(m, w)
			alive = append(alive, m)
			continue
		}
		d.ended(k, m)
	}
	return alive
}

// ended notes the end of a member.
func (d *drain) ended(k key, m *member) {
	if m.gone {
		return
	}
	m.gone = true
	if m.fd >= 0 {
		unix.Close(m.fd)
		m.fd = -1
	}
	for _, sig := range []unix.Signal{d.c.spec.Quit, d.c.spec.Term, unix.SIGKILL} {
		if i, ok := d.entries[entry{k, sig}]; ok {
			s := &d.report.Signals[i]
			s.Gone = max(time.Since(s.at), time.Nanosecond)
		}
	}
}

// open gets hold of a member. What fails now (no descriptors left, a program
// that is just being changed) is tried again in the next pass.
func (d *drain) open(m *member, w want) {
	if m.fd >= 0 {
		return
	}
	fd, err := d.c.hold(m.proc.Process, m.proc.core, w)
	if err != nil {
		return
	}
	m.fd = fd
	if d.ports == nil && d.c.spec.QuitOnce && m.proc.key() == d.master {
		d.ports = d.c.ports(m.proc.PID, fd)
	}
	if pid := m.proc.PID; m.proc.PGID == pid {
		if _, ok := d.groups[pid]; !ok {
			if dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				d.groups[pid] = dup
			}
		}
	}
}

// done finishes the report.
func (d *drain) done() StopReport {
	d.report.Took = time.Since(d.begun)
	d.report.Left = nil
	for _, k := range d.order {
		if m := d.members[k]; !m.gone {
			d.report.Left = append(d.report.Left, m.proc.Process)
		}
	}
	return d.report
}

// age is how long a process has been running.
func age(p *proc) time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return grownUp
	}
	// proc(5) counts in USER_HZ, which is 100 on every architecture that Go knows.
	return time.Duration(now.Nano()) - time.Duration(p.StartTicks)*(time.Second/100)
}

// reap takes away a child of ours that has ended and that nobody waits for: one
// that a process of ours left to us.
func (c *ProcessController) reap(z *proc) {
	c.mu.Lock()
	waited := c.children[z.PID]
	c.mu.Unlock()
	if waited || z.PPID != os.Getpid() {
		return
	}
	var ws unix.WaitStatus
	_, _ = unix.Wait4(z.PID, &ws, unix.WNOHANG, nil)
}
