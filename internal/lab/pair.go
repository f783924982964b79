package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Pair is two sets of packages, each complete for a file jail with nginx in
// it, as a folder of .deb files. The folders are shared: never write in them.
type Pair struct {
	Old, New               string
	OldVersion, NewVersion string // of the package nginx; Old orders before New
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

// pair returns what was fetched today, or fetches it into a new folder and
// then lets the note point there: a reader never sees half a set. What it
// replaces is kept for a day, since another run may be reading it.
func (a *apt) pair(dir string, repack bool) (Pair, error) {
	note := filepath.Join(dir, "pair.json")
	var p Pair
	b, rerr := os.ReadFile(note)
	if rerr == nil {
		rerr = json.Unmarshal(b, &p)
	}
	if rerr == nil {
		_, rerr = os.Stat(p.New)
	}
	if fi, err := os.Stat(note); rerr == nil && err == nil && time.Since(fi.ModTime()) < fresh {
		return p, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Pair{}, err
	}
	old, _ := filepath.Glob(filepath.Join(dir, "set-*"))
	for _, d := range old {
		if fi, err := os.Stat(d); err == nil && time.Since(fi.ModTime()) > 2*fresh && d != filepath.Dir(p.Old) {
			os.RemoveAll(d)
		}
	}
	made, err := a.fetchPair(dir, repack)
	if err != nil {
		if rerr == nil {
			return p, nil // yesterday's set is better than none
		}
		return Pair{}, err
	}
	if b, err = json.Marshal(made); err != nil {
		return Pair{}, err
	}
	if err := os.WriteFile(note+".tmp", b, 0o644); err != nil {
		return Pair{}, err
	}
	return made, os.Rename(note+".tmp", note)
}

func (a *apt) fetchPair(dir string, repack bool) (p Pair, err error) {
	set, err := os.MkdirTemp(dir, "set-")
	if err != nil {
		return p, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(set)
		}
	}()
	if err = os.Chmod(set, 0o755); err != nil {
		return p, err
	}
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
}

// fetchSet downloads nginx and what it needs, each in the newest or the oldest
// version that the index offers and that the others allow.
func (a *apt) fetchSet(dir string, newest bool) (string, error) {
	chosen, err := a.closure(newest)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	args := []string{"-q", "download"}
	for name, version := range chosen {
		args = append(args, name+"="+version)
	}
	if out, err := a.run(dir, "apt-get", args...); err != nil {
		return "", fmt.Errorf("cannot download packages: %w: %s", err, tail(out))
	}
	debs, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	if len(debs) != len(chosen) {
		return "", fmt.Errorf("%d packages asked for, %d came", len(chosen), len(debs))
	}
	return chosen["nginx"], nil
}

// closure follows Depends and Pre-Depends from nginx and the extras. It is no
// resolver: it takes the first alternative that exists, and for each package
// the version at its end of the list that meets the constraints seen so far.
func (a *apt) closure(newest bool) (map[string]string, error) {
	chosen := map[string]string{}
	wants := map[string][]constraint{}
	todo := append([]string{"nginx"}, extras[:]...)
	for len(todo) > 0 {
		stanzas, err := a.show(todo...)
		if err != nil {
			return nil, err
		}
		var next []string
		for _, name := range todo {
			s, err := pick(stanzas, name, wants[name], newest)
			if err != nil && name != "nginx" && len(wants[name]) == 0 {
				continue // an extra of another release, or a virtual name
			} else if err != nil {
				return nil, err
			}
			chosen[name] = s["Version"]
			for _, c := range parseDepends(s["Pre-Depends"] + "," + s["Depends"]) {
				if skipped.MatchString(c.name) {
					continue
				}
				wants[c.name] = append(wants[c.name], c)
				if v, ok := chosen[c.name]; ok {
					if !c.holds(v) {
						return nil, fmt.Errorf("%s needs %s %s %s, but %s was taken", name, c.name, c.op, c.version, v)
					}
					continue
				}
				next = appendNew(next, c.name)
			}
		}
		todo = next
	}
	for name := range chosen {
		for _, c := range wants[name] {
			if !c.holds(chosen[name]) {
				return nil, fmt.Errorf("no set of versions: %s %s does not meet %s %s", name, chosen[name], c.op, c.version)
			}
		}
	}
	return chosen, nil
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

func pick(stanzas []stanza, name string, wants []constraint, newest bool) (stanza, error) {
	var best stanza
	for _, s := range stanzas {
		// An nginx of another vendor is built in another shape.
		if s["Package"] != name || name == "nginx" && !strings.Contains(s["Depends"], "nginx-common") {
			continue
		}
		ok := true
		for _, c := range wants {
			ok = ok && c.holds(s["Version"])
		}
		op := "lt"
		if newest {
			op = "gt"
		}
		if ok && (best == nil || versionIs(s["Version"], op, best["Version"])) {
			best = s
		}
	}
	if best == nil {
		return nil, errors.New("the index offers no " + name + " that fits")
	}
	return best, nil
}

type constraint struct{ name, op, version string }

func (c constraint) holds(v string) bool {
	if c.op == "" {
		return true
	}
	op := map[string]string{"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}[c.op]
	return op != "" && versionIs(v, op, c.version)
}

var dependency = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+)(?::[a-z]+)?(?:\s*\(\s*(<<|<=|=|>=|>>)\s*([^)\s]+)\s*\))?`)

// parseDepends reads a relationship field (Debian Policy 7.1), taking the first
// of each set of alternatives.
func parseDepends(field string) []constraint {
	var all []constraint
	for _, part := range strings.Split(field, ",") {
		first, _, _ := strings.Cut(strings.TrimSpace(part), "|")
		if m := dependency.FindStringSubmatch(strings.TrimSpace(first)); m != nil {
			all = append(all, constraint{m[1], m[2], m[3]})
		}
	}
	return all
}
