package jail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Box is one run of a program of the jail on a throw-away view: an overlay over
// the jail with its writes in memory, in mount, pid, network, ipc, uts and cgroup
// namespaces of its own, with the capabilities, the system calls, the memory and
// the processes that the test of a configuration needs. Nothing of it reaches the
// jail or the network. Every address can be bound there and every host name
// resolves (to an address of RFC 5737), so that a test of a configuration finds
// what it names.
type Box struct {
	// Argv is the program, an absolute path of the jail first, and its arguments.
	Argv []string
	// Env are variables (NAME=VALUE) beside a clean environment.
	Env []string
	// Changes are made in the view first; staged names lie in Stage.
	Changes []Change
	Stage   *os.File
	// Timeout ends the program and all its children; 0 is 30 s.
	Timeout time.Duration
}

// Change is one difference of the view from the jail: a file of the stage, an
// empty file (no stage), a link, a directory, or (the rest empty) something that is not there.
type Change struct {
	Path  string `json:"path"`
	Stage string `json:"stage,omitempty"`
	Link  string `json:"link,omitempty"`
	Mode  uint32 `json:"mode,omitempty"` // type and permission bits
	UID   int    `json:"uid,omitempty"`
	GID   int    `json:"gid,omitempty"`
}

// BoxResult is what the program did. Output is stdout and stderr together, raw:
// clean it before it is shown.
type BoxResult struct {
	Argv     []string
	Exit     int // 128+n where signal n ended it
	Output   []byte
	TimedOut bool
	// Ended says why the box was ended before the program was, if not for its time:
	// "more than 400 processes". Exit is 137 then.
	Ended string
}

const (
	boxName      = "jailup-box"
	boxOutput    = 256 << 10 // kept
	boxFlood     = 16 << 20  // beyond, the box is ended
	boxTimeout   = 30 * time.Second
	boxGrace     = 5 * time.Second // for a killed box to be gone
	boxRoom      = 512 << 20
	boxStageFd   = 4
	boxRootFd    = 3
	boxSpecFd    = 5
	boxReportFd  = 6
	boxSetupFail = 125
)

// ErrNoSandbox says that this kernel or this process cannot make the view.
var ErrNoSandbox = errors.New("cannot make a sandbox")

type boxSpec struct {
	Root    string   `json:"root"`
	Room    int64    `json:"room"` // bytes that the view may hold in memory
	Argv    []string `json:"argv"`
	Env     []string `json:"env,omitempty"`
	Changes []Change `json:"changes"`
}

// Run runs the program. An error means that it could not be run; a program that
// ran and failed is a result. The executable of the calling program must begin
// with a call of Reexec.
func (r *Root) Run(ctx context.Context, b Box) (*BoxResult, error) {
	if len(b.Argv) == 0 || !strings.HasPrefix(b.Argv[0], "/") {
		return nil, fmt.Errorf("cannot run in jail %s: no absolute path given", r.Path())
	}
	if b.Timeout == 0 {
		b.Timeout = boxTimeout
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	// The box ends with the thread that started it (Pdeathsig), so that thread is
	// kept: a goroutine that ends its thread might get it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stage := b.Stage
	if stage == nil {
		stage = r.dir
	}
	room := roomFor(stage, b.Changes)
	spec, err := json.Marshal(boxSpec{Root: r.path, Room: room, Argv: b.Argv, Env: b.Env, Changes: b.Changes})
	if err != nil {
		return nil, err
	}
	specR, specW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	defer specR.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		specW.Close()
		return nil, fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	defer reportR.Close()
	out := &capped{limit: boxOutput, flood: func() { stop(limitError(fmt.Sprintf("more than %d MiB of output", boxFlood>>20))) }}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{boxName}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{r.dir, stage, specR, reportW}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     true,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	}
	group := newCgroup(boxMemory + room)
	defer group.remove()
	err = cmd.Start()
	specR.Close()
	reportW.Close()
	if err != nil {
		specW.Close()
		return nil, fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	group.add(cmd.Process.Pid) // before it has read what to run
	go func() {
		_, _ = specW.Write(spec)
		specW.Close()
	}()
	report, err := await(ctx, cmd, reportR)
	res := &BoxResult{Argv: b.Argv, Output: out.bytes()}
	if errors.Is(err, errStays) {
		return nil, fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	res.Exit = cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		res.Exit = 128 + int(ws.Signal())
	}
	var why limitError
	if cause := context.Cause(ctx); errors.As(cause, &why) {
		res.Exit, res.Ended = 128+int(unix.SIGKILL), string(why)
		return res, nil
	} else if cause != nil {
		res.TimedOut = errors.Is(ctx.Err(), context.DeadlineExceeded)
		if !res.TimedOut {
			return nil, ctx.Err()
		}
		return res, nil
	}
	if text, limited := bytes.CutPrefix(report, []byte(boxLimited)); limited {
		res.Exit, res.Ended = 128+int(unix.SIGKILL), string(text)
		return res, nil
	}
	if len(report) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoSandbox, report)
	}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	return res, nil
}

// limitError is why a box is ended early.
type limitError string

func (e limitError) Error() string { return string(e) }

var errStays = errors.New("a process of it waits for a disk or a network file system, and no signal ends it")

// await waits for the end of the box and returns what it has reported. Not longer
// than it may take: a process that is stuck in the kernel keeps process 1 from
// ending, and is left behind.
func await(ctx context.Context, cmd *exec.Cmd, reportR *os.File) ([]byte, error) {
	type end struct {
		report []byte
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		report, _ := io.ReadAll(io.LimitReader(reportR, 4096))
		ended <- end{report, cmd.Wait()}
	}()
	var over <-chan time.Time
	done := ctx.Done()
	for {
		select {
		case e := <-ended:
			return e.report, e.err
		case <-done:
			done, over = nil, time.After(boxGrace)
		case <-over:
			return nil, errStays
		}
	}
}

// capped keeps the first bytes of an output and swallows the rest. When it is a
// flood it says so, once.
type capped struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	limit int
	total int
	flood func()
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := c.limit - c.buf.Len(); room > 0 {
		c.buf.Write(p[:min(room, len(p))])
	}
	if c.total += len(p); c.total > boxFlood && c.flood != nil {
		c.flood()
		c.flood = nil
	}
	return len(p), nil
}

func (c *capped) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.buf.Bytes())
}
