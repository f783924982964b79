package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
)

// ProcessController serves a host without a service manager, and servers that
// none manages: it finds the server by the jail that its processes are chrooted
// into and the file that they run.
type ProcessController struct {
	root      *jail.Root
	spec      Spec
	procRoot  string
	extraExes func() []Inode
	outside   bool
	log       func(string)

	chosen     key          // master that was the server at the last look
	bystanders map[key]bool // masters that are not
	left       map[key]bool // what the last start left to us beside the server
	output     *os.File     // what the last start command printed

	mu       sync.Mutex
	children map[int]bool // start commands that a goroutine waits for
}

var _ Controller = (*ProcessController)(nil)

// Option changes how a ProcessController works.
type Option func(*ProcessController)

// ProcRoot is where procfs is mounted; without it, /proc.
func ProcRoot(dir string) Option { return func(c *ProcessController) { c.procRoot = dir } }

// ExtraExes names further files that make a process the server's: while an
// install exchanges the executable, a running old server's is in the stage. It
// is called at each look.
func ExtraExes(f func() []Inode) Option { return func(c *ProcessController) { c.extraExes = f } }

// Log is told, in a few words, what the controller does.
func Log(f func(event string)) Option { return func(c *ProcessController) { c.log = f } }

// NewProcess returns the controller of the server that spec describes in root,
// which must stay open as long as the controller is used.
func NewProcess(root *jail.Root, spec Spec, opts ...Option) *ProcessController {
	c := &ProcessController{
		root: root, spec: spec, procRoot: "/proc", log: func(string) {},
		bystanders: map[key]bool{}, children: map[int]bool{},
	}
	if c.spec.Quit == 0 {
		c.spec.Quit = unix.SIGTERM
	}
	if c.spec.Term == 0 {
		c.spec.Term = unix.SIGTERM
	}
	if c.spec.Reload == 0 {
		c.spec.Reload = unix.SIGHUP
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

// Name is "process".
func (c *ProcessController) Name() string { return "process" }

func (c *ProcessController) logf(format string, args ...any) { c.log(fmt.Sprintf(format, args...)) }

// restlessScans is how often a scan that may have overlooked something is made
// again before it is believed.
const restlessScans = 20

// Find looks for the server. A master that it has once told from another one is
// remembered: of two servers in one jail, the one that is left when the other is
// stopped is not taken for it.
func (c *ProcessController) Find(ctx context.Context) (Server, error) {
	s, _, err := c.find(ctx, c.spec)
	return s, err
}

func (c *ProcessController) find(ctx context.Context, spec Spec) (Server, choice, error) {
	if err := ctx.Err(); err != nil {
		return Server{}, choice{}, fmt.Errorf("cannot look for %s: %w", spec.Name, err)
	}
	ch, err := c.decide(spec)
	for range restlessScans {
		if err == nil && ch.server.Running() || !ch.restless {
			break
		}
		if ctx.Err() != nil {
			break
		}
		ch, err = c.decide(spec)
	}
	if err != nil {
		return Server{}, choice{}, err
	}
	c.remember(ch)
	c.describe(ch.server)
	return ch.server, ch, nil
}

// see makes one scan.
func (c *ProcessController) see() (*table, want, error) {
	w, err := c.want()
	if err != nil {
		return nil, want{}, err
	}
	t, err := c.scan(w)
	return t, w, err
}

// decide looks once.
func (c *ProcessController) decide(spec Spec) (choice, error) {
	t, w, err := c.see()
	if err != nil {
		return choice{}, err
	}
	if err := c.blind(t, w); err != nil {
		return choice{}, err
	}
	ch, err := c.choose(t, spec)
	ch.restless = ch.restless || t.restless
	return ch, err
}

// remember keeps what was decided; without a master nothing was told apart.
func (c *ProcessController) remember(ch choice) {
	if ch.server.Master == nil {
		return
	}
	c.chosen = key{ch.server.Master.PID, ch.server.Master.StartTicks}
	for _, f := range ch.bystanders {
		c.bystanders[f.master.key()] = true
	}
}

// blind says that the server may be there without being seen: what cannot be
// looked into must not be reported as down.
func (c *ProcessController) blind(t *table, w want) error {
	for _, p := range t.denied {
		if w.comms[p.Comm] {
			return fmt.Errorf("cannot look into process %d (%s): %w", p.PID, p.Comm, os.ErrPermission)
		}
	}
	return nil
}

// describe fills in what the scan left out for processes that have left the
// jail's root (a pool with a chroot of its own).
func (c *ProcessController) describe(s Server) {
	for i := range s.Others {
		p := &s.Others[i]
		if p.UID >= 0 {
			continue
		}
		d, err := unix.Open(fmt.Sprintf("%s/%d", c.procRoot, p.PID), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		q := &proc{Process: *p}
		q.fill(d)
		p.UID, p.Cmdline = q.UID, q.Cmdline
		unix.Close(d)
	}
}

// Reload sends the reload signal to the master.
func (c *ProcessController) Reload(ctx context.Context) error {
	s, err := c.Find(ctx)
	if err != nil {
		return fmt.Errorf("cannot reload %s: %w", c.spec.Name, err)
	}
	if s.Master == nil {
		return fmt.Errorf("cannot reload %s: %w", c.spec.Name, ErrNotRunning)
	}
	w, err := c.want()
	if err != nil {
		return fmt.Errorf("cannot reload %s: %w", c.spec.Name, err)
	}
	fd, err := c.hold(*s.Master, true, w)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot reload %s: %w", c.spec.Name, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("cannot reload %s: %w", c.spec.Name, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, c.spec.Reload, nil, 0); err != nil {
		return fmt.Errorf("cannot reload %s: process %d: %w", c.spec.Name, s.Master.PID, err)
	}
	c.logf("sent %s to process %d", unix.SignalName(c.spec.Reload), s.Master.PID)
	return nil
}

// hold returns a pidfd of p, or ESRCH if it is gone. The number alone could be
// another process's by now: the descriptor is opened first, then what it stands
// for is compared with what was seen: start time and program, and, for a core
// process, that root and program are the server's. After that no reuse of the
// number can turn a signal to someone else.
func (c *ProcessController) hold(p Process, core bool, w want) (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.EINVAL) { // not a thread group's leader (any more)
		err = unix.ESRCH
	}
	if err != nil {
		return -1, err
	}
	dir, err := os.Open(c.procRoot)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	defer dir.Close()
	now, err := look(int(dir.Fd()), p.PID, w)
	if err != nil && !gone(err) {
		unix.Close(fd)
		return -1, err
	}
	if err != nil || now.StartTicks != p.StartTicks || now.dead() {
		unix.Close(fd)
		return -1, unix.ESRCH
	}
	if now.Exe != p.Exe || core && !now.core && !now.below {
		unix.Close(fd)
		return -1, errChanged
	}
	return fd, nil
}

var errChanged = errors.New("it runs another program now")
