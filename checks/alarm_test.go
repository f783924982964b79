package checks

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// moody is a check of a server that is well, on a machine that is not idle: now
// and then an answer is late, and once in a hundred it is an error.
type moody struct {
	name string
	kind Kind
	rng  *rand.Rand
	up   time.Time // before that nothing answers
	ill  float64   // share of looks that fail
}

func (m *moody) Name() string { return m.name }

func (m *moody) Run(ctx context.Context) Observation {
	late := time.Duration(m.rng.ExpFloat64() * float64(15*time.Millisecond))
	if m.rng.Float64() < 0.003 {
		late += time.Duration(m.rng.IntN(2000)) * time.Millisecond
	}
	if !sleep(ctx, late) {
		return Observation{Kind: m.kind, Pending: true, Detail: "timeout"}
	}
	switch {
	case time.Now().Before(m.up):
		return Observation{Kind: m.kind, Pending: true, Detail: "no answer yet"}
	case m.rng.Float64() < m.ill:
		return Observation{Kind: m.kind, Detail: "answers 502", Values: map[string]string{"status": "502"}}
	}
	return Observation{Kind: m.kind, OK: true, Values: map[string]string{"status": "200"}}
}

// verifyMoody judges one server in a time of its own, which takes none.
func verifyMoody(t *testing.T, seed uint64, ill float64) error {
	t.Helper()
	var err error
	rng := rand.New(rand.NewPCG(seed, 4))
	var list []Check
	up := time.Now().Add(time.Duration(rng.ExpFloat64() * float64(2*time.Second)))
	up = time.Now().Add(min(time.Until(up), 20*time.Second))
	for i, name := range []string{"http a", "http b", "http c", "tcp d"} {
		list = append(list, &moody{name: name, kind: "", rng: rand.New(rand.NewPCG(seed, uint64(10+i))), ill: ill})
	}
	before := Baseline(t.Context(), list)
	for _, c := range list {
		if m, ok := c.(*moody); ok {
			m.up = up
		}
	}
	_, err = Verify(t.Context(), list, before, DefaultPolicy(), nil)
	return err
}

// At most one false alarm in 1,000 clean upgrades, by the policy that is shipped.
// And what is not clean is not taken: a third of the answers wrong.
func TestFalseAlarms(t *testing.T) {
	t.Parallel()
	const runs = 1000
	alarms, missed := 0, 0
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(runs) {
			if err := verifyMoody(t, seed, 0.01); err != nil {
				alarms++
				t.Logf("server %d: %v", seed, err)
			}
		}
		for seed := range uint64(runs / 10) {
			if verifyMoody(t, seed, 0.34) == nil {
				missed++
			}
		}
	})
	t.Logf("%d false alarms in %d clean starts; %d of %d bad ones taken", alarms, runs, missed, runs/10)
	require.LessOrEqual(t, alarms, runs/1000)
	require.LessOrEqual(t, missed, 3)
}
