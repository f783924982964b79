package pkgs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseDependency(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Dependency{
		"":    {},
		" \n": {},
		"libc6 (>= 2.34), libssl3 (>= 3.0.0)": {
			{{Name: "libc6", Op: ">=", Version: "2.34"}}, {{Name: "libssl3", Op: ">=", Version: "3.0.0"}}},
		"libc6(>=2.34)|libc0.1":                 {{{Name: "libc6", Op: ">=", Version: "2.34"}, {Name: "libc0.1"}}},
		"a1 ( = 1:2-3 ) ,\n b1,":                {{{Name: "a1", Op: "=", Version: "1:2-3"}}, {{Name: "b1"}}},
		"python3:any (<< 3.12), perl:native":    {{{Name: "python3", Arch: "any", Op: "<<", Version: "3.12"}}, {{Name: "perl", Arch: "native"}}},
		"gcc:arm64":                             {{{Name: "gcc", Arch: "arm64"}}},
		"old1 (< 2), new1 (> 2)":                {{{Name: "old1", Op: "<=", Version: "2"}}, {{Name: "new1", Op: ">=", Version: "2"}}},
		"x11 [amd64  arm64 ]":                   {{{Name: "x11", Archs: "amd64  arm64"}}},
		"x11 (>> 1) [!linux-any] <!nocheck>":    {{{Name: "x11", Op: ">>", Version: "1", Archs: "!linux-any", Profiles: "<!nocheck>"}}},
		"x11 <!nocheck> <cross pkg.x11.full> ,": {{{Name: "x11", Profiles: "<!nocheck> <cross pkg.x11.full>"}}},
	} {
		got, err := ParseDependency(s)
		require.NoError(t, err, s)
		if len(want) == 0 {
			require.Empty(t, got)
			continue
		}
		require.Equal(t, want, got, s)
		again, err := ParseDependency(got.String())
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
	for _, s := range []string{
		",", "a1,,b1", "|", "a1|", "|a1", "a1||b1", "a1 b1", "a", "A1", "a_1", "-a1", "a1:", "a1:ANY", "a1:any:any", "a1 (1)", "a1 (>= )", "a1 ()", "a1 (=> 1)", "a1 (== 1)", "a1 (>>= 1)",
		"a1 (>= 1", "a1 >= 1", "a1 (>= 1 2)", "a1 (>= x)", "a1 (>= 1) (<< 2)", "a1 [", "a1 []", "a1 [!]", "a1 [A]", "a1 <", "a1 <>", "a1 <!>", "a1 <A>", "a1 [amd64] (>= 1)", "${shlibs:Depends}", "a1\x00", "a1 (>= 1)x",
		strings.Repeat("x", 300), strings.Repeat("a1,", 20_000), strings.Repeat(" ", 2<<20),
	} {
		_, err := ParseDependency(s)
		require.Error(t, err, "%.40q", s)
		require.Less(t, len(err.Error()), 600)
	}
}

func TestParseProvides(t *testing.T) {
	t.Parallel()
	got, err := ParseProvides("httpd, nginx-abi-1.22 (= 1.22.1-9), httpd-cgi")
	require.NoError(t, err)
	require.Equal(t, []Relation{{Name: "httpd"}, {Name: "nginx-abi-1.22", Op: "=", Version: "1.22.1-9"}, {Name: "httpd-cgi"}}, got)
	got, err = ParseProvides("")
	require.NoError(t, err)
	require.Empty(t, got)
	for _, s := range []string{"a1 | b1", "a1 (>= 1)", "a1 b1"} {
		_, err := ParseProvides(s)
		require.Error(t, err, s)
	}
}

func TestSatisfiedBy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		op, want, have string
		ok             bool
	}{
		{"", "", "1", true}, {"", "", "what ever", true},
		{"<<", "2", "1", true}, {"<<", "2", "2", false}, {"<<", "2", "2~rc1", true},
		{"<=", "2", "2", true}, {"<=", "2", "2-1", false},
		{"=", "1.0", "0:1.0", true}, {"=", "1.0", "1.0-0", true}, {"=", "1.0", "1.0-1", false},
		{">=", "1.22.1-9+deb12u9", "1.22.1-9+deb12u11", true}, {">=", "1:1", "2", false},
		{">>", "2", "2", false}, {">>", "2", "2+b1", true},
		{">=", "1", "what ever", false}, {">=", "bad", "1", false}, {"??", "1", "1", false},
	} {
		require.Equal(t, c.ok, Relation{Name: "x1", Op: c.op, Version: c.want}.SatisfiedBy(c.have), "%v", c)
	}
}

func TestRestrictions(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"x1":                           "amd64 arm64 hurd-amd64",
		"x1 [amd64]":                   "amd64",
		"x1 [amd64 arm64]":             "amd64 arm64",
		"x1 [!amd64]":                  "arm64 hurd-amd64",
		"x1 [!amd64 !arm64]":           "hurd-amd64",
		"x1 [linux-any]":               "amd64 arm64",
		"x1 [any-amd64]":               "amd64 hurd-amd64",
		"x1 [hurd-any]":                "hurd-amd64",
		"x1 [!linux-any]":              "hurd-amd64",
		"x1 [any]":                     "amd64 arm64 hurd-amd64",
		"x1 <!nocheck>":                "amd64 arm64 hurd-amd64",
		"x1 <cross>":                   "",
		"x1 <!cross !nocheck>":         "amd64 arm64 hurd-amd64",
		"x1 <cross> <!nocheck>":        "amd64 arm64 hurd-amd64",
		"x1 [arm64] <cross> <!stage1>": "arm64",
	} {
		d, err := ParseDependency(s)
		require.NoError(t, err)
		var got []string
		for _, arch := range []string{"amd64", "arm64", "hurd-amd64"} {
			if d[0][0].AppliesTo(arch) {
				got = append(got, arch)
			}
		}
		require.Equal(t, want, strings.Join(got, " "), s)
	}
	d, err := ParseDependency("a1 [arm64] | b1, c1 [arm64], d1")
	require.NoError(t, err)
	require.Equal(t, "b1, d1", d.For("amd64").String())
}

// FuzzDependency: whatever parses can be written and parsed again to the same.
func FuzzDependency(f *testing.F) {
	f.Add("libc6 (>= 2.34) | libc0.1:any, x1 [amd64 !arm64] <!nocheck> <cross>")
	f.Add("a1 ( = 1:2-3 ) ,\n b1,")
	f.Add("a1 (<1)|b1:native")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDependency(s)
		if err != nil {
			return
		}
		again, err := ParseDependency(d.String())
		require.NoError(t, err)
		require.Equal(t, len(d), len(again))
		for i := range d {
			require.Equal(t, d[i], again[i])
			for _, r := range d[i] {
				r.SatisfiedBy("1")
				r.AppliesTo("amd64")
			}
		}
		_, _ = ParseProvides(s)
	})
}
