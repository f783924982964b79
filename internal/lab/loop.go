package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// privateMark names, in the environment, the test that runs in a mount
// namespace of its own.
const privateMark = "JAILUP_LAB_PRIVATE"

// privateGrace is how long what a test has started there may outlive it.
const privateGrace = 5 * time.Second

// InPrivateMounts runs the test that calls it once more, alone, in a new
// process with a private mount namespace. It returns true in the outer
// process, when that one has ended well, and false in the inner one, which
// goes on:
//
//	if lab.InPrivateMounts(t) {
//		return
//	}
//	dir := lab.Loop(t, "xfs", 512)
//
// In a namespace that others share, one cloned meanwhile by any process keeps
// a file system alive after it was unmounted. A process that is left in the private
// one is killed and fails the test, however that one ended. Needs root.
func InPrivateMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(privateMark) == t.Name() {
		awaitOuter()
		return false
	}
	Need(t, "root", "mounts")
	args := again(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), privateMark+"="+t.Name())
	// With Unshareflags Go also makes every mount private, which Cloneflags
	// does not.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, left, err := runPrivate(cmd, privateGrace)
	text := string(out)
	if len(left) > 0 {
		t.Errorf("the tests left behind, in a private mount namespace: %s", strings.Join(left, ", "))
	}
	switch {
	case err != nil:
		t.Fatalf("in a private mount namespace: %v\n%s", err, text)
	case strings.Contains(text, "--- SKIP: "+t.Name()+" "):
		t.Skipf("skipped in a private mount namespace:\n%s", text)
	case !strings.Contains(text, "--- PASS: "+t.Name()+" "):
		t.Fatalf("the test did not run in a private mount namespace:\n%s", text)
	}
	if testing.Verbose() {
		// Marked, so that no reader of go test's output takes it for its own.
		t.Logf("in a private mount namespace:\n| %s", strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n| "))
	}
	return true
}

// again are the arguments with which a test binary runs one test once more, alone.
func again(t *testing.T) []string {
	var names []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		names = append(names, "^"+regexp.QuoteMeta(part)+"$")
	}
	args := []string{"-test.run=" + strings.Join(names, "/"), "-test.v", "-test.count=1", "-test.parallel=1"}
	if d, ok := t.Deadline(); ok {
		// Early enough that what it leaves then can still be found and ended.
		args = append(args, "-test.timeout="+max(time.Until(d)-3*privateGrace, time.Second).String())
	}
	return args
}

// loopSlots is how many loop devices the tests of one machine use at once; a
// small one has eight nodes.
const loopSlots = 6

// Loop makes a file system of that type ("ext4", "xfs", "btrfs") in a file in
// memory and mounts it. The mount point is returned; it goes with the test.
// An xfs cannot be made smaller than 300 MB, nor a btrfs smaller than 16 MB:
// less is taken as that. more are options of its mkfs. Only for a test inside
// InPrivateMounts.
func Loop(t testing.TB, fstype string, sizeMB int, more ...string) string {
	t.Helper()
	Need(t, "root", "loop", "mkfs."+fstype)
	if os.Getenv(privateMark) == "" {
		t.Fatal("lab.Loop needs lab.InPrivateMounts first")
	}
	t.Cleanup(takeSlot(t))
	var args []string
	switch fstype {
	case "ext4":
		args = []string{"-q", "-F", "-E", "nodiscard"}
	case "xfs":
		args = []string{"-q", "-f", "-K"}
		sizeMB = max(sizeMB, 300)
	case "btrfs":
		args = []string{"-q", "-f", "-K"}
		if sizeMB = max(sizeMB, 16); sizeMB < 256 {
			args = append(args, "--mixed")
		}
	default:
		t.Fatalf("unknown type of file system %q", fstype)
	}
	dir := ShmDir(t)
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, int64(sizeMB)<<20); err != nil {
		t.Fatal(err)
	}
	mkfs, _ := lookPath("mkfs." + fstype)
	if out, err := exec.Command(mkfs, append(append(args, more...), image)...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.%s: %v: %s", fstype, err, out)
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountAll(t, at) })
	if err := mountImage(image, at, fstype); err != nil {
		t.Fatal(err)
	}
	return at
}

// takeSlot waits until fewer than loopSlots tests use loop devices. Released, the
// slot is another's.
func takeSlot(t testing.TB) (release func()) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for n := range int64(loopSlots) {
			f, free, err := lockByte("loops", n)
			if err != nil {
				t.Fatalf("cannot reserve a loop device: %v", err)
			}
			if free {
				return func() { f.Close() }
			}
		}
	}
	t.Fatal("no loop device became free within 3 minutes")
	return nil
}

func mountImage(image, at, fstype string) error {
	dev, err := attach(image)
	if err != nil {
		return fmt.Errorf("cannot attach a loop device: %w", err)
	}
	// Once it is mounted the device needs no descriptor; when it is unmounted
	// it frees itself.
	defer dev.Close()
	return mountDevice(dev.Name(), at, fstype)
}

func mountDevice(dev, at, fstype string) error {
	opts := ""
	if fstype == "xfs" {
		opts = "nouuid" // a copy of an image has the same one
	}
	if err := unix.Mount(dev, at, fstype, 0, opts); err != nil {
		return fmt.Errorf("cannot mount %s: %w", fstype, err)
	}
	return os.Chmod(at, 0o755)
}

// attach follows loop(4): ask for a free number, configure that device, and
// ask again if another was faster.
func attach(image string) (*os.File, error) {
	back, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	for range 200 {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err == nil {
			err = unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{
				Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
			})
			if err == nil {
				return dev, nil
			}
			dev.Close()
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.New("no free loop device")
}

// CutPower does to a file system of Loop what a power cut does: what was not
// yet written is lost. It is mounted again in its place, its log replayed.
// Nothing may have a file open in it. The whole of ext4 and xfs is shut down in
// place; of btrfs, which cannot be, the image is copied while it is mounted.
func CutPower(t testing.TB, at string) {
	t.Helper()
	if err := cutPower(at, shutdownNoLog); err != nil {
		t.Fatalf("cannot cut the power of %s: %v", at, err)
	}
}

// CutPowerFlushed is CutPower in the instant after the file system has written its
// log, and no data: every name is there, and a file whose data nobody synced may
// be empty. Of btrfs it is the same as CutPower.
func CutPowerFlushed(t testing.TB, at string) {
	t.Helper()
	if err := cutPower(at, shutdownLog); err != nil {
		t.Fatalf("cannot cut the power of %s: %v", at, err)
	}
}

// shutdownIoctl is that of ext4 and XFS that stops all writing; with shutdownNoLog
// the log is left unwritten as well (linux: include/uapi, xfs_fs.h,
// XFS_IOC_GOINGDOWN, XFS_FSOP_GOING_FLAGS_LOGFLUSH and NOLOGFLUSH).
const (
	shutdownIoctl = 0x8004587d
	shutdownLog   = 1
	shutdownNoLog = 2
)

func cutPower(at string, flag int) error {
	dev, fstype, err := mountedOn(at)
	if err != nil {
		return err
	}
	if fstype == "btrfs" {
		image := filepath.Join(filepath.Dir(at), "image")
		if err := cloneSparse(image, image+".cut"); err != nil {
			return err
		}
		if err := unix.Unmount(at, 0); err != nil {
			return err
		}
		if err := os.Rename(image+".cut", image); err != nil {
			return err
		}
		return mountImage(image, at, fstype)
	}
	// Held open, the device stays attached while nothing is mounted on it.
	hold, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer hold.Close()
	d, err := os.Open(at)
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(d.Fd()), shutdownIoctl, flag)
	d.Close()
	if err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		return err
	}
	return mountDevice(dev, at, fstype)
}

// mountedOn finds device and type of what is mounted last on a folder, in the
// form of proc_pid_mountinfo(5).
func mountedOn(at string) (dev, fstype string, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(b)) {
		head, rest, _ := strings.Cut(line, " - ")
		f, r := strings.Fields(head), strings.Fields(rest)
		if len(f) > 4 && len(r) > 1 && unescape(f[4]) == at {
			fstype, dev = r[0], r[1]
		}
	}
	if dev == "" {
		return "", "", errors.New("nothing is mounted there")
	}
	return dev, fstype, nil
}

func cloneSparse(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(fi.Size()); err != nil {
		return err
	}
	for off := int64(0); ; {
		data, err := unix.Seek(int(in.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		if err != nil {
			return err
		}
		if off, err = unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, off-data)); err != nil {
			return err
		}
	}
}

// unmountAll takes away a mount point and what is below it. One that is busy
// for ten seconds is an error of the test, and is detached.
func unmountAll(t testing.TB, at string) {
	below, err := mountsBelow(at)
	if err != nil {
		t.Error(err)
	}
	for i := len(below) - 1; i >= 0; i-- {
		_ = unix.Unmount(below[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
		if err == nil || err == unix.EINVAL {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("cannot unmount %s: %v", at, err)
			_ = unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			return
		}
	}
}

// Sync makes all that was written to a file system durable.
func Sync(t testing.TB, at string) {
	t.Helper()
	d, err := os.Open(at)
	if err != nil {
		t.Fatalf("cannot sync %s: %v", at, err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		t.Fatalf("cannot sync %s: %v", at, err)
	}
}
