package ui

import (
	"io"

	"github.com/jailup/jailup/internal/event"
)

// jsonLines writes events to standard output, and the error of a run that failed
// to standard error as well, for whoever reads only that.
type jsonLines struct {
	sink event.Sink
	errs io.Writer
}

func (j *jsonLines) emit(e event.Event) {
	j.sink.Emit(e)
	if e.Kind == event.KindRunDone && e.Done != nil && e.Done.Exit != 0 {
		_, _ = io.WriteString(j.errs, failure(plainStyle(), e.Done))
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
