package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultSettle = 10 * time.Second
	look1         = 10 * time.Millisecond  // first pause between two looks
	lookMax       = 100 * time.Millisecond // longest pause
	// daemonTime is how long a start command that has ended well may leave us
	// without a process to see: none is missed for longer than a look or two.
	daemonTime = 500 * time.Millisecond
	// childTime is how long a start command must have had children to be the
	// server: one that puts a daemon into the background has one for an instant.
	childTime = time.Second
	// othersTime is how long a start by somebody else may take until it is a server,
	// seen twice in the same place; look2 lies between two looks at it.
	othersTime = 3 * time.Second
	look2      = 50 * time.Millisecond
	// endTime is how long the remains of a failed start may take to end.
	endTime = 10 * time.Second
)

// Start starts the server; see Controller. With daemon off the start command is
// the server, and a child of this process: it is reaped when it ends, and never
// ended because we end.
func (c *ProcessController) Start(ctx context.Context, o StartOptions) (Server, error) {
	spec := c.spec
	argv := o.Argv
	if len(argv) == 0 {
		argv = startArgv(spec)
	} else {
		spec.Start, spec.Exact = argv, true
	}
	if len(argv) == 0 || !path.IsAbs(argv[0]) {
		return Server{}, fmt.Errorf("cannot start %s: the start command must begin with an absolute path", spec.Name)
	}
	s, seen, err := c.settled(ctx, spec)
	if errors.Is(err, ErrAmbiguous) && !spec.Exact {
		// What runs with another configuration is left alone by a start, so it need
		// not be known whose it is. If it was the server after all, the new one
		// finds the port taken.
		spec.Exact = true
		s, seen, err = c.settled(ctx, spec)
	}
	if err != nil {
		return Server{}, fmt.Errorf("cannot start %s: %w", spec.Name, err)
	}
	if s.Master != nil && c.exchanged(*s.Master) {
		// Somebody started it after the stop and before its program was exchanged.
		c.logf("process %d runs the program of before", s.Master.PID)
		if _, err = c.Stop(ctx, StopOptions{}); err == nil {
			s, seen, err = c.settled(ctx, spec)
		}
		if err != nil {
			return Server{}, fmt.Errorf("cannot start %s: %w", spec.Name, err)
		}
	}
	if s.Master != nil {
		c.logf("%s runs already: process %d", spec.Name, s.Master.PID)
		return s, c.wake(s)
	}
	if s.Running() {
		return s, fmt.Errorf("cannot start %s: process %s of an earlier one still runs", spec.Name, s.Others[0])
	}
	before, own := c.setApart(seen)
	// What the start command puts into the background becomes our child, whatever
	// program it turns into: else a start that has failed could leave something on
	// the port that nobody knows for the server's. See PR_SET_CHILD_SUBREAPER(2const).
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return Server{}, fmt.Errorf("cannot start %s: cannot adopt what it leaves: %w", spec.Name, err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	out, err := newOutput()
	if err != nil {
		return Server{}, fmt.Errorf("cannot start %s: cannot make room for its output: %w", spec.Name, err)
	}
	if c.output != nil {
		c.output.Close()
	}
	c.output = out
	root := c.root.HostFd()
	if c.outside {
		root = -1
	}
	cmd, odd, err := spawn(root, argv, o.Env, out, o.Like)
	if odd != nil {
		c.logf("it does not get all limits of before: %v", odd)
	}
	if err != nil {
		return Server{}, &StartError{Name: spec.Name, Argv: argv, Status: execReason(err, c.exists(argv[0])), cause: err}
	}
	c.logf("started %s: process %d", clean(strings.Join(argv, " "), 400), cmd.Process.Pid)
	w := &watch{c: c, cmd: cmd, spec: spec, argv: argv, env: cmd.Environ(), before: before, own: own, begun: time.Now(), ended: make(chan struct{})}
	c.mu.Lock()
	c.children[cmd.Process.Pid] = true
	c.mu.Unlock()
	go w.reap()
	s, err = w.until(ctx, or(o.Settle, defaultSettle))
	if err == nil {
		w.keepOrphans()
	}
	return s, err
}

// exchanged tells whether a process runs a program that has been taken out of the
// jail: one of the extra executables that is none of the server's own.
func (c *ProcessController) exchanged(p Process) bool {
	if c.extraExes == nil || c.outside || !slices.Contains(c.extraExes(), p.Exe) {
		return false
	}
	for _, exe := range c.spec.Executables {
		if info, err := c.root.Stat(exe); err == nil && p.Exe == (Inode{info.Dev, info.Ino}) {
			return false
		}
	}
	return true
}

// exists tells whether there is a program where the start command is run.
func (c *ProcessController) exists(p string) bool {
	if !c.outside {
		return c.root.Exists(p)
	}
	return unix.Access(p, unix.F_OK) == nil
}

// wake lets a master go on that a stop has held and that was then left so,
// because whoever stopped it died.
func (c *ProcessController) wake(s Server) error {
	if s.Master.State != 'T' {
		return nil
	}
	w, err := c.want()
	if err != nil {
		return err
	}
	fd, err := c.hold(*s.Master, true, w)
	if err != nil {
		return fmt.Errorf("cannot start %s: process %d is stopped: %w", c.spec.Name, s.Master.PID, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0); err != nil {
		return fmt.Errorf("cannot start %s: process %d is stopped: %w", c.spec.Name, s.Master.PID, err)
	}
	c.logf("woke process %d", s.Master.PID)
	return nil
}

// Output returns the last lines that the last start command has printed so far,
// cleaned: evidence for a server in the foreground that dies later.
func (c *ProcessController) Output() []string { return lastLines(c.output) }

// settled finds the server, and waits a while where somebody else (a watchdog,
// cron) is just starting it: what a start command is until it has put the server
// into the background is no server yet, and is gone a moment later. Returned is
// also a look from before the last search: what it shows and the search does not
// take for the server belongs to another one.
func (c *ProcessController) settled(ctx context.Context, spec Spec) (Server, *table, error) {
	last := 0
	for deadline := time.Now().Add(othersTime); ; {
		t, _, err := c.see()
		if err != nil {
			return Server{}, nil, err
		}
		s, _, err := c.find(ctx, spec)
		if err != nil || !s.Running() || !time.Now().Before(deadline) {
			return s, t, err
		}
		if m := s.Master; m != nil {
			if m.State == 'T' || m.PID == last && len(s.Others) > 0 {
				return s, t, nil
			}
			last = m.PID
		}
		select {
		case <-ctx.Done():
			return s, t, nil
		case <-time.After(look2):
		}
	}
}

// setApart remembers all that ran the server's executables in a look after which
// the server was found to be down: it is of other servers. Returned are these and
// the children that this process had.
func (c *ProcessController) setApart(t *table) (before, own map[key]bool) {
	before, own = map[key]bool{}, map[key]bool{}
	for _, p := range t.byPID {
		if p.core {
			before[p.key()] = true
			c.bystanders[p.key()] = true
		}
		if p.PPID == os.Getpid() {
			own[p.key()] = true
		}
	}
	return before, own
}

// execReason puts into words why the kernel did not run the file.
func execReason(err error, there bool) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return clean(err.Error(), 200)
	}
	if errno == unix.ENOENT && there {
		return "the file is there, but the program interpreter that it names (the dynamic loader) is not in the jail"
	}
	return errno.Error()
}

// watch is a start under way.
type watch struct {
	c      *ProcessController
	cmd    *exec.Cmd
	spec   Spec
	argv   []string
	env    []string
	before map[key]bool
	own    map[key]bool // children of this process from before
	begun  time.Time
	ended  chan struct{} // closed when the start command has ended and is reaped
	err    error         // of Wait; read after ended
}

func (w *watch) reap() {
	w.err = w.cmd.Wait()
	w.c.mu.Lock()
	delete(w.c.children, w.cmd.Process.Pid)
	w.c.mu.Unlock()
	close(w.ended)
}

// until watches until the start command has ended or is the server.
func (w *watch) until(ctx context.Context, settle time.Duration) (Server, error) {
	var parent time.Time // since when it has had children
	for pause := look1; ; pause = min(pause*3/2, lookMax) {
		select {
		case <-w.ended:
			return w.judge(ctx, settle)
		case <-ctx.Done():
			return w.giveUp(ctx)
		case <-time.After(pause):
		}
		t, _, err := w.c.see()
		if err != nil {
			continue
		}
		p := t.byPID[w.cmd.Process.Pid]
		if p == nil || !p.core {
			continue // it ends just now, or runs something else as yet
		}
		if !w.hasChild(t, p) {
			parent = time.Time{}
		} else if parent.IsZero() {
			parent = time.Now()
		}
		_, master, _ := title(p.args, w.spec.Name)
		if master || !parent.IsZero() && time.Since(parent) >= childTime || time.Since(w.begun) >= settle && !w.c.outside {
			w.c.chosen = p.key()
			s, _, err := w.c.find(ctx, w.spec)
			if err == nil && s.Master != nil && s.Master.PID == p.PID {
				w.c.logf("%s stays in the foreground: process %d", w.spec.Name, p.PID)
				return s, nil
			}
		}
	}
}

// hasChild tells whether p has children from the server's executable, where they
// belong.
func (w *watch) hasChild(t *table, p *proc) bool {
	for _, q := range t.byPID {
		if q.PPID == p.PID && q.core && (q.inJail || !w.c.outside) {
			return true
		}
	}
	return false
}

// judge looks for the daemon that an ended start command left.
func (w *watch) judge(ctx context.Context, settle time.Duration) (Server, error) {
	e := &StartError{Name: w.spec.Name, Argv: w.argv, Status: w.cmd.ProcessState.String()}
	if w.err != nil {
		e.Output = lastLines(w.c.output)
		if s, ok := w.overtaken(ctx); ok {
			return s, nil
		}
		w.endOrphans(ctx, e)
		e.Left = append(e.Left, w.left()...)
		return Server{}, e
	}
	for ended := time.Now(); ; time.Sleep(look1) {
		limit := daemonTime
		runs, inside := w.reached()
		if runs {
			limit = settle
		}
		var err error
		if inside || !w.c.outside {
			var s Server
			s, _, err = w.c.find(ctx, w.spec)
			if err == nil && s.Master != nil {
				return s, nil
			}
		}
		if ctx.Err() != nil {
			return w.giveUp(ctx)
		}
		if time.Since(ended) < limit {
			continue
		}
		if err != nil {
			return Server{}, fmt.Errorf("cannot start %s: %w", w.spec.Name, err)
		}
		e.Status = "it ended well, but left no process running"
		e.Output = lastLines(w.c.output)
		if runs {
			e.Status = "it runs, but has no process in the jail"
			w.end(ctx, e)
		} else {
			w.endOrphans(ctx, e)
		}
		return Server{}, e
	}
}

// mine tells whether a process came of this start: it is new and runs the
// server's executable. On the host others may start the same program at the same
// time: there it must also have our command line and exactly our environment.
func (w *watch) mine(p *proc) bool {
	if !p.core || w.before[p.key()] {
		return false
	}
	if !w.c.outside {
		return true
	}
	env, err := Environ(p.Process)
	return err == nil && slices.Equal(p.args, w.argv) && slices.Equal(env, w.env)
}

// reached looks where what came of this start is, if its master belongs outside:
// whether it runs, and whether it has processes in the jail by now.
func (w *watch) reached() (runs, inside bool) {
	if !w.c.outside {
		return false, false
	}
	t, _, err := w.c.see()
	if err != nil {
		return false, false
	}
	for _, p := range t.byPID {
		if w.mine(p) {
			runs, inside = true, inside || p.inJail
		}
	}
	return runs, inside
}

// left are the processes that the start left behind.
func (w *watch) left() []Process {
	t, _, err := w.c.see()
	if err != nil {
		return nil
	}
	var left []Process
	for _, pid := range t.pids() {
		if p := t.byPID[pid]; w.mine(p) {
			left = append(left, p.Process)
		}
	}
	return left
}

// giveUp ends a start that took too long, and all that came of it.
func (w *watch) giveUp(ctx context.Context) (Server, error) {
	e := &StartError{
		Name: w.spec.Name, Argv: w.argv, Output: lastLines(w.c.output), cause: ctx.Err(),
		Status: fmt.Sprintf("its start was given up after %s: %v", roundDuration(time.Since(w.begun)), context.Cause(ctx)),
	}
	w.end(ctx, e)
	return Server{}, e
}

// end ends all that came of a start that has failed.
func (w *watch) end(ctx context.Context, e *StartError) {
	d := newDrain(w.c, Server{})
	defer d.close()
	for k := range w.before {
		d.spared[k] = true
	}
	d.sessions[w.cmd.Process.Pid] = true // it leads the session that we gave it
	d.adopted = w.orphan
	t, _, err := w.c.see()
	if err == nil {
		for _, p := range t.byPID {
			if p.PID == w.cmd.Process.Pid && !w.isEnded() || w.mine(p) {
				d.admit(p)
			}
		}
	}
	report, err := d.run(context.WithoutCancel(ctx), []phase{{Killed, unix.SIGKILL, endTime}})
	if err != nil {
		e.Left = slices.Clone(report.Left)
		e.Status += ", and cannot be ended: " + clean(err.Error(), 200)
	}
}

// overtaken looks for a server that somebody else has started meanwhile (a
// watchdog, cron): then our own found the port taken, and the server runs all the
// same. What came of our own start is our descendant.
func (w *watch) overtaken(ctx context.Context) (Server, bool) {
	s, _, err := w.c.settled(ctx, w.spec)
	if err != nil || s.Master == nil || w.before[key{s.Master.PID, s.Master.StartTicks}] {
		return Server{}, false
	}
	t, _, err := w.c.see()
	if err != nil {
		return Server{}, false
	}
	for p := t.byPID[s.Master.PID]; p != nil; p = t.byPID[p.PPID] {
		if p.PPID == os.Getpid() {
			return Server{}, false
		}
		if p.PID == p.PPID || p.PPID <= 1 {
			break
		}
	}
	w.c.logf("somebody else has started %s: process %d", w.spec.Name, s.Master.PID)
	s.Elsewhere = true
	return s, true
}

// orphan tells whether a process was left to us by this start and is nothing that
// a later look would know for the server's: it runs another program.
func (w *watch) orphan(p *proc) bool {
	return p.PPID == os.Getpid() && p.PID != w.cmd.Process.Pid && !p.core && (p.inJail || p.below) && !w.own[p.key()]
}

// endOrphans ends what a failed start has left to us.
func (w *watch) endOrphans(ctx context.Context, e *StartError) {
	t, _, err := w.c.see()
	if err != nil {
		return
	}
	d := newDrain(w.c, Server{})
	defer d.close()
	for _, p := range t.byPID {
		switch {
		case w.orphan(p):
			d.admit(p)
		case p.core:
			d.spareProc(p) // Stop ends it, or it is another server
		}
	}
	if len(d.order) == 0 {
		return
	}
	d.adopted = w.orphan
	report, err := d.run(context.WithoutCancel(ctx), []phase{{Killed, unix.SIGKILL, endTime}})
	if err != nil {
		e.Left = slices.Clone(report.Left)
		return
	}
	e.Status += fmt.Sprintf("; ended was what it left in the background, process %s", report.Stopped[0])
}

// keepOrphans remembers, for the next Stop, what a start that went well has left
// to us beside the server.
func (w *watch) keepOrphans() {
	t, _, err := w.c.see()
	if err != nil {
		return
	}
	w.c.left = map[key]bool{}
	for _, p := range t.byPID {
		if w.orphan(p) {
			w.c.left[p.key()] = true
		}
	}
}

func (w *watch) isEnded() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}
