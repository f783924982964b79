package jail

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// system are directories of the host that nobody means as a jail.
var system = map[string]bool{
	"/": true, "/bin": true, "/boot": true, "/dev": true, "/etc": true, "/home": true,
	"/lib": true, "/lib64": true, "/media": true, "/mnt": true, "/opt": true, "/proc": true,
	"/root": true, "/run": true, "/sbin": true, "/srv": true, "/sys": true, "/tmp": true,
	"/usr": true, "/usr/bin": true, "/usr/lib": true, "/usr/local": true, "/usr/sbin": true,
	"/usr/share": true, "/var": true, "/var/cache": true, "/var/lib": true, "/var/log": true,
	"/var/run": true, "/var/spool": true, "/var/tmp": true,
}

// CheckPlace refuses places that cannot be a jail: the host's own system
// directories, anything in a kernel file system, and a directory that someone
// other than its owner could swap for another (an ancestor that group or others
// may write, without the sticky bit). dir need not exist yet.
func CheckPlace(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("cannot use %s as a jail: %w", dir, err)
	}
	real := RealPath(abs)
	if system[real] || system[abs] {
		return fmt.Errorf("cannot use %s as a jail: it is a system directory of the host", dir)
	}
	for _, p := range []string{"/proc", "/sys", "/dev"} {
		if strings.HasPrefix(real, p+"/") && !strings.HasPrefix(real, "/dev/shm/") {
			return fmt.Errorf("cannot use %s as a jail: it lies in %s", dir, p)
		}
	}
	for p := filepath.Dir(real); ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err == nil {
			if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 && (st.Mode&0o002 != 0 || st.Gid != 0) {
				return fmt.Errorf("cannot use %s as a jail: others may write to %s, and could put another directory in its place", dir, p)
			}
			if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
				return fmt.Errorf("cannot use %s as a jail: %s belongs to user %d, who could put another directory in its place", dir, p, st.Uid)
			}
		}
		if p == "/" {
			return nil
		}
	}
}

// RealPath resolves the links of the part of a path of the host that exists, and
// leaves the rest as it is.
func RealPath(p string) string {
	real, err := filepath.EvalSymlinks(p)
	if err == nil {
		return real
	}
	parent := filepath.Dir(p)
	if parent == p {
		return p
	}
	return filepath.Join(RealPath(parent), filepath.Base(p))
}
