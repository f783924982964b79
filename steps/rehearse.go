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
)

// rehearse tests the jail's configuration with the new server, on a throw-away
// view of the jail with the staged files. The control is the old server in the
// same kind of view: what it does not pass either is not the new one's fault.
type rehearse struct{ e *Env }

func (s *rehearse) Name() string { return "rehearse" }

func (s *rehearse) Do(ctx context.Context, run *Run) error {
	e := s.e
	test := e.testArgv()
	if !e.Options.Rehearse || len(test) == 0 {
		e.Events.StepSkip("rehearse", "switched off")
		return nil
	}
	res, err := e.Root.Run(ctx, jail.Box{Argv: test, Stage: e.stage.Dir(), Changes: boxChanges(e.set)})
	if err != nil {
		return &Error{Err: fmt.Errorf("cannot rehearse %s: %w", e.Recipe.Name, err), Hint: "to go without the rehearsal: --rehearse=false"}
	}
	if res.Exit == 0 && !res.TimedOut {
		return nil
	}
	old, err := e.Root.Run(ctx, jail.Box{Argv: test})
	if err != nil {
		return fmt.Errorf("cannot rehearse %s: %w", e.Recipe.Name, err)
	}
	lines := event.CleanLines(string(res.Output), 5, 200)
	if old.Exit == res.Exit && old.TimedOut == res.TimedOut && sameWords(old.Output, res.Output) {
		// Whatever starts the server next would meet it: a stop would be for good.
		return fail(nil, "mend the configuration; to go on all the same: --rehearse=false",
			"cannot stop %s: it would not start again, the old one neither: it does not pass %s on this jail's configuration: %s",
			e.Recipe.Name, strings.Join(test, " "), strings.Join(lines, "; "))
	}
	if err := e.saveText("rehearsal.txt", res.Output); err != nil {
		return err
	}
	what := fmt.Sprintf("exit status %d", res.Exit)
	if res.TimedOut {
		what = "no end within its time"
	}
	return fail(nil, "mend the configuration, or look at "+e.file("rehearsal.txt"),
		"cannot go on with the %s: the %s to come does not pass %s on this jail's configuration (%s): %s",
		run.Facts.Verb, e.Recipe.Name, strings.Join(test, " "), what, strings.Join(lines, "; "))
}

// moment is what two runs of one test differ in: the time and the process.
var moment = regexp.MustCompile(`\d{4}/\d{2}/\d{2} \d{2}:\d{2}:\d{2}|\d+#\d+`)

// sameWords tells whether two outputs say the same.
func sameWords(a, b []byte) bool {
	return bytes.Equal(moment.ReplaceAll(a, nil), moment.ReplaceAll(b, nil))
}

func (s *rehearse) Undo(context.Context, *Run) error { return nil }

// buildDiff compares how the jail's program and the package's were built, both
// run in the sandbox: " (built with --x; the package has --y)".
func (e *Env) buildDiff(ctx context.Context, world *fileset.World, exe string) string {
	if len(e.Recipe.Version) == 0 || e.Recipe.Version[0] != exe {
		return ""
	}
	ask := func(changes []jail.Change) []string {
		res, err := e.Root.Run(ctx, jail.Box{Argv: e.Recipe.Version, Stage: e.stage.Dir(), Changes: changes})
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
	return fmt.Sprintf(" (of %s, here only: %s; in the package only: %s)", strings.Join(e.Recipe.Version, " "), orNone(here), orNone(there))
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
