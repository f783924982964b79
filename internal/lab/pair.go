package lab

import (
	"path/filepath"
	"regexp"
	"testing"
)

// Pair is two sets of packages, each complete for a file jail with the server in
// it, as a folder of .deb files. The folders are shared: never write in them.
type Pair struct {
	Old, New               string
	OldVersion, NewVersion string // of nginx, or of the first package named; Old orders before New
	Repacked               bool   // New is Old under a higher version: the index has only one
}

// extras are packages that no dependency of nginx names and a jail still has
// files of: time zones, certificates, names of services, types of files, the
// shape of the tree.
var extras = [...]string{"tzdata", "ca-certificates", "openssl", "netbase", "media-types", "libc-bin", "base-files"}

// skipped packages serve only maintainer scripts and administrators; with them
// would come perl, awk and half of a system.
var skipped = regexp.MustCompile(`^(debconf|debconf-2\.0|cdebconf|perl.*|libperl.*|iproute2|init-system-helpers|lsb-base|sysvinit-utils|adduser|ucf|awk|mawk|gawk|procps|dpkg|systemd.*|libdebconfclient0|coreutils|dash|sed|cdebconf)$`)

// NginxPair is the oldest and the newest nginx that the host's sources offer,
// with their dependencies, oldest and newest as well. It is fetched once a day
// and shared by all test packages. Where the index has one version only, the
// new side is that one repacked with a higher version and another binary.
//
// The test is skipped (or fails, see Need) where the archive is out of reach.
func NginxPair(t testing.TB) Pair {
	t.Helper()
	Need(t, "apt", "dpkg-deb")
	a := &apt{dir: filepath.Join(Cache(t), "apt")}
	var p Pair
	err := withLock("pair", func() (err error) {
		p, err = a.pair(filepath.Join(Cache(t), "pair"), false)
		return err
	})
	if err != nil {
		missing(t, "an nginx of the archive", err)
	}
	return p
}

func (a *apt) pair(dir string, repack bool) (Pair, error) {
	return cached(dir, "pair.json", func(p Pair) string { return p.New }, func(set string) (p Pair, err error) {
		p.Old, p.New = filepath.Join(set, "old"), filepath.Join(set, "new")
		if p.OldVersion, err = a.fetchSet(p.Old, false); err != nil {
			return p, err
		}
		if repack {
			p.NewVersion = p.OldVersion
		} else if p.NewVersion, err = a.fetchSet(p.New, true); err != nil {
			return p, err
		}
		if p.NewVersion == p.OldVersion {
			p.Repacked = true
			p.NewVersion, err = bumpSet(p.Old, p.New)
		}
		return p, err
	})
}

// fetchSet downloads nginx and what it needs, each in the newest or the oldest
// version that the index offers and that the others allow.
func (a *apt) fetchSet(dir string, newest bool) (string, error) {
	chosen, err := a.fetch(dir, []string{"nginx"}, newest)
	return chosen["nginx"], err
}
