package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Main runs the tests of a package and fails it if they left a process, a
// mount, a loop device or a file behind. Called from TestMain:
//
//	func TestMain(m *testing.M) { lab.Main(m) }
//
// Each reexec is asked first whether this process is a helper that a test has
// started from its own binary; the one that says yes has done its work, and
// the process ends with 0.
//
// To know what is the tests' own even while other packages are tested, they
// get a temporary folder of their own, on disk ($TMPDIR) and in memory, and a
// mark in the environment.
func Main(m *testing.M, reexec ...func() bool) {
	initApart()
	for _, f := range reexec {
		if f() {
			os.Exit(0)
		}
	}
	os.Exit(mainRun(m))
}

const (
	shmEnv  = "JAILUP_LAB_SHM"
	markEnv = "JAILUP_LAB_RUN"
)

func mainRun(m *testing.M) int {
	w, err := newWatch()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab: cannot prepare the tests:", err)
		return 1
	}
	code := m.Run()
	left := w.left()
	for deadline := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(deadline); left = w.left() {
		time.Sleep(20 * time.Millisecond) // what was killed needs a moment to go
	}
	for _, l := range left {
		fmt.Fprintln(os.Stderr, "lab: the tests left behind:", l)
		code = max(code, 1)
	}
	w.remove()
	return code
}

// watch knows what belongs to the tests of this process.
type watch struct {
	mark string   // NAME=VALUE in the environment of everything they start
	dirs []string // where their files lie
}

func newWatch() (*watch, error) {
	w := &watch{mark: markEnv + "=" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	for _, d := range []struct{ env, in string }{{"TMPDIR", os.TempDir()}, {shmEnv, shmBase()}} {
		if d.in == "" {
			continue
		}
		dir, err := os.MkdirTemp(d.in, "jailup-test-")
		if err != nil {
			return nil, err
		}
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return nil, err
		}
		// A server's workers are not root and must get through.
		if err := os.Chmod(dir, 0o755); err != nil {
			return nil, err
		}
		if err := os.Setenv(d.env, dir); err != nil {
			return nil, err
		}
		w.dirs = append(w.dirs, dir)
	}
	name, value, _ := strings.Cut(w.mark, "=")
	return w, os.Setenv(name, value)
}

func (w *watch) left() []string {
	var left []string
	for _, p := range processes() {
		if why := w.owns(p); why != "" {
			left = append(left, fmt.Sprintf("process %d (%s), %s", p.PID, p.Comm, why))
		}
	}
	mounts, err := mountPoints()
	if err != nil {
		left = append(left, err.Error())
	}
	for _, m := range mounts {
		if w.holds(m) {
			left = append(left, "mount "+m)
		}
	}
	backs, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, b := range backs {
		if text, err := os.ReadFile(b); err == nil && w.holds(strings.TrimSpace(string(text))) {
			left = append(left, "loop device "+strings.Split(b, "/")[3]+" on "+strings.TrimSpace(string(text)))
		}
	}
	for _, d := range w.dirs {
		files, err := os.ReadDir(d)
		if err != nil {
			left = append(left, err.Error())
		}
		for _, f := range files {
			left = append(left, "file "+filepath.Join(d, f.Name()))
		}
	}
	return left
}

// owns tells why a process is the tests' own, or "".
func (w *watch) owns(p Process) string {
	if p.PID == os.Getpid() {
		return ""
	}
	if p.PPID == os.Getpid() {
		return "a child"
	}
	if os.Getenv(apartMark) != "" && p.PID != 1 {
		return "in the pid namespace of a test"
	}
	proc := "/proc/" + strconv.Itoa(p.PID)
	if env, err := os.ReadFile(proc + "/environ"); err == nil && strings.Contains("\x00"+string(env), "\x00"+w.mark+"\x00") {
		return "started by a test"
	}
	for _, link := range []string{"root", "cwd", "exe"} {
		if to, err := os.Readlink(filepath.Join(proc, link)); err == nil && w.holds(to) {
			return link + " is " + to
		}
	}
	return ""
}

func (w *watch) holds(path string) bool {
	for _, d := range w.dirs {
		if strings.HasPrefix(path, d+"/") {
			return true
		}
	}
	return false
}

// remove deletes the two folders where they are empty, and no more: a file in
// them was reported, and may be below a mount.
func (w *watch) remove() {
	for _, d := range w.dirs {
		_ = os.Remove(d)
	}
}

// shmBase is the folder in memory, or "" where there is none.
func shmBase() string {
	if dir := os.Getenv(shmEnv); dir != "" {
		return dir
	}
	if isTmpfs("/dev/shm") {
		return "/dev/shm"
	}
	return ""
}
