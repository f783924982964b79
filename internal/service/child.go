package service

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/wall"
)

// What a started server must not get from us, and how it is kept from it:
//
//	root          chroot through the jail's descriptor (unless its master belongs
//	              outside), then the working directory /
//	descriptors   all above 2 are marked close-on-exec; 0 is /dev/null, 1 and 2 a
//	              piece of memory of fixed size (below)
//	environment   made anew
//	signals       none ignored, none blocked
//	capabilities  none that it would inherit beside what a root's execve gives it
//	terminal      a session of its own
//	umask         022
//	mounts        those of the host, whatever jailup itself sees
//	limits        those of the server as it ran before, its place in the queue for a
//	              processor and its score for want of memory as well; without such
//	              a server, ours (the Go runtime gives back the soft limit of open
//	              files that it raised for itself)

// cleanEnv is the environment of a started server. It is not that of the
// administrator who happens to run the upgrade, nor that of cron.
func cleanEnv(more []string) []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG=C.UTF-8",
	}, more...)
}

// spawn starts argv in the jail, or on the host if root is negative. The caller
// waits for it. What could not be made as in like, if that is not nil, is odd.
func spawn(root int, argv, env []string, out *os.File, like *Surroundings) (cmd *exec.Cmd, odd, err error) {
	if err := jail.CloseInherited(); err != nil {
		return nil, nil, fmt.Errorf("cannot keep descriptors back: %w", err)
	}
	if err := catchIgnored(); err != nil {
		return nil, nil, fmt.Errorf("cannot read the ignored signals: %w", err)
	}
	command := func() *exec.Cmd {
		cmd := &exec.Cmd{
			Path:        argv[0],
			Args:        argv,
			Env:         cleanEnv(env),
			Dir:         "/",
			Stdout:      out,
			Stderr:      out,
			SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		}
		if root >= 0 {
			// In the child, /proc/self is the child, which still has the descriptor.
			cmd.SysProcAttr.Chroot = "/proc/self/fd/" + strconv.Itoa(root)
		}
		return cmd
	}
	if like != nil && like.inherited() {
		like = nil
	}
	// A child inherits umask, signal mask and mounts of the thread that forks it.
	// This one gets its own, and ends afterwards.
	err = wall.Host(func() error {
		cmd = command()
		if like == nil {
			return startHere(cmd)
		}
		cmd.SysProcAttr.Ptrace = true // it stops before its program begins
		err := startHere(cmd)
		switch {
		case err == nil:
			odd = like.settled(cmd.Process.Pid)
		case errors.Is(err, unix.EPERM): // nothing may be traced here
			cmd = command()
			if err = startHere(cmd); err == nil {
				odd = like.give(cmd.Process.Pid)
			}
		}
		return err
	})
	return cmd, odd, err
}

func startHere(cmd *exec.Cmd) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot have an umask apart: %w", err)
	}
	unix.Umask(0o022)
	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return fmt.Errorf("cannot unblock signals: %w", err)
	}
	if err := jail.DropInheritable(); err != nil {
		return fmt.Errorf("cannot keep capabilities back: %w", err)
	}
	return cmd.Start()
}

// catchIgnored makes each signal that this process ignores one that it catches
// and drops. For us that is the same; but what is ignored stays ignored in a
// child, and what is caught is back at its default.
func catchIgnored() error {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	var set uint64
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "SigIgn:"); ok {
			if set, err = strconv.ParseUint(strings.TrimSpace(hex), 16, 64); err != nil {
				return err
			}
		}
	}
	var ignored []os.Signal
	for n := 1; n <= 64; n++ {
		if set&(1<<(n-1)) != 0 {
			ignored = append(ignored, syscall.Signal(n))
		}
	}
	if len(ignored) > 0 {
		signal.Notify(make(chan os.Signal, 1), ignored...)
	}
	return nil
}

// outputSize is how much a start command can print until its writes fail.
const outputSize = 1 << 20

// newOutput makes what a start command prints into: memory of a fixed size. A
// server that stays in the foreground keeps it as its standard output when we are
// gone. A pipe would then break, or block it when full; a file would grow for
// ever. Here a write that does not fit fails, and nothing else happens.
func newOutput() (*os.File, error) {
	const name = "start-output"
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(outputSize); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

const (
	maxLines = 10
	maxLine  = 300
)

// lastLines returns the last lines of what was printed, cleaned.
func lastLines(f *os.File) []string {
	if f == nil {
		return nil
	}
	buf := make([]byte, outputSize)
	n, _ := f.ReadAt(buf, 0)
	buf = bytes.TrimRight(buf[:n], "\x00")
	var lines []string
	for len(buf) > 0 && len(lines) < maxLines {
		i := bytes.LastIndexByte(buf, '\n')
		line := buf[i+1:]
		if line := strings.TrimSpace(clean(string(line[:min(len(line), 4*maxLine)]), maxLine)); line != "" {
			lines = append([]string{line}, lines...)
		}
		buf = buf[:max(i, 0)]
	}
	return lines
}
