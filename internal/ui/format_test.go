package ui

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		-1: "0 B", 0: "0 B", 999: "999 B", 1000: "1.0 kB", 1500: "1.5 kB", 999_949: "999.9 kB", 999_950: "1.0 MB",
		12_345_678: "12.3 MB", 1_000_000_000: "1.0 GB", 5_000_000_000_000: "5.0 TB", math.MaxInt64: "9.2 EB",
	} {
		require.Equal(t, want, Bytes(n))
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0 ms", 0: "0 ms", 84 * time.Millisecond: "84 ms", 999 * time.Millisecond: "999 ms",
		999_600 * time.Microsecond: "1.0 s", 3210 * time.Millisecond: "3.2 s", 9960 * time.Millisecond: "10 s", 42 * time.Second: "42 s",
		59_600 * time.Millisecond: "1 min", 125 * time.Second: "2 min 5 s", time.Hour - 1: "1 h", 90 * time.Minute: "1 h 30 min",
		24*time.Hour - 1: "1 d", 76 * time.Hour: "3 d 4 h",
	} {
		require.Equal(t, want, Duration(d), d.String())
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	now := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	require.Equal(t, "never", Age(time.Time{}, now))
	for d, want := range map[time.Duration]string{
		0: "just now", time.Second: "1 s ago", 59 * time.Second: "59 s ago", 61 * time.Second: "1 min ago",
		47 * time.Hour: "47 h ago", 49 * time.Hour: "2 d ago", -time.Millisecond: "just now", -2 * time.Hour: "in 2 h",
	} {
		require.Equal(t, want, Age(now.Add(-d), now), d.String())
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	require.NoError(t, Table(&b, []string{"NAME", "STATE", "SIZE"}, nil))
	require.Empty(t, b.String(), "no rows, no header")
	require.NoError(t, Table(&b, []string{"NAME", "STATE", "SIZE"}, [][]string{
		{"web", "up", "1.0 MB"}, {"größer-日本", "", ""}, {"evil\x1b[2J\nx"}, {}, {"a", "b", "c", "more"},
	}))
	golden(t, "table_of_odd_rows.txt", b.String())
	require.Error(t, Table(brokenPipe{}, nil, [][]string{{"a"}}))
}

func TestDocument(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	require.NoError(t, Document(&b, map[string]any{"a": []string{"<b>"}}))
	require.Equal(t, "{\n  \"a\": [\n    \"<b>\"\n  ]\n}\n", b.String())
}

func TestFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"}, {"abc", 0, ""}, {"e\u0301e\u0301", 2, "e\u0301e\u0301"},
	} {
		got := fit(c.in, c.n, "…")
		require.Equal(t, c.want, got)
		require.LessOrEqual(t, width(got), c.n)
	}
}
