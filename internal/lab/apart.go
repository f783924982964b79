package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	apartMark = "JAILUP_LAB_APART"      // the test that runs in a pid namespace of its own
	apartInit = "JAILUP_LAB_APART_INIT" // set for the first process of it
)

// Apart runs the test that calls it once more, alone, in a new process with a pid
// namespace and a /proc of its own. It returns true in the outer process, when
// that one has ended well, and false in the inner one, which goes on:
//
//	if lab.Apart(t) {
//		return
//	}
//
// What looks through all processes, a thousand times, then finds those of the test
// and not those of the tests beside it. Code of the test around a subtest that
// calls it runs in both processes. When the inner process ends the kernel kills
// what it has left running; lab.Main, which runs in it too, tells of it before.
// Needs root.
func Apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apartMark) == t.Name() {
		if os.Getenv(apartInit) != "" {
			t.Fatal("lab.Apart needs lab.Main")
		}
		return false
	}
	Need(t, "root", "mounts")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, again(t)...)
	cmd.Env = append(os.Environ(), apartMark+"="+t.Name(), apartInit+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	// The death signal is that of the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	text := string(out)
	switch {
	case err != nil:
		t.Fatalf("in a pid namespace of its own: %v\n%s", err, text)
	case strings.Contains(text, "--- SKIP: "+t.Name()):
		t.Skipf("skipped in a pid namespace of its own:\n%s", text)
	case !strings.Contains(text, "--- PASS: "+t.Name()+" "):
		t.Fatalf("the test did not run in a pid namespace of its own:\n%s", text)
	}
	if testing.Verbose() {
		t.Logf("in a pid namespace of its own:\n| %s", strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n| "))
	}
	return true
}

// IsApart tells whether all processes that this one sees are of its own test: see
// Apart.
func IsApart() bool { return os.Getenv(apartMark) != "" }

// Inner tells whether this process runs one test of another process's again: see Apart
// and InPrivateMounts.
func Inner() bool { return os.Getenv(apartMark) != "" || os.Getenv(privateMark) != "" }

// initApart is the first process of a pid namespace, if this is one: it mounts
// /proc, runs the test, and waits for whatever has lost its parent, as init(8)
// does. It does not return then.
func initApart() {
	if os.Getenv(apartInit) == "" || os.Getpid() != 1 {
		return
	}
	os.Unsetenv(apartInit)
	status, err := runApart()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab: cannot run a test in a pid namespace of its own:", err)
		status = 1
	}
	os.Exit(status)
}

func runApart() (status int, err error) {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return 0, fmt.Errorf("cannot mount /proc: %w", err)
	}
	test, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case pid == test.Pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == test.Pid:
			return ws.ExitStatus(), nil
		}
	}
}
