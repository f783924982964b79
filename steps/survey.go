package steps

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"golang.org/x/sys/unix"
)

// readAtStart are what the loader and the C library read of a jail whatever the
// program is (ld.so(8), nsswitch.conf(5), passwd(5), tzset(3), resolver(5)).
var readAtStart = []string{
	"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/localtime",
	"/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/resolv.conf", "/etc/services", "/etc/protocols",
	"/etc/ssl/openssl.cnf", "/usr/lib/ssl/openssl.cnf",
}

// mustBeFiles are those of them in whose place a folder or a socket does harm; in
// that of the others container engines leave folders, and nobody minds.
var mustBeFiles = []string{"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/resolv.conf"}

// mostAtStart bounds each of these files, in bytes: whoever reads a terabyte of
// nothing is not up again for an hour.
const mostAtStart = 64 << 20

// survey refuses what a start of the server would wait on, or never be done with:
// a FIFO or a device where the C library reads a file, a FIFO in place of a log.
// It is found before anything is run or stopped, and told by name.
func (e *Env) survey() error {
	if e.onlyOutside() {
		return nil // the host's own files are read
	}
	for _, p := range readAtStart {
		info, err := e.Root.Stat(p)
		switch {
		case err != nil && (p == "/etc/passwd" || p == "/etc/group"):
			if _, lerr := e.Root.Lstat(p); lerr == nil {
				return e.inPlace(p, "leads nowhere ("+plainCause(err)+")")
			}
		case err != nil:
		case info.Mode&unix.S_IFMT == unix.S_IFCHR && info.Rdev == unix.Mkdev(1, 3): // null: a read ends at once
		case info.Mode&unix.S_IFMT == unix.S_IFIFO, info.Mode&unix.S_IFMT == unix.S_IFCHR, info.Mode&unix.S_IFMT == unix.S_IFBLK,
			!info.IsRegular() && slices.Contains(mustBeFiles, p):
			return e.inPlace(p, "is a "+jail.TypeName(info.Mode))
		case info.IsRegular() && info.Size > mostAtStart:
			return e.inPlace(p, fmt.Sprintf("has %d bytes", info.Size))
		}
	}
	if err := e.noexec(); err != nil {
		return err
	}
	if err := e.noNull(); err != nil {
		return err
	}
	if err := e.liars(); err != nil || !e.Options.Rehearse {
		return err
	}
	for _, u := range e.servers() {
		if u.facts.Outside != nil {
			continue
		}
		for _, p := range u.recipe[before].Service.PIDFiles {
			info, err := e.Root.Stat(p)
			if err == nil && (!info.IsRegular() || info.Size > 1<<20) {
				return fail(nil, "take it away: ls -ld "+e.Root.Path()+p, "cannot work on %s of jail %s: its PID file %s is a %s of %d bytes, which no server wrote",
					u.name(), e.Root.Path(), p, jail.TypeName(info.Mode), info.Size)
			}
		}
		for _, p := range u.written() {
			if !e.isFIFO(p) {
				continue
			}
			if err := e.holdFIFO(p); errors.Is(err, unix.ENXIO) {
				return fail(nil, "write the log to a file; if something reads from it while "+u.name()+" starts: --rehearse=false",
					"cannot work on %s of jail %s: its log %s is a FIFO, on which a start waits until somebody reads", u.name(), e.Root.Path(), event.Clean(p, 300))
			} else if err != nil {
				return fail(nil, "write the log to a file", "cannot work on %s of jail %s: its log is a FIFO: %w", u.name(), e.Root.Path(), err)
			}
		}
	}
	return nil
}

func (e *Env) isFIFO(p string) bool {
	info, err := e.Root.Stat(p)
	return err == nil && info.Mode&unix.S_IFMT == unix.S_IFIFO
}

// holdFIFO opens a FIFO to write, and keeps it open: its reader is not told, while the
// server is down, that the last writer is gone, and no start waits. ENXIO is no reader.
func (e *Env) holdFIFO(p string) error {
	f, err := e.Root.OpenFIFO(p)
	if err == nil {
		e.fifos = append(e.fifos, f)
	}
	return err
}

// ownLogs shows, in a view, a file in place of each log that is a FIFO: its reader is
// not in the view.
func (u *unit) ownLogs() []jail.Change {
	var out []jail.Change
	for _, p := range u.written() {
		if u.e.isFIFO(p) {
			out = append(out, jail.Change{Path: p, Mode: unix.S_IFREG | 0o600})
		}
	}
	return out
}

// noexec refuses servers on a mount from which nothing may be executed (mount(8)):
// they run, perhaps since before it was made so, and would not start again.
func (e *Env) noexec() error {
	for _, u := range e.servers() {
		if u.facts.Outside != nil {
			continue
		}
		for _, exe := range u.recipe[before].Executables {
			f, err := e.Root.OpenFile(exe)
			if err != nil {
				continue
			}
			var st unix.Statfs_t
			err = unix.Fstatfs(int(f.Fd()), &st)
			f.Close()
			if err == nil && st.Flags&unix.ST_NOEXEC != 0 {
				return fail(nil, "mount -o remount,exec what it lies on: findmnt -T "+e.Root.Path(),
					"cannot work on %s of jail %s: %s lies on a mount from which nothing may be executed (noexec)", u.name(), e.Root.Path(), exe)
			}
		}
	}
	return nil
}

// noNull refuses an nginx that runs and could not go into the background again: it
// opens /dev/null for that, and only then, so that no test of the configuration tells.
func (e *Env) noNull() error {
	for _, u := range e.servers() {
		if u.facts.Outside != nil || !u.facts.Running {
			continue
		}
		conf, err := u.configuration()
		if n, ok := conf.(nginxSite); err != nil || !ok || !n.Daemon() {
			continue // told by others
		}
		info, err := e.Root.Stat("/dev/null")
		what := ""
		switch {
		case err != nil:
			what = plainCause(err)
		case info.IsDir() || info.Type() == unix.S_IFSOCK:
			what = "it is a " + jail.TypeName(info.Mode)
		default:
			continue
		}
		return fail(nil, "mknod -m 666 "+event.Clean(e.Root.Path(), 300)+"/dev/null c 1 3",
			"cannot stop %s: it would not start again, the old one neither: it opens /dev/null of the jail: %s", u.name(), what)
	}
	return nil
}

func (e *Env) inPlace(p, what string) error {
	return fail(nil, "put a file there, or take it away: ls -ld "+e.Root.Path()+p,
		"cannot work on jail %s: %s %s, and is read by whatever starts there", e.Root.Path(), p, what)
}

func plainCause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return err.Error()
}

// onlyOutside tells whether all servers run on the host.
func (e *Env) onlyOutside() bool {
	return !slices.ContainsFunc(e.servers(), func(u *unit) bool { return u.facts.Outside == nil })
}

// written are the files that a start opens for writing, as far as they can be told.
func (u *unit) written() []string {
	conf, err := u.configuration()
	if err != nil {
		return nil // told by others
	}
	all := conf.logs()
	if n, ok := conf.(nginxSite); ok {
		all = append(all, n.AccessLogs()...)
		// Opened before the configuration is read, whatever that says.
		all = append(all, "/var/log/nginx/error.log")
	}
	return slices.DeleteFunc(all, func(p string) bool { return !strings.HasPrefix(p, "/") || strings.Contains(p, "$") })
}
