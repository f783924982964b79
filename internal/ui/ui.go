// Package ui shows the events of a run: on a terminal, as plain lines where
// there is none, as JSON lines, or not at all until something fails. Only the
// command line knows it; results go to standard output, talk to standard error.
package ui

import (
	"io"
	"sync"
	"time"

	"github.com/jailup/jailup/internal/event"
)

// The values of Options.Output.
const (
	Text = "text"
	JSON = "json"
)

// Options say how to show a run. Stdout and Stderr must be set; the zero value
// of all else works.
type Options struct {
	Output  string // Text (also "") or JSON
	Quiet   bool   // with Text: nothing on success, the whole story on failure
	Verbose bool
	NoColor bool

	Stdout, Stderr                     io.Writer
	StdoutIsTerminal, StderrIsTerminal bool

	Width  func() int                        // of the terminal in columns; nil, or a result below 1: 80
	Getenv func(name string) string          // for TERM, NO_COLOR and the locale; nil: none is set
	Now    func() time.Time                  // nil: time.Now
	tick   func() (<-chan time.Time, func()) // for tests
}

// UI shows events. It is an event.Sink that never blocks and never fails: a
// reader that has gone (EPIPE), a full disk under a log or a terminal that was
// stopped with Ctrl-S must not hold up a run whose server is down.
type UI struct {
	mu      sync.Mutex
	queue   []event.Event
	closing bool
	wake    chan struct{}
	done    chan struct{}
}

// renderer shows events one by one. Its methods are called by one goroutine.
type renderer interface {
	emit(event.Event)
	tick()  // time has passed
	close() // no more events will come
}

// most bounds the events that wait for a terminal that does not take them; as
// many again may be on their way to it. What is told beyond that is lost, but
// for the end of the run.
const most = 4096

// frame is the time between two drawings of the line of the step under way.
const frame = 200 * time.Millisecond

// New returns a UI that shows what it is told, until Close.
//
// With a terminal on standard error (and a TERM that is not dumb) the step under
// way has a line that is drawn again and again; without, each step is one line,
// with no control characters. Colours need a terminal, and are left out where
// NO_COLOR is set (no-color.org) or NoColor.
func New(o Options) *UI {
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.tick == nil {
		o.tick = func() (<-chan time.Time, func()) {
			t := time.NewTicker(frame)
			return t.C, t.Stop
		}
	}
	u := &UI{wake: make(chan struct{}, 1), done: make(chan struct{})}
	r, live := choose(o)
	go u.loop(r, live, o.tick)
	return u
}

// choose returns the renderer for o, and whether it wants to be told of time.
func choose(o Options) (r renderer, live bool) {
	out, errs := deaf{o.Stdout}, deaf{o.Stderr}
	if o.Output == JSON {
		return &jsonLines{sink: event.JSONLines(out), errs: errs}, false
	}
	if o.Quiet {
		return &quiet{text: newText(errs, errs, plainStyle(), plainStyle(), o)}, false
	}
	able := o.Getenv("TERM") != "" && o.Getenv("TERM") != "dumb"
	outStyle, errStyle := plainStyle(), plainStyle()
	if able && o.StdoutIsTerminal {
		outStyle = terminalStyle(o)
	}
	if able && o.StderrIsTerminal {
		errStyle = terminalStyle(o)
	}
	t := newText(out, errs, outStyle, errStyle, o)
	return t, t.live
}

// Emit shows e, some time soon. After Close it does nothing.
func (u *UI) Emit(e event.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closing {
		return
	}
	last := len(u.queue) - 1
	switch {
	case last >= 0 && sameProgress(u.queue[last], e):
		u.queue[last] = e
	case len(u.queue) < most || e.Kind == event.KindRunDone:
		u.queue = append(u.queue, e)
	}
	u.poke()
}

// Close waits until all is shown that was told. It may be called again.
//
// Here, at last, a reader that is slow is waited for: the run is over, and the
// lock should be free by now.
func (u *UI) Close() {
	u.mu.Lock()
	u.closing = true
	u.poke()
	u.mu.Unlock()
	<-u.done
}

func (u *UI) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

func (u *UI) loop(r renderer, live bool, tick func() (<-chan time.Time, func())) {
	defer close(u.done)
	broken := false
	// A bug in drawing must not end the program while a server is down.
	safely := func(f func()) {
		defer func() {
			if recover() != nil {
				broken = true
			}
		}()
		if !broken {
			f()
		}
	}
	var ticks <-chan time.Time
	if live {
		c, stop := tick()
		defer stop()
		ticks = c
	}
	for {
		select {
		case <-u.wake:
		case <-ticks:
			safely(r.tick)
		}
		u.mu.Lock()
		events, closing := u.queue, u.closing
		u.queue = nil
		u.mu.Unlock()
		for _, e := range events {
			safely(func() { r.emit(e) })
		}
		if closing {
			safely(r.close)
			return
		}
	}
}

func sameProgress(a, b event.Event) bool {
	return a.Kind == event.KindProgress && b.Kind == event.KindProgress &&
		a.Progress != nil && b.Progress != nil && a.Progress.What == b.Progress.What
}

// deaf writes as far as that goes, and does not hear of errors.
type deaf struct{ w io.Writer }

func (d deaf) Write(p []byte) (int, error) {
	_, _ = d.w.Write(p)
	return len(p), nil
}
