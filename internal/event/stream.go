package event

import (
	"fmt"
	"sync"
	"time"
)

// Sink takes events. A Stream calls it with one event at a time, in order; it
// must not call the Stream back, and must not change what the event points to.
type Sink interface {
	Emit(Event)
}

// backlog bounds the events that a late sink is told.
const backlog = 512

// progressEvery is the least time between two events of one progress.
const progressEvery = 100 * time.Millisecond

// Stream makes events out of what a run tells and hands them to its sinks. It
// cleans all text on the way (see Clean), so that no sink ever sees a control
// character of a jail, a mirror or a package.
//
// It may be used by several goroutines at once. A nil *Stream is silent. After
// RunDone it is silent as well: run.done is the last event of a run.
type Stream struct {
	mu       sync.Mutex
	run      string
	now      func() time.Time
	sinks    []Sink
	past     []Event // for sinks that come later, without progress
	step     string
	started  time.Time
	ended    bool
	progress map[string]*pace
}

type pace struct {
	last     time.Time
	finished bool
}

// New returns a stream for the run with the given ID. A nil now means time.Now.
func New(run string, now func() time.Time, sinks ...Sink) *Stream {
	if now == nil {
		now = time.Now
	}
	return &Stream{run: Clean(run, maxName), now: now, sinks: append([]Sink(nil), sinks...),
		started: now(), progress: make(map[string]*pace)}
}

// Attach adds a sink while the run is under way, such as the run's own record,
// whose folder is made only once the lock is held. It is told first what the
// others were told before, progress left out.
func (s *Stream) Attach(sink Sink) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.past {
		if tell(sink, e) != nil {
			return
		}
	}
	s.sinks = append(s.sinks, sink)
}

// Run returns the ID of the run, "" for a nil stream.
func (s *Stream) Run() string {
	if s == nil {
		return ""
	}
	return s.run
}

// RunStart tells what the run sets out to do.
func (s *Stream) RunStart(start RunStart) {
	s.emit(Event{Kind: KindRunStart, Start: &start})
}

// RunDone tells how the run ended, and ends the stream: what comes after it, a
// second RunDone included, is dropped. A DurationMS of 0 is filled in with the
// time since New.
func (s *Stream) RunDone(done RunDone) {
	s.emit(Event{Kind: KindRunDone, Done: &done})
}

// StepStart tells that a step begins. What is told from here on belongs to it,
// until it is done or another one begins.
func (s *Stream) StepStart(name string) {
	s.emit(Event{Kind: KindStepStart, Step: name})
}

// StepDone tells that a step is done, how long it took, and in detail (may be
// empty) what came of it.
func (s *Stream) StepDone(name string, took time.Duration, detail string) {
	s.emit(Event{Kind: KindStepDone, Step: name, Took: took, Message: detail})
}

// StepUndo tells that a step begins to be undone. For the step that failed, why
// is its error; for those before it, why is empty.
func (s *Stream) StepUndo(name, why string) {
	s.emit(Event{Kind: KindStepUndo, Step: name, Message: why})
}

// StepSkip tells that a step need not be done, and why.
func (s *Stream) StepSkip(name, why string) {
	s.emit(Event{Kind: KindStepSkip, Step: name, Message: why})
}

// Progress tells how far something has come: done of total (0 where that is not
// known) in unit, Bytes or Files. It may be called as often as one likes: of one
// what, ten events a second are let through, and the one that completes it.
func (s *Stream) Progress(what, unit string, done, total int64) {
	s.emit(Event{Kind: KindProgress, Progress: &Progress{what, unit, done, total}})
}

// Check tells what a health check found: CheckOK, CheckFailed, CheckBefore or
// CheckSkipped.
func (s *Stream) Check(name, status, detail string) {
	s.emit(Event{Kind: KindCheck, Check: &Check{name, status, detail}})
}

// Notice tells something that the user should know: level is Info or Warning,
// text may have several lines, hint is the next command to type or "".
func (s *Stream) Notice(level, text, hint string) {
	s.emit(Event{Kind: KindNotice, Level: level, Message: text, Hint: hint})
}

// Emit passes on an event that was made elsewhere, such as one read from the
// record of another process. Its schema, time and run are set where they are
// zero. Stream is a Sink.
func (s *Stream) Emit(e Event) { s.emit(e) }

func (s *Stream) emit(e Event) {
	if s == nil {
		return
	}
	e = cleaned(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.ended || e.Kind == KindProgress && !s.due(e.Progress, now) {
		return
	}
	if e.Schema == 0 {
		e.Schema = Schema
	}
	if e.Time.IsZero() {
		e.Time = now
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	if e.Run == "" {
		e.Run = s.run
	}
	switch e.Kind {
	case KindStepStart, KindStepUndo:
		s.step = e.Step
		clear(s.progress)
	case KindStepDone, KindStepSkip:
		s.step = ""
	case KindRunDone:
		s.ended = true
		if e.Done.DurationMS == 0 {
			e.Done.DurationMS = max(now.Sub(s.started).Milliseconds(), 0)
		}
	default:
		if e.Step == "" {
			e.Step = s.step
		}
	}
	if e.Kind != KindProgress && len(s.past) < backlog {
		s.past = append(s.past, e)
	}
	s.tell(e)
}

// tell hands e to every sink. One that panics is never called again, and the
// others learn of it: the story may suffer from a broken renderer, the run not.
func (s *Stream) tell(e Event) {
	for i := 0; i < len(s.sinks); i++ {
		err := tell(s.sinks[i], e)
		if err == nil {
			continue
		}
		s.sinks = append(s.sinks[:i:i], s.sinks[i+1:]...)
		i--
		for _, sink := range s.sinks {
			_ = tell(sink, cleaned(Event{Schema: Schema, Time: e.Time, Run: e.Run, Kind: KindNotice, Level: Warning,
				Message: err.Error()}))
		}
	}
}

func tell(sink Sink, e Event) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot show events: %v", r)
		}
	}()
	sink.Emit(e)
	return nil
}

// due reports whether p may be told now, and notes that it was.
func (s *Stream) due(p *Progress, now time.Time) bool {
	if p == nil {
		return false
	}
	last, finished := s.progress[p.What], p.Total > 0 && p.Done >= p.Total
	switch {
	case last == nil:
		last = new(pace)
		s.progress[p.What] = last
	case finished && !last.finished:
	case finished && last.finished:
		return false
	case now.Sub(last.last) < progressEvery && !now.Before(last.last):
		return false
	}
	last.last, last.finished = now, finished
	return true
}
