package service

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// nginxSpec is what the recipe says of nginx.
func nginxSpec() Spec {
	return Spec{
		Name:        "nginx",
		Executables: []string{"/usr/sbin/nginx"},
		Start:       []string{"/usr/sbin/nginx"},
		PIDFiles:    []string{"/run/nginx.pid"},
		Flags: []Flag{
			{Name: "-c", Instance: true, Default: "/etc/nginx/nginx.conf"},
			{Name: "-p", Instance: true, Default: "/usr/share/nginx"},
			{Name: "-g"}, {Name: "-e"},
		},
		OneShot: []string{"-t", "-T", "-v", "-V", "-s", "-h", "-?"},
		Quit:    unix.SIGQUIT, Term: unix.SIGTERM, Reload: unix.SIGHUP,
	}
}

func actorSpec(args ...string) Spec {
	return Spec{
		Name:        "actor",
		Executables: []string{"/usr/sbin/actor"},
		Start:       append([]string{"/usr/sbin/actor"}, args...),
		Quit:        unix.SIGQUIT,
	}
}

func openJail(t testing.TB, dir string) *jail.Root {
	t.Helper()
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

// nginxJail is a jail with nginx and a controller of it.
func nginxJail(t testing.TB, conf string, opts ...Option) (*lab.Jail, *ProcessController) {
	t.Helper()
	lab.Need(t, "root")
	jopts := []lab.JailOption{lab.InMemory()}
	if conf != "" {
		jopts = append(jopts, lab.WithConf(conf))
	}
	j := lab.HandMadeJail(t, lab.NginxPair(t).Old, jopts...)
	return j, NewProcess(openJail(t, j.Dir), nginxSpec(), append(opts, logTo(t))...)
}

func logTo(t testing.TB) Option { return Log(func(s string) { t.Log(s) }) }

// actorDir is where the actor is built, once, by the first test that needs it.
var actorDir string

var actorBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(actorDir, "actor")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/actor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "actor-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	actorDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// actorJail is a jail that holds nothing but the actor, and a copy of it as
// another program.
func actorJail(t testing.TB) string {
	t.Helper()
	lab.Need(t, "root", "go")
	bin, err := actorBinary()
	require.NoError(t, err)
	dir := filepath.Join(lab.ShmDir(t), "jail")
	data, err := os.ReadFile(bin)
	require.NoError(t, err)
	for _, p := range []string{"usr/sbin/actor", "usr/bin/script"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755))
		lab.WriteProgram(t, filepath.Join(dir, p), data)
	}
	for _, d := range []string{"dev", "run", "tmp"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	t.Cleanup(func() { killJail(t, dir) })
	return dir
}

// killJail ends all that is chrooted into dir, by descriptor, until none is left.
func killJail(t testing.TB, dir string) {
	root, err := jail.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	c := NewProcess(root, Spec{Name: "leftover"})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		tab, w, err := c.see()
		require.NoError(t, err)
		left := 0
		for _, p := range tab.byPID {
			if !p.inJail {
				continue
			}
			left++
			if fd, err := c.hold(p.Process, false, w); err == nil {
				_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
				if p.PGID == p.PID {
					_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, pidfdGroup)
				}
				unix.Close(fd)
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d processes of %s cannot be ended", left, dir)
			return
		}
	}
}

// chrooted starts a program of a jail as a child of the test, and reaps it.
func chrooted(t testing.TB, dir string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Setsid: true}
	cmd.Dir = "/"
	require.NoError(t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	return cmd
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// alive tells whether a process runs: there, and no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	p, err := parseStat(b)
	return err == nil && !p.dead()
}

// signals is a set of signals, without the two that the C library keeps for
// itself and that Go leaves alone: the tests' own program has it when the race
// detector is in it, the shipped program never.
func signals(t testing.TB, pid int, field string) uint64 {
	t.Helper()
	set, err := strconv.ParseUint(status(t, pid, field), 16, 64)
	require.NoError(t, err)
	return set &^ (1<<31 | 1<<32)
}

func status(t testing.TB, pid int, field string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s in the status of process %d", field, pid)
	return ""
}
