package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/steps"
)

func (a *app) historyVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history --jail DIR",
		Short: "List the runs on a jail",
		Long: `List what was done to a jail, oldest first: when, which run, what it changed, how it
ended and how long nothing answered. Runs that were cut off are listed as such.`,
		Example: `  jailup history --jail /chroot
  jailup history --jail /chroot --output json`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error { return a.history() },
	}
	a.common(cmd, true)
	return cmd
}

// historyDoc is the JSON document of history.
type historyDoc struct {
	Schema int               `json:"schema"`
	Jail   string            `json:"jail"`
	ID     string            `json:"id"`
	Runs   []steps.RunRecord `json:"runs"`
}

func (a *app) history() error {
	s, err := a.open("history")
	if err != nil {
		return err
	}
	known, err := s.findJail()
	if err != nil {
		return s.refuse(err)
	}
	doc := historyDoc{Schema: documentSchema, Jail: s.jailPath(), ID: s.id, Runs: []steps.RunRecord{}}
	if known {
		runs, err := steps.Runs(s.stateDir(), steps.Busy(s.dirs.Run, s.id))
		if err != nil {
			return s.refuse(err)
		}
		doc.Runs = append(doc.Runs, runs...)
	}
	if len(doc.Runs) == 0 {
		s.talk("no run on jail %s is on record", doc.Jail)
	}
	return s.show(doc, exitOK, func(w io.Writer) error { return printHistory(w, doc.Runs) })
}

func printHistory(w io.Writer, runs []steps.RunRecord) error {
	var rows [][]string
	for _, r := range runs {
		exit, down := "-", "-"
		if r.Exit != nil {
			exit = fmt.Sprint(*r.Exit)
		}
		if r.DowntimeMS != nil {
			down = ui.Duration(time.Duration(*r.DowntimeMS) * time.Millisecond)
		}
		result := r.Result
		switch result {
		case steps.CutOff:
			result = "cut off, not recovered"
		case steps.Undone, steps.Finished:
			result = "cut off, " + result
		case steps.Died:
			result = "cut off"
		case steps.UnderWay:
			result = "under way"
		}
		rows = append(rows, []string{r.Started.Local().Format("2006-01-02 15:04"), r.Run, orDash(r.Verb), versions(r), result, exit, down})
	}
	return ui.Table(w, []string{"WHEN", "RUN", "VERB", "VERSION", "RESULT", "EXIT", "DOWNTIME"}, rows)
}

// versions says from which version of the server to which a run went.
func versions(r steps.RunRecord) string {
	name := r.Server
	if _, ok := r.To[name]; !ok {
		if names := slices.Sorted(maps.Keys(r.To)); len(names) == 1 {
			name = names[0]
		}
	}
	from, to := r.From[name], r.To[name]
	switch {
	case from == to:
		return orDash(to)
	case to == "":
		return from
	case from == "":
		return "→ " + to
	}
	return from + " → " + to
}
