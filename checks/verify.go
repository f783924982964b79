package checks

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Verify watches a server that was just started until it is well, and then for
// the soak. Before is the old server's baseline; the zero Report judges the
// server by itself.
//
// Emit, which may be nil, gets each check's result when it first passes
// (PhaseStart) and its last one (PhaseSoak, or PhaseStart where the start
// failed); it is called from one goroutine.
//
// The error is nil if the server is well, and wraps ErrInconclusive if too little
// could be seen to tell (Report.Verdict), unless the policy accepts that. If the
// context ends first, the error wraps its cause. The report is complete in every
// case.
func Verify(ctx context.Context, list []Check, before Report, p Policy, emit func(Result)) (Report, error) {
	if emit == nil {
		emit = func(Result) {}
	}
	if len(list) == 0 {
		return Report{Time: now()}, fmt.Errorf("cannot verify the server: there is no check")
	}
	w := &watch{policy: p.orDefault(), emit: emit, began: time.Now()}
	for _, c := range list {
		if s, ok := c.(stateful); ok {
			s.begin()
			defer s.end()
		}
		s := &checkState{check: c, result: Result{Name: c.Name(), Phase: PhaseStart}}
		if b, ok := before.Get(c.Name()); ok {
			s.before = &b
		}
		w.states = append(w.states, s)
	}

	looking, stop := context.WithCancel(ctx)
	looks := make(chan seen)
	slots := make(chan struct{}, maxAtOnce)
	var wait sync.WaitGroup
	for i, c := range list {
		wait.Go(func() { w.watch(looking, i, c, slots, looks) })
	}
	cause := w.decide(ctx, looks)
	stop()
	wait.Wait()
	return w.report(cause)
}

// seen is one look on its way to the verdict.
type seen struct {
	index int
	began time.Time
	Observation
}

// watch looks again and again.
func (w *watch) watch(ctx context.Context, index int, c Check, slots chan struct{}, looks chan<- seen) {
	pace := w.policy.pace(len(w.states))
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		o := look(ctx, c, w.policy.Timeout)
		<-slots
		if ctx.Err() != nil {
			return // cut off: says nothing about the server
		}
		select {
		case looks <- seen{index, began, o}:
		case <-ctx.Done():
			return
		}
		// A look that costs is taken more rarely.
		next := max(pace-time.Since(began), o.Took/2, pace/4)
		if o.Took > w.policy.Timeout/2 {
			next = pace / 4
		}
		if !sleep(ctx, next) {
			return
		}
	}
}

// watch is the state of one Verify. Only decide and what it calls touch it
// while looks are taken.
type watch struct {
	policy Policy
	emit   func(Result)
	states []*checkState
	began  time.Time
	soak   time.Time // begin of the soak, zero before
	wrong  time.Time // since when it answers, but wrongly
}

type checkState struct {
	check      Check
	before     *Result
	result     Result
	good, bad  int       // looks in a row
	up         time.Time // its first good look
	upLooks    int       // of the start, since then
	upFailed   int       // and that were wrong, not merely missing
	soakLooks  int
	soakFailed int
	clear      Result // the last one that was conclusive
	clearLooks int    // that were conclusive, in all
	soakClear  int    // and in the soak
	lastFail   string
	identity   string
	changes    int // of the identity, during the start
	absent     time.Time
	announced  bool
}

// decide takes looks until there is a verdict; the error is the cause.
func (w *watch) decide(ctx context.Context, looks <-chan seen) error {
	tick := time.NewTicker(min(w.policy.Period, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot verify the server: %w", context.Cause(ctx))
		case o := <-looks:
			if err := w.take(w.states[o.index], o); err != nil {
				return err
			}
		case <-tick.C:
		}
		if w.soak.IsZero() {
			if err := w.starting(); err != nil {
				return err
			}
		}
		if !w.soak.IsZero() && w.soaked() {
			return nil
		}
	}
}

// take enters one look.
func (w *watch) take(s *checkState, o seen) error {
	r := &s.result
	r.Observation = o.Observation
	r.Verdict, r.Detail = judge(s.before, o.Observation)
	r.Looks++
	inSoak := !w.soak.IsZero() && o.began.After(w.soak)
	if inSoak {
		s.soakLooks++
	}
	if r.Verdict != Inconclusive {
		s.clearLooks++
		if inSoak {
			s.soakClear++
		}
	}
	if err := w.same(s, o, inSoak); err != nil {
		return err
	}
	if r.Verdict == Healthy || r.Verdict == BrokenBefore {
		s.clear = *r
	}
	if w.soak.IsZero() && !s.up.IsZero() {
		s.upLooks++
		if r.Verdict == Unhealthy && !o.Pending {
			s.upFailed++
		}
	}
	if r.Verdict != Unhealthy {
		s.good++
		s.bad = 0
		if s.up.IsZero() && r.Verdict != Inconclusive {
			s.up = o.began
		}
		s.absent = time.Time{}
		if w.tooOften(s) {
			r.Verdict = Unhealthy
			r.Detail = fmt.Sprintf("%d of %d looks failed, the last: %s", s.soakFailed, s.soakLooks, s.lastFail)
			return w.failed(s)
		}
		return nil
	}
	r.Failed++
	s.good = 0
	s.bad++
	s.lastFail = r.Detail
	if inSoak {
		s.soakFailed++
	}
	if !o.Absent {
		s.absent = time.Time{}
	} else if s.absent.IsZero() {
		s.absent = o.began
	}
	switch {
	case o.Final,
		!s.absent.IsZero() && time.Since(s.absent) >= w.policy.Absent,
		inSoak && s.bad >= w.failAfter(s),
		w.tooOften(s):
		return w.failed(s)
	}
	return nil
}

// failAfter and failShare are the policy's, and more patient with what failed
// now and then before, too.
func (w *watch) failAfter(s *checkState) int {
	if s.unsteady() {
		return 2 * w.policy.FailAfter
	}
	return w.policy.FailAfter
}

func (w *watch) failShare(s *checkState) float64 {
	if s.unsteady() {
		return max(w.policy.FailShare, 0.3+float64(s.before.Failed)/float64(s.before.Looks))
	}
	return w.policy.FailShare
}

func (s *checkState) unsteady() bool {
	return s.before != nil && s.before.Failed > 0 && s.before.Observation.OK
}

// tooOften reports whether too many looks of the soak have failed; fewer than
// minShare tell nothing.
func (w *watch) tooOften(s *checkState) bool {
	return s.soakLooks >= minShare && float64(s.soakFailed) > w.failShare(s)*float64(s.soakLooks)
}

const minShare = 10

// same watches what must not change. While a server starts it may hand over
// from one process to the next once or twice, as daemons do.
func (w *watch) same(s *checkState, o seen, inSoak bool) error {
	if o.Identity == "" || o.Identity == s.identity {
		return nil
	}
	was := s.identity
	s.identity = o.Identity
	if was == "" {
		return nil
	}
	s.changes++
	s.good = 0
	if inSoak || s.changes > 2 {
		s.result.Failed++
		s.result.Verdict = Unhealthy
		s.result.Detail = fmt.Sprintf("it does not stay up: process %s was followed by %s",
			pidOf(was), pidOf(o.Identity))
		return w.failed(s)
	}
	return nil
}

// starting ends the start: with the soak, or with an error.
func (w *watch) starting() error {
	all, wrong := true, false
	var worst *checkState
	for _, s := range w.states {
		passed := s.good >= w.policy.Passes
		if passed && !s.announced {
			s.announced = true
			w.emit(s.result)
		}
		if passed {
			continue
		}
		all = false
		if worst == nil || (s.rank() > worst.rank()) {
			worst = s
		}
		wrong = wrong || s.rank() == 2
		if w.flaps(s) {
			s.result.Verdict = Unhealthy
			s.result.Detail = fmt.Sprintf("%d of %d looks failed, the last: %s", s.upFailed, s.upLooks, s.lastFail)
			return w.failed(s)
		}
	}
	switch {
	case all:
		w.soak = time.Now()
		return nil
	case time.Since(w.began) >= w.policy.Deadline:
		if worst.result.Verdict != Unhealthy {
			worst.result.Verdict = Unhealthy
			worst.result.Detail = joinDetail(worst.result.Detail, "not well twice in a row")
			if worst.lastFail != "" {
				worst.result.Detail = "not well for long enough; last: " + worst.lastFail
			}
		}
		return fmt.Errorf("%w (after %s)", w.failed(worst), w.policy.Deadline)
	case !wrong:
		w.wrong = time.Time{}
	case w.wrong.IsZero():
		w.wrong = time.Now()
	case time.Since(w.wrong) >= w.policy.Settle:
		return w.failed(worst)
	}
	return nil
}

// flaps reports whether a server that has answered well once goes on to answer
// wrongly now and then, for longer than something wrong may last, and so often
// that it would never pass: to wait until the deadline would help nobody.
func (w *watch) flaps(s *checkState) bool {
	return s.upLooks >= 2*minShare && time.Since(s.up) >= w.policy.Settle &&
		float64(s.upFailed) > max(w.failShare(s), 0.4)*float64(s.upLooks)
}

// rank orders checks that do not pass: 2 is wrong, 1 may come yet, 0 is unknown.
func (s *checkState) rank() int {
	switch {
	case s.result.Looks == 0 || s.result.Verdict != Unhealthy:
		return 0
	case s.result.Observation.Pending:
		return 1
	}
	return 2
}

// soaked reports whether the soak is over and every check was seen well in it.
func (w *watch) soaked() bool {
	if time.Since(w.soak) < w.policy.Soak {
		return false
	}
	for _, s := range w.states {
		if s.bad > 0 || (w.policy.Soak > 0 && s.soakLooks == 0) {
			return false
		}
		// A log that is just being rotated comes back.
		if w.lost(s) && time.Since(w.soak) < w.policy.Soak+w.policy.Settle {
			return false
		}
		// Too few looks to tell a transient failure from a frequent one.
		if s.soakLooks < minShare && float64(s.soakFailed) > w.failShare(s)*float64(s.soakLooks) {
			return false
		}
	}
	return true
}

// lost reports whether a check could be seen before, and never since the start
// or, where there is a soak, since that began. One look in a soak that sees
// nothing tells nothing: the others do.
func (w *watch) lost(s *checkState) bool {
	if s.before == nil || s.before.Observation.Inconclusive || s.before.Observation.Absent {
		return false
	}
	if w.policy.Soak > 0 {
		return s.soakClear == 0
	}
	return s.clearLooks == 0
}

// failed names the check that failed, or the process check where that fails for
// good as well: what is dead neither listens nor answers. And a page that needs
// a pool fails with it.
func (w *watch) failed(s *checkState) error {
	if s.result.Observation.Kind == KindHTTP {
		for _, other := range w.states {
			if other.result.Observation.Kind == KindFastCGI && other.result.Verdict == Unhealthy {
				s = other
				break
			}
		}
	}
	for _, other := range w.states {
		if o := other.result.Observation; o.Kind == KindProcess && (o.Absent || other.rank() == 2) {
			s = other
		}
	}
	return fmt.Errorf("cannot verify the server: %s: %s", s.result.Name, s.result.Detail)
}

// report closes the watch.
func (w *watch) report(cause error) (Report, error) {
	phase := PhaseSoak
	if w.soak.IsZero() {
		phase = PhaseStart
	}
	r := Report{Time: now()}
	var also []string
	for _, s := range w.states {
		s.result.Phase = phase
		if s.result.Looks == 0 {
			s.result.Verdict, s.result.Detail = Inconclusive, "not looked at"
		}
		if s.result.Verdict == Inconclusive && cause == nil {
			if s.result.Lost = w.lost(s); !s.result.Lost && s.clearLooks > 0 {
				r := s.clear
				r.Looks, r.Failed = s.result.Looks, s.result.Failed
				s.result = r
			}
		}
		if s.result.Verdict != Unhealthy && s.soakFailed > 0 {
			s.result.Detail = joinDetail(s.result.Detail,
				fmt.Sprintf("%d of %d looks failed, last: %s", s.soakFailed, s.soakLooks, s.lastFail))
		}
		r.Down = r.Down || s.result.Observation.Absent
		r.Results = append(r.Results, s.result)
		w.emit(s.result)
		if s.result.Verdict == Unhealthy && cause != nil && !strings.Contains(cause.Error(), ": "+s.result.Name+": ") {
			also = append(also, s.result.Name)
		}
	}
	if v, why := r.Why(); cause == nil && v == Inconclusive && !w.policy.AcceptInconclusive {
		return r, fmt.Errorf("cannot verify the server: %w: %s", ErrInconclusive, why)
	}
	if len(also) > 3 {
		also = append(also[:3], fmt.Sprintf("%d more", len(also)-3))
	}
	if len(also) > 0 {
		return r, fmt.Errorf("%w; unhealthy as well: %s", cause, strings.Join(also, ", "))
	}
	return r, cause
}
