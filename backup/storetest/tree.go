package storetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Nasty fills dir with one of everything that a snapshot must keep. Owners,
// device nodes and capabilities come only when root asks.
func Nasty(t testing.TB, dir string) {
	t.Helper()
	root := os.Geteuid() == 0
	p := func(rel string) string { return filepath.Join(dir, rel) }
	write := func(rel, text string, mode uint32) {
		require.NoError(t, os.MkdirAll(filepath.Dir(p(rel)), 0o755))
		require.NoError(t, os.WriteFile(p(rel), []byte(text), 0o600))
		require.NoError(t, unix.Chmod(p(rel), mode))
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	write("etc/passwd", "root:x:0:0::/:/bin/sh\n", 0o644)
	write("etc/shadow", "root:*:1::::::\n", 0o640)
	write("bin/su", "#!", 0o4755)
	write("bin/wall", "#!", 0o2755)
	write("empty", "", 0o000)
	write("odd/-rf", "dash", 0o644)
	write("odd/new\nline", "1", 0o644)
	write("odd/\x1b[31mred", "2", 0o644)
	write("odd/bad\xff\xfeutf8", "3", 0o644)
	write("odd/quote\"back\\slash", "4", 0o644)
	write("odd/ünïcode ☃ \u202e", "5", 0o644)
	write("odd/"+string(bytes.Repeat([]byte("x"), 255)), "6", 0o644)
	write("big", string(bytes.Repeat([]byte("0123456789abcdef"), 80<<10)), 0o644)
	write("a/first", "one inode", 0o644)
	require.NoError(t, os.MkdirAll(p("z/y"), 0o755))
	require.NoError(t, os.Link(p("a/first"), p("z/y/second")))
	require.NoError(t, os.Link(p("a/first"), p("third")))
	require.NoError(t, os.MkdirAll(p("tmp"), 0o755))
	require.NoError(t, unix.Chmod(p("tmp"), 0o1777))
	require.NoError(t, os.MkdirAll(p("closed/in"), 0o755))
	write("closed/in/file", "x", 0o400)
	require.NoError(t, os.MkdirAll(p("var/shared"), 0o755))
	require.NoError(t, unix.Chmod(p("var/shared"), 0o2775))
	write("var/shared/file", "y", 0o664)

	require.NoError(t, os.Symlink("/etc/passwd", p("absolute")))
	require.NoError(t, os.Symlink("../../../../../etc", p("climbing")))
	require.NoError(t, os.Symlink("nowhere", p("dangling")))
	require.NoError(t, os.Symlink("loop", p("loop")))
	require.NoError(t, os.Symlink("bad\xfftarget\n", p("odd/link")))
	require.NoError(t, os.Link(p("dangling"), p("dangling2")))

	require.NoError(t, unix.Mkfifo(p("fifo"), 0o622))
	require.NoError(t, unix.Chmod(p("fifo"), 0o622))
	socket(t, p("socket"))

	f, err := os.Create(p("sparse"))
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("in the middle"), 3<<20)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(9<<20))
	require.NoError(t, f.Close())
	f, err = os.Create(p("hole"))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(5<<20))
	require.NoError(t, f.Close())

	for i := range 700 { // more than one batch
		write(fmt.Sprintf("many/f%03d", i), fmt.Sprint(i), 0o644)
	}
	deep := "deep"
	for range 60 {
		deep += "/d"
	}
	write(deep+"/leaf", "down here", 0o644)

	setx(t, p("etc/shadow"), "user.note", []byte("kept\x00binary\xff"))
	setx(t, p("var"), "user.dir", []byte("d"))
	setx(t, p("etc/passwd"), "system.posix_acl_access", acl(0o6, 1234, 0o6, 0o4))
	setx(t, p("var/shared"), "system.posix_acl_default", acl(0o7, 1234, 0o7, 0o5))
	if root {
		setx(t, p("bin/wall"), "trusted.t", []byte("t"))
		setx(t, p("absolute"), "trusted.link", []byte("l"))
		setx(t, p("fifo"), "trusted.fifo", []byte("f"))
		chown := func(rel string, uid, gid int) { require.NoError(t, os.Lchown(p(rel), uid, gid)) }
		chown("etc/shadow", 0, 42)
		chown("tmp", 65534, 65534)
		chown("absolute", 33, 33)
		chown("fifo", 33, 34)
		chown("var/shared", 33, 33)
		chown("var/shared/file", 4000000000, 33)
		chown("bin/su", 1, 2)
		require.NoError(t, unix.Chmod(p("bin/su"), 0o6755))
		require.NoError(t, unix.Chmod(p("var/shared"), 0o2775))
		// cap_net_bind_service+ep, as VFS_CAP_REVISION_2 of capabilities(7)
		setx(t, p("bin/wall"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		require.NoError(t, os.MkdirAll(p("dev"), 0o755))
		require.NoError(t, unix.Mknod(p("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		require.NoError(t, unix.Mknod(p("dev/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
		require.NoError(t, unix.Chmod(p("dev/null"), 0o666))
	}
	require.NoError(t, unix.Chmod(p("closed/in"), 0o555))
	require.NoError(t, unix.Chmod(p("closed"), 0o711))

	// Odd times, set from the leaves up.
	age(t, dir, "etc/passwd", -1, 5)
	age(t, dir, "absolute", 1e9, 123456789)
	age(t, dir, "fifo", 2e9, 1)
	age(t, dir, "etc", 1234567890, 999999999)
	age(t, dir, "var", 86400, 1)
	age(t, dir, ".", 1111111111, 111111111)
}

func age(t testing.TB, dir, rel string, sec, nsec int64) {
	ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, rel), ts, unix.AT_SYMLINK_NOFOLLOW))
}

func setx(t testing.TB, p, name string, value []byte) {
	require.NoError(t, unix.Lsetxattr(p, name, value, 0), name)
}

// acl is a POSIX ACL with one named user, in the form of the attribute (linux/posix_acl_xattr.h).
func acl(owner uint16, uid uint32, user, other uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag, perm uint16, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	const none = ^uint32(0)
	add(0x01, owner, none)
	add(0x02, user, uid)
	add(0x04, other, none)
	add(0x10, user, none)
	add(0x20, other, none)
	return b
}

func socket(t testing.TB, p string) {
	// Paths of sockets are short (unix(7)): made through a descriptor.
	d, err := os.Open(filepath.Dir(p))
	require.NoError(t, err)
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(p)), Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
}

// aWhile passes the time in which the kernel may give two changes one ctime, so
// that what was written before counts as old.
func aWhile() { time.Sleep(60 * time.Millisecond) }
