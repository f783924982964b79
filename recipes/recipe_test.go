package recipes

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// good is a whole recipe; a test changes one line of it.
const good = `name: srv
aliases: [server]
title: a server
packages: [srv, libsrv1]
owns: [srv, "srv-*"]
executables: [/usr/sbin/srv]
runtime:
  - /usr/lib/*/srv/*.so
exclude: [/usr/share/doc/**]
configuration:
  reader: nginx
  main: /etc/srv/srv.conf
  test: [/usr/sbin/srv, -t]
version: [/usr/sbin/srv, -V]
service:
  start: [/usr/sbin/srv]
  pid_files: [/run/srv.pid]
  quit: SIGQUIT
  term: SIGTERM
  reload: SIGHUP
  options:
    - {name: -c, instance: true, default: /etc/srv/srv.conf}
  one_shot: [-t]
state: [/var/lib/srv/**]
create:
  listen: "0.0.0.0:80"
  users:
    - {name: www, uid: 33, gid: 33, home: /var/www, shell: /bin/false}
  groups:
    - {name: www, gid: 33}
  dirs:
    - {path: /tmp, mode: 1777}
    - {path: /var/www, mode: 755, owner: www, group: www}
  links:
    - {path: /var/run, to: /run}
  files:
    - path: /etc/srv/listen.conf
      content: |
        listen {{.Listen}};
`

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"/run/**", "/run", false},
		{"/run/**", "/run/x", true},
		{"/run/**", "/run/x/y/z", true},
		{"/run/**", "/runner/x", false},
		{"/run/*", "/run/x/y", false},
		{"/run/*", "/run/x", true},
		{"/usr/lib/*/gconv/**", "/usr/lib/x86_64-linux-gnu/gconv/a.so", true},
		{"/usr/lib/*/gconv/**", "/usr/lib/gconv/a.so", false},
		{"/usr/**/nginx.so", "/usr/nginx.so", true},
		{"/usr/**/nginx.so", "/usr/a/b/c/nginx.so", true},
		{"/usr/**/nginx.so", "/usr/a/b/nginx.so/c", false},
		{"/usr/**/perl5/**/nginx.so", "/usr/lib/perl5/5.36/auto/nginx.so", true},
		{"/usr/**/perl5/**/nginx.so", "/usr/lib/perl/5.36/nginx.so", false},
		{"**", "/a", true},
		{"/**", "/", true},
		{"/**/**", "/a", true},
		{"/a/**/b/**", "/a/b", false},
		{"/a/**/b/**", "/a/b/c", true},
		{"/a/**/b/**", "/a/x/b/b/c", true},
		{"/a?c", "/abc", true},
		{"/a?c", "/a/c", false},
		{"/[ab]x", "/bx", true},
		{"/[", "/[", false}, // not well-formed: fits nothing
		{"/a", "/a/", false},
		{"", "", true},
	} {
		require.Equal(t, c.want, Match([]string{c.glob}, c.path), "%s on %s", c.glob, c.path)
	}
	require.False(t, Match(nil, "/a"))
	require.True(t, Match([]string{"/x", "/a"}, "/a"))
	require.Error(t, checkGlob("/a/[/b"))
	require.NoError(t, checkGlob("/a/**/[b]*"))
}

// A glob of many stars is no way to stop the program.
func TestMatchIsQuick(t *testing.T) {
	t.Parallel()
	began := time.Now()
	require.False(t, Match([]string{strings.Repeat("/**/a", 20) + "/b"}, strings.Repeat("/a", 200)))
	require.True(t, Match([]string{strings.Repeat("/**/a", 20) + "/**"}, strings.Repeat("/a", 200)))
	require.Less(t, time.Since(began), 2*time.Second)
}

func TestParse(t *testing.T) {
	t.Parallel()
	r, err := Parse("srv.yaml", []byte(good))
	require.NoError(t, err)
	require.Equal(t, "srv.yaml", r.File())
	require.Equal(t, "srv", r.Server())
	require.EqualValues(t, 0o1777, r.Create.Dirs[0].Perm())
	text, err := r.Create.Files[0].Render(Values{Listen: "127.0.0.1:8080"})
	require.NoError(t, err)
	require.Equal(t, "listen 127.0.0.1:8080;\n", text)
}

// One line of the good recipe is changed; the error names the place.
func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ old, new, err string }{
		{"title: a server", "titel: a server", "line 3: field titel not found"},
		{"  reload: SIGHUP", "  reload: SIGHUP\n  restart: always", "line 21: field restart not found"},
		{"packages: [srv, libsrv1]", "packages: 7", "line 4: cannot unmarshal"},
		{"name: srv", "name: srv\nname: twice", "line 2: mapping key \"name\" already defined"},
		{"name: srv", "name: [", "line 2: did not find expected"},
		{"name: srv", "name: Srv", `name: "Srv" is no name`},
		{"name: srv", "name: ../srv", `name: "../srv" is no name`},
		{"name: srv", "", `name: "" is no name`},
		{"packages: [srv, libsrv1]", "packages: []", "packages: at least one is needed"},
		{"packages: [srv, libsrv1]", "packages: [srv, -o]", `packages: "-o" is no package name`},
		{"executables: [/usr/sbin/srv]", "executables: []", "executables: at least one is needed"},
		{"executables: [/usr/sbin/srv]", "executables: [usr/sbin/srv]", `executables: "usr/sbin/srv" is no absolute path`},
		{"executables: [/usr/sbin/srv]", "executables: [/usr/../etc/srv]", `executables: "/usr/../etc/srv" is no absolute path`},
		{"  start: [/usr/sbin/srv]", "  start: []", "service.start: the command"},
		{"  start: [/usr/sbin/srv]", "  start: [srv]", `service.start: "srv" is no absolute path`},
		{"  reader: nginx", "  reader: iis", `configuration.reader: "iis" is not known`},
		{"  main: /etc/srv/srv.conf", "  main: srv.conf", "configuration.main"},
		{"  test: [/usr/sbin/srv, -t]", "  test: [srv, -t]", "configuration.test"},
		{"version: [/usr/sbin/srv, -V]", "version: [srv]", "version"},
		{"  quit: SIGQUIT", "  quit: QUIT", `service.quit: "QUIT" is no signal`},
		{"  term: SIGTERM", "  term: SIGNONE", "service.term"},
		{"  reload: SIGHUP", "  reload: 1", "service.reload"},
		{"  - /usr/lib/*/srv/*.so", "  - /usr/lib/[/x", `runtime: "/usr/lib/[/x"`},
		{"state: [/var/lib/srv/**]", "state: [var]", `state: "var" is no absolute path`},
		{"exclude: [/usr/share/doc/**]", `exclude: ["/a/"]`, "exclude"},
		{`  listen: "0.0.0.0:80"`, `  listen: "80"`, "create.listen"},
		{"name: www, uid: 33", "name: w:w, uid: 33", "create.users"},
		{"name: www, uid: 33", "name: www, uid: -1", "create.users"},
		{"home: /var/www", `home: "/a:/b"`, "create.users"},
		{"home: /var/www", `home: "/a\nroot::0:0"`, "create.users"},
		{"{name: www, gid: 33}", "{name: www, gid: -5}", "create.groups"},
		{"mode: 1777", "mode: 888", "create.dirs"},
		{"mode: 1777", "mode: 17777", "create.dirs"},
		{"path: /tmp", "path: tmp", "create.dirs"},
		{"path: /tmp", "path: /tmp/../../etc", "create.dirs"},
		{"owner: www", "owner: nobody", "no such user or group in create"},
		{"group: www", "group: nobody", "no such user or group in create"},
		{"to: /run", `to: ""`, "create.links"},
		{"path: /var/run", "path: var/run", "create.links"},
		{"path: /var/run", "path: /var/../run", "create.links"},
		{"path: /etc/srv/listen.conf", "path: listen.conf", "create.files"},
		{"path: /etc/srv/listen.conf", "path: /etc/../listen.conf", "create.files"},
		{"{{.Listen}}", "{{.Nothing}}", "/etc/srv/listen.conf"},
		{"{{.Listen}}", "{{.Listen", "/etc/srv/listen.conf"},
		{`owns: [srv, "srv-*"]`, `owns: ["srv-["]`, "owns"},
		{"aliases: [server]", `aliases: ["a b"]`, "aliases"},
		{good, good + "---\n" + good, "more than one document"},
		{good, "", "it is empty"},
		{good, "- a\n- b\n", "line 1"},
	} {
		require.Contains(t, good, c.old)
		_, err := Parse("srv.yaml", []byte(strings.Replace(good, c.old, c.new, 1)))
		require.ErrorContains(t, err, c.err, c.new)
		require.True(t, strings.HasPrefix(err.Error(), "cannot read recipe srv.yaml: "), err)
		require.NotContains(t, err.Error(), "\n")
		require.NotContains(t, err.Error(), "recipes.", "people know no Go types")
	}
}

func TestCheckListen(t *testing.T) {
	t.Parallel()
	for s, ok := range map[string]bool{
		"0.0.0.0:80": true, "127.0.0.1:1": true, "[::]:443": true, "[::1]:65535": true, "*:8080": true,
		"": false, "80": false, ":80": false, "localhost:80": false, "1.2.3.4:0": false, "1.2.3.4:65536": false, "1.2.3.4:http": false,
		"::1:80": false, "1.2.3.4:80; include /etc/shadow": false, "1.2.3.4:80\n": false, "1.2.3:80": false, "1.2.3.4:+80": false,
	} {
		require.Equal(t, ok, CheckListen(s) == nil, "%q", s)
	}
}

// Each embedded recipe is whole, and named as its file.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	s, err := Load("")
	require.NoError(t, err)
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	abstract := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		abstract += strings.Count(string(text), "\nabstract: true\n")
	}
	require.Len(t, s.All(), len(files)-abstract)
	logs := map[string]string{"nginx": "/var/log/nginx/error.log", "apache": "/var/log/apache2/error.log", "php-fpm": "/var/log/php8.2-fpm.log"}
	seen := map[string]string{}
	for _, r := range s.All() {
		require.Equal(t, r.Name+".yaml", path.Base(r.File()))
		require.NotEmpty(t, r.Title, r.Name)
		require.NotEmpty(t, r.State, r.Name)
		for _, c := range r.Companions {
			_, ok := s.Find(c)
			require.True(t, ok, "%s: no recipe %s", r.Name, c)
		}
		if !r.HasProcesses() {
			_, ok := s.Find(r.Within)
			require.True(t, ok, "%s: no recipe %s", r.Name, r.Within)
			continue
		}
		require.NotEmpty(t, r.Configuration.Test, r.Name)
		require.NotEmpty(t, logs[r.Name], "%s: tell this test where its log is", r.Name)
		require.True(t, Match(r.At(Edition{Series: "8.2"}).State, logs[r.Name]), "%s: its logs are state", r.Name)
		for _, x := range r.Executables {
			require.False(t, Match(r.Exclude, x), x)
			require.False(t, Match(r.State, x), x)
		}
		for _, n := range append([]string{r.Name}, r.Aliases...) {
			if !r.HasProcesses() {
				continue
			}
			require.Empty(t, seen[n], "%s is a name of %s and of %s", n, r.Name, seen[n])
			seen[n] = r.Name
			found, ok := s.Find(n)
			require.True(t, ok)
			require.Same(t, r, found)
		}
	}
	_, ok := s.Find("no such server")
	require.False(t, ok)
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	put("srv.yaml", good)
	put("mine.yaml", strings.Replace(strings.Replace(good, "name: srv", "name: nginx", 1), "[server]", "[web]", 1))
	put("notes.txt", "no recipe")
	s, err := Load(dir)
	require.NoError(t, err)
	r, ok := s.Find("nginx")
	require.True(t, ok)
	require.Equal(t, filepath.Join(dir, "mine.yaml"), r.File(), "one's own comes before the embedded one")
	_, ok = s.Find("server")
	require.True(t, ok)
	s, err = Load(filepath.Join(dir, "none"))
	require.NoError(t, err)
	require.NotEmpty(t, s.All())

	put("bad.yaml", "name: bad\n")
	_, err = Load(dir)
	require.ErrorContains(t, err, "bad.yaml")
}

func TestReadFileRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := filepath.Join(dir, "r.yaml")
	_, err := ReadFile(p)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = ReadFile(dir)
	require.ErrorContains(t, err, "not a file")
	require.NoError(t, os.WriteFile(p, []byte(good+"#"+strings.Repeat("x", maxSize)), 0o600))
	_, err = ReadFile(p)
	require.ErrorContains(t, err, "at most 1 MiB")
	require.NoError(t, os.WriteFile(p, []byte(good), 0o600))
	_, err = ReadFile(p)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(p, 0o606))
	if os.Geteuid() == 0 {
		_, err = ReadFile(p)
		require.ErrorContains(t, err, "others may write to it")
	}
	_, err = ReadFile("/dev/zero")
	require.ErrorContains(t, err, "not a file")
}

// Whatever the bytes are: an error of one line, or a recipe whose paths are
// absolute and clean.
func FuzzRecipe(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("name: x\n---\nname: y"))
	f.Add([]byte("{"))
	s, err := filepath.Glob("*.yaml")
	require.NoError(f, err)
	for _, n := range s {
		data, err := os.ReadFile(n)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxSize {
			return
		}
		r, err := Parse("f.yaml", data)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		if r.Abstract {
			return
		}
		require.NotEmpty(t, r.Server())
		for _, p := range append(append(append([]string{}, r.Executables...), r.State...), given(r.Configuration.Main)...) {
			p = filled(p)
			require.True(t, path.IsAbs(p) && path.Clean(p) == p, p)
			Match([]string{p}, "/usr/lib/a/b/c")
		}
	})
}

// The quick matcher against one that tries everything.
func TestMatchAgainstAll(t *testing.T) {
	t.Parallel()
	var all func(glob, name []string) bool
	all = func(glob, name []string) bool {
		switch {
		case len(glob) == 0 || len(name) == 0:
			return len(glob) == 0 && len(name) == 0
		case glob[0] == "**":
			for i := range name {
				if len(glob) == 1 || all(glob[1:], name[i:]) {
					return true
				}
			}
			return false
		}
		return glob[0] == name[0] && all(glob[1:], name[1:])
	}
	var lists func(n int, of []string) [][]string
	lists = func(n int, of []string) [][]string {
		out := [][]string{nil}
		if n > 0 {
			for _, l := range lists(n-1, of) {
				for _, x := range of {
					out = append(out, append(append([]string{}, l...), x))
				}
			}
		}
		return out
	}
	names := lists(5, []string{"a", "b"})
	for _, glob := range lists(5, []string{"a", "b", "**"}) {
		for _, name := range names {
			require.Equal(t, all(glob, name), matchParts(glob, name), "%q %q", glob, name)
		}
	}
}

// A folder of recipes that others may add to, and a recipe of somebody else, are
// not what root goes by.
func TestRecipesOfOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: anybody else has only themselves to trust")
	}
	dir := t.TempDir()
	p := filepath.Join(dir, "mine.yaml")
	require.NoError(t, os.WriteFile(p, []byte(good), 0o644))
	require.NoError(t, os.Chmod(dir, 0o755))
	_, err := Load(dir)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o777))
	_, err = Load(dir)
	require.ErrorContains(t, err, "others may write to it")
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Chown(p, 1234, -1))
	_, err = Load(dir)
	require.ErrorContains(t, err, "belongs to user 1234")
	_, err = Load(filepath.Join(dir, "none"))
	require.NoError(t, err)
}
