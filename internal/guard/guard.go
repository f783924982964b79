// Package guard keeps a small process beside a run that has stopped a server:
// if the run dies before it is done, the guardian ends what it began. It is a
// session of its own, so that what kills the run's terminal, process group or
// job does not reach it.
package guard

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pidFd  = 3
	pipeFd = 4
)

// Guardian is the process, seen from the run that it guards.
type Guardian struct {
	cmd  *exec.Cmd
	done *os.File
}

// Start starts this program again with args and returns once the guardian
// watches. log gets what it prints; it may be nil.
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
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "jailup-guardian"
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{pidfd, r, readyW}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	readyW.Close()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("cannot start the guardian: %w", err)
	}
	g := &Guardian{cmd: cmd, done: w}
	_ = readyR.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := readyR.Read(make([]byte, 1)); err != nil {
		_ = cmd.Process.Kill() // it may hang, and would never read that all is done
		g.Disarm()
		return nil, fmt.Errorf("cannot start the guardian: it does not answer: %w", err)
	}
	return g, nil
}

// PID is the guardian's process.
func (g *Guardian) PID() int { return g.cmd.Process.Pid }

// Disarm tells the guardian that all is done, and waits for its end. A nil
// guardian and a second call are fine.
func (g *Guardian) Disarm() {
	if g == nil || g.done == nil {
		return
	}
	_, _ = g.done.Write([]byte{1})
	g.done.Close()
	g.done = nil
	_ = g.cmd.Wait()
}

// Watch is the guardian's own work: it returns true once the run that started it
// has died, and false when that run said that all is done.
func Watch() (died bool, err error) {
	// Caught and dropped, not ignored: what the guardian starts would inherit that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE, unix.SIGQUIT, unix.SIGTSTP)
	for _, fd := range []int{pidFd, pipeFd} {
		unix.CloseOnExec(fd)
	}
	ready := os.NewFile(5, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		return false, fmt.Errorf("cannot guard: %w", err)
	}
	ready.Close()
	for {
		fds := []unix.PollFd{{Fd: pidFd, Events: unix.POLLIN}, {Fd: pipeFd, Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("cannot guard: %w", err)
		}
		if fds[1].Revents != 0 {
			var b [1]byte
			if n, _ := unix.Read(pipeFd, b[:]); n == 1 {
				return false, nil
			}
		}
		if fds[0].Revents != 0 {
			// It may have said so with its last breath.
			var b [1]byte
			_ = unix.SetNonblock(pipeFd, true)
			if n, _ := unix.Read(pipeFd, b[:]); n == 1 {
				return false, nil
			}
			return true, nil
		}
		if fds[1].Revents != 0 {
			time.Sleep(5 * time.Millisecond) // the pipe closes a moment before the process ends
		}
	}
}
