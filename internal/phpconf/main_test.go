package phpconf

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// realTree is an unpacked PHP of the archive with its FPM and some modules. It
// is shared: read only.
func realTree(t testing.TB) (tree, series string) {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	names := lab.PHPNames(t, "", []string{"fpm"}, "mysql", "gd")
	debs := lab.Packages(t, lab.PackagesOptions{Names: names, Newest: true})
	return lab.Unpacked(t, debs), lab.PHPSeries(t, "")
}

// inRoot makes a command that runs in a tree as its root.
func inRoot(root string, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: root}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	return cmd
}
