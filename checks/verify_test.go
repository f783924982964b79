package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// script is a check whose looks are written down: the last one goes on for ever.
type script struct {
	name  string
	looks []Observation
	done  atomic.Int64
	hang  bool
}

func (s *script) Name() string { return s.name }

func (s *script) Run(ctx context.Context) Observation {
	if s.hang {
		<-ctx.Done()
		return bad("hangs")
	}
	i := min(int(s.done.Add(1))-1, len(s.looks)-1)
	return s.looks[i]
}

func good() Observation             { return Observation{OK: true, Detail: "fine"} }
func bad(detail string) Observation { return Observation{Detail: detail} }
func pending() Observation          { return Observation{Detail: "not yet", Pending: true} }
func absent() Observation {
	return Observation{Detail: "no process", Absent: true, Pending: true, Kind: KindProcess}
}
func blind() Observation { return Observation{Detail: "cannot see", Inconclusive: true} }
func as(id string) Observation {
	o := good()
	o.Identity = id
	return o
}

func final() Observation { return Observation{Detail: "dead for good", Final: true} }

func value(v string) Observation {
	return Observation{OK: true, Values: map[string]string{"status": v}}
}

func repeat(n int, o ...Observation) []Observation {
	var list []Observation
	for range n {
		list = append(list, o...)
	}
	return list
}

func quick() Policy {
	return Policy{
		Period: 2 * time.Millisecond, Timeout: 2 * time.Second, Passes: 2, Deadline: 10 * time.Second,
		Settle: 60 * time.Millisecond, Absent: 60 * time.Millisecond, Soak: 80 * time.Millisecond, FailAfter: 3, FailShare: 0.2,
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	short := quick()
	short.Deadline = 80 * time.Millisecond
	unsettled := quick()
	unsettled.Settle = 5 * time.Second
	noSoak := quick()
	noSoak.Soak = 0
	seq := func(o ...Observation) []Observation { return o }
	for _, c := range []struct {
		name   string
		before []Observation // nil: no baseline
		looks  []Observation
		policy Policy
		want   string // of the error; "" is none
		verdict
	}{
		{name: "well", looks: seq(good()), verdict: verdict{Healthy, PhaseSoak}},
		{name: "no soak", looks: append(repeat(2, good()), bad("late")), policy: noSoak, verdict: verdict{Healthy, PhaseSoak}},
		{name: "slow start", looks: append(repeat(40, pending()), good()), verdict: verdict{Healthy, PhaseSoak}},
		{name: "a stumble while starting", looks: append(repeat(5, good(), bad("x")), good()), verdict: verdict{Healthy, PhaseSoak}},
		{name: "never starts", looks: seq(pending()), policy: short, want: "cannot verify the server: it: not yet (after 80ms)", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "never well for long", looks: repeat(5000, pending(), good()), policy: short, want: "not yet", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "wrong from the start", looks: seq(bad("wrong")), want: "it: wrong", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "wrong for a moment", looks: append(repeat(5, bad("wrong")), good()), policy: unsettled, verdict: verdict{Healthy, PhaseSoak}},
		{name: "exits at once", looks: append(seq(good()), absent()), want: "it: no process", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "never there", looks: seq(absent()), want: "it: no process", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "dead for good", looks: seq(good(), good(), good(), final()), want: "it: dead for good", verdict: verdict{Unhealthy, PhaseSoak}},
		{name: "dies in the soak", looks: append(repeat(6, good()), bad("gone")), want: "it: gone", verdict: verdict{Unhealthy, PhaseSoak}},
		{name: "one transient failure", looks: append(append(repeat(6, good()), bad("x")), good()), verdict: verdict{Healthy, PhaseSoak}},
		{name: "two in a row", looks: append(append(repeat(12, good()), bad("x"), bad("x")), good()), verdict: verdict{Healthy, PhaseSoak}},
		{name: "every third fails", looks: append(repeat(3, good()), repeat(5000, bad("x"), good(), good())...), want: "x", verdict: verdict{Unhealthy, PhaseSoak}},
		{name: "restarts in a loop", looks: repeat(5000, as("1@1"), as("2@2"), as("3@3")), want: "it does not stay up: process 3 was followed by 1", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "restarts in the soak", looks: append(repeat(8, as("1@1")), as("2@2")), want: "process 1 was followed by 2", verdict: verdict{Unhealthy, PhaseSoak}},
		{name: "becomes a daemon", looks: seq(as("1@1"), as("2@2")), verdict: verdict{Healthy, PhaseSoak}},
		{name: "blind", looks: seq(blind()), want: "inconclusive: no answer of it could be seen: it: cannot see", verdict: verdict{Inconclusive, PhaseSoak}},
		{name: "other value", before: seq(value("1")), looks: seq(value("2")), want: "it: status was 1, is 2", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "same value", before: seq(value("1")), looks: seq(value("1")), verdict: verdict{Healthy, PhaseSoak}},
		{name: "unsteady value", before: seq(value("1"), value("2"), value("3")), looks: seq(value("4")), verdict: verdict{Healthy, PhaseSoak}},
		{name: "broken before", before: seq(bad("x")), looks: seq(bad("x")), verdict: verdict{BrokenBefore, PhaseSoak}},
		{name: "mended", before: seq(bad("x")), looks: seq(good()), verdict: verdict{Healthy, PhaseSoak}},
		{name: "down before", before: seq(absent()), looks: seq(bad("x")), want: "it: x", verdict: verdict{Unhealthy, PhaseStart}},
		{name: "once broken before", before: append(seq(bad("x")), good()), looks: seq(bad("x")), want: "it: x", verdict: verdict{Unhealthy, PhaseStart}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // what follows what is tested, not how fast the machine is
				if c.policy.Period == 0 {
					c.policy = quick()
				}
				var before Report
				if c.before != nil {
					before = Baseline(t.Context(), []Check{&script{name: "it", looks: c.before}})
				}
				var told []Result
				after, err := Verify(t.Context(), []Check{&script{name: "it", looks: c.looks}}, before, c.policy,
					func(r Result) { told = append(told, r) })
				require.Len(t, after.Results, 1)
				got := after.Results[0]
				if c.want == "" {
					require.NoError(t, err)
					require.True(t, after.Healthy())
				} else {
					require.ErrorContains(t, err, c.want)
					require.False(t, after.Healthy())
				}
				require.Equal(t, c.verdict, verdict{got.Verdict, got.Phase}, "%+v", got)
				require.NotEmpty(t, told)
				require.Equal(t, got, told[len(told)-1])
			})
		})
	}
}

type verdict struct {
	Verdict
	Phase
}

func TestVerifyNamesTheCause(t *testing.T) {
	t.Parallel()
	dead := bad("the master is gone")
	dead.Kind = KindProcess
	list := []Check{
		&script{name: "http a", looks: []Observation{bad("no answer")}},
		&script{name: "process", looks: []Observation{dead}},
		&script{name: "http b", looks: []Observation{bad("no answer")}},
		&script{name: "log", looks: []Observation{blind()}},
	}
	r, err := Verify(t.Context(), list, Report{}, quick(), nil)
	require.Len(t, r.Results, 4)
	require.EqualError(t, err, "cannot verify the server: process: the master is gone; unhealthy as well: http a, http b")
}

func TestVerifyWithoutChecks(t *testing.T) {
	t.Parallel()
	_, err := Verify(t.Context(), nil, Report{}, quick(), nil)
	require.Error(t, err)
	require.False(t, Report{}.Healthy())
}

func TestVerifyIsCutOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
	begin := time.Now()
	r, err := Verify(ctx, []Check{&script{name: "it", hang: true}, &script{name: "other", looks: []Observation{good()}}}, Report{}, Policy{}, nil)
	require.ErrorIs(t, err, why)
	require.Len(t, r.Results, 2)
	require.Equal(t, Inconclusive, r.Results[0].Verdict)
	require.Less(t, time.Since(begin), 2*time.Second)
}

// A look that hangs must not hide that the time is over, nor keep the others
// from being looked at.
func TestVerifyHangingCheck(t *testing.T) {
	t.Parallel()
	p := quick()
	p.Timeout, p.Settle = 20*time.Millisecond, 50*time.Millisecond
	var list []Check
	for i := range 3 * maxAtOnce {
		list = append(list, &script{name: fmt.Sprint("hangs ", i), hang: true})
	}
	other := &script{name: "other", looks: []Observation{good()}}
	_, err := Verify(t.Context(), append(list, other), Report{}, p, nil)
	require.ErrorContains(t, err, "hangs")
	require.Positive(t, other.done.Load())
}

func TestReportSurvivesJSON(t *testing.T) {
	t.Parallel()
	full := value("200")
	full.Kind, full.Identity, full.Took, full.Detail = KindHTTP, "1@2", 1234567*time.Nanosecond, "fine"
	list := []Check{
		&script{name: "full", looks: []Observation{full}}, &script{name: "absent", looks: []Observation{absent()}},
		&script{name: "final", looks: []Observation{final()}}, &script{name: "blind", looks: []Observation{blind()}},
	}
	report := Baseline(t.Context(), list)
	require.True(t, report.Down)
	text, err := json.Marshal(report)
	require.NoError(t, err)
	var back Report
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, report, back)
	require.Len(t, back.With(Unhealthy), 2)
	require.Equal(t, Judge(report, report), Judge(back, back))
}

func TestBaselineLooks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		looks []Observation
		n     int
		ok    bool
	}{
		{"well", []Observation{good()}, baselineLooks, true},
		{"ill", []Observation{bad("x")}, baselineLooks, false},
		{"mostly well", append(repeat(1, good(), bad("x")), good()), baselineMore, true},
		{"mostly ill", append(repeat(1, bad("x"), good()), bad("x")), baselineMore, false},
	} {
		s := &script{name: c.name, looks: c.looks}
		r := Baseline(t.Context(), []Check{s})
		require.Equal(t, c.n, r.Results[0].Looks, c.name)
		require.Equal(t, c.ok, r.Results[0].Observation.OK, c.name)
		require.Equal(t, PhaseBaseline, r.Results[0].Phase)
	}
}

func TestJudgeReports(t *testing.T) {
	t.Parallel()
	of := func(o Observation) Report {
		return Report{Results: []Result{{Name: "it", Observation: o}}}
	}
	was502 := Observation{Kind: KindHTTP, Values: map[string]string{"status": "502"}, Detail: "answers 502"}
	require.Equal(t, BrokenBefore, Judge(of(was502), of(was502)).Results[0].Verdict)
	require.Equal(t, Inconclusive, Judge(Report{}, of(was502)).Results[0].Verdict)
	left := Judge(of(was502), Report{}).Results
	require.Len(t, left, 1)
	require.Equal(t, Inconclusive, left[0].Verdict)
}

func TestPolicyDefaults(t *testing.T) {
	t.Parallel()
	p := Policy{}.orDefault()
	d := DefaultPolicy()
	d.Soak = 0
	require.Equal(t, d, p)
	require.Equal(t, 10*time.Second, DefaultPolicy().Soak)
	require.Equal(t, 60*time.Second, DefaultPolicy().Deadline)
}
