package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/recipes"
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
	if err := steps.CheckServer(s.recipe); err != nil {
		return s.refuse(err)
	}
	s.withParts()
	dir, err := filepath.Abs(s.path)
	if err != nil {
		return s.fail(err)
	}
	if err := jail.CheckPlace(dir); err != nil {
		return s.refuse(&steps.Error{Err: err, Hint: "give the jail a folder of its own, such as /srv/jails/shop"})
	}
	if err := s.behindWall(ctx, func() wall.Spec { return s.placeWall(dir, []string{steps.NewJailNames()}, *s.set.CacheDir) }); err != nil {
		return s.refuse(err)
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
	if err := s.lockPlace(ctx, dir); err != nil {
		return s.refuse(err)
	}
	m, err := steps.Create(ctx, e, dir, *s.set.Listen, func(root *jail.Root, m *manifest.Manifest) (func() error, error) {
		return s.enter(ctx, root, dir, m)
	})
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
	e.StateDir = s.stateDir()
	if err := s.openRecord(e); err != nil {
		s.events.Notice(event.Warning, err.Error(), "")
	}
	var start []string
	for _, r := range s.recipe.Servers() {
		start = append(start, "jailup start "+r.Name+" --jail "+event.Clean(dir, 300))
	}
	s.events.Notice(event.Info, "start it with: "+strings.Join(start, " && "), "")
	return s.finish(nil, steps.Outcome{Result: event.Created, Facts: steps.Facts{To: m.Holds()}})
}

// withParts takes the parts out of what --with names, and joins them to the
// recipe: the rest are modules.
func (s *session) withParts() { s.recipe = recipes.Join(s.recipe, s.takeParts()...) }

// takeParts takes the parts out of what --with names, each once, and leaves the
// modules.
func (s *session) takeParts() []*recipes.Recipe {
	var parts []*recipes.Recipe
	var modules []string
	for _, name := range *s.set.With {
		c, ok := s.recipes.Companion(s.recipe, strings.ReplaceAll(name, "_", "-"))
		switch {
		case !ok:
			modules = append(modules, name)
		case !slices.Contains(parts, c):
			parts = append(parts, c)
		}
	}
	*s.set.With = modules
	return parts
}

// lockPlace keeps a second create from the same folder: there is no jail yet
// whose lock could be taken.
func (s *session) lockPlace(ctx context.Context, dir string) error {
	name := sha256.Sum256([]byte(dir))
	var err error
	s.lock, err = journal.Acquire(ctx, s.dirs.Run, "create-"+hex.EncodeToString(name[:8]), journal.Holder{Run: s.run, Verb: s.verb}, s.set.LockWait.D())
	return waiting(ctx, err)
}

// enter makes a jail known that is whole and is about to get the name dir: in the
// registry, where its inode stays the same, and by its manifest. Where that name
// was a jail's before, the new one takes its place and its history. The function
// returned takes it all back.
func (s *session) enter(ctx context.Context, root *jail.Root, dir string, m *manifest.Manifest) (forget func() error, err error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return nil, fmt.Errorf("cannot create jail %s: %w", dir, err)
	}
	who, err := journal.Identify(root.Fd(), filepath.Join(parent, filepath.Base(dir)))
	if err != nil {
		return nil, err
	}
	before, known, err := s.registry.Lookup(who)
	if err != nil {
		return nil, err
	}
	j, err := s.registry.Resolve(ctx, who, s.recipe.Name)
	if err != nil {
		return nil, err
	}
	s.id = j.ID
	ctx = context.WithoutCancel(ctx)
	var old *manifest.Manifest
	forget = func() error {
		if !known {
			return errors.Join(s.registry.Forget(ctx, j.ID), fileset.RemoveStage(s.stateDir()))
		}
		_, err := s.registry.Resolve(ctx, before.Identity, before.Server)
		if old != nil {
			return errors.Join(err, old.Save(s.stateDir()))
		}
		return errors.Join(err, manifest.Remove(s.stateDir()))
	}
	if known && (before.Inode != who.Inode || before.FSID != who.FSID) {
		if err = steps.Retire(s.stateDir()); err != nil {
			return nil, errors.Join(err, forget())
		}
		s.release(ctx) // of a run that was cut off in what was there before
	}
	if known {
		if old, err = manifest.Load(s.stateDir()); err != nil {
			return nil, err
		}
	}
	if err = sys.MkdirAll(s.stateDir(), 0o700); err == nil {
		err = m.Save(s.stateDir())
	}
	if err != nil {
		return nil, errors.Join(err, forget())
	}
	return forget, nil
}

// neverWas tells whether a jail of the registry has no folder and no history: its
// create was killed before the jail got its name.
func (s *session) neverWas(j journal.Jail) bool {
	if _, err := os.Lstat(j.Path); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	runs, err := steps.FindRuns(filepath.Join(*s.set.StateDir, j.ID), "")
	return err == nil && len(runs) == 0
}
