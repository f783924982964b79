// Package lab holds what the tests of jailup need from the machine they run
// on: packages from the host's own archive, jails built by hand, signed
// repositories, file systems on loop devices, and the means to see whether a
// tree was changed and whether anything was left behind.
//
// It is for tests only. Nothing that ends up in the binary may import it.
package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Need ends the test unless every part named is there: it skips with the
// reason, or fails where JAILUP_REQUIRE_ALL=1 says that a skip is an error.
//
// A part is "root" (uid 0 with the right to chroot, mount and make devices),
// "apt" (the host's package index can be read), "mounts" (a private mount
// namespace can be made), "loop" (loop devices can be had), "xattr" (user and
// trusted attributes on the temporary folder), or the name of a program.
func Need(t testing.TB, what ...string) {
	t.Helper()
	for _, w := range what {
		if err := have(t, w); err != nil {
			missing(t, w, err)
		}
	}
}

// RequireAll tells whether a missing part is an error, not a skip.
func RequireAll() bool { return os.Getenv("JAILUP_REQUIRE_ALL") == "1" }

func missing(t testing.TB, what string, err error) {
	t.Helper()
	if RequireAll() {
		t.Fatalf("needs %s: %v (JAILUP_REQUIRE_ALL=1 forbids the skip)", what, err)
	}
	t.Skipf("needs %s: %v", what, err)
}

func have(t testing.TB, what string) error {
	switch what {
	case "root":
		return haveRoot()
	case "apt":
		for _, p := range []string{"apt-get", "apt-cache", "apt-config", "dpkg", "dpkg-deb"} {
			if err := haveProgram(p); err != nil {
				return err
			}
		}
		_, err := aptRoot(t)
		return err
	case "mounts":
		return haveMounts()
	case "loop":
		if err := haveMounts(); err != nil {
			return err
		}
		return unix.Access("/dev/loop-control", unix.R_OK|unix.W_OK)
	case "xattr":
		return haveXattr(t)
	}
	return haveProgram(what)
}

func haveRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("runs as uid %d, not as root", os.Geteuid())
	}
	for name, bit := range map[string]int{
		"CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT, "CAP_MKNOD": unix.CAP_MKNOD,
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_KILL": unix.CAP_KILL,
	} {
		if !capable(bit) {
			return fmt.Errorf("root without %s", name)
		}
	}
	return nil
}

func haveMounts() error {
	if os.Geteuid() != 0 || !capable(unix.CAP_SYS_ADMIN) {
		return fmt.Errorf("no right to mount (CAP_SYS_ADMIN)")
	}
	return nil
}

func haveXattr(t testing.TB) error {
	f := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		return err
	}
	return unix.Lsetxattr(f, "user.jailup", []byte("1"), 0)
}

// capable reads the effective set of this process, as proc(5) prints it.
func capable(bit int) bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		var set uint64
		if n, _ := fmt.Sscanf(line, "CapEff: %x", &set); n == 1 {
			return set&(1<<uint(bit)) != 0
		}
	}
	return false
}

func haveProgram(name string) error {
	if _, err := lookPath(name); err != nil {
		return fmt.Errorf("program %s not found (Debian package %s)", name, packageOf(name))
	}
	return nil
}

// lookPath also looks where a user's PATH often does not: mkfs and losetup
// live in sbin.
func lookPath(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", err
}

func packageOf(program string) string {
	switch program {
	case "mkfs.xfs", "xfs_io":
		return "xfsprogs"
	case "mkfs.btrfs", "btrfs":
		return "btrfs-progs"
	case "mkfs.ext4", "chattr":
		return "e2fsprogs"
	case "apt-ftparchive":
		return "apt-utils"
	case "strip", "objcopy", "readelf":
		return "binutils"
	case "xz":
		return "xz-utils"
	case "setfacl", "getfacl":
		return "acl"
	case "gpg", "gpgconf":
		return "gpg (and gpg-agent)"
	case "dpkg-deb":
		return "dpkg"
	case "losetup", "unshare", "nsenter", "setpriv":
		return "util-linux"
	case "ip", "ss":
		return "iproute2"
	case "mmdebstrap":
		return "mmdebstrap"
	case "qemu-system-x86_64":
		return "qemu-system-x86"
	case "busybox":
		return "busybox-static"
	case "systemd-nspawn":
		return "systemd-container"
	case "newuidmap":
		return "uidmap"
	}
	return program
}
