package steps

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lazyregexp"
)

// rehearse tests the jail's configuration with the new server, on a throw-away
// view of the jail with the staged files. The control is the old server in the
// same kind of view: what it does not pass either is not the new one's fault.
type rehearse struct{ e *Env }

func (s *rehearse) Name() string { return "rehearse" }

func (s *rehearse) Do(ctx context.Context, run *Run) error {
	e := s.e
	if !e.Options.Rehearse {
		e.Events.StepSkip("rehearse", "switched off")
		return nil
	}
	for _, u := range e.servers() {
		if err := u.testOnHost(ctx); err != nil {
			return err
		}
		if len(u.recipe[after].Configuration.Test) == 0 {
			continue
		}
		if err := u.rehearse(ctx, run.Facts.Verb); err != nil {
			return err
		}
	}
	return e.removedDirectives(ctx)
}

// rehearse tests the configuration of one server.
func (u *unit) rehearse(ctx context.Context, verb string) error {
	e := u.e
	test := u.testArgv(after)
	res, err := e.Root.Run(ctx, jail.Box{Argv: u.loudly(test), Env: u.environment(), Stage: e.stage.Dir(), Changes: append(boxChanges(e.set), u.ownLogs()...)})
	if err != nil {
		return &Error{Err: fmt.Errorf("cannot rehearse %s: %w", u.name(), err), Hint: "to go without the rehearsal: --rehearse=false"}
	}
	fails := u.failures(res)
	old, err := e.Root.Run(ctx, jail.Box{Argv: u.loudly(u.testArgv(before)), Env: u.environment(), Changes: u.ownLogs()})
	if err != nil {
		return fmt.Errorf("cannot rehearse %s: %w", u.name(), err)
	}
	if len(fails) == 0 {
		u.warn(res, old)
		return nil
	}
	lines := event.CleanLines(string(res.Output), 5, 200)
	same := old.Exit == res.Exit && old.TimedOut == res.TimedOut && sameWords(old.Output, res.Output)
	if same && res.Exit == 0 && !res.TimedOut {
		// It starts with it, as it did before: the baseline has it as well.
		e.note(event.Warning, fmt.Sprintf("%s says of this jail's configuration, and did so before: %s", u.name(), strings.Join(fails, "; ")), "")
		return nil
	}
	if same {
		// Whatever starts the server next would meet it: a stop would be for good.
		return fail(nil, "mend the configuration; to go on all the same: --rehearse=false",
			"cannot stop %s: it would not start again, the old one neither: it does not pass %s on this jail's configuration: %s",
			u.name(), strings.Join(test, " "), strings.Join(lines, "; ")+whose(lines)+e.lost(lines))
	}
	name := "rehearsal.txt"
	if u.part() != "" {
		name = "rehearsal-" + u.part() + ".txt"
	}
	if err := e.saveText(name, res.Output); err != nil {
		return err
	}
	what := ending(res)
	if res.Exit == 0 {
		what = "exit status 0: " + strings.Join(fails, "; ")
	}
	return fail(nil, "mend the configuration, or look at "+e.file(name),
		"cannot go on with the %s: the %s to come does not pass %s on this jail's configuration: %s",
		verb, u.name(), strings.Join(test, " "), what+whose(lines)+e.lost(lines))
}

// whose names the file of the jail that a line speaks of without naming it.
func whose(lines []string) string {
	all := strings.Join(lines, " ")
	switch {
	case strings.Contains(all, "getpwnam(") || strings.Contains(all, "bad user name"):
		return " (users are those of /etc/passwd in the jail, found by /etc/nsswitch.conf)"
	case strings.Contains(all, "getgrnam(") || strings.Contains(all, "bad group name"):
		return " (groups are those of /etc/group in the jail, found by /etc/nsswitch.conf)"
	}
	return ""
}

// notLoaded is what ld.so says of a library that it cannot find: it names no folder.
var notLoaded = lazyregexp.New(`loading shared libraries: ([^ :/]+): cannot open`)

// lost names the link of the jail that should lead to a library that was not found.
func (e *Env) lost(lines []string) string {
	m := notLoaded.FindStringSubmatch(strings.Join(lines, " "))
	if m == nil {
		return ""
	}
	for _, dir := range []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64"} {
		subs, _ := e.Root.ReadDir(dir)
		for _, sub := range append([]string{"."}, subs...) {
			p := path.Join(dir, sub, m[1])
			if sub != "." && !strings.Contains(sub, "-linux-") {
				continue
			}
			if info, err := e.Root.Lstat(p); err != nil || !info.IsSymlink() {
				continue
			}
			if _, err := e.Root.Stat(p); err != nil {
				return " (" + event.Clean(p, 300) + " leads nowhere)"
			}
		}
	}
	return ""
}

// loudly is a test that keeps nothing back, whatever the configuration says of logs.
func (u *unit) loudly(test []string) []string {
	if u.recipe[before].Configuration.Reader == "php-fpm" {
		return loud(test)
	}
	return test
}

// failures are the lines for which a test counts as failed. Some programs end
// well with what is a failure: the recipe knows their words.
func (u *unit) failures(res *jail.BoxResult) []string {
	lines := event.CleanLines(string(res.Output), 200, 300)
	var out []string
	for _, f := range u.recipe[after].Configuration.Fails {
		re, err := regexp.Compile(f)
		if err != nil {
			continue // validated when the recipe was read
		}
		for _, l := range lines {
			if re.MatchString(l) && !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	if len(out) == 0 && (res.Exit != 0 || res.TimedOut) {
		out = []string{ending(res)}
	}
	return out
}

// warn shows what the new program says of the configuration; what the old one
// says as well is only worth a remark.
func (u *unit) warn(res, old *jail.BoxResult) {
	said := map[string]bool{}
	for _, l := range remarks(old.Output) {
		said[moment.ReplaceAllString(l, "")] = true
	}
	for _, l := range remarks(res.Output) {
		level := event.Warning
		if said[moment.ReplaceAllString(l, "")] {
			level = event.Info
		}
		u.e.note(level, fmt.Sprintf("%s says: %s", u.name(), l), "")
	}
}

// maxRemarks bounds how many lines of one test are shown.
const maxRemarks = 20

// allWell are lines that say that there is nothing to say.
var allWell = lazyregexp.New(`(?i)syntax (is )?ok\b|test is successful|^\s*$`)

func remarks(out []byte) []string {
	return slices.DeleteFunc(event.CleanLines(string(out), maxRemarks, 300), allWell.MatchString)
}

// moment is what two runs of one test differ in: the time and the process.
var moment = lazyregexp.New(`\d{4}/\d{2}/\d{2} \d{2}:\d{2}:\d{2}|\[\d{2}-\w{3}-\d{4} \d{2}:\d{2}:\d{2}\]|\[\w{3} \w{3} \d{2} [\d:.]+ \d{4}\]|\[pid [\d:tid ]+\]|\d+#\d+`)

// sameWords tells whether two outputs say the same.
func sameWords(a, b []byte) bool {
	return bytes.Equal(moment.ReplaceAll(a, nil), moment.ReplaceAll(b, nil))
}

func (s *rehearse) Undo(context.Context, *Run) error { return nil }

// buildDiff compares how the jail's program and the package's were built, both
// run in the sandbox: " (built with --x; the package has --y)".
func (e *Env) buildDiff(ctx context.Context, world *fileset.World, exe string) string {
	var version []string
	for _, p := range e.Recipe.Parts() {
		if len(p.Version) > 0 && p.Version[0] == exe {
			version = p.Version
		}
	}
	if version == nil {
		return ""
	}
	ask := func(changes []jail.Change) []string {
		res, err := e.Root.Run(ctx, jail.Box{Argv: version, Stage: e.stage.Dir(), Changes: changes})
		if err != nil || res.Exit != 0 {
			return nil
		}
		return strings.Fields(event.Clean(strings.ReplaceAll(string(res.Output), "\n", " "), 4000))
	}
	jailHas, packageHas := ask(nil), ask(worldChanges(world, e.Root))
	only := func(a, b []string) string {
		var out []string
		for _, w := range a {
			if !slices.Contains(b, w) {
				out = append(out, w)
			}
		}
		return strings.Join(out[:min(len(out), 8)], " ")
	}
	if jailHas == nil || packageHas == nil {
		return ""
	}
	here, there := only(jailHas, packageHas), only(packageHas, jailHas)
	if here == "" && there == "" {
		return ""
	}
	return fmt.Sprintf(" (of %s, here only: %s; in the package only: %s)", strings.Join(version, " "), orNone(here), orNone(there))
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// worldChanges shows all unpacked files at their default places.
func worldChanges(world *fileset.World, root *jail.Root) []jail.Change {
	var out []jail.Change
	for _, n := range world.Files() {
		for _, dir := range parents(n.Path) {
			if !root.Exists(dir) {
				out = append(out, jail.Change{Path: dir, Mode: changeset.DirMode | 0o755})
			}
		}
		out = append(out, jail.Change{Path: n.Path, Stage: n.Stage, Link: n.State.Link, Mode: n.State.Mode})
	}
	return out
}

func parents(p string) []string {
	var out []string
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		out = append([]string{d}, out...)
	}
	return out
}
