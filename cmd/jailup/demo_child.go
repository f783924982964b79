package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/steps"
)

// self is the program that runs, also where its file was replaced meanwhile.
const self = "/proc/self/exe"

// outcome is how a run of the program ended.
type outcome struct {
	exit   int
	killed bool
	done   event.RunDone // zero where the program was killed before
	tell   *runTeller
	stderr string
}

// childGrace is how long a run that was asked to end may take to go back.
const childGrace = 90 * time.Second

// program runs jailup itself, as a user would, with folders of the demo's own. Its
// events are shown as they come where show says so. kill, which may be nil, is
// asked at each of them whether the program is to die now.
func (d *demo) program(ctx context.Context, show bool, kill func(event.Event) bool, args ...string) (outcome, error) {
	args = append(args, "--jail", d.jail, "--config", d.conf, "--state-dir", d.state, "--cache-dir", d.cache, "--output", "json")
	// In words only: what it is asked to do is what a user could have typed.
	what := "jailup " + args[0]
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Args[0] = "jailup"
	cmd.Env = guardianEnv()
	// Ctrl-C is for the demo, which asks the program to end and waits for it.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = childGrace
	var stderr bytes.Buffer
	cmd.Stderr = &limited{to: &stderr, left: 64 << 10}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return outcome{}, fmt.Errorf("cannot run %s: %w", what, err)
	}
	o := outcome{tell: d.say.run()}
	if !show {
		o.tell = (&narrator{}).run()
	}
	if err := cmd.Start(); err != nil {
		return outcome{}, fmt.Errorf("cannot run %s: %w", what, err)
	}
	rerr := event.Read(out, func(e event.Event) bool {
		if e.Done != nil {
			o.done = *e.Done
		}
		if show {
			o.tell.tell(e)
		}
		if !o.killed && kill != nil && kill(e) {
			o.killed = cmd.Process.Kill() == nil
			d.killedAt = time.Now()
		}
		return true
	})
	werr := cmd.Wait()
	d.say.end()
	if ctx.Err() != nil {
		return o, context.Cause(ctx)
	}
	if o.exit = cmd.ProcessState.ExitCode(); o.exit < 0 && !o.killed {
		return o, fmt.Errorf("%s ended by itself: %w", what, werr)
	}
	o.stderr = strings.Join(event.CleanLines(stderr.String(), 8, 300), "\n")
	if rerr != nil {
		return o, fmt.Errorf("cannot read what %s says: %w", what, rerr)
	}
	return o, nil
}

// must runs the program and wants it to end in this way.
func (d *demo) must(ctx context.Context, show bool, exit int, result string, args ...string) (outcome, error) {
	o, err := d.program(ctx, show, nil, args...)
	if err != nil {
		return o, err
	}
	if o.exit != exit || o.done.Result != result {
		return o, d.unexpected(o, fmt.Sprintf("%q with exit status %d", result, exit), args[0])
	}
	return o, nil
}

func (d *demo) unexpected(o outcome, want, verb string) error {
	why := o.done.Error
	if why == "" {
		why = strings.ReplaceAll(o.stderr, "\n", "; ")
	}
	if why == "" {
		why = "it said nothing more"
	}
	var kind error
	if o.exit == exitUsage {
		kind = steps.ErrUsage // what the user asked for is handed on as it is
	}
	return &steps.Error{
		Kind: kind,
		Err:  fmt.Errorf("jailup %s ended as %q with exit status %d, not as %s: %s", verb, o.done.Result, o.exit, want, why),
		Hint: o.done.Hint,
	}
}

// limited is a writer that drops what is too much.
type limited struct {
	to   *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.to.Write(p[:n])
	return len(p), nil
}

// processes calls fn for each process of the host but this one.
func processes(fn func(pid int, dir string)) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid := 0
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err == nil && pid > 0 && pid != os.Getpid() {
			fn(pid, filepath.Join("/proc", e.Name()))
		}
	}
}

// inside are the processes whose root is the jail, by device and inode.
func inside(jail string) []int {
	var want unix.Stat_t
	if unix.Stat(jail, &want) != nil {
		return nil
	}
	var out []int
	processes(func(pid int, dir string) {
		var st unix.Stat_t
		if unix.Stat(dir+"/root", &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino {
			out = append(out, pid)
		}
	})
	return out
}

// guardians are the processes of this program that have a folder of the demo
// among their arguments.
func guardians(dir string) []int {
	var own unix.Stat_t
	if unix.Stat(self, &own) != nil {
		return nil
	}
	var out []int
	processes(func(pid int, proc string) {
		var st unix.Stat_t
		if unix.Stat(proc+"/exe", &st) != nil || st.Dev != own.Dev || st.Ino != own.Ino {
			return
		}
		line, _ := os.ReadFile(proc + "/cmdline")
		for arg := range bytes.SplitSeq(line, []byte{0}) {
			if a := string(arg); a == dir || strings.HasPrefix(a, dir+"/") {
				out = append(out, pid)
				return
			}
		}
	})
	return out
}

// gone waits until list is empty, ending what it names by force if hard says so.
func gone(list func() []int, hard bool, within time.Duration) bool {
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		pids := list()
		if len(pids) == 0 {
			return true
		}
		for _, pid := range pids {
			if hard {
				killIfStill(pid, list)
			}
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// killIfStill ends a process that the list still names once it is held by a
// descriptor: its number cannot have become another's then.
func killIfStill(pid int, list func() []int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for _, p := range list() {
		if p == pid {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
	}
}
