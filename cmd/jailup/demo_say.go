package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/ui"
)

// narrator tells the demo's story: as text while it happens, or, where lines of
// JSON or nothing but failures are wanted, as notices of the run.
type narrator struct {
	out    io.Writer // nil: notices only
	bold   bool      // headings, on a terminal
	events *event.Stream

	label string // of the line that grows, "" for none
	line  strings.Builder
	width int
}

const (
	narrow     = 78 // columns of a line that grows
	labelWidth = 12
)

// act begins a part of the story.
func (n *narrator) act(number int, title string) {
	n.end()
	title = fmt.Sprintf("%d. %s", number, title)
	if n.out == nil {
		n.events.Notice(event.Info, title, "")
		return
	}
	if n.bold {
		title = "\x1b[1m" + title + "\x1b[0m"
	}
	fmt.Fprintf(n.out, "\n%s\n", title)
}

// say tells one line. What packages, jails and servers wrote is cleaned here.
func (n *narrator) say(format string, args ...any) {
	n.end()
	n.write(event.Clean(fmt.Sprintf(format, args...), 600))
}

// fact tells one line with a name before it.
func (n *narrator) fact(label, format string, args ...any) {
	n.say("%s%s", column(label), fmt.Sprintf(format, args...))
}

func column(label string) string { return fmt.Sprintf("%-*s", labelWidth, label) }

func (n *narrator) write(text string) {
	if n.out == nil {
		n.events.Notice(event.Info, strings.Join(strings.Fields(text), " "), "")
		return
	}
	fmt.Fprintf(n.out, "   %s\n", text)
}

// part adds to the line that grows; another label begins another line.
func (n *narrator) part(label, text string) {
	text = event.Clean(text, 100)
	switch {
	case n.label != label:
		n.end()
		n.label = label
		n.grow(column(label) + text)
	case n.out != nil && n.width+len(text)+2 > narrow:
		n.grow(",")
		n.end()
		n.label = label
		n.grow(column("") + text)
	default:
		n.grow(", " + text)
	}
}

func (n *narrator) grow(text string) {
	if n.out != nil && n.width == 0 {
		fmt.Fprint(n.out, "   ")
	}
	if n.out != nil {
		fmt.Fprint(n.out, text)
	} else {
		n.line.WriteString(text)
	}
	n.width += len(text)
}

// end ends the line that grows.
func (n *narrator) end() {
	if n.label == "" {
		return
	}
	if n.out != nil {
		fmt.Fprintln(n.out)
	} else {
		n.write(n.line.String())
	}
	n.line.Reset()
	n.label, n.width = "", 0
}

// runTeller shows the events of one run while they come: what was done while the
// server answered and while it was down, what failed, what was undone.
type runTeller struct {
	n      *narrator
	id     string
	create bool // there is no server yet
	down   bool
	undone []string
	failed map[string]event.Check // the checks that were not well, by name
	last   string                 // the step that began last
	since  time.Time              // when
}

func (n *narrator) run() *runTeller { return &runTeller{n: n, failed: map[string]event.Check{}} }

func (t *runTeller) tell(e event.Event) {
	switch e.Kind {
	case event.KindRunStart:
		t.id = e.Run
		t.create = e.Start != nil && e.Start.Verb == "create"
	case event.KindStepStart:
		t.last, t.since = e.Step, e.Time
		if e.Step == "stop" {
			t.down = true
		}
	case event.KindStepDone:
		label := "it answers:"
		switch {
		case t.create:
			label = "steps:"
		case t.down:
			label = "it is down:"
		}
		if e.Step == "start" {
			t.down = false
		}
		t.n.part(label, e.Step+" "+took(e.Took))
	case event.KindStepUndo:
		t.undone = append(t.undone, e.Step)
		if len(t.undone) == 1 {
			t.n.fact("FAILS:", "%s, after %s: %s", e.Step, took(e.Time.Sub(t.since)), e.Message)
		}
		t.n.part("goes back:", e.Step)
	case event.KindCheck:
		if e.Check != nil && e.Check.Status == event.CheckFailed {
			if _, told := t.failed[e.Check.Name]; !told {
				t.n.fact("check:", "%s%s", kindOf(e.Check.Name), e.Check.Detail)
			}
			t.failed[e.Check.Name] = *e.Check
		}
	case event.KindNotice:
		if e.Level == event.Warning {
			t.n.fact("warning:", "%s", e.Message)
		}
	}
}

// kindOf is what to say of a check that has the words of another one.
func kindOf(check string) string {
	if strings.HasPrefix(check, "php page ") {
		return "PHP: "
	}
	return ""
}

func took(d time.Duration) string { return ui.Duration(d.Round(time.Millisecond)) }
