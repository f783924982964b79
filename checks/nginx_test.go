package checks_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/webconf"
)

const nginxConf = `user www-data;
worker_processes 2;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events { worker_connections 64; }
http {
    include /etc/nginx/mime.types;
    access_log off;
    server {
        listen 127.0.0.1:@PORT@;
        listen unix:/run/web.sock;
        server_name one.example;
        root /srv/www;
    }
    server {
        listen 127.0.0.1:@PORT@;
        server_name two.example;
        return 404;
    }
    server {
        listen 127.0.0.1:@PORT@;
        server_name three.example;
        return 444;
    }
}
`

// nginx is a real server in a real jail.
type nginx struct {
	t *testing.T
	*lab.Jail
	root   *jail.Root
	target checks.Target
}

func newNginx(t *testing.T) *nginx {
	t.Helper()
	lab.Need(t, "root")
	j := lab.HandMadeJail(t, lab.NginxPair(t).New, lab.InMemory(), lab.WithConf(nginxConf))
	root, err := jail.Open(j.Dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	n := &nginx{t: t, Jail: j, root: root}
	n.target = n.look()
	return n
}

// look reads the configuration.
func (n *nginx) look() checks.Target {
	n.t.Helper()
	conf, err := webconf.ReadNginx(n.root, "/etc/nginx/nginx.conf", "/usr/share/nginx")
	require.NoError(n.t, err)
	target := checks.Target{Files: n.root, Parents: n.root, Server: func(context.Context) (checks.Processes, error) {
		f := checks.Processes{Master: n.MasterPID()}
		for _, p := range n.Processes() {
			f.All = append(f.All, p.PID)
		}
		return f, nil
	}}
	target.RootDev, target.RootIno = n.root.DevIno()
	target.Nginx(conf)
	return target
}

func (n *nginx) set() *checks.Set {
	n.t.Helper()
	set, err := checks.Standard(n.target, checks.Config{})
	require.NoError(n.t, err)
	return set
}

// change edits the configuration.
func (n *nginx) change(old, new string) {
	n.t.Helper()
	file := filepath.Join(n.Dir, "etc/nginx/nginx.conf")
	b, err := os.ReadFile(file)
	require.NoError(n.t, err)
	require.Contains(n.t, string(b), old)
	require.NoError(n.t, os.WriteFile(file, []byte(strings.Replace(string(b), old, new, 1)), 0o644))
}

func policy() checks.Policy {
	return checks.Policy{
		Period: 20 * time.Millisecond, Timeout: 5 * time.Second, Passes: 2, Deadline: 10 * time.Second,
		Settle: 300 * time.Millisecond, Absent: 500 * time.Millisecond, Soak: 400 * time.Millisecond,
	}
}

// restart goes through a stop and a start as an upgrade does.
func (n *nginx) restart() (*checks.Set, checks.Report) {
	n.t.Helper()
	set := n.set()
	before := checks.Baseline(n.t.Context(), set.Checks())
	n.Stop(n.t)
	set.Since(set.Mark())
	return set, before
}

func TestNginxIsWell(t *testing.T) {
	t.Parallel()
	n := newNginx(t)
	n.Start(t)
	set := n.set()
	before := checks.Baseline(t.Context(), set.Checks())
	require.True(t, before.Healthy(), "%+v", before)
	one := "http 127.0.0.1:" + strconv.Itoa(n.Port)
	for name, want := range map[string]map[string]string{
		"process":                             {"root": "jail", "worker_root": "jail", "workers": "some"},
		"port":                                {"missing": "", "foreign": "", "sockets": "127.0.0.1:" + strconv.Itoa(n.Port) + " unix:/run/web.sock"},
		one + " one.example":                  {"status": "200", "title": "jail", "static": "yes"},
		one + " two.example":                  {"status": "404"},
		one + " three.example":                {"status": "closed"},
		"http unix:/run/web.sock one.example": {"status": "200"},
	} {
		r, ok := before.Get(name)
		require.True(t, ok, name)
		for key, v := range want {
			require.Equal(t, v, r.Observation.Values[key], "%s: %s: %+v", name, key, r)
		}
	}
	p, _ := before.Get("process")
	require.NotContains(t, strings.Fields(p.Observation.Values["worker_uids"]), "0")
	require.Contains(t, p.Detail, "with 2 workers")

	prober := checks.NewProber(n.target)
	prober.Start()
	defer prober.Stop()
	time.Sleep(200 * time.Millisecond)
	n.Stop(t)
	set.Since(set.Mark())
	time.Sleep(150 * time.Millisecond) // longer than a probe's period
	n.Start(t)
	after, err := checks.Verify(t.Context(), set.Checks(), before, policy(), nil)
	require.NoError(t, err, "%+v", after)
	prober.Stop()
	gap, ok := prober.Gap()
	require.True(t, ok)
	require.Greater(t, gap, 150*time.Millisecond)
	require.Less(t, gap, 5*time.Second)

	// A reload of the master is no crash of its workers.
	go func() {
		time.Sleep(100 * time.Millisecond)
		_ = unix.Kill(n.MasterPID(), unix.SIGHUP)
	}()
	p2 := policy()
	p2.Soak = time.Second
	set.Since(set.Mark())
	after, err = checks.Verify(t.Context(), set.Checks(), before, p2, nil)
	require.NoError(t, err, "%+v", after)
}

func TestNginxIsNot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(n *nginx)
		start  bool // nginx starts
		then   func(ctx context.Context, n *nginx)
		want   string
	}{
		{name: "down", want: "process: no process of the server runs"},
		{
			name: "overwritten configuration", start: true, want: "the new server listens on 127.0.0.2:",
			change: func(n *nginx) {
				n.change("listen unix:/run/web.sock;", "listen 127.0.0.2:"+strconv.Itoa(n.Port)+";")
			},
		},
		{
			name: "workers are root", start: true, want: "process: its workers run as root",
			change: func(n *nginx) { n.change("user www-data;", "user root;") },
		},
		{
			name: "another page", start: true, want: `title was "jail", is "Welcome"`,
			change: func(n *nginx) {
				page := strings.Replace(lab.Page, "jail", "Welcome", 1)
				require.NoError(n.t, os.WriteFile(filepath.Join(n.Dir, "srv/www/index.html"), []byte(page), 0o644))
			},
		},
		{
			name: "no types of files", start: true, want: "its type was text/html, is",
			change: func(n *nginx) {
				n.change("include /etc/nginx/mime.types;", "types { } default_type application/octet-stream;")
			},
		},
		{
			name: "workers are killed", start: true, want: "worker",
			then: func(ctx context.Context, n *nginx) {
				for ctx.Err() == nil {
					master := n.MasterPID()
					for _, p := range n.Processes() {
						if p.PPID == master {
							_ = unix.Kill(p.PID, unix.SIGSEGV)
						}
					}
					time.Sleep(60 * time.Millisecond)
				}
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNginx(t)
			n.Start(t)
			set, before := n.restart()
			require.True(t, before.Healthy(), "%+v", before)
			if c.change != nil {
				c.change(n)
			}
			if c.start {
				n.Start(t)
			}
			if c.then != nil {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); c.then(ctx, n) }()
				defer func() { cancel(); <-done }()
			}
			_, err := checks.Verify(t.Context(), set.Checks(), before, policy(), nil)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// What nginx itself writes into its log when it cannot start is found there.
func TestNginxLogsWhyItFails(t *testing.T) {
	t.Parallel()
	n := newNginx(t)
	n.Start(t)
	set, before := n.restart()
	// Where its PID file belongs is a folder.
	pidFile := filepath.Join(n.Dir, "run/nginx.pid")
	_ = os.Remove(pidFile)
	require.NoError(t, os.Mkdir(pidFile, 0o755))
	cmd := exec.Command("/usr/sbin/nginx")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: n.Dir}
	cmd.Dir = "/"
	require.Error(t, cmd.Run())
	after, err := checks.Verify(t.Context(), set.Checks(), before, policy(), nil)
	require.Error(t, err)
	r, ok := after.Get("log /var/log/nginx/error.log")
	require.True(t, ok)
	require.Equal(t, checks.Unhealthy, r.Verdict)
	require.Contains(t, r.Detail, "[emerg] open() \"/run/nginx.pid\" failed")
}

// Somebody's second start finds the address taken and says so in the log of the
// server, which is as well as before.
func TestNginxIsStartedTwice(t *testing.T) {
	t.Parallel()
	n := newNginx(t)
	n.Start(t)
	set, before := n.restart()
	n.Start(t)
	cmd := exec.Command("/usr/sbin/nginx")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: n.Dir}
	cmd.Dir = "/"
	require.Error(t, cmd.Run())
	log, err := os.ReadFile(filepath.Join(n.Dir, "var/log/nginx/error.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "[emerg]")
	_, err = checks.Verify(t.Context(), set.Checks(), before, policy(), nil)
	require.NoError(t, err)
}
