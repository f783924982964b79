package ui

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
)

// failure returns the lines about what went wrong: cause, state, next command.
func failure(s style, d *event.RunDone) string {
	if d.Error == "" {
		return hint(s, d.Hint)
	}
	lines := strings.Split(d.Error, "\n")
	color := red
	if d.Exit == 0 {
		color = yellow
	}
	out := s.paint(color, "error:") + " " + s.clean(lines[0]) + "\n"
	for _, line := range lines[1:] {
		out += strings.TrimRight("    "+s.clean(line), " ") + "\n"
	}
	return out + hint(s, d.Hint)
}

func hint(s style, text string) string {
	if text == "" {
		return ""
	}
	return s.paint(bold, "hint:") + " " + s.clean(text) + "\n"
}

func subject(server, jail string) string {
	switch {
	case server == "" && jail == "":
		return "run"
	case server == "":
		return jail
	case jail == "":
		return server
	}
	return server + " in " + jail
}

// title says in one line how the run ended.
func title(d *event.RunDone) string {
	of := subject(d.Server, d.Jail)
	switch d.Result {
	case event.Current:
		return of + " is current"
	case event.Planned:
		return "planned " + of + ": nothing is changed"
	case event.Checked:
		if d.Verdict == "inconclusive" {
			return of + " may be well or not: inconclusive"
		}
		if d.Exit != 0 {
			return of + " is unhealthy"
		}
		return of + " is healthy"
	case event.RolledBack:
		return "rolled back " + of
	case event.Failed:
		if d.Exit == 1 {
			return of + " failed: nothing in the jail is changed"
		}
		return of + " failed"
	case event.Stuck:
		return of + " is stuck: a person is needed"
	case event.Recovered:
		if d.Nothing {
			return "nothing to recover: " + of
		}
		return "recovered " + of
	case event.Upgraded, event.Created, event.Skipped, event.Interrupted:
		return d.Result + " " + of
	case event.Stale:
		return of + " is no longer what the plan was made from: nothing is changed"
	}
	return strings.TrimSpace(d.Result + " " + of)
}

// mostPackages bounds the packages that a summary names without --verbose.
const mostPackages = 12

// summary returns the table at the end of a run.
func summary(s style, run string, d *event.RunDone, verbose bool) string {
	var rows [][2]string
	add := func(name, value string) {
		if value = s.clean(value); value != "" {
			rows = append(rows, [2]string{s.clean(name), value})
		}
	}
	changed := packages(s, d)
	if len(changed) > mostPackages+1 && !verbose {
		slices.SortStableFunc(changed, func(a, b [2]string) int { return rank(d.Server, a[0]) - rank(d.Server, b[0]) })
	}
	for i, p := range changed {
		if i == mostPackages && len(changed) > mostPackages+1 && !verbose {
			add("and more", fmt.Sprintf("%d packages", len(changed)-i))
			break
		}
		add(p[0], p[1])
	}
	if d.ChangedFiles > 0 {
		add("files", fmt.Sprintf("%d", d.ChangedFiles))
	}
	switch ran := d.Result == event.Upgraded || d.Result == event.RolledBack; {
	case d.DowntimeMS != nil:
		add("downtime", Duration(time.Duration(*d.DowntimeMS)*time.Millisecond))
	case ran:
		add("downtime", "not measured: nothing listens")
	}
	add("snapshot", d.Snapshot)
	add("evidence", d.Evidence)
	add("took", Duration(time.Duration(d.DurationMS)*time.Millisecond))
	if verbose || d.Exit != 0 {
		add("run", run)
	}

	color := green
	if d.Exit != 0 {
		color = red
	}
	out := s.paint(color, s.clean(title(d))) + "\n"
	column := 0
	for _, row := range rows {
		column = max(column, width(row[0]))
	}
	for _, row := range rows {
		out += "  " + pad(row[0], column) + "  " + row[1] + "\n"
	}
	return out
}

// rank puts first, where not all packages are named, those of the server, and the
// libraries last.
func rank(server, pkg string) int {
	switch {
	case server != "" && strings.HasPrefix(pkg, server):
		return 0
	case strings.HasPrefix(pkg, "lib"), strings.HasPrefix(pkg, "font"):
		return 2
	}
	return 1
}

// packages returns what changes in the packages, by name.
func packages(s style, d *event.RunDone) [][2]string {
	names := map[string]bool{}
	for name := range d.From {
		names[name] = true
	}
	for name := range d.To {
		names[name] = true
	}
	var rows [][2]string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		from, to := d.From[name], d.To[name]
		switch {
		case from == to && (d.Result != event.Current || name != d.Server):
		case from == to:
			rows = append(rows, [2]string{name, from})
		case from == "" && d.Exit != 0:
			rows = append(rows, [2]string{name, "none (wanted: " + to + ")"})
		case from == "":
			rows = append(rows, [2]string{name, to + " (new)"})
		case to == "" && d.Exit != 0:
			rows = append(rows, [2]string{name, from})
		case to == "":
			rows = append(rows, [2]string{name, from + " (removed)"})
		case d.Exit != 0: // it was not to be
			rows = append(rows, [2]string{name, from + " (wanted: " + to + ")"})
		default:
			rows = append(rows, [2]string{name, from + " " + s.arrow + " " + to})
		}
	}
	return rows
}
