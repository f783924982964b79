package service

import (
	"errors"
	"io"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
)

// Outside says that the master runs outside the jail, with the root of the host,
// and puts its children into the jail: Apache's ChrootDir. All paths of the Spec
// are then of the host: Executables, Start and PIDFiles. Start runs the command on
// the host.
//
// A master is the server only if one of its children has the jail as its root, or
// had when it was last looked for. For the moments in which it has no children,
// Spec.PIDFiles are a hint: they must come from a configuration that names this
// jail in ChrootDir, not from the recipe. Every other server of the host from the
// same executable is a bystander.
func Outside() Option { return func(c *ProcessController) { c.outside = true } }

// childless is how long a master on the host may be without children before it
// is believed to have none.
const childless = 2 * time.Second

// reachesIn tells whether a master on the host is of this jail.
//
//	a child in the jail                         yes
//	a child in a third place                    no: it is another jail's
//	a child on the host without root's rights   no: it will not leave the host any more
//	none of these                               yes if it was the server before, or a PID file names it
func (c *ProcessController) reachesIn(t *table, f *family, spec Spec, ch *choice) bool {
	elsewhere := false
	for _, p := range t.byPID {
		if p.PPID == f.master.PID && p.elsewhere {
			elsewhere = true
		}
	}
	for _, p := range f.members {
		if p.inJail {
			return true
		}
		elsewhere = elsewhere || p != f.master && p.UID > 0
	}
	if elsewhere {
		return false
	}
	if c.chosen == f.master.key() || len(c.named([]*family{f}, spec)) > 0 {
		return true
	}
	// It may have been started just now, or have lost its children just now.
	ch.restless = ch.restless || age(f.master) < childless
	return false
}

// readPID reads a PID file where the master sees it.
func (c *ProcessController) readPID(p string) ([]byte, error) {
	if !c.outside {
		return c.root.ReadFile(p, 64)
	}
	f, err := c.openExe(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return io.ReadAll(io.LimitReader(f, 64))
}

// Outer is a server outside a jail that has put processes into it.
type Outer struct {
	Master Process
	// Exe is the path on the host of the program that it runs, as the kernel
	// tells it; of a program that was replaced since, the path it had.
	Exe string
	// Argv is its command line; the first word is Exe. nil if it cannot be told
	// (it shows a title).
	Argv []string
	// Inside are its processes whose root is the jail.
	Inside []Process
}

// Chrooted looks for servers outside a jail that have put processes into it: a
// process whose root is the jail, whose parent has another root, and both run the
// same file. That is so for Apache's ChrootDir, and not for what was started by
// chroot(8). Names are the last names of executables to look for ("apache2",
// "httpd"); none: any. The result is ordered by age, the oldest first, and empty if there is
// none. Needs the right to look into all processes; those that it may not look
// into are left out.
func Chrooted(root *jail.Root, names ...string) ([]Outer, error) {
	c := NewProcess(root, Spec{Name: "server"})
	dir, all, err := c.listed()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	w, err := c.want()
	if err != nil {
		return nil, err
	}
	seen := map[int]*proc{}
	for _, n := range all {
		pid, err := strconv.Atoi(n)
		if err != nil || w.self[pid] {
			continue
		}
		if p, err := lookAround(int(dir.Fd()), pid, w); err == nil {
			seen[pid] = p
		}
	}
	byMaster := map[int]*Outer{}
	for _, p := range seen {
		m := p
		for range len(seen) {
			if !m.inJail || seen[m.PPID] == nil || seen[m.PPID].Exe != p.Exe {
				break
			}
			m = seen[m.PPID]
		}
		if !p.inJail || !m.onHost {
			continue
		}
		if byMaster[m.PID] == nil {
			byMaster[m.PID] = &Outer{Master: m.Process}
		}
		byMaster[m.PID].Inside = append(byMaster[m.PID].Inside, p.Process)
	}
	var found []Outer
	for _, o := range byMaster {
		if o.tell(int(dir.Fd())) && (len(names) == 0 || slices.Contains(names, path.Base(o.Exe))) {
			sort.Slice(o.Inside, func(i, j int) bool { return o.Inside[i].PID < o.Inside[j].PID })
			found = append(found, *o)
		}
	}
	sort.Slice(found, func(i, j int) bool { return older(&proc{Process: found[i].Master}, &proc{Process: found[j].Master}) })
	return found, nil
}

// lookAround reads a process, whatever it runs, that has the root of the jail or
// of the host.
func lookAround(procDir, pid int, w want) (*proc, error) {
	p, err := look(procDir, pid, w)
	if err != nil || p.inJail || p.dead() {
		return p, err
	}
	d, err := unix.Openat(procDir, strconv.Itoa(pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	var st unix.Stat_t
	if err := unix.Fstatat(d, "root", &st, 0); err != nil {
		return nil, err
	}
	p.onHost = Inode{uint64(st.Dev), st.Ino} == w.host
	if err := unix.Fstatat(d, "exe", &st, 0); err != nil {
		return nil, err
	}
	p.Exe = Inode{uint64(st.Dev), st.Ino}
	p.fill(d)
	return p, nil
}

// tell fills in what the master runs and how it was started; false if it has
// ended meanwhile.
func (o *Outer) tell(procDir int) bool {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(procDir, strconv.Itoa(o.Master.PID)+"/exe", buf)
	if err != nil {
		return false
	}
	now, err := look(procDir, o.Master.PID, want{})
	if err != nil || now.StartTicks != o.Master.StartTicks {
		return false
	}
	o.Exe = strings.TrimSuffix(string(buf[:n]), " (deleted)")
	o.Argv = ArgvOf(o.Master, Spec{Executables: []string{o.Exe}})
	return true
}
