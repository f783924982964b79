package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How a stop goes. Each pass looks at all processes, takes in what is new of the
// server, sends what is due, and waits for one of them to end:
//
//	graceful ──Grace──▶ harder ──Harder──▶ killed ──Kill──▶ StillRunsError
//	    └── nothing left, twice in a row, at any level ──▶ done
//
// Signals are repeated, because they can be lost: nginx that is told to end in
// the first milliseconds of its life notes it and then waits for the next signal
// before it looks at the note. Repeating is harmless for nginx (a worker that is
// on its way out ignores it) and php-fpm (it refuses to enter a state twice); it
// is not for Apache, which is what Spec.QuitOnce is for. After two seconds a
// repetition has another use only, a master that blocked signals all that time,
// and is rarer.
const (
	repeatSoon  = 500 * time.Millisecond
	repeatLater = 5 * time.Second
	soonTimes   = 4
	grownUp     = time.Second // see Spec.QuitOnce
	passTime    = 50 * time.Millisecond
	killPass    = 2 * time.Millisecond
	fullEvery   = 20 // passes; see drain.strangers
)

const (
	defaultGrace  = 30 * time.Second
	defaultHarder = 10 * time.Second
	defaultKill   = 10 * time.Second
)

// Stop ends the server; see Controller. The graceful signal goes to the master,
// and to its children only when the master is gone; the harder one to the master
// and, half a second later, to all.
func (c *ProcessController) Stop(ctx context.Context, o StopOptions) (StopReport, error) {
	s, ch, err := c.find(ctx, c.spec)
	if err != nil {
		return StopReport{}, fmt.Errorf("cannot stop %s: %w", c.spec.Name, err)
	}
	if !s.Running() {
		return StopReport{Level: None}, nil
	}
	d := newDrain(c, s)
	defer d.close()
	for _, f := range ch.bystanders {
		d.spare(f)
	}
	levels := []phase{
		{Graceful, c.spec.Quit, or(o.Grace, defaultGrace)},
		{Harder, c.spec.Term, or(o.Harder, defaultHarder)},
		{Killed, unix.SIGKILL, or(o.Kill, defaultKill)},
	}
	return d.run(ctx, levels)
}

func or(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

type phase struct {
	level  Level
	signal unix.Signal
	length time.Duration
}

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
	sessions map[int]bool // led by a member
	foreign  map[int]bool // sessions led by a process of another server
	like     Spec         // the server as it runs: with its own command line
	groups   map[int]int  // process group led by a member, and a pidfd of that
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

func (d *drain) run(ctx context.Context, phases []phase) (StopReport, error) {
	limit := d.begun
	for _, ph := range phases {
		limit = limit.Add(ph.length)
		if err, done := d.phase(ctx, ph, limit); done {
			return d.done(), err
		}
	}
	r := d.done()
	return r, &StillRunsError{Name: d.c.spec.Name, Left: r.Left, After: r.Took}
}

// phase makes passes at one level until nothing is left, or the level's time is
// over (done is false then).
func (d *drain) phase(ctx context.Context, ph phase, limit time.Time) (err error, done bool) {
	fail := func(err error) (error, bool) {
		return fmt.Errorf("cannot stop %s: %w", d.c.spec.Name, err), true
	}
	var w want
	var t *table
	for pass, clear, quiet := 0, 0, 0; ; pass++ {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if t == nil || ph.level != Killed || pass%fullEvery == 0 {
			w = d.c.want()
			t, err = d.c.scan(w)
		} else {
			t, err = d.c.rescan(w, t, d.strangers(t))
		}
		if err != nil {
			return fail(err)
		}
		alive := d.update(t, w)
		if len(alive) == 0 {
			// One look could have missed a child that was forked while it was taken.
			if clear++; !t.restless {
				quiet++
			}
			if quiet >= 2 || clear >= restlessScans {
				return nil, true
			}
			t = nil
			continue
		}
		clear, quiet = 0, 0
		now := time.Now()
		if !now.Before(limit) {
			return nil, false
		}
		if err := d.send(ph, t, alive, now); err != nil {
			return err, true
		}
		d.wait(alive, ph, limit)
	}
}

// strangers are the processes of a scan that are not to end. To win against one
// that forks all the time, the time between seeing and killing it must be short:
// at that level most looks are only for what is new.
func (d *drain) strangers(t *table) map[int]bool {
	s := make(map[int]bool, len(t.byPID))
	for pid, p := range t.byPID {
		if d.members[p.key()] == nil {
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
		case p.inJail && d.sessions[p.SID]:
			in[pid] = true // left of a session that the server led
		case !p.core:
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
	for i := range d.report.Signals {
		if s := &d.report.Signals[i]; s.Process.PID == k.pid && s.Process.StartTicks == k.ticks {
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
	if pid := m.proc.PID; m.proc.PGID == pid {
		if _, ok := d.groups[pid]; !ok {
			if dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
				d.groups[pid] = dup
			}
		}
	}
}

// send sends what is due in this pass.
func (d *drain) send(ph phase, t *table, alive []*member, now time.Time) error {
	d.report.Level = max(d.report.Level, ph.level)
	var master *member
	for _, m := range alive {
		if m.proc.key() == d.master {
			master = m
		}
	}
	for _, m := range alive {
		if d.due(ph, m, master, now) {
			if err := d.signal(m, ph.signal, now); err != nil {
				return err
			}
		}
		if m.proc.State == 'T' && m.fd >= 0 && ph.level != Killed {
			// What is stopped does not get the signal before it goes on.
			_ = unix.PidfdSendSignal(m.fd, unix.SIGCONT, nil, 0)
		}
	}
	if ph.level == Killed {
		d.killGroups(t)
	}
	return nil
}

func (d *drain) due(ph phase, m, master *member, now time.Time) bool {
	if m.fd < 0 {
		return false
	}
	times := m.times
	if m.signal != ph.signal {
		times = 0
	}
	switch ph.level {
	case Graceful:
		if master != nil && m != master || !m.proc.core {
			return false // it is told by the master; and a script knows no graceful end
		}
		if d.c.spec.QuitOnce {
			return times == 0 && age(m.proc) >= grownUp
		}
	case Harder:
		if master != nil && m != master && (master.signal != ph.signal || now.Sub(master.first) < repeatSoon) {
			return false
		}
	case Killed:
		return times == 0 || now.Sub(m.last) >= 100*time.Millisecond
	}
	pause := repeatSoon
	if times >= soonTimes && ph.level == Graceful {
		pause = repeatLater
	}
	return times == 0 || now.Sub(m.last) >= pause
}

// signal sends sig to one process and writes it down.
func (d *drain) signal(m *member, sig unix.Signal, now time.Time) error {
	err := unix.PidfdSendSignal(m.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop %s: process %d: %w", d.c.spec.Name, m.proc.PID, err)
	}
	if m.signal != sig {
		m.signal, m.times, m.first = sig, 0, now
	}
	m.times++
	m.last = now
	e := entry{m.proc.key(), sig}
	if i, ok := d.entries[e]; ok {
		d.report.Signals[i].Times = m.times
		return nil
	}
	// A fork bomb must not fill the memory with the report on it.
	if len(d.report.Signals) < 10_000 {
		d.entries[e] = len(d.report.Signals)
		d.report.Signals = append(d.report.Signals, Signalled{Process: m.proc.Process, Signal: sig, Times: 1, at: now})
		if len(d.report.Signals) <= 20 {
			d.c.logf("sent %s to process %d", unix.SignalName(sig), m.proc.PID)
		}
	}
	return nil
}

// pidfdGroup is PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), Linux 6.9.
const pidfdGroup = unix.PIDFD_SIGNAL_PROCESS_GROUP

// killGroups kills process groups as a whole, where none but the server's are in
// them. What forks faster than it can be looked up does not get away from that:
// the kernel lets no fork of a group's member pass a signal to the group.
func (d *drain) killGroups(t *table) {
	for pgid, fd := range d.groups {
		foreign := false
		for _, p := range t.byPID {
			if p.PGID == pgid && d.members[p.key()] == nil {
				foreign = true
			}
		}
		if !foreign {
			// An older kernel says EINVAL: then the single signals must do.
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, pidfdGroup)
		}
	}
}

// wait returns when a member ends, or when it is time for the next pass.
func (d *drain) wait(alive []*member, ph phase, limit time.Time) {
	pause := passTime
	if ph.level == Killed {
		if d.seen != len(d.order) { // something forks: no rest before the next look
			d.seen = len(d.order)
			return
		}
		pause = killPass
	}
	pause = min(pause, max(time.Until(limit), time.Millisecond))
	var fds []unix.PollFd
	for _, m := range alive {
		if m.fd >= 0 && len(fds) < 1024 {
			fds = append(fds, unix.PollFd{Fd: int32(m.fd), Events: unix.POLLIN})
		}
	}
	n, err := unix.Poll(fds, int(max(pause.Milliseconds(), 1)))
	if err != nil || n > 0 {
		time.Sleep(time.Millisecond) // others are likely to end at the same time
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
