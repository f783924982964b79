package steps

import (
	"fmt"
	"path"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
)

// ConfLine says in one line what becomes of a file of the configuration.
func ConfLine(c fileset.Conf) string {
	p, beside, was := event.Clean(c.Path, 300), event.Clean(path.Base(c.Beside), 200), event.Clean(c.Was, 300)
	switch c.Action {
	case fileset.Kept:
		return p + " was changed here and is kept"
	case fileset.Beside:
		if c.Beside == "" {
			return fmt.Sprintf("%s was changed here and is kept; the package's version is %s in the run's folder, for a server would read it beside", p, event.Clean(c.Aside, 200))
		}
		return fmt.Sprintf("%s was changed here and is kept; the package's version lies beside it as %s", p, beside)
	case fileset.Replaced:
		if c.Aside != "" {
			return fmt.Sprintf("%s is the package's; the one that was changed here is %s in the run's folder, for a server would read it beside", p, event.Clean(c.Aside, 200))
		}
		if c.Beside != "" {
			return fmt.Sprintf("%s is the package's; the one that was changed here lies beside it as %s", p, beside)
		}
		return p + " was not changed here and is replaced by the package's"
	case fileset.Added:
		return p + " is added"
	case fileset.Deleted:
		return p + " was deleted here and stays so"
	case fileset.Moved:
		return fmt.Sprintf("%s is the package's, in the place of %s", p, was)
	case fileset.CarriedTo:
		text := fmt.Sprintf("%s carries on what %s says", p, was)
		switch {
		case c.Aside != "":
			text += "; the package's version is " + event.Clean(c.Aside, 200) + " in the run's folder, for a server would read it beside"
		case c.Beside != "":
			text += "; the package's version lies beside it as " + beside
		}
		return text
	case fileset.Dropped:
		return fmt.Sprintf("%s is not carried on: what it leads to is no more", was)
	case fileset.Adapted:
		return p + " is the package's, and listens where it did before"
	case fileset.Obsolete:
		if c.Aside != "" {
			return fmt.Sprintf("%s is of no package any more; it was changed here, and is %s in the run's folder, for a server would read it", p, event.Clean(c.Aside, 200))
		}
		if c.Beside != "" {
			return fmt.Sprintf("%s is of no package any more; it was changed here, and lies on as %s", p, beside)
		}
		return p + " is of no package any more; it was changed here, and stays"
	}
	return event.Clean(c.Action, 20) + " " + p
}

// worthTelling are the actions that an administrator should hear of in any case.
func worthTelling(c fileset.Conf) bool {
	switch c.Action {
	case fileset.Kept, fileset.Beside, fileset.CarriedTo, fileset.Dropped, fileset.Obsolete:
		return true
	case fileset.Replaced:
		return c.Beside != "" || c.Aside != ""
	}
	return false
}

// maxTold bounds how many files of the configuration are told one by one.
const maxTold = 20

// tell reports what the administrator should know of the selection.
func (e *Env) tell() {
	told, more := 0, 0
	for _, c := range e.sel.Conf {
		if !worthTelling(c) {
			continue
		}
		if told++; told > maxTold {
			more++
			continue
		}
		e.note(event.Info, ConfLine(c), "")
	}
	if more > 0 {
		e.note(event.Info, fmt.Sprintf("and so on with %d more files of the configuration", more), "")
	}
	for _, u := range e.servers() {
		if was, next := u.recipe[before], u.recipe[after]; was != next {
			e.note(event.Warning, fmt.Sprintf("%s of the jail is %s from now on, and its configuration %s: what starts it at boot must name these",
				u.name(), next.Executables[0], next.Configuration.Main), "")
		}
	}
	if n := len(e.sel.Changed); n > 0 {
		e.note(event.Warning, fmt.Sprintf("%d files that no package knows are replaced, and kept in the stage for a rollback: %s",
			n, strings.Join(e.sel.Changed[:min(n, 5)], ", ")), "")
	}
	if err := e.saveDiffs(); err != nil {
		e.note(event.Warning, err.Error(), "")
	}
}

// saveDiffs lays a report of all differences into the run's folder: of each file
// what the package changed and what the administrator did.
func (e *Env) saveDiffs() error {
	var b strings.Builder
	n := 0
	for _, c := range e.sel.Conf {
		if !worthTelling(c) || c.Diff == (fileset.ConfDiff{}) {
			continue
		}
		n++
		fmt.Fprintf(&b, "== %s\n", ConfLine(c))
		section(&b, "what the packages changed", c.Diff.Package)
		section(&b, "what was changed here", c.Diff.Yours)
	}
	if n == 0 || e.Scratch != "" {
		return nil
	}
	if err := e.saveText("configuration.txt", []byte(b.String())); err != nil {
		return err
	}
	e.note(event.Info, fmt.Sprintf("who changed what in %s of the configuration: %s", counted(n, "file", "files"), e.file("configuration.txt")), "")
	return nil
}

func section(b *strings.Builder, title, diff string) {
	if diff == "" {
		fmt.Fprintf(b, "-- %s: nothing\n", title)
		return
	}
	fmt.Fprintf(b, "-- %s\n", title)
	for line := range strings.Lines(diff) {
		b.WriteString(event.Clean(strings.TrimSuffix(line, "\n"), 500) + "\n")
	}
}
