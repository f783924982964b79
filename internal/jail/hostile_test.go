//go:build faultpoints

package jail

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

const hostile = "hostile processes"

// Each call of the list is refused by the filter itself: this thread may do
// anything else, and asks for nonsense, for which the kernel has other errors.
func TestFilterRefusesEachCall(t *testing.T) {
	lab.Need(t, "root")
	if seccompNative == 0 || !hasSeccomp() {
		if lab.RequireAll() {
			t.Fatal("needs a filter for this machine")
		}
		t.Skip("needs a filter for this machine")
	}
	y := lab.NewTally(t, hostile)
	y.Cases(1)
	type answer struct {
		n     uint32
		errno unix.Errno
	}
	answers := make(chan answer, 1000)
	failed := make(chan error, 1)
	calls := slices.Concat(refused, archRefused, []uint32{unix.SYS_CLONE3, unix.SYS_MEMFD_CREATE, newest + 1, newest + 1000})
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = seccomp()
		}
		if failed <- err; err != nil {
			return
		}
		const nonsense = ^uintptr(0)
		for _, n := range calls {
			_, _, errno := unix.RawSyscall6(uintptr(n), nonsense, nonsense, nonsense, nonsense, nonsense, nonsense)
			answers <- answer{n, errno}
		}
		close(answers)
	}()
	require.NoError(t, <-failed)
	for a := range answers {
		want := unix.EPERM
		if a.n == unix.SYS_CLONE3 || a.n == unix.SYS_MEMFD_CREATE || a.n > newest {
			want = unix.ENOSYS
		}
		if a.errno != want {
			t.Errorf("call %d: %v", a.n, a.errno)
		}
		y.Point("refused")
	}
}

// tryAll tries in the box, as a program of the jail would, what it must not get
// to do, and says what came of each: one line "NAME ERRNO" a try.
const tryAll = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define try(name, call) do { errno = 0; long r_ = (long)(call); printf("%s %d\n", name, r_ < 0 ? errno : 0); fflush(stdout); } while (0)

static int child(void *p) { return 0; }
static int ended(int (*f)(void)) { // by which signal
	pid_t p = fork();
	if (p == 0) _exit(f());
	int s;
	waitpid(p, &s, 0);
	errno = WIFSIGNALED(s) ? WTERMSIG(s) : 0;
	return WIFSIGNALED(s) ? -1 : 0;
}
#ifdef __x86_64__
static int x32(void) { syscall(0x40000000 | SYS_getpid); return 0; }
static int int80(void) { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20)); return 0; }
#endif
static int cloned(int flags) {
	static char stack[65536];
	pid_t p = clone(child, stack + sizeof stack, flags | SIGCHLD, 0);
	if (p > 0) waitpid(p, 0, 0);
	return p;
}

int main(void) {
	char buf[64];
	struct timeval tv = {1, 0};
	struct timespec ts = {1, 0};
	mkdir("/d", 0755);
	try("mount", mount("none", "/d", "tmpfs", 0, ""));
	try("mount-proc", mount("proc", "/d", "proc", 0, ""));
	try("bind", mount("/", "/d", 0, MS_BIND | MS_REC, 0));
	try("remount", mount(0, "/", 0, MS_REMOUNT | MS_BIND, 0));
	try("umount", umount2("/", MNT_DETACH));
	try("pivot_root", syscall(SYS_pivot_root, ".", "."));
	try("chroot", chroot("/d"));
	try("open_tree", syscall(428, AT_FDCWD, "/", 1));
	try("move_mount", syscall(429, AT_FDCWD, "/", AT_FDCWD, "/d", 0));
	try("fsopen", syscall(430, "tmpfs", 0));
	try("fspick", syscall(433, AT_FDCWD, "/", 0));
	try("mount_setattr", syscall(442, AT_FDCWD, "/", 0, 0, 0));
	try("setns", setns(0, 0));
	try("unshare-user", unshare(CLONE_NEWUSER));
	try("unshare-mount", unshare(CLONE_NEWNS));
	try("clone-user", cloned(CLONE_NEWUSER));
	try("clone-mount", cloned(CLONE_NEWNS));
	try("clone-pid", cloned(CLONE_NEWPID));
	try("clone-net", cloned(CLONE_NEWNET));
	try("clone-cgroup", cloned(CLONE_NEWCGROUP));
	try("ok-clone", cloned(0));
	try("clone3", syscall(435, 0, 0));
	try("ptrace-parent", ptrace(PTRACE_ATTACH, getppid(), 0, 0));
	try("ptrace-1", ptrace(PTRACE_SEIZE, 1, 0, 0));
	try("process_vm_readv", syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0));
	try("pidfd_getfd", syscall(438, 0, 0, 0));
	try("kcmp", syscall(SYS_kcmp, 1, 1, 0, 0, 0));
	try("bpf", syscall(SYS_bpf, 0, 0, 0));
	try("perf_event_open", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
	try("userfaultfd", syscall(SYS_userfaultfd, 0));
	try("io_uring", syscall(425, 1, 0));
	try("keyctl", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1));
	try("add_key", syscall(SYS_add_key, "user", "x", "y", 1, KEY_SPEC_USER_KEYRING));
	try("request_key", syscall(SYS_request_key, "user", "x", 0, 0));
	try("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0));
	try("init_module", syscall(SYS_init_module, 0, 0, ""));
	try("delete_module", syscall(SYS_delete_module, "x", 0));
	try("reboot", reboot(RB_DISABLE_CAD));
	try("swapon", swapon("/d", 0));
	try("settimeofday", settimeofday(&tv, 0));
	try("clock_settime", syscall(SYS_clock_settime, 0, &ts));
	try("adjtimex", syscall(SYS_adjtimex, 0));
	try("quotactl", syscall(SYS_quotactl, 0, 0, 0, 0));
	try("acct", syscall(SYS_acct, "/d"));
	try("syslog", syscall(SYS_syslog, 3, buf, 10));
	try("sethostname", sethostname("x", 1));
	try("name_to_handle_at", syscall(SYS_name_to_handle_at, AT_FDCWD, "/", 0, 0, 0));
	try("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, 0, 0));
	try("mknod-char", mknod("/c", S_IFCHR | 0600, makedev(1, 1)));
	try("mknod-block", mknod("/b", S_IFBLK | 0600, makedev(8, 0)));
	try("mknodat-char", syscall(SYS_mknodat, AT_FDCWD, "/c", S_IFCHR | 0600, makedev(1, 1)));
	try("ok-fifo", mkfifo("/fifo", 0600));
	try("memfd", syscall(SYS_memfd_create, "x", 0));
	try("new-call", syscall(1234));
	int s = -1;
	try("tiocsti", ioctl(0, TIOCSTI, "x"));
	try("tioclinux", ioctl(0, TIOCLINUX, "\x02"));
	try("ok-unix", socket(AF_UNIX, SOCK_STREAM, 0));
	try("ok-inet", s = socket(AF_INET, SOCK_STREAM, 0));
	try("ok-inet6", socket(AF_INET6, SOCK_STREAM, 0));
	try("ok-route", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	try("netlink-audit", socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));
	try("netlink-netfilter", socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
	try("packet", socket(AF_PACKET, SOCK_RAW, 0));
	try("alg", socket(38, SOCK_SEQPACKET, 0));
	try("vsock", socket(40, SOCK_STREAM, 0));
	try("bluetooth", socket(31, SOCK_RAW, 1));
	try("raw", socket(AF_INET, SOCK_RAW, 1));
#ifdef __x86_64__
	try("x32", ended(x32));
	try("int80", ended(int80));
	try("iopl", syscall(SYS_iopl, 3));
	try("ioperm", syscall(SYS_ioperm, 0x80, 1, 1));
#endif
	// Rights: none that it does not need, and none to be had.
	unsigned keep = 1 << CAP_CHOWN | 1 << CAP_DAC_OVERRIDE | 1 << CAP_FOWNER | 1 << CAP_SETUID | 1 << CAP_SETGID | 1 << CAP_NET_BIND_SERVICE;
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	syscall(SYS_capget, &h, d);
	printf("caps %x\n", (d[0].permitted & ~keep) | d[1].permitted | d[0].inheritable);
	d[0].permitted = d[0].effective = ~0u;
	try("capset", syscall(SYS_capset, &h, d));
	struct rlimit lim = {RLIM_INFINITY, RLIM_INFINITY};
	try("rlimit-nproc", setrlimit(RLIMIT_NPROC, &lim));
	try("rlimit-data", setrlimit(RLIMIT_DATA, &lim));
	try("nice", setpriority(PRIO_PROCESS, 0, -5) );
	// Ways out.
	int top = open("/", O_RDONLY);
	chdir("/d");
	for (int i = 0; i < 64; i++) chdir("..");
	try("dotdot", access("canary", F_OK));
	fchdir(top);
	try("proc-1-root", open("/proc/1/root", O_RDONLY));
	try("proc-self-ns", open("/proc/self/ns/mnt", O_RDONLY));
	try("sysrq", open("/proc/sysrq-trigger", O_WRONLY));
	try("core_pattern", open("/proc/sys/kernel/core_pattern", O_WRONLY));
	try("sys-cgroup", open("/sys/fs/cgroup/cgroup.procs", O_WRONLY));
	try("mem", open("/dev/mem", O_RDWR));
	try("setuid-file", open("/canary", O_RDONLY));
	for (int fd = 3; fd < 1024; fd++)
		if (fd != top && fcntl(fd, F_GETFD) >= 0) {
			struct stat st;
			fstat(fd, &st);
			if (!S_ISSOCK(st.st_mode)) printf("descriptor %d\n", fd);
		}
	// Process 1 of the box outlives what it sends.
	for (int sig = 1; sig < 32; sig++) if (sig != SIGKILL && sig != SIGSTOP) kill(1, sig);
	kill(1, SIGSTOP);
	kill(1, SIGKILL);
	usleep(100000);
	printf("pid %d\n", getppid());
	puts("end 0");
	return 7;
}`

func TestNothingGetsOutOfTheBox(t *testing.T) {
	lab.Need(t, "root", "gcc")
	t.Parallel()
	y := lab.NewTally(t, hostile)
	y.Cases(1)
	r := compiled(t, tryAll)
	canary := filepath.Join(filepath.Dir(r.Path()), "canary")
	require.NoError(t, os.WriteFile(canary, []byte("of the host"), 0o644))
	defer os.Remove(canary)
	before := lab.TreeDigest(t, r.Path())
	host, err := os.Hostname()
	require.NoError(t, err)
	res, err := r.Run(t.Context(), Box{Argv: []string{"/program"}})
	require.NoError(t, err)
	require.Equal(t, 7, res.Exit, "the exit status is the program's: %s", res.Output)
	other := map[string]string{
		"clone3": "38", "memfd": "38", "new-call": "38",
		"netlink-audit": "97", "netlink-netfilter": "97", "packet": "97", "alg": "97", "vsock": "97", "bluetooth": "97",
		"x32": "31", "int80": "31", "caps": "0", "pid": "1", "end": "0",
		"nice": "13", "dotdot": "2", "proc-1-root": "2", "proc-self-ns": "2", "sysrq": "2", "core_pattern": "2", "sys-cgroup": "2",
		"mem": "2", "setuid-file": "2",
	}
	seen := 0
	for line := range strings.Lines(string(res.Output)) {
		name, got, _ := strings.Cut(strings.TrimSpace(line), " ")
		want := "1" // EPERM
		if strings.HasPrefix(name, "ok-") {
			want = "0"
		} else if w := other[name]; w != "" {
			want = w
		}
		if want != got {
			t.Errorf("%s: %s, and not %s", name, got, want)
		}
		seen++
		y.Point("refused")
	}
	require.GreaterOrEqual(t, seen, 80, string(res.Output))
	if d := lab.DiffTrees(before, lab.TreeDigest(t, r.Path())); len(d) > 0 {
		y.Outside("the box wrote into the jail: %v", d)
	}
	text, err := os.ReadFile(canary)
	require.NoError(t, err)
	require.Equal(t, "of the host", string(text))
	now, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, host, now)
}

// What uses up too much is ended, soon, and leaves nothing.
func TestWhatUsesTooMuchIsEnded(t *testing.T) {
	lab.Need(t, "root", "gcc")
	y := lab.NewTally(t, hostile)
	r := compiled(t, `
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/types.h>
#include <unistd.h>
int main(int argc, char **argv) {
	char *how = argv[1];
	for (int s = 1; s < 32; s++) signal(s, SIG_IGN);
	if (!strcmp(how, "bomb")) for (;;) fork();
	if (!strcmp(how, "racer")) {
		if (fork()) for (;;) pause();
		for (;;) if (fork() > 0) _exit(0);
	}
	if (!strcmp(how, "dies")) { signal(SIGABRT, SIG_DFL); abort(); }
	if (!strcmp(how, "daemon")) {
		if (fork()) { usleep(50000); printf("left\n"); return 0; }
		setsid();
		if (fork()) _exit(0);
		for (;;) pause();
	}
	if (!strcmp(how, "hang")) for (;;) pause();
	if (!strcmp(how, "spin")) for (;;) ;
	if (!strcmp(how, "flood")) {
		static char line[65536];
		memset(line, '\x1b', sizeof line);
		for (;;) write(1, line, sizeof line);
	}
	if (!strcmp(how, "memory")) for (;;) {
		char *p = malloc(1 << 20);
		if (!p) { printf("no more\n"); return 3; }
		memset(p, 1, 1 << 20);
	}
	if (!strcmp(how, "many")) for (int i = 0; ; i++) {
		if (fork() == 0) {
			char *p = mmap(0, 300 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (p != MAP_FAILED) memset(p, 1, 300 << 20);
			for (;;) pause();
		}
		if (i == 20) for (;;) pause();
	}
	if (!strcmp(how, "shared")) for (;;) {
		int id = shmget(IPC_PRIVATE, 256 << 20, 0600);
		char *p = id < 0 ? (void *)-1 : shmat(id, 0, 0);
		if (p == (void *)-1) { printf("no more\n"); return 3; }
		memset(p, 1, 256 << 20);
		shmdt(p);
	}
	if (!strcmp(how, "files")) {
		int n = 0;
		while (open("/", O_RDONLY) >= 0) n++;
		struct rlimit l;
		getrlimit(RLIMIT_NOFILE, &l);
		printf("%d %ld %ld\n", n, l.rlim_cur, l.rlim_max);
		return n > 16384;
	}
	return 9;
}`)
	type want struct {
		ended  string // "" for one that ends by itself, "time" for one whose time is over
		exit   int
		within time.Duration
	}
	for how, w := range map[string]want{
		"bomb":   {"more than 400 processes", 137, 15 * time.Second},
		"racer":  {"any", 0, 25 * time.Second},
		"daemon": {"", 0, 15 * time.Second},
		"hang":   {"time", 0, 15 * time.Second},
		"dies":   {"", 134, 15 * time.Second},
		"spin":   {"time", 0, 15 * time.Second},
		"flood":  {"more than 16 MiB of output", 137, 15 * time.Second},
		"memory": {"any", 0, 25 * time.Second},
		"many":   {"any", 0, 25 * time.Second},
		"shared": {"any", 0, 25 * time.Second},
		"files":  {"", 0, 15 * time.Second},
	} {
		t.Run(how, func(t *testing.T) {
			timeout := 20 * time.Second
			if w.ended == "time" {
				timeout = 2 * time.Second
			}
			began := time.Now()
			res, err := r.Run(t.Context(), Box{Argv: []string{"/program", how}, Timeout: timeout})
			require.NoError(t, err)
			t.Logf("%s: exit %d, %q, timed out %v, %s, %.60q", how, res.Exit, res.Ended, res.TimedOut, time.Since(began).Round(time.Millisecond), res.Output)
			require.Less(t, time.Since(began), w.within)
			require.LessOrEqual(t, len(res.Output), boxOutput)
			switch w.ended {
			case "time":
				require.True(t, res.TimedOut)
			case "any":
				require.False(t, res.TimedOut)
				require.NotZero(t, res.Exit)
			default:
				require.Equal(t, w.ended, res.Ended)
				require.Equal(t, w.exit, res.Exit, string(res.Output))
			}
			for _, p := range left(t, r.Path()) {
				t.Errorf("left: %s", p)
			}
			y.Point("ended")
		})
	}
	y.Cases(11)
}

// left are the processes that run the jail's program.
func left(t *testing.T, dir string) []string {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(dir, "program"), &st))
	names, err := os.ReadDir("/proc")
	require.NoError(t, err)
	var out []string
	for _, n := range names {
		if _, err := strconv.Atoi(n.Name()); err != nil {
			continue
		}
		if to, err := os.Readlink("/proc/" + n.Name() + "/exe"); err == nil && to == "/program" {
			out = append(out, n.Name())
		}
	}
	return out
}

// The real ones work in it, each with its test and its questions.
func TestRealServersWorkInTheBox(t *testing.T) {
	lab.Need(t, "root", "apt")
	t.Parallel()
	y := lab.NewTally(t, hostile)
	y.Cases(1)
	nginx := lab.HandMadeJail(t, lab.NginxPair(t).New)
	var env []string
	run := func(dir string, want string, argv ...string) {
		t.Helper()
		r, err := Open(dir)
		require.NoError(t, err)
		defer r.Close()
		res, err := r.Run(t.Context(), Box{Argv: argv, Env: env})
		require.NoError(t, err)
		require.Contains(t, string(res.Output), want, fmt.Sprint(argv))
		require.Zero(t, res.Exit, string(res.Output))
		require.Empty(t, res.Ended)
		y.Point("works")
	}
	run(nginx.Dir, "test is successful", "/usr/sbin/nginx", "-t")
	run(nginx.Dir, "nginx version", "/usr/sbin/nginx", "-V")

	debs := lab.Packages(t, lab.PackagesOptions{Names: append(lab.PHPNames(t, "", []string{"fpm", "apache"}, "mysql", "gd"), "nginx"), Newest: true})
	for _, mpm := range []string{"event", "prefork"} {
		j := lab.ApacheJail(t, debs, lab.MPM(mpm))
		env = j.Parts[0].Env
		run(j.Dir, "Syntax OK", "/usr/sbin/apache2", "-t")
		run(j.Dir, "Server version", "/usr/sbin/apache2", "-V")
	}
	j := lab.ModPHPJail(t, debs, lab.Extensions("mysql", "gd"))
	run(j.Dir, "Syntax OK", "/usr/sbin/apache2", "-t")
	j = lab.PHPJail(t, debs, lab.Extensions("mysql", "gd"))
	fpm := "/usr/sbin/php-fpm" + j.Series
	run(j.Dir, "test is successful", fpm, "-t")
	run(j.Dir, "mysqlnd", fpm, "-m")
	run(j.Dir, "PHP "+j.Series, fpm, "-v")
	run(j.Dir, "phpinfo()", fpm, "-i")
}
