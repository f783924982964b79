package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/steps"
)

func (a *app) createVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create SERVER --jail DIR",
		Short: "Build a new jail from packages",
		Long: `Build a file jail from packages: the server, its configuration, the libraries that
it needs, users, devices, and nothing else. The jail gets its name when it is
whole.`,
		Example: `  jailup create nginx --jail /chroot --listen 127.0.0.1:8080
  jailup create nginx --jail /chroot --version 1.22.1-9 --suite bookworm`,
		Args: exactArgs("SERVER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.open("create")
			if err != nil {
				return err
			}
			if err := s.server(args[0]); err != nil {
				return s.refuse(err)
			}
			return a.createWith(cmd.Context(), s)
		},
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), sourceFlags...)
	a.settings(cmd.Flags(), "listen", "with", "rehearse")
	return cmd
}

func (a *app) createWith(ctx context.Context, s *session) error {
	if s.path == "" {
		return s.refuse(usageError("cannot create a jail: no folder given (--jail DIR)"))
	}
	if os.Geteuid() != 0 {
		return s.refuse(&steps.Error{Err: fmt.Errorf("cannot create jail %s: only root can", event.Clean(s.path, 200)), Hint: "use sudo"})
	}
	if with := *s.set.With; len(with) > 0 {
		return s.refuse(usageError("cannot create a jail with %s: this recipe knows no modules", event.Clean(with[0], 60)))
	}
	dir, err := filepath.Abs(s.path)
	if err != nil {
		return s.fail(err)
	}
	if err := jail.CheckPlace(dir); err != nil {
		return s.refuse(&steps.Error{Err: err, Hint: "give the jail a folder of its own, such as /srv/jails/shop"})
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	s.events.RunStart(event.RunStart{Verb: "create", Server: s.recipe.Name, Jail: dir, Version: version()})
	e, err := s.env()
	if err != nil {
		return s.fail(err)
	}
	if err := s.openSource(e); err != nil {
		return s.fail(err)
	}
	m, err := steps.Create(ctx, e, dir, *s.set.Listen)
	e.Root = nil
	if err != nil {
		if errors.Is(context.Cause(ctx), steps.ErrInterrupted) {
			err = steps.ErrInterrupted
		}
		return s.fail(err)
	}
	if s.root, err = jail.Open(dir); err != nil {
		return s.fail(err)
	}
	who, err := journal.Identify(s.root.Fd(), s.root.Path())
	if err != nil {
		return s.fail(err)
	}
	j, err := s.registry.Resolve(ctx, who, s.recipe.Name)
	if err != nil {
		return s.fail(err)
	}
	s.id = j.ID
	if err := sys.MkdirAll(s.stateDir(), 0o700); err != nil {
		return s.fail(err)
	}
	if err := m.Save(s.stateDir()); err != nil {
		return s.fail(err)
	}
	e.StateDir = s.stateDir()
	if err := s.openRecord(e); err != nil {
		s.events.Notice(event.Warning, err.Error(), "")
	}
	return s.finish(nil, steps.Outcome{Result: event.Created, Facts: steps.Facts{To: m.Holds()}})
}
