package steps

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// room is what something takes, or what a file system has left.
type room struct {
	bytes  int64
	inodes int64
}

// stateRoom is what a run writes into its state: the changeset, the manifests,
// the record of events, the evidence.
var stateRoom = room{bytes: 2 << 20, inodes: 48}

// roomIn tells what is left for others than root on the file system of a folder.
// One without a limit (on inodes: btrfs) has as many as there may ever be.
func roomIn(dir string) (room, unix.Statfs_t, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return room{}, st, fmt.Errorf("cannot tell how much room is left in %s: %w", dir, err)
	}
	return roomOf(&st), st, nil
}

func roomOf(st *unix.Statfs_t) room {
	r := room{bytes: int64(st.Bavail) * st.Bsize, inodes: int64(st.Ffree)}
	if st.Files == 0 || st.Ffree > 1<<62 { // some fill what they do not count with ones
		r.inodes = 1 << 40
	}
	if st.Blocks == 0 { // ramfs, and tmpfs with size=0
		r.bytes = 1 << 60
	}
	return r
}

// needRoom refuses to go on where the file system of dir has less left than what
// is about to be written for. hint tells what else may be done about it.
func (e *Env) needRoom(need room, what, dir, hint string) error {
	have, _, err := roomIn(dir)
	if err != nil {
		return err
	}
	more := "make room there: df -h " + event.Clean(dir, 300)
	if hint != "" {
		more += ", or " + hint
	}
	switch {
	case have.bytes < need.bytes:
		return fail(nil, more, "cannot go on with jail %s: %s needs %d KiB in %s, and %d KiB are free", e.Root.Path(), what, (need.bytes+1023)>>10, dir, have.bytes>>10)
	case have.inodes < need.inodes:
		more = "make room there: df -i" + more[len("make room there: df -h"):]
		return fail(nil, more, "cannot go on with jail %s: %s needs %d inodes in %s, and %d are free", e.Root.Path(), what, need.inodes, dir, have.inodes)
	}
	return nil
}

// roomForSnapshot looks for room for a copy of the jail, its manifest included.
// What is excluded of it is not known here, and then only the least is asked for.
func (e *Env) roomForSnapshot(ctx context.Context) error {
	need := room{bytes: 64 << 10, inodes: 8}
	if len(e.Options.Exclude) == 0 {
		jail := e.jailRoom(ctx)
		if sharesBlocks(e.Root.Path(), e.StoreDir) {
			jail.bytes = jail.inodes << 10 // files are cloned, their inodes are not
		}
		need.bytes += jail.bytes + jail.inodes*manifestLine
		need.inodes += jail.inodes
	}
	return e.needRoom(need, "the snapshot", e.StoreDir, "keep it elsewhere: --snapshots DIR")
}

// manifestLine is about what one entry takes in a snapshot's manifest.
const manifestLine = 256

// sharesBlocks tells whether files can be cloned from one folder to another: both
// on one XFS or btrfs.
func sharesBlocks(a, b string) bool {
	_, x, err := roomIn(a)
	_, y, also := roomIn(b)
	return err == nil && also == nil && x.Fsid == y.Fsid && (x.Type == unix.BTRFS_SUPER_MAGIC || x.Type == unix.XFS_SUPER_MAGIC)
}

// roomDepth is how deep jailRoom counts: what somebody has put deeper is left out,
// and a level takes one descriptor.
const roomDepth = 100

// jailRoom is what a copy of the jail takes. Holes take nothing, and of a file
// with several names each one is counted for its part.
func (e *Env) jailRoom(ctx context.Context) (r room) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	if fd, err := unix.Openat2(e.Root.Fd(), ".", &how); err == nil {
		r.count(ctx, fd, &how, 0)
	}
	return r
}

// count adds what one open directory takes, and what is below it, and closes it.
func (r *room) count(ctx context.Context, fd int, how *unix.OpenHow, depth int) {
	const block = 4096
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	for {
		names, err := f.Readdirnames(512)
		if len(names) == 0 || err != nil || ctx.Err() != nil {
			return
		}
		for _, n := range names {
			if depth == 0 && n == backup.StageName {
				continue // no snapshot has it
			}
			info, err := jail.StatAt(fd, n)
			if err != nil {
				continue
			}
			r.inodes++
			switch {
			case info.IsDir():
				r.bytes += block
				if depth < roomDepth {
					if sub, err := unix.Openat2(fd, n, how); err == nil {
						r.count(ctx, sub, how, depth+1)
					}
				}
			case info.IsRegular():
				size := (info.Size + block - 1) / block * block
				r.bytes += min(size, max(info.Blocks*512, block)) / int64(max(info.Nlink, 1))
			}
		}
	}
}

// roomForInstall looks for what little an install takes that is no exchange: new
// names and folders in the jail, the notes of the run, and the snapshot's manifest.
// An undo takes none of it.
func (e *Env) roomForInstall(f *Facts) error {
	if f.Verb != "upgrade" {
		return nil // a way back is tried on a full disk as well
	}
	need := room{bytes: reserveSize + 64<<10, inodes: 4}
	for _, op := range e.set.Ops {
		switch op.Kind {
		case changeset.Add:
			need.bytes += 1 << 10
		case changeset.Mkdir:
			need.bytes += 4 << 10
			need.inodes++
		}
	}
	if err := e.needRoom(need, "the install", e.Root.Path(), ""); err != nil {
		return err
	}
	if f.Snapshot != "" && e.StoreDir != "" {
		if err := e.needRoom(room{bytes: 64 << 10, inodes: 4}, "the snapshot", e.StoreDir, "keep it elsewhere: --snapshots DIR"); err != nil {
			return err
		}
	}
	return e.needRoom(room{bytes: 256 << 10, inodes: 16}, "the record of the run", e.StateDir, "keep it elsewhere: --state-dir DIR")
}

// undamaged refuses a stage that is not what it was when it was made.
func (e *Env) undamaged(w *changeset.Worker, f *Facts) error {
	damaged, err := w.Damaged()
	if err != nil || len(damaged) == 0 {
		return err
	}
	hint := "look at the disk: dmesg; then run it again"
	if f.Verb == "rollback" {
		hint = "look at the disk: dmesg; a snapshot may be whole: jailup snapshot list --jail " + event.Clean(e.Root.Path(), 300)
	}
	return fail(nil, hint, "cannot go on: what is to become %s is no longer what it was when it was staged (%d files in all): the disk has damaged it, or somebody wrote it", damaged[0], len(damaged))
}

// A server that starts writes to its disk: its PID file, a line in a log. Where
// others fill that disk while it is down it could not be started again, neither
// the new one nor the old. So some room is kept for it from before the stop.
const (
	reserveName = "reserve"
	reserveSize = 1 << 20
)

// makeReserve takes the room, in the stage. What a killed run left of it goes with
// the stage.
func (e *Env) makeReserve() error {
	dir := int(e.stage.Dir().Fd())
	_ = sys.Unlinkat(dir, reserveName, 0)
	f, err := sys.Create(dir, reserveName, 0o600)
	if err == nil {
		err = errors.Join(sys.Allocate(f, reserveSize), f.Close())
	}
	if err == nil {
		return nil
	}
	_ = sys.Unlinkat(dir, reserveName, 0)
	return fail(nil, "make room there: df -h "+event.Clean(e.Root.Path(), 300),
		"cannot go on with jail %s: no room is left for its server to start again: %w", e.Root.Path(), err)
}

// halveReserve gives half of the room to the new server, which is about to start.
// The other half stays for the old one.
func (e *Env) halveReserve(f *Facts) {
	stage, err := e.openStage(f)
	if err != nil {
		return
	}
	how := unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH}
	fd, err := unix.Openat2(int(stage.Dir().Fd()), reserveName, &how)
	if err != nil {
		return
	}
	file := os.NewFile(uintptr(fd), reserveName)
	defer file.Close()
	_ = sys.Truncate(file, reserveSize/2)
}

// freeReserve gives the room to the server that is about to start. A second call
// is fine, and so is one without a stage.
func (e *Env) freeReserve(f *Facts) {
	if f.Stage == "" {
		return
	}
	if stage, err := e.openStage(f); err == nil {
		_ = sys.Unlinkat(int(stage.Dir().Fd()), reserveName, 0)
	}
}

// NoRoom adds what to do to an error that says that a disk is full, where nothing
// better was said.
func (e *Env) NoRoom(err error) error {
	if err == nil || HintOf(err) != "" || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return &Error{Kind: kindOf(err), Err: err, Hint: "make room: df -h " + event.Clean(e.Root.Path(), 300) + " " + e.StateDir + ", and df -i"}
}
