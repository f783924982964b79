package lab

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process whose root is a jail.
type Process struct {
	PID, PPID int
	Comm      string // name of the program, at most 15 bytes
}

// Start runs nginx in the jail, as chroot(8) would, and waits until its port
// answers.
func (j *Jail) Start(t testing.TB) {
	t.Helper()
	if out, err := j.run(serverPath); err != nil {
		t.Fatalf("cannot start nginx in the jail: %v: %s\n%s", err, out, j.errorLog())
	}
	Eventually(t, 20*time.Second, "nginx answers on port "+strconv.Itoa(j.Port), func() bool {
		code, _, err := j.get("/")
		return err == nil && code > 0 && j.master() > 0
	})
}

// run runs a program of the jail to its end. Its output goes to a file: a
// daemon that it leaves would hold a pipe open for ever.
func (j *Jail) run(argv ...string) (string, error) {
	out, err := os.CreateTemp("", "jailup-out-")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: j.Dir, Setsid: true}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(out.Name())
	return string(text), err
}

// Stop ends the nginx of the jail gently, and after ten seconds by force. A
// jail in which none runs is stopped already.
func (j *Jail) Stop(t testing.TB) {
	t.Helper()
	for _, p := range j.servers() {
		if p.PID == j.master() {
			_ = unix.Kill(p.PID, unix.SIGQUIT)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if len(j.servers()) == 0 {
			return
		}
	}
	for _, p := range j.servers() {
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
	Eventually(t, 10*time.Second, "nginx is gone", func() bool { return len(j.servers()) == 0 })
}

// Get asks the jail's server for a path, on a connection of its own. No answer
// is the end of the test.
func (j *Jail) Get(t testing.TB, path string) (status int, body string) {
	t.Helper()
	status, body, err := j.get(path)
	if err != nil {
		t.Fatalf("cannot get %s from the jail: %v", path, err)
	}
	return status, body
}

// TryGet is Get for a server that may be down.
func (j *Jail) TryGet(path string) (status int, body string, err error) { return j.get(path) }

func (j *Jail) get(path string) (int, string, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(j.URL + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), err
}

// MasterPID is the nginx of the jail whose parent is none of them, or 0.
func (j *Jail) MasterPID() int { return j.master() }

func (j *Jail) master() int {
	all := j.servers()
	for _, p := range all {
		if !containsPID(all, p.PPID) {
			return p.PID
		}
	}
	return 0
}

func containsPID(all []Process, pid int) bool {
	for _, p := range all {
		if p.PID == pid {
			return true
		}
	}
	return false
}

func (j *Jail) servers() []Process {
	var s []Process
	for _, p := range j.Processes() {
		if p.Comm == "nginx" {
			s = append(s, p)
		}
	}
	return s
}

// Processes are all that have the jail as their root, found by its device and
// inode: the text of /proc/PID/root is another in another mount namespace.
func (j *Jail) Processes() []Process { return processesIn(j.Dir) }

func processesIn(dir string) []Process {
	var root unix.Stat_t
	if unix.Stat(dir, &root) != nil {
		return nil
	}
	var all []Process
	for _, p := range processes() {
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/root/.", p.PID), &st) == nil && st.Dev == root.Dev && st.Ino == root.Ino {
			all = append(all, p)
		}
	}
	return all
}

// processes lists all that run; zombies have no root any more and are left out.
func processes() []Process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var all []Process
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		if p, state, err := readStat(pid); err == nil && state != "Z" && state != "X" {
			all = append(all, p)
		}
	}
	return all
}

// readStat reads proc_pid_stat(5); the name is in parentheses and may hold any
// byte, so the fields are counted from the last one.
func readStat(pid int) (Process, string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, "", err
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return Process{}, "", fmt.Errorf("cannot read the state of process %d", pid)
	}
	f := strings.Fields(s[end+1:])
	if len(f) < 2 {
		return Process{}, "", fmt.Errorf("cannot read the state of process %d", pid)
	}
	ppid, err := strconv.Atoi(f[1])
	return Process{PID: pid, PPID: ppid, Comm: s[open+1 : end]}, f[0], err
}

// end kills what runs in the jail and takes away mounts below it.
func (j *Jail) end(t testing.TB) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := processesIn(j.Dir)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d processes of the jail cannot be killed", len(left))
			return
		}
		for _, p := range left {
			_ = unix.Kill(p.PID, unix.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
	mounts, err := mountsBelow(j.Dir)
	if err != nil {
		t.Errorf("cannot list the mounts below the jail: %v", err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("cannot unmount %s: %v", mounts[i], err)
		}
	}
}

func (j *Jail) errorLog() string {
	b, err := os.ReadFile(filepath.Join(j.Dir, "var/log/nginx/error.log"))
	if err != nil {
		return err.Error()
	}
	return tail(string(b))
}

// Eventually polls until ok says yes, and fails the test after the time given.
func Eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", within, what)
		}
	}
}
