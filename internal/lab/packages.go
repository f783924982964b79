package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PackagesOptions tell which packages.
type PackagesOptions struct {
	Names []string // what they need comes along; perl and its like do not, see skipped
	// Suite is the codename of a release of the host's archive, with its updates
	// and security updates, see OtherSuite; "" is the host's sources as they are.
	Suite string
	// Newest takes of each package the newest version that fits, else the oldest.
	Newest bool
}

// Packages is a folder of packages and of what they need. It is fetched once a
// day and shared by all test packages: never write in it.
//
// The test is skipped (or fails, see Need) where the archive is out of reach. A
// name that the archive does not have is an error of the test.
func Packages(t testing.TB, o PackagesOptions) string {
	t.Helper()
	a := suiteOf(t, o.Suite)
	var s packageSet
	err := withLock("sets", func() (err error) {
		dir := setDir(t, fmt.Sprintf("packages %q %s %v", o.Names, a.suite, o.Newest))
		s, err = cached(dir, "set.json", func(s packageSet) string { return s.Dir }, func(set string) (s packageSet, err error) {
			s.Dir = filepath.Join(set, "debs")
			s.Versions, err = a.fetch(s.Dir, o.Names, o.Newest)
			return s, err
		})
		return err
	})
	orEnd(t, strings.Join(o.Names, " "), err)
	return s.Dir
}

type packageSet struct {
	Dir      string
	Versions map[string]string
}

// PairOf is NginxPair for other packages: the oldest and the newest that the
// host's sources offer of each, with what they need. Of those that have one
// version only, the new side has a repacked one, together with all that is
// built from the same source: a higher version, programs and libraries with
// other bytes, which report another version where they report any.
func PairOf(t testing.TB, names ...string) Pair {
	t.Helper()
	a := suiteOf(t, "")
	var p Pair
	err := withLock("sets", func() (err error) {
		p, err = a.pairOf(setDir(t, fmt.Sprintf("pair %q", names)), names, false)
		return err
	})
	orEnd(t, strings.Join(names, " "), err)
	return p
}

func (a *apt) pairOf(dir string, names []string, repackAll bool) (Pair, error) {
	return cached(dir, "pair.json", func(p Pair) string { return p.New }, func(set string) (p Pair, err error) {
		p.Old, p.New = filepath.Join(set, "old"), filepath.Join(set, "new")
		old, err := a.fetch(p.Old, names, false)
		if err != nil {
			return p, err
		}
		fetched := p.New
		var same []string
		if repackAll {
			same, fetched = names, p.Old
		} else {
			versions, err := a.fetch(fetched, names, true)
			if err != nil {
				return p, err
			}
			p.NewVersion = versions[names[0]]
			for _, n := range names {
				if versions[n] == old[n] {
					same = append(same, n)
				}
			}
		}
		p.OldVersion = old[names[0]]
		if len(same) == 0 {
			return p, nil
		}
		p.Repacked = true
		p.New = filepath.Join(set, "bumped")
		bumped, err := bumpPackages(fetched, p.New, same)
		if v := bumped[names[0]]; v != "" {
			p.NewVersion = v
		}
		return p, err
	})
}

// HasPackage tells whether a suite has a package of that name ("" is the
// host's sources).
func HasPackage(t testing.TB, suite, name string) bool {
	t.Helper()
	v, err := suiteOf(t, suite).versions(name)
	return err == nil && len(v) > 0
}

// Versions lists the versions of a package that a suite has, oldest first.
func Versions(t testing.TB, suite, name string) []string {
	t.Helper()
	v, err := suiteOf(t, suite).versions(name)
	orEnd(t, name, err)
	return v
}

func suiteOf(t testing.TB, suite string) *apt {
	t.Helper()
	Need(t, "apt", "dpkg-deb")
	a, err := aptSuite(t, suite)
	if err != nil {
		missing(t, "the suite "+suite, err)
	}
	return a
}

// orEnd ends the test on an error: what does not exist is the test's fault,
// what cannot be had is the machine's.
func orEnd(t testing.TB, what string, err error) {
	t.Helper()
	if errors.Is(err, errNoPackage) {
		t.Fatalf("cannot get packages: %v", err)
	}
	if err != nil {
		missing(t, what, err)
	}
}

// setDir is the folder of the cache for one question. Those that nobody has
// asked for a week are swept.
func setDir(t testing.TB, key string) string {
	base := filepath.Join(Cache(t), "sets")
	sum := sha256.Sum256([]byte(key))
	dir := filepath.Join(base, hex.EncodeToString(sum[:8]))
	all, _ := os.ReadDir(base)
	for _, e := range all {
		if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > 7*fresh {
			os.RemoveAll(filepath.Join(base, e.Name()))
		}
	}
	if err := os.MkdirAll(dir, 0o755); err == nil {
		now := time.Now()
		_ = os.Chtimes(dir, now, now)
	}
	return dir
}
