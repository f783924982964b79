package jail

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// below is a mount below a jail: certificates, a document root, a shared folder.
type below struct {
	dir  *os.File
	path string // as the jail sees it
}

// maxBelow bounds how many mounts of a jail are shown in a view.
const maxBelow = 64

// mountsBelow opens the directories of the host that are mounted below the jail.
// Kernel file systems and single files are left out.
func (r *Root) mountsBelow() ([]below, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []below
	sc := bufio.NewScanner(f)
	for sc.Scan() && len(out) < maxBelow {
		fields := strings.Fields(sc.Text())
		if len(fields) < 5 {
			continue
		}
		// Blanks and the like are written as octal numbers (proc_pid_mountinfo(5)).
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		rel, ok := strings.CutPrefix(point, strings.TrimSuffix(r.path, "/")+"/")
		if !ok {
			continue
		}
		d, err := r.openDir("/"+rel, resolveIn)
		if err != nil {
			continue // a file, or hidden by a later mount
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(d.Fd()), &st); err != nil || pseudo[int64(st.Type)] {
			d.Close()
			continue
		}
		out = append(out, below{dir: d, path: "/" + rel})
	}
	return out, sc.Err()
}

// show binds the mount read-only into the view. Where that cannot be the view
// has an empty folder there, as without it.
func (b below) show(view *Root) {
	to, err := view.openDir(b.path, resolveIn)
	if err != nil {
		return
	}
	defer to.Close()
	from, at := fmt.Sprintf("/proc/self/fd/%d", b.dir.Fd()), fmt.Sprintf("/proc/self/fd/%d", to.Fd())
	if unix.Mount(from, at, "", unix.MS_BIND, "") != nil {
		return
	}
	mounted, err := view.openDir(b.path, resolveIn)
	if err != nil {
		return
	}
	defer mounted.Close()
	at = fmt.Sprintf("/proc/self/fd/%d", mounted.Fd())
	_ = unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}
