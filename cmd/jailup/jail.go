package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/recipes"
	"github.com/jailup/jailup/steps"
)

// From the name of a jail to a jail that is open and, for the verbs that change it,
// locked: nobody else is at work on it, and jailup may do what it will have to.

// openJail opens the jail without writing anything. known tells whether it is in
// the registry.
func (s *session) openJail() (known bool, err error) {
	if err := s.needJail(); err != nil {
		return false, err
	}
	if err := jail.CheckPlace(s.path); err != nil {
		return false, &steps.Error{Err: err, Hint: "give the jail a folder of its own, such as /srv/jails/shop"}
	}
	if s.root, err = jail.Open(s.path); err != nil {
		hint := "give the folder that is the jail's root"
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.verb == "recover":
			hint = "see which jails there are: jailup status"
		case errors.Is(err, fs.ErrNotExist) && !strings.Contains(s.a.jail, "/"):
			hint = "no jail of that name is configured in " + filepath.Join(s.conf.Dir, "jails.d") + "; build one with: jailup create SERVER --jail ./" + event.Clean(s.path, 200)
		case errors.Is(err, fs.ErrNotExist):
			hint = "build one with: jailup create SERVER --jail " + event.Clean(s.path, 200)
		}
		return false, &steps.Error{Err: err, Hint: hint}
	}
	who, err := journal.Identify(s.root.Fd(), s.root.Path())
	if err != nil {
		return false, err
	}
	j, ok, err := s.registry.Lookup(who)
	if err != nil {
		return false, err
	}
	s.id = j.ID
	if s.recipe == nil {
		name := j.Server
		if name == "" && s.named != nil {
			name = s.named.Server
		}
		if name != "" {
			if err := s.server(name); err != nil {
				return ok, err
			}
		}
	}
	if s.recipe != nil {
		if err := steps.CheckServer(s.recipe); err != nil {
			return ok, err
		}
		if err := s.findOutside(s.recipe); err != nil && s.needsServer() {
			return ok, err
		}
	}
	s.compose()
	return ok, nil
}

// take opens the jail for changes: it is entered into the registry, locked, and
// what an interrupted run began is ended first.
func (s *session) take(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return &steps.Error{Err: fmt.Errorf("cannot %s jail %s: only root can", s.verb, event.Clean(s.path, 200)), Hint: "use sudo"}
	}
	if lacks := steps.MissingCapabilities(); len(lacks) > 0 {
		// A server would be stopped that could not be started again.
		return &steps.Error{Err: fmt.Errorf("cannot %s jail %s: this root has no %s", s.verb, event.Clean(s.path, 200), strings.Join(lacks, ", ")),
			Hint: "run it with the capabilities of the host's root"}
	}
	if s.root == nil {
		if _, err := s.openJail(); err != nil {
			return err
		}
	}
	for _, d := range []struct{ dir, what string }{
		{*s.set.Snapshots, "snapshot folder"}, {*s.set.StateDir, "state folder"}, {*s.set.CacheDir, "cache folder"},
	} {
		if err := s.outside(d.dir, d.what); err != nil {
			return err
		}
	}
	if who := steps.Busy(s.dirs.Run, s.id); who != nil && s.set.LockWait.D() <= 0 {
		return &journal.HeldError{Holder: *who} // before a folder is made for what will not be done
	}
	if err := s.behindWall(ctx, func() wall.Spec { return s.jailWall(s.writes()...) }); err != nil {
		return err
	}
	s.tellTrouble()
	who, err := journal.Identify(s.root.Fd(), s.root.Path())
	if err != nil {
		return err
	}
	if err := s.lockFolder(ctx, who); err != nil {
		return err
	}
	j, err := s.registry.Resolve(ctx, who, s.heldName())
	if err != nil {
		return err
	}
	s.id = j.ID
	s.lock, err = journal.Acquire(ctx, s.dirs.Run, s.id, journal.Holder{Run: s.run, Verb: s.verb}, s.set.LockWait.D())
	if err == nil {
		s.sweep()
	}
	return waiting(ctx, err)
}

// heldName is the server to enter into the registry: that of the verb, if the jail
// holds it; "" keeps the one that is known. A slip of the pen on a command line must
// not make an nginx jail one of Apache's.
func (s *session) heldName() string {
	if s.recipe != nil && !s.recipe.IsOnHost() && steps.CheckJail(s.root, s.recipe) != nil {
		return ""
	}
	return s.mainName()
}

// lockFolder takes the lock that runs with another state see as well: by file
// system and inode, where locks are by default. With a state of one's own that
// folder may be out of reach; then it is told that such runs do not see this one.
func (s *session) lockFolder(ctx context.Context, who journal.Identity) error {
	usual, err := config.DefaultDirs(os.Geteuid(), s.a.getenv)
	if err != nil {
		return err
	}
	s.place, err = journal.Acquire(ctx, usual.Run, who.LockName(), journal.Holder{Run: s.run, Verb: s.verb}, s.set.LockWait.D())
	var held *journal.HeldError
	if err != nil && !errors.As(err, &held) && ctx.Err() == nil && usual.Run != s.dirs.Run {
		s.events.Notice(event.Warning, "runs with another --state-dir will not see this one: "+err.Error(), "")
		return nil
	}
	return waiting(ctx, err)
}

// waiting says of a wait for a lock that a signal ended it.
func waiting(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), steps.ErrInterrupted) {
		return &steps.Error{Kind: steps.ErrInterrupted, Err: errors.New("interrupted while waiting for the lock; nothing is changed")}
	}
	return err
}

// sweep removes temporary files that killed runs left. What cannot be removed now
// holds nothing up.
func (s *session) sweep() {
	if err := errors.Join(steps.SweepTemp(s.stateDir()), source.SweepCache(*s.set.CacheDir)); err != nil {
		s.events.Notice(event.Warning, err.Error(), "")
	}
}

// writes are the folders, beside the state, that the verb writes to.
func (s *session) writes() []string {
	switch s.verb {
	case "upgrade":
		return []string{*s.set.Snapshots, *s.set.CacheDir}
	case "rollback", "snapshot create", "snapshot prune", "recover":
		return []string{*s.set.Snapshots}
	}
	return nil
}

// stateDir is the jail's own folder.
func (s *session) stateDir() string { return filepath.Join(*s.set.StateDir, s.id) }

// outside refuses a folder of the host that lies in the jail, where whoever
// writes in the jail could lead it elsewhere.
func (s *session) outside(dir, what string) error {
	if s.root == nil {
		return nil
	}
	if rel, err := filepath.Rel(s.root.Path(), jail.RealPath(dir)); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot use %s as the %s: it lies in the jail", event.Clean(dir, 200), what),
			Hint: "choose a folder outside of " + s.root.Path()}
	}
	return nil
}

// takeServer opens and locks the jail, which must hold the server: a folder that
// is no jail is not entered into the registry.
func (s *session) takeServer(ctx context.Context) error {
	if err := s.needJail(); err != nil {
		return err
	}
	if err := s.needRoot(); err != nil {
		return err
	}
	known, err := s.openJail()
	if err != nil {
		return err
	}
	if !known {
		if err := s.guess(); err != nil {
			return err
		}
		if err := steps.CheckJail(s.root, s.recipe); err != nil {
			return err
		}
	}
	return s.take(ctx)
}

// needJail refuses a command line without a jail.
func (s *session) needJail() error {
	if s.path != "" {
		return nil
	}
	return &steps.Error{Kind: steps.ErrUsage, Err: errors.New("cannot find the jail: none is given (--jail DIR)"),
		Hint: "see which there are: jailup status"}
}

// needRoot refuses what only root can do, before anything is tried.
func (s *session) needRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return &steps.Error{Err: fmt.Errorf("cannot %s: only root can", s.verb), Hint: "use sudo"}
}

// findOutside looks for a server on the host that puts its children into the jail,
// and that is the one asked for, or what that goes along with.
func (s *session) findOutside(r *recipes.Recipe) error {
	if s.root == nil || s.verb == "create" || r.IsOnHost() || steps.Main(s.recipes, r, s.root) != r {
		return nil
	}
	state := ""
	if s.id != "" {
		state = s.stateDir()
	}
	main, o, err := steps.FindOutside(s.recipes, r, s.root, state)
	if err != nil || o == nil {
		return err
	}
	s.onHost = o
	s.recipe = o.Compose(s.recipes, main, s.root, s.alone && main == r)
	return nil
}

// needsServer tells whether the verb is of no use where it is not known how the
// server runs. A recovery knows it by what the run has noted.
func (s *session) needsServer() bool {
	return slices.Contains([]string{"upgrade", "plan", "rollback", "start", "stop", "restart", "check", "status"}, s.verb)
}
