package steps

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
)

// edits deals with files that were edited since the upgrade: refused by name, or
// laid beside with --keep-edits.
func (s *choose) edits() error {
	e := s.e
	w, err := changeset.NewWorker(e.Root, e.stage.Dir(), e.set)
	if err != nil {
		return err
	}
	drift, err := w.Drift()
	w.Close()
	if err != nil || len(drift) == 0 {
		return err
	}
	if !e.Options.KeepEdits {
		return fail(ErrStale, "to lay the edited files beside the old ones: --keep-edits",
			"cannot roll back: edited since the upgrade: %s", strings.Join(drift[:min(len(drift), 5)], ", "))
	}
	for _, p := range drift {
		if err := s.beside(p); err != nil {
			return err
		}
	}
	return e.keepStage()
}

// beside lets the operation on p take what is there now, and adds a copy of it
// under another name.
func (s *choose) beside(p string) error {
	e := s.e
	d, base, err := e.Root.OpenParent(p)
	if err != nil {
		return err
	}
	defer d.Close()
	cur, err := changeset.ReadState(int(d.Fd()), base)
	if err != nil {
		return err
	}
	if cur != nil && cur.Mode&unix.S_IFMT != unix.S_IFREG && cur.Mode&unix.S_IFMT != unix.S_IFLNK {
		return fmt.Errorf("cannot roll back: %s is now neither file nor link", p)
	}
	var kept []changeset.Op
	for _, op := range e.set.Ops {
		if op.Path == p && op.Old != nil {
			switch {
			case cur != nil:
				op.Old = cur
			case op.Kind == changeset.Replace:
				op.Kind, op.Old = changeset.Add, nil
			case op.Kind == changeset.Remove:
				continue
			}
		} else if op.Path == p && op.Kind == changeset.Add && cur != nil && !e.removed(p) {
			// Somebody made what the upgrade had removed: his goes aside.
			op.Kind, op.Old = changeset.Replace, cur
		}
		kept = append(kept, op)
	}
	e.set.Ops = kept
	if cur == nil {
		return nil
	}
	name, st, err := s.copyOf(p, cur)
	if err != nil {
		return err
	}
	target := s.room(p)
	if e.Root.Exists(target) {
		target = fmt.Sprintf("%s-%s", target, e.Run)
	}
	s.lay(changeset.Op{Kind: changeset.Add, Path: target, Stage: name, New: &st})
	e.note(event.Info, fmt.Sprintf("%s was edited since the upgrade; the edited version will lie beside it as %s", p, path.Base(target)), "")
	return nil
}

// edited ends the names under which edited files are laid beside.
const edited = ".jailup-edited"

// room returns the name under which the edited version of p is to lie: beside
// it, or, where its directory becomes a link or a file again, beside that.
func (s *choose) room(p string) string {
	at := p
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		if s.e.has(changeset.Rmdir, d) && s.e.has(changeset.Add, d) {
			at = d + strings.ReplaceAll(strings.TrimPrefix(p, d), "/", "~")
		}
	}
	return at + edited
}

// lay adds a file to the changeset, before the server's executables come back.
// The directories that hold it stay.
func (s *choose) lay(add changeset.Op) {
	set, dir := s.e.set, path.Dir(add.Path)
	set.Ops = slices.DeleteFunc(set.Ops, func(op changeset.Op) bool {
		return op.Kind == changeset.Rmdir && (op.Path == dir || strings.HasPrefix(dir, op.Path+"/"))
	})
	i := len(set.Ops)
	for i > 0 && set.Ops[i-1].Kind == changeset.Add && s.e.isExecutable(set.Ops[i-1].Path) {
		i--
	}
	set.Ops = slices.Insert(set.Ops, i, add)
	// Its name is made durable with its directory.
	if info, err := s.e.Root.Lstat(dir); err == nil && !slices.ContainsFunc(set.Dirs, func(d changeset.Dir) bool { return d.Path == dir }) {
		set.Dirs = append(set.Dirs, changeset.Dir{Path: dir, OldMtimeNS: info.MtimeNS, NewMtimeNS: time.Now().UnixNano()})
	}
}

func (s *choose) copyOf(p string, cur *changeset.State) (string, changeset.State, error) {
	e := s.e
	meta := fileset.Meta{Perm: cur.Mode & 0o7777, UID: int(cur.UID), GID: int(cur.GID), MtimeNS: cur.MtimeNS}
	if cur.Link != "" {
		return e.stage.PutLink(cur.Link, meta)
	}
	f, err := e.Root.OpenFile(p)
	if err != nil {
		return "", changeset.State{}, err
	}
	defer f.Close()
	return e.stage.Put(f, cur.Size, meta)
}
