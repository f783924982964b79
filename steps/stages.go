package steps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// stageHome opens the folder that holds the folder of all stages of this jail,
// and tells the name of that: a sibling of the jail on the same mount, or, where
// the jail is a mount point, a folder in it. The way there begins at the open
// jail, not at a path.
func (e *Env) stageHome() (*os.File, string, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	home, name := filepath.Dir(e.Root.Path()), e.stageName()
	fd, err := sys.Openat2(e.Root.Fd(), "..", &how)
	if errors.Is(err, unix.EXDEV) {
		home, name = e.Root.Path(), backup.StageName
		fd, err = sys.Openat2(e.Root.Fd(), ".", &how)
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot open %s, where the stages go: %w", home, err)
	}
	return os.NewFile(uintptr(fd), home), name, nil
}

// stageName is the folder's name beside the jail.
func (e *Env) stageName() string { return backup.StageName + "-" + e.JailID }

// inside tells whether a stage lies in its jail.
func inside(stage string) bool {
	return filepath.Base(filepath.Dir(stage)) == backup.StageName
}

// StageRoot is where the folder of all stages of this jail is, or would be: for
// messages and records.
func (e *Env) StageRoot() (string, error) {
	home, name, err := e.stageHome()
	if err != nil {
		return "", err
	}
	defer home.Close()
	return filepath.Join(home.Name(), name), nil
}

// stages opens the folder of all stages: fs.ErrNotExist where there is none.
func (e *Env) stages() (*fileset.Stages, error) {
	home, name, err := e.stageHome()
	if err != nil {
		return nil, err
	}
	s, err := fileset.OpenStages(home, name, e.Root.MountID())
	return s, advise(err)
}

// advise adds what to do about a folder that is not jailup's own.
func advise(err error) error {
	var foreign *fileset.ForeignError
	if errors.As(err, &foreign) {
		return &Error{Err: err, Hint: "look whose it is, and move it away: ls -ld " + event.Clean(foreign.Path, 300)}
	}
	return err
}

// makeStage makes the stage of the run, empty.
func (e *Env) makeStage(f *Facts) error {
	var err error
	if e.Scratch != "" {
		e.stage, err = fileset.MakeStage(f.Stage)
		return err
	}
	home, name, err := e.stageHome()
	if err != nil {
		return err
	}
	s, err := fileset.MakeStages(home, name, e.Root.MountID())
	if err != nil {
		return advise(err)
	}
	defer s.Close()
	run := filepath.Base(f.Stage)
	if err := s.Remove(run); err != nil { // of a Do that was cut off
		return err
	}
	e.stage, err = s.Make(run)
	return advise(err)
}

// openStage opens the stage of the run, in whatever process this is. Of a jail
// that was moved, f says afterwards where the stage is now.
func (e *Env) openStage(f *Facts) (*fileset.Stage, error) {
	if e.stage != nil {
		return e.stage, nil
	}
	s, err := e.findStage(f.Stage)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	run := filepath.Base(f.Stage)
	stage, err := s.Open(run)
	if err != nil {
		return nil, advise(err)
	}
	f.Stage, e.stage = filepath.Join(s.Path(), run), stage
	return stage, nil
}

// findStage opens the folder of stages that holds the stage which was once at
// that path: first the jail's own, for the jail may have been moved with its
// siblings, then the one at the path, for it may have been moved without them.
// fs.ErrNotExist where neither does.
func (e *Env) findStage(path string) (*fileset.Stages, error) {
	gone := &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	dir, run := filepath.Split(path)
	dir = filepath.Clean(dir)
	if !fileset.IsRun(run) {
		return nil, gone
	}
	s, err := e.stages()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if s.Has(run) || s.Path() == dir {
			return s, nil
		}
		s.Close()
	}
	name := filepath.Base(dir)
	if name != e.stageName() && name != backup.StageName {
		return nil, gone
	}
	parent := filepath.Dir(dir)
	fd, err := sys.Openat2(unix.AT_FDCWD, parent, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, gone // something else has that name now
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: parent, Err: err}
	}
	s, err = fileset.OpenStages(os.NewFile(uintptr(fd), parent), name, e.Root.MountID())
	return s, advise(err)
}

// dropStage removes one stage, and the folder of stages when it is empty. A
// missing one is no error. What is not jailup's own is left and told: there is
// nothing of jailup's in it; so is what cannot be removed.
func (e *Env) dropStage(path string) error {
	s, err := e.findStage(path)
	var foreign *fileset.ForeignError
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case errors.As(err, &foreign):
		e.note(event.Warning, err.Error(), HintOf(err))
		return nil
	case err != nil:
		return err
	}
	defer s.Close()
	if err := s.Remove(filepath.Base(path)); err != nil {
		// It is needed no more, and nothing waits for it: the next run tries again.
		// Somebody may have mounted something in it, which is not to be emptied.
		e.note(event.Warning, err.Error(), "see what is mounted in it: findmnt -R "+event.Clean(filepath.Dir(path), 300))
		return nil
	}
	return s.RemoveIfEmpty()
}

// sweepStages removes the stages of runs that were cut off, which no rollback
// needs. As long as nobody can tell which one is needed, all stay.
func (e *Env) sweepStages() error {
	return e.sweepStagesBut(func(string) bool { return false })
}

// SweepStages removes the stages that a run or a recovery could not remove when it
// ended, once nothing of the jail is open any more; with the last one goes their
// folder. The stage that the next rollback needs stays, so does the one in which the
// last run has left something for a person, and that of a run which this state does
// not know: an upgrade sweeps those. The caller holds the lock of the jail. A second
// call finds nothing; what cannot be removed is told, and holds nothing up.
func (e *Env) SweepStages() {
	rec, open, err := Interrupted(e.StateDir)
	if err != nil || open {
		return // who needs which stage is not settled
	}
	f, err := FactsOf(rec)
	if err != nil {
		return
	}
	err = e.sweepStagesBut(func(run string) bool {
		if f.KeepStage && run == filepath.Base(f.Stage) {
			return true
		}
		_, err := os.Lstat(filepath.Join(e.StateDir, "runs", run))
		return err != nil
	})
	var foreign *fileset.ForeignError
	if err != nil && !errors.As(err, &foreign) { // there is nothing of jailup's in that
		e.note(event.Warning, err.Error(), HintOf(err))
	}
}

// sweepStagesBut keeps those as well that also tells of.
func (e *Env) sweepStagesBut(also func(run string) bool) error {
	s, err := e.stages()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.Close()
	keep := map[string]bool{e.Run: true}
	last, err := LoadLast(e.StateDir)
	if err != nil {
		e.note(event.Warning, err.Error()+"; old stages are left where they are", "")
		return nil
	}
	if last != nil {
		keep[last.Run], keep[filepath.Base(last.Stage)] = true, true
	}
	runs, err := s.Runs()
	if err != nil {
		return err
	}
	left := 0
	for _, run := range runs {
		if keep[run] || also(run) {
			left++
			continue
		}
		if err := s.Remove(run); err != nil {
			left++
			e.note(event.Warning, err.Error(), "see what is mounted in it: findmnt -R "+event.Clean(s.Path(), 300))
		}
	}
	if left > 0 {
		return nil
	}
	return s.RemoveIfEmpty()
}
