package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

const measureEnv = "JAILUP_LAB_MEASURE"

// measured is the helper behind measure: it runs its arguments, writes the peak
// memory and the processor time of what it ran into the file that the environment
// names, and ends as it did. A process of its own because a child begins with the peak of whoever
// started it, and the tests themselves may hold more than what they measure.
func measured() bool {
	file := os.Getenv(measureEnv)
	if file == "" {
		return false
	}
	runtime.LockOSThread() // Pdeathsig is the thread's
	os.Unsetenv(measureEnv)
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok || os.WriteFile(file, fmt.Appendln(nil, usage.Maxrss, int64(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())), 0o600) != nil {
		os.Exit(125)
	}
	os.Exit(cmd.ProcessState.ExitCode())
	return true
}
