package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fresh is how long an index and what was fetched by it are taken as current.
const fresh = 24 * time.Hour

// apt runs apt's own programs on a private root: lists, caches and settings in
// a folder of the test cache, sources and keyrings those of the host, or those
// of another suite of its archive. So it needs no root, and the host's apt state
// stays as it is.
type apt struct {
	dir     string // of the test cache
	suite   string // "" for the host's own sources
	sources string // where suite is set: the sources, in apt's one-line form
}

// aptRoot brings the index up to date, at most once a day and once for all
// test packages that run at the same time.
func aptRoot(t testing.TB) (*apt, error) {
	a := &apt{dir: filepath.Join(Cache(t), "apt")}
	return a, withLock("apt", a.update)
}

// aptSuite is aptRoot for a suite of the host's archive; "" and the host's own
// are the host's sources as they are.
func aptSuite(t testing.TB, suite string) (*apt, error) {
	host, err := aptRoot(t)
	if err != nil || suite == "" {
		return host, err
	}
	archive, err := host.archive()
	if err != nil {
		return nil, err
	}
	if suite == archive.codename {
		return host, nil
	}
	a := &apt{dir: filepath.Join(Cache(t), "apt-"+suite), suite: suite, sources: archive.sources(suite)}
	return a, withLock("apt-"+suite, a.update)
}

func (a *apt) update() error {
	stamp := filepath.Join(a.dir, "updated")
	if fi, err := os.Stat(stamp); err == nil && time.Since(fi.ModTime()) < fresh {
		return nil
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "empty", "log"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := a.writeConf(); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(a.dir, "left-out")); err != nil {
		return err
	}
	// A third-party source that does not answer must not stop the tests: what
	// counts is whether nginx is in the index afterwards.
	out, uerr := a.run("", "apt-get", "-q", "update")
	versions, err := a.versions("nginx")
	if err == nil && len(versions) > 0 {
		return os.WriteFile(stamp, nil, 0o644)
	}
	if uerr != nil && a.suite != "" {
		return fmt.Errorf("cannot read the suite %s of this machine's archive: %w: %s", a.suite, uerr, tail(out))
	}
	if uerr != nil {
		return fmt.Errorf("cannot update the package index: %w: %s", uerr, tail(out))
	}
	return fmt.Errorf("the apt sources of this machine offer no nginx: %s", tail(out))
}

// writeConf takes over how the host reaches its mirrors (proxies, time-outs,
// time checks), but none of its hooks: a host may delete its package cache
// after every update.
func (a *apt) writeConf() error {
	dump, err := exec.Command("apt-config", "dump").Output()
	if err != nil {
		return fmt.Errorf("cannot read apt's settings: %w", err)
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(dump)) {
		if strings.HasPrefix(line, "Acquire::") && !strings.HasPrefix(line, "Acquire::IndexTargets") {
			b.WriteString(line)
		}
	}
	status := filepath.Join(a.dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(&b, "Dir::Etc::parts %q;\nDir::Etc::main \"/dev/null\";\n", filepath.Join(a.dir, "empty"))
	fmt.Fprintf(&b, "Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts %q;\n", filepath.Join(a.dir, "empty"))
	fmt.Fprintf(&b, "Dir::State %q;\nDir::State::lists %q;\nDir::State::status %q;\n", a.dir, filepath.Join(a.dir, "lists"), status)
	fmt.Fprintf(&b, "Dir::Cache %q;\nDir::Log %q;\n", filepath.Join(a.dir, "cache"), filepath.Join(a.dir, "log"))
	if a.suite != "" {
		list := filepath.Join(a.dir, "sources.list")
		if err := os.WriteFile(list, []byte(a.sources), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&b, "Dir::Etc::sourcelist %q;\nDir::Etc::sourceparts %q;\n", list, filepath.Join(a.dir, "empty"))
		// A release that is no longer looked after has an index that expired.
		b.WriteString("Acquire::Check-Valid-Until \"false\";\n")
	}
	b.WriteString("APT::Sandbox::User \"\";\nAcquire::Languages { \"none\"; };\nAcquire::Retries \"3\";\n")
	return os.WriteFile(filepath.Join(a.dir, "apt.conf"), b.Bytes(), 0o644)
}

func (a *apt) run(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// stanza is one package of the index.
type stanza map[string]string

// show lists every version of the packages that the index knows, for the
// machine's own architecture.
func (a *apt) show(names ...string) ([]stanza, error) {
	out, err := a.run("", "apt-cache", append([]string{"show", "--"}, names...)...)
	stanzas := parseStanzas(out)
	if err != nil && len(stanzas) == 0 && !strings.Contains(out, "No packages found") {
		return nil, fmt.Errorf("apt-cache show %s: %w: %s", strings.Join(names, " "), err, tail(out))
	}
	without := a.leftOut()
	return slices.DeleteFunc(stanzas, func(s stanza) bool { return slices.Contains(without, s.build()) }), nil
}

// build is what the package was built from, and which version of it: packages
// of one build need one another.
func (s stanza) build() string {
	source := s["Package"]
	if f := strings.Fields(s["Source"]); len(f) > 0 {
		source = f[0]
	}
	return source + " " + s["Version"]
}

// leftOut are the builds that the archive does not have whole, though its index
// says so; see leaveOut.
func (a *apt) leftOut() []string {
	b, err := os.ReadFile(filepath.Join(a.dir, "left-out"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// leaveOut notes the builds of packages, until the index is read anew.
func (a *apt) leaveOut(names []string, versions map[string]string) error {
	stanzas, err := a.show(names...)
	if err != nil {
		return err
	}
	out := a.leftOut()
	before := len(out)
	for _, s := range stanzas {
		if slices.Contains(names, s["Package"]) && s["Version"] == versions[s["Package"]] {
			out = appendNew(out, s.build())
		}
	}
	if len(out) == before {
		return fmt.Errorf("cannot get %s", strings.Join(names, " "))
	}
	return os.WriteFile(filepath.Join(a.dir, "left-out"), []byte(strings.Join(out, "\n")+"\n"), 0o644)
}

// parseStanzas reads deb822 text, of which only one-line fields are used.
func parseStanzas(text string) []stanza {
	var all []stanza
	cur := stanza{}
	for line := range strings.Lines(text + "\n\n") {
		line = strings.TrimSuffix(line, "\n")
		switch k, v, ok := strings.Cut(line, ":"); {
		case line == "":
			if cur["Package"] != "" {
				all = append(all, cur)
			}
			cur = stanza{}
		case ok && line[0] != ' ' && line[0] != '\t' && !strings.Contains(k, " "):
			cur[k] = strings.TrimSpace(v)
		}
	}
	return all
}

// versions of one package, oldest first, each once.
func (a *apt) versions(name string) ([]string, error) {
	stanzas, err := a.show(name)
	if err != nil {
		return nil, err
	}
	var v []string
	for _, s := range stanzas {
		if s["Package"] == name && !slices.Contains(v, s["Version"]) {
			v = append(v, s["Version"])
		}
	}
	sortVersions(v)
	return v, nil
}

// sortVersions asks dpkg, the only judge of the order.
func sortVersions(v []string) {
	slices.SortFunc(v, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case versionIs(a, "lt", b):
			return -1
		}
		return 1
	})
}

func versionIs(a, op, b string) bool {
	return exec.Command("dpkg", "--compare-versions", a, op, b).Run() == nil
}

func tail(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return strings.Join(lines, " | ")
}
