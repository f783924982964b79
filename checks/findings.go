package checks

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

// Finding is something in a jail that will bite, and its cure. No check fails
// because of it: it may have been so for years.
type Finding struct {
	Name string // what kind: "no-resolver"; the same for ever
	Text string // what is wrong and what comes of it; clean
	Hint string // what to do; clean
}

// View is what findings need to see of a jail; *jail.Root has it. No path leads
// out of it.
type View interface {
	Files
	Stat(path string) (jail.Info, error)
}

// Inside is what is known of PHP in a jail.
type Inside struct {
	Jail View
	// HostPath is where the jail lies, as people of the host call it; "" if
	// that is not known.
	HostPath string
	// Ini is what PHP reads, and FPM its pools: nil where it runs within a web
	// server, as User.
	Ini  *phpconf.Ini
	FPM  *phpconf.FPM
	User string
	// FastCGI is where the web server of the jail hands requests to.
	FastCGI []webconf.FastCGI
}

const (
	maxFindings = 50
	maxSmall    = 1 << 20 // bytes of a file that is read for a finding
)

// Findings lists what is missing in a jail, or is set so that PHP in it cannot
// work, with the cure. It reads few and small files, none outside of the jail,
// and runs nothing. What cannot be looked at gives no finding.
func Findings(in Inside) []Finding {
	l := &looker{Inside: in}
	if in.Jail == nil {
		return nil
	}
	if in.Ini == nil {
		l.Ini = &phpconf.Ini{}
	}
	l.web()
	if in.Ini != nil || in.FPM != nil {
		l.opcache()
		l.extensions()
		l.devices()
		for _, w := range l.worlds() {
			l.world(w)
		}
	}
	return l.list
}

// looker gathers findings.
type looker struct {
	Inside
	list []Finding
}

// add notes a finding, once.
func (l *looker) add(name, hint, text string, args ...any) {
	f := Finding{Name: name, Text: event.Clean(fmt.Sprintf(text, args...), 500), Hint: event.Clean(hint, 300)}
	if len(l.list) < maxFindings && !slices.Contains(l.list, f) {
		l.list = append(l.list, f)
	}
}

// gone tells that nothing is at a path. What cannot be looked at is not gone.
func (l *looker) gone(p string) bool {
	_, err := l.Jail.Stat(p)
	return isMissing(err)
}

// text reads a small file; false where there is none, or none that can be read.
func (l *looker) text(p string) (string, bool) {
	f, err := l.Jail.OpenFile(p)
	if err != nil {
		return "", false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSmall))
	return string(b), err == nil
}

// web looks at where the web server sends requests for PHP.
func (l *looker) web() {
	for _, f := range l.FastCGI {
		at := fmt.Sprintf("%s line %d", f.File, f.Line)
		script, known := scriptFolder(f)
		if l.prefixed(script) {
			l.add("host-path", "write paths as they are within the jail: "+strings.TrimPrefix(script, strings.TrimSuffix(l.HostPath, "/")),
				"%s has PHP look for scripts below %s, which is a path of the host: within the jail there is none", at, script)
			continue
		}
		pool, ok := l.pool(f)
		switch {
		case l.FPM == nil:
		case !ok && l.ours(f):
			l.add("no-pool", l.poolsHint(), "%s passes requests to %s, where no pool of PHP-FPM listens", at, address(f))
		case ok && known && pool.Chroot != "" && script != "" && l.gone(path.Join(pool.Chroot, script)):
			l.add("pool-chroot", "leave the pool's root out of SCRIPT_FILENAME: fastcgi_param SCRIPT_FILENAME "+within(pool.Chroot, script)+"$fastcgi_script_name",
				"%s has the pool %s look for scripts below %s, but its root is %s: it would look below %s, which is not there",
				at, pool.Name, script, pool.Chroot, path.Join(pool.Chroot, script))
		}
	}
}

// scriptFolder is where the scripts of a passage are looked for, as the server
// of FastCGI is told; false where variables hide it.
func scriptFolder(f webconf.FastCGI) (string, bool) {
	text := f.ScriptFilename
	if text == "" { // Apache makes it up of the document root
		text = "$document_root/"
	}
	for _, name := range []string{"${document_root}", "$document_root", "${realpath_root}", "$realpath_root"} {
		if strings.HasPrefix(text, name) {
			if f.Root == "" || strings.Contains(f.Root, "$") {
				return "", false
			}
			text = f.Root + text[len(name):]
		}
	}
	text, _, variable := strings.Cut(text, "$")
	if !strings.HasPrefix(text, "/") {
		return "", text == "" && variable && strings.Contains(f.ScriptFilename, "script_name")
	}
	if !variable && !strings.HasSuffix(text, "/") && f.ScriptFilename != "" {
		text = path.Dir(text) // one script for all
	}
	if text = path.Clean(text); text == "/" {
		text = ""
	}
	return text, true
}

// prefixed tells a path that begins with where the jail lies on its host, unless
// the jail knows that path, too, as some make it do.
func (l *looker) prefixed(p string) bool {
	host := path.Clean("/" + l.HostPath)
	return l.HostPath != "" && host != "/" && (p == host || strings.HasPrefix(p, host+"/")) && l.gone(p)
}

// within is a path as seen from a root that it may be written below.
func within(root, p string) string {
	if rest, ok := strings.CutPrefix(p, strings.TrimSuffix(root, "/")); ok && (rest == "" || rest[0] == '/') {
		return rest
	}
	return ""
}

// pool finds the pool that a passage leads to.
func (l *looker) pool(f webconf.FastCGI) (phpconf.Pool, bool) {
	if l.FPM == nil {
		return phpconf.Pool{}, false
	}
	for _, p := range l.FPM.Pools {
		if p.Network != f.Network {
			continue
		}
		if p.Network == "unix" && l.sameSocket(p.Address, f.Address) || p.Network != "unix" && samePort(p.Address, f.Address) {
			return p, true
		}
	}
	return phpconf.Pool{}, false
}

// sameSocket tells whether two paths are of one socket, be it there or not yet:
// /var/run may be a link to /run.
func (l *looker) sameSocket(a, b string) bool {
	a, b = path.Clean("/"+a), path.Clean("/"+b)
	if a == b {
		return true
	}
	if path.Base(a) != path.Base(b) {
		return false
	}
	x, errX := l.Jail.Stat(path.Dir(a))
	y, errY := l.Jail.Stat(path.Dir(b))
	return errX == nil && errY == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// samePort tells whether a connection to want reaches what listens on have.
func samePort(have, want string) bool {
	hostA, portA, errA := net.SplitHostPort(have)
	hostB, portB, errB := net.SplitHostPort(want)
	if errA != nil || errB != nil || portA != portB {
		return false
	}
	if hostA == hostB || hostA == "" || hostA == "*" {
		return true
	}
	a, errA := netip.ParseAddr(hostA)
	return errA == nil && a.IsUnspecified() || isLoopback(hostA) && isLoopback(hostB)
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// ours tells whether a passage is meant for PHP-FPM of this jail: another
// program may serve a socket that is there, and another machine another address.
func (l *looker) ours(f webconf.FastCGI) bool {
	if strings.Contains(f.Address, "$") {
		return false
	}
	if f.Network != "unix" {
		host, _, err := net.SplitHostPort(f.Address)
		return err == nil && isLoopback(host)
	}
	info, err := l.Jail.Stat(f.Address)
	isSocket := err == nil && info.Type() == unix.S_IFSOCK
	name := strings.ToLower(path.Base(f.Address))
	return !isSocket || strings.Contains(name, "php") || strings.Contains(name, "fpm")
}

func address(f webconf.FastCGI) string {
	if f.Network == "unix" {
		return "unix:" + f.Address
	}
	return f.Address
}

// poolsHint names the pools that there are.
func (l *looker) poolsHint() string {
	var names []string
	for _, p := range l.FPM.Pools {
		names = append(names, fmt.Sprintf("%s at %s", p.Name, address(webconf.FastCGI{Network: p.Network, Address: p.Address})))
	}
	if len(names) == 0 {
		return "PHP-FPM has no pool: add one, or pass the requests elsewhere"
	}
	return "pass them to a pool that there is: " + some(names)
}
