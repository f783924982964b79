package service

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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
// is not for Apache, which is what Spec.QuitOnce is for: told twice it cuts its
// connections off. After two seconds a
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
	left, err := c.leftovers()
	if err != nil {
		return StopReport{}, fmt.Errorf("cannot stop %s: %w", c.spec.Name, err)
	}
	if !s.Running() && len(left) == 0 {
		return StopReport{Level: None}, nil
	}
	d := newDrain(c, s)
	for _, p := range left {
		d.admit(p)
	}
	defer d.close()
	defer d.wake()
	for _, f := range ch.bystanders {
		d.spare(f)
	}
	levels := []phase{
		{Graceful, c.spec.Quit, or(o.Grace, defaultGrace)},
		{Harder, c.spec.Term, or(o.Harder, defaultHarder)},
		{Killed, unix.SIGKILL, or(o.Kill, defaultKill)},
	}
	if c.spec.QuitOnce && s.Master == nil {
		levels = levels[1:] // only the master knows how to end its children gracefully
	}
	return d.run(ctx, levels)
}

// leftovers are the processes that our own start of the server left in the
// background and that run another program.
func (c *ProcessController) leftovers() ([]*proc, error) {
	if len(c.left) == 0 {
		return nil, nil
	}
	t, _, err := c.see()
	if err != nil {
		return nil, err
	}
	var out []*proc
	for _, pid := range t.pids() {
		if p := t.byPID[pid]; c.left[p.key()] {
			out = append(out, p)
		}
	}
	return out, nil
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

func (d *drain) run(ctx context.Context, phases []phase) (StopReport, error) {
	limit := d.begun
	for _, ph := range phases {
		limit = limit.Add(ph.length)
		if done, err := d.phase(ctx, ph, limit); done {
			return d.done(), err
		}
	}
	r := d.done()
	return r, &StillRunsError{Name: d.c.spec.Name, Left: r.Left, After: r.Took}
}

// phase makes passes at one level until nothing is left, or the level's time is
// over (done is false then).
func (d *drain) phase(ctx context.Context, ph phase, limit time.Time) (done bool, err error) {
	fail := func(err error) (bool, error) {
		return true, fmt.Errorf("cannot stop %s: %w", d.c.spec.Name, err)
	}
	if ph.level == Killed {
		defer hurry()()
	}
	var w want
	var t *table
	for pass, clear, quiet := 0, 0, 0; ; pass++ {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if t == nil || ph.level != Killed || pass%fullEvery == 0 {
			t, w, err = d.c.see()
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
				return true, nil
			}
			t = nil
			continue
		}
		clear, quiet = 0, 0
		now := time.Now()
		if !now.Before(limit) {
			return false, nil
		}
		if err := d.send(ph, t, alive, now); err != nil {
			return true, err
		}
		d.wait(alive, ph, limit)
	}
}

// hurry puts the calling thread before others, for the race with what forks all
// the time, until the function that it returns is called. Who may not do that
// runs as before.
func hurry() func() {
	runtime.LockOSThread()
	// For who = 0 Linux means the thread, not the process: setpriority(2). The raw
	// call answers 20 - nice.
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	}
	return func() {
		if err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-was)
		}
		runtime.UnlockOSThread()
	}
}

// send sends what is due in this pass.
func (d *drain) send(ph phase, t *table, alive []*member, now time.Time) error {
	d.report.Level = max(d.report.Level, ph.level)
	s := d.situation(ph, alive)
	d.passes++
	if ph.level == Graceful && d.c.spec.QuitOnce && d.passes%hangUpEvery == 0 {
		d.hangUp(alive, s)
	}
	if s.hold {
		_ = unix.PidfdSendSignal(s.master.fd, unix.SIGSTOP, nil, 0)
		d.held = true
	}
	for _, m := range alive {
		sig := d.choose(ph, m, s)
		if d.due(ph, m, s, sig, now) {
			if err := d.signal(m, sig, now); err != nil {
				return err
			}
		}
		if m.proc.State == 'T' && m.fd >= 0 && ph.level != Killed && (m != s.master || !s.hold) {
			// What is stopped does not get the signal before it goes on.
			_ = unix.PidfdSendSignal(m.fd, unix.SIGCONT, nil, 0)
		}
	}
	if ph.level == Killed {
		d.killGroups(t)
	}
	return nil
}

// situation is what the signals of one pass depend on.
type situation struct {
	master *member // nil if it has gone
	alone  bool    // no other process of the server's executables is left
	hold   bool    // the master is to stay where it is; see Spec.QuitChildren
}

func (d *drain) situation(ph phase, alive []*member) situation {
	s := situation{alone: true}
	for _, m := range alive {
		if m.proc.key() == d.master {
			s.master = m
		} else if m.proc.core {
			s.alone = false
		}
	}
	s.hold = ph.level == Graceful && d.c.spec.QuitChildren && s.master != nil && s.master.fd >= 0 && !s.alone
	return s
}

// choose returns the signal that a process is to get at a level.
func (d *drain) choose(ph phase, m *member, s situation) unix.Signal {
	if ph.level != Graceful || !d.c.spec.QuitOnce {
		return ph.signal
	}
	told := d.sent(m, ph.signal)
	switch {
	case s.master == nil: // children do not know the graceful signal of the master
	case m == s.master && told && s.alone: // nothing is left that it should wait for
	case m == s.master && !told && !m.proc.catches(ph.signal) && age(m.proc) >= grownUp: // it would be lost
	default:
		return ph.signal
	}
	return d.c.spec.Term
}

// sent tells whether a process was ever sent a signal.
func (d *drain) sent(m *member, sig unix.Signal) bool {
	_, ok := d.entries[entry{m.proc.key(), sig}]
	return ok
}

func (d *drain) due(ph phase, m *member, s situation, sig unix.Signal, now time.Time) bool {
	if m.fd < 0 {
		return false
	}
	master, times := s.master, m.times
	if m.signal != sig {
		times = 0
	}
	pause := repeatSoon
	switch ph.level {
	case Graceful:
		if !m.proc.core {
			return false // a script knows no graceful end
		}
		if s.hold {
			if pause = repeatLater; m == master {
				return false
			}
		} else if master != nil && m != master {
			return false // it is told by the master
		}
		if d.c.spec.QuitOnce && sig == ph.signal {
			return !d.sent(m, sig) && (m.proc.catches(sig) && m.proc.caught != 0 || age(m.proc) >= grownUp)
		}
	case Harder:
		if master != nil && m != master && (master.signal != sig || now.Sub(master.first) < repeatSoon) {
			return false
		}
	case Killed:
		return times == 0 || now.Sub(m.last) >= 100*time.Millisecond
	}
	if times >= soonTimes && ph.level == Graceful {
		pause = repeatLater
	}
	return times == 0 || now.Sub(m.last) >= pause
}

// wake lets the master go on if it was held and the stop has failed.
func (d *drain) wake() {
	for k, m := range d.members {
		if d.held && k == d.master && !m.gone && m.fd >= 0 {
			_ = unix.PidfdSendSignal(m.fd, unix.SIGCONT, nil, 0)
		}
	}
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
			if p.PGID == pgid && !p.ending && d.members[p.key()] == nil {
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
