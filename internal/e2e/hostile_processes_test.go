//go:build faultpoints

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
			if unix.Kill(pid, 0) != nil {
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
