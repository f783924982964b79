package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// runPrivate runs a command that gets namespaces of its own, and tells its output.
// What still runs in its mount namespace that long after its end is told as well,
// and killed. Nobody else can find that: seen from outside its folders have no
// names, and a server has nothing of the test's environment.
//
// The command is to wait for a line on its standard input before it starts
// anything (see awaitOuter): what ends at once has no namespace that could be asked.
func runPrivate(cmd *exec.Cmd, grace time.Duration) (out []byte, left []string, err error) {
	// The death signal is that of the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	cmd.WaitDelay = grace // what is left may hold the output open
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	// Held open, its number is not given to another one.
	ns, nsErr := os.Open(mountNamespace(cmd.Process.Pid))
	_, _ = io.WriteString(in, "\n")
	in.Close()
	err = cmd.Wait()
	if nsErr != nil { // it ended before it was told to begin
		return text.Bytes(), nil, err
	}
	defer ns.Close()
	var mine unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &mine); err != nil {
		return text.Bytes(), nil, err
	}
	within := sharing(mine)
	for deadline := time.Now().Add(grace); len(within) > 0 && time.Now().Before(deadline); within = sharing(mine) {
		time.Sleep(20 * time.Millisecond) // a guardian that sees its run's end needs a moment
	}
	for _, p := range within {
		left = append(left, fmt.Sprintf("process %d (%s)", p.PID, p.Comm))
	}
	// One that is killed may have made another one.
	for deadline := time.Now().Add(5 * time.Second); len(within) > 0 && time.Now().Before(deadline); within = sharing(mine) {
		for _, p := range within {
			killIn(p.PID, mine)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if len(within) > 0 {
		left = append(left, fmt.Sprintf("and of them %d cannot be killed", len(within)))
	}
	return text.Bytes(), left, err
}

// awaitOuter lets the outer process of InPrivateMounts look at this one before a
// test starts anything. Later calls do nothing.
var awaitOuter = sync.OnceFunc(func() { _, _ = bufio.NewReader(os.Stdin).ReadString('\n') })

func mountNamespace(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/mnt" }

// sharing lists the processes in a mount namespace.
func sharing(ns unix.Stat_t) []Process {
	var all []Process
	for _, p := range processes() {
		if isIn(p.PID, ns) {
			all = append(all, p)
		}
	}
	return all
}

func isIn(pid int, ns unix.Stat_t) bool {
	var st unix.Stat_t
	return unix.Stat(mountNamespace(pid), &st) == nil && st.Dev == ns.Dev && st.Ino == ns.Ino
}

// killIn kills a process if it is still the one in that namespace.
func killIn(pid int, ns unix.Stat_t) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if isIn(pid, ns) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}
