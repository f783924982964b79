package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/webconf"
)

// liar is a server that looks well and is not. It runs as a process of its own,
// the test binary started once more, so that it has processes, sockets and a
// death like a real one.
type liar struct {
	Listen     []string
	Workers    int
	Body, Type string
	Status     int
	NotFound   string        // host that is answered by 404
	Delay      time.Duration // of each answer
	StartDelay time.Duration // before it listens
	DieAfter   time.Duration // the master
	WorkerLife time.Duration // after which a worker dies and is replaced
	Reload     time.Duration // after which new workers come and the old ones go
	BadAfter   time.Duration // 502 from then on
	OneIn      int           // each so-maniest answer is 500
	Silent     bool          // takes connections and says nothing
	Reset      bool          // resets them
}

const (
	liarEnv = "JAILUP_TEST_LIAR"
	rootEnv = "JAILUP_TEST_LIAR_ROOT" // of a worker
)

// beLiar is what the test binary does when it is started as a server.
func beLiar() bool {
	switch text := os.Getenv(liarEnv); text {
	case "":
		return false
	case "worker":
		if root := os.Getenv(rootEnv); root != "" && unix.Chroot(root) != nil {
			os.Exit(1)
		}
		_, _ = io.Copy(io.Discard, os.Stdin) // until the master is gone
	default:
		var l liar
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		l.run()
	}
	return true
}

func (l liar) run() {
	if l.DieAfter > 0 {
		time.AfterFunc(l.DieAfter, func() { os.Exit(1) })
	}
	time.Sleep(l.StartDelay)
	begin := time.Now()
	var n atomic.Int64
	s := &http.Server{ErrorLog: quietLog(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(l.Delay)
		status := l.Status
		switch {
		case l.Reset:
			c, _, _ := w.(http.Hijacker).Hijack()
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
			return
		case l.NotFound != "" && r.Host == l.NotFound:
			status = http.StatusNotFound
		case l.BadAfter > 0 && time.Since(begin) > l.BadAfter:
			status = http.StatusBadGateway
		case l.OneIn > 0 && n.Add(1)%int64(l.OneIn) == 0:
			status = http.StatusInternalServerError
		}
		w.Header().Set("Content-Type", l.Type)
		w.Header().Set("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, l.Body)
	})}
	for _, address := range l.Listen {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if !l.Silent {
			go func() { _ = s.Serve(ln) }()
		}
	}
	var workers []*exec.Cmd
	spawn := func() {
		for range l.Workers {
			workers = append(workers, worker(l.WorkerLife))
		}
	}
	spawn()
	if l.Reload > 0 {
		time.AfterFunc(l.Reload, func() {
			old := workers
			spawn()
			time.Sleep(100 * time.Millisecond)
			for _, w := range old {
				_ = w.Process.Kill()
			}
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
	os.Exit(0)
}

// worker starts a child; one with a short life is replaced for ever.
func worker(life time.Duration) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		os.Exit(1)
	}
	cmd := &exec.Cmd{Path: self, Args: []string{"nginx: worker process"}, Env: append(os.Environ(), liarEnv+"=worker")}
	in, err := cmd.StdinPipe() // closed with us
	if err != nil || cmd.Start() != nil {
		os.Exit(1)
	}
	if life > 0 {
		time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
	}
	go func() {
		_ = cmd.Wait()
		in.Close()
		if life > 0 {
			worker(life)
		}
	}()
	return cmd
}

// stage is where liars are started, one after the other.
type stage struct {
	t   *testing.T
	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.Closer
}

func (s *stage) start(l liar) {
	s.t.Helper()
	text, err := json.Marshal(l)
	require.NoError(s.t, err)
	self, err := os.Executable()
	require.NoError(s.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), liarEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd, s.in = cmd, in
}

func (s *stage) stop() {
	s.mu.Lock()
	cmd, in := s.cmd, s.in
	s.cmd = nil
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		in.Close()
		_ = cmd.Wait()
	}
}

// ready waits for a liar that comes up.
func (s *stage) ready(l liar) {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, "the server listens", func() bool {
		o, err := s.find(s.t.Context())
		return err == nil && len(o.All) == 1+l.Workers && listens(l.Listen)
	})
}

// find is what a service controller does.
func (s *stage) find(context.Context) (Processes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return Processes{}, nil
	}
	return family(s.cmd.Process.Pid), nil
}

// family is a master with its children.
func family(master int) Processes {
	if _, ok := readProc(master); !ok {
		return Processes{}
	}
	f := Processes{Master: master, All: []int{master}}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readProc(pid); ok && p.ppid == master {
			f.All = append(f.All, pid)
		}
	}
	return f
}

// needIPv6 skips where ::1 is not there.
func needIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err == nil {
		l.Close()
		return
	}
	if lab.RequireAll() {
		t.Fatalf("needs IPv6: %v", err)
	}
	t.Skipf("needs IPv6: %v", err)
}

func TestLyingServers(t *testing.T) {
	t.Parallel()
	const page = "<!doctype html><title>Shop</title><p>" + "buy something, buy something, buy something, buy something"
	type lie struct {
		name string
		// before and now change the server, target what is known of it.
		before, now func(l *liar)
		target      func(t *Target, port int)
		// during runs beside the new server, policy changes the policy.
		during func(ctx context.Context, s *stage, now liar, address string)
		policy func(p *Policy)
		down   bool   // there was no server before
		ready  bool   // the new server is up before it is looked at
		want   string // of the error; "" is accepted
		result string // "NAME VERDICT" that must be in the report
	}
	second := func(l *liar) string {
		_, port, _ := net.SplitHostPort(l.Listen[0])
		return "127.0.0.2:" + port
	}
	// That the process is gone must tell, not that a slow machine sees first that
	// nothing answers, or that the soak ends before the process does.
	byProcess := func(p *Policy) { p.Soak, p.Settle, p.FailAfter, p.FailShare = 10*time.Second, 10*time.Second, 1000, 1 }
	for _, c := range []lie{
		{name: "honest", result: "process healthy"},
		{name: "honest, was down", down: true, result: "port healthy"},
		{name: "exits at once", now: func(l *liar) { l.DieAfter = time.Millisecond }, want: "no process of the server runs"},
		{name: "exits in the soak", now: func(l *liar) { l.DieAfter = 500 * time.Millisecond }, want: "process: no process of the server runs", policy: byProcess},
		{name: "was down, exits in the soak", down: true, now: func(l *liar) { l.DieAfter = 500 * time.Millisecond }, want: "no process of the server runs", policy: byProcess},
		{
			name: "restarts in a loop", now: func(l *liar) { l.DieAfter = 250 * time.Millisecond }, want: "process: ",
			// That it is another process each time must tell, not that a slow machine
			// gets no answer meanwhile.
			policy: func(p *Policy) { p.Absent, p.FailAfter, p.FailShare = time.Minute, 1000, 1 },
			during: func(ctx context.Context, s *stage, now liar, _ string) {
				for ctx.Err() == nil {
					if o, _ := s.find(ctx); o.Master == 0 {
						s.stop()
						s.start(now)
					}
					time.Sleep(2 * time.Millisecond)
				}
			},
		},
		{name: "workers die", now: func(l *liar) { l.WorkerLife = 60 * time.Millisecond }, want: "process: "},
		{name: "no workers", ready: true, now: func(l *liar) { l.Workers = 0 }, want: "process: ", policy: func(p *Policy) { p.Deadline = 500 * time.Millisecond }},
		{name: "a reload", now: func(l *liar) { l.Reload = 400 * time.Millisecond }, result: "process healthy"},
		{name: "port open and silent", ready: true, now: func(l *liar) { l.Silent = true }, want: ": timeout", policy: func(p *Policy) { p.Timeout, p.Deadline = 100*time.Millisecond, 600*time.Millisecond }},
		{name: "resets", ready: true, now: func(l *liar) { l.Reset = true }, want: "connection reset by peer", policy: func(p *Policy) { p.Deadline = 500 * time.Millisecond }},
		{name: "slow", now: func(l *liar) { l.Delay = 1500 * time.Millisecond }, want: "; the old one took"},
		{name: "wrong page", now: func(l *liar) { l.Body = strings.Replace(page, "Shop", "Welcome", 1) }, want: `title was "Shop", is "Welcome"`},
		{name: "empty page", now: func(l *liar) { l.Body = "" }, want: "the page is empty"},
		{name: "wrong type", now: func(l *liar) { l.Type = "application/octet-stream" }, want: "its type was text/html"},
		{name: "redirects", now: func(l *liar) { l.Status = http.StatusFound }, want: "answers 302"},
		{name: "bad gateway", now: func(l *liar) { l.Status = http.StatusBadGateway }, want: "answers 502"},
		{name: "bad gateway after a while", now: func(l *liar) { l.BadAfter = 500 * time.Millisecond }, want: "answers 502"},
		{name: "one in twenty is an error", now: func(l *liar) { l.OneIn = 20 }},
		{name: "one in two is an error", now: func(l *liar) { l.OneIn = 2 }, want: "http"},
		{name: "one site gone", now: func(l *liar) { l.NotFound = "b.example" }, want: "(b.example) answers 404"},
		{
			name: "broken before", before: func(l *liar) { l.Status = http.StatusBadGateway }, now: func(l *liar) { l.Status = http.StatusBadGateway },
			result: "http broken-before",
		},
		{
			name: "one site broken before, the other now", before: func(l *liar) { l.NotFound = "b.example" }, now: func(l *liar) { l.NotFound = "a.example" },
			want: "(a.example) answers 404",
		},
		{name: "slow start", now: func(l *liar) { l.StartDelay = 800 * time.Millisecond }},
		{name: "listens on more", now: func(l *liar) { l.Listen = append(l.Listen, second(l)) }, want: "port: the new server listens on 127.0.0.2:"},
		{
			name: "listens on less", before: func(l *liar) { l.Listen = append(l.Listen, second(l)) },
			want: "port: the new server does not listen on 127.0.0.2:",
		},
		{
			name: "IPv6 dead", ready: true, before: func(l *liar) { l.Listen = append(l.Listen, strings.Replace(l.Listen[0], "127.0.0.1", "[::1]", 1)) },
			target: func(t *Target, port int) {
				t.Listens = append(t.Listens, webconf.Listen{Context: "http", Network: "tcp", Address: "::1", Port: port})
			},
			policy: func(p *Policy) { p.Deadline = 500 * time.Millisecond }, want: "[::1]",
		},
		{
			name: "listens on what the configuration wanted before", now: func(l *liar) { l.Listen = append(l.Listen, second(l)) },
			target: func(t *Target, port int) {
				t.Listens = append(t.Listens, webconf.Listen{Context: "mail", Network: "tcp", Address: "127.0.0.2", Port: port})
			},
		},
		{
			name: "another process on the port", now: func(l *liar) { l.Listen = []string{"127.0.0.3:0"} }, want: "is held by process " + strconv.Itoa(os.Getpid()),
			policy: func(p *Policy) { p.Deadline = 500 * time.Millisecond },
			during: func(ctx context.Context, _ *stage, _ liar, address string) {
				if l, err := net.Listen("tcp", address); err == nil {
					<-ctx.Done()
					l.Close()
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "IPv6 dead" {
				needIPv6(t)
			}
			t.Parallel()
			port := lab.FreePort(t)
			honest := liar{Listen: []string{"127.0.0.1:" + strconv.Itoa(port)}, Workers: 2, Body: page, Type: "text/html", Status: 200}
			s := &stage{t: t}
			t.Cleanup(s.stop)
			target := Target{Server: s.find, Listens: listenOn(port), Workers: Workers{Title: "nginx: worker process", Stable: true, MayBeRoot: true}}
			target.RootDev, target.RootIno = rootOf(t)
			for _, host := range []string{"a.example", "b.example"} {
				target.VHosts = append(target.VHosts, webconf.VHost{Names: []string{host}, Listens: listenOn(port)})
			}
			if c.target != nil {
				c.target(&target, port)
			}
			set, err := Standard(target, Config{})
			require.NoError(t, err)
			for _, check := range set.Checks() {
				if h, ok := check.(*httpCheck); ok && c.name == "slow" {
					h.floor = 100 * time.Millisecond
				}
			}

			old := honest
			old.Listen = append([]string(nil), honest.Listen...)
			if c.before != nil {
				c.before(&old)
			}
			if !c.down {
				s.start(old)
				s.ready(old)
			}
			before := Baseline(t.Context(), set.Checks())
			require.Equal(t, c.down, before.Down)
			s.stop()

			now := honest
			now.Listen = append([]string(nil), honest.Listen...)
			if c.now != nil {
				c.now(&now)
			}
			s.start(now)
			if c.ready {
				s.ready(now)
			}
			if c.during != nil {
				ctx, cancel := context.WithCancel(t.Context())
				var wait sync.WaitGroup
				wait.Go(func() { c.during(ctx, s, now, honest.Listen[0]) })
				t.Cleanup(s.stop)
				t.Cleanup(wait.Wait)
				t.Cleanup(cancel)
			}
			p := Policy{
				Period: 15 * time.Millisecond, Timeout: 4 * time.Second, Passes: 2, Deadline: 20 * time.Second,
				Settle: 300 * time.Millisecond, Absent: 300 * time.Millisecond, Soak: 700 * time.Millisecond, FailAfter: 3, FailShare: 0.2,
			}
			if c.policy != nil {
				c.policy(&p)
			}
			after, err := Verify(t.Context(), set.Checks(), before, p, nil)
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err, "%+v", after)
			if c.result != "" {
				kind, want, _ := strings.Cut(c.result, " ")
				found := false
				for _, r := range after.Results {
					if string(r.Observation.Kind) == kind {
						found = true
						require.Equal(t, Verdict(want), r.Verdict, "%+v", r)
					}
				}
				require.True(t, found)
			}
		})
	}
}

func listens(addresses []string) bool {
	for _, a := range addresses {
		c, err := net.Dial("tcp", a)
		if err != nil {
			return false
		}
		c.Close()
	}
	return true
}

func rootOf(t *testing.T) (dev, ino uint64) {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat("/", &st))
	return uint64(st.Dev), st.Ino
}

func TestProcessOutsideTheJail(t *testing.T) {
	t.Parallel()
	root, err := jail.Open(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	target := Target{Server: func(context.Context) (Processes, error) { return family(os.Getpid()), nil }, Workers: Workers{None: true}}
	target.RootDev, target.RootIno = root.DevIno()
	o := runOnce(t, &processCheck{target: target})
	v, detail := judge(nil, o)
	require.Equal(t, Unhealthy, v)
	require.Equal(t, "its root is not the jail", detail)
	was := o
	was.Values = with(o.Values, map[string]string{"root": "jail"})
	v, _ = judge(&Result{Observation: was}, o)
	require.Equal(t, Unhealthy, v)
	v, _ = judge(&Result{Observation: o}, o)
	require.Equal(t, Healthy, v, "so it was before")
}

func TestServerThatCannotBeFound(t *testing.T) {
	t.Parallel()
	target := Target{Listens: listenOn(1), Server: func(context.Context) (Processes, error) {
		return Processes{}, errors.New("two masters\x1b[2J")
	}}
	for _, c := range []Check{&processCheck{target: target}, &portCheck{target: target}} {
		o := runOnce(t, c)
		require.True(t, !o.OK && o.Pending && !o.Inconclusive)
		require.Equal(t, "cannot find the server's processes: two masters", o.Detail)
	}
}
