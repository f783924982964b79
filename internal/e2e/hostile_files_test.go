//go:build faultpoints

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// What an attacker may have planted in a jail: each path that jailup touches,
// replaced by each kind of thing, and then upgraded, rolled back, looked at.

// hostileJail is a jail with a running server and a canary beside it that looks
// like it: whoever leaves the jail by a planted link finds all that it wants.
type hostileJail struct {
	t        *testing.T
	y        *lab.Tally
	h        *host
	j        *lab.Jail
	base     string
	canary   string
	pristine string
	aside    string
	clean    map[string]string // the tree before anything was planted
	fresh    map[string]string // the tree after an upgrade of that
	usual    time.Duration     // of an upgrade, on this machine, now
	worst    time.Duration
	walls    []string // switches of the walls, in the environment
}

func newHostileJail(t *testing.T, y *lab.Tally, opts ...lab.JailOption) *hostileJail {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	pair := lab.Light(t, lab.NginxPair(t))
	base := lab.ShmDir(t)
	f := &hostileJail{t: t, y: y, base: base}
	dir := filepath.Join(base, "chroot")
	f.j = lab.HandMadeJail(t, pair.Old, append([]lab.JailOption{lab.InDir(dir)}, opts...)...)
	for _, d := range []string{"var/cache/nginx", "var/lib/dpkg", "root", "usr/bin", "usr/share/nginx/html", "etc/ld.so.conf.d"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "var/lib/dpkg")))
	for name, text := range map[string]string{
		"etc/nsswitch.conf": "passwd: files\n", "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
		"etc/resolv.conf": "nameserver 192.0.2.1\n", "etc/shadow": "root:*:1:0:99999:7:::\n", "srv/unknown": "mine",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
	}
	f.aside, f.canary = filepath.Join(base, "aside"), filepath.Join(base, "canary")
	require.NoError(t, os.Mkdir(f.aside, 0o700))
	f.pristine = filepath.Join(base, "pristine")
	for _, to := range []string{f.canary, f.pristine} {
		out, err := exec.Command("cp", "-a", dir, to).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	f.j.Start(t)
	f.h = newHost(t, pair.Old, pair.New)
	f.h.bin = program(t, true)
	f.h.env = append(f.h.env, "JAILUP_FAULT_LOOKS=20ms", "GOGC=800")
	// The first upgrade fills the cache.
	f.h.must(0, "upgraded", f.upgradeArgs()...)
	f.back()
	f.h.offerWhatIsNeeded()
	f.usual = f.h.must(0, "upgraded", f.upgradeArgs()...).Took
	f.fresh = stateless(t, dir)
	f.back()
	f.clean = stateless(t, dir)
	return f
}

func (f *hostileJail) upgradeArgs() []string {
	return []string{"upgrade", "nginx", "--jail", f.j.Dir, "--soak", "0s", "--stop-timeout", "3s"}
}

func (f *hostileJail) back() result {
	return f.h.must(0, "rolled-back", "rollback", "--jail", f.j.Dir, "--soak", "0s")
}

// fingerprint of a tree by what cannot be put back: the change time tells of
// every write, chmod and rename, and the access time of a file of every read.
func fingerprint(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		out[rel] = fmt.Sprintf("ino=%d mode=%o owner=%d:%d nlink=%d size=%d rdev=%d mtime=%d ctime=%d",
			st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Rdev, st.Mtim.Nano(), st.Ctim.Nano())
		return nil
	})
	require.NoError(t, err)
	return out
}

// runBounded calls the program, and ends it after a while: that is a hang.
func (f *hostileJail) run(args ...string) (r result, hung bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), f.limit()+10*time.Second)
	defer cancel()
	c := f.h.command(args...)
	cmd := exec.CommandContext(ctx, c.Path, c.Args[1:]...)
	cmd.Env = append(c.Env, f.walls...)
	cmd.WaitDelay = time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	began := time.Now()
	err := cmd.Run()
	r = result{Exit: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errOut.String(), Took: time.Since(began)}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) && ctx.Err() == nil {
		require.NoError(f.t, err)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(r.Stdout), "\n") {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) == nil {
			r.Events = append(r.Events, e)
			if e["kind"] == "run.done" {
				r.Done = e
			}
		}
	}
	f.worst = max(f.worst, r.Took)
	return r, ctx.Err() != nil || r.Took > f.limit()
}

// limit is 5 s, and what this machine needs today for an upgrade, with room; where
// others use it as well, as much more as they take.
func (f *hostileJail) limit() time.Duration {
	busy := 1.0
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if load, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64); err == nil {
			busy = max(1, load/2)
		}
	}
	return time.Duration(busy*float64(5*time.Second)) + 4*f.usual
}

// A plant is what lies in the place of a path of the jail.
type plant struct {
	f      *hostileJail
	path   string // of the jail
	at     string // on the host
	kind   string
	aside  string // what was there before
	made   string // the uppermost parent that was made
	mount  bool
	parent string
	times  []unix.Timespec
}

var plantKinds = []string{
	"link out", "link up and out", "chain of links", "link to itself", "dangling link", "fifo", "socket", "device",
	"directory", "sparse file", "unreadable file", "hard link",
}

// put plants; nil where that kind cannot be there.
func (f *hostileJail) put(path, kind string) *plant {
	f.t.Helper()
	p := &plant{f: f, path: path, at: filepath.Join(f.j.Dir, path), kind: kind}
	twin := filepath.Join(f.canary, path)
	was, err := os.Lstat(p.at)
	switch {
	case kind == "hard link" || kind == "mount":
		if _, err := os.Stat(twin); err != nil {
			return nil
		}
		if info, err := os.Lstat(twin); kind == "hard link" && (err != nil || !info.Mode().IsRegular()) || kind == "mount" && info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
	case kind == "directory" && err == nil && was.IsDir():
		kind = "huge directory"
	}
	must := func(err error) { f.t.Helper(); require.NoError(f.t, err, "%s: %s", path, kind) }
	p.parent = filepath.Dir(p.at)
	for d := p.parent; !exists(d); d = filepath.Dir(d) {
		p.made = d
	}
	if p.made != "" {
		p.parent = filepath.Dir(p.made)
		p.times = times(f.t, p.parent)
		must(os.MkdirAll(filepath.Dir(p.at), 0o755))
	} else {
		p.times = times(f.t, p.parent)
	}
	if kind == "mount" {
		if err != nil {
			return nil
		}
		must(unix.Mount(twin, p.at, "", unix.MS_BIND, ""))
		p.mount = true
		return p
	}
	if err == nil {
		p.aside = filepath.Join(f.aside, "was")
		must(os.Rename(p.at, p.aside))
	}
	up := strings.Repeat("../", strings.Count(path, "/")+1)
	switch kind {
	case "link out":
		must(os.Symlink(twin, p.at))
	case "link up and out":
		must(os.Symlink(up+"canary/"+path, p.at))
	case "chain of links":
		to := up + "canary/" + path
		for i := range 39 {
			at := p.at + ".chain" + strconv.Itoa(i)
			must(os.Symlink(to, at))
			to = filepath.Base(at)
		}
		must(os.Symlink(to, p.at))
	case "link to itself":
		must(os.Symlink(filepath.Base(p.at), p.at))
	case "dangling link":
		must(os.Symlink("/nowhere/"+filepath.Base(p.at), p.at))
	case "fifo":
		must(unix.Mkfifo(p.at, 0o666))
	case "socket":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if errors.Is(err, unix.EBUSY) { // the new server has a file of it open
			err = unix.Unmount(p.at, unix.MNT_DETACH)
		}
		must(err)
		// The path may be longer than an address may be.
		must(unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(f.aside, "socket")}))
		must(unix.Close(fd))
		must(os.Rename(filepath.Join(f.aside, "socket"), p.at))
	case "device":
		must(unix.Mknod(p.at, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 7))))
	case "directory":
		must(os.Mkdir(p.at, 0o755))
		must(os.WriteFile(filepath.Join(p.at, "mine"), nil, 0o600))
	case "huge directory":
		must(os.Mkdir(p.at, 0o755))
		for i := range 3000 {
			must(os.WriteFile(filepath.Join(p.at, "mine"+strconv.Itoa(i)), nil, 0o600))
		}
		deep := p.at
		for range 100 {
			deep = filepath.Join(deep, "deep")
		}
		must(os.MkdirAll(deep, 0o755))
	case "sparse file":
		must(os.WriteFile(p.at, []byte("\x7fELF"), 0o755))
		must(os.Truncate(p.at, 1<<40))
	case "unreadable file":
		must(os.WriteFile(p.at, []byte("nothing"), 0o000))
	case "hard link":
		must(os.Link(twin, p.at))
	default:
		f.t.Fatalf("no such kind: %s", kind)
	}
	return p
}

// times are the access and modification times of a name.
func times(t testing.TB, p string) []unix.Timespec {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(p, &st))
	return []unix.Timespec{st.Atim, st.Mtim}
}

// away takes the plant out and puts back what was there.
func (p *plant) away() {
	p.f.t.Helper()
	must := func(err error) {
		p.f.t.Helper()
		require.NoError(p.f.t, err, "%s: %s", p.path, p.kind)
	}
	if p.mount {
		// The kernel closes the files of what was killed a moment after it is gone.
		err := unix.Unmount(p.at, 0)
		for began := time.Now(); errors.Is(err, unix.EBUSY) && time.Since(began) < 5*time.Second; err = unix.Unmount(p.at, 0) {
			time.Sleep(5 * time.Millisecond)
		}
		must(err)
	} else {
		must(os.RemoveAll(p.at))
	}
	if p.kind == "chain of links" {
		for i := range 39 {
			must(os.Remove(p.at + ".chain" + strconv.Itoa(i)))
		}
	}
	if p.aside != "" {
		must(os.Rename(p.aside, p.at))
	}
	if p.made != "" {
		must(os.RemoveAll(p.made))
	}
	must(unix.UtimesNanoAt(unix.AT_FDCWD, p.parent, p.times, unix.AT_SYMLINK_NOFOLLOW))
}

// watch tells whether a device or FIFO is opened; a descriptor that only names
// it (O_PATH) does not count.
func (p *plant) watch() (opened func() bool) {
	// The server itself opens its pages, its logs and its PID file when it likes.
	servers := slices.ContainsFunc([]string{"srv", "var", "run", "etc/ld.so", "etc/passwd", "etc/group", "etc/nsswitch.conf"}, func(dir string) bool {
		return strings.HasPrefix(p.path, dir)
	})
	if p.kind != "device" && p.kind != "fifo" || servers {
		return func() bool { return false }
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(p.f.t, err)
	_, err = unix.InotifyAddWatch(fd, p.at, unix.IN_OPEN|unix.IN_ACCESS|unix.IN_MODIFY|unix.IN_DONT_FOLLOW)
	require.NoError(p.f.t, err)
	return func() bool {
		defer unix.Close(fd)
		n, err := unix.Read(fd, make([]byte, 4096))
		return err == nil && n > 0
	}
}

// outside is the fingerprint of the canary and of what lies beside the jail. A
// hard link to a file of the canary is one with it: its change time and number
// of names go with what is done to the name in the jail.
func (f *hostileJail) outside(p *plant) map[string]string {
	f.t.Helper()
	all := fingerprint(f.t, f.canary)
	if p.kind == "hard link" {
		var st unix.Stat_t
		require.NoError(f.t, unix.Lstat(filepath.Join(f.canary, p.path), &st))
		data, err := os.ReadFile(filepath.Join(f.canary, p.path))
		require.NoError(f.t, err)
		all[p.path] = fmt.Sprintf("ino=%d mode=%o owner=%d:%d mtime=%d content=%x", st.Ino, st.Mode, st.Uid, st.Gid, st.Mtim.Nano(), sha256.Sum256(data))
	}
	entries, err := os.ReadDir(f.base)
	require.NoError(f.t, err)
	for _, e := range entries {
		// A stage is declared: it holds what a rollback needs.
		if !strings.HasPrefix(e.Name(), ".jailup-stage") {
			all["beside: "+e.Name()] = ""
		}
	}
	return all
}

// cell plants, upgrades, and judges.
func (f *hostileJail) cell(path, kind string, n int) {
	t := f.t
	t.Helper()
	p := f.put(path, kind)
	if p == nil {
		return
	}
	what := fmt.Sprintf("%s: %s", path, kind)
	defer f.ready(what)
	defer p.away()
	master := f.j.MasterPID()
	was, out := stateless(t, f.j.Dir), f.outside(p)
	opened := p.watch()
	r, hung := f.run(f.upgradeArgs()...)
	if hung {
		f.y.Person("%s: no end within %s: %s", what, f.limit(), r)
	}
	if diff := lab.DiffTrees(out, f.outside(p)); len(diff) > 0 {
		f.y.Outside("%s: touched outside of the jail: %s", what, strings.Join(diff, "\n"))
	}
	now := stateless(t, f.j.Dir)
	diff := lab.DiffTrees(was, now)
	open := opened()
	switch {
	case r.Exit == 0 && r.result() == "upgraded":
		f.y.Point("new")
		if len(diff) == 0 {
			f.y.WrongExit("%s: upgraded, and nothing is another: %s", what, r)
		}
		if err := f.right(p, f.fresh, now); err != "" {
			f.y.Mixed("%s: upgraded, and not right: %s", what, err)
		}
		b, hung := f.run("rollback", "--jail", f.j.Dir, "--soak", "0s")
		back := stateless(t, f.j.Dir)
		switch {
		case !hung && b.Exit == 1 && strings.Contains(b.err(), "does not pass"):
			// The upgrade has mended what the plant had broken: there is no way back.
			if diff := lab.DiffTrees(now, back); len(diff) > 0 {
				f.y.Mixed("%s: the rollback was refused, and the jail is another: %s", what, strings.Join(diff, "\n"))
			}
		case hung || b.Exit != 0:
			f.y.Person("%s: the rollback ends with %d after %s: %s", what, b.Exit, b.Took, b)
		default:
			if diff := lab.DiffTrees(was, back); len(diff) > 0 {
				f.y.Mixed("%s: the rollback is not wholly old: %s", what, strings.Join(diff, "\n"))
			}
		}
		if diff := lab.DiffTrees(out, f.outside(p)); len(diff) > 0 {
			f.y.Outside("%s: the rollback touched what is outside: %s", what, strings.Join(diff, "\n"))
		}
	case r.Exit == 1 || r.Exit == 7:
		f.y.Point("refused")
		if len(diff) > 0 {
			f.y.Mixed("%s: refused, and the jail is another: %s\n%s", what, strings.Join(diff, "\n"), r)
		}
		if pid := f.j.MasterPID(); pid != master {
			f.y.WrongExit("%s: refused, and the server is another: %d, not %d: %s", what, pid, master, r)
		}
		if open {
			f.y.Outside("%s: a device or FIFO was opened: %s", what, r)
		}
		if !saysPath(r.err(), path) {
			t.Errorf("%s: the path is not named: %s", what, r.err())
		}
	case r.Exit == 3:
		f.y.Point("rolled back")
		t.Logf("%s: rolled back: %s", what, r.err())
		if len(diff) > 0 {
			f.y.Mixed("%s: rolled back, and the jail is another: %s\n%s", what, strings.Join(diff, "\n"), r)
		}
	default:
		f.y.WrongExit("%s: exit status %d: %s", what, r.Exit, r)
	}
	if testing.Verbose() {
		t.Logf("%-40s %d %5.2fs %s", what, r.Exit, r.Took.Seconds(), r.err())
	}
	f.look(p, what, n)
}

// right tells why an upgraded jail is not what an upgraded jail is; what was
// planted, and the folder that holds it, are the planter's.
func (f *hostileJail) right(p *plant, want, now map[string]string) string {
	beside := f.shipped(p, want, now)
	mine := func(at string) bool {
		return at == p.path || beside != "" && at == beside || strings.HasPrefix(at, p.path+"/") || strings.HasPrefix(at, p.path+".chain") || at == p.path+".jailup-new" ||
			p.made != "" && strings.HasPrefix(filepath.Join(f.j.Dir, at), p.made) || at == filepath.Dir(p.path) ||
			filepath.Join(f.j.Dir, at) == p.parent
	}
	a, b := map[string]string{}, map[string]string{}
	for at, what := range want {
		if !mine(at) {
			a[at] = what
		}
	}
	for at, what := range now {
		if !mine(at) {
			b[at] = what
		}
	}
	return strings.Join(lab.DiffTrees(a, b), "\n")
}

var contentOf = regexp.MustCompile(`sha256=[0-9a-f]{64}`)

// shipped is the file beside the planted name where that has become the package's own
// link: in place of a library that was copied under its soname the jail then has both,
// as the package has. It counts only with the content that the copy would have.
func (f *hostileJail) shipped(p *plant, want, now map[string]string) string {
	to, err := os.Readlink(p.at)
	if err != nil || !strings.HasPrefix(to, filepath.Base(p.path)+".") || strings.Contains(to, "/") || strings.Contains(to, ".chain") {
		return ""
	}
	at := filepath.Join(filepath.Dir(p.path), to)
	is := contentOf.FindString(now[at])
	if is == "" || is != contentOf.FindString(want[p.path]) || !strings.Contains(now[at], "type=file") {
		return ""
	}
	return at
}

// looks are verbs that change nothing, and how they may end.
var looks = []struct {
	args []string
	ends []int
}{
	{[]string{"plan", "nginx"}, []int{0, 1}},
	{[]string{"check", "nginx"}, []int{0, 1, 5}},
	{[]string{"status"}, []int{0, 1, 5}},
	{[]string{"snapshot", "create"}, []int{0, 1}},
}

// look calls one of the verbs that change nothing.
func (f *hostileJail) look(p *plant, what string, n int) {
	f.t.Helper()
	l := looks[n%len(looks)]
	what += ": " + strings.Join(l.args, " ")
	master := f.j.MasterPID()
	was, out := stateless(f.t, f.j.Dir), f.outside(p)
	opened := p.watch()
	r, hung := f.run(append(slices.Clone(l.args), "--jail", f.j.Dir)...)
	if hung {
		f.y.Person("%s: no end within %s: %s", what, f.limit(), r)
	}
	if diff := lab.DiffTrees(out, f.outside(p)); len(diff) > 0 {
		f.y.Outside("%s: touched outside of the jail: %s", what, strings.Join(diff, "\n"))
	}
	if diff := lab.DiffTrees(was, stateless(f.t, f.j.Dir)); len(diff) > 0 {
		f.y.Mixed("%s: the jail is another: %s", what, strings.Join(diff, "\n"))
	}
	if opened() {
		f.y.Outside("%s: a device or FIFO was opened: %s", what, r)
	}
	if pid := f.j.MasterPID(); pid != master || !slices.Contains(l.ends, r.Exit) {
		f.y.WrongExit("%s: exit status %d, server %d (was %d): %s", what, r.Exit, pid, master, r)
	}
	f.y.Point("looked")
}

// cellBack plants in an upgraded jail, and goes back.
func (f *hostileJail) cellBack(path, kind string) {
	t := f.t
	t.Helper()
	f.h.must(0, "upgraded", f.upgradeArgs()...)
	p := f.put(path, kind)
	what := fmt.Sprintf("rollback, %s: %s", path, kind)
	defer f.ready(what)
	if p == nil {
		f.back()
		return
	}
	master := f.j.MasterPID()
	was, out := stateless(t, f.j.Dir), f.outside(p)
	r, hung := f.run("rollback", "--jail", f.j.Dir, "--soak", "0s")
	if hung {
		f.y.Person("%s: no end within %s: %s", what, f.limit(), r)
	}
	if diff := lab.DiffTrees(out, f.outside(p)); len(diff) > 0 {
		f.y.Outside("%s: touched outside of the jail: %s", what, strings.Join(diff, "\n"))
	}
	now := stateless(t, f.j.Dir)
	switch r.Exit {
	case 0:
		f.y.Point("old")
		if err := f.right(p, f.clean, now); err != "" {
			f.y.Mixed("%s: not wholly old: %s", what, err)
		}
		p.away()
	case 1, 3, 7:
		f.y.Point("refused")
		if diff := lab.DiffTrees(was, now); len(diff) > 0 {
			f.y.Mixed("%s: refused, and the jail is another: %s\n%s", what, strings.Join(diff, "\n"), r)
		}
		if pid := f.j.MasterPID(); r.Exit != 3 && pid != master {
			f.y.WrongExit("%s: refused, and the server is another: %s", what, r)
		}
		if !saysPath(r.err(), path) {
			t.Errorf("%s: the path is not named: %s", what, r.err())
		}
		p.away()
		if f.j.MasterPID() == 0 {
			f.j.Start(t)
		}
		f.back()
	default:
		f.y.WrongExit("%s: exit status %d: %s", what, r.Exit, r)
		p.away()
	}
	if testing.Verbose() {
		t.Logf("%-40s %d %5.2fs %s", what, r.Exit, r.Took.Seconds(), r.err())
	}
}

// ready has the server up and the jail clean again. Where it is not, that was an
// error already, or a jail that was broken before went back to being so.
func (f *hostileJail) ready(what string) {
	f.t.Helper()
	if len(lab.DiffTrees(f.clean, stateless(f.t, f.j.Dir))) > 0 {
		f.reset()
	}
	if f.j.MasterPID() == 0 {
		f.j.Start(f.t)
	}
}

// reset makes the jail anew, in its own directory, and forgets all runs.
func (f *hostileJail) reset() {
	f.t.Helper()
	f.j.Stop(f.t)
	require.NoError(f.t, os.RemoveAll(filepath.Join(f.h.dir, "state")))
	stages, err := filepath.Glob(filepath.Join(f.base, ".jailup-stage*"))
	require.NoError(f.t, err)
	inside, err := os.ReadDir(f.j.Dir)
	require.NoError(f.t, err)
	for _, e := range inside {
		stages = append(stages, filepath.Join(f.j.Dir, e.Name()))
	}
	for _, p := range stages {
		require.NoError(f.t, os.RemoveAll(p))
	}
	out, err := exec.Command("cp", "-a", f.pristine+"/.", f.j.Dir).CombinedOutput()
	require.NoError(f.t, err, string(out))
	f.j.Start(f.t)
	f.clean = stateless(f.t, f.j.Dir)
}

// hostilePaths are what jailup touches in a jail: what it resolves in a run, seen
// by strace, without the many of one kind.
func (f *hostileJail) paths() []string {
	all := []string{
		"usr", "usr/sbin", "usr/sbin/nginx", "usr/bin", "usr/lib", "lib", "lib64", "bin", "sbin",
		"etc", "etc/nginx", "etc/nginx/nginx.conf", "etc/nginx/mime.types", "etc/nginx/fastcgi_params", "etc/nginx/snippets",
		"etc/nginx/sites-available/default", "etc/nginx/nginx.conf.jailup-new",
		"etc/passwd", "etc/group", "etc/shadow", "etc/nsswitch.conf", "etc/hosts", "etc/resolv.conf", "etc/localtime",
		"etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d", "etc/ld.so.conf.d/x.conf", "etc/ld.so.preload",
		"usr/share", "usr/share/nginx", "usr/share/nginx/html/index.html", "usr/lib/nginx/modules",
		"var", "var/log", "var/log/nginx", "var/log/nginx/error.log", "var/log/nginx/access.log", "var/cache/nginx",
		"var/lib", "var/lib/nginx", "var/lib/dpkg", "var/lib/dpkg/status", "lib/apk/db/installed",
		"run", "run/nginx.pid", "srv", "srv/www", "srv/www/index.html", "srv/unknown", "root", "tmp", "dev", "dev/null", "dev/urandom",
		".jailup-stage",
	}
	for _, glob := range []string{"lib/*-linux-gnu", "lib/*-linux-gnu/libc.so.6", "lib/*-linux-gnu/libz.so.1", "lib*/ld-linux*", "usr/lib/*-linux-gnu/libssl.so.*"} {
		found, err := filepath.Glob(filepath.Join(f.j.Dir, glob))
		require.NoError(f.t, err)
		for _, p := range found {
			rel, err := filepath.Rel(f.j.Dir, p)
			require.NoError(f.t, err)
			all = append(all, rel)
		}
	}
	return all
}

// passed are paths that no run depends on: half of the kinds tell enough.
var passed = []string{
	"usr/bin", "bin", "sbin", "etc/shadow", "etc/hosts", "etc/localtime", "etc/ld.so.conf.d", "etc/ld.so.conf.d/x.conf", "root", "tmp",
	"srv", "srv/www", "srv/unknown", "dev/urandom", "var/cache/nginx", "lib/apk/db/installed", "usr/share", "usr/share/nginx", "usr/lib/nginx/modules",
}

type hostileCell struct{ path, kind string }

func (f *hostileJail) cells(kinds ...string) []hostileCell {
	var out []hostileCell
	for i, path := range f.paths() {
		for k, kind := range kinds {
			if (i+k)%2 == 0 || len(kinds) == 1 || !slices.Contains(passed, path) {
				out = append(out, hostileCell{path, kind})
			}
		}
	}
	return out
}

// Each path that jailup touches, replaced by each kind of thing: nothing hangs,
// nothing is opened that should not be, nothing outside is touched, the path is
// named, and the exit status is true to the disk.
func TestHostilePaths(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "hostile files")
	shards := shardsOf(4)
	for shard := range shards {
		t.Run(strconv.Itoa(shard), func(t *testing.T) {
			t.Parallel()
			if apart(t) {
				return
			}
			if shard == 0 {
				y.Cases(len(plantKinds))
			}
			f := newHostileJail(t, y)
			done := 0
			only := os.Getenv("JAILUP_TEST_ONLY") // "etc/passwd: fifo"
			cells := f.cells(plantKinds...)
			for n, c := range cells {
				if n%shards != shard || !lab.Sampled(t, n/shards) || !strings.Contains(c.path+": "+c.kind, only) {
					continue
				}
				f.cell(c.path, c.kind, n/shards)
				if done++; done%8 == 3 || only != "" {
					f.cellBack(c.path, c.kind)
				}
			}
			if shard == 0 {
				y.Of(len(cells) * 17 / 8)
			}
			t.Logf("an upgrade takes %s, the slowest run took %s; %d of %d cells", f.usual, f.worst, done, len(cells))
		})
	}
}

// The same with something of the host mounted in the place of each path.
func TestHostileMounts(t *testing.T) {
	t.Parallel()
	if lab.InPrivateMounts(t) {
		return
	}
	y := lab.NewTally(t, "hostile files")
	y.Cases(1)
	f := newHostileJail(t, y)
	cells := f.cells("mount")
	y.Of(2 * len(cells))
	for n, c := range cells {
		if lab.Sampled(t, n) && strings.Contains(c.path+": "+c.kind, os.Getenv("JAILUP_TEST_ONLY")) {
			f.cell(c.path, c.kind, n)
		}
	}
	t.Logf("an upgrade takes %s, the slowest run took %s; %d cells", f.usual, f.worst, len(cells))
}

// Each wall holds by itself: with the other one off, what lies outside is as it was.
func TestHostilePathsOneWall(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "two walls")
	for _, off := range []string{"JAILUP_FAULT_WALL=off", "JAILUP_FAULT_DESCRIPTORS=off"} {
		t.Run(off, func(t *testing.T) {
			t.Parallel()
			if apart(t) {
				return
			}
			f := newHostileJail(t, y)
			f.walls = []string{off}
			y.Cases(1)
			for n, c := range f.cells("link out", "link up and out", "chain of links", "hard link") {
				if n%4 != 1 {
					continue
				}
				y.Of(1)
				if lab.Sampled(t, n/4) {
					f.cellOutside(c.path, c.kind)
				}
			}
		})
	}
}

// saysPath tells whether a message names a path. The loader knows a library by its last
// name only (ld.so(8)).
func saysPath(message, path string) bool {
	return strings.Contains(message, "/"+path) ||
		strings.Contains(message, "error while loading shared libraries: "+filepath.Base(path)+":")
}

// cellOutside plants, upgrades and goes back, and looks at nothing but what lies
// outside.
func (f *hostileJail) cellOutside(path, kind string) {
	f.t.Helper()
	p := f.put(path, kind)
	if p == nil {
		return
	}
	what := fmt.Sprintf("%s, %s: %s", f.walls, path, kind)
	defer f.ready(what)
	defer p.away()
	out := f.outside(p)
	r, hung := f.run(f.upgradeArgs()...)
	if r.Exit == 0 {
		f.run("rollback", "--jail", f.j.Dir, "--soak", "0s")
	}
	if hung {
		f.y.Person("%s: no end within %s: %s", what, f.limit(), r)
	}
	if diff := lab.DiffTrees(out, f.outside(p)); len(diff) > 0 {
		f.y.Outside("%s: touched outside of the jail: %s", what, strings.Join(diff, "\n"))
	}
	f.y.Point("outside is as it was")
}
