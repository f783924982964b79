package checks

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/phpconf"
)

func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// maxWorlds bounds the pools' roots that are looked at.
const maxWorlds = 20

// world is what scripts see: the jail, or a pool's own root in it.
type world struct {
	root  string // "" is the jail
	pools []phpconf.Pool
	user  string // where there are no pools
}

// worlds lists the roots that scripts run in.
func (l *looker) worlds() []world {
	if l.FPM == nil {
		return []world{{user: l.User}}
	}
	var list []world
	for _, p := range l.FPM.Pools {
		root := strings.TrimSuffix(path.Clean("/"+p.Chroot), "/")
		i := slices.IndexFunc(list, func(w world) bool { return w.root == root })
		if i < 0 {
			if len(list) >= maxWorlds {
				continue
			}
			i = len(list)
			list = append(list, world{root: root})
		}
		list[i].pools = append(list[i].pools, p)
	}
	return list
}

// of says where, for messages.
func (w world) of() string {
	if w.root == "" {
		return "the jail"
	}
	return "the root of the pool " + w.pools[0].Name + " (" + w.root + ")"
}

func (w world) path(p string) string { return path.Join("/", w.root, p) }

// setting is what a directive says, for a pool or for all; "" is nothing.
func (l *looker) setting(p *phpconf.Pool, name string) string {
	if p != nil {
		for _, d := range slices.Backward(p.PHP) {
			if d.Name == name {
				return d.Value
			}
		}
	}
	d, _ := l.Ini.Get(name)
	return d.Value
}

// on reads a switch as PHP does.
func on(value string) bool {
	switch strings.ToLower(value) {
	case "on", "yes", "true":
		return true
	}
	n, err := strconv.Atoi(value)
	return err == nil && n != 0
}

// caches tells whether PHP keeps scripts in a cache.
func (l *looker) caches() bool {
	enabled, set := l.Ini.Get("opcache.enable")
	return (!set || on(enabled.Value)) &&
		slices.ContainsFunc(l.Ini.Extensions, func(e phpconf.Extension) bool { return e.Name == "opcache" })
}

// opcache looks whether pools would get each other's scripts: the cache is one
// for all, and knows scripts by their paths.
func (l *looker) opcache() {
	if l.FPM == nil || !l.caches() {
		return
	}
	roots := map[string]bool{}
	var unsafe []string
	for i, p := range l.FPM.Pools {
		roots[path.Clean("/"+p.Chroot)] = true
		if p.Chroot != "" && !on(l.setting(&l.FPM.Pools[i], "opcache.validate_root")) {
			unsafe = append(unsafe, p.Name)
		}
	}
	if len(unsafe) == 0 {
		return
	}
	danger := "a second root would get scripts of the first"
	if len(roots) > 1 {
		danger = "two scripts of the same path in two roots are taken for one, and one pool runs the other's"
	}
	l.add("opcache-validate-root", "set opcache.validate_root=1 in php.ini",
		"pools have a root of their own (%s) and share a cache of scripts that does not look at it: %s", some(unsafe), danger)
}

// extensions looks for those that are switched on and not there.
func (l *looker) extensions() {
	for _, e := range l.Ini.Extensions {
		if path.IsAbs(e.Path) && l.gone(e.Path) {
			l.add("extension-missing", "copy the extension into the jail (its package brings it), or take the line out",
				"%s line %d loads %s, but %s is not there: PHP goes on without it", e.File, e.Line, e.Name, e.Path)
		}
	}
}

// devices looks for those that PHP and PHP-FPM open.
func (l *looker) devices() {
	for _, d := range []struct {
		name  string
		minor uint32
		what  string
	}{{"null", 3, "PHP-FPM does not start without it"}, {"urandom", 9, "what needs chance may fail"}} {
		p := "/dev/" + d.name
		info, err := l.Jail.Stat(p)
		switch {
		case isMissing(err):
		case err != nil, info.Type() == unix.S_IFCHR && info.Rdev == unix.Mkdev(1, d.minor):
			continue
		}
		l.add("no-device", fmt.Sprintf("in the jail: mknod -m 666 %s c 1 %d", p, d.minor), "there is no device %s: %s", p, d.what)
	}
}

// world looks at what scripts need around them.
func (l *looker) world(w world) {
	l.names(w)
	l.certificates(w)
	l.zones(w)
	l.folders(w)
}

// names looks whether host names can be resolved.
func (l *looker) names(w world) {
	conf := w.path("/etc/resolv.conf")
	if text, readable := l.text(conf); l.gone(conf) || readable && !hasNameserver(text) {
		l.add("no-resolver", "copy the host's /etc/resolv.conf to "+conf, "%s names no server to resolve host names with (%s)", w.of(), conf)
	}
	if hosts := w.path("/etc/hosts"); l.gone(hosts) {
		l.add("no-hosts", `write "127.0.0.1 localhost" to `+hosts, "%s has no %s: localhost may not be resolved", w.of(), hosts)
	}
}

func hasNameserver(text string) bool {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			return true
		}
	}
	return false
}

// defaultBundle is where Debian's OpenSSL looks, through links.
const defaultBundle = "/etc/ssl/certs/ca-certificates.crt"

// certificates looks for what servers of https are checked by.
func (l *looker) certificates(w world) {
	for i := range max(1, len(w.pools)) {
		var p *phpconf.Pool
		if i < len(w.pools) {
			p = &w.pools[i]
		}
		found := false
		for _, name := range []string{"openssl.cafile", "curl.cainfo"} {
			file := l.setting(p, name)
			if !path.IsAbs(file) {
				continue
			}
			found = true
			if at := w.path(file); l.empty(at) {
				l.add("no-ca-bundle", "bring the file into the jail, or take "+name+" out", "%s names %s, which is missing or empty in %s: servers of https cannot be verified", name, at, w.of())
			}
		}
		if at := w.path(defaultBundle); !found && l.setting(p, "openssl.capath") == "" && l.empty(at) {
			l.add("no-ca-bundle", "copy the host's "+defaultBundle+" to "+at, "%s has no certificates of authorities (%s): servers of https cannot be verified", w.of(), at)
		}
	}
}

// empty tells that a file is missing or holds nothing.
func (l *looker) empty(p string) bool {
	info, err := l.Jail.Stat(p)
	return isMissing(err) || err == nil && info.IsRegular() && info.Size == 0
}

const zoneinfo = "/usr/share/zoneinfo"

// zones looks for the data of time zones, which Debian's PHP does not bring
// along: without UTC it crashes.
func (l *looker) zones(w world) {
	if utc := w.path(zoneinfo + "/UTC"); l.empty(utc) {
		l.add("no-timezones", "copy /usr/share/zoneinfo (package tzdata) to "+w.path(zoneinfo),
			"%s has no data of time zones (%s): PHP crashes at the first date()", w.of(), utc)
		return
	}
	for i := range max(1, len(w.pools)) {
		var p *phpconf.Pool
		if i < len(w.pools) {
			p = &w.pools[i]
		}
		zone := l.setting(p, "date.timezone")
		if zone == "" || strings.HasPrefix(zone, "/") || strings.Contains(zone, "..") {
			continue
		}
		if file := w.path(path.Join(zoneinfo, zone)); l.empty(file) {
			l.add("no-timezone", "copy "+path.Join(zoneinfo, zone)+" (package tzdata) to "+file,
				"date.timezone is %s, but %s has no data of that zone (%s)", zone, w.of(), file)
		}
	}
}

// folders looks for those that scripts write into.
func (l *looker) folders(w world) {
	users := []string{w.user}
	pools := []*phpconf.Pool{nil}
	for i, p := range w.pools {
		if i == 0 {
			users, pools = nil, nil
		}
		users, pools = append(users, p.User), append(pools, &w.pools[i])
	}
	for i, p := range pools {
		tmp := l.setting(p, "sys_temp_dir")
		if !path.IsAbs(tmp) {
			tmp = "/tmp"
		}
		what := "uploads and temporary files"
		if lock := l.setting(nil, "opcache.lockfile_path"); w.root == "" && l.gone("/tmp") && l.caches() && tmp == "/tmp" && (lock == "" || lock == tmp) {
			what += ", and PHP does not start: its opcache needs a lock there"
		}
		l.writable(w, "no-tmp", w.path(tmp), users[i], what)
		if handler := l.setting(p, "session.save_handler"); handler != "" && handler != "files" {
			continue
		}
		save := l.setting(p, "session.save_path")
		save = save[strings.LastIndex(save, ";")+1:] // "depth;mode;path"
		switch {
		case save == "":
			save = "/var/lib/php/sessions" // what Debian's PHP is built with
		case !path.IsAbs(save):
			continue
		}
		l.writable(w, "no-sessions", w.path(save), users[i], "sessions")
	}
}

// writable looks whether a folder is there and a user may write in it.
func (l *looker) writable(w world, name, dir, user, what string) {
	info, err := l.Jail.Stat(dir)
	cure := "chmod 1733"
	if name == "no-tmp" {
		cure = "chmod 1777"
	}
	switch {
	case isMissing(err):
		l.add(name, "mkdir -p "+dir+" and "+cure+" "+dir+", in the jail", "%s has no %s: there is no place for %s", w.of(), dir, what)
		return
	case err != nil:
		return
	case !info.IsDir():
		l.add(name, "make it a folder", "%s is no folder: there is no place for %s", dir, what)
		return
	}
	who, ok := l.account(user)
	if !ok || who.uid == 0 {
		return
	}
	if !who.may(info, 3) {
		l.add(name, cure+" "+dir+", in the jail, or give it to "+user, "%s may not write into %s: there is no place for %s", user, dir, what)
		return
	}
	for up := path.Dir(dir); up != "/"; up = path.Dir(up) {
		if info, err := l.Jail.Stat(up); err == nil && !who.may(info, 1) {
			l.add(name, "chmod o+x "+up+", in the jail", "%s may not reach %s, because of the rights of %s: there is no place for %s", user, dir, up, what)
			return
		}
	}
}

// account is a user as the jail's own files tell.
type account struct {
	uid, gid uint32
	groups   []uint32
}

// may tells whether the permission bits give all of want (1 is search, 2 is
// write). Access control lists are not read.
func (a account) may(info jail.Info, want uint32) bool {
	bits := info.Perm() & 7
	switch {
	case info.UID == a.uid:
		bits = info.Perm() >> 6 & 7
	case info.GID == a.gid || slices.Contains(a.groups, info.GID):
		bits = info.Perm() >> 3 & 7
	}
	return bits&want == want
}

// account reads a user out of the jail's passwd and group; false if it is not
// known.
func (l *looker) account(name string) (account, bool) {
	name = strings.TrimPrefix(name, "#")
	users, _ := l.text("/etc/passwd")
	for line := range strings.Lines(users) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || name == "" || f[0] != name && f[2] != name {
			continue
		}
		uid, errU := strconv.ParseUint(f[2], 10, 32)
		gid, errG := strconv.ParseUint(f[3], 10, 32)
		if errU != nil || errG != nil {
			return account{}, false
		}
		a := account{uid: uint32(uid), gid: uint32(gid)}
		groups, _ := l.text("/etc/group")
		for line := range strings.Lines(groups) {
			g := strings.Split(strings.TrimSpace(line), ":")
			if len(g) < 4 || !slices.Contains(strings.Split(g[3], ","), f[0]) {
				continue
			}
			if id, err := strconv.ParseUint(g[2], 10, 32); err == nil {
				a.groups = append(a.groups, uint32(id))
			}
		}
		return a, true
	}
	return account{}, false
}
