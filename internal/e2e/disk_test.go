//go:build faultpoints

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// diskRun is a jail on a disk that goes bad in one way or another.
type diskRun struct {
	*faultRun
	y   *lab.Tally
	mnt string
}

// newDisk has the jail on mnt, and the state in the folder state.
func newDisk(t *testing.T, mnt, state string) *diskRun {
	t.Helper()
	f := newFaultRun(t, mnt)
	plain := lab.Plain(t, lab.NginxPair(t))
	f.h.debs = newHost(t, plain.Old, plain.New).debs
	f.h.dir = filepath.Join(state, "host")
	require.NoError(t, os.MkdirAll(f.h.dir, 0o755))
	f.h.extra = []string{"--cache-dir", filepath.Join(lab.ShmDir(t), "cache")}
	f.h.env = append(f.h.env, "JAILUP_FAULT_LOOKS=20ms")
	d := &diskRun{faultRun: f, y: lab.NewTally(t, "disk"), mnt: mnt}
	d.y.Cases(1)
	return d
}

func (d *diskRun) upgradeArgs(more ...string) []string {
	return append([]string{"upgrade", "nginx", "--jail", d.j.Dir, "--soak", "0s"}, more...)
}

// learn makes the new tree known, and goes back.
func (d *diskRun) learn() {
	d.t.Helper()
	d.h.must(0, "upgraded", d.upgradeArgs()...)
	d.new = stateless(d.t, d.j.Dir)
	d.back()
}

func (d *diskRun) back() {
	d.t.Helper()
	d.h.must(0, "rolled-back", "rollback", "--jail", d.j.Dir, "--soak", "0s")
	require.Empty(d.t, lab.DiffTrees(d.old, stateless(d.t, d.j.Dir)))
}

// refused wants exit 1, the words, the server never touched and nothing changed.
func (d *diskRun) refused(what string, words string, args ...string) result {
	d.t.Helper()
	pid := d.j.MasterPID()
	r := d.h.run(args...)
	d.y.Point("refused")
	if r.Exit != 1 {
		d.y.WrongExit("%s: %s", what, brief(r))
	}
	require.Contains(d.t, r.err()+" "+r.Stderr, words, what)
	if hint, _ := r.Done["hint"].(string); hint == "" {
		d.t.Errorf("%s: no hint: %s", what, brief(r))
	}
	require.Equal(d.t, pid, d.j.MasterPID(), "%s: the server was touched", what)
	if diff := lab.DiffTrees(d.old, stateless(d.t, d.j.Dir)); len(diff) > 0 {
		d.y.Mixed("%s: %v", what, diff)
	}
	d.outside(what)
	return r
}

func (d *diskRun) outside(what string) {
	d.t.Helper()
	if diff := lab.DiffTrees(d.can, lab.TreeDigest(d.t, d.canary)); len(diff) > 0 {
		d.y.Outside("%s: %v", what, diff)
	}
}

// brief is what a result says in two lines.
func brief(r result) string {
	return "exit " + strconv.Itoa(r.Exit) + ": " + r.err() + "; " + r.Stderr
}

// truth compares an exit status with the tree: 0 is new, 1 and 3 are old.
func (d *diskRun) truth(what string, r result) {
	d.t.Helper()
	now := stateless(d.t, d.j.Dir)
	isOld, isNew := len(lab.DiffTrees(d.old, now)) == 0, len(lab.DiffTrees(d.new, now)) == 0
	switch {
	case isNew:
		d.y.Point("new")
	case isOld:
		d.y.Point("old")
	default:
		d.y.Point("mixed")
		d.y.Mixed("%s: exit %d, against old: %v, against new: %v", what, r.Exit, lab.DiffTrees(d.old, now), lab.DiffTrees(d.new, now))
	}
	if r.Exit == 4 {
		d.y.Person("%s: %s", what, brief(r))
	} else if isNew != (r.Exit == 0) {
		d.y.WrongExit("%s: the jail is new: %v: %s", what, isNew, brief(r))
	}
	d.outside(what)
	d.answers(20*time.Second, what)
}

// paused starts the program, waits until it stops itself at the point, does
// what is to be done, and returns what becomes of it. Where kill is set it goes
// no further.
func (d *diskRun) paused(at string, kill bool, do func(), args ...string) result {
	d.t.Helper()
	var out, errOut bytes.Buffer
	cmd := d.h.command(args...)
	cmd.Env = append(cmd.Env, "JAILUP_FAULT=signal:"+at+":STOP", "JAILUP_FAULT_GUARD=off")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	require.NoError(d.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stat := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/stat"
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(stat)
		if err != nil || time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			d.t.Fatalf("it did not stop at %s: %s%s", at, out.String(), errOut.String())
		}
		if _, rest, ok := strings.Cut(string(text), ") "); ok && strings.HasPrefix(rest, "T") {
			break
		}
	}
	do()
	if kill {
		require.NoError(d.t, cmd.Process.Kill())
	} else {
		require.NoError(d.t, cmd.Process.Signal(syscall.SIGCONT))
	}
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		_ = cmd.Process.Kill()
		d.t.Fatalf("it does not end: %s", out.String())
	}
	r := result{Exit: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errOut.String()}
	for line := range strings.SplitSeq(strings.TrimSpace(r.Stdout), "\n") {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) == nil {
			r.Events = append(r.Events, e)
			if e["kind"] == "run.done" {
				r.Done = e
			}
		}
	}
	return r
}

// fillDisk takes the room of a file system to the last block, and leaves the given
// number of bytes. The returned function gives it back.
func fillDisk(t testing.TB, dir string, leave int) (empty func()) {
	t.Helper()
	at := filepath.Join(dir, "fill")
	require.NoError(t, os.Mkdir(at, 0o755))
	reserve := filepath.Join(at, "reserve")
	if leave > 0 {
		require.NoError(t, os.WriteFile(reserve, make([]byte, leave), 0o600))
	}
	buf := make([]byte, 1<<20)
	n := 0
	for size := len(buf); size > 0; size /= 16 {
		for n < 3000 {
			n++
			f, err := os.Create(filepath.Join(at, strconv.Itoa(n)))
			if err != nil {
				break
			}
			_, err = f.Write(buf[:size])
			if err == nil && size == len(buf) {
				err = f.Sync() // or else it is told too late
			}
			f.Close()
			if err != nil {
				break
			}
		}
	}
	d, err := os.Open(dir)
	require.NoError(t, err)
	_ = unix.Syncfs(int(d.Fd()))
	d.Close()
	if leave > 0 {
		require.NoError(t, os.Remove(reserve))
	}
	return func() {
		// Emptied first: on a full btrfs a removal may find no room.
		all, _ := filepath.Glob(filepath.Join(at, "*"))
		for _, f := range all {
			_ = os.Truncate(f, 0)
		}
		require.NoError(t, os.RemoveAll(at))
		lab.Sync(t, dir)
	}
}

// A file system that is full to the last block, at each stage of a run: what
// needs room is refused while the server runs; exchange, undo and recovery need
// none.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "loop", "mkfs.xfs", "mkfs.ext4", "mkfs.btrfs")
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			mnt := lab.Loop(t, fstype, 256)
			d := newDisk(t, mnt, mnt)
			d.learn()

			empty := fillDisk(t, mnt, 0)
			d.refused("full before the run", "", d.upgradeArgs()...)
			empty()

			empty = fillDisk(t, mnt, 8<<20)
			r := d.h.run(d.upgradeArgs()...) // the stage or the copy finds no room
			d.truth("room for a part of it", r)
			empty()
			if r.Exit == 0 {
				d.back()
			}

			for i, at := range []string{"1@do arm", "2@do stop", "1@do install", "9@do install", "1@do start", "1@do verify"} {
				if d.y.Of(1); !lab.Sampled(t, i) && i != 3 {
					continue
				}
				var empty func()
				r := d.paused(at, false, func() { empty = fillDisk(t, mnt, 0) }, d.upgradeArgs()...)
				d.truth("full at "+at, r)
				rec := d.h.run("recover", "--jail", d.j.Dir)
				require.Zero(t, rec.Exit, "full at %s: recover: %s", at, brief(rec))
				empty()
				d.h.must(0, "recovered", "recover", "--jail", d.j.Dir)
				if d.isNew() {
					d.back()
				}
			}
			// Killed on a full disk, and recovered on it.
			for i, at := range []string{"2@do stop", "9@do install", "1@do start"} {
				if d.y.Of(1); !lab.Sampled(t, i) && i != 1 {
					continue
				}
				var empty func()
				d.paused(at, true, func() { empty = fillDisk(t, mnt, 0) }, d.upgradeArgs()...)
				r := d.h.run("recover", "--jail", d.j.Dir)
				if r.Exit != 0 {
					d.y.Person("full and killed at %s: recover: %s", at, brief(r))
				}
				r.Exit = 3 // it went back
				d.truth("full and killed at "+at, r)
				empty()
				d.h.must(0, "recovered", "recover", "--jail", d.j.Dir)
			}
			// Back on a full disk: it works, or is refused while the server runs.
			d.h.must(0, "upgraded", d.upgradeArgs()...)
			empty = fillDisk(t, mnt, 0)
			r = d.h.run("rollback", "--jail", d.j.Dir, "--soak", "0s")
			now := d.isNew()
			if now == (r.Exit == 0) || r.Exit == 4 {
				d.y.WrongExit("rollback on a full disk: new %v: %s", now, brief(r))
			}
			d.y.Point(map[bool]string{true: "refused", false: "old"}[now])
			empty()
			d.h.must(0, "recovered", "recover", "--jail", d.j.Dir)
			if d.isNew() {
				d.back()
			}
		})
	}
}

func (d *diskRun) isNew() bool { return len(lab.DiffTrees(d.old, stateless(d.t, d.j.Dir))) > 0 }

// Only the jail's disk is full: with the room that a server needs to start it can be
// gone back on it, and without it is refused while the server runs.
func TestDiskFullRollback(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "loop", "mkfs.xfs", "mkfs.ext4", "mkfs.btrfs")
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			mnt := lab.Loop(t, fstype, 128)
			d := newDisk(t, mnt, lab.ShmDir(t))
			d.h.must(0, "upgraded", d.upgradeArgs()...)
			empty := fillDisk(t, mnt, 0)
			r := d.h.run("rollback", "--jail", d.j.Dir, "--soak", "0s")
			// The exchange needs no room, but a server that starts does: none is stopped
			// that could not be started again.
			if r.Exit != 1 || !d.isNew() || r.Done["hint"] == "" {
				d.y.WrongExit("rollback on a full disk: %s", brief(r))
			}
			d.y.Point("refused")
			empty()
			empty = fillDisk(t, mnt, 3<<20)
			r = d.h.run("rollback", "--jail", d.j.Dir, "--soak", "0s")
			// A full btrfs may refuse an exchange as well: then it goes back.
			if d.isNew() != (r.Exit == 3) || r.Exit != 0 && fstype != "btrfs" {
				d.y.WrongExit("rollback on a disk that is nearly full: %s", brief(r))
			}
			d.y.Point("old")
			empty()
		})
	}
}

// tmpfs mounts one with options, for a test in a private mount namespace.
func tmpfs(t testing.TB, opts string) string {
	t.Helper()
	dir := filepath.Join(lab.ShmDir(t), "tmpfs")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, opts))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	require.NoError(t, os.Chmod(dir, 0o700))
	return dir
}

// Room is counted before the stop, and the number needed and the number there are
// told.
func TestDiskRoomIsCounted(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "loop", "mkfs.ext4")
	if lab.InPrivateMounts(t) {
		return
	}
	base := lab.ShmDir(t)
	d := newDisk(t, base, base)
	d.learn()
	small := tmpfs(t, "size=4m")
	r := d.refused("a small store", "KiB are free", d.upgradeArgs("--snapshots", small)...)
	require.Contains(t, r.Done["hint"], small)
	few := tmpfs(t, "nr_inodes=20")
	r = d.refused("a store with few inodes", "inodes in "+few, d.upgradeArgs("--snapshots", few)...)
	require.Contains(t, r.Done["hint"], "df -i")
	home := d.h.dir
	d.h.dir = tmpfs(t, "size=1m")
	d.refused("a small state", "KiB are free", d.upgradeArgs("--snapshots", tmpfs(t, "size=64m"))...)
	d.h.dir = home

	// A jail whose disk has hardly an inode left.
	mnt := lab.Loop(t, "ext4", 64, "-N", "256")
	e := newDisk(t, mnt, base+"/other")
	var made []string
	for n := 0; ; n++ {
		p := filepath.Join(mnt, "i"+strconv.Itoa(n))
		if os.WriteFile(p, nil, 0o600) != nil {
			break
		}
		made = append(made, p)
	}
	e.refused("no inode is left", "", e.upgradeArgs()...)
	for n, p := range made {
		require.NoError(t, os.Remove(p))
		if n == 7 {
			e.refused("8 inodes are left", "", e.upgradeArgs()...)
		}
	}
	e.learn()
}

// Files that cannot be renamed, folders that are mounted, a disk that cannot be
// written: found before the stop, with the path.
func TestDiskInTheWay(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "loop", "mkfs.ext4", "chattr")
	if lab.InPrivateMounts(t) {
		return
	}
	mnt := lab.Loop(t, "ext4", 256)
	d := newDisk(t, mnt, lab.ShmDir(t))
	d.learn()
	chattr := func(flag, p string) {
		out, err := exec.Command("chattr", flag, p).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	for _, c := range []struct{ set, unset, path, told string }{
		{"+i", "-i", "usr/sbin/nginx", "/usr/sbin/nginx"},
		{"+a", "-a", "usr/sbin/nginx", "/usr/sbin/nginx"},
		{"+i", "-i", "usr/sbin", "/usr/sbin"},
		{"+a", "-a", "lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"},
	} {
		p := filepath.Join(d.j.Dir, c.path)
		chattr(c.set, p)
		d.refused(c.set+" "+c.path, c.told, d.upgradeArgs()...)
		chattr(c.unset, p)
	}
	// Mounts: of a part of the jail on itself, of a file on itself.
	for _, part := range []string{"usr/sbin", "usr/sbin/nginx"} {
		p := filepath.Join(d.j.Dir, part)
		require.NoError(t, unix.Mount(p, p, "", unix.MS_BIND, ""))
		d.refused("mounted: "+part, "/"+part, d.upgradeArgs()...)
		require.NoError(t, unix.Unmount(p, unix.MNT_DETACH))
	}
	// Read-only: the whole disk, and a jail that is a read-only mount.
	d.j.Stop(t)
	remount := func(flags uintptr) {
		// The kernel closes the files of what was killed a moment after it is gone.
		err := unix.EBUSY
		for began := time.Now(); errors.Is(err, unix.EBUSY) && time.Since(began) < 5*time.Second; time.Sleep(5 * time.Millisecond) {
			if e := unix.Mount("", mnt, "", unix.MS_REMOUNT|flags, ""); e == nil {
				return
			} else if !errors.As(e, &err) {
				require.NoError(t, e)
			}
		}
		require.NoError(t, err)
	}
	remount(unix.MS_RDONLY)
	r := d.h.run(d.upgradeArgs()...)
	if r.Exit != 1 || len(lab.DiffTrees(d.old, stateless(t, d.j.Dir))) > 0 {
		d.y.WrongExit("read-only: exit %d: %s", r.Exit, r)
	}
	d.y.Point("refused")
	remount(0)
	d.j.Start(t)
	// Read-only in the middle of it, before anything was exchanged.
	r = d.paused("1@do install", false, func() { remount(unix.MS_RDONLY) }, d.upgradeArgs()...)
	remount(0)
	if r.Exit == 0 || len(lab.DiffTrees(d.old, stateless(t, d.j.Dir))) > 0 {
		d.y.WrongExit("read-only in the install: exit %d: %s", r.Exit, r)
	}
	t.Logf("read-only before the first exchange: exit %d: %s %s", r.Exit, r.err(), r.Done["hint"])
	d.h.must(0, "recovered", "recover", "--jail", d.j.Dir)
	d.answers(10*time.Second, "after a read-only disk")
	require.Empty(t, lab.DiffTrees(d.old, stateless(t, d.j.Dir)))
	// In the middle of the exchanges nobody can go on, nor back: it is said, and
	// ended when the disk can be written again.
	r = d.paused("9@do install", false, func() { remount(unix.MS_RDONLY) }, d.upgradeArgs()...)
	if r.Exit != 4 {
		d.y.WrongExit("read-only in the middle of the install: exit %d: %s", r.Exit, r)
	}
	d.y.Point("stuck, and told")
	remount(0)
	d.h.must(0, "recovered", "recover", "--jail", d.j.Dir)
	d.answers(10*time.Second, "after a read-only disk")
	require.Empty(t, lab.DiffTrees(d.old, stateless(t, d.j.Dir)))
}

// File systems without one thing or another: it works, or is refused while the
// server runs.
func TestDiskKinds(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	ramfs := func() string { // no attributes, no cloning, no limit
		dir := filepath.Join(lab.ShmDir(t), "ramfs")
		require.NoError(t, os.Mkdir(dir, 0o755))
		require.NoError(t, unix.Mount("ramfs", dir, "ramfs", 0, "mode=755"))
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	// around makes a run of a jail that is there already, and stopped.
	around := func(j *lab.Jail) *diskRun {
		plain := lab.Plain(t, lab.NginxPair(t))
		h := newHost(t, plain.Old, plain.New)
		h.bin, h.env = program(t, true), []string{"JAILUP_FAULT_LOOKS=20ms"}
		j.Start(t)
		f := &faultRun{t: t, h: h, j: j, old: stateless(t, j.Dir), canary: lab.ShmDir(t)}
		f.can = lab.TreeDigest(t, f.canary)
		d := &diskRun{faultRun: f, y: lab.NewTally(t, "disk")}
		d.y.Cases(1)
		return d
	}
	made := func(dir string) *lab.Jail {
		return lab.HandMadeJail(t, lab.NginxPair(t).Old, lab.InDir(filepath.Join(dir, "chroot")))
	}
	overlay := func(fill func(lower string)) string {
		base := lab.ShmDir(t)
		at := filepath.Join(base, "merged")
		for _, p := range []string{"lower", "upper", "work", "merged"} {
			require.NoError(t, os.Mkdir(filepath.Join(base, p), 0o755))
		}
		fill(filepath.Join(base, "lower"))
		opts := "lowerdir=" + base + "/lower,upperdir=" + base + "/upper,workdir=" + base + "/work"
		require.NoError(t, unix.Mount("overlay", at, "overlay", 0, opts))
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
		return at
	}
	try := func(what string, d *diskRun) {
		pid := d.j.MasterPID()
		r := d.h.run(d.upgradeArgs()...)
		t.Logf("%s: exit %d: %s", what, r.Exit, r.err())
		switch r.Exit {
		case 0:
			d.y.Point("new")
			d.back()
		case 1:
			d.y.Point("refused")
			require.Equal(t, pid, d.j.MasterPID(), what)
			require.Empty(t, lab.DiffTrees(d.old, stateless(t, d.j.Dir)), what)
		default:
			d.y.WrongExit("%s: %s", what, brief(r))
		}
	}
	try("ramfs", around(made(ramfs())))
	try("overlay, upper", newDisk(t, overlay(func(string) {}), lab.ShmDir(t)))
	var below *lab.Jail
	at := overlay(func(lower string) { below = made(lower) })
	below.Dir = filepath.Join(at, "chroot")
	t.Cleanup(func() { below.Stop(t) }) // before its folder is unmounted, and not to be found any more
	try("overlay, lower", around(below))
	// Few descriptors: from not enough to begin with to plenty.
	d := newDisk(t, lab.ShmDir(t), lab.ShmDir(t))
	d.learn()
	bin := d.h.bin
	for _, n := range []int{6, 9, 12, 16, 20, 28, 40} {
		script := filepath.Join(lab.ShmDir(t), "few")
		require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nulimit -n "+strconv.Itoa(n)+"\nexec "+bin+" \"$@\"\n"), 0o755))
		d.h.bin = script
		r := d.h.run(d.upgradeArgs()...)
		d.h.bin = bin
		if r.Exit == 2 { // the program itself did not come up
			r.Exit = 1
		}
		d.truth(strconv.Itoa(n)+" descriptors", r)
		if d.isNew() {
			d.back()
		}
	}
}

// A bit that flips on the disk is found before what it is in is used.
func TestDiskFlippedBit(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt")
	d := newDisk(t, lab.ShmDir(t), lab.ShmDir(t))
	d.learn()
	flip := func(pattern string) {
		all, err := filepath.Glob(pattern)
		require.NoError(t, err)
		best, size := "", int64(0)
		for _, p := range all {
			if st, err := os.Lstat(p); err == nil && st.Mode().IsRegular() && st.Size() > size {
				best, size = p, st.Size()
			}
		}
		require.NotEmpty(t, best, pattern)
		st, err := os.Stat(best)
		require.NoError(t, err)
		f, err := os.OpenFile(best, os.O_RDWR, 0)
		require.NoError(t, err)
		b := make([]byte, 1)
		_, err = f.ReadAt(b, size/2)
		require.NoError(t, err)
		b[0] ^= 4
		_, err = f.WriteAt(b, size/2)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.NoError(t, os.Chtimes(best, st.ModTime(), st.ModTime()))
	}
	stage := filepath.Join(filepath.Dir(d.j.Dir), ".jailup-stage-*", "*", "0*")
	// Armed is the last look: what flips while the server is down is not looked for
	// again, unless the stage lies in the jail.
	for _, at := range []string{"1@do rehearse", "1@do snapshot", "20@do snapshot"} {
		pid := d.j.MasterPID()
		r := d.paused(at, false, func() { flip(stage) }, d.upgradeArgs()...)
		d.y.Point("refused")
		if r.Exit != 1 && r.Exit != 7 {
			d.y.WrongExit("a bit flipped in the stage at %s: exit %d: %s", at, r.Exit, r)
		}
		require.Equal(t, pid, d.j.MasterPID(), at)
		require.Empty(t, lab.DiffTrees(d.old, stateless(t, d.j.Dir)), at)
	}
	// What a rollback would put back: in the stage, and in the snapshot.
	up := d.h.must(0, "upgraded", d.upgradeArgs()...)
	id := up.Done["snapshot"].(string)
	fresh := stateless(t, d.j.Dir)
	pid := d.j.MasterPID()
	flip(stage)
	r := d.h.run("rollback", "--jail", d.j.Dir, "--soak", "0s")
	d.y.Point("refused")
	if r.Exit != 1 && r.Exit != 7 || pid != d.j.MasterPID() || len(lab.DiffTrees(fresh, stateless(t, d.j.Dir))) > 0 {
		d.y.WrongExit("a bit flipped in the stage before a rollback: exit %d: %s", r.Exit, r)
	}
	require.NotEmpty(t, r.Done["hint"])
	flip(filepath.Join(d.h.dir, "state/snapshots", id, "tree/usr/sbin/*"))
	r = d.h.run("rollback", "--jail", d.j.Dir, "--to", id, "--soak", "0s")
	d.y.Point("refused")
	if r.Exit != 1 || pid != d.j.MasterPID() || len(lab.DiffTrees(fresh, stateless(t, d.j.Dir))) > 0 {
		d.y.WrongExit("a bit flipped in a snapshot before a rollback: exit %d: %s", r.Exit, r)
	}
	require.NotZero(t, d.h.run("snapshot", "verify", id, "--jail", d.j.Dir).Exit)
}

// A store that is full refuses the next run, and the last good snapshot stays
// what it is, also through a prune.
func TestDiskFullStore(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	base := lab.ShmDir(t)
	d := newDisk(t, base, base)
	store := tmpfs(t, "size=64m")
	d.h.extra = append(d.h.extra, "--snapshots", store)
	up := d.h.must(0, "upgraded", d.upgradeArgs()...)
	d.new = stateless(t, d.j.Dir)
	d.back()
	id := up.Done["snapshot"].(string)
	empty := fillDisk(t, store, 0)
	d.refused("a full store", "", d.upgradeArgs("--keep", "1")...)
	require.Zero(t, d.h.run("snapshot", "verify", id, "--jail", d.j.Dir).Exit)
	require.Zero(t, d.h.run("snapshot", "prune", "--jail", d.j.Dir, "--keep", "1").Exit)
	require.Zero(t, d.h.run("snapshot", "verify", id, "--jail", d.j.Dir).Exit)
	empty()
	d.h.must(0, "upgraded", d.upgradeArgs("--keep", "1")...)
}
