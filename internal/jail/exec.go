package jail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
)

// Command is a program that a person runs in a jail.
type Command struct {
	Argv                  []string // the program's name or path in the jail first
	Env                   []string // beside PATH and HOME
	Stdin, Stdout, Stderr *os.File
	// Grace is the time from SIGTERM to SIGKILL where the context's time is over.
	Grace time.Duration
	// Cancelled is the cause of a context that a signal cancelled, which the
	// program has got as well.
	Cancelled error
}

// jailPath is where programs of a jail are looked for.
const jailPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The exit statuses of a command that did not run, as shells have them (POSIX
// XCU 2.8.2).
const (
	notExecutable = 126
	notFound      = 127
)

// Exec runs a program of the jail as its child, with the jail as its root, and
// returns its exit status; 128+n where signal n ended it. The program gets the
// three streams as they are, a clean environment, no other descriptor, and every
// signal at its default. An error means that it did not run, and the status is
// 126 or 127. Signals that are sent to this process meanwhile go to it. A context
// whose time is over ends it; one that a signal cancelled does not: the program
// has got that signal.
func Exec(ctx context.Context, root *Root, c Command) (int, error) {
	file, status, err := find(root, c.Argv[0])
	if err != nil {
		return status, err
	}
	if err := CloseInherited(); err != nil {
		return notExecutable, fmt.Errorf("cannot keep descriptors back: %w", err)
	}
	signals := make(chan os.Signal, 16)
	if err := catch(signals); err != nil {
		return notExecutable, fmt.Errorf("cannot read the ignored signals: %w", err)
	}
	cmd := &exec.Cmd{
		Path: file, Args: c.Argv, Dir: "/", Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		Env: append([]string{"PATH=" + jailPath, "HOME=/root"}, c.Env...),
		// In the child, /proc/self is the child, which still has the descriptor.
		SysProcAttr: &syscall.SysProcAttr{Chroot: "/proc/self/fd/" + strconv.Itoa(root.Fd())},
	}
	started := make(chan error)
	go func() {
		// The mask is that of the thread that forks. This one ends with the goroutine.
		runtime.LockOSThread()
		var none unix.Sigset_t
		if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		return notExecutable, fmt.Errorf("cannot run %s in jail %s: %s", event.Clean(file, 200), root.Path(), whyNot(err))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	done := ctx.Done()
	var again, kill <-chan time.Time
	for {
		select {
		case <-done:
			done = nil
			if c.Cancelled != nil && errors.Is(context.Cause(ctx), c.Cancelled) {
				// Whoever cancelled lets the next signal end this process: not here.
				again = time.After(20 * time.Millisecond)
				continue
			}
			_ = cmd.Process.Signal(unix.SIGTERM)
			kill = time.After(c.Grace)
		case <-again:
			if err := catch(signals); err != nil {
				return notExecutable, err
			}
		case <-kill:
			_ = cmd.Process.Kill()
		case s := <-signals:
			if forwarded(s, c.Stdin) {
				_ = cmd.Process.Signal(s) // it may have ended
			}
		case err := <-ended:
			return statusOf(cmd, err)
		}
	}
}

func statusOf(cmd *exec.Cmd, err error) (int, error) {
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return notExecutable, fmt.Errorf("cannot wait for the program: %w", err)
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// catch catches what may be sent to this process, so that it does not end before
// the program, and what it ignores: an ignored signal stays ignored in a child,
// one that is caught does not. What stops a process stops this one as well, for
// the sake of the shell that waits for it.
func catch(signals chan os.Signal) error {
	asked := []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		hex, ok := strings.CutPrefix(line, "SigIgn:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return err
		}
		for n := 1; n <= 64; n++ {
			if set&(1<<(n-1)) != 0 {
				asked = append(asked, syscall.Signal(n))
			}
		}
	}
	signal.Notify(signals, asked...)
	return nil
}

// forwarded tells whether the program should get a signal of this process. What
// is typed at a terminal reaches both, for they are one process group.
func forwarded(s os.Signal, stdin *os.File) bool {
	switch s {
	case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE:
		return false // about this process, not about the program
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT:
		return !onTerminal(stdin)
	}
	return true
}

func onTerminal(f *os.File) bool {
	if f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// find looks for a program as a shell in the jail would.
func find(root *Root, name string) (file string, status int, err error) {
	shown := event.Clean(name, 200)
	candidates := []string{path.Join("/", name)}
	if !strings.Contains(name, "/") {
		candidates = nil
		for dir := range strings.SplitSeq(jailPath, ":") {
			candidates = append(candidates, path.Join(dir, name))
		}
	}
	if name == "" {
		candidates = nil
	}
	there := ""
	for _, p := range candidates {
		info, err := root.Stat(p)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR):
			there = fmt.Sprintf("%s: %v", p, errors.Unwrap(err))
		case err != nil:
		case !info.IsRegular():
			there = p + " is no program but a " + TypeName(info.Mode)
		case info.Mode&0o111 == 0:
			there = p + " may not be executed"
		default:
			return p, 0, nil
		}
	}
	if there != "" {
		return "", notExecutable, fmt.Errorf("cannot run %s in jail %s: %s", shown, root.Path(), event.Clean(there, 300))
	}
	return "", notFound, &ExecError{
		message: fmt.Sprintf("cannot run %s in jail %s: there is no such program in it", shown, root.Path()),
		hint:    "a file jail holds only what its server needs; see what is there: ls " + root.Path() + "/usr/bin " + root.Path() + "/usr/sbin",
	}
}

func whyNot(err error) string {
	var errno syscall.Errno
	switch {
	case !errors.As(err, &errno):
		return event.Clean(err.Error(), 200)
	case errno == unix.ENOENT:
		return "the file is there, but the interpreter or dynamic loader that it names is not in the jail"
	case errno == unix.ENOEXEC:
		return "it is neither a program nor a script with a #! line"
	}
	return errno.Error()
}

// CloseInherited marks all descriptors above 2 of this process close-on-exec.
// Those that Go opens are so from the beginning; those that it was started with
// may not be: the lock of a cron job, a pipe of a CI runner.
func CloseInherited() error {
	err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	dir, err := os.Open("/proc/self/fd") // before Linux 5.11
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if fd, err := strconv.Atoi(n); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// ExecError says why a program did not run, and what to do about it.
type ExecError struct{ message, hint string }

func (e *ExecError) Error() string { return e.message }

// Hint is the next command to type; empty for none.
func (e *ExecError) Hint() string { return e.hint }
