package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/steps"
)

func (a *app) explainVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain RUN",
		Short: "Tell what happened in a run, and what to do next",
		Long: `Tell in plain words what happened in a run: which step failed, why, what was undone,
where the evidence lies, what to do next. RUN is a run's id, the beginning of one, or
"last" together with --jail.`,
		Example: `  jailup explain 20260101T020000Z-0a1b2c
  jailup explain last --jail /chroot`,
		Args: exactArgs("RUN"),
		RunE: func(_ *cobra.Command, args []string) error { return a.explain(args[0]) },
	}
	a.common(cmd, true)
	return cmd
}

// explainDoc is the JSON document of explain.
type explainDoc struct {
	Schema int `json:"schema"`
	*steps.Story
	Next []string `json:"next"`
}

func (a *app) explain(run string) error {
	s, err := a.open("explain")
	if err != nil {
		return err
	}
	st, err := s.story(run)
	if err != nil {
		return s.refuse(err)
	}
	next := nextSteps(st)
	return s.show(explainDoc{documentSchema, st, next}, exitOK, func(w io.Writer) error { return printStory(w, st, next) })
}

// story finds the run: of the jail given, or of all.
func (s *session) story(run string) (*steps.Story, error) {
	var jails []journal.Jail
	if s.path != "" {
		if _, err := s.findJail(); err != nil {
			return nil, err
		}
		jails = []journal.Jail{{ID: s.id, Identity: journal.Identity{Path: s.jailPath()}}}
		if s.id == "" {
			jails = nil
		}
	} else {
		if run == "last" {
			return nil, s.needJail()
		}
		var err error
		if jails, err = s.registry.List(); err != nil {
			return nil, err
		}
	}
	type place struct {
		jail journal.Jail
		run  string
	}
	var found []place
	for _, j := range jails {
		dir := filepath.Join(*s.set.StateDir, j.ID)
		if run == "last" {
			runs, err := steps.Runs(dir, nil)
			if err != nil {
				return nil, err
			}
			if n := len(runs); n > 0 {
				found = append(found, place{j, runs[n-1].Run})
			}
			continue
		}
		runs, err := steps.FindRuns(dir, run)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			found = append(found, place{j, r})
		}
	}
	shown := event.Clean(run, 80)
	switch len(found) {
	case 0:
		of := "DIR"
		if s.path != "" {
			of = event.Clean(s.jailPath(), 300)
		}
		return nil, &steps.Error{Err: fmt.Errorf("cannot explain run %s: there is no such run on record", shown), Hint: "see what there is: jailup history --jail " + of}
	case 1:
	default:
		var some []string
		for _, p := range found[:min(len(found), 3)] {
			some = append(some, p.run)
		}
		return nil, &steps.Error{Kind: steps.ErrUsage, Hint: "type more of it",
			Err: fmt.Errorf("cannot explain run %s: %d runs begin so (%s)", shown, len(found), strings.Join(some, ", "))}
	}
	p := found[0]
	st, err := steps.ReadRun(filepath.Join(*s.set.StateDir, p.jail.ID), p.run, steps.Busy(s.dirs.Run, p.jail.ID))
	if err == nil && st.Jail == "" {
		st.Jail = p.jail.Path
	}
	return st, err
}

// nextSteps says what to do after a run, most pressing first.
func nextSteps(st *steps.Story) []string {
	jail := " --jail " + st.Jail
	again := "jailup " + st.Verb + jail
	switch st.Verb {
	case "":
		again = "jailup status" + jail
	case "upgrade", "start", "restart", "stop":
		again = "jailup " + st.Verb + " " + st.Server + jail
	}
	var next []string
	add := func(s string) { next = append(next, s) }
	if st.Hint != "" {
		add(st.Hint)
	}
	switch st.Result {
	case event.Upgraded, steps.Finished:
		add("to go back: jailup rollback" + jail)
	case event.RolledBack:
		if st.Failed != "" || st.Error != "" {
			add("the old version serves on; mend the cause, then: " + again)
		}
	case event.Failed:
		if st.Hint == "" {
			add("mend the cause, then: " + again)
		}
	case event.Interrupted, steps.Undone, steps.Died, event.Stale:
		add("run it again: " + again)
	case event.Skipped:
		add("try again later: " + again)
	case steps.CutOff:
		add("end it: jailup recover" + jail)
	case steps.UnderWay:
		add("wait for it, and look with: jailup status" + jail)
	}
	return next
}

// printStory tells a run to a person.
func printStory(w io.Writer, st *steps.Story, next []string) error {
	say := func(format string, args ...any) { fmt.Fprintln(w, event.Clean(fmt.Sprintf(format, args...), 2000)) }
	say("Run %s: %s, %s.", st.Run, subjectOf(st), when(st))
	if v := versions(st.RunRecord); v != "-" {
		if strings.Contains(v, "→") {
			say("It was to bring the server from version %s.", strings.TrimPrefix(strings.Replace(v, " → ", " to ", 1), "→ "))
		} else {
			say("The server's version is %s.", v)
		}
	}
	say("%s", verdictOf(st))
	if n := len(st.Steps); n > 0 && st.Ended == nil && st.Steps[n-1].State == steps.CutOff {
		say("Its record ends in step %s.", st.Steps[n-1].Name)
	}
	if st.Failed != "" && st.Ended != nil {
		say("Failed: step %s%s", st.Failed, tookOf(st))
	}
	if st.Why != "" {
		say("Why: %s", st.Why)
	}
	if st.Error != "" && st.Error != st.Why {
		say("In the end: %s", st.Error)
	}
	for _, c := range st.Checks {
		word := map[string]string{event.CheckFailed: "failed", event.CheckBefore: "was so before", event.CheckSkipped: "could not be made"}[c.Status]
		say("Check: %s %s: %s", c.Name, word, c.Detail)
	}
	for _, n := range st.Notices {
		say("Warning: %s", n)
	}
	if len(st.Undid) > 0 {
		say("Undone: %s.", strings.Join(st.Undid, ", "))
	}
	if st.DowntimeMS != nil {
		say("Downtime: %s without an answer.", ui.Duration(time.Duration(*st.DowntimeMS)*time.Millisecond))
	}
	if st.Snapshot != "" {
		say("Snapshot: %s", st.Snapshot)
	}
	say("Evidence: %s%s", st.Folder, inParens(st.Files))
	for _, n := range next {
		say("Next: %s", n)
	}
	return nil
}

func inParens(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}

func subjectOf(st *steps.Story) string {
	switch {
	case st.Verb == "":
		return "its record is empty, on jail " + st.Jail
	case st.Server == "":
		return st.Verb + " of " + st.Jail
	}
	return st.Verb + " of " + st.Server + " in " + st.Jail
}

func when(st *steps.Story) string {
	text := "begun " + st.Started.Local().Format("2006-01-02 15:04:05")
	if st.Ended != nil {
		text += ", " + ui.Duration(time.Duration(st.DurationMS)*time.Millisecond) + " long"
	}
	return text
}

func tookOf(st *steps.Story) string {
	for _, s := range st.Steps {
		if s.Name == st.Failed && s.State == "failed" {
			return ", after " + ui.Duration(time.Duration(s.DurationMS)*time.Millisecond)
		}
	}
	return ""
}

// verdictOf says how a run ended.
func verdictOf(st *steps.Story) string {
	changed := fmt.Sprintf("%d files of the jail were changed", st.ChangedFiles)
	if st.ChangedFiles == 1 {
		changed = "1 file of the jail was changed"
	}
	switch st.Result {
	case event.Upgraded:
		return "It went well: " + changed + "."
	case event.RolledBack:
		if st.Error == "" {
			return "It went well: the jail is back in its earlier version, " + changed + "."
		}
		return "It failed and was rolled back: the jail is as it was, and the old server serves again."
	case event.Failed:
		return "It failed: nothing in the jail was changed."
	case event.Stuck:
		return "It is stuck: a person is needed."
	case event.Current:
		return "There was nothing to do."
	case event.Skipped:
		return "It was skipped: nothing was changed."
	case event.Stale:
		return "It was given up, for the jail had changed meanwhile: nothing was stopped."
	case event.Interrupted:
		return "It was interrupted: nothing was begun, or it was taken back."
	case steps.CutOff:
		return "It was cut off, and what it began is not ended yet."
	case steps.Undone:
		return "It was cut off before its commit; what it had begun was taken back."
	case steps.Finished:
		return "It was cut off after its commit; what was left to do was done."
	case steps.Died:
		return "It was cut off; no file of the jail was changed by it."
	case steps.UnderWay:
		return "It is under way."
	}
	return "It went well: " + st.Result + "."
}
