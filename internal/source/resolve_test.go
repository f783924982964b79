package source

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/pkgs"
)

// world reads an index in the small language of these tests, a package a line:
//
//	name version[@priority] [dep: …;] [pre: …;] [gives: …;] [not: …;] [breaks: …;]
//
// A name of one letter stands for that letter twice, for Debian knows none
// shorter.
func world(t testing.TB, text string) *Index {
	t.Helper()
	text = twice(text)
	ix := newIndex("amd64")
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		v, prio, _ := strings.Cut(f[1], "@")
		from := &origin{name: "test", priority: 500, base: "http://m.test/"}
		if prio != "" {
			_, err := fmt.Sscan(prio, &from.priority)
			require.NoError(t, err)
		}
		s := &pkgs.Stanza{Package: f[0], Version: v, Architecture: "amd64", Filename: f[0] + "_" + v + ".deb", SHA256: sum([]byte(f[0] + v)), Size: 1}
		for part := range strings.SplitSeq(strings.Join(f[2:], " "), ";") {
			part = strings.TrimSpace(part)
			if part == "" {
				continue
			}
			k, val, ok := strings.Cut(part, ":")
			require.True(t, ok, line)
			field, ok := map[string]*string{"dep": &s.Depends, "pre": &s.PreDepends, "gives": &s.Provides, "not": &s.Conflicts, "breaks": &s.Breaks}[k]
			require.True(t, ok, line)
			*field = strings.TrimSpace(val)
		}
		ix.add(from, []*pkgs.Stanza{s})
	}
	return ix
}

var oneLetter = regexp.MustCompile(`\b([a-z])\b`)

func twice(s string) string { return oneLetter.ReplaceAllString(s, "$1$1") }

// wants reads "name", "name=version", "name~constraint", "?name" for optional.
func wants(text string) []Want {
	var list []Want
	for w := range strings.SplitSeq(twice(text), "; ") {
		name, optional := strings.CutPrefix(w, "?")
		want := Want{Name: name, Optional: optional}
		if n, v, ok := strings.Cut(name, "="); ok && !strings.Contains(name, "~") {
			want.Name, want.Exact = n, v
		} else if n, c, ok := strings.Cut(name, "~"); ok {
			want.Name, want.Constraint = n, c
		}
		list = append(list, want)
	}
	return list
}

func names2(t *Target) string {
	var out []string
	for _, p := range t.Packages {
		out = append(out, p.Package+"="+p.Version)
	}
	return strings.Join(out, " ")
}

func TestResolve(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, world, want, got, err, without, held, notes string
	}{
		{name: "one", world: "a 1", want: "a", got: "a=1"},
		{name: "newest by Debian's order", world: "a 1.22.1-9+deb12u9\na 1.22.1-9+deb12u11\na 1.22.1-9~x", want: "a", got: "a=1.22.1-9+deb12u11"},
		{name: "epoch", world: "a 9\na 1:1", want: "a", got: "a=1:1"},
		{name: "priority before version", world: "a 1\na 2@100\na 3@1", want: "a", got: "a=1"},
		{name: "chain", world: "a 1 dep: b; pre: c\nb 1 dep: d\nc 1\nd 1", want: "a", got: "a=1 b=1 c=1 d=1"},
		{name: "circle", world: "a 1 dep: b\nb 1 dep: a", want: "a", got: "a=1 b=1"},
		{name: "versions", world: "a 1 dep: b (>= 2), b (<< 3)\nb 1\nb 2\nb 3", want: "a", got: "a=1 b=2"},
		{name: "one version for two", world: "a 1 dep: c (<= 2)\nb 1 dep: c (>= 2)\nc 1\nc 2\nc 3", want: "a; b", got: "a=1 b=1 c=2"},
		{name: "goes back for an older version", world: "a 1 dep: x, y\nx 1\nx 2 dep: z (= 2)\ny 1 dep: z (= 1)\nz 1\nz 2", want: "a", got: "a=1 x=1 y=1 z=1"},
		{name: "first alternative", world: "a 1 dep: b | c\nb 1\nc 1", want: "a", got: "a=1 b=1"},
		{name: "second alternative", world: "a 1 dep: b (>= 2) | c\nb 1\nc 1", want: "a", got: "a=1 c=1"},
		{name: "alternative that is needed anyhow", world: "a 1 dep: b | c, d\nb 1\nc 1\nd 1 dep: c", want: "a", got: "a=1 c=1 d=1"},
		{name: "alternative that leads nowhere", world: "a 1 dep: b | c\nb 1 dep: gone\nc 1", want: "a", got: "a=1 c=1"},
		{name: "virtual", world: "a 1 dep: mta\nexim 1 gives: mta\npostfix 1 gives: mta", want: "a", got: "a=1 exim=1"},
		{name: "real before virtual", world: "a 1 dep: awk\ngawk 1 gives: awk\nawk 1", want: "a", got: "a=1 awk=1"},
		{name: "default before virtual", world: "a 1 dep: default-mta | mta\nexim 1 gives: mta, default-mta\npostfix 1 gives: mta", want: "a", got: "a=1 exim=1"},
		{name: "virtual that is needed anyhow", world: "a 1 dep: x | mta, postfix\nexim 1 gives: mta\npostfix 1 gives: mta", want: "a", got: "a=1 postfix=1"},
		{name: "versioned provides", world: "a 1 dep: v (>= 2)\nb 1 gives: v\nc 1 gives: v (= 1)\nd 1 gives: v (= 2)", want: "a", got: "a=1 d=1"},
		{name: "provides without a version", world: "a 1 dep: v (>= 2)\nb 9 gives: v", want: "a", err: "a 1 needs v (>= 2), and the sources offer only b 9 in its place"},
		{name: "conflict", world: "a 1 dep: b | c\nb 1 not: d\nc 1\nd 1", want: "d; a", got: "a=1 c=1 d=1"},
		{name: "conflict by version", world: "a 1 dep: b\nb 1\nb 2 breaks: c (<< 2)\nc 1", want: "c; a", got: "a=1 b=1 c=1"},
		{name: "conflict with a provided name", world: "a 1 gives: mta; not: mta\nb 1 gives: mta; not: mta\nc 1 dep: mta", want: "a; c", got: "a=1 c=1"},
		{name: "two that exclude each other", world: "a 1 gives: mta; not: mta\nb 1 gives: mta; not: mta", want: "a; b", err: "b 1 excludes mta, and a 1 is needed"},
		{name: "versioned conflict against an unversioned provides", world: "a 1 gives: v\nb 1 not: v (<< 5)", want: "a; b", got: "a=1 b=1"},
		{name: "exact", world: "a 1\na 2", want: "a=1", got: "a=1"},
		{name: "exact in other words", world: "a 0:1.0-0\na 2", want: "a=1.0-0", got: "a=0:1.0-0"},
		{name: "exact that is not there", world: "a 1\na 2", want: "a=3", err: "a (= 3) is asked for, and the sources offer only a 2, a 1"},
		{name: "constraint", world: "a 1.26.3-1\na 1.28.0-1\na 1.24-1", want: "a~>= 1.26, < 1.28", got: "a=1.26.3-1"},
		{name: "constraint and suffixes", world: "a 2:8.2.20+dfsg-1~deb12u1\na 2:9.0~rc1-1", want: "a~>= 8.2", got: "a=2:8.2.20+dfsg-1~deb12u1"},
		{name: "pessimistic constraint", world: "a 1.26.3-1\na 1.27.0-1", want: "a~~> 1.26.0", got: "a=1.26.3-1"},
		{name: "constraint that nothing meets", world: "a 1.2-1", want: "a~>= 2", err: "a (>= 2) is asked for, and the sources offer only a 1.2-1"},
		{name: "no constraint", world: "a 1", want: "a~new", err: "no version constraint"},
		{name: "nothing of that name", world: "a 1", want: "b", err: "b is asked for, and no source offers it"},
		{name: "root is not taken from providers", world: "a 1 gives: b", want: "b", err: "b is asked for"},
		{name: "why", world: "nginx 1.22-9 dep: nginx-common (>= 1.23)\nnginx-common 1.22-9", want: "nginx", err: "nginx 1.22-9 needs nginx-common (>= 1.23), and the sources offer only nginx-common 1.22-9"},
		{name: "why, further down", world: "a 1 dep: b\nb 1 dep: c\nc 1 dep: d", want: "a", err: "c 1 needs d, and no source offers it (a needs b needs c)"},
		{name: "why, in the way", world: "a 1 dep: b (= 1)\nx 1 dep: b (= 2)\nb 1\nb 2", want: "a; x", err: "x 1 needs b (= 2), but b is already needed in version 1, by a 1"},
		{name: "without", world: "a 1 dep: debconf (>= 9) | debconf-2.0, perl, b\nb 1 dep: perl (>= 99)", want: "a", without: "debconf perl", got: "a=1 b=1"},
		{name: "without a virtual name", world: "a 1 dep: mta\nexim 1 gives: mta", want: "a", without: "mta", got: "a=1"},
		{name: "held", world: "a 1 dep: b\nb 1\nb 2", want: "a", held: "b=1", got: "a=1 b=1"},
		{name: "held too old", world: "a 1 dep: b (>= 2)\nb 1\nb 2", want: "a", held: "b=1", err: "a 1 needs b (>= 2), and the sources offer only b 1"},
		{name: "held and gone", world: "a 1 dep: b\nb 2", want: "a", held: "b=1", err: "b is held at 1, which the sources do not offer"},
		{name: "optional", world: "a 1\nb 1", want: "a; ?b", got: "a=1 b=1"},
		{name: "optional that cannot be had", world: "a 1\nb 1 dep: c", want: "a; ?b", got: "a=1", notes: "left out b: cannot resolve a, b: b 1 needs c"},
		{name: "optional does not push the others aside", world: "a 2\na 1\nb 1 not: a (>= 2)", want: "a=2; ?b", got: "a=2", notes: "left out b"},
		{name: "older version is told", world: "a 2 dep: gone\na 1", want: "a", got: "a=1", notes: "a 2 is passed over for 1: a 2 needs gone, and no source offers it"},
		{name: "other architectures", world: "a 1 dep: b:any, c:native, d [arm64], e [amd64], f:amd64\nb 1\nc 1\ne 1\nf 1", want: "a", got: "a=1 b=1 c=1 e=1 f=1"},
		{name: "dependency on another architecture", world: "a 1 dep: b:arm64\nb 1", want: "a", err: "a 1 needs b:arm64, and no source offers it"},
		{name: "conflict with another architecture", world: "a 1 not: b:arm64\nb 1", want: "a; b", got: "a=1 b=1"},
		{name: "relations that cannot be read", world: "a 2 dep: b (=\na 1\nb 1", want: "a", got: "a=1", notes: "a 2 is passed over"},
		{name: "self conflict", world: "a 2 not: a", want: "a", got: "a=2"},
		{name: "self dependency by a provided name", world: "a 1 dep: v; gives: v", want: "a", got: "a=1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ix := world(t, tc.world)
			req := Request{Roots: wants(tc.want), Without: strings.Fields(twice(tc.without)), Held: map[string]string{}}
			for _, h := range strings.Fields(twice(tc.held)) {
				n, v, _ := strings.Cut(h, "=")
				req.Held[n] = v
			}
			got, err := Resolve(ix, req)
			if tc.err != "" {
				require.ErrorIs(t, err, ErrUnresolved)
				require.ErrorContains(t, err, twice(tc.err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, twice(tc.got), names2(got))
			require.Contains(t, strings.Join(got.Notes, "\n"), twice(tc.notes))
			if tc.notes == "" {
				require.Empty(t, got.Notes)
			}
			require.NoError(t, consistent(got, req))
			again, err := Resolve(ix, req)
			require.NoError(t, err)
			require.Equal(t, got.Digest(), again.Digest())
			for _, p := range got.Packages {
				same, ok := got.Get(p.Package)
				require.True(t, ok)
				require.Equal(t, p, same)
			}
			_, ok := got.Get("zzz")
			require.False(t, ok)
		})
	}
}

// consistent checks a target without the solver: each relation of each package
// holds in it.
func consistent(t *Target, req Request) error {
	serves := func(r pkgs.Relation, p Package) bool {
		if p.Package == r.Name {
			return r.SatisfiedBy(p.Version)
		}
		list, _ := pkgs.ParseProvides(p.Provides)
		return slices.ContainsFunc(list, func(v pkgs.Relation) bool {
			return v.Name == r.Name && (r.Op == "" || v.Op != "" && r.SatisfiedBy(v.Version))
		})
	}
	for _, p := range t.Packages {
		for _, field := range []string{p.PreDepends, p.Depends} {
			d, err := pkgs.ParseDependency(field)
			if err != nil {
				return err
			}
			for _, alts := range d.For("amd64") {
				if !slices.ContainsFunc(alts, func(r pkgs.Relation) bool {
					return slices.Contains(req.Without, r.Name) || slices.ContainsFunc(t.Packages, func(q Package) bool { return serves(r, q) })
				}) {
					return fmt.Errorf("%s needs %s", p, alts)
				}
			}
		}
		for _, field := range []string{p.Conflicts, p.Breaks} {
			d, err := pkgs.ParseDependency(field)
			if err != nil {
				return err
			}
			for _, alts := range d.For("amd64") {
				for _, q := range t.Packages {
					if r := alts[0]; q.Package != p.Package && (r.Arch == "" || r.Arch == "any" || r.Arch == "amd64") && serves(r, q) {
						return fmt.Errorf("%s excludes %s", p, q)
					}
				}
			}
		}
	}
	return nil
}

func TestDigestTellsSetsApart(t *testing.T) {
	t.Parallel()
	one, err := Resolve(world(t, "a 1\nb 1"), Request{Roots: wants("a; b")})
	require.NoError(t, err)
	two, err := Resolve(world(t, "a 1\nb 2"), Request{Roots: wants("a; b")})
	require.NoError(t, err)
	turned, err := Resolve(world(t, "b 1\na 1"), Request{Roots: wants("b; a")})
	require.NoError(t, err)
	require.NotEqual(t, one.Digest(), two.Digest())
	require.Equal(t, one.Digest(), turned.Digest())
	require.Len(t, one.Digest(), 64)
}

// TestSearchIsBounded gives the solver what no search can do quickly: pigeons
// and holes. It must end, in time, with a word.
func TestSearchIsBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	const pigeons, holes = 12, 11
	var all []string
	for p := range pigeons {
		var alts []string
		for h := range holes {
			alts = append(alts, fmt.Sprintf("p%02dh%02d", p, h))
			var others []string
			for q := range pigeons {
				if q != p {
					others = append(others, fmt.Sprintf("p%02dh%02d", q, h))
				}
			}
			fmt.Fprintf(&b, "p%02dh%02d 1 not: %s\n", p, h, strings.Join(others, ", "))
		}
		fmt.Fprintf(&b, "pigeon%02d 1 dep: %s\n", p, strings.Join(alts, " | "))
		all = append(all, fmt.Sprintf("pigeon%02d", p))
	}
	start := time.Now()
	_, err := Resolve(world(t, b.String()), Request{Roots: wants(strings.Join(all, "; "))})
	require.ErrorIs(t, err, ErrUnresolved)
	require.ErrorContains(t, err, "steps")
	require.Less(t, time.Since(start), 10*time.Second)
}

// TestBackjump has an obstacle far from its cause: going back one choice at a
// time would try 3^30 sets.
func TestBackjump(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("bad 2 dep: z (= 2)\nbad 1\n")
	var roots []string
	for i := range 30 {
		for v := 1; v <= 3; v++ {
			fmt.Fprintf(&b, "free%02d %d\n", i, v)
		}
		roots = append(roots, fmt.Sprintf("free%02d", i))
	}
	b.WriteString("last 1 dep: z (= 1)\nz 1\nz 2\n")
	got, err := Resolve(world(t, b.String()), Request{Roots: wants("bad; " + strings.Join(roots, "; ") + "; last")})
	require.NoError(t, err)
	p, _ := got.Get("bad")
	require.Equal(t, "1", p.Version)
}

func TestBadEntryIsNotWorkedAround(t *testing.T) {
	t.Parallel()
	ix := world(t, "a 1\nb 1 dep: a")
	ix.bad["aa"] = "http://m.test s: the file name climbs"
	for _, root := range []string{"a", "b"} {
		_, err := Resolve(ix, Request{Roots: wants(root)})
		require.ErrorIs(t, err, ErrUnresolved)
		require.ErrorContains(t, err, "the file name climbs")
	}
}

func TestCheckConstraint(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{">= 1.26, < 1.28", "~> 1.26", "1.2", "!= 1.2"} {
		require.NoError(t, CheckConstraint(ok))
	}
	for _, bad := range []string{"", ">=", "new", ">= 1.2.", strings.Repeat(">= 1, ", 100) + ">= 1", "\x1b[2J"} {
		err := CheckConstraint(bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "\x1b")
	}
}

func TestUpstream(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"1.22.1-9+deb12u11":         "1.22.1",
		"2:8.2.20+dfsg-1":           "8.2.20",
		"1.26.0~rc1-1":              "1.26.0-rc1",
		"1:9.2p1-2":                 "9.2",
		"2.4.62-1~deb12u2":          "2.4.62",
		"20230311":                  "20230311",
		"1.0+really0.9-1":           "0.9",
		"0.0~git20230101.deadbee-1": "0.0-git20230101.deadbee",
	} {
		v, ok := upstream(in)
		require.True(t, ok, in)
		require.Equal(t, want, v.Original(), in)
	}
	_, ok := upstream("nonsense")
	require.False(t, ok)
}

func TestIndexOrder(t *testing.T) {
	t.Parallel()
	ix := world(t, "a 1\na 3@100\na 2\na 2\nb 1 gives: v\na 9@1 gives: v\nc 1 gives: v")
	var got []string
	for _, p := range ix.Versions("aa") {
		got = append(got, p.Version)
	}
	require.Equal(t, []string{"2", "1", "3", "9"}, got, "the same version and content comes once")
	got = nil
	for _, p := range ix.Providers("vv") {
		got = append(got, p.Package)
	}
	require.Equal(t, []string{"bb", "cc", "aa"}, got)
	require.Empty(t, ix.Versions("zzz"))
	require.Empty(t, ix.Providers("aa"))
	require.Equal(t, "http://m.test/bb_1.deb", ix.Versions("bb")[0].URL)
}
