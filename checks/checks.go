// Package checks looks at a running server and says whether it is well: its
// processes, its sockets, its answers, its logs. A check is one look and knows
// no policy; how often, how long and how many failures make a verdict is one
// Policy for all, in Verify. The new server is judged against a Baseline of
// the old one: what was broken before is reported, not blamed.
//
//	Baseline ── saved with the run ──┐
//	                                 v
//	    ┌─ start ─┐ all pass  ┌─ soak ─┐ time over, all pass
//	───>│ looks   │──────────>│ looks  │─────────────────────> healthy
//	    └────┬────┘ Passes in └───┬────┘
//	         │      a row         │ FailAfter in a row, too many in all,
//	         │                    │ or a fact that no later look undoes
//	         v                    v
//	  Deadline, Settle, Absent    unhealthy
//
// There are three outcomes: healthy, unhealthy, and inconclusive, which is what a
// server is of which no answer could be seen, or no longer something that could
// be seen of the old one. Inconclusive is a failure, unless the Policy takes it.
package checks

import (
	"context"
	"errors"
	"time"
)

// ErrInconclusive says that too little could be seen of a server to call it well
// or not.
var ErrInconclusive = errors.New("inconclusive")

// Check is one thing to look at.
type Check interface {
	// Name is the check's name in reports and in "skip": a kind, and what
	// it looks at ("http 127.0.0.1:80 shop.example"). It is the same for
	// the old server and the new one.
	Name() string
	// Run takes one look, within the context's deadline. It never fails: what
	// keeps it from looking is an Observation that is Inconclusive.
	Run(ctx context.Context) Observation
}

// stateful is a check that remembers earlier looks, such as who the workers
// were. Begin forgets them, end gives back what is held open; Baseline and
// Verify call them first and last.
type stateful interface {
	begin()
	end()
}

// Observation is what one look saw.
type Observation struct {
	// Kind selects the rules of comparison; "" compares Values for equality.
	Kind Kind `json:"kind,omitempty"`
	// OK is the look's own verdict, without a baseline.
	OK bool `json:"ok"`
	// Inconclusive tells that nothing could be seen, which is neither good
	// nor bad; OK means nothing then.
	Inconclusive bool `json:"inconclusive,omitempty"`
	// Pending tells that what is missing may come while a server starts.
	Pending bool `json:"pending,omitempty"`
	// Absent tells that no process of the server runs.
	Absent bool `json:"absent,omitempty"`
	// Final tells that no later look can undo what is wrong.
	Final bool `json:"final,omitempty"`
	// Identity names what must stay the same for the whole soak (the master
	// by pid and start time).
	Identity string `json:"identity,omitempty"`
	// Detail is for people; it is clean.
	Detail string `json:"detail,omitempty"`
	// Values are compared with the baseline.
	Values map[string]string `json:"values,omitempty"`
	// Took is the time of the look.
	Took time.Duration `json:"took_ns"`
}

// Kind is a kind of check.
type Kind string

// The kinds that have rules of comparison of their own.
const (
	KindProcess Kind = "process"
	KindPort    Kind = "port"
	KindHTTP    Kind = "http"
	KindTCP     Kind = "tcp"
	KindLog     Kind = "log"
	KindFastCGI Kind = "fastcgi"
	KindPHP     Kind = "php"
)

// Verdict is the judgement on one check.
type Verdict string

// The verdicts.
const (
	Healthy      Verdict = "healthy"
	Unhealthy    Verdict = "unhealthy"
	Inconclusive Verdict = "inconclusive"  // nothing could be seen
	BrokenBefore Verdict = "broken-before" // wrong, and it was so in the baseline
)

// Result is a check's verdict with the observation that it rests on.
type Result struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail,omitempty"` // clean
	Phase   Phase   `json:"phase,omitempty"`
	Looks   int     `json:"looks"`
	Failed  int     `json:"failed"` // looks that were not well
	// Lost tells that it could be seen before, and cannot be now.
	Lost        bool        `json:"lost,omitempty"`
	Observation Observation `json:"observation"`
}

// Phase tells when a result was found.
type Phase string

// The phases.
const (
	PhaseBaseline Phase = "baseline"
	PhaseStart    Phase = "start" // the first pass, or what kept the server from passing
	PhaseSoak     Phase = "soak"  // the end: after the soak, or what ended it early
)

// Report is what all checks found. It survives JSON unchanged, because it is
// saved with the run.
type Report struct {
	Time    time.Time `json:"time"`           // UTC, when it was complete
	Down    bool      `json:"down,omitempty"` // no process of the server ran
	Results []Result  `json:"results"`
}

// Get returns the result of the check with that name.
func (r Report) Get(name string) (Result, bool) {
	for _, c := range r.Results {
		if c.Name == name {
			return c, true
		}
	}
	return Result{}, false
}

// With returns the results that have the verdict.
func (r Report) With(v Verdict) []Result {
	var list []Result
	for _, c := range r.Results {
		if c.Verdict == v {
			list = append(list, c)
		}
	}
	return list
}

// Verdict is the judgement on the server as a whole: Healthy, Unhealthy or
// Inconclusive, never BrokenBefore.
func (r Report) Verdict() Verdict {
	v, _ := r.Why()
	return v
}

// Why is Verdict, and in words what it rests on where that is not Healthy. A
// server is unhealthy by one check that is. It is inconclusive where something
// that could be seen before cannot be seen now, or where no answer of it could
// be seen: processes and open ports alone are no service.
func (r Report) Why() (Verdict, string) {
	answers := false
	blind := "there is nothing to ask it for"
	lost := ""
	for _, c := range r.Results {
		if c.Verdict == Unhealthy {
			return Unhealthy, c.Name + ": " + c.Detail
		}
		if c.Lost && lost == "" {
			lost = c.Name + " could be seen before: " + c.Detail
		}
		switch c.Observation.Kind {
		case KindProcess, KindPort, KindLog, KindPHP:
			continue
		}
		if c.Verdict == Inconclusive {
			blind = c.Name + ": " + c.Detail
			continue
		}
		answers = true
	}
	switch {
	case lost != "":
		return Inconclusive, lost
	case !answers:
		return Inconclusive, "no answer of it could be seen: " + blind
	}
	return Healthy, ""
}

// Healthy reports whether the verdict is Healthy. No result at all is no health.
func (r Report) Healthy() bool { return r.Verdict() == Healthy }

// Policy says how looks become verdicts.
type Policy struct {
	// Period is the time from the begin of one look to the next, longer
	// where there are many checks or a look takes its time. Timeout bounds
	// one look.
	Period, Timeout time.Duration
	// Passes is how many looks of each check in a row must be well for the
	// start to be over.
	Passes int
	// Deadline is how long the start may take. Settle is how long meanwhile
	// something may be wrong that is not merely missing yet (another answer,
	// a socket too many), and Absent how long no process may be found: these
	// are not cured by waiting.
	Deadline, Settle, Absent time.Duration
	// Soak is how long the server must stay well afterwards; 0: not at all.
	Soak time.Duration
	// FailAfter is how many looks in a row must fail in the soak, and
	// FailShare which part of all looks of a check (of ten at least), for
	// the check to fail: one transient failure is none.
	FailAfter int
	FailShare float64
	// AcceptInconclusive takes a server that is neither well nor unwell.
	AcceptInconclusive bool
}

// DefaultPolicy is the policy of the contract: start deadline 60 s, soak 10 s.
func DefaultPolicy() Policy {
	return Policy{
		Period: 200 * time.Millisecond, Timeout: 5 * time.Second, Passes: 2,
		Deadline: 60 * time.Second, Settle: 3 * time.Second, Absent: 2 * time.Second,
		Soak: 10 * time.Second, FailAfter: 3, FailShare: 0.2,
	}
}

// orDefault replaces what is not set. A Soak of 0 is a choice and stays.
func (p Policy) orDefault() Policy {
	d := DefaultPolicy()
	for _, f := range []struct{ have, fall *time.Duration }{
		{&p.Period, &d.Period},
		{&p.Timeout, &d.Timeout},
		{&p.Deadline, &d.Deadline},
		{&p.Settle, &d.Settle},
		{&p.Absent, &d.Absent},
	} {
		if *f.have <= 0 {
			*f.have = *f.fall
		}
	}
	if p.Passes < 1 {
		p.Passes = d.Passes
	}
	if p.FailAfter < 1 {
		p.FailAfter = d.FailAfter
	}
	if p.FailShare <= 0 {
		p.FailShare = d.FailShare
	}
	return p
}

// pace is the time between looks where n checks share the server: many sites
// must not become a load test.
func (p Policy) pace(n int) time.Duration {
	return p.Period * time.Duration(1+n/16)
}
