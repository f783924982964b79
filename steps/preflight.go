package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/util"
	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// preflight finds out whether an upgrade can begin, and records how the old
// server is: the new one is judged against that.
type preflight struct{ e *Env }

func (s *preflight) Name() string { return "preflight" }

func (s *preflight) Do(ctx context.Context, run *Run) error {
	e := s.e
	if err := CheckJail(e.Root, e.Recipe); err != nil {
		return err
	}
	if run.Facts.Verb != "rollback" { // which goes by what the jail was, and names nothing
		if err := e.checkNamed(); err != nil {
			return err
		}
	}
	if err := sys.MkdirAll(e.RunDir(), 0o700); err != nil {
		return err
	}
	if err := e.sweep(ctx); err != nil {
		return err
	}
	// A way back is tried on a full disk as well.
	if run.Facts.Verb == "upgrade" {
		if err := e.needRoom(stateRoom, "the record of the run", e.StateDir, "keep it elsewhere: --state-dir DIR"); err != nil {
			return err
		}
	}
	if util.IsRunningSystemd() {
		e.note(event.Info, "this host runs systemd; this version stops and starts the server by its processes, not by its unit", "")
	}
	var err error
	if e.old, err = manifest.Load(e.StateDir); err != nil {
		return err
	}
	if err := e.checkSame(); err != nil {
		return err
	}
	if last, err := LoadLast(e.StateDir); err == nil && last != nil {
		run.Facts.PrevStage = last.Stage
	}
	root, err := e.StageRoot()
	if err != nil {
		return err
	}
	run.Facts.Stage = filepath.Join(root, e.Run)
	if err := e.baselineNow(ctx, run); err != nil {
		return err
	}
	return e.survey()
}

// takenBy tells on which of its addresses somebody answers though the server is
// down; "" where nobody does.
func (u *unit) takenBy(ctx context.Context) string {
	conf, err := u.configuration()
	if err != nil {
		return ""
	}
	var t checks.Target
	conf.fill(&t)
	ctx, end := context.WithTimeout(ctx, 5*time.Second) // for all of them together
	defer end()
	for _, l := range t.Listens {
		if l.Network == "udp" {
			continue
		}
		look, cancel := context.WithTimeout(ctx, time.Second)
		answers := checks.Answered(look, u.e.Root, l)
		cancel()
		if answers {
			return l.String()
		}
	}
	return ""
}

// checkSame refuses a server that this jail was not built for.
func (e *Env) checkSame() error {
	if e.old == nil || e.old.Server == "" {
		return nil
	}
	if _, ok := e.Recipe.Part(e.old.Server); !ok {
		return fail(ErrUsage, "", "cannot upgrade %s: jail %s holds %s", e.Recipe.Name, e.Root.Path(), e.old.Server)
	}
	return nil
}

func (s *preflight) Undo(context.Context, *Run) error { return nil }

// sweep removes what interrupted runs left behind: stages that no rollback
// needs, copies without a name.
func (e *Env) sweep(ctx context.Context) error {
	if err := e.sweepStages(); err != nil {
		return err
	}
	if e.Store != nil {
		if _, err := e.Store.Sweep(ctx); err != nil {
			e.note(event.Warning, err.Error(), "")
		}
	}
	return nil
}

// kernelNeeds is the oldest kernel whose openat2, renameat2 and statx do all
// that jailup asks of them.
var kernelNeeds = [2]int{5, 10}

// CheckJail refuses what jailup cannot work on: what CheckKind refuses, and a
// directory without the server.
func CheckJail(root *jail.Root, r *recipes.Recipe) error {
	if err := CheckKind(root); err != nil {
		return err
	}
	main := r.Parts()[len(r.Parts())-1]
	if main.IsOnHost() || Holds(root, main) {
		return nil
	}
	return NoServer(root, main.Executables)
}

// checkNamed refuses a server that the jail has not, beside one that it has: PHP-FPM
// goes along with nginx, and where there is none nginx is not what was asked for.
func (e *Env) checkNamed() error {
	named := e.Options.Named
	if named == "" || e.Recipe.IsOnHost() {
		return nil
	}
	if _, ok := e.Recipe.Part(named); ok {
		return nil
	}
	return fail(nil, "upgrade brings in modules only; build a new jail with it: jailup create "+e.Recipe.Name+" --with "+named+" --jail DIR",
		"cannot work on jail %s: it holds no %s", e.Root.Path(), named)
}

// Holds tells whether a jail has one of the executables of a recipe.
func Holds(root *jail.Root, r *recipes.Recipe) bool {
	_, ok := editionIn(viewOf(root), r)
	return ok
}

// NoServer says that a jail has none of these executables.
func NoServer(root *jail.Root, executables []string) error {
	const hint = "look at what lies there; to build a jail elsewhere: jailup create SERVER --jail DIR"
	for _, file := range executables {
		if link, target := leadingAway(root, file); link != "" {
			return fail(nil, hint, "cannot work on jail %s: it holds no %s: %s is a link to %s, where the jail has none",
				root.Path(), executablesOf([]string{file}), link, event.Clean(target, 200))
		}
	}
	return fail(nil, hint, "cannot work on jail %s: it holds no %s", root.Path(), executablesOf(executables))
}

func executablesOf(list []string) string {
	return strings.ReplaceAll(strings.Join(list, ", "), "{series}", "*")
}

// leadingAway is the first link on the way to a file, and where it points; "" where
// there is none.
func leadingAway(root *jail.Root, file string) (link, target string) {
	at := ""
	for _, name := range strings.Split(strings.Trim(file, "/"), "/") {
		at += "/" + name
		target, err := root.Readlink(at)
		if err != nil {
			continue // no link
		}
		if _, err := root.Stat(at); err != nil {
			return at, target
		}
	}
	return "", ""
}

// CheckKind refuses an old kernel, and a jail with a package database.
func CheckKind(root *jail.Root) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		var major, minor int
		if n, _ := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); n == 2 &&
			(major < kernelNeeds[0] || major == kernelNeeds[0] && minor < kernelNeeds[1]) {
			return fail(nil, "", "cannot work here: the kernel is %d.%d, at least %d.%d is needed", major, minor, kernelNeeds[0], kernelNeeds[1])
		}
	}
	for _, db := range []string{"/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages", "/usr/lib/sysimage/rpm/rpmdb.sqlite", "/lib/apk/db/installed"} {
		if root.Exists(db) {
			return fail(nil, "upgrade it with its own package manager: chroot "+root.Path()+" apt-get upgrade",
				"cannot work on jail %s: it is a package jail, with a database at %s, which this version does not upgrade", root.Path(), db)
		}
	}
	return nil
}

// baselineNow records how the old servers run and answer.
func (e *Env) baselineNow(ctx context.Context, run *Run) error {
	var down []string
	for _, u := range e.servers() {
		server, err := u.learn(ctx)
		if err != nil {
			return err
		}
		if !server.Running() {
			down = append(down, u.name())
		}
		u.tellLost(server)
		conf, err := u.configuration()
		if err != nil {
			e.note(event.Warning, fmt.Sprintf("cannot read the configuration of %s: %v", u.name(), err), "")
		}
		if a, ok := conf.(apacheSite); ok {
			for _, w := range a.Warnings() {
				e.note(event.Info, "the configuration of "+u.name()+": "+event.Clean(w, 300), "")
			}
		}
	}
	down = slices.DeleteFunc(down, func(name string) bool {
		u := e.unit(name)
		by := u.takenBy(ctx)
		if u.facts.Taken = by != ""; u.facts.Taken {
			e.note(event.Warning, fmt.Sprintf("%s is down, and somebody else answers on its address %s: it is upgraded, and not started for the checks", name, by), "")
		}
		return u.facts.Taken
	})
	for _, part := range e.Recipe.Parts() {
		if part.PHP.INI == "" {
			continue
		}
		if ini, err := phpconf.ReadIni(rootTree{e.Root}, part.PHP.INI, part.PHP.Scan, part.PHP.Extensions); err == nil {
			e.tellINI(ini)
		}
	}
	e.saveServers(&run.Facts)
	if len(down) > 0 {
		are, them := "is", "it"
		if len(down) > 1 {
			are, them = "are", "they"
		}
		e.note(event.Info, fmt.Sprintf("%s %s down; %s will be started for the checks and left down", strings.Join(down, ", "), are, them), "")
	}
	report := checks.Report{Down: true}
	if e.anyRunning() {
		set, err := e.checkSet(before, everyone)
		if err != nil {
			return err
		}
		report = checks.BaselineEvery(ctx, set.Checks(), e.Options.Looks)
		for _, n := range set.Notes() {
			e.note(event.Info, n, "")
		}
		for _, r := range report.With(checks.Unhealthy) {
			e.Events.Check(r.Name, event.CheckBefore, r.Detail)
		}
	}
	e.baseline = &report
	return e.saveJSON("baseline.json", report)
}

func (e *Env) saveJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("cannot save %s: %w", name, err)
	}
	return sys.WriteFileAtomic(e.file(name), append(data, '\n'), 0o600)
}

func (e *Env) loadJSON(name string, v any) error {
	data, err := os.ReadFile(e.file(name))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// before returns the baseline, from memory or from the run's folder.
func (e *Env) before() checks.Report {
	if e.baseline == nil {
		var r checks.Report
		if err := e.loadJSON("baseline.json", &r); err != nil {
			r = checks.Report{Down: true}
		}
		e.baseline = &r
	}
	return *e.baseline
}

// Last is what the next rollback needs: the run whose changeset is installed.
type Last struct {
	Run      string            `json:"run"`
	Stage    string            `json:"stage"`
	Snapshot string            `json:"snapshot,omitempty"`
	From     map[string]string `json:"from,omitempty"`
	To       map[string]string `json:"to,omitempty"`
}

// LoadLast reads it; nil where nothing was installed yet. One that names no run
// is damaged, and an error.
func LoadLast(stateDir string) (*Last, error) {
	data, err := os.ReadFile(filepath.Join(stateDir, "last.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was installed last: %w", err)
	}
	var l Last
	err = json.Unmarshal(data, &l)
	if err == nil && !fileset.IsRun(l.Run) {
		err = errors.New("it names no run")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was installed last: %s is damaged: %w", filepath.Join(stateDir, "last.json"), err)
	}
	return &l, nil
}

func (l *Last) save(stateDir string) error {
	data, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return err
	}
	return sys.WriteFileAtomic(filepath.Join(stateDir, "last.json"), append(data, '\n'), 0o600)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
