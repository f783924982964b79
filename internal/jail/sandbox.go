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
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Box is one run of a program of the jail on a throw-away view: an overlay over
// the jail with its writes in memory, in mount, pid, network, ipc and uts
// namespaces of its own. Nothing of it reaches the jail or the network. Every
// address can be bound there and every host name resolves (to an address of
// RFC 5737), so that a test of a configuration finds what it names.
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

// Change is one difference of the view from the jail: a file of the stage, a
// link, a directory, or (the rest empty) something that is not there.
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
}

const (
	boxName      = "jailup-box"
	boxOutput    = 256 << 10
	boxTimeout   = 30 * time.Second
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
	ctx, cancel := context.WithTimeout(ctx, b.Timeout)
	defer cancel()
	spec, err := json.Marshal(boxSpec{Root: r.path, Argv: b.Argv, Env: b.Env, Changes: b.Changes})
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
	stage := b.Stage
	if stage == nil {
		stage = r.dir
	}
	out := &capped{limit: boxOutput}
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
	group := newCgroup()
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
	report, _ := io.ReadAll(io.LimitReader(reportR, 4096))
	err = cmd.Wait()
	res := &BoxResult{Argv: b.Argv, Output: out.bytes(), Exit: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		res.TimedOut = errors.Is(ctx.Err(), context.DeadlineExceeded)
		if !res.TimedOut {
			return nil, ctx.Err()
		}
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

// capped keeps the first bytes of an output and swallows the rest.
type capped struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	limit int
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := c.limit - c.buf.Len(); room > 0 {
		c.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (c *capped) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.buf.Bytes())
}
