package changeset

import (
	"path"
	"slices"
)

// Verdict is where a whole set stands on disk.
type Verdict struct {
	Old, New int
	Foreign  []string
}

// AllOld tells that nothing of the set is installed.
func (v Verdict) AllOld() bool { return v.New == 0 }

// AllNew tells that the whole set is installed.
func (v Verdict) AllNew() bool { return v.Old == 0 }

// Inspect tells where the set stands, from the disk alone. A directory that
// should come or go and holds something is not counted: what is in it decides.
func (w *Worker) Inspect() (Verdict, error) {
	var v Verdict
	for i := range w.set.Ops {
		op := &w.set.Ops[i]
		if op.Hold && op.Kind != Remove {
			continue
		}
		pos, err := w.where(op)
		if err != nil {
			return v, describe("inspect", op, err)
		}
		if op.Hold && pos != foreign {
			if pos == atNew { // taken out, and not back yet: neither tree has it so
				v.Old++
				v.New++
			}
			continue
		}
		if (op.Kind == Mkdir || op.Kind == Rmdir) && w.holds(op.Path) {
			continue
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
		if op.Kind == Add && w.removes(op.Path) || op.Kind == Mkdir && w.removes(op.Path) || w.makes(path.Dir(op.Path)) {
			continue // what is there now, or what holds it, is another operation's
		}
		d, base, err := w.parent(op.Path)
		if noDir(err) {
			if op.Old != nil {
				out = append(out, op.Path)
			}
			continue
		}
		if err != nil {
			return nil, describe("compare", op, err)
		}
		got, err := ReadState(int(d.Fd()), base)
		if err != nil {
			return nil, describe("compare", op, err)
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

// Damaged names the paths whose staged file is not what the set says, by digest:
// a bit was flipped on its way to the disk or on it. Called before the first
// operation.
func (w *Worker) Damaged() ([]string, error) {
	filled := map[string]bool{} // by an operation before
	var out []string
	for i := range w.set.Ops {
		op := &w.set.Ops[i]
		if op.Kind == Remove {
			filled[op.Stage] = true
		}
		if op.Kind != Replace && op.Kind != Add || filled[op.Stage] {
			continue
		}
		got, err := ReadState(int(w.stage.Fd()), op.Stage)
		if err != nil {
			return nil, describe("compare", op, err)
		}
		if !got.Same(op.New) || got == nil || got.Mode != op.New.Mode || got.UID != op.New.UID || got.GID != op.New.GID {
			out = append(out, op.Path)
		}
	}
	return out, nil
}

func (w *Worker) removes(p string) bool {
	return slices.ContainsFunc(w.set.Ops, func(op Op) bool { return op.Path == p && (op.Kind == Remove || op.Kind == Rmdir) })
}

func (w *Worker) makes(p string) bool {
	return slices.ContainsFunc(w.set.Ops, func(op Op) bool { return op.Path == p && op.Kind == Mkdir })
}

// holds tells whether p is a directory with something in it.
func (w *Worker) holds(p string) bool {
	d, err := w.root.OpenPhysical(p)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) > 0
}
