package wall_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/wall"
)

const taskEnv = "JAILUP_TEST_WALL"

func TestMain(m *testing.M) { lab.Main(m, behind) }

// task is what a program behind a wall is to try.
type task struct {
	Spec wall.Spec
	Do   []string // see attempt
	Out  string   // where the report goes, on the host's side
}

type report struct {
	PID     int
	Comm    string
	Args    []string
	Dir     string
	NS      string
	Mounts  bool
	Why     string
	Open    int
	Rules   []string
	Results map[string]string // "" for what can be done
	Fds     []string
	Took    time.Duration
}

// behind is the program: it goes behind the wall and tries.
func behind() bool {
	text := os.Getenv(taskEnv)
	if text == "" {
		return false
	}
	var t task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		panic(err)
	}
	if wall.Inside() == nil {
		_ = os.WriteFile(t.Out+".began", []byte(time.Now().Format(time.RFC3339Nano)), 0o600)
		err := wall.Enter(t.Spec)
		fmt.Println("no wall:", err)
		return true
	}
	in := wall.Inside()
	wall.Resume()
	r := report{PID: os.Getpid(), Args: os.Args, Mounts: in.Mounts(), Why: in.Why(), Open: in.Open(), Rules: in.Rules(), Results: map[string]string{}}
	if began, err := os.ReadFile(t.Out + ".began"); err == nil {
		at, _ := time.Parse(time.RFC3339Nano, string(began))
		r.Took = time.Since(at)
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	r.Comm = strings.TrimSpace(string(comm))
	r.Dir, _ = os.Getwd()
	r.NS, _ = os.Readlink("/proc/self/ns/mnt")
	for _, a := range t.Do {
		r.Results[a] = ""
		if err := attempt(a); err != nil {
			r.Results[a] = err.Error()
			var errno syscall.Errno
			if errors.As(err, &errno) {
				r.Results[a] = unix.ErrnoName(errno)
			}
		}
	}
	data, _ := json.Marshal(r)
	if err := wall.Host(func() error { return os.WriteFile(t.Out, data, 0o600) }); err != nil {
		fmt.Println(err)
	}
	return true
}

// attempt does one thing: "write FILE", "append FILE", "open FILE", "swap A B",
// "host-write FILE", "suid DIR", "nodev DIR", "run FILE".
func attempt(what string) error {
	f := strings.Split(what, " ")
	switch f[0] {
	case "write":
		return os.WriteFile(f[1], []byte("x"), 0o600)
	case "mkdir":
		return os.Mkdir(f[1], 0o700)
	case "append":
		file, err := os.OpenFile(f[1], os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			file.Close()
		}
		return err
	case "open":
		file, err := os.OpenFile(f[1], os.O_RDWR, 0)
		if err == nil {
			file.Close()
		}
		return err
	case "unlink":
		return unix.Unlink(f[1])
	case "rename":
		return unix.Rename(f[1], f[2])
	case "swap":
		return unix.Renameat2(unix.AT_FDCWD, f[1], unix.AT_FDCWD, f[2], unix.RENAME_EXCHANGE)
	case "host-write":
		return wall.Host(func() error { return os.WriteFile(f[1], nil, 0o600) })
	case "host-run":
		return wall.Host(func() error { return exec.Command(f[1], f[2:]...).Run() })
	case "run":
		return exec.Command(f[1], f[2:]...).Run()
	case "host-ns":
		var ns string
		err := wall.Host(func() (err error) {
			out, err := exec.Command("readlink", "/proc/self/ns/mnt").Output()
			ns = strings.TrimSpace(string(out))
			return err
		})
		if err == nil {
			err = errors.New(ns)
		}
		return err
	case "flags":
		var fs unix.Statfs_t
		err := unix.Statfs(f[1], &fs)
		if err == nil {
			err = fmt.Errorf("%d", fs.Flags&(unix.ST_RDONLY|unix.ST_NOSUID|unix.ST_NODEV))
		}
		return err
	}
	return errors.New("what?")
}

// try runs this binary as a program that goes behind the wall.
func try(t *testing.T, spec wall.Spec, do ...string) report {
	t.Helper()
	r, out := start(t, nil, spec, do...)
	require.NotNil(t, r, out)
	return *r
}

func start(t *testing.T, attr *syscall.SysProcAttr, spec wall.Spec, do ...string) (*report, string) {
	t.Helper()
	return startAfter(t, "", attr, spec, do...)
}

// startAfter runs a script of the shell before the program, in the same process
// and in mounts of its own.
func startAfter(t *testing.T, script string, attr *syscall.SysProcAttr, spec wall.Spec, do ...string) (*report, string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	out := filepath.Join(lab.ShmDir(t), "report")
	text, err := json.Marshal(task{Spec: spec, Do: do, Out: out})
	require.NoError(t, err)
	if attr != nil && attr.Credential != nil { // another user must get at it
		text, err := os.ReadFile(self)
		require.NoError(t, err)
		self = filepath.Join(lab.ShmDir(t), filepath.Base(self))
		require.NoError(t, os.WriteFile(self, text, 0o755))
	}
	cmd := exec.Command(self, "an", "argument")
	cmd.Env = append(os.Environ(), taskEnv+"="+string(text))
	cmd.SysProcAttr = attr
	cmd.Dir = filepath.Dir(out)
	if script != "" {
		cmd.Path = "/bin/sh"
		cmd.Args = append([]string{"sh", "-ec", script + `; cd "` + cmd.Dir + `"; exec "$0" "$@"`}, cmd.Args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	}
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, string(said))
	data, err := os.ReadFile(out)
	if err != nil {
		return nil, string(said)
	}
	r := &report{}
	require.NoError(t, json.Unmarshal(data, r))
	require.Equal(t, cmd.Process.Pid, r.PID, "it is the same process")
	require.Equal(t, []string{self, "an", "argument"}, r.Args)
	require.Equal(t, filepath.Dir(out), r.Dir)
	want := filepath.Base(self)
	require.Equal(t, want[:min(15, len(want))], r.Comm)
	return r, string(said)
}

func put(t *testing.T, p string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
	require.NoError(t, os.WriteFile(p, []byte(p), 0o644))
	return p
}

// place is a jail with what lies beside it.
type place struct{ base, jail, stage, state, outside string }

func newPlace(t *testing.T, base string) place {
	t.Helper()
	p := place{base, filepath.Join(base, "jail"), filepath.Join(base, ".jailup-stage-1"), filepath.Join(lab.ShmDir(t), "state"), lab.ShmDir(t)}
	put(t, filepath.Join(p.jail, "etc/conf"))
	put(t, filepath.Join(p.stage, "run/1"))
	put(t, filepath.Join(p.state, "journal"))
	put(t, filepath.Join(p.outside, "file"))
	put(t, filepath.Join(base, "other/file"))
	put(t, filepath.Join(base, "file"))
	require.NoError(t, os.Symlink("other", filepath.Join(base, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(base, "fifo"), 0o600))
	require.NoError(t, unix.Mknod(filepath.Join(p.jail, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	return p
}

func (p place) spec() wall.Spec {
	return wall.Spec{Keep: [][]string{{p.jail, p.stage}}, Dirs: []string{p.state}, NoLandlock: true}
}

// check tries what may be done and what may not.
func (p place) check(t *testing.T) report {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	allowed := []string{
		"swap " + p.jail + "/etc/conf " + p.stage + "/run/1", "rename " + p.stage + "/run/1 " + p.jail + "/etc/new",
		"write " + p.jail + "/etc/more", "mkdir " + p.jail + "/srv", "write " + p.stage + "/run/2", "write " + p.state + "/more",
		"append " + p.state + "/journal", "open /dev/null", "host-write " + p.outside + "/by-the-host", "host-run true",
		"append " + p.base + "/fifo-no",
	}
	allowed = allowed[:len(allowed)-1]
	denied := []string{
		"write " + p.base + "/other/new", "append " + p.base + "/other/file", "unlink " + p.base + "/other/file",
		"append " + p.base + "/file", "write " + p.base + "/link/new", "write " + p.outside + "/new", "append " + p.outside + "/file",
		"unlink " + p.outside + "/file", "append /etc/passwd", "append /proc/sys/kernel/domainname", "append /sys/kernel/uevent_helper",
	}
	busy := []string{"rename " + p.base + "/other " + p.base + "/gone", "unlink " + p.base + "/file"}
	r := try(t, p.spec(), slices.Concat(allowed, denied, busy, []string{"open " + p.jail + "/null", "host-ns x", "flags " + p.jail})...)
	require.True(t, r.Mounts, r.Why)
	require.NotEqual(t, own, r.NS)
	for _, a := range allowed {
		require.Empty(t, r.Results[a], a)
	}
	for _, a := range denied {
		require.Contains(t, []string{"EROFS", "ENOENT"}, r.Results[a], a)
	}
	for _, a := range busy {
		require.Equal(t, "EBUSY", r.Results[a], a)
	}
	require.Equal(t, "EACCES", r.Results["open "+p.jail+"/null"], "a device of the jail is none")
	require.Equal(t, own, r.Results["host-ns x"], "what is started on the host's side lives there")
	require.Equal(t, fmt.Sprint(unix.ST_NOSUID|unix.ST_NODEV), r.Results["flags "+p.jail])
	require.NoFileExists(t, filepath.Join(p.base, "other/new"))
	return r
}

func TestAllElseIsReadOnly(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "mounts")
	newPlace(t, lab.ShmDir(t)).check(t)
}

func TestEachFileSystem(t *testing.T) {
	lab.Need(t, "root", "loop")
	if lab.InPrivateMounts(t) {
		return
	}
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			lab.Need(t, "mkfs."+fs)
			size := map[string]int{"ext4": 64, "xfs": 320, "btrfs": 128}[fs]
			at := lab.Loop(t, fs, size)
			base := filepath.Join(at, "below")
			require.NoError(t, os.Mkdir(base, 0o755))
			newPlace(t, base).check(t)
			// The parent is the mount point itself.
			newPlace(t, at).check(t)
		})
	}
}

// A jail that is a mount point holds its stage.
func TestAMountPoint(t *testing.T) {
	lab.Need(t, "root", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	base := lab.ShmDir(t)
	jail := filepath.Join(base, "jail")
	require.NoError(t, os.Mkdir(jail, 0o755))
	require.NoError(t, unix.Mount("tmpfs", jail, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(jail, unix.MNT_DETACH) })
	put(t, filepath.Join(base, "beside"))
	put(t, filepath.Join(jail, "a"))
	put(t, filepath.Join(jail, ".jailup-stage/b"))
	r := try(t, wall.Spec{Keep: [][]string{{jail}}, NoLandlock: true}, "swap "+jail+"/a "+jail+"/.jailup-stage/b", "append "+base+"/beside", "write "+base+"/new")
	require.Empty(t, r.Results["swap "+jail+"/a "+jail+"/.jailup-stage/b"])
	require.Equal(t, "EROFS", r.Results["append "+base+"/beside"])
	require.Equal(t, "EROFS", r.Results["write "+base+"/new"])
}

// What is mounted in the jail comes along and is read-only; what is mounted in the
// state is writable; what is read-only on the host stays so.
func TestMountsWithin(t *testing.T) {
	lab.Need(t, "root", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	p := newPlace(t, lab.ShmDir(t))
	for dir, fs := range map[string]string{p.jail + "/proc": "proc", p.jail + "/data": "tmpfs", p.state + "/snapshots": "tmpfs", p.state + "/closed": "tmpfs"} {
		require.NoError(t, os.Mkdir(dir, 0o755))
		flags := uintptr(0)
		if strings.HasSuffix(dir, "closed") {
			flags = unix.MS_RDONLY
		}
		require.NoError(t, unix.Mount(fs, dir, fs, flags, ""))
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	p.check(t)
	r := try(t, p.spec(), "write "+p.jail+"/data/x", "append "+p.jail+"/proc/sys/kernel/domainname", "write "+p.state+"/snapshots/x", "write "+p.state+"/closed/x")
	require.Equal(t, "EROFS", r.Results["write "+p.jail+"/data/x"])
	require.Equal(t, "EROFS", r.Results["append "+p.jail+"/proc/sys/kernel/domainname"])
	require.Empty(t, r.Results["write "+p.state+"/snapshots/x"])
	require.Equal(t, "EROFS", r.Results["write "+p.state+"/closed/x"])

	require.NoError(t, unix.Mount(p.base, p.base, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(p.base, unix.MNT_DETACH) })
	require.NoError(t, unix.Mount("", p.base, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	r = try(t, p.spec(), "write "+p.jail+"/y")
	require.Equal(t, "EROFS", r.Results["write "+p.jail+"/y"], "a read-only jail is not made writable")
}

// newRoot is a root folder with the programs of the host and a jail in it.
func newRoot(t *testing.T, mounted bool) string {
	t.Helper()
	root := lab.ShmDir(t)
	if mounted {
		require.NoError(t, unix.Mount("tmpfs", root, "tmpfs", 0, ""))
		t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	}
	var binds []string
	for _, d := range []string{"bin", "sbin", "lib", "lib64", "usr", "etc", "dev", "proc", "sys", "tmp"} {
		host := "/" + d
		if link, err := os.Readlink(host); err == nil {
			require.NoError(t, os.Symlink(link, filepath.Join(root, d)))
			continue
		}
		if _, err := os.Stat(host); err != nil {
			continue
		}
		binds = append(binds, host)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	for _, d := range append(binds, filepath.Dir(self), os.TempDir()) {
		at := filepath.Join(root, d)
		require.NoError(t, os.MkdirAll(at, 0o755))
		require.NoError(t, unix.Mount(d, at, "", unix.MS_BIND|unix.MS_REC, ""))
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	put(t, filepath.Join(root, "chroot/etc/conf"))
	put(t, filepath.Join(root, ".jailup-stage-1/x"))
	put(t, filepath.Join(root, "srv/site/index.html"))
	put(t, filepath.Join(root, "var/lib/jailup/journal"))
	return root
}

var rootSpec = wall.Spec{Keep: [][]string{{"/chroot", "/.jailup-stage-1"}}, Dirs: []string{"/var/lib/jailup"}, NoLandlock: true}

// A jail in the root folder has the whole host beside it.
func TestATopLevelJail(t *testing.T) {
	lab.Need(t, "root", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	root := newRoot(t, true)
	require.NoError(t, os.Mkdir(filepath.Join(root, "old"), 0o755))
	r, out := startAfter(t, `cd "`+root+`"; pivot_root . old; cd /; umount -l /old`, nil, rootSpec, "swap /chroot/etc/conf /.jailup-stage-1/x",
		"write /srv/site/new", "write /srv/new", "append /etc/passwd", "write /var/lib/other", "write /var/lib/jailup/x", "write /usr/x", "write /dev/shm/x")
	require.NotNil(t, r, out)
	require.True(t, r.Mounts, r.Why)
	require.Empty(t, r.Results["swap /chroot/etc/conf /.jailup-stage-1/x"])
	require.Empty(t, r.Results["write /var/lib/jailup/x"])
	for _, a := range []string{"write /srv/site/new", "write /srv/new", "append /etc/passwd", "write /var/lib/other", "write /usr/x", "write /dev/shm/x"} {
		require.Equal(t, "EROFS", r.Results[a], a)
	}
}

// A process in a chroot has no mounts of its own: the way back to those of the host
// would lead out of it.
func TestInAChroot(t *testing.T) {
	lab.Need(t, "root", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	for _, mounted := range []bool{false, true} {
		root := newRoot(t, mounted)
		attr := &syscall.SysProcAttr{Chroot: root}
		r, out := start(t, attr, rootSpec)
		require.Nil(t, r)
		require.Contains(t, out, "no wall: this process is in a chroot")
		if wall.ABI() < 2 {
			continue
		}
		spec := rootSpec
		spec.NoLandlock = false
		r, out = start(t, attr, spec, "host-write /chroot/by-the-host", "write /srv/site/new", "swap /chroot/etc/conf /.jailup-stage-1/x")
		require.NotNil(t, r, out)
		require.False(t, r.Mounts)
		require.Equal(t, "this process is in a chroot", r.Why)
		require.NotEmpty(t, r.Rules)
		for what, got := range r.Results {
			require.Empty(t, got, what)
		}
		require.FileExists(t, filepath.Join(root, "chroot/by-the-host"))
	}
}

// In a container each device may be a mount of its own, and /dev one or none.
func TestDevicesOfAContainer(t *testing.T) {
	lab.Need(t, "root", "mounts")
	if lab.InPrivateMounts(t) {
		return
	}
	for name, dev := range map[string]string{
		"mounted":     `mount -t tmpfs -o nosuid tmpfs "$d"`,
		"none":        `true`,
		"closed":      `mount -t tmpfs -o nosuid,nodev tmpfs "$d"`,
		"hidden":      `mount -t tmpfs -o nosuid tmpfs "$d"; mkdir "$d/h"; mount -t tmpfs tmpfs "$d/h"; mkdir "$d/h/h"; mount -t tmpfs tmpfs "$d/h/h"; mount -t tmpfs tmpfs "$d/h"`,
		"one on both": `mount -t tmpfs tmpfs "$d"; mount -t tmpfs -o nosuid tmpfs "$d"`,
	} {
		root := newRoot(t, true)
		require.NoError(t, os.Mkdir(filepath.Join(root, "old"), 0o755))
		require.NoError(t, unix.Unmount(filepath.Join(root, "dev"), unix.MNT_DETACH))
		r, out := startAfter(t, `cd "`+root+`"; d=dev; `+dev+`; for n in null zero urandom; do touch $d/$n; mount --bind /dev/$n $d/$n; done
			mkdir $d/shm; mount --rbind /dev/shm $d/shm; pivot_root . old; cd /; umount -l /old`, nil, rootSpec, "open /dev/null", "open /dev/zero", "run true", "write /dev/x")
		require.NotNil(t, r, name+": "+out)
		require.True(t, r.Mounts, name+": "+r.Why)
		for _, a := range []string{"open /dev/null", "open /dev/zero", "run true"} {
			require.Empty(t, r.Results[a], name+": "+a)
		}
		require.Equal(t, "EROFS", r.Results["write /dev/x"], name)
	}
}

// Two folders of stages, where a jail was moved: the parent of all is one mount,
// and all else in it is covered.
func TestStagesInTwoPlaces(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "mounts")
	base := lab.ShmDir(t)
	for _, f := range []string{"new/jail/a", "new/beside/f", "old/.jailup-stage-1/b", "old/beside/f", "third/f"} {
		put(t, filepath.Join(base, f))
	}
	spec := wall.Spec{Keep: [][]string{{base + "/new/jail", base + "/new/.jailup-stage-1", base + "/old/.jailup-stage-1"}}, NoLandlock: true}
	swap := "swap " + base + "/new/jail/a " + base + "/old/.jailup-stage-1/b"
	r := try(t, spec, swap, "append "+base+"/new/beside/f", "append "+base+"/old/beside/f", "append "+base+"/third/f", "mkdir "+base+"/new/.jailup-stage-1")
	require.Empty(t, r.Results[swap])
	require.Empty(t, r.Results["mkdir "+base+"/new/.jailup-stage-1"])
	for _, f := range []string{"new/beside/f", "old/beside/f", "third/f"} {
		require.Equal(t, "EROFS", r.Results["append "+base+"/"+f], f)
	}
}

// A recovery of all jails has one wall for all of them.
func TestSeveralJails(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "mounts")
	base := lab.ShmDir(t)
	spec := wall.Spec{NoLandlock: true}
	var swaps []string
	for _, d := range []string{"", "x/", "x/y/", "z/"} {
		for _, n := range []string{"a", "b"} {
			jail, stage := base+"/"+d+n, base+"/"+d+".jailup-stage-"+n
			put(t, jail+"/f")
			put(t, stage+"/f")
			swaps = append(swaps, "swap "+jail+"/f "+stage+"/f")
			spec.Keep = append(spec.Keep, []string{jail, stage})
		}
		put(t, base+"/"+d+"beside/f")
	}
	r := try(t, spec, append(swaps, "append "+base+"/beside/f", "append "+base+"/x/beside/f", "append "+base+"/x/y/beside/f", "append "+base+"/z/beside/f")...)
	for what, got := range r.Results {
		if strings.HasPrefix(what, "swap") {
			require.Empty(t, got, what)
		} else {
			require.Equal(t, "EROFS", got, what)
		}
	}
}

// Many siblings are covered in little time; too many are told.
func TestManySiblings(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "mounts")
	p := newPlace(t, lab.ShmDir(t))
	for i := range 200 {
		put(t, fmt.Sprintf("%s/s%04d/f", p.base, i))
	}
	r := p.check(t)
	require.Zero(t, r.Open)
	t.Logf("behind the wall after %s", r.Took)
	for i := 200; i < 1100; i++ {
		put(t, fmt.Sprintf("%s/s%04d/f", p.base, i))
	}
	r = try(t, p.spec())
	require.Positive(t, r.Open)
	t.Logf("behind the wall after %s", r.Took)
}

// What runs outside of a wall is not taken for inside by what its caller left open.
func TestOutside(t *testing.T) {
	t.Parallel()
	require.Nil(t, wall.Inside())
	require.NoError(t, wall.Host(func() error { return nil }))
	err := errors.New("x")
	require.Equal(t, err, wall.Host(func() error { return err }))
}

// Where nothing can be had the program goes on as it was.
func TestNoWall(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	p := newPlace(t, lab.ShmDir(t))
	spec := p.spec()
	spec.NoMounts = true
	r, out := start(t, nil, spec)
	require.Nil(t, r)
	require.Contains(t, out, "no wall: switched off")
	// Without the capability.
	spec = p.spec()
	r, out = start(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}, spec)
	require.Nil(t, r)
	require.Contains(t, out, "no wall: cannot have mounts apart: operation not permitted")
}
