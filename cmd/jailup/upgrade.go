package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/steps"
)

// upgradeFlags are those of upgrade alone.
type upgradeFlags struct {
	install, dryRun, adopt bool
}

func (a *app) upgradeVerb() *cobra.Command {
	var f upgradeFlags
	cmd := &cobra.Command{
		Use:   "upgrade SERVER --jail DIR",
		Short: "Upgrade the server of a jail, and go back by itself if anything is wrong",
		Example: `  jailup upgrade nginx --jail /chroot
  jailup upgrade nginx --jail /chroot --dry-run
  jailup upgrade nginx --jail /chroot --version '>= 1.26, < 1.28' --soak 30s`,
		Args: exactArgs("SERVER"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.upgrade(cmd.Context(), args[0], f) },
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), sourceFlags...)
	a.settings(cmd.Flags(), runFlags...)
	a.settings(cmd.Flags(), "strategy", "conf", "listen", "with", "drop-module")
	cmd.Flags().BoolVar(&f.install, "install", false, "build the jail where there is none")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would change, touch nothing")
	cmd.Flags().BoolVar(&f.adopt, "adopt", false, "replace an executable that no package knows")
	return cmd
}

func (a *app) upgrade(ctx context.Context, server string, f upgradeFlags) error {
	s, err := a.open("upgrade")
	if err != nil {
		return err
	}
	if err := s.server(server); err != nil {
		return s.refuse(err)
	}
	if *s.set.Strategy == "handover" {
		return s.refuse(usageError("cannot upgrade by handover: this version knows the strategy restart only"))
	}
	if err := s.noNewParts(f.install); err != nil {
		return s.refuse(err)
	}
	if f.install && s.path != "" && steps.Vacant(s.path) {
		if f.dryRun {
			return s.refuse(usageError("cannot plan: there is no jail at %s yet", event.Clean(s.path, 200)))
		}
		return a.createWith(ctx, s)
	}
	if f.dryRun {
		return a.preview(ctx, s, planFlags{adopt: f.adopt})
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	e, err := s.begin(ctx, s.openStore, s.openSource, s.openRecord)
	if err != nil {
		return err
	}
	e.Options.Adopt = f.adopt
	e.Guard = s.guardian
	out := steps.Execute(ctx, e, steps.Upgrade(e), s.facts())
	if asked := a.flags.Suite; asked != nil && *asked != "" && out.Err == nil && out.Result == event.Upgraded &&
		(s.named == nil || s.named.Suite == nil || *s.named.Suite != *asked) {
		s.events.Notice(event.Info, "write suite: "+event.Clean(*asked, 60)+" into the jail's file in "+filepath.Join(s.conf.Dir, "jails.d")+
			": the next upgrade without --suite goes by the host's own sources, which may be a step back (skipped, exit 14) or forward", "")
	}
	return s.finish(e, out)
}

// noNewParts refuses to bring a server into a jail that has none of it: parts come
// with create.
func (s *session) noNewParts(install bool) error {
	if install && s.path != "" && steps.Vacant(s.path) {
		return nil
	}
	root, err := jail.Open(s.path)
	if err != nil {
		return nil // what opens the jail says so
	}
	defer root.Close()
	for _, c := range s.takeParts() {
		if !steps.Holds(root, c) {
			return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot add %s to a jail: upgrade brings in modules only", c.Name),
				Hint: "build a new jail with it: jailup create " + s.asked + " --with " + c.Name + " --jail DIR"}
		}
	}
	return nil
}
