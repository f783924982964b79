// Command fakenginx stands in for nginx where a test needs a server that goes
// wrong in a chosen way. It reads the listen, root and pid directives of
// /etc/nginx/nginx.conf, runs as a master with one worker that is not root,
// and serves files. The ways to go wrong are words in /usr/share/nginx/fake.
// It is one static file, for jails with nothing else in them.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const self = "/usr/sbin/nginx"

func main() {
	how := read("/usr/share/nginx/fake")
	conf := read("/etc/nginx/nginx.conf")
	args := strings.Join(os.Args[1:], " ")
	switch {
	case os.Getenv("FAKE") == "master":
		master(how, conf)
	case os.Getenv("FAKE") == "worker":
		worker(how, conf)
	case slices.Contains(os.Args[1:], "-v") || slices.Contains(os.Args[1:], "-V"):
		if _, ok := word(how, "version-hangs"); ok {
			time.Sleep(time.Hour)
		}
		fmt.Fprintln(os.Stderr, "nginx version: nginx/99.9.9\nconfigure arguments: --fake")
	case slices.Contains(os.Args[1:], "-t") || slices.Contains(os.Args[1:], "-T"):
		if _, ok := word(how, "test-hangs"); ok {
			time.Sleep(time.Hour)
		}
		if why, ok := word(how, "test-fails"); ok {
			fail("nginx: [emerg] " + why + "\nnginx: configuration file /etc/nginx/nginx.conf test failed")
		}
		fmt.Fprintln(os.Stderr, "nginx: the configuration file /etc/nginx/nginx.conf syntax is ok\nnginx: configuration file /etc/nginx/nginx.conf test is successful")
	default:
		start(how, conf, strings.Contains(args, "daemon off"))
	}
}

// start opens the ports, so that a failure is seen by whoever started it, and
// leaves a master behind, or becomes it.
func start(how, conf string, stay bool) {
	if why, ok := word(how, "start-fails"); ok {
		fail("nginx: [emerg] " + why)
	}
	if d, ok := wait(how, "slow-start"); ok {
		time.Sleep(d)
	}
	var addrs []string
	if _, ok := word(how, "no-listen"); !ok {
		for _, m := range regexp.MustCompile(`(?m)^[^#\n]*\blisten\s+([^\s;]+)`).FindAllStringSubmatch(conf, -1) {
			addrs = append(addrs, m[1])
		}
	}
	if extra, ok := word(how, "extra-listen"); ok {
		addrs = append(addrs, extra)
	}
	var files []*os.File
	for _, a := range addrs {
		if !strings.Contains(a, ":") {
			a = "0.0.0.0:" + a
		}
		l, err := net.Listen("tcp", a)
		if err != nil {
			fail("nginx: [emerg] bind() to " + a + " failed: " + err.Error())
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			fail(err.Error())
		}
		files = append(files, f)
	}
	cmd := child("master", files)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !stay}
	if err := cmd.Start(); err != nil {
		fail(err.Error())
	}
	if !stay {
		return
	}
	// The caller watches this process: it passes signals on, and ends as the
	// master ends.
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for s := range sigs {
			_ = cmd.Process.Signal(s)
		}
	}()
	if cmd.Wait() != nil {
		os.Exit(1)
	}
}

func child(role string, files []*os.File) *exec.Cmd {
	cmd := exec.Command(self)
	cmd.Args[0] = "nginx: " + role + " process"
	cmd.Env = []string{"FAKE=" + role, "FDS=" + strconv.Itoa(len(files))}
	cmd.ExtraFiles = files
	return cmd
}

// sockets are the descriptors that child passed on.
func sockets() []*os.File {
	n, _ := strconv.Atoi(os.Getenv("FDS"))
	var all []*os.File
	for i := range n {
		all = append(all, os.NewFile(uintptr(3+i), "socket"))
	}
	return all
}

func master(how, conf string) {
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGCHLD)
	pid := "/run/nginx.pid"
	if m := regexp.MustCompile(`(?m)^\s*pid\s+([^\s;]+)`).FindStringSubmatch(conf); m != nil {
		pid = m[1]
	}
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		fail(err.Error())
	}
	w := child("worker", sockets())
	w.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 33, Gid: 33}, Pdeathsig: syscall.SIGKILL}
	if _, ok := word(how, "worker-is-root"); ok {
		w.SysProcAttr.Credential = nil
	}
	if err := w.Start(); err != nil {
		fail(err.Error())
	}
	var dies, workerDies <-chan time.Time
	if d, ok := wait(how, "die-after"); ok {
		dies = time.After(d)
	}
	if d, ok := wait(how, "worker-dies-after"); ok {
		workerDies = time.After(d)
	}
	_, deaf := word(how, "ignore-signals")
	for {
		select {
		case s := <-sigs:
			if deaf || s == syscall.SIGHUP || s == syscall.SIGCHLD {
				continue
			}
			_ = w.Process.Kill()
			_ = w.Wait()
			_ = os.Remove(pid)
			return
		case <-workerDies:
			_ = w.Process.Kill()
			_ = w.Wait()
		case <-dies:
			_ = w.Process.Kill()
			_ = w.Wait()
			log("worker process exited on signal 11", "alert")
			os.Exit(1)
		}
	}
}

func worker(how, conf string) {
	signal.Ignore(syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	root := "/usr/share/nginx/html"
	if m := regexp.MustCompile(`(?m)^[^#\n]*\broot\s+([^\s;]+)`).FindStringSubmatch(conf); m != nil {
		root = m[1]
	}
	files := http.FileServer(http.Dir(root))
	status, _ := word(how, "status")
	body, wrong := word(how, "body")
	_, silent := word(how, "silent")
	slow, _ := wait(how, "slow-answer")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(slow)
		if code, err := strconv.Atoi(status); err == nil {
			w.WriteHeader(code)
			return
		}
		if wrong {
			fmt.Fprintln(w, body)
			return
		}
		files.ServeHTTP(w, r)
	})
	for _, f := range sockets() {
		l, err := net.FileListener(f)
		if err != nil {
			fail(err.Error())
		}
		if silent {
			continue // the kernel accepts, nobody answers
		}
		go func() { _ = http.Serve(l, h) }()
	}
	if line, ok := word(how, "log"); ok {
		for range time.Tick(100 * time.Millisecond) {
			log(line, "error")
		}
	}
	time.Sleep(24 * time.Hour)
}

func log(line, level string) {
	f, err := os.OpenFile("/var/log/nginx/error.log", os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s [%s] %d#0: %s\n", time.Now().Format("2006/01/02 15:04:05"), level, os.Getpid(), line)
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// word finds a line "NAME" or "NAME VALUE".
func word(how, name string) (string, bool) {
	for _, line := range strings.Split(how, "\n") {
		if k, v, _ := strings.Cut(line, " "); k == name {
			return v, true
		}
	}
	return "", false
}

func wait(how, name string) (time.Duration, bool) {
	v, ok := word(how, name)
	d, err := time.ParseDuration(v)
	return d, ok && err == nil
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
