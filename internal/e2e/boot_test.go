//go:build faultpoints

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// A small machine with systemd, a jail made by hand, an enabled unit that serves
// from it, and jailup as it is installed. What is cut off in it must be whole, and
// answer, after it has booted again, with nobody typing.
type bootTest struct {
	t        *testing.T
	y        *lab.Tally
	root     string // of the machine's tree
	j        *lab.Jail
	old, new map[string]string
}

// The place of things in the machine.
const (
	bootJail = "/srv/chroot"
	bootDebs = "/srv/debs"
	bootSaid = "/srv/said" // where a halted program says so
)

const bootPort = 8080

// webUnits are ways in which administrators serve from a jail.
var webUnits = map[string]string{
	"chroot": `Type=forking
ExecStart=/usr/sbin/chroot /srv/chroot /usr/sbin/nginx
ExecReload=/bin/kill -HUP $MAINPID
`,
	"always": `Type=simple
ExecStart=/usr/sbin/chroot /srv/chroot /usr/sbin/nginx -g "daemon off;"
KillSignal=SIGQUIT
Restart=always
RestartSec=100ms
`,
	"root": `Type=forking
RootDirectory=/srv/chroot
BindPaths=/srv/chroot/run:/run
PIDFile=/srv/chroot/run/nginx.pid
ExecStart=/usr/sbin/nginx
KillMode=mixed
TimeoutStopSec=5
`,
}

// newBootTest fills the tree root, which is the machine's. unit is one of webUnits;
// enabled says whether jailup's own unit is installed.
func newBootTest(t *testing.T, y *lab.Tally, root, unit string, enabled bool) *bootTest {
	t.Helper()
	pair := lab.Light(t, lab.NginxPair(t)) // a machine under emulation unpacks slowly
	b := &bootTest{t: t, y: y, root: root}
	b.j = lab.HandMadeJail(t, pair.Old, lab.InDir(root+bootJail), lab.Port(bootPort))
	// systemd makes these where it sets up a root of its own.
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "var/tmp", "root"} {
		require.NoError(t, os.MkdirAll(filepath.Join(b.j.Dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(b.j.Dir, "srv/unknown"), []byte("mine"), 0o640))
	require.NoError(t, os.MkdirAll(root+bootDebs, 0o755))
	for _, dir := range []string{pair.Old, pair.New} {
		debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		require.NoError(t, err)
		for _, deb := range debs {
			data, err := os.ReadFile(deb)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(root+bootDebs, filepath.Base(deb)), data, 0o644))
		}
	}
	bin, err := os.ReadFile(program(t, true))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/local/bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "usr/local/bin/jailup"), bin, 0o755))
	b.unit("web.service", "[Unit]\nDescription=the web server of a jail\nAfter=network.target\n[Service]\n"+webUnits[unit]+"[Install]\nWantedBy=multi-user.target\n", true)
	if enabled {
		text, err := os.ReadFile("../../packaging/systemd/jailup-recover.service")
		require.NoError(t, err)
		b.unit("jailup-recover.service", string(text), true)
		// Slow enough that whoever does not wait for it is seen.
		b.file("etc/systemd/system/jailup-recover.service.d/slow.conf", "[Service]\nExecStartPre=/bin/sleep 2\n")
	}
	passwd := "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/:/usr/sbin/nologin\n"
	if text, err := os.ReadFile(filepath.Join(root, "etc/passwd")); err == nil {
		passwd = string(text)
	}
	b.file("etc/passwd", passwd)
	return b
}

func (b *bootTest) file(name, text string) {
	b.t.Helper()
	p := filepath.Join(b.root, name)
	require.NoError(b.t, os.MkdirAll(filepath.Dir(p), 0o755))
	require.NoError(b.t, os.WriteFile(p, []byte(text), 0o644))
}

func (b *bootTest) unit(name, text string, enable bool) {
	b.t.Helper()
	b.file("etc/systemd/system/"+name, text)
	if enable {
		link := filepath.Join(b.root, "etc/systemd/system/multi-user.target.wants", name)
		require.NoError(b.t, os.MkdirAll(filepath.Dir(link), 0o755))
		require.NoError(b.t, os.Symlink("../"+name, link))
	}
}

// bootState is what systemd's root of its own and nginx write.
func bootState(t testing.TB, dir string) map[string]string {
	return lab.TreeDigest(t, dir, append([]string{"proc", "sys", "dev/**", "var/tmp"}, state...)...)
}

// learnNew finds out what wholly new is: on a copy of the jail, outside of the
// machine.
func (b *bootTest) learnNew() {
	b.t.Helper()
	b.old = bootState(b.t, b.j.Dir)
	twin := filepath.Join(lab.ShmDir(b.t), "twin")
	out, err := exec.Command("cp", "-a", b.j.Dir, twin).CombinedOutput()
	require.NoError(b.t, err, string(out))
	h := newHost(b.t)
	h.debs = b.root + bootDebs
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", twin, "--soak", "0s")
	b.new = bootState(b.t, twin)
	require.NotEmpty(b.t, lab.DiffTrees(b.old, b.new))
}

// whole tells which of the two the jail is, and that nothing of a guard is left.
func (b *bootTest) whole(what string) string {
	b.t.Helper()
	now := bootState(b.t, filepath.Join(b.root, bootJail))
	old, fresh := lab.DiffTrees(b.old, now), lab.DiffTrees(b.new, now)
	outcome := "old"
	switch {
	case len(old) == 0:
	case len(fresh) == 0:
		outcome = "new"
	default:
		b.y.Mixed("%s: neither old nor new: %v", what, old)
	}
	if left := b.guards(); len(left) > 0 {
		b.y.Person("%s: of the guard there is left: %v", what, left)
	}
	return outcome
}

// guards are the files of a persistent guard.
func (b *bootTest) guards() []string {
	var left []string
	for _, dir := range []string{"etc/systemd/system", "var/lib/jailup"} {
		_ = filepath.WalkDir(filepath.Join(b.root, dir), func(p string, d fs.DirEntry, err error) error {
			if err == nil && (d.Name() == "in-flight" || strings.HasPrefix(d.Name(), "jailup-") && !strings.HasPrefix(d.Name(), "jailup-recover.service") || d.Name() == "web.service.d") {
				left = append(left, strings.TrimPrefix(p, b.root))
			}
			return nil
		})
	}
	return left
}

// upgradeArgs is the upgrade in the machine.
func upgradeArgs() []string {
	return []string{"/usr/local/bin/jailup", "upgrade", "nginx", "--jail", bootJail, "--source", "dir:" + bootDebs, "--soak", "0s"}
}

// container boots the machine's tree in a container.
func (b *bootTest) container() *lab.Container {
	b.t.Helper()
	c := lab.NewContainer(b.t, b.root)
	c.Boot()
	require.True(b.t, lab.Within(20*time.Second, func() bool { return c.Answers(bootPort) }), "the web server answers after the first boot: %s", c.Log("web"))
	return c
}

// halted runs the upgrade in a unit of its own until it stands still at a point.
func (b *bootTest) halted(c *lab.Container, at string, env ...string) {
	b.t.Helper()
	require.NoError(b.t, os.RemoveAll(b.root+bootSaid))
	args := []string{"systemd-run", "--quiet", "--collect", "--unit=up", "--property=TimeoutStopSec=1s", "--setenv=JAILUP_FAULT=halt:" + at, "--setenv=JAILUP_FAULT_SAY=" + bootSaid}
	for _, e := range env {
		args = append(args, "--setenv="+e)
	}
	c.Run(append(args, upgradeArgs()...)...)
	reached := lab.Within(time.Minute, func() bool { return exists(b.root + bootSaid) })
	require.True(b.t, reached, "the upgrade does not reach %s: %s", at, c.Log("up"))
}

// The machine goes down, all of it at once, at many instants of an upgrade, and
// boots again: the jail is wholly old or wholly new and its unit runs, with nobody
// typing. The unit was never started out of a mixed jail.
func TestBootAfterKill(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "boot")
	for _, kind := range []struct {
		unit    string
		enabled bool
	}{{"chroot", true}, {"root", false}, {"always", true}} {
		t.Run(kind.unit, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "root", "apt", "mmdebstrap", "systemd-nspawn")
			points := []string{"1@do stop", "1@stopped", "1@do install", "4@do install", "9@do install", "30@do install", "1@do start", "1@do verify", "1@do record", "1@do prune"}
			y.Cases(1)
			y.Of(len(points))
			root := filepath.Join(lab.ShmDir(t), "machine")
			lab.SystemTree(t, root)
			b := newBootTest(t, y, root, kind.unit, kind.enabled)
			c := b.container()
			b.learnNew() // what systemd made for a root of its own is there
			for i, at := range points {
				if !lab.Sampled(t, i) && i != 3 {
					continue
				}
				what := fmt.Sprintf("unit %s, killed at %s", kind.unit, at)
				b.halted(c, at)
				if at != "1@do prune" { // that disarms, and the new server has answered
					require.NotEmpty(t, b.guards(), "%s: no guard is there while the jail is between two versions", what)
				}
				c.Kill()
				c.Boot()
				if !lab.Within(20*time.Second, func() bool { return c.Answers(bootPort) }) {
					y.Person("%s: nobody answers after the boot:\n%s", what, c.Log("web", "jailup-recover*"))
				}
				outcome := b.whole(what)
				y.Point(outcome)
				log := c.Log("web")
				require.NotContains(t, log, "Failed", "%s: init tried to start the server before the jail was whole", what)
				if outcome == "new" {
					c.Run("/usr/local/bin/jailup", "rollback", "--jail", bootJail, "--soak", "0s")
					require.Empty(t, b.guards())
					require.True(t, c.Answers(bootPort))
				}
				require.Empty(t, lab.DiffTrees(b.old, bootState(t, root+bootJail)), what)
				c.Kill()
				c.Boot()
				require.True(t, lab.Within(20*time.Second, func() bool { return c.Answers(bootPort) }), what)
			}
		})
	}
}

// labScript is what runs in the virtual machine: it tells whether the web server
// answers, and then does what is typed. Once init has done all that it was to do,
// nobody comes who is not there.
const labScript = `#!/bin/bash
exec >/dev/ttyS0 2>&1 </dev/ttyS0
stty raw -echo 2>/dev/null
answers() { exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && [[ $(head -c 12 <&3) == "HTTP/1.1 200" ]]; }
n=0; until (answers) 2>/dev/null; do
	case $(systemctl is-system-running) in running|degraded) n=$((n+1)); esac
	[ $n -gt 10 ] && break; sleep 0.2
done
[ $n -gt 10 ] && echo LAB-SILENT || echo LAB-ANSWERS
echo LAB-LOG; journalctl -b -o short-monotonic --no-pager -u web -u 'jailup*'; sync; echo LAB-CHECKED
while read -r what fault; do case $what in
	sync) sync; echo LAB-SYNCED;;
	upgrade) (JAILUP_FAULT="$fault" JAILUP_FAULT_SAY=/dev/ttyS0 /usr/local/bin/jailup upgrade nginx --jail /srv/chroot --source dir:/srv/debs --soak 0s --start-timeout 10m; echo LAB-ENDED) </dev/null &
esac; done
`

// bootPatience is for what happens in a virtual machine: it is emulated, and others
// work on the same processors.
const bootPatience = 8 * time.Minute

// upTo types an upgrade that stands still at a point.
func (b *bootTest) upTo(v *lab.VM, at string) {
	b.t.Helper()
	v.Type("upgrade halt:" + at)
	lab.Within(bootPatience, func() bool {
		return strings.Contains(v.Screen(), "fault: halted") || strings.Contains(v.Screen(), "LAB-ENDED")
	})
	require.Contains(b.t, v.Screen(), "fault: halted")
}

// checked waits until the machine has looked after its boot, and tells whether its
// web server answers, and whether init had started it in vain.
func (b *bootTest) checked(v *lab.VM) (answers, failed bool) {
	b.t.Helper()
	require.True(b.t, v.Prints(bootPatience, "LAB-CHECKED", 1), v.Screen())
	before, log, _ := strings.Cut(v.Screen(), "LAB-LOG")
	return strings.Contains(before, "LAB-ANSWERS"), strings.Contains(log, "Failed with result")
}

// The power of a whole machine is cut in the middle of an install, and after a
// commit; what it had not flushed is lost. It boots again from its disk: the jail
// is wholly old or wholly new and the web server answers, with nobody typing. The
// same without the persistent guard is noticed: a test that cannot see that proves
// nothing.
func TestBootPowerCut(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "mmdebstrap", "qemu-system-x86_64", "busybox", "cpio", "loop")
	if lab.InPrivateMounts(t) {
		return
	}
	y := lab.NewTally(t, "boot")
	root := filepath.Join(lab.ShmDir(t), "machine")
	lab.SystemTree(t, root)
	b := newBootTest(t, y, root, "chroot", true)
	b.file("srv/lab.sh", labScript)
	require.NoError(t, os.Chmod(filepath.Join(root, "srv/lab.sh"), 0o755))
	b.unit("lab.service", "[Unit]\nAfter=local-fs.target\n[Service]\nExecStart=/srv/lab.sh\nKillMode=process\n", true)
	v := lab.NewVM(t, root)
	look := func(do func()) {
		v.Look(func(root string) { b.root = root; do() })
	}
	v.Boot()
	look(func() { b.j = &lab.Jail{Dir: b.root + bootJail}; b.learnNew() })
	answers, failed := b.checked(v)
	require.True(t, answers && !failed, v.Screen())
	y.Cases(2)
	y.Of(2)
	mixed := func() bool { return !exists(filepath.Join(b.root, bootJail, "usr/sbin/nginx")) }
	// onTheDisk looks at what a cut would leave.
	onTheDisk := func(wantMixed bool) {
		look(func() {
			require.NotEmpty(t, b.guards(), "the guard is on the disk")
			require.Equal(t, wantMixed, mixed(), "the jail on the disk is mixed")
		})
	}
	back := func(what, want string) {
		v.Cut()
		v.Boot()
		if answers, failed := b.checked(v); !answers || failed {
			y.Person("%s: the web server does not answer, or was started out of a mixed jail: %s", what, v.Screen())
		}
		look(func() {
			outcome := b.whole(what)
			y.Point(outcome)
			require.Equal(t, want, outcome, what)
		})
	}

	// In the middle of it, and the disk has all that was done.
	b.upTo(v, "9@do install")
	v.Type("sync")
	require.True(t, v.Prints(bootPatience, "LAB-SYNCED", 1))
	onTheDisk(true)
	// The same machine without the guard boots beside it.
	bare := v.Twin(func(root string) {
		b.root = root
		for _, g := range b.guards() {
			require.NoError(t, os.RemoveAll(root+g))
		}
		require.Empty(t, b.guards())
		require.True(t, mixed())
	})
	bare.Boot()
	back("power cut in the middle of the install", "old")
	_, failed = b.checked(bare)
	require.True(t, failed, "without the guard init starts what is there, and the test must see it: %s", bare.Screen())
	bare.Cut()

	// After the commit, and the disk has what was flushed.
	b.upTo(v, "1@do record")
	onTheDisk(false)
	back("power cut after the commit", "new")
}
