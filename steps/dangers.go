package steps

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// What the search for dangers may cost, whatever somebody has put into the jail.
const (
	dangerEntries = 300_000
	dangerTime    = 3 * time.Second
	dangerDepth   = 100
	dangerTold    = 10 // of each kind
)

// dangers tells what in the jail gives whoever runs there more than he should have:
// set-id programs and file capabilities that no package brought, ld.so.preload,
// device nodes, users of passwd that are root under another name. None of it is a
// failure, and nothing of it is opened or run.
func (e *Env) dangers(ctx context.Context) {
	d := &danger{owned: e.old.Index(), until: time.Now().Add(dangerTime), found: map[string][]string{}}
	fd, err := unix.Openat2(e.Root.Fd(), ".", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH})
	if err == nil {
		f := os.NewFile(uintptr(fd), "/")
		d.folder(ctx, f, "/", 0)
		f.Close()
	}
	if info, err := e.Root.Stat("/etc/ld.so.preload"); err == nil && info.Size > 0 {
		d.tell("ld-so-preload", "/etc/ld.so.preload")
	}
	for _, u := range e.passwd() {
		if u.id == 0 && u.name != "root" {
			d.tell("root-user", u.name)
		}
	}
	for _, k := range []struct{ name, says, hint string }{
		{"setid", "set-id programs that no package of jailup's brought: a worker that can run one has another's rights: %s", "chmod ug-s, or take them out of the jail"},
		{"file-capabilities", "programs with file capabilities: a worker that can run one has them: %s", "setcap -r, or take them out of the jail"},
		{"ld-so-preload", "%s loads its libraries into every program of the jail, the server's master included", "take it away, unless you put it there"},
		{"device-node", "device nodes that a server has no need of: %s", "take them out of the jail"},
		{"root-user", "users of /etc/passwd that are root under another name: %s", "give them ids of their own"},
	} {
		if all := d.found[k.name]; len(all) > 0 {
			text := strings.Join(all[:min(len(all), dangerTold)], ", ")
			if n := len(all) - dangerTold; n > 0 {
				text += fmt.Sprintf(", and %d more", n)
			}
			e.note(event.Warning, k.name+": "+event.Clean(fmt.Sprintf(k.says, text), 1000), k.hint)
		}
	}
	if d.partly {
		e.note(event.Info, "the jail was not searched for set-id programs as a whole: it is too large or too deep", "")
	}
}

type danger struct {
	owned   map[string]manifest.File
	until   time.Time
	entries int
	partly  bool
	found   map[string][]string
}

func (d *danger) tell(kind, what string) { d.found[kind] = append(d.found[kind], what) }

// harmless are the devices that belong in a jail: memory(4), tty(4), pts(4).
func harmless(rdev uint64) bool {
	switch major, minor := unix.Major(rdev), unix.Minor(rdev); major {
	case 1:
		return slices.Contains([]uint32{3, 5, 7, 8, 9}, minor)
	case 5:
		return minor <= 2
	case 136:
		return true
	}
	return false
}

// folder looks at all in one open directory, and below; other mounts are not the
// jail's.
func (d *danger) folder(ctx context.Context, f *os.File, at string, depth int) {
	for {
		names, err := f.Readdirnames(512)
		if len(names) == 0 || err != nil {
			return
		}
		for _, n := range names {
			if d.entries++; d.entries > dangerEntries || ctx.Err() != nil || time.Now().After(d.until) {
				d.partly = true
				return
			}
			info, err := jail.StatAt(int(f.Fd()), n)
			if err != nil {
				continue
			}
			p := path.Join(at, n)
			switch {
			case info.IsDir() && depth < dangerDepth:
				fd, err := unix.Openat2(int(f.Fd()), n, &unix.OpenHow{
					Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
					Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
				})
				if err == nil {
					sub := os.NewFile(uintptr(fd), n)
					d.folder(ctx, sub, p, depth+1)
					sub.Close()
				}
			case info.IsDir():
				d.partly = true
			case info.IsRegular():
				d.program(f, n, p, info)
			case info.Type() == unix.S_IFBLK, info.Type() == unix.S_IFCHR && !harmless(info.Rdev):
				d.tell("device-node", p)
			}
		}
	}
}

func (d *danger) program(f *os.File, n, p string, info jail.Info) {
	if info.Mode&0o111 == 0 {
		return
	}
	// Set-id bits never come out of a package (fileset.World.Unpack).
	if was, ok := d.owned[p]; info.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && (!ok || was.Mode&0o7777 != info.Mode&0o7777) {
		d.tell("setid", p)
	}
	if size, err := unix.Lgetxattr(sys.ProcPath(int(f.Fd()))+"/"+n, "security.capability", nil); err == nil && size > 0 {
		d.tell("file-capabilities", p)
	}
}

// account is a line of the jail's passwd; id is -1 where it is no number that a
// process can have (credentials(7)).
type account struct {
	name string
	id   int64
	gid  int64
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n >= 1<<32-1 {
		return -1
	}
	return n
}

// passwd reads the jail's users, in their order: the first of a name counts.
func (e *Env) passwd() []account {
	text, err := e.Root.ReadFile("/etc/passwd", 1<<20)
	if err != nil {
		return nil
	}
	var out []account
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) >= 4 && f[0] != "" {
			out = append(out, account{f[0], number(f[2]), number(f[3])})
		}
	}
	return out
}

// workers are the users that the configurations give their workers.
func (u *unit) workers() []string {
	conf, err := u.configuration()
	if err != nil {
		return nil
	}
	switch c := conf.(type) {
	case nginxSite:
		if !c.Master() {
			return nil
		}
		if name := c.WorkerUser(); name != "" {
			return []string{name}
		}
		return []string{"www-data"}
	case apacheSite:
		return []string{c.User()}
	case fpmSite:
		var out []string
		for _, p := range c.Pools {
			out = append(out, p.User)
		}
		return out
	}
	return nil
}

// liars refuses a passwd by which the workers would be root though the
// configuration says otherwise, or by which they cannot start. Where they are root
// already, that is told and no more.
func (e *Env) liars() error {
	all := e.passwd()
	for _, u := range e.servers() {
		if u.facts.Outside != nil {
			continue
		}
		for _, name := range u.workers() {
			i := slices.IndexFunc(all, func(a account) bool { return a.name == name })
			if name == "root" || i < 0 {
				continue
			}
			who := event.Clean(name, 60)
			hint := "mend it: " + e.Root.Path() + "/etc/passwd"
			switch a := all[i]; {
			case a.id < 0 || a.gid < 0:
				return fail(nil, hint, "cannot work on %s of jail %s: /etc/passwd gives %s, whom its workers are to be, an id that no process can have", u.name(), e.Root.Path(), who)
			case a.id == 0 && e.rootAlready(u):
				e.note(event.Warning, fmt.Sprintf("/etc/passwd of the jail says that %s is user 0: the workers of %s are root", who, u.name()), hint)
			case a.id == 0:
				return fail(nil, hint, "cannot work on %s of jail %s: /etc/passwd says that %s is user 0: its workers, which are not root now, would be", u.name(), e.Root.Path(), who)
			}
		}
	}
	return nil
}

// rootAlready tells whether workers of a server ran as root when it was looked at.
func (e *Env) rootAlready(u *unit) bool {
	if e.baseline == nil {
		return false
	}
	r, ok := e.baseline.Get(strings.TrimSpace(string(checks.KindProcess) + " " + u.part()))
	return ok && slices.Contains(strings.FieldsFunc(r.Observation.Values["worker_uids"], func(c rune) bool { return c == ',' || c == ' ' }), "0")
}
