// Package guard keeps a small process beside a run that has stopped a server:
// if the run dies before it is done, the guardian ends what it began. It is a
// session and a cgroup of its own, so that what kills the run's terminal, process
// group, job or unit does not reach it. For the time when nothing runs there is
// the persistent guard, see Hold: the guardian makes it before it says that it is
// ready, and takes it away when it is told that all is done.
//
// What is written on the host outside of jail, stage and state is written by the
// guardian, never by the run: that may have everything else read-only.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/wall"
)

const (
	pidFd   = 3
	pipeFd  = 4
	readyFd = 5
)

// What a run says to its guardian at its end: one byte through the pipe. A pipe
// that is closed without a word says nothing.
const (
	sayDone  = 1 // all is done: take the persistent guard away
	sayLeave = 2 // what is left is a person's; the persistent guard stays
)

// readyLimit is how long a guardian may take until it watches: with systemd that
// is a scope and a daemon-reload, each within patience.
const readyLimit = 2*patience + 5*time.Second

// Guardian is the process, seen from the run that it guards.
type Guardian struct {
	cmd  *exec.Cmd
	done *os.File
}

// command is this program again, as a process that belongs to the host.
func command(args, env []string, log *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "jailup-guardian"
	cmd.Env = env
	cmd.Dir = "/"
	if log != nil {
		cmd.Stdout, cmd.Stderr = log, log
	}
	return cmd
}

// Run has a process like a guardian do one thing and waits for its end: what is
// to be done on the host outside of what a run may write. What it printed is in
// the error.
func Run(args, env []string) error {
	cmd := command(args, env, nil)
	var out []byte
	err := wall.Host(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if text := strings.TrimSpace(string(out)); err != nil && text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// Start starts this program again with args and returns once the guardian
// watches. log gets what it prints; it may be nil.
// The error is the guardian's own where it could not do what it must before.
func Start(args []string, env []string, log *os.File) (*Guardian, error) {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("cannot start the guardian: %w", err)
	}
	pidfd := os.NewFile(uintptr(self), "pidfd")
	defer pidfd.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start the guardian: %w", err)
	}
	defer r.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("cannot start the guardian: %w", err)
	}
	defer readyR.Close()
	cmd := command(args, env, log)
	cmd.ExtraFiles = []*os.File{pidfd, r, readyW}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = wall.Host(cmd.Start) // it builds a wall of its own when it is needed
	readyW.Close()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("cannot start the guardian: %w", err)
	}
	g := &Guardian{cmd: cmd, done: w}
	_ = readyR.SetReadDeadline(time.Now().Add(readyLimit))
	answer, err := io.ReadAll(io.LimitReader(readyR, 2000))
	switch {
	case err == nil && len(answer) == 1:
		return g, nil
	case err == nil && len(answer) == 0:
		err = io.EOF
	}
	_ = cmd.Process.Kill() // it may hang, and would never read that all is done
	_ = g.end(sayLeave)
	if len(answer) > 1 {
		return nil, errors.New(strings.TrimSpace(string(answer)))
	}
	return nil, fmt.Errorf("cannot start the guardian: it does not answer: %w", err)
}

// PID is the guardian's process.
func (g *Guardian) PID() int { return g.cmd.Process.Pid }

// Disarm tells the guardian that all is done, and waits for its end. The error
// says that the persistent guard may still be there. A nil guardian and a second
// call are fine.
func (g *Guardian) Disarm() error { return g.end(sayDone) }

// Leave tells the guardian to go, and to leave the persistent guard where it is:
// the jail may be mixed, and a person is asked. A nil guardian, or one that was
// disarmed, is fine.
func (g *Guardian) Leave() { _ = g.end(sayLeave) }

func (g *Guardian) end(word byte) error {
	if g == nil || g.done == nil {
		return nil
	}
	_, _ = g.done.Write([]byte{word})
	g.done.Close()
	g.done = nil
	if err := g.cmd.Wait(); err != nil && word == sayDone {
		return fmt.Errorf("cannot disarm the guardian: %w", err)
	}
	return nil
}

// End is how a run ended, as its guardian saw it.
type End int

const (
	// Died: without a word. What it began is to be ended.
	Died End = iota
	// Done: all is done, and the persistent guard is to go.
	Done
	// Left: a person is asked, and the persistent guard stays.
	Left
)

// Endure keeps the guardian from being ended by what ends the jobs of a terminal.
// The signals are caught and dropped, not ignored: what it starts would inherit
// that.
func Endure() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE, unix.SIGQUIT, unix.SIGTSTP)
}

// Watch is the guardian's own work. It moves into a cgroup with the jail's id in
// its name (told through log where it cannot), calls prepare, whose error is that
// of Start, and returns when the run that started it has ended.
func Watch(id string, log func(string), prepare func() error) (End, error) {
	Endure()
	for _, fd := range []int{pidFd, pipeFd, readyFd} {
		unix.CloseOnExec(fd)
	}
	ready := os.NewFile(readyFd, "ready")
	aside, err := stepAside(context.Background(), id)
	if err != nil {
		log("the guardian stays in the cgroup of the run: " + err.Error())
	}
	defer aside.back() // before the server is started, which would stay in it
	if err := prepare(); err != nil {
		_, _ = ready.WriteString(err.Error() + "\n")
		ready.Close()
		return Left, err
	}
	if _, err := ready.Write([]byte{1}); err != nil {
		return Left, fmt.Errorf("cannot guard: %w", err)
	}
	ready.Close()
	for {
		fds := []unix.PollFd{{Fd: pidFd, Events: unix.POLLIN}, {Fd: pipeFd, Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Left, fmt.Errorf("cannot guard: %w", err)
		}
		if fds[1].Revents != 0 {
			if end, said := word(); said {
				return end, nil
			}
		}
		if fds[0].Revents != 0 {
			// It may have said so with its last breath.
			_ = unix.SetNonblock(pipeFd, true)
			if end, said := word(); said {
				return end, nil
			}
			return Died, nil
		}
		if fds[1].Revents != 0 {
			time.Sleep(5 * time.Millisecond) // the pipe closes a moment before the process ends
		}
	}
}

// word reads what the run has said, if anything.
func word() (End, bool) {
	var b [1]byte
	if n, _ := unix.Read(pipeFd, b[:]); n != 1 {
		return Died, false
	}
	if b[0] == sayLeave {
		return Left, true
	}
	return Done, true
}
