// Command fakenginx stands in for nginx where a test needs a server that goes
// wrong in a chosen way. It reads the listen, root and pid directives of
// /etc/nginx/nginx.conf, runs as a master with one worker that is not root,
// and serves files. The ways to go wrong are words in /usr/share/nginx/fake.
// It is one static file, for jails with nothing else in them.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const self = "/usr/sbin/nginx"

func main() {
	how := read("/usr/share/nginx/fake")
	if how == "" {
		program := read(self)
		if i := strings.LastIndex(program, "\x00fake "+"ways:\n"); i >= 0 {
			how = program[i:]
		}
	}
	conf := read("/etc/nginx/nginx.conf")
	args := strings.Join(os.Args[1:], " ")
	switch {
	case os.Getenv("FAKE") == "master":
		master(how, conf)
	case os.Getenv("FAKE") == "worker":
		worker(how, conf)
	case os.Getenv("FAKE") == "squatter":
		n, _ := strconv.Atoi(os.Getenv("FDS"))
		_, _ = os.NewFile(uintptr(3+n), "pipe").Read(make([]byte, 1)) // until the master is gone
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
	_, squat := word(how, "squat")
	if _, ok := word(how, "no-listen"); !ok {
		for _, m := range listens(conf) {
			if less, ok := word(how, "less-listen"); !ok || m[1] != less {
				addrs = append(addrs, m[1])
			}
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
	if squat {
		// Another program takes the ports, and goes with the master.
		files = []*os.File{squatter(files)}
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

func listens(conf string) [][]string {
	return regexp.MustCompile(`(?m)^[^#\n]*\blisten\s+([^\s;]+)([^;]*)`).FindAllStringSubmatch(conf, -1)
}

// squatter starts a copy of this program that has the sockets; it ends when the
// pipe that is returned has no writer any more.
func squatter(files []*os.File) *os.File {
	data, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile("/run/squatter", data, 0o755)
	}
	if err != nil {
		fail(err.Error())
	}
	r, w, err := os.Pipe()
	if err != nil {
		fail(err.Error())
	}
	cmd := exec.Command("/run/squatter")
	cmd.Args[0] = "somebody else"
	cmd.Env = []string{"FAKE=squatter", "FDS=" + strconv.Itoa(len(files))}
	cmd.ExtraFiles = append(slices.Clone(files), r)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fail(err.Error())
	}
	r.Close()
	return w
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
	if path, ok := word(how, "removes"); ok {
		_ = os.Remove(path)
	}
	if path, ok := word(how, "spoils"); ok {
		_ = os.Remove(path)
		_ = os.Mkdir(path, 0o755)
	}
	if path, ok := word(how, "writes"); ok {
		_ = os.WriteFile(path, []byte("written by the new server\n"), 0o644)
	}
	pass := sockets()
	if _, ok := word(how, "squat"); ok {
		pass = nil
	}
	var w *exec.Cmd
	spawn := func() {
		w = child("worker", pass)
		w.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 33, Gid: 33}, Pdeathsig: syscall.SIGKILL}
		if _, ok := word(how, "worker-is-root"); ok {
			w.SysProcAttr.Credential = nil
		}
		if _, ok := word(how, "worker-escapes"); ok {
			w.SysProcAttr.Credential = nil // and it drops its rights outside
		}
		if err := w.Start(); err != nil {
			fail(err.Error())
		}
	}
	spawn()
	if line, ok := word(how, "log"); ok { // by the master: the file is root's
		level, ok := word(how, "log-level")
		if !ok {
			level = "error"
		}
		go func() {
			for range time.Tick(100 * time.Millisecond) {
				log(line, level)
			}
		}()
	}
	var crashes <-chan time.Time
	if d, ok := wait(how, "worker-crashes"); ok {
		crashes = time.Tick(d)
	}
	var loops <-chan time.Time
	if d, ok := wait(how, "loops"); ok {
		loops = time.After(d)
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
		case <-crashes:
			_ = w.Process.Kill()
			_ = w.Wait()
			spawn()
		case <-loops:
			next := child("master", sockets())
			next.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			_ = next.Start()
			_ = w.Process.Kill()
			_ = w.Wait()
			os.Exit(1)
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
	if _, ok := word(how, "worker-escapes"); ok {
		escape()
	}
	began := time.Now()
	status, _ := word(how, "status")
	oneIn, _ := number(how, "one-in")
	goodFirst, limited := number(how, "good-first")
	badAfter, turns := wait(how, "bad-after")
	resets, _ := number(how, "resets")
	lost, _ := word(how, "lost-host")
	only, picky := word(how, "only-agent")
	_, cut := word(how, "cut-off")
	_, empty := word(how, "empty")
	_, garbage := word(how, "garbage")
	var asked atomic.Int64
	body, wrong := word(how, "body")
	_, silent := word(how, "silent")
	slow, _ := wait(how, "slow-answer")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(slow)
		n := asked.Add(1)
		host, _, _ := strings.Cut(r.Host, ":")
		switch {
		case empty, garbage, resets > 0 && rand.IntN(100) < resets, cut:
			c, b, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			switch {
			case garbage:
				_, _ = b.WriteString("\x16\x03\x01\x00\xff\xfe SSH-2.0-liar\r\n\r\n")
			case cut:
				_, _ = b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5000\r\n\r\n<!doctype html><title>jail</title>")
			}
			_ = b.Flush()
			if tcp, ok := c.(*net.TCPConn); ok && resets > 0 {
				_ = tcp.SetLinger(0)
			}
			c.Close()
			return
		case limited && n > int64(goodFirst), turns && time.Since(began) > badAfter,
			picky && r.UserAgent() != only, oneIn > 0 && n%int64(oneIn) == 0:
			w.WriteHeader(http.StatusBadGateway)
			return
		case lost != "" && host == lost:
			http.NotFound(w, r)
			return
		}
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
		at := l.Addr().String()
		if deaf, ok := word(how, "deaf"); silent || ok && deaf == at {
			continue // the kernel accepts, nobody answers
		}
		for _, m := range listens(conf) {
			if m[1] == at && strings.Contains(m[2], "ssl") {
				l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate()}, MinVersion: tls.VersionTLS12})
			}
		}
		go func() { _ = http.Serve(l, h) }()
	}
	time.Sleep(24 * time.Hour)
}

// escape leaves the jail, as root can, and is nobody's then.
func escape() {
	err := os.MkdirAll("/run/below", 0o755)
	if err == nil {
		err = syscall.Chroot("/run/below")
	}
	for range 64 {
		if err == nil {
			err = syscall.Chdir("..")
		}
	}
	if err == nil {
		err = syscall.Chroot(".")
	}
	if err == nil {
		err = syscall.Setgid(33)
	}
	if err == nil {
		err = syscall.Setuid(33)
	}
	if err != nil {
		fail(err.Error())
	}
}

// certificate is one that nobody has seen before, for a host of its own.
func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		fail(err.Error())
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"liar.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, t, t, key.Public(), key)
	if err != nil {
		fail(err.Error())
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
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

func number(how, name string) (int, bool) {
	v, ok := word(how, name)
	n, err := strconv.Atoi(v)
	return n, ok && err == nil
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
