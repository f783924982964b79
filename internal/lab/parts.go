package lab

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Part is one server of a jail.
type Part struct {
	Name    string   // "nginx", "apache", "php-fpm"
	Program string   // its path, as the server itself sees it
	Args    []string // after the program
	Env     []string // besides PATH
	Log     string   // its error log, as the server itself sees it

	comm    string // how the names of its processes begin
	end     unix.Signal
	outside bool // runs outside of the jail, its children in it
}

// parts are the jail's servers; a jail that a test describes itself has nginx.
func (j *Jail) parts() []Part {
	if len(j.Parts) == 0 {
		return []Part{nginxPart()}
	}
	return j.Parts
}

func (j *Jail) last() string {
	all := j.parts()
	return all[len(all)-1].Name
}

func nginxPart() Part {
	return Part{Name: "nginx", Program: serverPath, Log: "/var/log/nginx/error.log", comm: "nginx", end: unix.SIGQUIT}
}

// Start runs the servers of the jail, as chroot(8) would, and waits until its
// port answers. One that runs already is left alone.
func (j *Jail) Start(t testing.TB) {
	t.Helper()
	for _, p := range j.parts() {
		if j.Master(p.Name) == 0 {
			j.StartPart(t, p.Name)
		}
	}
	last := j.last()
	Eventually(t, 20*time.Second, last+" answers on port "+strconv.Itoa(j.Port), func() bool {
		code, _, err := j.get("/")
		return err == nil && code > 0 && j.Master(last) > 0
	})
}

// StartPart runs one server of the jail, and waits until it has a process.
func (j *Jail) StartPart(t testing.TB, name string) {
	t.Helper()
	p := j.part(t, name)
	if out, err := j.runPart(p); err != nil {
		t.Fatalf("cannot start %s in the jail: %v: %s\n%s", name, err, out, j.log(p))
	}
	Eventually(t, 20*time.Second, name+" runs", func() bool { return j.Master(name) > 0 })
}

// Stop ends the servers of the jail gently, the last one first, and each after
// ten seconds by force. A jail in which none runs is stopped already.
func (j *Jail) Stop(t testing.TB) {
	t.Helper()
	for _, p := range slices.Backward(j.parts()) {
		j.StopPart(t, p.Name)
	}
}

// StopPart is Stop for one server.
func (j *Jail) StopPart(t testing.TB, name string) {
	t.Helper()
	p := j.part(t, name)
	if pid := j.Master(name); pid > 0 {
		_ = unix.Kill(pid, p.end)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if len(j.serversOf(p)) == 0 {
			return
		}
	}
	for _, s := range j.serversOf(p) {
		_ = unix.Kill(s.PID, unix.SIGKILL)
	}
	Eventually(t, 10*time.Second, name+" is gone", func() bool { return len(j.serversOf(p)) == 0 })
}

// MasterPID is Master of the server that answers at URL.
func (j *Jail) MasterPID() int { return j.Master(j.last()) }

// Master is the process of a server whose parent is none of them, or 0.
func (j *Jail) Master(name string) int {
	for _, p := range j.parts() {
		if p.Name != name {
			continue
		}
		all := j.serversOf(p)
		for _, s := range all {
			if !containsPID(all, s.PPID) {
				return s.PID
			}
		}
	}
	return 0
}

func (j *Jail) part(t testing.TB, name string) Part {
	t.Helper()
	for _, p := range j.parts() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("the jail has no %s", name)
	return Part{}
}

// serversOf are the processes of a server; of one outside of the jail also
// those that are not in it.
func (j *Jail) serversOf(p Part) []Process {
	all := j.Processes()
	if p.outside {
		for _, q := range runsFrom(j.Host) {
			if !containsPID(all, q.PID) {
				all = append(all, q)
			}
		}
	}
	var s []Process
	for _, q := range all {
		if strings.HasPrefix(q.Comm, p.comm) {
			s = append(s, q)
		}
	}
	return s
}

func containsPID(all []Process, pid int) bool {
	for _, p := range all {
		if p.PID == pid {
			return true
		}
	}
	return false
}
