//go:build faultpoints

package e2e

import (
	"bufio"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/sys"
)

// raw are control bytes that a terminal would obey.
var raw = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f]|\x{9b}`)

// kept runs the program and holds it against what must be in any case: the canary
// is as it was, no raw control byte is printed.
func (f *hostileJail) kept(what string, args ...string) result {
	f.t.Helper()
	out := fingerprint(f.t, f.canary)
	r, hung := f.run(args...)
	if hung {
		f.y.Person("%s: no end within %s: %s", what, f.limit(), r)
	}
	if diff := lab.DiffTrees(out, fingerprint(f.t, f.canary)); len(diff) > 0 {
		f.y.Outside("%s: touched outside of the jail: %s", what, strings.Join(diff, "\n"))
	}
	for _, text := range []string{r.Stderr, r.err()} {
		if raw.MatchString(text) {
			f.t.Errorf("%s: raw control bytes: %q", what, text)
		}
	}
	f.y.Of(1)
	return r
}

// refused wants the run to be refused before anything was done, by that name.
func (f *hostileJail) refused(what, name string) result {
	f.t.Helper()
	was, master := stateless(f.t, f.j.Dir), f.j.MasterPID()
	r := f.kept(what, f.upgradeArgs()...)
	if r.Exit != 1 || f.j.MasterPID() != master {
		f.y.WrongExit("%s: exit status %d, server %d (was %d): %s", what, r.Exit, f.j.MasterPID(), master, r)
	}
	if diff := lab.DiffTrees(was, stateless(f.t, f.j.Dir)); len(diff) > 0 {
		f.y.Mixed("%s: the jail is another: %s", what, strings.Join(diff, "\n"))
	}
	require.Contains(f.t, r.err(), name, what)
	f.y.Point("refused")
	return r
}

// well wants the run to succeed, and the way back to bring back all.
func (f *hostileJail) well(what string) result {
	f.t.Helper()
	was := stateless(f.t, f.j.Dir)
	r := f.kept(what, f.upgradeArgs()...)
	if r.Exit != 0 {
		f.y.WrongExit("%s: exit status %d: %s", what, r.Exit, r)
		return r
	}
	b := f.kept(what+", rollback", "rollback", "--jail", f.j.Dir, "--soak", "0s")
	if diff := lab.DiffTrees(was, stateless(f.t, f.j.Dir)); b.Exit != 0 || len(diff) > 0 {
		f.y.Mixed("%s: the rollback ends with %d and is not wholly old: %s\n%s", what, b.Exit, strings.Join(diff, "\n"), b)
	}
	f.y.Point("new")
	f.y.Point("old")
	return r
}

func (f *hostileJail) write(name, text string, perm os.FileMode) {
	f.t.Helper()
	at := filepath.Join(f.j.Dir, name)
	require.NoError(f.t, os.MkdirAll(filepath.Dir(at), 0o755))
	require.NoError(f.t, os.WriteFile(at, []byte(text), 0o600))
	require.NoError(f.t, os.Chmod(at, perm))
}

func toldBy(r result) string {
	var all []string
	for _, e := range r.Events {
		if m, ok := e["message"].(string); ok {
			all = append(all, m)
		}
	}
	return strings.Join(all, "\n")
}

// What gives whoever is in the jail more than he should have is told.
func TestHostileFilesAreTold(t *testing.T) {
	t.Parallel()
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	f.y.Cases(5)
	f.write("srv/www/suid", "#!", fs.ModeSetuid|0o755)
	f.write("srv/www/sgid", "#!", fs.ModeSetgid|0o755)
	f.write("usr/bin/able", "#!", 0o755)
	// cap_setuid+ep in the second revision (capabilities(7)).
	caps := []byte{1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	require.NoError(t, unix.Setxattr(filepath.Join(f.j.Dir, "usr/bin/able"), "security.capability", caps, 0))
	require.NoError(t, unix.Mknod(filepath.Join(f.j.Dir, "srv/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 0))))
	f.write("etc/ld.so.preload", "/usr/lib/evil.so\n", 0o644)
	f.write("etc/passwd", "root:x:0:0::/:/bin/false\nwww-data:x:33:33::/:/bin/false\ntoor:x:0:0::/:/bin/false\n", 0o644)
	for _, args := range [][]string{{"check", "nginx"}, {"plan", "nginx"}} {
		r := f.kept(args[0], append(args, "--jail", f.j.Dir)...)
		f.y.Point("told")
		for _, want := range []string{"setid: ", "/srv/www/suid", "/srv/www/sgid", "file-capabilities: ", "/usr/bin/able", "device-node: ", "/srv/disk",
			"ld-so-preload: /etc/ld.so.preload", "root-user: ", "toor"} {
			require.Contains(t, toldBy(r), want, "%s: %s", args[0], r)
		}
	}
	f.well("set-id programs and all that")
}

// A passwd that lies about ids: nobody becomes root by an upgrade, and what
// cannot start is found before the stop.
func TestHostileFilesPasswd(t *testing.T) {
	t.Parallel()
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	const root = "root:x:0:0:root:/root:/bin/false\n"
	for what, c := range map[string]struct{ passwd, group string }{
		"user 0":          {root + "www-data:x:0:33::/:/bin/false\n", ""},
		"user 0 first":    {"www-data:x:0:0::/:/bin/false\n" + root + "www-data:x:33:33::/:/bin/false\n", ""},
		"negative":        {root + "www-data:x:-1:33::/:/bin/false\n", ""},
		"huge":            {root + "www-data:x:4294967295:33::/:/bin/false\n", ""},
		"beyond":          {root + "www-data:x:99999999999999999999:33::/:/bin/false\n", ""},
		"no number":       {root + "www-data:x:thirty:33::/:/bin/false\n", ""},
		"huge group":      {root + "www-data:x:33:4294967295::/:/bin/false\n", ""},
		"missing":         {root, ""},
		"group is absent": {"", "root:x:0:\n"},
	} {
		f.y.Cases(1)
		p, file := f.put("etc/passwd", "unreadable file"), "etc/passwd"
		text := c.passwd
		if text == "" {
			p.away()
			p, file, text = f.put("etc/group", "unreadable file"), "etc/group", c.group
		}
		f.write(file, text, 0o644)
		f.refused(what, "/"+file)
		p.away()
	}
	f.y.Cases(2)
	p := f.put("etc/passwd", "unreadable file")
	f.write("etc/passwd", root+"www-data:x:33:33::/:/bin/false\nwww-data:x:0:0::/:/bin/false\n", 0o644)
	f.well("the first of a name counts")
	p.away()
	f.ready("passwd")
}

// The log is what the jail makes of it: nothing of another file gets into the
// evidence, nothing of it is obeyed by the terminal, and it may be endless.
func TestHostileFilesLog(t *testing.T) {
	t.Parallel()
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	const secret = "root:$y$j9T$secret-of-the-host"
	require.NoError(t, os.WriteFile(filepath.Join(f.canary, "shadow"), []byte(secret+"\n"), 0o600))
	log := filepath.Join(f.j.Dir, "var/log/nginx/error.log")
	leaks := func(what string) {
		t.Helper()
		out, err := exec.Command("grep", "-rl", "secret-of-the-host", f.h.dir).CombinedOutput()
		if err == nil {
			f.y.Outside("%s: the host's secret is in %s", what, out)
		}
	}
	for what, to := range map[string]string{"link": f.canary + "/shadow", "link up": "../../../../canary/shadow"} {
		f.y.Cases(1)
		p := f.put("var/log/nginx/error.log", "unreadable file")
		require.NoError(t, os.Remove(log))
		require.NoError(t, os.Symlink(to, log))
		for _, args := range [][]string{{"check", "nginx", "--jail", f.j.Dir}, f.upgradeArgs()} {
			r := f.kept("log: "+what, args...)
			require.NotContains(t, r.String(), secret)
			if r.Exit == 0 && args[0] == "upgrade" {
				f.back()
			}
			f.y.Point("kept")
		}
		leaks(what)
		require.NoError(t, os.Remove(log))
		require.NoError(t, os.WriteFile(log, nil, 0o600))
		p.away()
	}
	f.y.Cases(1)
	p := f.put("var/log/nginx/error.log", "fifo")
	f.refused("log is a FIFO", "/var/log/nginx/error.log is a FIFO")
	p.away()

	f.y.Cases(2)
	old, err := os.ReadFile(log)
	require.NoError(t, err)
	file, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	defer file.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // as long as the run lasts it grows, with escapes, and no line ends
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				_, _ = file.WriteString("2026/01/01 00:00:00 [emerg] 1#1: \x1b]0;owned\x07\x1b[2J\r" + strings.Repeat("x", 4000))
			}
		}
	}()
	for _, args := range [][]string{f.upgradeArgs(), {"check", "nginx", "--jail", f.j.Dir}, {"status", "--jail", f.j.Dir}, {"history", "--jail", f.j.Dir}} {
		r := f.kept("endless log, "+args[0], args...)
		if strings.ContainsAny(strings.ReplaceAll(r.Stdout, "\n", ""), "\x1b\x07\r") {
			t.Errorf("%s: raw escapes: %q", args[0], r.Stdout)
		}
		f.y.Point("kept")
	}
	close(stop)
	<-stopped
	require.NoError(t, os.WriteFile(log, old, 0o600))
}

// With proc mounted in the jail, a link to it aims no write at the kernel.
func TestHostileFilesProc(t *testing.T) {
	t.Parallel()
	if lab.InPrivateMounts(t) {
		return
	}
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	proc := filepath.Join(f.j.Dir, "proc")
	require.NoError(t, os.Mkdir(proc, 0o555))
	require.NoError(t, unix.Mount("proc", proc, "proc", 0, ""))
	defer func() { require.NoError(t, unix.Unmount(proc, 0)) }()
	kernel := func() map[string]string {
		out := map[string]string{}
		for _, n := range []string{"core_pattern", "modprobe", "hostname", "hotplug", "randomize_va_space"} {
			b, _ := os.ReadFile(filepath.Join("/proc/sys/kernel", n))
			out[n] = string(b)
		}
		return out
	}
	was := kernel()
	if r := f.kept("proc is mounted", f.upgradeArgs()...); r.Exit != 0 {
		f.y.WrongExit("proc is mounted: %s", r)
	} else {
		f.back()
	}
	for _, path := range []string{"etc", "etc/nginx", "usr/lib", "var/log/nginx", "usr/sbin", "run"} {
		f.y.Cases(1)
		p := f.put(path, "dangling link")
		require.NoError(t, os.Remove(p.at))
		require.NoError(t, os.Symlink("/proc/sys/kernel", p.at))
		r := f.kept(path+" -> /proc/sys/kernel", f.upgradeArgs()...)
		if r.Exit == 0 {
			f.back()
		}
		f.y.Point("kept")
		p.away()
		require.Equal(t, was, kernel(), path)
	}
}

// Names that are no text, and a tree that is deeper than a path may be long.
func TestHostileFilesNames(t *testing.T) {
	t.Parallel()
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	for _, dir := range []string{"etc/nginx", "usr/sbin", "srv/www", "usr/lib"} {
		for _, name := range []string{"a\nb", "\xff\xfe", "-rf", "--help", strings.Repeat("n", 255), "\x1b]0;owned\x07", " ", "$(reboot)", "*"} {
			f.write(filepath.Join(dir, name), "mine", 0o644)
			f.write(filepath.Join(dir, name+".d")[:min(len(dir)+1+250, len(dir)+3+len(name))], "mine", 0o755)
		}
	}
	f.y.Cases(9)
	f.well("odd names")
	f.kept("odd names, plan", "plan", "nginx", "--jail", f.j.Dir)
	f.kept("odd names, check", "check", "nginx", "--jail", f.j.Dir)
}

// A tree that is far deeper than a path may be long, or descriptors be open.
func TestHostileFilesDeep(t *testing.T) {
	t.Parallel()
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	deep := filepath.Join(f.j.Dir, "srv/deep")
	require.NoError(t, os.Mkdir(deep, 0o755))
	fd, err := unix.Open(deep, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	for range 10_000 {
		require.NoError(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	f.y.Cases(1)
	if r := f.kept("10,000 levels", f.upgradeArgs()...); r.Exit != 0 {
		f.y.WrongExit("10,000 levels: %s", r)
	} else {
		f.back()
	}
	f.y.Point("new")
	for _, args := range [][]string{{"plan", "nginx"}, {"check", "nginx"}, {"snapshot", "create"}, {"status"}} {
		if r := f.kept("10,000 levels, "+args[0], append(args, "--jail", f.j.Dir)...); r.Exit != 0 {
			t.Errorf("10,000 levels, %s: %s", args[0], r)
		}
		f.y.Point("kept")
	}
	for _, at := range []string{f.j.Dir + "/srv", f.h.dir} { // and the snapshots, deep as they are
		d, err := sys.OpenDir(at)
		require.NoError(t, err)
		name := "deep"
		if at == f.h.dir {
			name = "state"
		}
		require.NoError(t, sys.RemoveTree(int(d.Fd()), name))
		d.Close()
	}
}

// What somebody mounts in the stage or in a snapshot is not emptied when these go.
func TestHostileFilesMountedInStage(t *testing.T) {
	t.Parallel()
	if lab.InPrivateMounts(t) {
		return
	}
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	f.h.must(0, "upgraded", f.upgradeArgs()...)
	for _, glob := range []string{f.base + "/.jailup-stage*/*", f.h.dir + "/state/snapshots/*/tree/srv"} {
		found, err := filepath.Glob(glob)
		require.NoError(t, err)
		require.NotEmpty(t, found, glob)
		for _, d := range found {
			d = filepath.Join(d, "host")
			require.NoError(t, os.Mkdir(d, 0o755))
			require.NoError(t, unix.Mount(f.canary, d, "", unix.MS_BIND, ""))
		}
	}
	f.y.Cases(2)
	for _, args := range [][]string{
		{"rollback", "--jail", f.j.Dir, "--soak", "0s"}, f.upgradeArgs(), {"rollback", "--jail", f.j.Dir, "--soak", "0s"}, f.upgradeArgs(),
		{"snapshot", "prune", "--jail", f.j.Dir, "--keep", "1"},
	} {
		r := f.kept("a mount in stage and snapshot, "+args[0], args...)
		t.Logf("%s: exit %d: %s", args[0], r.Exit, r.err())
		if r.Exit != 0 && r.Exit != 1 {
			f.y.WrongExit("%s: %s", args[0], r)
		}
		f.y.Point("kept")
	}
	// Their names have moved along with what was to be removed.
	table, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[4]; strings.HasSuffix(at, "/host") && (strings.HasPrefix(at, f.base+"/") || strings.HasPrefix(at, f.h.dir+"/")) {
			require.NoError(t, unix.Unmount(at, 0))
		}
	}
}

// Places that are no place for a jail.
func TestHostileFilesPlaces(t *testing.T) {
	t.Parallel()
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	master := f.j.MasterPID()
	refuse := func(what, dir, why string) {
		t.Helper()
		f.y.Cases(1)
		for _, verb := range [][]string{{"upgrade", "nginx"}, {"plan", "nginx"}, {"rollback"}, {"recover"}, {"check", "nginx"}, {"snapshot", "create"}} {
			r := f.kept(what, append(verb, "--jail", dir)...)
			if r.Exit == 0 {
				f.y.WrongExit("%s: %s: %s", what, verb[0], r)
			}
			require.Contains(t, r.err()+r.Stderr, why, "%s: %s: %s", what, verb[0], r)
			f.y.Point("refused")
		}
	}
	for _, dir := range []string{"/", "/usr", "/etc", "/usr/../etc", "/proc/1/root", "//", "/sys/kernel", "/dev"} {
		refuse(dir, dir, "cannot use")
	}
	loop := filepath.Join(f.base, "to-root")
	require.NoError(t, os.Symlink("/", loop))
	refuse("a link to /", loop, "cannot use")
	require.NoError(t, os.Chmod(f.base, 0o777))
	refuse("a parent that all may write", f.j.Dir, "others may write")
	require.NoError(t, os.Chmod(f.base, 0o775))
	require.NoError(t, os.Chown(f.base, 0, 33))
	refuse("a parent that a group may write", f.j.Dir, "others may write")
	require.NoError(t, os.Chown(f.base, 33, 0))
	require.NoError(t, os.Chmod(f.base, 0o755))
	refuse("a parent of another user", f.j.Dir, "belongs to user 33")
	require.NoError(t, os.Chown(f.base, 0, 0))
	require.Equal(t, master, f.j.MasterPID())

	// These are all well, and one jail.
	link := filepath.Join(f.base, "link")
	require.NoError(t, os.Symlink("chroot", link))
	f.y.Cases(4)
	wd, err := os.Getwd()
	require.NoError(t, err)
	relative, err := filepath.Rel(wd, f.j.Dir)
	require.NoError(t, err)
	for what, dir := range map[string]string{"a link to a jail": link, "with ..": f.base + "/canary/../chroot", "relative": relative, "with //": f.base + "//chroot/"} {
		r := f.kept(what, "upgrade", "nginx", "--jail", dir, "--soak", "0s")
		if r.Exit != 0 {
			f.y.WrongExit("%s: %s", what, r)
		}
		f.back()
		f.y.Point("new")
	}
	// The jail itself may belong to somebody: what is in it is looked at in any case.
	require.NoError(t, os.Chown(f.j.Dir, 33, 33))
	f.clean = stateless(t, f.j.Dir)
	f.well("a jail of another user")
	require.NoError(t, os.Chown(f.j.Dir, 0, 0))

	// A jail within a jail: the parent may be written by the outer jail's users.
	inner := filepath.Join(f.j.Dir, "srv/inner")
	out, err := exec.Command("cp", "-a", f.pristine, inner).CombinedOutput()
	require.NoError(t, err, string(out))
	r := f.kept("a jail within a jail", "plan", "nginx", "--jail", inner)
	require.Contains(t, []int{0, 1}, r.Exit, "%s", r)
	require.NoError(t, os.Chown(filepath.Join(f.j.Dir, "srv"), 33, 33))
	refuse("a jail within a jail, whose users own its parent", inner, "belongs to user 33")
	require.Equal(t, master != 0, f.j.MasterPID() != 0)
}

// A jail from which nothing may be executed is refused before the stop, and one on
// a mount of its own keeps its stage within.
func TestHostileFilesNoexec(t *testing.T) {
	t.Parallel()
	if lab.InPrivateMounts(t) {
		return
	}
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	require.NoError(t, unix.Mount(f.j.Dir, f.j.Dir, "", unix.MS_BIND, ""))
	defer func() { require.NoError(t, unix.Unmount(f.j.Dir, unix.MNT_DETACH)) }()
	require.NoError(t, unix.Mount("", f.j.Dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOEXEC, ""))
	f.y.Cases(1)
	was, master := stateless(t, f.j.Dir), f.j.MasterPID()
	r := f.kept("noexec", f.upgradeArgs()...)
	t.Logf("exit %d: %s", r.Exit, r.err())
	if r.Exit != 1 || f.j.MasterPID() != master {
		f.y.WrongExit("noexec: exit status %d, server %d (was %d): %s", r.Exit, f.j.MasterPID(), master, r)
	}
	require.Empty(t, lab.DiffTrees(was, stateless(t, f.j.Dir)))
	f.y.Point("refused")
}

// An administrator, or somebody else, edits what is about to be replaced after the
// changes were computed: nothing is stopped, his edit stays.
func TestHostileFilesEditedMeanwhile(t *testing.T) {
	t.Parallel()
	f := newHostileJail(t, lab.NewTally(t, "hostile files"))
	for _, glob := range []string{"lib/*-linux-gnu/libc.so.6", "usr/sbin/nginx"} {
		found, err := filepath.Glob(filepath.Join(f.j.Dir, glob))
		require.NoError(t, err)
		require.Len(t, found, 1)
		at := found[0]
		rel, err := filepath.Rel(f.j.Dir, at)
		require.NoError(t, err)
		f.y.Cases(1)
		f.y.Of(1)
		master := f.j.MasterPID()
		cmd := f.h.command(f.upgradeArgs()...)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var was map[string]string
		var said strings.Builder
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
			if was == nil && strings.Contains(lines.Text(), `"kind":"step.start","step":"rehearse"`) {
				require.NoError(t, cmd.Process.Signal(unix.SIGSTOP))
				// Another file in its place: what runs keeps the one that it has.
				data, err := os.ReadFile(at)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(at+".edit", append(data, "edited"...), 0o755))
				require.NoError(t, os.Rename(at, filepath.Join(f.aside, "edited")))
				require.NoError(t, os.Rename(at+".edit", at))
				was = stateless(t, f.j.Dir)
				require.NoError(t, cmd.Process.Signal(unix.SIGCONT))
			}
		}
		_ = cmd.Wait()
		require.NotNil(t, was, "the step was not seen: %s", said.String())
		if exit := cmd.ProcessState.ExitCode(); exit != 7 || !strings.Contains(said.String(), "/"+rel) {
			f.y.WrongExit("%s was edited: exit status %d: %s", rel, exit, said.String())
		}
		if pid := f.j.MasterPID(); pid != master && rel != "usr/sbin/nginx" {
			f.y.WrongExit("%s was edited, and the server is another: %d, not %d", rel, pid, master)
		}
		if diff := lab.DiffTrees(was, stateless(t, f.j.Dir)); len(diff) > 0 {
			f.y.Mixed("%s was edited, and the jail is another: %s", rel, strings.Join(diff, "\n"))
		}
		f.y.Point("refused")
		require.NoError(t, os.Rename(filepath.Join(f.aside, "edited"), at))
		f.reset()
	}
}
