package source

import (
	"bytes"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// debArch is Debian's name of the machine's architecture.
func debArch() string {
	switch runtime.GOARCH {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	}
	return runtime.GOARCH
}

// hostCodename is the release that the host runs, "" where it does not say.
func hostCodename(root string) string {
	data, err := readLimited(filepath.Join(root, "/etc/os-release"), 64<<10)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(data) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// pockets are the suites that go with a release.
func pockets() []string { return []string{"", "-updates", "-security"} }

// forSuite narrows the sources to suite, or moves those of the host's release
// to it.
func forSuite(all []entry, suite, host string) ([]entry, error) {
	if !suiteName.MatchString(suite) || strings.Contains(suite, "/") {
		return nil, fail(ErrSources, "", "%q is no suite", suite)
	}
	pocketOf := func(base string) func(entry) (string, bool) {
		return func(e entry) (string, bool) {
			p, ok := strings.CutPrefix(e.Suite, base)
			return p, ok && slices.Contains(pockets(), p)
		}
	}
	var out []entry
	is := pocketOf(suite)
	has := false
	for _, e := range all {
		if _, ok := is(e); ok {
			out = append(out, e)
			has = has || e.Suite == suite
		}
	}
	if has {
		return out, nil
	}
	if out = nil; host != "" {
		of := pocketOf(host)
		for _, e := range all {
			if p, ok := of(e); ok {
				e.Suite = suite + p
				out = append(out, e)
			}
		}
	}
	if !slices.ContainsFunc(out, func(e entry) bool { return e.Suite == suite }) {
		return nil, fail(ErrSources, "", "the apt sources offer no suite %s, and have none of this host's own release that could be asked for it", suite)
	}
	return out, nil
}

// merge makes one of the entries that mean one index: each of them may name
// other components.
func merge(all []entry) []entry {
	var out []entry
	for _, e := range all {
		i := slices.IndexFunc(out, func(o entry) bool {
			return o.dist() == e.dist() && o.Suite == e.Suite && slices.Equal(o.SignedBy, e.SignedBy) &&
				slices.Equal(o.Arches, e.Arches) && slices.Equal(o.NotArches, e.NotArches) && o.NoExpiry == e.NoExpiry && o.ByHash == e.ByHash
		})
		if i < 0 {
			out = append(out, e)
			continue
		}
		for _, c := range e.Components {
			if !slices.Contains(out[i].Components, c) {
				out[i].Components = append(slices.Clone(out[i].Components), c)
			}
		}
	}
	return out
}
