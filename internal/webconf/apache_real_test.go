package webconf

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// realApache is a tree with Debian's apache and PHP in it, of this test alone.
type realApache struct {
	dir  string
	root *jail.Root
	php  string // the series
}

func newRealApache(t *testing.T) *realApache {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	names := append(lab.PHPNames(t, "", []string{"apache"}), "base-files", "media-types")
	tree := lab.Unpacked(t, lab.Packages(t, lab.PackagesOptions{Names: names, Newest: true}))
	a := &realApache{dir: filepath.Join(lab.ShmDir(t), "tree"), php: lab.PHPSeries(t, "")}
	out, err := exec.Command("cp", "-a", tree, a.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	// What the maintainer script of base-files makes.
	for link, to := range map[string]string{"var/run": "/run", "var/lock": "/run/lock"} {
		require.NoError(t, os.RemoveAll(filepath.Join(a.dir, link)))
		require.NoError(t, os.Symlink(to, filepath.Join(a.dir, link)))
	}
	for _, d := range []string{"run/apache2", "var/log/apache2", "run/lock/apache2", "srv/www", "etc/t"} {
		require.NoError(t, os.MkdirAll(filepath.Join(a.dir, d), 0o755))
	}
	a.write(t, "etc/passwd", "root:x:0:0::/:\nwww-data:x:33:33::/:\n")
	a.write(t, "etc/group", "root:x:0:\nwww-data:x:33:\n")
	a.write(t, "etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
	require.NoError(t, os.MkdirAll(filepath.Join(a.dir, "dev"), 0o755))
	require.NoError(t, unix.Mknod(filepath.Join(a.dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	a.root, err = jail.Open(a.dir)
	require.NoError(t, err)
	t.Cleanup(func() { a.root.Close() })
	return a
}

func (a *realApache) write(t *testing.T, name, text string) {
	t.Helper()
	name = filepath.Join(a.dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
}

func (a *realApache) enable(t *testing.T, kind string, names ...string) {
	t.Helper()
	for _, n := range names {
		to := filepath.Join(a.dir, "etc/apache2", kind+"-enabled", n)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		require.NoError(t, os.Symlink("../"+kind+"-available/"+n, to))
	}
}

func (a *realApache) command(env map[string]string, args ...string) *exec.Cmd {
	cmd := exec.Command("chroot", append([]string{a.dir, "/usr/sbin/apache2"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// seen is what can be said of a configuration by both, the server and this
// package.
type seen struct {
	Files, Modules, Defines, VHosts, Defaults []string
	ServerRoot, ErrorLog, PIDFile, User       string
}

var (
	dumpVHost  = regexp.MustCompile(`(default server |port \S+ namevhost )?(\S+) \((\S+:\d+|macro .*)\)$`)
	dumpFile   = regexp.MustCompile(`^\s+\((?:\*|\d+)\) (.+)$`)
	dumpModule = regexp.MustCompile(`^ (\S+) \(shared\)$`)
	dumpValue  = regexp.MustCompile(`^(\S[^:]*): (.*)$`)
)

// ask lets the server tell; ok is false where it refuses the configuration.
func (a *realApache) ask(t *testing.T, main string, o ApacheOptions) (s seen, out string, ok bool) {
	t.Helper()
	args := []string{"-f", main, "-t"}
	for _, d := range append([]string{"DUMP_VHOSTS", "DUMP_MODULES", "DUMP_INCLUDES", "DUMP_RUN_CFG"}, o.Defines...) {
		args = append(args, "-D", d)
	}
	raw, err := a.command(o.Env, args...).CombinedOutput()
	out = string(raw)
	if err != nil {
		return s, out, false
	}
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if m := dumpFile.FindStringSubmatch(line); m != nil {
			if m[1] != "/dev/null" {
				s.Files = append(s.Files, m[1])
			}
		} else if m := dumpModule.FindStringSubmatch(line); m != nil {
			s.Modules = append(s.Modules, m[1])
		} else if m := dumpVHost.FindStringSubmatch(line); m != nil {
			if strings.HasPrefix(m[3], "macro") {
				m[3] = m[2] // where it is written says nothing of this one
			}
			s.VHosts = append(s.VHosts, m[3])
			if !strings.HasPrefix(m[1], "port") {
				s.Defaults = append(s.Defaults, m[3])
			}
		} else if m := dumpValue.FindStringSubmatch(line); m != nil {
			value := m[2]
			if m[1] != "Define" {
				value = strings.Trim(value, `"`)
			}
			switch m[1] {
			case "ServerRoot":
				s.ServerRoot = value
			case "Main ErrorLog":
				s.ErrorLog = value
			case "PidFile":
				s.PIDFile = value
			case "User":
				if s.User, _, _ = strings.Cut(strings.TrimPrefix(value, `name="`), `"`); s.User == "#-1" {
					s.User = "" // left to the default
				}
			case "Define":
				if !strings.HasPrefix(value, "DUMP_") {
					s.Defines = append(s.Defines, value)
				}
			}
		}
	}
	return s.tidy(), out, true
}

// tell is the same as this package sees it.
func (a *realApache) tell(t *testing.T, main string, o ApacheOptions) (seen, *Apache, error) {
	t.Helper()
	defines := map[string]bool{}
	byName := false
	conf, err := readApache(a.root, main, o, func(r *apacheReader) {
		byName = len(r.macros) > 0
		for name := range r.defines {
			if value := r.vars[name]; value != "" {
				name += "=" + value
			}
			defines[name] = true
		}
	})
	if err != nil {
		return seen{}, nil, err
	}
	s := seen{
		Files: conf.Files(), Defines: slices.Collect(maps.Keys(defines)),
		ServerRoot: conf.ServerRoot(), PIDFile: conf.PIDFile(), User: conf.User(),
	}
	if s.PIDFile == "" {
		s.PIDFile = "/run/apache2.pid"
	}
	if logs := conf.ErrorLogs(); len(logs) > 0 {
		s.ErrorLog = logs[0]
	}
	for _, m := range conf.Modules() {
		if !m.LoadFile {
			s.Modules = append(s.Modules, m.Name)
		}
	}
	type key struct {
		host string
		port int
	}
	first := map[key]bool{}
	for _, server := range conf.servers()[1:] {
		for _, addr := range server.addrs {
			where := fmt.Sprintf("%s:%d", server.file, server.line)
			if byName {
				where = server.describe(nil).Names[0]
			}
			s.VHosts = append(s.VHosts, where)
			if addr.wildcard {
				addr.host = ""
			}
			if k := (key{addr.host, addr.port}); !first[k] {
				first[k] = true
				s.Defaults = append(s.Defaults, where)
			}
		}
	}
	return s.tidy(), conf, nil
}

func (s seen) tidy() seen {
	for _, list := range []*[]string{&s.Files, &s.Modules, &s.Defines, &s.VHosts, &s.Defaults} {
		*list = unique(append([]string{}, *list...))
	}
	slices.Sort(s.Defines)
	slices.Sort(s.VHosts)
	slices.Sort(s.Defaults)
	return s
}

func (a *realApache) compare(t *testing.T, main string, o ApacheOptions) *Apache {
	t.Helper()
	want, out, ok := a.ask(t, main, o)
	require.True(t, ok, "the server refuses it: %s", out)
	got, conf, err := a.tell(t, main, o)
	require.NoError(t, err)
	require.NotEmpty(t, want.Files)
	require.Equal(t, want, got)
	return conf
}

const debianMain = "/etc/apache2/apache2.conf"

func (a *realApache) debian(t *testing.T) ApacheOptions {
	t.Helper()
	env, err := ReadEnvVars(a.root, "/etc/apache2/envvars")
	require.NoError(t, err)
	return ApacheOptions{Env: env}
}

// What Debian ships, read out of the packages, and what its own server says.
func TestApacheOfTheDistribution(t *testing.T) {
	t.Parallel()
	a := newRealApache(t)
	o := a.debian(t)
	// A shell has the last word on the file that is written for it.
	shell := exec.Command("env", "-i", "sh", "-c", `APACHE_CONFDIR=/etc/apache2; . "$1"; env`, "sh", filepath.Join(a.dir, "etc/apache2/envvars"))
	out, err := shell.Output()
	require.NoError(t, err)
	want := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "="); strings.HasPrefix(name, "APACHE_") || name == "LANG" {
			want[name] = value
		}
	}
	require.Contains(t, want, "APACHE_RUN_USER")
	require.Equal(t, want, o.Env)

	a.enable(t, "mods", "mpm_event.load", "mpm_event.conf", "authz_core.load", "authz_host.load", "mime.load", "mime.conf", "dir.load", "dir.conf", "alias.load", "alias.conf")
	a.enable(t, "sites", "000-default.conf")
	conf := a.compare(t, debianMain, o)
	require.Equal(t, "event", conf.MPM())
	require.Equal(t, "www-data", conf.User())
	require.Equal(t, "www-data", conf.Group())
	require.Equal(t, []string{"/var/log/apache2/error.log"}, conf.ErrorLogs())
	require.Equal(t, "/var/run/apache2/apache2.pid", conf.PIDFile())
	require.Empty(t, conf.ChrootDir())
	require.Empty(t, conf.Warnings())
	require.Equal(t, "[::]:80", fmt.Sprint(conf.Listens()[0]))
	require.Len(t, conf.Listens(), 1)
	sites := conf.Servers()
	require.Len(t, sites, 1)
	require.Equal(t, "/var/www/html", sites[0].Root)
	require.False(t, sites[0].PHP)
	require.True(t, sites[0].Listens[0].Default)

	a.enable(t, "sites", "default-ssl.conf")
	a.enable(t, "mods", "ssl.load", "ssl.conf", "socache_shmcb.load", "setenvif.load", "setenvif.conf")
	for _, pem := range []string{"ssl/certs/ssl-cert-snakeoil.pem", "ssl/private/ssl-cert-snakeoil.key"} {
		a.write(t, "etc/"+pem, "")
	}
	conf = a.read(t, debianMain, o)
	require.Len(t, conf.Listens(), 2)
	require.True(t, conf.Listens()[1].SSL)
	require.False(t, conf.Listens()[0].SSL)
	sites = conf.Servers()
	require.Len(t, sites, 2)
	require.Equal(t, []string{"/etc/ssl/certs/ssl-cert-snakeoil.pem"}, sites[1].Certificates)
	require.Equal(t, "[::]:443", fmt.Sprint(sites[1].Listens[0]))
}

func (a *realApache) read(t *testing.T, main string, o ApacheOptions) *Apache {
	t.Helper()
	conf, err := ReadApache(a.root, main, o)
	require.NoError(t, err)
	return conf
}

func TestApacheWithPHPOfTheDistribution(t *testing.T) {
	t.Parallel()
	a := newRealApache(t)
	a.enable(t, "mods", "mpm_prefork.load", "mpm_prefork.conf", "authz_core.load", "authz_host.load", "php"+a.php+".load", "php"+a.php+".conf")
	a.enable(t, "sites", "000-default.conf")
	conf := a.compare(t, debianMain, a.debian(t))
	require.Equal(t, "prefork", conf.MPM())
	require.True(t, conf.modPHP())
	require.True(t, conf.Servers()[0].PHP)
	require.Empty(t, conf.FastCGI())
	for _, m := range conf.Modules() {
		_, err := a.root.Stat(m.Path)
		require.NoError(t, err)
	}
}

// Every module of the packages, with its settings: what it is called by
// <IfModule>, and what its settings bring in.
func TestApacheModuleNames(t *testing.T) {
	t.Parallel()
	a := newRealApache(t)
	all, err := filepath.Glob(filepath.Join(a.dir, "etc/apache2/mods-available/*.load"))
	require.NoError(t, err)
	require.Greater(t, len(all), 50)
	var on, ask bytes.Buffer
	seen := map[string]bool{}
	for _, file := range all {
		name := strings.TrimSuffix(filepath.Base(file), ".load")
		if strings.HasPrefix(name, "mpm_") && name != "mpm_prefork" {
			continue
		}
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?mi)^\s*LoadModule\s+(\S+)\s+(\S+)`).FindAllStringSubmatch(string(raw), -1) {
			if seen[m[1]] {
				continue
			}
			seen[m[1]] = true
			fmt.Fprintln(&on, m[0])
			base := strings.TrimSuffix(filepath.Base(m[2]), ".so")
			for _, as := range []string{m[1], base + ".c", strings.TrimPrefix(base, "mod_") + ".c", "util_" + strings.TrimPrefix(base, "mod_") + ".c", "mod_" + strings.TrimSuffix(m[1], "_module") + ".c", base} {
				fmt.Fprintf(&ask, "<IfModule %s>\nDefine IS_%s\n</IfModule>\n", as, as)
			}
		}
	}
	for _, as := range []string{"mod_php8.c", "mod_php7.c", "prefork.c", "worker.c", "mpm_prefork_module", "core.c", "core_module", "http_core.c", "http_module", "mod_http.c", "mod_so.c", "mod_unixd.c"} {
		fmt.Fprintf(&ask, "<IfModule %s>\nDefine IS_%s\n</IfModule>\n<IfModule !%s>\nDefine NOT_%s\n</IfModule>\n", as, as, as, as)
	}
	// What depends on another module comes after it, whatever its name.
	lines := strings.Split(strings.TrimSpace(on.String()), "\n")
	rank := func(line string) int {
		for i, first := range []string{"mpm_", "proxy_module", "cache_module", "session_module", "dav_module", "ldap_module", "http2_module", "watchdog"} {
			if strings.Contains(line, " "+first) {
				return i
			}
		}
		return 99
	}
	slices.SortStableFunc(lines, func(a, b string) int { return rank(a) - rank(b) })
	a.write(t, "etc/t/all.conf", strings.Join(lines, "\n")+"\nServerName x\nErrorLog /var/log/apache2/e.log\n"+ask.String())
	conf := a.compare(t, "/etc/t/all.conf", ApacheOptions{ServerRoot: "/etc/apache2"})
	require.Greater(t, len(conf.Modules()), 50)
}

// A FIFO in the place of a file: no waiting.
func TestApacheFIFO(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.conf"), []byte("\nIncludeOptional pipe\n"), 0o644))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	root, err := jail.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	_, err = ReadApache(root, "/main.conf", ApacheOptions{})
	require.ErrorIs(t, err, jail.ErrNotRegular)
	require.ErrorContains(t, err, "/main.conf:2: IncludeOptional: /pipe: not a regular file")
	_, err = ReadEnvVars(root, "/pipe")
	require.ErrorIs(t, err, jail.ErrNotRegular)
	_, err = ReadEnvVars(root, "/envvars")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
