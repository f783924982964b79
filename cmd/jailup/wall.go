package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/steps"
)

// behindWall goes on behind the second wall: the program is executed once more,
// and comes here again with the same command line. Nothing has been told or
// locked yet. It returns where the process is behind the wall already, or where
// there can be none: that is told, and the first wall stands alone.
//
// what says what the verb changes, and makes jailup's own folders where they are
// missing; it is asked only where a wall is built.
func (s *session) behindWall(ctx context.Context, what func() wall.Spec) error {
	if in := wall.Inside(); in != nil {
		s.tellWall(in)
		return nil
	}
	if s.a.quiet == nil || os.Geteuid() != 0 { // a test, or somebody who may change little
		return nil
	}
	spec := what()
	if sys.FaultPoints {
		spec.NoMounts = os.Getenv("JAILUP_FAULT_MOUNTS") == "off"
		spec.NoLandlock = os.Getenv("JAILUP_FAULT_LANDLOCK") == "off"
		if os.Getenv("JAILUP_FAULT_WALL") == "off" || spec.NoMounts && spec.NoLandlock {
			return nil
		}
	}
	for i, d := range spec.Dirs {
		spec.Dirs[i] = jail.RealPath(d)
	}
	// A signal that has come is obeyed here; one that comes from now on ends the
	// process, which has begun nothing.
	if err := s.a.quiet(); err != nil {
		return &steps.Error{Kind: steps.ErrInterrupted, Err: errors.New("interrupted before anything was begun")}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := wall.Enter(spec)
	s.a.hear()
	s.events.Notice(event.Info, "the second wall cannot be built here, the first one stands alone: "+event.Clean(err.Error(), 300), "")
	return nil
}

// tellWall says what is missing in the wall, once.
func (s *session) tellWall(in *wall.State) {
	if s.walled {
		return
	}
	s.walled = true
	if !in.Mounts() && !sys.FaultPoints {
		s.events.Notice(event.Info, "no mounts of its own for this run: "+event.Clean(in.Why(), 300), "")
	}
	if n := in.Open(); n > 0 {
		s.events.Notice(event.Info, "many files lie beside the jail: the mounts of this run leave some of them writable", "give the jail a folder with less in it")
	}
}

// jailWall is the wall around work on the jail.
func (s *session) jailWall(dirs ...string) wall.Spec {
	keep := []string{s.root.Path()}
	spec := wall.Spec{Dirs: s.ownDirs(dirs...)}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	fd, err := unix.Openat2(s.root.Fd(), "..", &how)
	if errors.Is(err, unix.EXDEV) {
		spec.Keep = [][]string{keep} // a mount point: the stage lies in it
		return spec
	}
	if err == nil {
		unix.Close(fd)
	}
	home := filepath.Dir(s.root.Path())
	keep = append(keep, filepath.Join(home, backup.StageName+"-"+s.id))
	// Of a jail that was moved the stages may be where it was before.
	for _, stage := range steps.StagesOf(s.stateDir()) {
		if dir := filepath.Dir(stage); filepath.Dir(dir) != home && sameMount(dir, s.root.MountID()) {
			keep = append(keep, dir)
		}
	}
	spec.Keep = [][]string{keep}
	return spec
}

// allWall is the wall around a recovery of all these jails: one for all, since a
// process has only one.
func (s *session) allWall(jails []journal.Jail) wall.Spec {
	spec := wall.Spec{Dirs: s.ownDirs(*s.set.Snapshots)}
	for _, j := range jails {
		root, err := jail.Open(j.Path)
		if err != nil {
			continue // it will be told, or passed over
		}
		s.root, s.id = root, j.ID
		one := s.jailWall()
		spec.Keep, spec.Dirs = append(spec.Keep, one.Keep...), append(spec.Dirs, one.Dirs...)
		root.Close()
		s.root, s.id = nil, ""
	}
	return spec
}

func sameMount(dir string, mount uint64) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE|unix.STATX_MNT_ID, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mnt_id == mount && jail.RealPath(dir) == dir
}

// ownDirs are the folders of jailup's own that a verb writes to. What is missing
// is made: behind the wall there is no place to make it. A folder that cannot be
// made is left to whoever needs it, who says so.
func (s *session) ownDirs(dirs ...string) []string {
	all := append([]string{*s.set.StateDir, s.dirs.Run}, dirs...)
	if usual, err := config.DefaultDirs(os.Geteuid(), s.a.getenv); err == nil {
		all = append(all, usual.Run) // of runs with another state
	}
	for _, d := range all {
		if d == *s.set.CacheDir {
			_ = sys.MkdirAll(filepath.Dir(d), 0o755)
		}
		_ = sys.MkdirAll(d, 0o700)
	}
	all = append(all, *s.set.CacheDir) // which all verbs sweep
	if s.id != "" {
		all = append(all, steps.SnapshotsOf(s.stateDir())...)
	}
	return all
}

// placeWall is the wall around the making of a new tree at dir: nothing of it is
// there yet, and it is built under other names beside its place.
func (s *session) placeWall(dir string, free []string, dirs ...string) wall.Spec {
	parent := filepath.Dir(dir)
	for p := parent; ; p = filepath.Dir(p) {
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			parent = jail.RealPath(p)
			break
		}
		if p == filepath.Dir(p) {
			break
		}
	}
	return wall.Spec{
		Keep: [][]string{{filepath.Join(parent, filepath.Base(dir)), filepath.Join(parent, "."+filepath.Base(dir))}},
		Free: free, Beneath: []string{parent}, Dirs: s.ownDirs(dirs...),
	}
}
