package pkgs

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	dpkg "pault.ag/go/debian/version"
)

// A Version is a Debian package version, Policy 5.6.12:
// [epoch:]upstream[-revision].
type Version struct {
	Epoch    uint32 // 0 where none is written
	Upstream string // never empty
	Revision string // "" in a native package
}

// ParseVersion takes a version that follows the policy, which is somewhat less
// than what other parsers let pass: the upstream part starts with a digit, an
// epoch and a revision that are announced are not empty, and the epoch fits
// where dpkg keeps it (31 bits).
func ParseVersion(s string) (Version, error) {
	var v Version
	bad := func(why string) (Version, error) {
		return Version{}, fmt.Errorf("%s is no version: %s", quote(s), why)
	}
	if s == "" {
		return Version{}, errors.New("empty version")
	}
	if len(s) > 256 {
		return bad("too long")
	}
	v.Upstream = s
	if i := strings.IndexByte(s, ':'); i >= 0 {
		epoch := s[:i]
		n, err := strconv.ParseUint(epoch, 10, 32)
		if err != nil || n > math.MaxInt32 || epoch[0] == '+' {
			return bad("bad epoch")
		}
		v.Epoch, v.Upstream = uint32(n), s[i+1:]
	}
	if i := strings.LastIndexByte(v.Upstream, '-'); i >= 0 {
		v.Upstream, v.Revision = v.Upstream[:i], v.Upstream[i+1:]
		if v.Revision == "" {
			return bad("empty revision")
		}
	}
	if v.Upstream == "" || !digit(v.Upstream[0]) {
		return bad("does not start with a digit")
	}
	for i := range len(v.Upstream) {
		if c := v.Upstream[i]; !versionChar(c) && c != '-' && c != ':' {
			return bad("strange character")
		}
	}
	for i := range len(v.Revision) {
		if !versionChar(v.Revision[i]) {
			return bad("strange character in the revision")
		}
	}
	return v, nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func versionChar(c byte) bool {
	return digit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '.' || c == '+' || c == '~'
}

// Compare returns -1, 0 or +1 as v is older than, the same as, or newer than w
// in dpkg's order. "The same" does not mean equal text: 1.0 and 0:1.00 are.
//
// The order is pault.ag/go/debian's, which the tests hold against dpkg itself.
func (v Version) Compare(w Version) int {
	n := dpkg.Compare(
		dpkg.Version{Epoch: uint(v.Epoch), Version: v.Upstream, Revision: v.Revision},
		dpkg.Version{Epoch: uint(w.Epoch), Version: w.Upstream, Revision: w.Revision})
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// String returns the version as Debian writes it, without an epoch of 0 unless
// a colon in the upstream part would be taken for its end.
func (v Version) String() string {
	s := v.Upstream
	if v.Epoch > 0 || strings.IndexByte(s, ':') >= 0 {
		s = strconv.FormatUint(uint64(v.Epoch), 10) + ":" + s
	}
	if v.Revision != "" {
		s += "-" + v.Revision
	}
	return s
}

// UpstreamOnly returns what the software calls itself: the upstream part,
// without what packagers append to it when they repack (+dfsg, ~ds1, +repack)
// and, where they went back to an older release (2.0+really1.9), that release.
func (v Version) UpstreamOnly() string {
	s := v.Upstream
	if _, after, ok := strings.Cut(s, "+really"); ok && after != "" && digit(after[0]) {
		s = after
	}
	for i := 1; i < len(s); i++ {
		if s[i] != '+' && s[i] != '~' && s[i] != '.' {
			continue
		}
		for _, mark := range []string{"dfsg", "ds", "repack"} {
			rest, ok := strings.CutPrefix(s[i+1:], mark)
			if ok && strings.Trim(rest, ".0123456789") == "" {
				return s[:i]
			}
		}
	}
	return s
}

// CompareVersions is Version.Compare of two versions in text.
func CompareVersions(a, b string) (int, error) {
	v, err := ParseVersion(a)
	if err != nil {
		return 0, err
	}
	w, err := ParseVersion(b)
	if err != nil {
		return 0, err
	}
	return v.Compare(w), nil
}
