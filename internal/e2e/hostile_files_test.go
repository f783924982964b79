//go:build faultpoints

package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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
	t      *testing.T
	y      *lab.Tally
	h      *host
	j      *lab.Jail
	base   string
	canary string
	aside  string
	clean  map[string]string // the tree before anything was planted
	usual  time.Duration     // of an upgrade, on this machine, now
	worst  time.Duration
	walls  []string // switches of the walls, in the environment
}

// plainDebs are copies of a folder of packages with nothing compressed in them,
// made once for all tests: unpacking is most of the time of an upgrade.
var plainDebs struct {
	sync.Mutex
	of map[string]string
}

func uncompressed(t testing.TB, debs string) string {
	t.Helper()
	plainDebs.Lock()
	defer plainDebs.Unlock()
	key := sum([]byte(debs))
	dir := filepath.Join(lab.Cache(t), "plain", hex.EncodeToString(key[:6]))
	if plainDebs.of[debs] != "" {
		return dir
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	all, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	require.NoError(t, err)
	for _, deb := range all {
		to := filepath.Join(dir, filepath.Base(deb))
		if exists(to) {
			continue
		}
		work, err := os.MkdirTemp(dir, "work-")
		require.NoError(t, err)
		for _, argv := range [][]string{
			{"dpkg-deb", "-R", deb, filepath.Join(work, "root")},
			{"dpkg-deb", "--root-owner-group", "-Znone", "-b", filepath.Join(work, "root"), filepath.Join(work, "deb")},
		} {
			out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
			require.NoError(t, err, string(out))
		}
		require.NoError(t, os.Rename(filepath.Join(work, "deb"), to))
		require.NoError(t, os.RemoveAll(work))
	}
	if plainDebs.of == nil {
		plainDebs.of = map[string]string{}
	}
	plainDebs.of[debs] = dir
	return dir
}

func newHostileJail(t *testing.T, y *lab.Tally, opts ...lab.JailOption) *hostileJail {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	pair := lab.NginxPair(t)
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
	out, err := exec.Command("cp", "-a", dir, f.canary).CombinedOutput()
	require.NoError(t, err, string(out))
	f.j.Start(t)
	f.h = newHost(t, uncompressed(t, pair.Old), uncompressed(t, pair.New))
	f.h.bin = program(t, true)
	f.h.env = append(f.h.env, "JAILUP_FAULT_LOOKS=20ms")
	// The first upgrade fills the cache.
	f.h.must(0, "upgraded", f.upgradeArgs()...)
	f.back()
	f.usual = f.h.must(0, "upgraded", f.upgradeArgs()...).Took
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

// limit is 5 s, and what this machine needs today for an upgrade, with room.
func (f *hostileJail) limit() time.Duration { return 5*time.Second + 4*f.usual }

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
		must(unix.Unmount(p.at, 0))
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
	if p.kind != "device" && p.kind != "fifo" {
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
		all[p.path] = fmt.Sprintf("ino=%d mode=%o owner=%d:%d mtime=%d content=%x", st.Ino, st.Mode, st.Uid, st.Gid, st.Mtim.Nano(), sum(data))
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
		if err := f.right(p, now); err != "" {
			f.y.Mixed("%s: upgraded, and not right: %s", what, err)
		}
		b, hung := f.run("rollback", "--jail", f.j.Dir, "--soak", "0s")
		if hung || b.Exit != 0 {
			f.y.Person("%s: the rollback ends with %d after %s: %s", what, b.Exit, b.Took, b)
		}
		if diff := lab.DiffTrees(was, stateless(t, f.j.Dir)); len(diff) > 0 {
			f.y.Mixed("%s: the rollback is not wholly old: %s", what, strings.Join(diff, "\n"))
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
		if !strings.Contains(r.err(), "/"+path) {
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
func (f *hostileJail) right(p *plant, now map[string]string) string { return "" }

// look calls one of the verbs that change nothing.
func (f *hostileJail) look(p *plant, what string, n int) {}

// ready has the server up and the jail clean again.
func (f *hostileJail) ready(what string) {
	f.t.Helper()
	if f.j.MasterPID() == 0 {
		f.j.Start(f.t)
	}
	if diff := lab.DiffTrees(f.clean, stateless(f.t, f.j.Dir)); len(diff) > 0 {
		f.t.Fatalf("%s: the jail is not clean afterwards: %s", what, strings.Join(diff, "\n"))
	}
}

func TestHostilePaths(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "hostile files")
	f := newHostileJail(t, y)
	t.Logf("an upgrade takes %s", f.usual)
	n := 0
	for _, path := range hostilePaths {
		for _, kind := range plantKinds {
			n++
			if os.Getenv("ONLY") != "" && !strings.Contains(path+": "+kind, os.Getenv("ONLY")) {
				continue
			}
			f.cell(path, kind, n)
		}
	}
}
