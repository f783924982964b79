package changeset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// position is where an operation stands on disk.
type position int

const (
	atOld position = iota
	atNew
	foreign // someone else wrote it meanwhile
)

// ForeignError says that a path of the jail is neither what it was nor what
// jailup made it.
type ForeignError struct{ Path string }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("cannot change %s: someone else wrote it meanwhile", e.Path)
}

// Worker installs and undoes one set. It holds the directories it touched open,
// so that they are opened once and synced at the end.
type Worker struct {
	root  *jail.Root
	stage *os.File
	set   *Set
	dirs  map[string]*os.File
	moved bool // to another file system than the set was computed on
	// Inside says that the stage lies in the jail, where its programs may reach
	// it: nothing is then known by inode and times, all by digest.
	Inside bool
	// Unsynced leaves it to the caller to make all that was installed durable at
	// once: of a jail that has no name yet.
	Unsynced bool
	// Taken is called, once in an Install and once in an Undo, when the executables
	// are out of the jail and nothing else has changed: whatever somebody started
	// from them meanwhile can be ended now, and does not come again. Nil is nothing.
	Taken func() error
}

// executables tells where in the operations those end that take the executables
// out, and where those begin that put them in.
func (s *Set) executables() (out, in int) {
	taken := map[string]bool{}
	for out < len(s.Ops) && s.Ops[out].Kind == Remove {
		taken[s.Ops[out].Path] = true
		out++
	}
	in = len(s.Ops)
	for in > out && taken[s.Ops[in-1].Path] {
		in--
	}
	return out, in
}

func (w *Worker) taken() error {
	if w.Taken == nil {
		return nil
	}
	return w.Taken()
}

// NewWorker checks that jail and stage lie on one file system. stage is the open
// stage directory. Where that is no longer the one that the set was computed on
// (XFS names itself after its device, which may have another number after a
// reboot) inode numbers prove nothing, and digests decide.
func NewWorker(root *jail.Root, stage *os.File, set *Set) (*Worker, error) {
	ids := [2]string{}
	for i, fd := range []int{root.Fd(), int(stage.Fd())} {
		var err error
		if ids[i], err = FSID(fd); err != nil {
			return nil, fmt.Errorf("cannot work on jail %s: %w", root.Path(), err)
		}
	}
	if ids[0] != ids[1] {
		return nil, fmt.Errorf("cannot work on jail %s: it and its stage lie on two file systems", root.Path())
	}
	return &Worker{root: root, stage: stage, set: set, dirs: map[string]*os.File{}, moved: ids[0] != set.FSID}, nil
}

// Close releases the directories.
func (w *Worker) Close() {
	for _, d := range w.dirs {
		d.Close()
	}
	w.dirs = map[string]*os.File{}
}

func (w *Worker) parent(p string) (*os.File, string, error) {
	dir, base := path.Split(p)
	dir = path.Clean(dir)
	if d, ok := w.dirs[dir]; ok {
		return d, base, nil
	}
	d, err := w.root.OpenPhysical(dir)
	if err != nil {
		return nil, "", err
	}
	w.dirs[dir] = d
	return d, base, nil
}

// noDir tells that there is no directory of that name: nothing, or something
// else.
func noDir(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// forget drops a directory that is about to be removed or was just made anew.
func (w *Worker) forget(p string) {
	for dir, d := range w.dirs {
		if dir == p || strings.HasPrefix(dir, p+"/") {
			d.Close()
			delete(w.dirs, dir)
		}
	}
}

func (w *Worker) is(dir int, name string, want *State) (bool, error) {
	if (w.Inside || w.moved) && want != nil {
		doubted := *want
		doubted.Ino = 0
		want = &doubted
	}
	return is(dir, name, want)
}

func (w *Worker) where(op *Op) (position, error) {
	d, base, err := w.parent(op.Path)
	if noDir(err) {
		// The parent is made by an earlier operation, or removed by a later one.
		switch op.Kind {
		case Add, Mkdir:
			return atOld, nil
		case Remove, Rmdir:
			return atNew, nil
		}
		return foreign, nil // somebody took the parent away
	}
	if err != nil {
		return foreign, err
	}
	inJail := func(s *State) (bool, error) { return w.is(int(d.Fd()), base, s) }
	inStage := func(s *State) (bool, error) { return w.is(int(w.stage.Fd()), op.Stage, s) }
	both := func(jailState, stageState *State) (bool, error) {
		ok, err := inStage(stageState)
		if err != nil || !ok {
			return false, err
		}
		return inJail(jailState)
	}
	var old, now bool
	switch op.Kind {
	case Replace:
		if old, err = both(op.Old, op.New); err == nil && !old {
			now, err = both(op.New, op.Old)
		}
	case Add:
		// What still lies in its place is not looked at: the rename refuses it.
		if old, err = inStage(op.New); err == nil && !old {
			now, err = both(op.New, nil)
		}
	case Remove:
		// What another operation put in its place afterwards is not looked at.
		if now, err = inStage(op.Old); err == nil && !now {
			old, err = both(op.Old, nil)
		}
	case Mkdir:
		// What other operations put in its place is not looked at; mkdirat(2)
		// refuses whatever is there.
		now, err = isDir(int(d.Fd()), base)
		old = !now
	case Rmdir:
		old, err = isDir(int(d.Fd()), base)
		now = !old
	}
	switch {
	case err != nil:
		return foreign, err
	case old:
		return atOld, nil
	case now:
		return atNew, nil
	}
	return foreign, nil
}

func isDir(dir int, name string) (bool, error) {
	info, err := jail.StatAt(dir, name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

// Install brings the jail to the new state. It may be called again after a
// crash; what is done already is passed over. The first operation that meets
// something foreign ends it with a *ForeignError: undo then.
func (w *Worker) Install(ctx context.Context) error {
	out, _ := w.set.executables()
	for i := range w.set.Ops {
		op := &w.set.Ops[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if i == out {
			if err := w.taken(); err != nil {
				return err
			}
		}
		pos, err := w.where(op)
		if err == nil && pos == atOld {
			err = w.forward(op)
		}
		if err == nil && pos == foreign {
			err = &ForeignError{Path: op.Path}
		}
		if err != nil {
			return describe("install", op, err)
		}
	}
	return w.settle(true)
}

// Undo brings the jail back to the old state, from wherever it is. Foreign files
// are kept and returned by name, and so is what lay in a directory that somebody
// took away: it stays in the stage. It needs no free space and may be called again.
func (w *Worker) Undo() (kept []string, err error) {
	_, in := w.set.executables()
	for i := len(w.set.Ops) - 1; i >= 0; i-- {
		op := &w.set.Ops[i]
		if i == in-1 {
			if err := w.taken(); err != nil {
				return kept, err
			}
		}
		pos, err := w.where(op)
		if err == nil && pos == atNew {
			if err = w.backward(op); noDir(err) {
				err = &ForeignError{Path: op.Path}
			}
		}
		var fe *ForeignError
		if errors.As(err, &fe) {
			pos, err = foreign, nil
		}
		if err != nil {
			return kept, describe("undo", op, err)
		}
		if pos == foreign {
			kept = append(kept, op.Path)
		}
	}
	return kept, w.settle(false)
}

func describe(verb string, op *Op, err error) error {
	var fe *ForeignError
	if errors.As(err, &fe) {
		return err
	}
	return fmt.Errorf("cannot %s %s %s: %w", verb, op.Kind, op.Path, err)
}

func (w *Worker) forward(op *Op) error {
	d, base, err := w.parent(op.Path)
	if err != nil {
		return err
	}
	jailDir := int(d.Fd())
	switch op.Kind {
	case Replace:
		return w.exchange(jailDir, base, op, op.Old, op.New)
	case Add:
		return w.moveIn(jailDir, base, op)
	case Remove:
		return w.takeOut(jailDir, base, op, op.Old)
	case Mkdir:
		w.forget(op.Path)
		return w.mkdir(jailDir, op, op.New)
	case Rmdir:
		w.forget(op.Path)
		err := sys.Unlinkat(jailDir, base, unix.AT_REMOVEDIR)
		if errors.Is(err, unix.ENOTEMPTY) {
			return nil // it holds what is not jailup's by now, and stays
		}
		return err
	}
	return fmt.Errorf("unknown operation %q", op.Kind)
}

func (w *Worker) backward(op *Op) error {
	d, base, err := w.parent(op.Path)
	if err != nil {
		return err
	}
	jailDir := int(d.Fd())
	switch op.Kind {
	case Replace:
		return w.exchange(jailDir, base, op, op.New, op.Old)
	case Add:
		return w.takeOut(jailDir, base, op, op.New)
	case Remove:
		return w.moveIn(jailDir, base, op)
	case Mkdir:
		w.forget(op.Path)
		err := sys.Unlinkat(jailDir, base, unix.AT_REMOVEDIR)
		if errors.Is(err, unix.ENOTEMPTY) {
			return &ForeignError{Path: op.Path} // somebody put something in it: kept
		}
		return err
	case Rmdir:
		w.forget(op.Path)
		return w.mkdir(jailDir, op, op.Old)
	}
	return fmt.Errorf("unknown operation %q", op.Kind)
}

// exchange swaps the jail's file with the staged one. What comes out must be
// expect: a file put there at the last moment is put back. Where the stage lies
// in the jail, what went in is looked at again as well.
func (w *Worker) exchange(jailDir int, base string, op *Op, expect, in *State) error {
	stage := int(w.stage.Fd())
	if err := sys.Renameat2(stage, op.Stage, jailDir, base, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	ok, err := w.is(stage, op.Stage, expect)
	if err == nil && ok && w.Inside {
		ok, err = w.is(jailDir, base, in)
	}
	return orBack(op, ok, err, func() error {
		return sys.Renameat2(stage, op.Stage, jailDir, base, unix.RENAME_EXCHANGE)
	})
}

// orBack ends a move whose result was looked at: where it is not what was
// expected, or could not be told, the move is taken back.
func orBack(op *Op, ok bool, err error, back func() error) error {
	if err == nil && ok {
		return nil
	}
	if berr := back(); berr != nil {
		return errors.Join(err, fmt.Errorf("and it cannot be put back: %w", berr))
	}
	if err != nil {
		return err
	}
	return &ForeignError{Path: op.Path}
}

// moveIn puts the staged file where nothing may be.
func (w *Worker) moveIn(jailDir int, base string, op *Op) error {
	err := sys.Renameat2(int(w.stage.Fd()), op.Stage, jailDir, base, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return &ForeignError{Path: op.Path}
	}
	return err
}

func (w *Worker) takeOut(jailDir int, base string, op *Op, expect *State) error {
	stage := int(w.stage.Fd())
	if err := sys.Renameat2(jailDir, base, stage, op.Stage, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	ok, err := w.is(stage, op.Stage, expect)
	return orBack(op, ok, err, func() error {
		return sys.Renameat2(stage, op.Stage, jailDir, base, unix.RENAME_NOREPLACE)
	})
}

// mkdir makes a directory; settle gives it its owner and all else.
func (w *Worker) mkdir(dir int, op *Op, want *State) error {
	err := sys.Mkdirat(dir, path.Base(op.Path), want.Mode)
	if errors.Is(err, unix.EEXIST) {
		return &ForeignError{Path: op.Path}
	}
	return err
}
