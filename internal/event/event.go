// Package event is the one stream of events that a run of jailup tells: what it
// begins, what it has done, what it found. No step prints; renderers (a
// terminal, plain lines, JSON lines, the run's own record) are sinks of the
// stream. The journal is the truth, events are the story.
//
// The package imports nothing of the project, so that everything may speak
// through it.
package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Schema is the number that every event carries. Fields are only ever added to
// it; were one to change its meaning, the number would change.
const Schema = 1

// Kind tells what an event is about.
type Kind string

// The kinds of events. A reader passes over a kind that it does not know.
const (
	KindRunStart  Kind = "run.start"  // Event.Start is set
	KindStepStart Kind = "step.start" // Event.Step begins
	KindStepDone  Kind = "step.done"  // Event.Step is done, after Event.Took
	KindStepUndo  Kind = "step.undo"  // Event.Step begins to be undone; Message says why, if it is the one that failed
	KindStepSkip  Kind = "step.skip"  // Event.Step need not be done; Message says why
	KindProgress  Kind = "progress"   // Event.Progress is set
	KindCheck     Kind = "check"      // Event.Check is set
	KindNotice    Kind = "notice"     // Event.Level, Message and Hint are set
	KindRunDone   Kind = "run.done"   // Event.Done is set; always the last one of a run
)

// The levels of a notice.
const (
	Info    = "info"
	Warning = "warning"
)

// The states of a check.
const (
	CheckOK      = "ok"      // it passed
	CheckFailed  = "failed"  // it failed, and passed before the run
	CheckBefore  = "before"  // it failed, as it did before the run: reported, not blamed
	CheckSkipped = "skipped" // it could not be made here; the detail says why
)

// The units of a progress.
const (
	Bytes = "bytes"
	Files = "files"
)

// The ways in which a run ends.
const (
	Upgraded    = "upgraded"
	Current     = "current" // there was nothing to do
	Created     = "created"
	Planned     = "planned"
	Recovered   = "recovered"
	Checked     = "checked"
	RolledBack  = "rolled-back"
	Failed      = "failed"
	Stuck       = "stuck"
	Skipped     = "skipped"
	Stale       = "stale"
	Interrupted = "interrupted"
)

// Event is one event. Which fields hold something depends on Kind.
type Event struct {
	Schema int       // Schema
	Time   time.Time // UTC, to the millisecond
	Run    string    // the run's ID
	Kind   Kind

	Step    string        // the step that it belongs to, "" outside of any
	Level   string        // of a notice: Info or Warning
	Message string        // may have several lines, divided by "\n"; nothing else in it controls a terminal
	Hint    string        // the next command to type, "" for none
	Took    time.Duration // of a step that is done

	Check    *Check
	Progress *Progress
	Start    *RunStart
	Done     *RunDone
}

// Check is what one health check found.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // CheckOK, CheckFailed, CheckBefore or CheckSkipped
	Detail string `json:"detail,omitempty"`
}

// Progress is how far something long has come.
type Progress struct {
	What  string `json:"what"`
	Unit  string `json:"unit"` // Bytes or Files
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0 where it is not known
}

// RunStart is what a run sets out to do.
type RunStart struct {
	Verb    string `json:"verb"`
	Server  string `json:"server"`
	Jail    string `json:"jail"`
	Version string `json:"version"` // of jailup
}

// RunDone is how a run ended. All its fields are in the JSON of every run.done,
// zero where they are not known, but for Evidence and Verdict.
type RunDone struct {
	Result       string            `json:"result"` // Upgraded, Current, ...
	Exit         int               `json:"exit"`   // the exit status
	Server       string            `json:"server"`
	Jail         string            `json:"jail"`
	From         map[string]string `json:"from"`          // package → version before; {} for nil
	To           map[string]string `json:"to"`            // package → version of the target; {} for nil
	Snapshot     string            `json:"snapshot"`      // its name
	DowntimeMS   *int64            `json:"downtime_ms"`   // longest time in which no probe got an answer; nil where nothing listens
	ChangedFiles int               `json:"changed_files"` // in the jail
	DurationMS   int64             `json:"duration_ms"`   // of the run; 0 lets RunDone of Stream fill it in
	Error        string            `json:"error"`         // cause and state, "" for none
	Hint         string            `json:"hint"`          // the next command to type, "" for none
	Evidence     string            `json:"evidence,omitempty"`
	Nothing      bool              `json:"nothing,omitempty"` // a recovery found no run that was cut off
	Verdict      string            `json:"verdict,omitempty"` // of the checks: healthy, unhealthy or inconclusive; "" where none were made
}

// head and the two bodies are the JSON form of an event. A run.done has fields
// of its own at the top, which is why there are two.
type head struct {
	Schema int    `json:"schema"`
	Time   string `json:"time"`
	Run    string `json:"run"`
	Kind   Kind   `json:"kind"`
}

type body struct {
	Step       string    `json:"step,omitempty"`
	Level      string    `json:"level,omitempty"`
	Message    string    `json:"message,omitempty"`
	Hint       string    `json:"hint,omitempty"`
	DurationMS *int64    `json:"duration_ms,omitempty"`
	Check      *Check    `json:"check,omitempty"`
	Progress   *Progress `json:"progress,omitempty"`
	*RunStart
}

const timeFormat = "2006-01-02T15:04:05.000Z07:00" // RFC 3339

// MarshalJSON gives the event as one JSON object, on one line.
func (e Event) MarshalJSON() ([]byte, error) {
	h := head{e.Schema, e.Time.UTC().Format(timeFormat), e.Run, e.Kind}
	if e.Kind == KindRunDone {
		var d RunDone
		if e.Done != nil {
			d = *e.Done
		}
		if d.From == nil {
			d.From = map[string]string{}
		}
		if d.To == nil {
			d.To = map[string]string{}
		}
		return compact(struct {
			head
			RunDone
		}{h, d})
	}
	b := body{Step: e.Step, Level: e.Level, Message: e.Message, Hint: e.Hint, Check: e.Check, Progress: e.Progress}
	switch e.Kind {
	case KindStepDone:
		ms := e.Took.Milliseconds()
		b.DurationMS = &ms
	case KindRunStart:
		b.RunStart = e.Start
	}
	return compact(struct {
		head
		body
	}{h, b})
}

// UnmarshalJSON reads an event back, as from a run's record. Fields that it does
// not know are passed over.
func (e *Event) UnmarshalJSON(data []byte) error {
	var h head
	if err := json.Unmarshal(data, &h); err != nil {
		return fmt.Errorf("cannot read event: %v", err)
	}
	at, err := time.Parse(time.RFC3339, h.Time)
	if err != nil {
		return fmt.Errorf("cannot read event: bad time %q", Clean(h.Time, 40))
	}
	*e = Event{Schema: h.Schema, Time: at.UTC(), Run: h.Run, Kind: h.Kind}
	if h.Kind == KindRunDone {
		e.Done = new(RunDone)
		err = json.Unmarshal(data, e.Done)
	} else {
		var b body
		if h.Kind == KindRunStart {
			b.RunStart = new(RunStart)
		}
		err = json.Unmarshal(data, &b)
		e.Step, e.Level, e.Message, e.Hint = b.Step, b.Level, b.Message, b.Hint
		e.Check, e.Progress, e.Start = b.Check, b.Progress, b.RunStart
		if h.Kind != KindRunStart {
			e.Start = nil
		}
		if b.DurationMS != nil {
			e.Took = time.Duration(*b.DurationMS) * time.Millisecond
		}
	}
	if err != nil {
		return fmt.Errorf("cannot read event: %v", err)
	}
	return nil
}

// compact is json.Marshal that leaves <, > and & readable: no browser reads this.
func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
