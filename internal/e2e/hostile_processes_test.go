//go:build faultpoints

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

const hostileProcesses = "hostile processes"

// liar puts a program in the place of one that is asked (for its version, for a
// test, for its modules). What it does is in the file /etc/mode of the jail; with
// none, and where it is to serve, it is the real one.
func liar(t testing.TB, program string) {
	t.Helper()
	real := program + ".real"
	text, err := os.ReadFile(program)
	require.NoError(t, err)
	lab.WriteProgram(t, real, text)
	fresh := program
	program += ".liar"
	defer func() { require.NoError(t, os.Rename(program, fresh)) }()
	jailSide := real[strings.Index(real, "/usr/"):]
	buildC(t, program, `
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void spoil(const char *file) {
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	if (fd >= 0) { write(fd, "spoilt\n", 7); close(fd); printf("WROTE %s\n", file); }
}

static void escape(void) {
	char canary[256] = "", path[512];
	FILE *f = fopen("/etc/canary", "r");
	if (f) { if (!fgets(canary, sizeof canary, f)) return; fclose(f); }
	canary[strcspn(canary, "\n")] = 0;
	int top = open("/", O_RDONLY);
	mkdir("/etc/x", 0755);
	if (chroot("/etc/x") == 0) puts("CHROOT");
	fchdir(top);
	for (int i = 0; i < 100; i++) chdir("..");
	if (chroot(".") == 0) puts("CHROOT");
	spoil(canary + 1);
	spoil(canary);
	for (int pid = 1; pid < 300; pid++) {
		snprintf(path, sizeof path, "/proc/%d/root%s", pid, canary);
		spoil(path);
		if (pid != getpid() && ptrace(PTRACE_ATTACH, pid, 0, 0) == 0) puts("TRACES");
	}
	ptrace(PTRACE_ATTACH, getppid(), 0, 0);
	for (int fd = 3; fd < 1024; fd++) {
		snprintf(path, sizeof path, "/proc/self/fd/%d%s", fd, canary);
		spoil(path);
		int in = openat(fd, canary + 1, O_WRONLY | O_TRUNC);
		if (in >= 0) puts("DESCRIPTOR");
		if (fchdir(fd) == 0) { for (int i = 0; i < 100; i++) chdir(".."); spoil(canary + 1); }
	}
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) puts("NAMESPACE");
	if (mount("proc", "/etc/x", "proc", 0, "") == 0) puts("MOUNT");
	if (mknod("/etc/sda", S_IFBLK | 0666, makedev(254, 0)) == 0) puts("DEVICE");
	spoil("/proc/sys/kernel/core_pattern");
	spoil("/proc/sysrq-trigger");
	spoil("/sys/kernel/uevent_helper");
	char *names[] = {"/run/systemd/private", "/run/dbus/system_bus_socket", "/var/run/docker.sock"};
	for (int i = 0; i < 3; i++) {
		struct sockaddr_un a = {AF_UNIX};
		strcpy(a.sun_path, names[i]);
		int s = socket(AF_UNIX, SOCK_STREAM, 0);
		if (connect(s, (void *)&a, sizeof a) == 0) puts("SOCKET");
		close(s);
	}
	// Everything that it may: inside there is nobody but itself.
	setpgid(0, 0);
	kill(getppid(), SIGTERM);
	kill(1, SIGKILL);
	kill(1, SIGQUIT);
	kill(-1, SIGTERM);
}

static const char nasty[] =
	"nginx version: nginx/9.9.9\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b" "5m\x90q\x9c \xe2\x80\xae\xff\xfe evil\r\x08\x08\n"
	"PHP 9.9\x1b[1;1H\x07 (cli)\n[PHP Modules]\nCore\x1b[2J\n\x1bP+q\n"
	"nginx: [emerg] \x1b]52;c;ZWNobyBvd25lZA==\x07hint: rm -rf / \x1b[8m in /etc/nginx/nginx.conf:1\n";

int main(int argc, char **argv) {
	int asked = 0;
	for (int i = 1; i < argc; i++)
		asked |= argv[i][0] == '-' && strchr("tTvVim", argv[i][1]) && !argv[i][2];
	char mode[64] = "";
	FILE *f = fopen("/etc/mode", "r");
	if (f) { if (!fgets(mode, sizeof mode, f)) mode[0] = 0; fclose(f); }
	mode[strcspn(mode, "\n")] = 0;
	if (!asked || !mode[0]) {
		execv("`+jailSide+`", argv);
		return 127;
	}
	setvbuf(stdout, 0, _IONBF, 0);
	for (int s = 1; s < 32; s++) signal(s, SIG_IGN);
	if (!strcmp(mode, "hang")) for (;;) pause();
	if (!strcmp(mode, "stops")) { kill(getpid(), SIGSTOP); return 0; }
	if (!strcmp(mode, "bomb")) for (;;) fork();
	if (!strcmp(mode, "racer")) { if (fork()) for (;;) pause(); for (;;) if (fork() > 0) _exit(0); }
	if (!strcmp(mode, "flood")) for (;;) write(1, nasty, sizeof nasty - 1);
	if (!strcmp(mode, "line")) { // one, that never ends
		static char a[65536];
		memset(a, 'A', sizeof a);
		for (int i = 0; i < 32; i++) write(2, a, sizeof a);
		return 1;
	}
	if (!strcmp(mode, "zeros")) {
		static char z[100000];
		write(1, z, sizeof z);
		return 1;
	}
	if (!strcmp(mode, "escapes")) { write(1, nasty, sizeof nasty - 1); write(2, nasty, sizeof nasty - 1); return 1; }
	if (!strcmp(mode, "daemon")) {
		if (!fork()) { setsid(); if (fork()) _exit(0); for (;;) pause(); }
		usleep(20000);
		return 1;
	}
	if (!strcmp(mode, "memory")) for (;;) {
		char *p = malloc(1 << 24);
		if (!p) abort();
		memset(p, 1, 1 << 24);
	}
	if (!strcmp(mode, "disk")) {
		static char a[1 << 20];
		int fd = open("/etc/fill", O_WRONLY | O_CREAT, 0600);
		while (write(fd, a, sizeof a) > 0) ;
		return 1;
	}
	if (!strcmp(mode, "signal")) { signal(SIGSEGV, SIG_DFL); raise(SIGSEGV); }
	if (!strcmp(mode, "escape")) { escape(); return 1; }
	if (!strcmp(mode, "silent")) return 1;
	return 255;
}`, "-static")
}

var liarModes = []string{
	"escapes", "bomb", "flood", "escape", "daemon", "racer", "memory", "disk", "line", "zeros", "signal", "silent", "hang",
}

// clean wants no byte in what a person sees that a terminal would act on.
func clean(t testing.TB, what string, texts ...string) {
	t.Helper()
	for _, s := range texts {
		require.True(t, utf8.ValidString(s), what)
		for _, r := range s {
			if r != '\n' && (r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0x202e) {
				t.Errorf("%s: control character %U in %q", what, r, s)
				break
			}
		}
		for _, esc := range []string{`\u001b`, `\u0007`, `\u0008`, `\u202e`, `\u0090`} {
			require.NotContains(t, s, esc, what)
		}
		require.Less(t, len(s), 1<<20, what)
	}
}

// nobodyOf wants no process to run that program of the jail.
func nobodyOf(t testing.TB, what string, programs ...string) {
	t.Helper()
	lab.Eventually(t, 10*time.Second, what+": nothing runs on", func() bool {
		for _, p := range programs {
			var st unix.Stat_t
			if unix.Stat(p, &st) != nil {
				continue
			}
			links, err := filepath.Glob("/proc/[0-9]*/exe")
			require.NoError(t, err)
			for _, l := range links {
				var exe unix.Stat_t
				if unix.Stat(l, &exe) == nil && exe.Ino == st.Ino && exe.Size == st.Size && exe.Mtim == st.Mtim {
					return false
				}
			}
		}
		return true
	})
}

// boxLeft wants no cgroup of a box of that process to be left.
func boxLeft(t testing.TB, what string) {
	t.Helper()
	for _, g := range []string{"/sys/fs/cgroup/*/jailup-box-*", "/sys/fs/cgroup/*/*/*/jailup-box-*", "/sys/fs/cgroup/jailup-box-*"} {
		dirs, err := filepath.Glob(g)
		require.NoError(t, err)
		for _, d := range dirs {
			owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(d), "jailup-box-"), "-")
			pid, err := strconv.Atoi(owner)
			require.NoError(t, err)
			// A test beside this one may have a pid namespace of its own, and a box now.
			if unix.Kill(pid, 0) != nil && !lab.Within(5*time.Second, func() bool { return !exists(d) }) {
				t.Errorf("%s: %s is left", what, d)
			}
		}
	}
}

func kernelFiles(t testing.TB) string {
	t.Helper()
	var out bytes.Buffer
	for _, f := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/shmall",
		"/proc/sys/net/ipv4/ip_nonlocal_bind"} {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		out.Write(b)
	}
	return out.String()
}

// The new version's program lies, hangs, forks, floods, or tries to get out when
// its configuration test is run: the upgrade ends before anything is stopped.
func TestHostileProcessesCandidate(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb", "gcc")
	y := lab.NewTally(t, hostileProcesses)
	j, pair, h := createdJail(t)
	bad := lab.ReplaceDebs(t, pair.New, lab.Repack(t, lab.FindDeb(t, pair.New, "nginx"), func(dir string, _ *lab.Control) {
		liar(t, filepath.Join(dir, "usr/sbin/nginx"))
	}))
	h.debs = newHost(t, bad, pair.Old).debs
	l := newLies(t, y, j, h)
	y.Cases(len(liarModes))
	y.Of(len(liarModes))
	for i, m := range liarModes {
		// What hangs takes the whole time limit: not in a sample.
		if lab.Sampling() && m == "hang" || !lab.Sampled(t, i) && m != "escape" {
			continue
		}
		r := l.told(m, 1, "upgrade", "nginx", "--soak", "0s")
		require.Equal(t, "failed", r.result())
		require.Contains(t, r.err(), "nginx")
		require.NotEmpty(t, r.Done["hint"], m)
		noStage(t, j.Dir)
	}
	nobodyOf(t, "candidate", filepath.Join(lab.Unpacked(t, bad), "usr/sbin/nginx"))
	l.intact()
	// Without its lies it is installed. But it goes on as another program in the
	// background, which nobody knows for the server: it goes back, and what it left
	// does not keep the port.
	require.NoError(t, os.Remove(filepath.Join(j.Dir, "etc/mode")))
	before := stateless(t, j.Dir)
	r := h.must(3, "rolled-back", "upgrade", "nginx", "--jail", j.Dir, "--soak", "0s")
	require.Contains(t, r.err(), "background")
	if d := lab.DiffTrees(before, stateless(t, j.Dir)); len(d) > 0 {
		y.Mixed("%v", d)
	}
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
	y.Point("old")
}

// A program in the jail lies, which somebody put there while the server runs:
// each verb that asks it ends, cleanly, and touches nothing. An upgrade takes the
// good one of the package.
func TestHostileProcessesInJail(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb", "gcc")
	y := lab.NewTally(t, hostileProcesses)
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	liar(t, filepath.Join(j.Dir, "usr/sbin/nginx"))
	verbs := map[string][]string{
		"restart": {"escapes", "bomb", "flood", "escape", "daemon", "racer", "disk", "line", "zeros", "signal", "silent", "hang"},
		"plan":    {"escapes", "bomb", "flood", "escape", "zeros"},
	}
	l := newLies(t, y, j, h)
	y.Cases(2)
	i := 0
	for verb, modes := range verbs {
		y.Of(len(modes))
		for _, m := range modes {
			if i++; lab.Sampled(t, i) && !(lab.Sampling() && m == "hang") {
				l.told(m, 1, verb, "nginx")
			}
		}
	}
	l.mode("bomb")
	pid := j.MasterPID()
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--adopt", "--soak", "0s")
	require.NotEqual(t, pid, j.MasterPID())
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
	y.Point("new")
	l.intact()
}

// The PHP of a jail is asked for its modules by check and upgrade, and lies.
func TestHostileProcessesPHP(t *testing.T) {
	t.Parallel()
	phpSlot(t)
	lab.Need(t, "gcc")
	y := lab.NewTally(t, hostileProcesses)
	s, _ := handStack(t)
	found, err := filepath.Glob(filepath.Join(s.Dir, "usr/sbin/php-fpm*"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	liar(t, found[0])
	l := newLies(t, y, s.Jail, s.h)
	modes := []string{"escapes", "bomb", "flood", "escape", "zeros", "silent"}
	y.Cases(1)
	y.Of(len(modes))
	for i, m := range modes {
		if lab.Sampled(t, i) {
			l.told(m, 5, "check", s.server)
		}
	}
	l.intact()
}

// lies is a running jail in which a program lies.
type lies struct {
	t      *testing.T
	y      *lab.Tally
	j      *lab.Jail
	h      *host
	intact func()
	pid    int
	kernel string
}

func newLies(t *testing.T, y *lab.Tally, j *lab.Jail, h *host) *lies {
	t.Helper()
	dir, intact := canary(t)
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/canary"), []byte(filepath.Join(dir, "precious")), 0o644))
	return &lies{t: t, y: y, j: j, h: h, intact: intact, pid: j.MasterPID(), kernel: kernelFiles(t)}
}

func (l *lies) mode(m string) {
	l.t.Helper()
	require.NoError(l.t, os.WriteFile(filepath.Join(l.j.Dir, "etc/mode"), []byte(m+"\n"), 0o644))
}

// told runs a verb over a lie: it ends in time, with the exit status given, with
// clean words, and has touched nothing.
func (l *lies) told(mode string, exit int, args ...string) result {
	t := l.t
	t.Helper()
	what := args[0] + ": " + mode
	l.mode(mode)
	before := stateless(t, l.j.Dir)
	r := l.h.run(append(args, "--jail", l.j.Dir)...)
	t.Logf("%s: %d after %s: %s", what, r.Exit, r.Took.Round(time.Millisecond), r.err())
	if r.Exit != exit || r.Done["exit"] != float64(exit) {
		l.y.WrongExit("%s: %s", what, r)
	}
	within := 30 * time.Second
	if mode == "hang" || mode == "stops" || mode == "memory" {
		within = 75 * time.Second // the time limit of the sandbox is 30 s, and there are two
	}
	require.Less(t, r.Took, within, what)
	require.LessOrEqual(t, strings.Count(r.err(), "\n"), 2, what)
	clean(t, what, r.Stdout, r.Stderr, r.err())
	if d := lab.DiffTrees(before, stateless(t, l.j.Dir)); len(d) > 0 {
		l.y.Mixed("%s: %v", what, d)
	}
	require.Equal(t, l.pid, l.j.MasterPID(), what)
	status, _ := l.j.Get(t, "/")
	require.Equal(t, 200, status)
	if k := kernelFiles(t); k != l.kernel {
		l.y.Outside("%s: %s", what, k)
	}
	for _, word := range []string{"WROTE", "CHROOT", "TRACES", "DESCRIPTOR", "NAMESPACE", "MOUNT", "DEVICE", "SOCKET"} {
		require.NotContains(t, r.Stdout, word, what)
	}
	boxLeft(t, what)
	l.y.Point("refused")
	return r
}

// What the started server gets is what the old one had: not the limits, the
// priority, the signals, the descriptors, the umask, the environment or the
// terminal of whoever runs the upgrade.
func TestHostileProcessesInherit(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb", "env", "setpriv")
	y := lab.NewTally(t, hostileProcesses)
	y.Cases(1)
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	pid := j.MasterPID()
	// The old one's own: what an administrator gave it.
	for r, lim := range map[int]unix.Rlimit{unix.RLIMIT_NOFILE: {Cur: 777, Max: 7777}, unix.RLIMIT_CORE: {Cur: 1 << 20, Max: 1 << 21}, unix.RLIMIT_STACK: {Cur: 4 << 20, Max: 64 << 20}} {
		require.NoError(t, unix.Prlimit(pid, r, &lim, nil))
	}
	require.NoError(t, unix.Setpriority(unix.PRIO_PROCESS, pid, 3))
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("250"), 0))
	was := given(t, pid)
	secret, err := os.Open(h.dir)
	require.NoError(t, err)
	defer secret.Close()
	locked, err := os.Create(filepath.Join(h.dir, "cron.lock"))
	require.NoError(t, err)
	defer locked.Close()
	require.NoError(t, unix.Flock(int(locked.Fd()), unix.LOCK_EX))
	for _, verb := range [][]string{{"upgrade", "nginx", "--soak", "0s"}, {"restart", "nginx"}, {"rollback", "--soak", "0s"}} {
		cmd := h.command(append(verb, "--jail", j.Dir)...)
		cmd.Args = append([]string{"setpriv", "--inh-caps=+net_admin,+sys_admin,+sys_ptrace", "env", "--block-signal=TERM,QUIT,USR2,WINCH,CHLD", "--ignore-signal=USR1,HUP,INT,PIPE",
			"sh", "-c", `umask 077; ulimit -Sc 0; ulimit -Sn 99; ulimit -Ss 1024; ulimit -St 900; ulimit -Sf 4000000; echo 500 > /proc/self/oom_score_adj; exec nice -n 11 "$@"`, "sh", h.bin}, cmd.Args[1:]...)
		cmd.Path, err = exec.LookPath("setpriv")
		require.NoError(t, err)
		cmd.ExtraFiles = []*os.File{secret, locked}
		cmd.Env = append(cmd.Env, "SECRET=1", "NOTIFY_SOCKET=/tmp/x", "LISTEN_FDS=1", "MALLOC_CHECK_=3", "TZ=Mars/Olympus")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		now := j.MasterPID()
		require.NotEqual(t, pid, now)
		require.Equal(t, was, given(t, now), verb[0])
		requireNothingOf(t, h, now)
		y.Point("new")
		pid = now
	}
}

// given is what a process has from whoever started it.
func given(t testing.TB, pid int) map[string]string {
	t.Helper()
	out := map[string]string{}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "SigIgn", "SigBlk", "CapInh", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask", "Groups", "Uid", "Gid":
			out[name] = strings.TrimSpace(value)
		}
	}
	for _, f := range []string{"limits", "oom_score_adj"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, f))
		require.NoError(t, err)
		out[f] = string(text)
	}
	text, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	out["nice"], out["tty"], out["policy"] = f[19-3], f[7-3], f[41-3]
	for _, ns := range []string{"mnt", "pid", "net", "user", "uts", "ipc", "cgroup"} {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		require.NoError(t, err)
		out["ns "+ns] = to
	}
	return out
}

// requireNothingOf wants a server to hold nothing of the program that started it.
func requireNothingOf(t testing.TB, h *host, pid int) {
	t.Helper()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	require.NoError(t, err)
	for _, word := range []string{"SECRET", "NOTIFY_SOCKET", "LISTEN_FDS", "MALLOC", "TZ=", "JAILUP"} {
		require.NotContains(t, string(env), word)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	for _, fd := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		require.NoError(t, err)
		require.NotContains(t, to, h.dir)
		require.NotContains(t, to, "jailup-stage")
		require.False(t, strings.HasPrefix(to, "pipe:"), "%s is %s", fd.Name(), to)
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	require.NoError(t, err)
	require.NotContains(t, cwd, h.dir)
}

// Another program answers on the port beside the new server (SO_REUSEPORT): that
// the port answers is no proof that the server is well.
func TestHostileProcessesSquatter(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	y := lab.NewTally(t, hostileProcesses)
	y.Cases(1)
	port := lab.FreePort(t)
	j, pair := oldJail(t, lab.Port(port), lab.WithConf(fmt.Sprintf(`user www-data; pid /run/nginx.pid; worker_processes 1; events {}
http { access_log off; server { listen 127.0.0.1:%d reuseport; root /srv/www; } }`, port)))
	h := newHost(t, pair.New, pair.Old)
	before := stateless(t, j.Dir)
	stop, done := make(chan struct{}), make(chan bool)
	go func() { // as soon as the port is free it is shared, for some seconds
		for {
			select {
			case <-stop:
				done <- false
				return
			default:
			}
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
			if err != nil {
				continue
			}
			l.Close()
			lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
				return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
			}}
			l, err = lc.Listen(context.Background(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
			if err != nil {
				continue
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, lab.Page) })}
			go func() { _ = srv.Serve(l) }()
			<-stop
			_ = srv.Close()
			done <- true
			return
		}
	}()
	type ended struct{ r result }
	res := make(chan ended, 1)
	go func() {
		res <- ended{h.run("upgrade", "nginx", "--jail", j.Dir, "--soak", "1s", "--start-timeout", "5s")}
	}()
	r := (<-res).r
	close(stop)
	squatted := <-done
	t.Logf("squatted %v; exit %d: %s", squatted, r.Exit, r.err())
	if squatted && (r.Exit == 0 || !strings.Contains(r.err(), strconv.Itoa(port))) {
		y.WrongExit("another process answers on the port: %s", r)
	}
	if r.Exit == 4 {
		// It was there for the old one as well: with it gone nobody has to mend a thing.
		h.must(0, "recovered", "recover", "--jail", j.Dir)
	}
	if squatted {
		if d := lab.DiffTrees(before, stateless(t, j.Dir)); len(d) > 0 {
			y.Mixed("%v", d)
		}
	}
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
	y.Point("old")
}

// Other programs of the same jail, and a second nginx with another configuration,
// live through all of it.
func TestHostileProcessesBystanders(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb", "gcc")
	y := lab.NewTally(t, hostileProcesses)
	y.Cases(1)
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "usr/bin"), 0o755))
	for _, name := range []string{"php-cli", "sshd", "nginx"} { // the last one by its name only
		buildC(t, filepath.Join(j.Dir, "usr/bin", name), `
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int argc, char **argv) {
	if (argc > 1) prctl(PR_SET_NAME, argv[1]);
	for (;;) pause();
}`, "-static")
	}
	var pids []int
	start := func(wait bool, argv ...string) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", []string{}, &syscall.SysProcAttr{Chroot: j.Dir, Setsid: true}
		require.NoError(t, cmd.Start())
		if wait {
			require.NoError(t, cmd.Wait())
			return
		}
		pids = append(pids, cmd.Process.Pid)
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	start(false, "/usr/bin/php-cli")
	start(false, "/usr/bin/sshd", "nginx: worker")
	start(false, "/usr/bin/nginx", "nginx")
	port := lab.FreePort(t)
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx/second.conf"), []byte(fmt.Sprintf(
		`user www-data; pid /run/second.pid; error_log /var/log/nginx/second.log; events {} http { access_log off; server { listen 127.0.0.1:%d; root /srv/www; } }`, port)), 0o644))
	start(true, "/usr/sbin/nginx", "-c", "/etc/nginx/second.conf")
	var second int
	lab.Eventually(t, 20*time.Second, "the second nginx is up", func() bool {
		b, err := os.ReadFile(filepath.Join(j.Dir, "run/second.pid"))
		if err != nil {
			return false
		}
		second, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	t.Cleanup(func() { _ = unix.Kill(second, unix.SIGKILL) })
	pids = append(pids, second)
	for _, verb := range [][]string{
		{"upgrade", "nginx", "--soak", "0s"}, {"restart", "nginx"}, {"rollback", "--soak", "0s"}, {"stop", "nginx"}, {"start", "nginx"},
	} {
		if lab.Sampling() && verb[0] != "upgrade" && verb[0] != "stop" && verb[0] != "start" {
			continue
		}
		r := h.run(append(verb, "--jail", j.Dir)...)
		if r.Exit != 0 {
			y.WrongExit("%s: %s", verb[0], r)
		}
		for _, p := range pids {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
			if err != nil || strings.Contains(string(text), ") Z ") {
				y.Outside("%s: process %d did not survive", verb[0], p)
			}
		}
		resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/")
		require.NoError(t, err, verb[0])
		require.NoError(t, resp.Body.Close())
		y.Point("survived")
	}
}

// A worker that no signal ends (frozen here; a dead network file system there): the
// stop gives up in its time, says which process and why, the tree is the old one, and
// with the worker gone nobody has to mend a thing.
func TestHostileProcessesUnkillable(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	y := lab.NewTally(t, hostileProcesses)
	y.Cases(1)
	y.Of(1)
	if lab.Sampling() {
		return // it waits for two minutes; a frozen process is also in the tests of the controller
	}
	group := fmt.Sprintf("/sys/fs/cgroup/freezer/jailup-test-%d", os.Getpid())
	if err := os.Mkdir(group, 0o755); err != nil {
		if lab.RequireAll() {
			t.Fatal("needs a freezer of the old kind: ", err)
		}
		t.Skip("needs a freezer of the old kind: ", err)
	}
	put := func(file, s string) { require.NoError(t, os.WriteFile(filepath.Join(group, file), []byte(s), 0o644)) }
	t.Cleanup(func() {
		lab.Eventually(t, 10*time.Second, "the group is empty", func() bool { return os.Remove(group) == nil })
	})
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	before := stateless(t, j.Dir)
	worker := 0
	for _, p := range j.Processes() {
		if p.PPID == j.MasterPID() {
			worker = p.PID
		}
	}
	require.NotZero(t, worker)
	put("cgroup.procs", strconv.Itoa(worker))
	put("freezer.state", "FROZEN")
	thaw := sync.OnceFunc(func() { put("freezer.state", "THAWED") })
	defer thaw()
	r := h.run("upgrade", "nginx", "--jail", j.Dir, "--soak", "0s", "--stop-timeout", "2s")
	t.Logf("exit %d after %s: %s; %v", r.Exit, r.Took, r.err(), r.Done["hint"])
	// Three tries to undo, each with all levels of a stop.
	require.Less(t, r.Took, 200*time.Second)
	if r.Exit != 4 && r.Exit != 3 {
		y.WrongExit("%s", r)
	}
	require.Contains(t, r.err(), strconv.Itoa(worker))
	if d := lab.DiffTrees(before, stateless(t, j.Dir)); len(d) > 0 {
		y.Mixed("%v", d)
	}
	thaw()
	lab.Eventually(t, 10*time.Second, "the worker has gone", func() bool { return unix.Kill(worker, 0) != nil })
	h.must(0, "recovered", "recover", "--jail", j.Dir)
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	y.Point("old")
}
