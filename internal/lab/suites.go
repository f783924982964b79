package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// archive is where the host's own distribution comes from.
type archive struct {
	codename string // of the host's release: "bookworm"
	id       string // of the distribution, as os-release(5) has it: "debian"
	places   []place
}

// place is one suite of a repository.
type place struct{ uri, suffix, component string }

// archive reads from the host's sources which of them are the distribution's.
func (a *apt) archive() (*archive, error) {
	release, err := osRelease()
	if err != nil {
		return nil, err
	}
	ar := &archive{codename: release["VERSION_CODENAME"], id: release["ID"]}
	if ar.codename == "" {
		return nil, errors.New("cannot tell the release of this machine: os-release has no VERSION_CODENAME")
	}
	out, err := a.run("", "apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("cannot list the sources of this machine: %w: %s", err, tail(out))
	}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 5 || !strings.EqualFold(f[0], ar.id) {
			continue // another vendor's
		}
		for _, name := range f[2:4] { // a source may say "stable", or "stable-security"
			if suffix, ok := strings.CutPrefix(name, ar.codename); ok {
				p := place{f[1], suffix, f[4]}
				if !slices.Contains(ar.places, p) {
					ar.places = append(ar.places, p)
				}
				break
			}
		}
	}
	if len(ar.places) == 0 {
		return nil, errors.New("the apt sources of this machine name nothing of " + ar.id + " " + ar.codename)
	}
	return ar, nil
}

// sources are the same places for another suite: release, updates, security.
func (ar *archive) sources(suite string) string {
	signed := ""
	var keys []string
	for _, ending := range []string{".gpg", ".pgp"} {
		found, _ := filepath.Glob("/usr/share/keyrings/" + ar.id + "-archive-keyring" + ending)
		keys = append(keys, found...)
	}
	if len(keys) > 0 {
		signed = "[signed-by=" + strings.Join(keys, ",") + "] "
	}
	var b strings.Builder
	for _, p := range ar.places {
		fmt.Fprintf(&b, "deb %s%s %s%s %s\n", signed, p.uri, suite, p.suffix, p.component)
	}
	return b.String()
}

// OtherSuite names a release of the host's archive: 0 is the host's own, 1 the
// one after it, -1 the one before. The test is skipped (or fails, see Need)
// where there is none, or the archive is out of reach.
func OtherSuite(t testing.TB, rel int) string {
	t.Helper()
	Need(t, "apt")
	a := &apt{dir: filepath.Join(Cache(t), "apt")}
	ar, err := a.archive()
	var names []string
	if err == nil {
		err = withLock("releases", func() (err error) { names, err = a.releases(ar); return err })
	}
	if err != nil {
		missing(t, "the releases of the archive", err)
	}
	at := slices.Index(names, ar.codename) + rel
	if at < 0 || at >= len(names) {
		missing(t, "another release", fmt.Errorf("the archive of %s %s has none at %+d (it has %s)", ar.id, ar.codename, rel, strings.Join(names, ", ")))
	}
	return names[at]
}

// releases lists the codenames of the archive's releases, oldest first, the
// host's own among them. Debian's archive has names that follow its releases;
// elsewhere the host's table of releases is asked, where it has one.
func (a *apt) releases(ar *archive) ([]string, error) {
	note := filepath.Join(a.dir, "releases")
	if fi, err := os.Stat(note); err == nil && isFresh(fi) {
		b, err := os.ReadFile(note)
		return strings.Fields(string(b)), err
	}
	names := fromTable(ar)
	if len(names) == 0 {
		for _, alias := range []string{"oldoldstable", "oldstable", "stable", "testing"} {
			if name := a.codenameOf(ar.places[0].uri, alias); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if !slices.Contains(names, ar.codename) {
		return nil, fmt.Errorf("cannot find %s among the releases of its archive (%s)", ar.codename, strings.Join(names, ", "))
	}
	return names, os.WriteFile(note, []byte(strings.Join(names, "\n")+"\n"), 0o644)
}

// codenameOf reads the Release file of a suite, or returns "". It is only a
// name: whoever then reads that suite lets apt verify it.
func (a *apt) codenameOf(uri, suite string) string {
	dir, err := os.MkdirTemp("", "release-")
	if err != nil {
		return ""
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "Release")
	if _, err := a.run(dir, "/usr/lib/apt/apt-helper", "download-file", strings.TrimSuffix(uri, "/")+"/dists/"+suite+"/Release", file); err != nil {
		return ""
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "Codename:"); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

// fromTable reads the table of releases that distro-info-data ships for a
// distribution whose archive has no names for "the one before": the releases
// that are still looked after, which are those that a mirror holds.
func fromTable(ar *archive) []string {
	if ar.id == "debian" {
		return nil
	}
	b, err := os.ReadFile("/usr/share/distro-info/" + ar.id + ".csv")
	if err != nil {
		return nil
	}
	var names []string
	column := map[string]int{}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ",")
		if len(column) == 0 {
			for i, name := range f {
				column[name] = i
			}
			continue
		}
		at := func(name string) string {
			if i, ok := column[name]; ok && i < len(f) {
				return f[i]
			}
			return ""
		}
		if released := at("release"); released != "" && released <= today() && at("eol") >= today() || at("series") == ar.codename {
			names = append(names, at("series"))
		}
	}
	return names
}

func osRelease() (map[string]string, error) {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return nil, fmt.Errorf("cannot tell the release of this machine: %w", err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			fields[k] = strings.Trim(v, `"'`)
		}
	}
	return fields, nil
}
