// Command jailup upgrades chrooted web servers as one safe command.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/steps"
)

func main() {
	jail.Reexec()
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
	ctx, stop := interruptible(context.Background())
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// interruptible is cancelled by the first signal that asks for an end. A second
// one ends the program at once: the journal and the guardian make that safe.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	asked := []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP}
	signal.Notify(signals, asked...)
	go func() {
		select {
		case <-signals:
			signal.Reset(asked...)
			cancel(steps.ErrInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// run is the program without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv}
	return a.execute(ctx, args)
}
