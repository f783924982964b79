package steps

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/recipes"
)

func TestMain(m *testing.M) {
	lab.Main(m, func() bool { jail.Reexec(); return false })
}

var fpm82 = recipes.Edition{Series: "8.2", API: "20220829"}

// The configuration is found wherever the value of an option stands.
func TestConfigurationOfACommandLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"nginx":                               "/etc/nginx/nginx.conf",
		"nginx -c /x.conf":                    "/x.conf",
		"nginx -c/x.conf":                     "/x.conf",
		"nginx -qc /x.conf":                   "/x.conf",
		"nginx -qc/x.conf":                    "/x.conf",
		"nginx -c /a.conf -c/x.conf":          "/x.conf",
		"nginx -p /srv -c x.conf":             "/srv/x.conf",
		"nginx -p/srv/ -cx.conf":              "/srv/x.conf",
		"nginx -c x.conf":                     "/usr/share/nginx/x.conf",
		"nginx -p /srv":                       "/etc/nginx/nginx.conf",
		"nginx -g -c":                         "/etc/nginx/nginx.conf",
		"apache -f /x.conf":                   "/x.conf",
		"apache -f/x.conf -k start":           "/x.conf",
		"apache -Xf /x.conf":                  "/x.conf",
		"apache -d /srv":                      "/srv/apache2.conf",
		"apache -d/srv -f x.conf":             "/srv/x.conf",
		"apache -f x.conf":                    "/etc/apache2/x.conf",
		"apache -D -f":                        "/etc/apache2/apache2.conf",
		"php-fpm":                             "/etc/php/8.2/fpm/php-fpm.conf",
		"php-fpm -y /x.conf":                  "/x.conf",
		"php-fpm -y/x.conf":                   "/x.conf",
		"php-fpm -nFy /x.conf":                "/x.conf",
		"php-fpm --fpm-config=/x.conf":        "/x.conf",
		"php-fpm --fpm-config /x.conf":        "/x.conf",
		"php-fpm --define a=-y/x -c /php.ini": "/etc/php/8.2/fpm/php-fpm.conf",
	} {
		argv := strings.Fields(line)
		require.Equal(t, want, mainConf(recipe(t, argv[0]).At(fpm82), argv), line)
	}
}

// A test is run with all that the server was started with, but for what makes it a
// daemon, sends it a signal, or hides what it says.
func TestTestOfACommandLine(t *testing.T) {
	t.Parallel()
	const nginx, apache, fpm = "/usr/sbin/nginx", "/usr/sbin/apache2", "/usr/sbin/php-fpm8.2"
	for _, tt := range []struct{ server, argv, want string }{
		{"nginx", "", nginx + " -t"},
		{"nginx", nginx + " -c/x.conf", nginx + " -c/x.conf -t"},
		{"nginx", nginx + " -p /srv -g pid\t/run/x;", nginx + " -p /srv -g pid\t/run/x; -t"},
		{"apache", "", apache + " -t"},
		{"apache", apache + " -k start", apache + " -t"},
		{"apache", apache + " -kstart -DEXTRA -D MORE -C Listen\t1 -c/x -d /srv", apache + " -DEXTRA -D MORE -C Listen\t1 -c/x -d /srv -t"},
		{"apache", apache + " -E /var/log/start -e debug -f/x.conf", apache + " -f/x.conf -t"},
		{"php-fpm", "", fpm + " -t"},
		{"php-fpm", fpm + " --daemonize -y/x.conf -D -d a=1 -R", fpm + " -y/x.conf -d a=1 -R -t"},
		{"php-fpm", fpm + " -F --nodaemonize --fpm-config=/x.conf", fpm + " --fpm-config=/x.conf -t"},
	} {
		r := recipe(t, tt.server).At(fpm82)
		u := newUnit(&Env{Recipe: r}, r)
		u.facts.Argv = strings.Split(tt.argv, " ")
		if tt.argv == "" {
			u.facts.Argv = nil
		}
		require.Equal(t, tt.want, strings.Join(u.testArgv(before), " "), tt.argv)
	}
	own := *recipe(t, "nginx")
	own.Configuration.Test = []string{"/usr/local/bin/check"}
	u := newUnit(&Env{Recipe: &own}, &own)
	u.facts.Argv = []string{nginx, "-q", "-c/x.conf"}
	require.Equal(t, []string{"/usr/local/bin/check", "-c", "/x.conf"}, u.testArgv(before), "another program knows but the file")
}

// notices keeps what is told.
type notices struct {
	mu   sync.Mutex
	said []string
}

func (n *notices) Emit(e event.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = append(n.said, e.Level+": "+e.Message)
}

// learned is a server of a jail as a run gets to know it, with what is told of it.
func learned(t *testing.T, j *lab.Jail, name string) (*unit, []string) {
	t.Helper()
	root := openRoot(t, j.Dir)
	r := recipe(t, name)
	if r.Versioned() {
		ed, ok := editionIn(viewOf(root), r)
		require.True(t, ok)
		r = r.At(ed)
	}
	told := &notices{}
	e := &Env{Root: root, Recipe: r, Events: event.New("r", nil, told)}
	u := e.servers()[0]
	var server service.Server
	lab.Eventually(t, 20*time.Second, name+" is seen", func() bool {
		var err error
		server, err = u.learn(context.Background())
		return err == nil && server.Master != nil && len(u.facts.Argv) > 0
	})
	u.tellLost(server)
	return u, told.said
}

// tested runs the test of the server's configuration as a rehearsal does.
func tested(t *testing.T, u *unit) *jail.BoxResult {
	t.Helper()
	res, err := u.e.Root.Run(context.Background(), jail.Box{Argv: u.loudly(u.testArgv(before)), Env: u.environment()})
	require.NoError(t, err)
	return res
}

func packagesOf(t *testing.T) string {
	t.Helper()
	names := append(lab.PHPNames(t, "", []string{"fpm"}), "nginx", "apache2")
	return lab.Packages(t, lab.PackagesOptions{Names: names, Newest: true})
}

func edit(t *testing.T, j *lab.Jail, file string, change func(string) string) {
	t.Helper()
	p := filepath.Join(j.Dir, file)
	text, err := os.ReadFile(p)
	require.NoError(t, err)
	now := change(string(text))
	require.NotEqual(t, string(text), now)
	require.NoError(t, os.WriteFile(p, []byte(now), 0o644))
}

func part(t *testing.T, j *lab.Jail, name string) *lab.Part {
	t.Helper()
	i := slices.IndexFunc(j.Parts, func(p lab.Part) bool { return p.Name == name })
	require.GreaterOrEqual(t, i, 0)
	return &j.Parts[i]
}

// Apache's conditions depend on its command line, and pages on its environment.
func TestApacheIsTestedAndStartedAsItRuns(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	j := lab.ApacheJail(t, packagesOf(t), lab.InMemory())
	edit(t, j, "etc/apache2/apache2.conf", func(s string) string {
		return s + "PassEnv DBPW GONE\nDefine OWN x\n# ${OWN} ${COMMENT}\n<IfDefine EXTRA>\n\tServerAdmin ${EXTRA_ADMIN}\n</IfDefine>\n"
	})
	p := part(t, j, "apache")
	p.Args = []string{"-DEXTRA", "-C", "Define GIVEN x", "-k", "start"}
	p.Env = append(slices.Clone(p.Env), "DBPW=secret", "EXTRA_ADMIN=me@example.org", "OTHER=x")
	j.Start(t)

	u, said := learned(t, j, "apache")
	require.Equal(t, []string{"/usr/sbin/apache2", "-DEXTRA", "-C", "Define GIVEN x", "-k", "start"}, u.facts.Argv)
	require.Empty(t, said)
	env := variables(u.environment())
	require.Equal(t, "secret", env["DBPW"])
	require.Equal(t, "me@example.org", env["EXTRA_ADMIN"])
	require.Contains(t, env, "APACHE_RUN_USER")
	require.NotContains(t, env, "OTHER")
	require.NotContains(t, env, "PATH")
	res := tested(t, u)
	require.Zero(t, res.Exit, "%s", res.Output)

	// What is wrong only with -DEXTRA and with -C keeps it from starting all the same.
	whole, err := os.ReadFile(filepath.Join(j.Dir, "etc/apache2/apache2.conf"))
	require.NoError(t, err)
	for _, name := range []string{"EXTRA", "GIVEN"} {
		require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/apache2/apache2.conf"), []byte(string(whole)+"<IfDefine "+name+">\n\tNoSuchDirective\n</IfDefine>\n"), 0o644))
		res = tested(t, u)
		require.NotZero(t, res.Exit)
		require.Contains(t, string(res.Output), "NoSuchDirective")
	}

	// The reader sees them as well.
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/apache2/apache2.conf"), []byte(string(whole)+"<IfDefine GIVEN>\n\tPidFile /run/given.pid\n</IfDefine>\n"), 0o644))
	conf, err := u.configuration()
	require.NoError(t, err)
	require.Equal(t, "/run/given.pid", conf.(apacheSite).PIDFile())
}

// Of nginx and php-fpm nothing but a title can be read.
func TestServersBehindATitle(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	j := lab.PHPJail(t, packagesOf(t), lab.InMemory())
	text, err := os.ReadFile(filepath.Join(j.Dir, "etc/nginx/nginx.conf"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx/other.conf"), []byte("env DBPW;\nenv SET=1;\n"+string(text)), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx/nginx.conf"), []byte("nonsense;\n"), 0o644))
	n := part(t, j, "nginx")
	n.Args = []string{"-c/etc/nginx/other.conf", "-g", "env GIVEN;"}
	n.Env = []string{"DBPW=secret"}

	f := part(t, j, "php-fpm")
	main := f.Args[len(f.Args)-1]
	pool := strings.TrimSuffix(main, "php-fpm.conf") + "pool.d/www.conf"
	edit(t, j, pool, func(s string) string { return s + "\nenv[DBPW] = $DBPW\nenv[PATH] = $PATH\nclear_env = no\n" })
	f.Env = []string{"DBPW=secret"}
	f.Args = append(f.Args, "-d", "memory_limit=55M")
	j.Start(t)

	u, said := learned(t, j, "nginx")
	require.Equal(t, []string{"warning: nginx's configuration uses the variables DBPW, GIVEN, which cannot be read from the running server; it will be started without them"}, said)
	conf, err := u.configuration()
	require.NoError(t, err)
	require.Equal(t, "/etc/nginx/other.conf", conf.(nginxSite).Files[0])
	res := tested(t, u)
	require.Zero(t, res.Exit, "%s", res.Output)
	require.Contains(t, string(res.Output), "other.conf")

	// As it is always started: nothing to tell of its command line.
	_, said = learned(t, j, "php-fpm")
	require.Equal(t, []string{
		"warning: php-fpm's configuration uses the variables DBPW, which cannot be read from the running server; it will be started without them",
		"warning: php-fpm hands all its variables on to the pools www (clear_env = no), and they cannot be read from the running server; it will be started without them",
	}, said)

	// With another configuration nobody would know how it is started.
	j.StopPart(t, "php-fpm")
	text, err = os.ReadFile(filepath.Join(j.Dir, main))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/own.conf"), text, 0o644))
	f.Args = []string{"-D", "-y/etc/own.conf"}
	j.StartPart(t, "php-fpm")
	u, said = learned(t, j, "php-fpm")
	require.Equal(t, []string{f.Program, "--fpm-config", "/etc/own.conf"}, u.facts.Argv)
	require.Contains(t, said, "warning: php-fpm's command line cannot be read behind its title; it is started as: "+f.Program+" --fpm-config /etc/own.conf")
	res = tested(t, u)
	require.Zero(t, res.Exit, "%s", res.Output)
	require.Contains(t, string(res.Output), "/etc/own.conf")
}

// A server that is down gets all that the file of its environment exports.
func TestEnvironmentOfAServerThatIsDown(t *testing.T) {
	t.Parallel()
	root := madeJail(t, "/usr/sbin/apache2")
	put(t, root.Path(), map[string]string{"etc/apache2/envvars": "export APACHE_RUN_USER=www-data DBPW=secret LD_PRELOAD=/x.so\nLOCAL=1\n"})
	r := recipe(t, "apache")
	u := newUnit(&Env{Root: root, Recipe: r}, r)
	require.Equal(t, []string{"APACHE_RUN_USER=www-data", "DBPW=secret"}, u.environment())
}
