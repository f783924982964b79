package bench

import (
	"slices"
	"testing"
	"time"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// least is how many rounds a median is made of, however few the benchmark asks
// for.
const least = 5

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// rounds runs one round as often as the benchmark asks, but at least so often
// that there is a median, and reports it and the worst.
func rounds(b *testing.B, round func() time.Duration) {
	b.Helper()
	var down []time.Duration
	for b.Loop() {
		down = append(down, round())
	}
	for len(down) < least {
		down = append(down, round())
	}
	b.ReportMetric(0, "ns/op") // the whole round, setting up included, tells nothing
	b.ReportMetric(ms(median(down)), "ms-down")
	b.ReportMetric(ms(slices.Max(down)), "ms-down-worst")
	b.ReportMetric(float64(len(down)), "rounds")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
