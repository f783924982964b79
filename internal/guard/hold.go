package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/sys"
)

// The persistent guard. It is for the time when nobody watches: after a power
// cut, init starts what is enabled, and must not start a server out of a jail
// that is half old and half new.
//
//	STATE/<jail-id>/in-flight                       there as long as a run may have the jail mixed
//	ETC/UNIT.d/jailup-<jail-id>.conf                the unit does not start while in-flight is there,
//	                                                and not before the recovery at boot has ended
//	ETC/jailup-recover-<jail-id>.service            the recovery at boot, where no unit for all jails
//	ETC/multi-user.target.wants/…                   is enabled
//	ETC/jailup-recover.service.d/jailup-<jail-id>.conf  else: it waits for the jail's mounts
//
// All of it is durable before the first server is stopped. Without systemd there
// is nothing to hold: the server's executable is out of the jail first and in last.
const (
	// EtcUnits is where an administrator's units lie, systemd.unit(5).
	EtcUnits = "/etc/systemd/system"
	// BootUnit is the recovery of all jails at boot; see packaging/systemd.
	BootUnit = "jailup-recover.service"

	inFlight   = "in-flight"
	madeFolder = "# Its folder was made for it.\n"
)

// Hold is one persistent guard.
type Hold struct {
	Etc      string // EtcUnits, but in tests
	StateDir string // of the jail
	JailID   string
	Jail     string   // its path, for whoever reads the files
	Units    []string // services that start a program of the jail
	// Recover is the command line of the recovery of this jail at boot, its program
	// by an absolute path; empty: a unit for all jails is enabled.
	Recover []string
}

// Flight is what the file in-flight says: for people, and for a recovery whose
// journal tells nothing.
type Flight struct {
	Jail  string    `json:"jail"`
	Units []string  `json:"units"`
	Since time.Time `json:"since"`
}

// unitName is what a service may be called, systemd.unit(5).
var unitName = lazyregexp.New(`^[A-Za-z0-9:_.\\@-]{1,240}\.service$`)

// plain is a path that means itself in a unit file, a "%" apart.
var plain = lazyregexp.New(`^/[A-Za-z0-9/._@:,+=~%-]*$`)

// Booted tells whether systemd is this host's init, as sd_booted(3) does.
func Booted() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

func (h Hold) dropIn() string   { return "jailup-" + h.JailID + ".conf" }
func (h Hold) bootUnit() string { return "jailup-recover-" + h.JailID + ".service" }
func (h Hold) wants() string    { return filepath.Join(h.Etc, "multi-user.target.wants") }

// Arm makes the guard, durable. It may be called again, with the same or other
// units. After an error what it made is still there: Release.
func (h Hold) Arm() error {
	flight := filepath.Join(h.StateDir, inFlight)
	if !plain.MatchString(flight) {
		return fmt.Errorf("cannot guard jail %s: systemd could not read the path %q in a unit", h.Jail, flight)
	}
	text, err := json.Marshal(Flight{Jail: h.Jail, Units: h.Units, Since: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := sys.WriteFileAtomic(flight, append(text, '\n'), 0o600); err != nil {
		return err
	}
	after := BootUnit
	if len(h.Recover) > 0 {
		err = h.armBoot()
		after = h.bootUnit() + " " + BootUnit
	} else {
		err = h.addTo(BootUnit, h.mounts())
	}
	if err != nil {
		return err
	}
	for _, unit := range h.Units {
		if !unitName.MatchString(unit) {
			return fmt.Errorf("cannot guard unit %q: it has no name of a service", unit)
		}
		// After= alone: the recovery is pulled in by its target. Wants= would start it
		// with the unit during a run, which would then wait for the run's lock, and find
		// the condition true when the run has ended and started the server itself.
		if err := h.addTo(unit, "After="+after+"\nConditionPathExists=!"+percent(flight)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// addTo writes the jail's drop-in of a unit.
func (h Hold) addTo(unit, settings string) error {
	dir := filepath.Join(h.Etc, unit+".d")
	text := "# Written by jailup while it changes " + oneLine(h.Jail) + ", and taken away when that is done.\n"
	if ours(dir) {
		text += madeFolder
	}
	if err := sys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return sys.WriteFileAtomic(filepath.Join(dir, h.dropIn()), []byte(text+"[Unit]\n"+settings), 0o644)
}

// mounts are the settings that have a recovery wait for what jail and state may be
// mounted on: local-fs.target waits for no mount that is "nofail". Not
// RequiresMountsFor=, by which the missing disk of one jail would keep the others
// from being recovered. Of the units named most are not there, which is fine.
func (h Hold) mounts() string {
	var units []string
	for _, p := range []string{h.Jail, h.StateDir} {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			p = real
		}
		for ; filepath.IsAbs(p) && p != "/"; p = filepath.Dir(p) {
			// A name that is too long is no unit's.
			if u := mountUnit(p); len(u) < 256 && !slices.Contains(units, u) {
				units = append(units, u)
			}
		}
	}
	if len(units) == 0 {
		return ""
	}
	slices.Sort(units)
	list := strings.Join(units, " ")
	return "Wants=" + list + "\nAfter=" + list + "\n"
}

// mountUnit is the unit of a mount point, systemd.unit(5), "String Escaping for
// Inclusion in Unit Names".
func mountUnit(dir string) string {
	var b strings.Builder
	dir = strings.Trim(filepath.Clean(dir), "/")
	for i := range len(dir) {
		switch c := dir[i]; {
		case c == '/':
			b.WriteByte('-')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == ':', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String() + ".mount"
}

// ours tells whether a folder of drop-ins is not there, or was made for a guard:
// of this jail, or of another one whose server is in the same unit.
func ours(dir string) bool {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	files, _ := filepath.Glob(filepath.Join(dir, "jailup-*.conf"))
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), madeFolder) {
			return true
		}
	}
	return false
}

// armBoot makes the unit that recovers this one jail at boot.
func (h Hold) armBoot() error {
	var argv []string
	for _, a := range h.Recover {
		argv = append(argv, quoted(a))
	}
	text := "# Written by jailup while it changes " + oneLine(h.Jail) + ", and taken away when that is done.\n" +
		"[Unit]\nDescription=End what an interrupted run of jailup began\n" +
		"After=local-fs.target remote-fs.target network.target systemd-tmpfiles-setup.service\n" + h.mounts() +
		"[Service]\nType=oneshot\nKillMode=process\nTimeoutStartSec=15min\nExecStart=" + strings.Join(argv, " ") + "\n"
	if err := sys.WriteFileAtomic(filepath.Join(h.Etc, h.bootUnit()), []byte(text), 0o644); err != nil {
		return err
	}
	if err := sys.MkdirAll(h.wants(), 0o755); err != nil {
		return err
	}
	d, err := sys.OpenDir(h.wants())
	if err != nil {
		return err
	}
	defer d.Close()
	if err := sys.Symlinkat("../"+h.bootUnit(), int(d.Fd()), h.bootUnit()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(h.wants(), h.bootUnit()), err)
	}
	return sys.FsyncDir(int(d.Fd()))
}

// Held tells whether anything of a guard of the jail is there.
func (h Hold) Held() bool {
	if _, err := os.Lstat(filepath.Join(h.StateDir, inFlight)); err == nil {
		return true
	}
	return len(h.remnants()) > 0
}

// remnants are the files below Etc, the boot unit last: until then it is pulled in.
func (h Hold) remnants() []string {
	if h.JailID == "" || strings.ContainsAny(h.JailID, `*?[\/`) {
		return nil
	}
	out, _ := filepath.Glob(filepath.Join(h.Etc, "*.service.d", h.dropIn()))
	for _, p := range []string{filepath.Join(h.wants(), h.bootUnit()), filepath.Join(h.Etc, h.bootUnit())} {
		if _, err := os.Lstat(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// Strays are the ids of the jails whose guard holds a unit by a file in this folder
// of states, those known apart.
func Strays(etc, stateDir string, known []string) []string {
	var out []string
	files, _ := filepath.Glob(filepath.Join(etc, "*.service.d", "jailup-*.conf"))
	for _, f := range files {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "jailup-"), ".conf")
		text, err := os.ReadFile(f)
		flight := "ConditionPathExists=!" + percent(filepath.Join(stateDir, id, inFlight)) + "\n"
		if err == nil && strings.Contains(string(text), flight) && !slices.Contains(known, id) && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// Release takes the guard away, that of an earlier run as well: first in-flight,
// for with it gone the rest holds nothing. It goes on after an error. Doing it
// again does nothing.
func (h Hold) Release() error {
	errs := []error{remove(filepath.Join(h.StateDir, inFlight))}
	for _, p := range h.remnants() {
		text, _ := os.ReadFile(p)
		err := remove(p)
		errs = append(errs, err)
		if dir := filepath.Dir(p); err == nil && strings.HasSuffix(dir, ".service.d") && strings.Contains(string(text), madeFolder) {
			if err := removeFolder(dir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func remove(path string) error {
	return removeAs(path, 0)
}

func removeFolder(path string) error { return removeAs(path, unix.AT_REMOVEDIR) }

// removeAs removes a name, durably; a missing one is fine.
func removeAs(path string, flags int) error {
	d, err := sys.OpenDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	err = sys.Unlinkat(int(d.Fd()), filepath.Base(path), flags)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = sys.FsyncDir(int(d.Fd()))
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return nil
}

// BootUnitEnabled tells whether the unit that recovers all jails is pulled in at
// boot.
func BootUnitEnabled(etc string) bool {
	links, _ := filepath.Glob(filepath.Join(etc, "*.target.*", BootUnit))
	for _, l := range links {
		if fi, err := os.Stat(l); err == nil && fi.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// Reload has systemd read its units again, so that a guard holds, or ends, at
// once and not only at the next boot. Without systemd it does nothing.
func Reload(ctx context.Context) error {
	return withSystemd(ctx, func(m *manager) error { return m.conn.ReloadContext(ctx) })
}

// percent escapes what systemd would take for a specifier.
func percent(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// oneLine makes a path safe in a comment.
func oneLine(s string) string { return fmt.Sprintf("%q", s) }

// quoted is one word of a command line, systemd.service(5).
func quoted(s string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`, `%`, `%%`, "\n", `\n`, "\t", `\t`)
	return `"` + r.Replace(s) + `"`
}
