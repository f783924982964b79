package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A machine that a test may kill: a small system of the host's own release, with
// systemd as its init. It is built from packages once and kept in the cache.

// systemPackages are what such a system holds beside the essential packages.
const systemPackages = "systemd,systemd-sysv,usr-is-merged"

// SystemTree unpacks the system into a new folder. Nothing of it listens, and no
// timer runs. Needs root and mmdebstrap.
func SystemTree(t testing.TB, dir string) {
	t.Helper()
	Need(t, "root", "apt", "mmdebstrap")
	a := &apt{dir: filepath.Join(Cache(t), "apt")}
	type system struct{ Dir string }
	var s system
	err := withLock("system", func() (err error) {
		s, err = cached(filepath.Join(Cache(t), "system"), "system.json", func(s system) string { return s.Dir }, func(set string) (system, error) {
			s := system{Dir: filepath.Join(set, "system.tar")}
			return s, a.bootstrap(s.Dir)
		})
		return err
	})
	if err != nil {
		missing(t, "a small system with systemd", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xpf", s.Dir, "-C", dir, "--numeric-owner", "--exclude=./dev/*").CombinedOutput(); err != nil {
		t.Fatalf("cannot unpack the system: %v: %s", err, tail(string(out)))
	}
}

// bootstrap builds the system as a tar file.
func (a *apt) bootstrap(tar string) error {
	ar, err := a.archive()
	if err != nil {
		return err
	}
	sources := filepath.Join(filepath.Dir(tar), "sources.list")
	if err := os.WriteFile(sources, []byte(ar.sources(ar.codename)), 0o644); err != nil {
		return err
	}
	args := []string{"--variant=minbase", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=" + systemPackages, "--aptopt=Acquire::Languages none", "--aptopt=Acquire::Retries 3"}
	for _, p := range []string{"doc", "locale", "man", "info", "zoneinfo", "bash-completion"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+p+"/*")
	}
	script := `set -e; cd "$1"; ln -sf /dev/null etc/systemd/system/console-getty.service
for u in getty@.service serial-getty@.service getty-static.service systemd-logind.service systemd-timesyncd.service systemd-udevd.service systemd-udev-trigger.service \
	systemd-firstboot.service systemd-machine-id-commit.service systemd-random-seed.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-update-utmp.service \
	systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service modprobe@.service kmod-static-nodes.service \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap.service \
	systemd-ask-password-wall.path systemd-ask-password-console.path; do ln -sf /dev/null etc/systemd/system/$u; done
rm -rf var/lib/apt/lists/* var/cache/apt/* usr/lib/udev/hwdb.d usr/share/mime
echo b08dfa6083e7567a1921a715000001fb > etc/machine-id; echo lab > etc/hostname; : > etc/fstab`
	hook := filepath.Join(filepath.Dir(tar), "customize")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		return err
	}
	args = append(args, "--customize-hook="+hook+` "$1"`, ar.codename, tar, sources)
	out, err := a.run("", "mmdebstrap", args...)
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w: %s", err, tail(out))
	}
	return nil
}

// Container boots a tree with its own init, in namespaces and cgroups of its own.
type Container struct {
	t      testing.TB
	root   string
	name   string
	log    string
	leader int // its process 1, as seen from here
	cmd    *exec.Cmd
}

// NewContainer prepares the tree root as a container. Boot starts it; what runs of
// it ends with the test. Needs root and systemd-nspawn.
func NewContainer(t testing.TB, root string) *Container {
	t.Helper()
	Need(t, "root", "systemd-nspawn", "nsenter")
	dir, err := os.MkdirTemp("", "container-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &Container{t: t, root: root, name: "jailup-lab-" + strings.TrimPrefix(filepath.Base(dir), "container-"), log: filepath.Join(dir, "console")}
	t.Cleanup(c.Kill)
	return c
}

// cgroups are the hierarchies in which a container needs a place of its own.
func (c *Container) cgroups() []string {
	var out []string
	for _, h := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(h, "cgroup.procs")); err == nil {
			out = append(out, filepath.Join(h, c.name))
		}
	}
	return out
}

// Boot starts init and waits until it has started all that is enabled.
func (c *Container) Boot() {
	c.t.Helper()
	script := ""
	for _, dir := range c.cgroups() {
		script += "mkdir -p " + dir + "; echo $$ > " + dir + "/cgroup.procs; "
	}
	script += `exec systemd-nspawn -q -D "$1" --machine="$2" --register=no --keep-unit --private-network --kill-signal=SIGRTMIN+3 ` +
		`--resolv-conf=off --timezone=off --link-journal=no --console=pipe --boot`
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	c.cmd = exec.Command("bash", "-c", script, "boot", c.root, c.name)
	c.cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c.leader == 0 {
			c.leader = c.findLeader()
		}
		if c.leader != 0 {
			out, _ := c.Try("systemctl", "is-system-running")
			if s := strings.TrimSpace(out); s == "running" || s == "degraded" {
				return
			}
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(c.log)
			c.t.Fatalf("the container does not boot: %s", tail(string(text)))
		}
	}
}

// findLeader finds the container's process 1 among the children of nspawn.
func (c *Container) findLeader() int {
	kids, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.cmd.Process.Pid, c.cmd.Process.Pid))
	for _, kid := range strings.Fields(string(kids)) {
		status, _ := os.ReadFile("/proc/" + kid + "/status")
		comm, _ := os.ReadFile("/proc/" + kid + "/comm")
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "NSpid:" && f[len(f)-1] == "1" && strings.TrimSpace(string(comm)) == "systemd" {
				pid, _ := strconv.Atoi(kid)
				return pid
			}
		}
	}
	return 0
}

// Try runs a program in the container and returns what it printed.
func (c *Container) Try(argv ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"-a", "-t", strconv.Itoa(c.leader), "--"}, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER=", "LANG=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Run is Try for what must end well.
func (c *Container) Run(argv ...string) string {
	c.t.Helper()
	out, err := c.Try(argv...)
	if err != nil {
		c.t.Fatalf("in the container: %s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return out
}

// Answers tells whether a web server in the container answers on a port.
func (c *Container) Answers(port int) bool {
	script := fmt.Sprintf(`exec 3<>/dev/tcp/127.0.0.1/%d && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && head -c 12 <&3`, port)
	out, _ := c.Try("timeout", "5", "bash", "-c", script)
	return strings.HasPrefix(out, "HTTP/1.1 200")
}

// Kill ends all of it at once, as if its machine lost power, but for what it had
// written: that stays. A second call does nothing.
func (c *Container) Kill() {
	if c.cmd == nil {
		return
	}
	if c.leader != 0 {
		_ = unix.Kill(c.leader, unix.SIGKILL)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = c.cmd.Process.Kill()
		<-ended
	}
	c.cmd, c.leader = nil, 0
	for _, dir := range c.cgroups() {
		removeCgroup(dir)
	}
}

// removeCgroup removes an empty cgroup and those below it.
func removeCgroup(dir string) {
	below, _ := os.ReadDir(dir)
	for _, d := range below {
		if d.IsDir() {
			removeCgroup(filepath.Join(dir, d.Name()))
		}
	}
	for range 100 {
		if err := unix.Rmdir(dir); err != unix.EBUSY {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Log is what the journal of this boot has of units, and of init about them.
func (c *Container) Log(units ...string) string {
	args := []string{"journalctl", "-b", "--no-pager", "-o", "short-monotonic"}
	for _, u := range units {
		args = append(args, "-u", u)
	}
	out, _ := c.Try(args...)
	return out
}

// Within tells whether something comes to be so in time; it is asked ten times a
// second.
func Within(limit time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
