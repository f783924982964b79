package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// Reexec is the first call of main, and of TestMain in packages whose tests run
// programs in a jail: where this process is the inside of a Box it does that
// work and exits, else it returns at once.
func Reexec() {
	if len(os.Args) == 0 || os.Args[0] != boxName {
		return
	}
	report := os.NewFile(boxReportFd, "report")
	code, err := insideBox(report)
	if err != nil {
		fmt.Fprintf(report, "%s", err)
		os.Exit(boxSetupFail) //nolint:forbidigo // the inside of a box is a process of its own
	}
	os.Exit(code) //nolint:forbidigo // likewise
}

const boxDir = "/mnt"

// insideBox is process 1 of the namespaces.
func insideBox(report *os.File) (int, error) {
	runtime.LockOSThread() // capabilities are those of a thread
	// Its own four, and what the caller was started with and passed on: a
	// directory of the host would be a way out of the chroot.
	if err := CloseInherited(); err != nil {
		return 0, fmt.Errorf("cannot keep descriptors back: %w", err)
	}
	data, err := io.ReadAll(os.NewFile(boxSpecFd, "spec"))
	if err != nil {
		return 0, err
	}
	var spec boxSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return 0, err
	}
	view, err := makeView(spec.Root, spec.Room)
	if err != nil {
		return 0, err
	}
	root, err := Open(view)
	if err != nil {
		return 0, err
	}
	for _, c := range spec.Changes {
		if err := applyChange(root, c); err != nil {
			return 0, fmt.Errorf("cannot show %s in the view: %w", c.Path, err)
		}
	}
	if err := makeNet(root); err != nil {
		return 0, err
	}
	emptyLogs(root)
	root.Close()
	// Both are of the host, or of what is about to be out of reach.
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	if err := shut(view); err != nil {
		return 0, err
	}
	steady()
	go keepWatch(proc, boxMemory, func(why string) {
		fmt.Fprintf(report, "%s%s", boxLimited, why)
		os.Exit(boxSetupFail) //nolint:forbidigo // the end of process 1 is the end of the box
	})
	if err := confine(proc); err != nil {
		return 0, err
	}
	cmd := exec.Command(spec.Argv[0], spec.Argv[1:]...)
	cmd.Path = spec.Argv[0]
	cmd.Err = nil // looked for in the view, not here
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.Env = append(cmd.Env, spec.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Run()
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &ee):
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ee.ExitCode(), nil
	}
	// It could not be executed: that is a finding, not a failure of the box.
	fmt.Fprintf(os.Stderr, "cannot execute %s: %v\n", spec.Argv[0], plain(err))
	return 126, nil
}

// roomFor is how many bytes the view may hold in memory: the staged files twice,
// and what a test of a configuration writes.
func roomFor(stage *os.File, changes []Change) int64 {
	var staged int64
	for _, c := range changes {
		var st unix.Stat_t
		if c.Stage != "" && unix.Fstatat(int(stage.Fd()), c.Stage, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			staged += st.Size
		}
	}
	return max(boxRoom, 2*staged+64<<20)
}

// makeView mounts the jail with writes in memory and returns where. The
// descriptor of the jail belongs to a mount of the namespace outside, which an
// overlay refuses: it is opened once more here and compared.
func makeView(jailPath string, room int64) (string, error) {
	mount := func(source, target, fstype string, flags uintptr, data string) error {
		if err := unix.Mount(source, target, fstype, flags, data); err != nil {
			return fmt.Errorf("cannot mount %s: %w", fstype, err)
		}
		return nil
	}
	if err := mount("none", "/", "none", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return "", err
	}
	lower, err := Open(jailPath)
	if err != nil {
		return "", err
	}
	defer lower.Close()
	given, err := Fstat(boxRootFd)
	if err != nil {
		return "", err
	}
	if given.Dev != lower.dev || given.Ino != lower.ino {
		return "", fmt.Errorf("%s is no longer the jail", jailPath)
	}
	below, err := lower.mountsBelow()
	if err != nil {
		return "", err
	}
	defer func() {
		for _, m := range below {
			m.dir.Close()
		}
	}()
	if err := mount("tmpfs", boxDir, "tmpfs", unix.MS_NOSUID, fmt.Sprintf("mode=0700,size=%d", room)); err != nil {
		return "", err
	}
	for _, d := range []string{"upper", "work", "view"} {
		if err := unix.Mkdir(path.Join(boxDir, d), 0o755); err != nil {
			return "", err
		}
	}
	view := path.Join(boxDir, "view")
	opts := fmt.Sprintf("lowerdir=/proc/self/fd/%d,upperdir=%s/upper,workdir=%s/work", lower.Fd(), boxDir, boxDir)
	if err := mount("overlay", view, "overlay", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return "", err
	}
	root, err := Open(view)
	if err != nil {
		return "", err
	}
	defer root.Close()
	for _, m := range below {
		m.show(root)
	}
	if d, err := root.OpenDir("/dev"); err == nil {
		defer d.Close()
		target := fmt.Sprintf("/proc/self/fd/%d", d.Fd())
		if err := mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
			return "", err
		}
		dev, err := root.openDir("/dev", resolveIn)
		if err != nil {
			return "", err
		}
		defer dev.Close()
		for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
			if err := unix.Mknodat(int(dev.Fd()), name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
				return "", fmt.Errorf("cannot make device %s: %w", name, err)
			}
			if err := unix.Fchmodat(int(dev.Fd()), name, 0o666, 0); err != nil {
				return "", err
			}
		}
	}
	return view, nil
}

// applyChange makes one change in the view, by descriptors as in the jail: the
// links of a hostile jail lie in the view as well.
func applyChange(root *Root, c Change) error {
	if c.Mode == 0 {
		d, base, err := root.OpenParent(c.Path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer d.Close()
		if err := unix.Unlinkat(int(d.Fd()), base, 0); err != nil {
			if errors.Is(err, unix.EISDIR) {
				err = unix.Unlinkat(int(d.Fd()), base, unix.AT_REMOVEDIR)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
				return err
			}
		}
		return nil
	}
	d, base, err := root.OpenParent(c.Path)
	if err != nil {
		return err
	}
	defer d.Close()
	dir := int(d.Fd())
	switch c.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dir, base, c.Mode&0o7777); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return unix.Fchownat(dir, base, c.UID, c.GID, unix.AT_SYMLINK_NOFOLLOW)
	case unix.S_IFLNK:
		_ = unix.Unlinkat(dir, base, 0)
		return unix.Symlinkat(c.Link, dir, base)
	}
	_ = unix.Unlinkat(dir, base, 0)
	var src io.ReadCloser = io.NopCloser(strings.NewReader(""))
	if c.Stage != "" {
		if src, err = OpenAt(boxStageFd, c.Stage); err != nil {
			return err
		}
	}
	defer src.Close()
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(fd), base)
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	if err := dst.Chown(c.UID, c.GID); err != nil {
		return err
	}
	return unix.Fchmod(fd, c.Mode&0o7777)
}

// emptyLogs empties the large files in /var/log of the view. A server opens them
// to append, and the overlay would first copy all of each into memory; one that
// is truncated it does not copy. What cannot be emptied stays.
func emptyLogs(root *Root) {
	left := 10000 // entries, lest a hostile jail keep us here
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		names, err := root.ReadDir(dir)
		if err != nil {
			return
		}
		for _, n := range names {
			if left--; left < 0 {
				return
			}
			p := path.Join(dir, n)
			info, err := root.Lstat(p)
			switch {
			case err != nil:
			case info.IsDir() && depth > 0:
				walk(p, depth-1)
			case info.IsRegular() && info.Size > 1<<20:
				d, base, err := root.OpenParent(p)
				if err != nil {
					continue
				}
				if fd, err := unix.Openat(int(d.Fd()), base, unix.O_WRONLY|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
					unix.Close(fd)
				}
				d.Close()
			}
		}
	}
	walk("/var/log", 4)
}

// makeNet brings up the loopback device, lets every address be bound, and
// answers every question for a host name.
func makeNet(root *Root) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("cannot bring up the loopback device: %w", err)
	}
	for _, f := range []string{"/proc/sys/net/ipv4/ip_nonlocal_bind", "/proc/sys/net/ipv6/ip_nonlocal_bind"} {
		if err := os.WriteFile(f, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot let every address be bound: %w", plain(err))
		}
	}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:53")
	if err != nil {
		return fmt.Errorf("cannot answer for host names: %w", err)
	}
	go answerNames(conn)
	d, err := root.OpenDir("/etc")
	if err != nil {
		return nil // a jail without /etc asks no resolver
	}
	defer d.Close()
	_ = unix.Unlinkat(int(d.Fd()), "resolv.conf", 0)
	fd, err := unix.Openat(int(d.Fd()), "resolv.conf", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "resolv.conf")
	defer f.Close()
	_, err = f.WriteString("nameserver 127.0.0.1\n")
	return err
}

// answerNames tells one address of the documentation ranges (RFC 5737, RFC 3849)
// for every name.
func answerNames(conn net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 || m.Response {
			continue
		}
		q := m.Questions[0]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true},
			Questions: m.Questions,
		}
		head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
		switch q.Type {
		case dnsmessage.TypeA:
			reply.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}}}}
		case dnsmessage.TypeAAAA:
			reply.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}}}}
		}
		if out, err := reply.Pack(); err == nil {
			_, _ = conn.WriteTo(out, from)
		}
	}
}
