package changeset

import (
	"fmt"
	"sort"
	"strings"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// settle gives the directories that were made their owner, mode and attributes,
// sets the mtimes of all that were touched, children first (each rename changed
// its parent's), and makes their names durable. It does so again after a crash,
// when nobody knows how far it had come.
func (w *Worker) settle(forward bool) error {
	times, made := map[string]int64{}, map[string]*State{}
	for _, d := range w.set.Dirs {
		times[d.Path] = d.OldMtimeNS
		if forward {
			times[d.Path] = d.NewMtimeNS
		}
	}
	for _, op := range w.set.Ops {
		if op.Kind == Mkdir && forward {
			times[op.Path], made[op.Path] = op.New.MtimeNS, op.New
		}
		if op.Kind == Rmdir && !forward {
			times[op.Path], made[op.Path] = op.Old.MtimeNS, op.Old
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
		d, err := w.root.OpenPhysical(p)
		if noDir(err) && !forward {
			continue // a parent that someone else took away
		}
		if err == nil {
			err = dress(int(d.Fd()), made[p])
			if err == nil {
				err = sys.Futimes(int(d.Fd()), times[p])
			}
			if err == nil && !w.Unsynced {
				err = sys.FsyncDir(int(d.Fd()))
			}
			d.Close()
		}
		if err != nil {
			return fmt.Errorf("cannot make %s durable: %w", p, err)
		}
	}
	if w.Unsynced {
		return nil
	}
	if err := sys.FsyncDir(int(w.stage.Fd())); err != nil {
		return fmt.Errorf("cannot make the stage durable: %w", err)
	}
	return nil
}

// dress gives a directory what want has, where it has it not. Nil is nothing.
func dress(fd int, want *State) error {
	if want == nil {
		return nil
	}
	info, err := jail.Fstat(fd)
	if err == nil && (info.UID != want.UID || info.GID != want.GID) {
		err = sys.Fchown(fd, int(want.UID), int(want.GID))
	}
	for name, value := range want.Xattrs {
		if err == nil {
			err = sys.Setxattr(sys.ProcPath(fd), name, value)
		}
	}
	if err == nil && info.Mode != want.Mode {
		err = sys.Fchmod(fd, want.Mode)
	}
	return err
}
