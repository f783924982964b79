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

// run runs a program of the jail to its end. Its output goes to a file: a
// daemon that it leaves would hold a pipe open for ever.
func (j *Jail) run(argv ...string) (string, error) {
	return j.runPart(Part{Program: argv[0], Args: argv[1:]})
}

// runPart is run for a server; one that stays outside of the jail is run there.
func (j *Jail) runPart(p Part) (string, error) {
	out, err := os.CreateTemp("", "jailup-out-")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command(p.Program, p.Args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !p.outside {
		cmd.SysProcAttr.Chroot = j.Dir
	}
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, p.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(out.Name())
	return string(text), err
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

// Processes are all that have the jail as their root, found by its device and
// inode: the text of /proc/PID/root is another in another mount namespace.
func (j *Jail) Processes() []Process { return processesIn(j.Dir) }

// runsFrom are processes whose program lies in a folder.
func runsFrom(dir string) []Process {
	var all []Process
	for _, p := range processes() {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID)); err == nil && strings.HasPrefix(exe, dir+"/") {
			all = append(all, p)
		}
	}
	return all
}

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
		if j.Host != "" {
			left = append(left, runsFrom(j.Host)...)
		}
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

func (j *Jail) log(p Part) string {
	file := filepath.Join(j.Dir, p.Log)
	if p.outside {
		file = p.Log
	}
	b, err := os.ReadFile(file)
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
