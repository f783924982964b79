package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/steps"
)

type planFlags struct {
	file     string
	detailed bool
	adopt    bool
}

func (a *app) planVerb() *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan SERVER --jail DIR",
		Short: "Say what an upgrade would change, and touch nothing",
		Example: `  jailup plan nginx --jail /chroot
  jailup plan nginx --jail /chroot -o plan.json --detailed-exitcode`,
		Args: exactArgs("SERVER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.file == ui.JSON || f.file == ui.Text {
				return usage(fmt.Errorf("cannot write the plan to a file named %s", f.file), "-o of plan names a file; for JSON lines: --output json; for that very file: -o ./"+f.file)
			}
			s, err := a.open("plan")
			if err != nil {
				return err
			}
			if err := s.server(args[0]); err != nil {
				return s.refuse(err)
			}
			return a.preview(cmd.Context(), s, f)
		},
	}
	a.common(cmd, false)
	a.settings(cmd.Flags(), sourceFlags...)
	a.settings(cmd.Flags(), "rehearse", "conf", "with", "drop-module")
	cmd.Flags().StringVarP(&f.file, "out", "o", "", "write the plan as JSON to `file`")
	cmd.Flags().BoolVar(&f.adopt, "adopt", false, "as of upgrade: replace an executable that no package knows")
	cmd.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit 2 where there are changes to make")
	return cmd
}

func (a *app) preview(ctx context.Context, s *session, f planFlags) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if _, err := s.openJail(); err != nil {
		return s.refuse(err)
	}
	if err := s.behindWall(ctx, func() wall.Spec { return wall.Spec{Dirs: s.scratchDirs()} }); err != nil {
		return s.refuse(err)
	}
	s.events.RunStart(event.RunStart{Verb: "plan", Server: s.asked, Jail: s.root.Path(), Version: version()})
	if s.id != "" {
		rec, open, err := s.cutOff()
		if err != nil {
			return s.fail(err)
		}
		if open {
			jail := event.Clean(s.root.Path(), 300)
			return s.fail(&steps.Error{Err: fmt.Errorf("cannot plan: run %s was cut off in step %s, and jail %s may be neither the old version nor the new one", rec.Run, rec.Step, jail),
				Hint: "end it first, as upgrade does by itself: jailup recover --jail " + jail})
		}
		s.tellWhatIsOpen()
	}
	e, err := s.env()
	if err != nil {
		return s.fail(err)
	}
	e.Options.Adopt = f.adopt
	if s.id == "" {
		e.StateDir = ""
	}
	if err := s.openSource(e); err != nil {
		return s.fail(err)
	}
	remove, err := s.scratch(e)
	if err != nil {
		return s.fail(err)
	}
	defer remove()
	p, err := steps.Look(ctx, e)
	if err != nil {
		return s.fail(err)
	}
	if f.file != "" {
		var b strings.Builder
		if err := ui.Document(&b, p); err != nil {
			return s.fail(err)
		}
		file, err := filepath.Abs(f.file)
		if err == nil {
			err = writeOutside(file, []byte(b.String()))
		}
		if err != nil {
			return s.fail(err)
		}
	}
	out := steps.Outcome{Result: event.Planned, Facts: steps.Facts{From: p.From, To: p.To}}
	jsonOut, quiet := *s.set.Output == ui.JSON, *s.set.Quiet
	_ = s.finish(e, out)
	if !jsonOut && !quiet {
		if err := printPlan(a.stdout, p); err != nil {
			return err
		}
	}
	if f.detailed && !p.Current {
		a.code = exitChanges
		return errTold
	}
	return nil
}

// writeOutside writes a file where the user wants it, which is outside of the wall.
func writeOutside(file string, data []byte) error {
	var dir *os.File
	err := wall.Host(func() (err error) {
		dir, err = sys.OpenDir(filepath.Dir(file))
		return err
	})
	if err == nil {
		defer dir.Close()
		err = sys.Admit(dir)
	}
	if err == nil {
		err = sys.WriteFileAt(int(dir.Fd()), filepath.Base(file), data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	return nil
}

// scratchDirs are the folders that a plan writes to: where it works, and what is
// remembered of the sources.
func (s *session) scratchDirs() []string {
	_ = sys.MkdirAll(filepath.Dir(*s.set.CacheDir), 0o755)
	_ = sys.MkdirAll(*s.set.CacheDir, 0o700)
	seen := filepath.Join(*s.set.StateDir, "sources")
	if *s.set.Source == "apt" {
		_ = sys.MkdirAll(*s.set.StateDir, 0o700)
		_ = sys.MkdirAll(seen, 0o755)
	}
	return []string{*s.set.CacheDir, seen}
}

var scratchName = lazyregexp.New(`^plan-` + steps.RunPattern + `$`)

// scratch makes the folder that a plan works in, and removes what killed plans
// left. The function returned removes it.
func (s *session) scratch(e *steps.Env) (remove func(), err error) {
	if err := os.MkdirAll(*s.set.CacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot plan: %w", err)
	}
	cache, err := sys.OpenDir(*s.set.CacheDir)
	if err != nil {
		return nil, fmt.Errorf("cannot plan: %w", err)
	}
	if err := sys.SweepTemp(cache, scratchName.MatchString); err != nil {
		s.events.Notice(event.Warning, err.Error(), "")
	}
	name := "plan-" + s.run
	lock, err := sys.MakeTemp(cache, name)
	if err != nil {
		cache.Close()
		return nil, fmt.Errorf("cannot plan: %w", err)
	}
	e.Scratch = filepath.Join(*s.set.CacheDir, name)
	return func() {
		defer cache.Close()
		defer lock.Close()
		if err := sys.RemoveTree(int(cache.Fd()), name); err != nil {
			s.a.complain(fmt.Errorf("cannot remove %s: %w", e.Scratch, err))
		}
	}, nil
}

// printPlan shows a plan to a person.
func printPlan(w io.Writer, p *steps.Preview) error {
	if p.Current {
		_, err := fmt.Fprintf(w, "%s in %s is up to date: nothing to do\n", p.Server, event.Clean(p.Jail, 300))
		return err
	}
	var packages [][]string
	for _, k := range sortedNames(p.To) {
		from := p.From[k]
		if from == "" {
			from = "unknown"
		}
		mark := ""
		if from == p.To[k] {
			mark = "(same)"
		}
		packages = append(packages, []string{"  " + k, from, "→", p.To[k], mark})
	}
	files := map[string][]string{}
	for _, f := range p.Files {
		files[string(f.Kind)] = append(files[string(f.Kind)], f.Path)
	}
	fmt.Fprintln(w, "packages")
	if err := ui.Table(w, nil, packages); err != nil {
		return err
	}
	fmt.Fprintln(w, "files")
	for _, kind := range []string{"replace", "add", "remove", "mkdir", "rmdir"} {
		for _, f := range files[kind] {
			fmt.Fprintf(w, "  %-8s %s\n", kind, event.Clean(f, 300))
		}
	}
	list := func(title string, lines []string) {
		if len(lines) == 0 {
			return
		}
		fmt.Fprintln(w, title)
		for _, l := range lines {
			fmt.Fprintln(w, "  "+event.Clean(l, 300))
		}
	}
	var conf []string
	for _, c := range p.Conf {
		conf = append(conf, steps.ConfLine(c))
	}
	list("configuration", conf)
	list("files that no package knows, replaced and kept in the stage", p.Changed)
	list("other servers of the jail whose libraries change: restarted and checked too", p.Affects)
	list("other programs of the jail that need a restart afterwards", p.Restart)
	list("written by the server, not rolled back", p.State)
	renames, start := "1 rename", "its start"
	if n := len(p.Files); n != 1 {
		renames = fmt.Sprintf("%d renames", n)
	}
	if len(p.Servers) > 1 {
		start = "their start"
	}
	_, err := fmt.Fprintf(w, "disk       %s beside the jail while it is prepared, %s of it kept for a rollback; about %s for the snapshot, %s of packages\ndowntime   the stop of %s, %s, %s\n",
		ui.Bytes(p.Unpacked), ui.Bytes(p.Disk), ui.Bytes(p.Snapshot), ui.Bytes(p.Download), strings.Join(p.Servers, " and "), renames, start)
	return err
}

func sortedNames(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
