package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/steps"
)

func (a *app) statusVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [--jail DIR]",
		Short: "Show servers, versions, processes, ports and the last run",
		Long: `Show the server of one jail, or of all jails that jailup knows: versions, processes,
the ports it really listens on, the last run, and whether a run is under way or
was cut off. Nothing is locked or written.

With --jail the exit status is 5 where the server is down, not well, or where a
run was cut off.`,
		Example: `  jailup status
  jailup status --jail /chroot
  jailup status --jail /chroot --output json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.status(cmd.Context()) },
	}
	a.common(cmd, true)
	return cmd
}

// statusDoc is the JSON document of status.
type statusDoc struct {
	Schema int                 `json:"schema"`
	Jails  []*steps.JailStatus `json:"jails"`
}

func (a *app) status(ctx context.Context) error {
	s, err := a.open("status")
	if err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if s.path == "" {
		return s.statusAll(ctx)
	}
	st, err := s.statusOne(ctx)
	if err != nil {
		return s.refuse(err)
	}
	code := exitOK
	if !st.Healthy && st.Busy == nil {
		code = exitUnhealthy
	}
	return s.show(statusDoc{documentSchema, []*steps.JailStatus{st}}, code, func(w io.Writer) error { return printStatus(w, st) })
}

// statusOne looks at the session's jail.
func (s *session) statusOne(ctx context.Context) (*steps.JailStatus, error) {
	known, err := s.findJail()
	if err != nil {
		return nil, err
	}
	if s.root == nil {
		return steps.Past(s.path, s.stateDir(), s.id, s.recipe, s.dirs.Run), nil
	}
	if err := s.guess(); err != nil {
		return nil, err
	}
	if !known {
		if err := steps.CheckJail(s.root, s.recipe); err != nil {
			return nil, err
		}
	}
	e, err := s.env()
	if err != nil {
		return nil, err
	}
	st := steps.Status(ctx, e, s.dirs.Run)
	if !known {
		st.Jail = s.root.Path()
	}
	return st, ctx.Err()
}

// statusAll looks at every jail of the registry and of the configuration. What
// is wrong with one is said in its place.
func (s *session) statusAll(ctx context.Context) error {
	jails, err := s.registry.List()
	if err != nil {
		return s.refuse(err)
	}
	var paths []string
	for _, j := range jails {
		if !s.neverWas(j) {
			paths = append(paths, j.Path)
		}
	}
	for _, j := range s.conf.Jails() {
		if real, err := filepath.EvalSymlinks(j.Path); err == nil && !slices.Contains(paths, real) {
			paths = append(paths, real)
		}
	}
	doc := statusDoc{documentSchema, []*steps.JailStatus{}}
	for _, p := range paths {
		one := *s
		one.path, one.root, one.recipe, one.id = p, nil, nil, ""
		one.named, _ = s.conf.JailAt(p)
		st, err := one.statusOne(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return s.refuse(context.Cause(ctx))
			}
			st = &steps.JailStatus{Jail: p, ID: one.id, State: steps.Unknown, Modules: []string{}, Packages: map[string]string{}, Servers: []steps.ServerStatus{},
				Workers: []int{}, Listens: []string{}, Problems: []string{event.Clean(err.Error(), 500)}}
		}
		if one.root != nil {
			one.root.Close()
		}
		doc.Jails = append(doc.Jails, st)
	}
	if len(doc.Jails) == 0 {
		s.talk("jailup knows no jail yet; build one with: jailup create SERVER --jail DIR")
	}
	return s.show(doc, exitOK, func(w io.Writer) error { return printStatuses(w, doc.Jails) })
}

// printStatuses is one line a jail, and below it what somebody should look at.
func printStatuses(w io.Writer, all []*steps.JailStatus) error {
	var rows [][]string
	for _, st := range all {
		rows = append(rows, []string{st.Jail, orDash(st.Server), orDash(st.Version), stateWord(st), orDash(strings.Join(st.Listens, " ")), lastRun(st.LastRun)})
	}
	if err := ui.Table(w, []string{"JAIL", "SERVER", "VERSION", "STATE", "LISTENS", "LAST RUN"}, rows); err != nil {
		return err
	}
	for _, st := range all {
		for _, p := range st.Problems {
			if p != st.Server+" is down" { // the table says so
				fmt.Fprintf(w, "%s: %s\n", event.Clean(st.Jail, 300), event.Clean(p, 500))
			}
		}
	}
	return nil
}

func stateWord(st *steps.JailStatus) string {
	switch {
	case st.Busy != nil:
		return st.State + ", " + orElse(st.Busy.Verb, "a run") + " under way"
	case st.Interrupted != nil:
		return st.State + ", interrupted"
	case st.State == steps.Running && !st.Healthy:
		return "running, not well"
	}
	return st.State
}

func lastRun(r *steps.RunRecord) string {
	if r == nil {
		return "-"
	}
	return strings.TrimSpace(r.Verb+" "+r.Result) + ", " + ui.Age(r.Started, time.Now())
}

func orDash(s string) string { return orElse(s, "-") }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// printStatus shows one jail in full.
func printStatus(w io.Writer, st *steps.JailStatus) error {
	var rows [][]string
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	add("jail", st.Jail)
	server := st.Server
	switch {
	case st.Version != "":
		server += " " + st.Version
	case st.Outside != "":
		server += ", not of a package that this host knows"
	case server != "":
		server += ", version not known: jailup has not installed it"
	}
	add("server", server)
	if st.Outside != "" {
		add("program", st.Outside+", on the host; its children have the jail as their root (ChrootDir)")
	}
	state := stateWord(st)
	if st.Master != 0 {
		state += fmt.Sprintf(", master process %d, %s", st.Master, others(len(st.Workers)))
	}
	add("state", state)
	add("listens", strings.Join(st.Listens, " "))
	for _, o := range st.Servers {
		if o.Name != st.Server {
			add("with", serverLine(o))
		}
	}
	add("modules", strings.Join(st.Modules, " "))
	var beside []string
	for _, p := range sortedNames(st.Packages) {
		if p != st.Server {
			beside = append(beside, p+" "+st.Packages[p])
		}
	}
	for i, p := range beside {
		name := ""
		if i == 0 {
			name = "packages"
		}
		rows = append(rows, []string{name, p})
	}
	if r := st.LastRun; r != nil {
		add("last run", fmt.Sprintf("%s, %s, %s (%s)", r.Verb, r.Result, ui.Age(r.Started, time.Now()), r.Run))
	}
	if b := st.Busy; b != nil {
		text := "a run is under way"
		if b.Run != "" {
			text = fmt.Sprintf("%s is under way: run %s, process %d, since %s", b.Verb, b.Run, b.PID, b.Since.UTC().Format(time.RFC3339))
		}
		add("lock", text)
	}
	if err := ui.Table(w, nil, rows); err != nil {
		return err
	}
	for _, p := range st.Problems {
		fmt.Fprintln(w, "problem: "+event.Clean(p, 500))
	}
	return nil
}

// serverLine tells of one more server of a jail.
func serverLine(o steps.ServerStatus) string {
	line := strings.TrimSpace(o.Name+" "+o.Version) + ", " + o.State
	if o.Master != 0 {
		line += fmt.Sprintf(", master process %d, %s", o.Master, others(len(o.Workers)))
	}
	if len(o.Listens) > 0 {
		line += ", listens on " + strings.Join(o.Listens, " ")
	}
	return line
}

// placeOf refuses a folder that nothing should be written to as a jail.
func placeOf(dir string) error {
	if err := jail.CheckPlace(dir); err != nil {
		return &steps.Error{Err: err}
	}
	return nil
}

func others(n int) string {
	if n == 1 {
		return "1 other"
	}
	return fmt.Sprintf("%d others", n)
}
