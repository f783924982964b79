// Command jailup upgrades chrooted web servers as one safe command.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/steps"
)

func main() {
	jail.Reexec()
	wall.Resume()
	// What cron, CI or an administrator's shell left open is nothing to programs
	// of a jail, nor to the guardian.
	if err := jail.CloseInherited(); err != nil {
		fmt.Fprintln(os.Stderr, "jailup: cannot keep descriptors back:", err)
		os.Exit(exitFailed)
	}
	// An upgrade piped into head must not die half-way.
	// Nor may one that writes more than a limit of its caller lets it: that is an
	// error of the write (EFBIG), and not an end.
	signal.Ignore(unix.SIGPIPE, unix.SIGXFSZ)
	// An index of 60,000 packages is read and dropped: collect it in time.
	debug.SetMemoryLimit(100 << 20)
	ctx, heed := interruptible(context.Background())
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, quiet: heed.quiet, hear: heed.begin}
	code := a.execute(ctx, os.Args[1:])
	heed.stop()
	os.Exit(code)
}

// heed listens to the signals that ask for an end.
type heed struct {
	cancel  context.CancelCauseFunc
	signals chan os.Signal
	ended   chan struct{} // closed when nobody listens any more
	over    chan struct{} // closed to end the listening
}

// interruptible is cancelled by the first signal that asks for an end. A second
// one ends the program at once: the journal and the guardian make that safe.
func interruptible(parent context.Context) (context.Context, *heed) {
	ctx, cancel := context.WithCancelCause(parent)
	h := &heed{cancel: cancel}
	h.begin()
	return ctx, h
}

// begin begins to listen; once, or after quiet.
func (h *heed) begin() {
	h.signals, h.ended, h.over = make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signals, ended, over := h.signals, h.ended, h.over
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		defer close(ended)
		select {
		case <-signals:
			signal.Stop(signals)
			h.cancel(steps.ErrInterrupted)
		case <-over:
		}
	}()
}

// quiet gives the signals their own effect back. It returns an error where one has
// come before.
func (h *heed) quiet() error {
	signal.Stop(h.signals) // what was sent before is in the channel, or was heard
	close(h.over)
	<-h.ended
	select {
	case <-h.signals:
		h.cancel(steps.ErrInterrupted)
		return steps.ErrInterrupted
	default:
		return nil
	}
}

// stop ends it all.
func (h *heed) stop() {
	signal.Stop(h.signals)
	h.cancel(nil)
}
