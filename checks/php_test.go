package checks_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
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
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

// web is a set of packages with both ways to run PHP, and with modules.
func web(t *testing.T) string {
	t.Helper()
	names := append(lab.PHPNames(t, "", []string{"fpm", "apache"}, "mysql", "gd"), "nginx")
	return lab.Packages(t, lab.PackagesOptions{Names: names, Newest: true})
}

// site is a jail with real servers in it.
type site struct {
	t *testing.T
	*lab.Jail
	root *jail.Root
}

func newSite(t *testing.T, j *lab.Jail) *site {
	t.Helper()
	root, err := jail.Open(j.Dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		j.Stop(t) // workers with a root of their own outlive a master that is killed
		root.Close()
	})
	return &site{t, j, root}
}

// target is what there is to look at of one server. The first is the one that
// answers clients.
func (s *site) target(name string) checks.Target {
	s.t.Helper()
	target := checks.Target{Files: s.root, Parents: s.root, Server: s.find(name)}
	target.RootDev, target.RootIno = s.root.DevIno()
	switch name {
	case "nginx":
		conf, err := webconf.ReadNginx(s.root, "/etc/nginx/nginx.conf", "/usr/share/nginx")
		require.NoError(s.t, err)
		target.Nginx(conf)
	case "apache":
		env, err := webconf.ReadEnvVars(s.root, "/etc/apache2/envvars")
		require.NoError(s.t, err)
		conf, err := webconf.ReadApache(s.root, "/etc/apache2/apache2.conf", webconf.ApacheOptions{Env: env, ServerRoot: "/etc/apache2"})
		require.NoError(s.t, err)
		target.Apache(conf)
	case "php-fpm":
		target.Part = name
		target.FPM(s.fpm())
	}
	return target
}

// find is what a service controller does.
func (s *site) find(name string) func(context.Context) (checks.Processes, error) {
	return func(context.Context) (checks.Processes, error) {
		f := checks.Processes{Master: s.Master(name)}
		if f.Master > 0 {
			f.All = append([]int{f.Master}, children(f.Master)...)
		}
		return f, nil
	}
}

func (s *site) fpm() *phpconf.FPM {
	s.t.Helper()
	f, err := phpconf.ReadFPM(s.root, "/etc/php/"+s.Series+"/fpm/php-fpm.conf")
	require.NoError(s.t, err)
	return f
}

// children are the processes that a process has started.
func children(pid int) []int {
	var list []int
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children")
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			list = append(list, n)
		}
	}
	return list
}

func (s *site) set(names ...string) *checks.Set {
	s.t.Helper()
	var sets []*checks.Set
	for _, n := range names {
		one, err := checks.Standard(s.target(n), checks.Config{})
		require.NoError(s.t, err)
		sets = append(sets, one)
	}
	return checks.Join(sets...)
}

// edit changes a file of the jail.
func (s *site) edit(name, old, new string) {
	s.t.Helper()
	s.editHost(filepath.Join(s.Dir, name), old, new)
}

func (s *site) editHost(file, old, new string) {
	s.t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(s.t, err)
	require.Contains(s.t, string(b), old)
	require.NoError(s.t, os.WriteFile(file, []byte(strings.ReplaceAll(string(b), old, new)), 0o644))
}

func (s *site) append(name, text string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.Dir, name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	require.NoError(s.t, err)
	_, err = f.WriteString(text)
	require.NoError(s.t, err)
	require.NoError(s.t, f.Close())
}

func (s *site) poolFile() string { return "etc/php/" + s.Series + "/fpm/pool.d/www.conf" }

// well records how the servers are, which must be well.
func (s *site) well(set *checks.Set) checks.Report {
	s.t.Helper()
	before := checks.Baseline(s.t.Context(), set.Checks())
	require.True(s.t, before.Healthy(), "%+v", before)
	require.Empty(s.t, before.With(checks.Inconclusive), "%+v", before)
	return before
}

func (s *site) values(r checks.Report, name string) map[string]string {
	s.t.Helper()
	got, ok := r.Get(name)
	require.True(s.t, ok, "%s: %+v", name, r)
	return got.Observation.Values
}

// worse is one way in which servers are not well after a start.
type worse struct {
	name   string
	change func(s *site)                      // between stop and start
	then   func(ctx context.Context, s *site) // while they are looked at
	down   string                             // the server that is not started
	want   string                             // of the error; "|" parts causes that race
}

func (c worse) run(t *testing.T, s *site, servers ...string) {
	t.Helper()
	s.t = t
	s.Start(t)
	s.started()
	set := s.set(servers...)
	before := s.well(set)
	s.Stop(t)
	set.Since(set.Mark())
	if c.change != nil {
		c.change(s)
	}
	for _, p := range s.Parts {
		if p.Name != c.down {
			s.StartPart(t, p.Name)
		}
	}
	if c.then != nil {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.then(ctx, s) }()
		defer func() { cancel(); <-done }()
	}
	p := policy()
	p.Soak = time.Second
	p.Deadline = 6 * time.Second
	after, err := checks.Verify(t.Context(), set.Checks(), before, p, nil)
	if c.want == "" {
		require.NoError(t, err, "%+v", after)
		return
	}
	require.Error(t, err)
	for _, w := range strings.Split(c.want, "|") {
		if strings.Contains(err.Error(), w) {
			return
		}
	}
	require.ErrorContains(t, err, c.want)
}

// started waits until the servers have said so: the last of it may come when
// they answer already.
func (s *site) started() {
	s.t.Helper()
	for _, p := range s.Parts {
		says := map[string]string{"apache": "resuming normal operations", "php-fpm": "fpm is running"}[p.Name]
		lab.Eventually(s.t, 20*time.Second, p.Name+" has started", func() bool {
			b, err := os.ReadFile(s.log(p))
			return err == nil && strings.Contains(string(b), says)
		})
		if p.Name != "apache" {
			continue
		}
		lab.Eventually(s.t, 20*time.Second, "its children are users", func() bool {
			all := children(s.Master(p.Name))
			return len(all) > 0 && !slices.ContainsFunc(all, func(pid int) bool {
				info, err := os.Stat("/proc/" + strconv.Itoa(pid))
				return err != nil || info.Sys().(*syscall.Stat_t).Uid == 0
			})
		})
	}
}

// log is where the log of a server is on this machine.
func (s *site) log(p lab.Part) string {
	if s.Host != "" {
		return p.Log
	}
	return filepath.Join(s.Dir, p.Log)
}

// kill sends signals to the workers of a server, now and then.
func kill(server string, signal unix.Signal) func(context.Context, *site) {
	return func(ctx context.Context, s *site) {
		for ctx.Err() == nil {
			for _, pid := range children(s.Master(server)) {
				_ = unix.Kill(pid, signal)
			}
			time.Sleep(150 * time.Millisecond)
		}
	}
}

func TestApacheIsWell(t *testing.T) {
	t.Parallel()
	for _, mpm := range []string{"event", "prefork"} {
		t.Run(mpm, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "root")
			s := newSite(t, lab.ApacheJail(t, web(t), lab.InMemory(), lab.MPM(mpm)))
			s.Start(t)
			s.started()
			set := s.set("apache")
			before := s.well(set)
			at := "127.0.0.1:" + strconv.Itoa(s.Port)
			v := s.values(before, "process")
			require.Equal(t, "jail jail 33", v["root"]+" "+v["worker_root"]+" "+v["worker_uids"])
			require.Equal(t, at, s.values(before, "port")["sockets"])
			require.Equal(t, "200", s.values(before, "http "+at+" localhost")["status"])
			s.values(before, "log /var/log/apache2/error.log")
			s.Stop(t)
			set.Since(set.Mark())
			s.Start(t)
			// That children come and go is how it is, and so is a reload.
			go func() {
				time.Sleep(200 * time.Millisecond)
				_ = unix.Kill(s.Master("apache"), unix.SIGUSR1)
			}()
			p := policy()
			p.Soak = 1500 * time.Millisecond
			after, err := checks.Verify(t.Context(), set.Checks(), before, p, nil)
			require.NoError(t, err, "%+v", after)
		})
	}
}

func TestApacheIsNot(t *testing.T) {
	t.Parallel()
	for _, c := range []worse{
		{name: "down", down: "apache", want: "process: no process of the server runs"},
		{name: "children die", then: kill("apache", unix.SIGSEGV), want: "exit signal Segmentation fault"},
		{
			name: "listens on more", want: "port: the new server listens on 127.0.0.2:",
			change: func(s *site) { s.append("etc/apache2/ports.conf", "Listen 127.0.0.2:"+strconv.Itoa(s.Port)+"\n") },
		},
		{
			name: "nobody may look", want: "answers 403",
			change: func(s *site) {
				s.edit("etc/apache2/sites-available/jail.conf", "Require all granted", "Require all denied")
			},
		},
		{
			name: "threads cannot end", want: "must be installed for pthread_exit", // it is loaded by name when the first one ends
			change: func(s *site) {
				for _, lib := range s.glob("lib/*/libgcc_s.so.1", "usr/lib/*/libgcc_s.so.1") {
					require.NoError(s.t, os.Remove(lib))
				}
			},
			then: func(ctx context.Context, s *site) {
				time.Sleep(200 * time.Millisecond)
				_ = unix.Kill(s.Master("apache"), unix.SIGUSR1) // each child ends
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "root")
			c.run(t, newSite(t, lab.ApacheJail(t, web(t), lab.InMemory())), "apache")
		})
	}
}

func (s *site) glob(patterns ...string) []string {
	s.t.Helper()
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(s.Dir, p))
		require.NoError(s.t, err)
		all = append(all, found...)
	}
	require.NotEmpty(s.t, all)
	return all
}

func TestModPHP(t *testing.T) {
	t.Parallel()
	for _, c := range []worse{
		{name: "well"},
		{
			name: "PHP is not run", want: "sends /index.php as it is: PHP does not run it",
			change: func(s *site) {
				for _, conf := range s.glob("etc/apache2/mods-enabled/php*.conf") {
					require.NoError(s.t, os.Remove(conf))
				}
			},
		},
		{
			name: "an extension is gone", want: "Unable to load dynamic library 'gd",
			change: func(s *site) { require.NoError(s.t, os.Remove(filepath.Join(s.Dir, "usr/lib/php", s.API, "gd.so"))) },
		},
		{
			name: "no time zones", want: "php page localhost |exit signal Segmentation fault",
			change: func(s *site) {
				require.NoError(s.t, os.RemoveAll(filepath.Join(s.Dir, "usr/share/zoneinfo")))
				s.append("srv/www/index.php", "echo date('c');")
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "root")
			s := newSite(t, lab.ModPHPJail(t, web(t), lab.InMemory(), lab.Extensions("mysql", "gd")))
			c.run(t, s, "apache")
			if c.want == "" {
				page := "php page localhost 127.0.0.1:" + strconv.Itoa(s.Port)
				require.Equal(t, "text/plain", s.values(s.well(s.set("apache")), page)["type"])
			}
		})
	}
}
