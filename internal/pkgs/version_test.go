package pkgs

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Version{
		"1.22.1-9+deb12u11": {0, "1.22.1", "9+deb12u11"},
		"2:1.0-1-2":         {2, "1.0-1", "2"},
		"1":                 {0, "1", ""},
		"0:1":               {0, "1", ""},
		"1:2:3-4":           {1, "2:3", "4"},
		"2147483647:1":      {2147483647, "1", ""},
		"1.0~rc1":           {0, "1.0~rc1", ""},
		"1-~~":              {0, "1", "~~"},
		"0:0:":              {0, "0:", ""},
	} {
		got, err := ParseVersion(s)
		require.NoError(t, err, s)
		require.Equal(t, want, got)
		again, err := ParseVersion(got.String())
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
	for _, s := range []string{
		"", " ", "a", "-1", "1-", ":1", "1:", "1:-1", "-1:1", "+1:1", "a:1", "2147483648:1", "99999999999999999999:1",
		"1 2", " 1", "1 ", "1\n", "1\x00", "1_2", "1/2", "1-2_3", "1-2:3", "~1", "1.é", "1;2", "1$(x)", strings.Repeat("1", 257),
	} {
		_, err := ParseVersion(s)
		require.Error(t, err, "%q", s)
		_, err = CompareVersions(s, "1")
		require.Error(t, err)
		_, err = CompareVersions("1", s)
		require.Error(t, err)
	}
}

func TestUpstreamOnly(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"1.22.1-9+deb12u11":     "1.22.1",
		"1:9.2p1-2":             "9.2p1",
		"8.2.29-1~deb12u1":      "8.2.29",
		"2.4.65+dfsg-1":         "2.4.65",
		"2.4.65+dfsg.2-1":       "2.4.65",
		"2.4.65~dfsg1-1":        "2.4.65",
		"1.0+ds1-1":             "1.0",
		"1.0.repack-1":          "1.0",
		"1.0+repack2":           "1.0",
		"2.0+really1.9.3-1":     "1.9.3",
		"2.0+really1.9.3+ds1-1": "1.9.3",
		"2.0+really-1":          "2.0+really",
		"1.0~rc1-1":             "1.0~rc1",
		"1.0+dsx-1":             "1.0+dsx",
		"1.27.4-1~bookworm":     "1.27.4",
	} {
		v, err := ParseVersion(s)
		require.NoError(t, err)
		require.Equal(t, want, v.UpstreamOnly(), s)
	}
}

// nasty are versions that orders get wrong.
func nasty() []string {
	return []string{
		"0", "00", "0.0", "0~", "0~~", "0~~a", "0~a", "0a", "0+", "0.", "0-0", "0-00", "0-0~", "0:0", "0-0.0", "1", "01", "1.0", "1.00",
		"1.0-0", "1.0-1", "1.0-01", "1.0-1~", "1.0~", "1.0~rc1", "1.0~rc1-1", "1.0~rc10", "1.0~rc2", "1.0~~rc1", "1.0rc1", "1.0+rc1", "1.0.1", "1.0a", "1.0A", "1.0z", "1.0Z",
		"1.0+dfsg", "1.0+dfsg-1", "1.0-1+b1", "1.0-1+b10", "1.0-1+b2", "1.0-1.1", "1.0-10", "1.0-2", "1:0", "1:0.9", "2:0~", "10:0", "1.0-1-1", "1.0-a-1", "1:1:1", "1:1:1-1",
		"1.22.1-9+deb12u9", "1.22.1-9+deb12u11", "1.22.1-9", "1.22.1-9+deb12u1", "1.22.1-9~deb11u1", "1.26.0-3", "1.26.0-3+deb13u2",
		"99999999999999999999999999", "99999999999999999999999998", "100000000000000000000000000", "0099999999999999999999999999", "1.99999999999999999999a", "1.99999999999999999999b",
		"1a1", "1a01", "1a1a", "1aa", "1ab", "1.a", "1..a", "1.+", "1+.", "1~+", "1+~", "1.~", "1~.", "1--1", "1-.-1", "1.-1", "1+-1", "1~-1", "1.0-~", "1.0-+", "1.0-.",
		"2147483647:0", "2.0+really1.9-1", "20240101", "20240101.1", "2024.01.01", "1.10", "1.9", "1.9.9", "1.9b", "1b.9",
	}
}

func TestOrderIsDpkgs(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dpkg")
	var pairs [][2]string
	list := nasty()
	r := rand.New(rand.NewPCG(22, 1))
	// Neighbours and random pairs of the list, then generated ones: a version
	// and a small change of it, which is where orders go wrong.
	for i, a := range list {
		pairs = append(pairs, [2]string{a, list[(i+1)%len(list)]}, [2]string{a, list[r.IntN(len(list))]}, [2]string{a, list[r.IntN(len(list))]})
	}
	const chars = "0019aAzZ.+~-:"
	for range 400 {
		a := list[r.IntN(len(list))]
		b := []byte(a)
		for range 1 + r.IntN(3) {
			i := r.IntN(len(b))
			switch r.IntN(3) {
			case 0:
				b[i] = chars[r.IntN(len(chars))]
			case 1:
				b = append(b[:i+1], append([]byte{chars[r.IntN(len(chars))]}, b[i+1:]...)...)
			case 2:
				b = append(b, chars[r.IntN(len(chars))])
			}
		}
		if _, err := ParseVersion(string(b)); err == nil {
			pairs = append(pairs, [2]string{a, string(b)})
		}
	}
	require.Greater(t, len(pairs), 400)

	// One shell asks dpkg about all: a process each is what takes the time.
	const script = `while read -r a b; do
		for op in lt eq gt; do dpkg --compare-versions "$a" $op "$b" && echo $op; done
	done`
	var in strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&in, "%s %s\n", p[0], p[1])
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Stdin = strings.NewReader(in.String())
	var warnings strings.Builder
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		require.NoError(t, err)
	}
	require.Empty(t, warnings.String(), "dpkg takes what we take without a warning")
	answers := bufio.NewScanner(strings.NewReader(string(out)))
	for _, p := range pairs {
		require.True(t, answers.Scan())
		want := map[string]int{"lt": -1, "eq": 0, "gt": 1}[answers.Text()]
		got, err := CompareVersions(p[0], p[1])
		require.NoError(t, err)
		require.Equal(t, want, got, "%s %s", p[0], p[1])
		back, err := CompareVersions(p[1], p[0])
		require.NoError(t, err)
		require.Equal(t, -want, back, "%s %s", p[1], p[0])
	}
	require.False(t, answers.Scan())
}

// FuzzVersion: whatever parses is ordered, and comes back as the same.
func FuzzVersion(f *testing.F) {
	for i, v := range nasty() {
		f.Add(v, nasty()[(i*7+3)%len(nasty())])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		v, err := ParseVersion(a)
		if err != nil {
			return
		}
		again, err := ParseVersion(v.String())
		require.NoError(t, err)
		require.Equal(t, v, again)
		require.Zero(t, v.Compare(again))
		_ = v.UpstreamOnly()
		if w, err := ParseVersion(b); err == nil {
			require.Equal(t, v.Compare(w), -w.Compare(v))
		}
	})
}
