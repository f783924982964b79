package backup

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
)

// Verify looks at every entry of the snapshot again: type, mode, owner, size,
// digest, time, attributes, link target, device number and hard links, and at
// what is in the tree and not in the manifest. Not more than 10,000 problems are
// told. The error is for what could not be read at all.
func (s *Snapshot) Verify(ctx context.Context) ([]Problem, error) {
	want, err := s.load()
	if err != nil {
		return nil, err
	}
	have, err := s.scan(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot verify snapshot %s: %w", s.meta.ID, err)
	}
	var all []Problem
	for _, d := range compare(want, have) {
		switch {
		case d.b == nil:
			all = append(all, Problem{d.path, "missing"})
		case d.a == nil:
			all = append(all, Problem{d.path, "not in the manifest"})
		default:
			for _, w := range d.what {
				all = append(all, Problem{d.path, d.explain(w)})
			}
		}
	}
	// Somebody's hard link to a file of the snapshot could change it.
	names := map[inode]uint32{}
	_ = have.each(func(_ int, _ []byte, it *item) error {
		if it.multi() {
			names[inode{it.seen.dev, it.seen.ino}]++
		}
		return nil
	})
	_ = have.each(func(_ int, path []byte, it *item) error {
		if it.multi() && names[inode{it.seen.dev, it.seen.ino}] != it.seen.nlink && len(all) < maxDifferences {
			all = append(all, Problem{string(path), "has hard links outside of the snapshot"})
		}
		return nil
	})
	return all, nil
}

// scan reads the snapshot's own tree.
func (s *Snapshot) scan(ctx context.Context) (*dir, error) {
	tree, err := s.open(treeName, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	return look(ctx, int(tree.Fd()), nil, false)
}

// look makes the picture of a tree in memory, digests included.
func look(ctx context.Context, fd int, ex *excluder, stage bool) (*dir, error) {
	e, err := newEngine(ctx, fd, -1)
	if err != nil {
		return nil, err
	}
	e.ex, e.stage = ex, stage
	root := newDir(nil, &item{mode: unix.S_IFDIR})
	if err := e.run(root, 0); err != nil {
		return nil, err
	}
	root.number()
	return root, nil
}

// Diff tells how other differs from s, by their manifests.
func (s *Snapshot) Diff(ctx context.Context, other *Snapshot) ([]Change, error) {
	a, err := s.load()
	if err != nil {
		return nil, err
	}
	b, err := other.load()
	if err != nil {
		return nil, err
	}
	return changes(compare(a, b)), nil
}

// DiffJail tells how a jail differs from s; every file of it is read. What the
// snapshot was told to leave out is left out, and mount points are not entered.
func (s *Snapshot) DiffJail(ctx context.Context, root *jail.Root) ([]Change, error) {
	a, err := s.load()
	if err != nil {
		return nil, err
	}
	ex, err := newExcluder(s.meta.Exclude)
	if err != nil {
		return nil, err
	}
	b, err := look(ctx, root.Fd(), ex, true)
	if err != nil {
		return nil, fmt.Errorf("cannot compare %s with snapshot %s: %w", root.Path(), s.meta.ID, err)
	}
	return changes(compare(a, b)), nil
}

func changes(found []difference) []Change {
	var all []Change
	for _, d := range found {
		c := Change{Path: d.path, Kind: Modified, What: d.what}
		switch {
		case d.a == nil:
			c.Kind = Added
		case d.b == nil:
			c.Kind = Removed
		}
		all = append(all, c)
	}
	return all
}
