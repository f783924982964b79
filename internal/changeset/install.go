package changeset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sort"
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
	// Inside says that the stage lies in the jail, where its programs may reach
	// it: nothing is then known by inode and times, all by digest.
	Inside bool
}

// NewWorker checks that jail and stage are the file system that the set was
// computed on. stage is the open stage directory.
func NewWorker(root *jail.Root, stage *os.File, set *Set) (*Worker, error) {
	for _, fd := range []int{root.Fd(), int(stage.Fd())} {
		id, err := FSID(fd)
		if err != nil {
			return nil, fmt.Errorf("cannot work on jail %s: %w", root.Path(), err)
		}
		if id != set.FSID {
			return nil, fmt.Errorf("cannot work on jail %s: its file system is %s, the changeset is for %s", root.Path(), id, set.FSID)
		}
	}
	return &Worker{root: root, stage: stage, set: set, dirs: map[string]*os.File{}}, nil
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
	d, err := w.root.OpenDir(dir)
	if err != nil {
		return nil, "", err
	}
	w.dirs[dir] = d
	return d, base, nil
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
	if w.Inside && want != nil {
		doubted := *want
		doubted.Ino = 0
		want = &doubted
	}
	return is(dir, name, want)
}

func (w *Worker) where(op *Op) (position, error) {
	d, base, err := w.parent(op.Path)
	if errors.Is(err, unix.ENOENT) {
		// The parent is made by an earlier operation, or removed by a later one.
		switch op.Kind {
		case Add, Mkdir:
			return atOld, nil
		case Remove, Rmdir:
			return atNew, nil
		}
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
		info, serr := jail.StatAt(int(d.Fd()), base)
		now = serr == nil && info.IsDir()
		old = errors.Is(serr, unix.ENOENT) || serr == nil && info.IsSymlink()
	case Rmdir:
		info, serr := jail.StatAt(int(d.Fd()), base)
		old = serr == nil && info.IsDir()
		now = errors.Is(serr, unix.ENOENT) || serr == nil && info.IsSymlink()
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

// Install brings the jail to the new state. It may be called again after a
// crash; what is done already is passed over. The first operation that meets
// something foreign ends it with a *ForeignError: undo then.
func (w *Worker) Install(ctx context.Context) error {
	for i := range w.set.Ops {
		op := &w.set.Ops[i]
		if err := ctx.Err(); err != nil {
			return err
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
// are kept and returned by name. It needs no free space and may be called again.
func (w *Worker) Undo() (kept []string, err error) {
	for i := len(w.set.Ops) - 1; i >= 0; i-- {
		op := &w.set.Ops[i]
		pos, err := w.where(op)
		if err == nil && pos == atNew {
			err = w.backward(op)
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
		return w.mkdir(jailDir, base, op.New)
	case Rmdir:
		w.forget(op.Path)
		return sys.Unlinkat(jailDir, base, unix.AT_REMOVEDIR)
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
		return w.mkdir(jailDir, base, op.Old)
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
	if err == nil && ok {
		return nil
	}
	if back := sys.Renameat2(stage, op.Stage, jailDir, base, unix.RENAME_EXCHANGE); back != nil {
		return errors.Join(err, fmt.Errorf("and it cannot be put back: %w", back))
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
	if err == nil && ok {
		return nil
	}
	if back := sys.Renameat2(stage, op.Stage, jailDir, base, unix.RENAME_NOREPLACE); back != nil {
		return errors.Join(err, fmt.Errorf("and it cannot be put back: %w", back))
	}
	if err != nil {
		return err
	}
	return &ForeignError{Path: op.Path}
}

func (w *Worker) mkdir(dir int, base string, want *State) error {
	if err := sys.Mkdirat(dir, base, want.Mode); err != nil {
		return err
	}
	if want.UID != 0 || want.GID != 0 {
		if err := sys.Fchownat(dir, base, int(want.UID), int(want.GID)); err != nil {
			return err
		}
		if err := sys.Fchmodat(dir, base, want.Mode); err != nil {
			return err
		}
	}
	return nil
}

// settle sets the mtimes of the touched directories, children first (each rename
// changed its parent's), and makes their names durable.
func (w *Worker) settle(forward bool) error {
	times := map[string]int64{}
	for _, d := range w.set.Dirs {
		times[d.Path] = d.OldMtimeNS
		if forward {
			times[d.Path] = d.NewMtimeNS
		}
	}
	for _, op := range w.set.Ops {
		if op.Kind == Mkdir && forward {
			times[op.Path] = op.New.MtimeNS
		}
		if op.Kind == Rmdir && !forward {
			times[op.Path] = op.Old.MtimeNS
		}
	}
	paths := make([]string, 0, len(times))
	for p := range times {
		paths = append(paths, p)
	}
	sort.Slice(paths, func(i, k int) bool {
		di, dk := strings.Count(paths[i], "/"), strings.Count(paths[k], "/")
		if di != dk {
			return di > dk
		}
		return paths[i] > paths[k]
	})
	for _, p := range paths {
		d, err := w.root.OpenDir(p)
		if errors.Is(err, unix.ENOENT) && !forward {
			continue // a parent that someone else took away
		}
		if err == nil {
			err = sys.Futimes(int(d.Fd()), times[p])
			if err == nil {
				err = sys.FsyncDir(int(d.Fd()))
			}
			d.Close()
		}
		if err != nil {
			return fmt.Errorf("cannot make %s durable: %w", p, err)
		}
	}
	if err := sys.FsyncDir(int(w.stage.Fd())); err != nil {
		return fmt.Errorf("cannot make the stage durable: %w", err)
	}
	return nil
}

// Verdict is where a whole set stands on disk.
type Verdict struct {
	Old, New int
	Foreign  []string
}

// AllOld tells that nothing of the set is installed.
func (v Verdict) AllOld() bool { return v.New == 0 }

// AllNew tells that the whole set is installed.
func (v Verdict) AllNew() bool { return v.Old == 0 }

// Inspect tells where the set stands, from the disk alone.
func (w *Worker) Inspect() (Verdict, error) {
	var v Verdict
	for i := range w.set.Ops {
		op := &w.set.Ops[i]
		if op.Hold {
			continue
		}
		pos, err := w.where(op)
		if err != nil {
			return v, describe("inspect", op, err)
		}
		switch pos {
		case atOld:
			v.Old++
		case atNew:
			v.New++
		default:
			v.Foreign = append(v.Foreign, op.Path)
		}
	}
	return v, nil
}

// Drift compares every path of the set with the jail once more, by digest, and
// returns those that are no longer what the set was computed from.
func (w *Worker) Drift() ([]string, error) {
	var out []string
	for i := range w.set.Ops {
		op := &w.set.Ops[i]
		if op.Hold && op.Kind == Add || op.Kind == Mkdir {
			continue
		}
		d, base, err := w.parent(op.Path)
		if errors.Is(err, unix.ENOENT) && op.Old == nil {
			continue
		}
		if err != nil {
			return nil, describe("compare", op, err)
		}
		got, err := ReadState(int(d.Fd()), base)
		if err != nil {
			return nil, describe("compare", op, err)
		}
		if op.Kind == Add && w.removes(op.Path) {
			continue // the executable, taken out by another operation
		}
		same := got.Same(op.Old)
		if same && got != nil && op.Kind != Rmdir {
			same = got.Mode == op.Old.Mode && got.UID == op.Old.UID && got.GID == op.Old.GID
		}
		if !same {
			out = append(out, op.Path)
		}
	}
	w.Close()
	return out, nil
}

func (w *Worker) removes(p string) bool {
	for i := range w.set.Ops {
		if w.set.Ops[i].Kind == Remove && w.set.Ops[i].Path == p {
			return true
		}
	}
	return false
}
