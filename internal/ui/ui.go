// Package ui shows the events of a run: on a terminal, as plain lines where
// there is none, as JSON lines, or not at all until something fails. Only the
// command line knows it; results go to standard output, talk to standard error.
package ui

import (
	"io"
	"strings"
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
		return &quiet{text: newText(errs, errs, plainStyle, plainStyle, o)}, false
	}
	able := o.Getenv("TERM") != "" && o.Getenv("TERM") != "dumb"
	outStyle, errStyle := plainStyle, plainStyle
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

// jsonLines writes events to standard output, and the error of a run that failed
// to standard error as well, for whoever reads only that.
type jsonLines struct {
	sink event.Sink
	errs io.Writer
}

func (j *jsonLines) emit(e event.Event) {
	j.sink.Emit(e)
	if e.Kind == event.KindRunDone && e.Done != nil && e.Done.Exit != 0 {
		_, _ = io.WriteString(j.errs, failure(plainStyle, e.Done))
	}
}

func (*jsonLines) tick()  {}
func (*jsonLines) close() {}

// quiet keeps the story for itself, until it ends badly or not at all.
type quiet struct {
	text  *text
	story []event.Event
	ended bool
}

func (q *quiet) emit(e event.Event) {
	switch {
	case e.Kind == event.KindProgress:
		return
	case len(q.story) < most:
		q.story = append(q.story, e)
	case e.Kind == event.KindRunDone:
		q.story[most-1] = e
	}
	if e.Kind == event.KindRunDone {
		q.ended = true
		if e.Done != nil && e.Done.Exit != 0 {
			q.tell()
		}
	}
}

func (q *quiet) tell() {
	for _, e := range q.story {
		q.text.emit(e)
	}
	q.story = nil
}

func (*quiet) tick() {}

func (q *quiet) close() {
	if !q.ended && len(q.story) > 0 {
		q.tell()
		q.text.close()
	}
}

// style is how text looks: words or marks, colours or none.
type style struct {
	live   bool // the line of the step under way can be drawn again
	color  bool
	ascii  bool // no letters but those of ASCII can be shown
	ok     string
	fail   string
	skip   string
	undo   string
	doing  string
	arrow  string
	full   string
	empty  string
	cutoff string
}

// plainStyle is for logs and mails: words that one can search for.
var plainStyle = style{ok: "ok   ", fail: "FAIL ", skip: "skip ", undo: "undo ", doing: "...  ", arrow: "->", cutoff: "..."}

func terminalStyle(o Options) style {
	s := style{live: true, color: !o.NoColor && o.Getenv("NO_COLOR") == ""}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		locale := strings.ToLower(o.Getenv(name))
		if locale == "" {
			continue
		}
		s.ascii = !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
		break
	}
	if o.Getenv("LC_ALL")+o.Getenv("LC_CTYPE")+o.Getenv("LANG") == "" {
		s.ascii = true
	}
	if s.ascii {
		s.ok, s.fail, s.skip, s.undo, s.doing = "+ ", "x ", "- ", "< ", "> "
		s.arrow, s.full, s.empty, s.cutoff = "->", "#", ".", "..."
		return s
	}
	s.ok, s.fail, s.skip, s.undo, s.doing = "✓ ", "✗ ", "– ", "↶ ", "▸ "
	s.arrow, s.full, s.empty, s.cutoff = "→", "█", "░", "…"
	return s
}

// The colours: numbers of ECMA-48's SGR that every theme shows readably.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (s style) paint(color, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// clean makes text fit for this terminal, on one line.
func (s style) clean(text string) string {
	text = event.Clean(text, maxCell)
	if !s.ascii {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, strings.ReplaceAll(text, "…", "..."))
}
