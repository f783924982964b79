package checks

import (
	"context"
	"net"
	"os"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

// Processes are a server's processes.
type Processes struct {
	Master int   // 0 if there is none
	All    []int // the master and all others
}

// Files opens regular files of the jail for reading and never follows a link
// out of it; *jail.Root does.
type Files interface {
	OpenFile(path string) (*os.File, error)
}

// Parents opens the folder that holds a path of the jail and returns the
// path's last name; *jail.Root does. Unix sockets are reached by it.
type Parents interface {
	OpenParent(path string) (*os.File, string, error)
}

// Workers tells what is known about the processes beside the master.
type Workers struct {
	// None tells that the server has no workers, Few that there may be none
	// for now: they are started by the first request.
	None, Few bool
	// Title is how a worker's command line begins ("nginx: worker process");
	// "" takes every child for one. SameTitle takes those whose command line
	// is the master's: what else the master has started (log writers) is none.
	Title     string
	SameTitle bool
	// Stable tells that workers come and go only with a reload, so that
	// other changes are crashes.
	Stable bool
	// MayBeRoot tells that the configuration has the workers run as root.
	MayBeRoot bool
	// Varied tells that workers are of several users, so that one who was not
	// seen before is nothing new. Root is.
	Varied bool
	// Roots are folders of the jail that workers of a title have as their
	// root; where none fits it is the jail.
	Roots []WorkerRoot
}

// WorkerRoot is the folder of the jail that workers are put into.
type WorkerRoot struct {
	Title string // how their command line begins; "" is all
	Path  string
}

// LogFormat is how the lines of an error log are written.
type LogFormat string

// The formats.
const (
	LogNginx  LogFormat = "nginx"
	LogApache LogFormat = "apache" // the ErrorLogFormat that is built in
	LogFPM    LogFormat = "fpm"
)

// ErrorLog is a log that a server complains in. The zero Format is nginx's.
type ErrorLog struct {
	Path   string // in the jail
	Format LogFormat
}

// Runtime is what PHP says of itself when it is run.
type Runtime struct {
	Version  string   // "8.2.36"
	Modules  []string // as "php -m" lists them, headings or not: "mysqli", "Zend OPcache"
	Warnings []string // what it complains about at its start, one line each
}

// Target is the server to look at.
type Target struct {
	// Part is "" for the jail's first server. Else it is a part of the name of
	// each check, after the kind ("process php-fpm"), so that those of several
	// servers are told apart.
	Part string
	// Server finds the processes; none is not an error.
	Server func(ctx context.Context) (Processes, error)
	// RootDev and RootIno are the jail's root. MasterOutside tells that the
	// master is not meant to be in it, only its workers are (Apache's
	// ChrootDir).
	RootDev, RootIno uint64
	MasterOutside    bool
	// Files reads logs, Parents reaches unix sockets. Where one is nil, what
	// needs it is inconclusive. Outside is where a master outside opened its
	// logs; nil says the same of these.
	Files   Files
	Parents Parents
	Outside Files
	// Listens, VHosts, ErrorLogs and Pools are derived from the configuration.
	Listens   []webconf.Listen
	VHosts    []webconf.VHost
	ErrorLogs []ErrorLog
	Pools     []phpconf.Pool
	Workers   Workers
	// Runtime asks PHP what it is, by running it; nil: there is none. It is
	// called once for a baseline and once after a start, and again only until
	// it succeeds. An error that is errors.ErrUnsupported says that it cannot
	// be asked here, which tells nothing of PHP. Dropped are modules that are
	// meant to go, by the name of the extension ("imap").
	Runtime func(ctx context.Context) (Runtime, error)
	Dropped []string
	// Excused are extensions of which it is known that they could not be loaded
	// before either: what a log says of them at a start is no news.
	Excused []string
	// Dial connects to "tcp" addresses and, by path in the jail, to "unix"
	// ones; nil dials from where jailup runs.
	Dial DialFunc
}

// DialFunc is the signature of net.Dialer.DialContext.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// name is a check's name: its kind, the server's part, what it looks at.
func (t *Target) name(kind Kind, rest ...string) string {
	name := string(kind)
	for _, s := range append([]string{t.Part}, rest...) {
		if s = event.Clean(s, 200); s != "" {
			name += " " + s
		}
	}
	return name
}

// logs makes one check for each error log.
func (t *Target) logs() []Check {
	files := t.Files
	if t.MasterOutside {
		files = t.Outside
	}
	var list []Check
	for _, l := range t.ErrorLogs {
		list = append(list, &logCheck{name: t.name(KindLog, l.Path), part: t.Part, files: files, path: l.Path, format: l.Format, excused: t.Excused})
	}
	return list
}

// Nginx fills in what the configuration of nginx tells.
func (t *Target) Nginx(n *webconf.Nginx) {
	t.Listens = n.Listens()
	t.VHosts = n.Servers()
	t.ErrorLogs = nil
	for _, log := range n.ErrorLogs() {
		if strings.HasPrefix(log, "/") {
			t.ErrorLogs = append(t.ErrorLogs, ErrorLog{log, LogNginx})
		}
	}
	t.Workers = Workers{
		None: !n.Master(), Title: "nginx: worker process", Stable: true,
		MayBeRoot: n.WorkerUser() == "root" || !n.Master(),
	}
}
