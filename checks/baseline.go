package checks

import (
	"context"
	"maps"
	"sync"
	"time"
)

const (
	// maxAtOnce bounds the looks that run at the same time.
	maxAtOnce = 8
	// A baseline takes baselineLooks of each check, and baselineMore where
	// these disagree, to tell what is broken from what was so once.
	baselineLooks   = 3
	baselineMore    = 12
	baselinePeriod  = 50 * time.Millisecond
	baselineTimeout = 5 * time.Second
)

// Baseline records how the server is now. Its verdicts are those of a look
// without a past: healthy, unhealthy or inconclusive. It takes well under a
// second where the server answers, and at most about a minute where it hangs.
func Baseline(ctx context.Context, list []Check) Report {
	return BaselineEvery(ctx, list, 0)
}

// BaselineEvery is Baseline with another time between the looks of one check;
// 0 is the usual one.
func BaselineEvery(ctx context.Context, list []Check, period time.Duration) Report {
	if period <= 0 {
		period = baselinePeriod
	}
	report := Report{Results: make([]Result, len(list))}
	slots := make(chan struct{}, maxAtOnce)
	// The logs come last: what the other looks make a server complain of, it
	// complained of before, and is not the fault of what comes.
	for _, logs := range []bool{false, true} {
		var wait sync.WaitGroup
		for i, c := range list {
			if _, is := c.(*logCheck); is != logs {
				continue
			}
			wait.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				report.Results[i] = record(ctx, c, period)
			})
		}
		wait.Wait()
	}
	for _, r := range report.Results {
		report.Down = report.Down || r.Observation.Absent
	}
	report.Time = now()
	return report
}

// now is the time for reports, without a monotonic part, which JSON would lose.
func now() time.Time { return time.Now().UTC().Round(0) }

// record looks several times. Values that change from look to look are no
// measure for anything and are left out.
func record(ctx context.Context, c Check, period time.Duration) Result {
	if s, ok := c.(stateful); ok {
		s.begin()
		defer s.end()
	}
	r := Result{Name: c.Name(), Phase: PhaseBaseline}
	var well, ill []Observation
	for want := baselineLooks; r.Looks < want; {
		if r.Looks > 0 && !sleep(ctx, period) {
			break
		}
		o := look(ctx, c, baselineTimeout)
		r.Looks++
		if o.OK || o.Inconclusive {
			well = append(well, o)
		} else {
			ill = append(ill, o)
		}
		if len(well) > 0 && len(ill) > 0 {
			want = baselineMore
		}
		if !o.OK && o.Took > baselineTimeout/2 {
			want = min(want, 2) // it hangs: two looks tell enough
		}
	}
	r.Failed = len(ill)
	kept := well
	if len(ill) >= len(well) {
		kept = ill
	}
	r.Observation = merge(kept)
	r.Verdict, r.Detail = alone(r.Observation)
	if r.Observation.Inconclusive {
		r.Verdict, r.Detail = Inconclusive, r.Observation.Detail
	}
	return r
}

// merge takes the last of the observations, with the values that all share.
func merge(list []Observation) Observation {
	if len(list) == 0 {
		return Observation{Inconclusive: true, Detail: "not looked at"}
	}
	last := list[len(list)-1]
	last.Values = maps.Clone(last.Values)
	for _, o := range list {
		last.Took = max(last.Took, o.Took)
		for key, v := range last.Values {
			if o.Values[key] == v {
				continue
			}
			if numeric(key) {
				last.Values[key] = larger(v, o.Values[key])
				continue
			}
			delete(last.Values, key)
		}
	}
	return last
}

// look runs a check once.
func look(ctx context.Context, c Check, timeout time.Duration) Observation {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	begin := time.Now()
	o := c.Run(ctx)
	if o.Took == 0 {
		o.Took = time.Since(begin)
	}
	return o
}

// sleep waits, and reports whether the context still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
