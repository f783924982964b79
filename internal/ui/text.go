package ui

import (
	"bytes"
	"io"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
)

// text shows a run to a person: one line a step. With a style that is live, the
// line of the step under way is drawn again as time passes, and left behind in
// its last form:
//
//	        step.start            step.done             ✓
//	idle ──────────────▸ doing ───────────────▸ idle
//	  ▴                    │ step.undo          ✗  (and run.done that failed)
//	  │     step.undo      ▾
//	  └──────────────── undoing ◂──┐
//	    run.done  ↶        └───────┘ step.undo  ↶
//
// Without one, the line is written when the step has ended.
type text struct {
	out, errs       io.Writer
	outStyle, style style // of out, of errs
	live, verbose   bool
	columns         func() int
	now             func() time.Time
	buf             bytes.Buffer // for errs
	step            string       // under way, "" for none
	undoing         bool
	why             string // the step is undone
	since           time.Time
	shown           bool // the line of the step is on the screen
	bar             bar
	checks          map[string]string // the last state of each, so that only news are told
	told            time.Time         // of the last line about progress
	said            string            // with the end of the last step
}

// nameWidth is the room for the name of a step.
const nameWidth = 9

// progressNote is the least time between two lines about progress where there is
// no terminal: only --verbose asks for them.
const progressNote = 10 * time.Second

func newText(out, errs io.Writer, outStyle, errStyle style, o Options) *text {
	columns := func() int {
		if o.Width != nil {
			if n := o.Width(); n > 0 {
				return n
			}
		}
		return 80
	}
	return &text{out: out, errs: errs, outStyle: outStyle, style: errStyle, live: errStyle.live, verbose: o.Verbose,
		columns: columns, now: o.Now, checks: make(map[string]string)}
}

func (t *text) emit(e event.Event) {
	defer t.flush()
	switch e.Kind {
	case event.KindRunStart:
		if e.Start == nil || !t.live && !t.verbose {
			break
		}
		line := e.Start.Verb + " " + subject(e.Start.Server, e.Start.Jail)
		if t.verbose {
			line += " (run " + e.Run + ")"
		}
		t.say(line, bold)
	case event.KindStepStart:
		t.begin(e, false)
		if t.verbose && !t.live {
			t.say(t.style.doing+t.style.clean(e.Step), "")
		}
	case event.KindStepDone:
		t.end(t.style.ok, green, e.Step, e.Took, e.Message)
		t.said = e.Message
	case event.KindStepSkip:
		t.wipe()
		t.step = ""
		t.line(t.style.skip, yellow, e.Step, "", e.Message)
	case event.KindStepUndo:
		why := e.Message
		if t.step != "" && !t.undoing {
			t.end(t.style.fail, red, t.step, e.Time.Sub(t.since), why)
			why = ""
		}
		t.begin(e, true)
		t.why = why
	case event.KindProgress:
		t.progress(e)
	case event.KindCheck:
		t.check(e)
	case event.KindNotice:
		t.notice(e)
	case event.KindRunDone:
		t.over(e)
	}
	t.draw()
}

// begin makes e's step the one under way.
func (t *text) begin(e event.Event, undo bool) {
	t.finish(e.Time)
	t.step, t.undoing, t.why, t.since = e.Step, undo, "", e.Time
	t.bar = bar{}
	clear(t.checks)
}

// finish leaves the line of an undo that was under way, which nothing but the
// next event ends.
func (t *text) finish(at time.Time) {
	if t.step != "" && t.undoing {
		t.end(t.style.undo, yellow, t.step, at.Sub(t.since), t.why)
	}
	t.wipe()
	t.step = ""
}

// end leaves the line of a step in its last form.
func (t *text) end(mark, color, step string, took time.Duration, detail string) {
	t.wipe()
	t.step = ""
	t.line(mark, color, step, Duration(took), detail)
}

// over ends the run: talk about what went wrong, then the result.
func (t *text) over(e event.Event) {
	d := e.Done
	if d == nil {
		d = new(event.RunDone)
	}
	if t.step != "" && !t.undoing {
		if d.Exit == 0 {
			t.end(t.style.ok, green, t.step, e.Time.Sub(t.since), "")
		} else {
			t.end(t.style.fail, red, t.step, e.Time.Sub(t.since), "")
		}
	}
	t.finish(e.Time)
	t.buf.WriteString(failure(t.style, d))
	t.flush() // standard output may be the same terminal
	_, _ = io.WriteString(t.out, summary(t.outStyle, e.Run, d, t.verbose))
}

func (t *text) check(e event.Event) {
	c := e.Check
	if c == nil {
		return
	}
	state := c.Status + "\n" + c.Detail
	if t.checks[c.Name] == state || c.Status == event.CheckOK && t.step != "" && !t.verbose && t.checks[c.Name] == "" {
		return
	}
	t.checks[c.Name] = state
	mark, color := t.style.ok, green
	switch c.Status {
	case event.CheckOK:
	case event.CheckSkipped:
		mark, color = t.style.skip, yellow
	case event.CheckBefore:
		mark, color = t.style.skip, yellow
		c = &event.Check{Name: c.Name, Status: c.Status, Detail: "was so before: " + c.Detail}
	default:
		mark, color = t.style.fail, red
	}
	t.wipe()
	if t.step != "" {
		mark = "  " + mark
	}
	t.line(mark, color, c.Name, "", c.Detail)
}

func (t *text) notice(e event.Event) {
	if e.Level != event.Warning && e.Hint == "" && e.Message != "" && e.Message == t.said {
		return // the line of the step says so
	}
	t.wipe()
	lines := strings.Split(e.Message, "\n")
	first := t.style.clean(lines[0])
	if e.Level == event.Warning {
		first = t.style.paint(yellow, "warning:") + " " + first
	}
	t.buf.WriteString(first + "\n" + t.rest(lines[1:]) + hint(t.style, e.Hint))
}

func (t *text) progress(e event.Event) {
	if e.Progress == nil {
		return
	}
	t.bar.add(*e.Progress, e.Time)
	if !t.live && t.verbose && e.Time.Sub(t.told) >= progressNote {
		if first := t.told.IsZero(); !first {
			t.say(t.style.doing+pad(t.style.clean(e.Step), nameWidth)+"  "+t.bar.numbers(t.style, e.Time), "")
		}
		t.told = e.Time
	}
}

// line writes the one line of a step. On a terminal it is cut to one.
func (t *text) line(mark, color, name, took, detail string) {
	lines := strings.Split(detail, "\n")
	head := mark + pad(t.style.clean(name), nameWidth)
	tail := ""
	if took != "" {
		tail = "  " + pad(took, 8)
	}
	if d := t.style.clean(lines[0]); d != "" {
		tail += "  " + d
	}
	tail = strings.TrimRight(tail, " ")
	if t.live && !t.verbose {
		tail = fit(tail, t.columns()-1-width(head), t.style.cutoff)
	}
	if tail == "" {
		head = strings.TrimRight(head, " ")
	}
	painted := t.style.paint(color, mark) + strings.TrimPrefix(head, mark)
	t.buf.WriteString(painted + tail + "\n" + t.rest(lines[1:]))
}

// rest returns the further lines of a message, set in.
func (t *text) rest(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(strings.TrimRight("    "+t.style.clean(line), " ") + "\n")
	}
	return b.String()
}

func (t *text) say(line, color string) {
	t.wipe()
	t.buf.WriteString(t.style.paint(color, t.style.clean(line)) + "\n")
}

// wipe takes the line of the step off the screen.
func (t *text) wipe() {
	if t.shown {
		t.buf.WriteString("\r\x1b[K")
		t.shown = false
	}
}

// draw puts the line of the step on the screen, over the one that is there. It
// stays one column short of the edge, where terminals differ.
func (t *text) draw() {
	if !t.live || t.step == "" {
		return
	}
	mark, color := t.style.doing, bold
	if t.undoing {
		mark, color = t.style.undo, yellow
	}
	columns, now := t.columns()-1, t.now()
	line := fit(mark+pad(t.style.clean(t.step), nameWidth)+"  "+pad(Duration(now.Sub(t.since)), 8), columns, t.style.cutoff)
	line += t.bar.draw(t.style, now, t.step, columns-width(line))
	line = strings.TrimRight(line, " ")
	if rest, ok := strings.CutPrefix(line, mark); ok {
		line = t.style.paint(color, mark) + rest
	}
	t.buf.WriteString("\r" + line + "\x1b[K")
	t.shown = true
}

func (t *text) tick() {
	t.draw()
	t.flush()
}

func (t *text) close() {
	t.wipe()
	t.flush()
}

// flush shows what one event gave with one write, so that nothing flickers and
// no line of another program comes in between.
func (t *text) flush() {
	if t.buf.Len() > 0 {
		_, _ = t.errs.Write(t.buf.Bytes())
		t.buf.Reset()
	}
}
