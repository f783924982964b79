package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/lab/byhand"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/recipes"
)

// phpStory are the lines that a showing with PHP must have, in this order. php is
// the package of PHP, tests are the commands that test the configurations.
func phpStory(server, pkg, php, tests string) []string {
	return []string{
		`^\S*1\. An older ` + server + ` with PHP`, `^ +older: +` + pkg + ` \d`, `^ +` + php + ` \d`, `^ +newest: +` + pkg + ` \d`, `^ +` + php + ` \d`,
		`^\S*2\. A jail`, `^ +jail: .* \d+ files of \d+ packages`, `^ +answers: +http://127\.0\.0\.1:\d+/demo\.php, \d+ bytes`,
		`^ +PHP: +\d\S*, with [1-9]\d+ modules`, `^ +modules: +\S`,
		`^\S*3\. The upgrade`, `^ +load:`, `^ +it is down: +stop .*install .*start`,
		`^ +measured: +\d+ requests served in .*, \d+ without an answer$`, `^ +downtime:`, `^ +changed: +[1-9]\d* files?; ` + pkg + ` \S+ -> \S+$`, `^ +page: +the same`,
		`^ +PHP: +(\d\S* -> \d\S*|\d\S* before and after), as its pages tell$`, `^ +modules: +(\d+) listed before, \d+ listed after: the same$`,
		`^\S*4\. An upgrade to a broken`, `^ +sabotage: +` + php + ` \S+ brings /etc/php/\S+/99-broken\.ini`, `^ +` + tests + ` nothing wrong with it`,
		`^ +check: .* answers 500`, `^ +FAILS: +verify`, `^ +goes back: +verify, seal, start, install, settle, stop`,
		`^ +measured: .* [1-9]\d* answered by 500$`, `^ +result: +exit status 3`, `^ +page: +the same`, `^ +PHP: .* as before$`, `^ +jail: +all \d+ files`,
		`^\S*5\. An upgrade that is killed`, `^ +SIGKILL: .* nobody types`, `^ +answers: +again .* after the kill`, `^ +recover:`, `^ +PHP: .* as before$`, `^ +jail: +all \d+ files`,
		`^Everything went as it should, in `,
	}
}

// TestDemoWithPHP shows both servers with PHP, and wants nothing to be left of it.
func TestDemoWithPHP(t *testing.T) {
	lab.Need(t, "root", "apt", "go")
	bin := demoProgram(t)
	host := func(t *testing.T) demoHost {
		return demoHost{bin: bin, tmp: lab.ShmDir(t), cache: filepath.Join(lab.Cache(t), "demo")}
	}
	for _, c := range []struct {
		name  string
		story []string
		args  []string
	}{
		{"nginx", phpStory("nginx", "nginx", `php\d[\d.]*-fpm`, `php-fpm\S+ -t and nginx -t find`), []string{"--server", "nginx"}},
		{"apache", phpStory("apache", "apache2", `libapache2-mod-php\d[\d.]*`, `apache2 -t finds`), []string{"--server", "apache"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := host(t)
			var out, errs bytes.Buffer
			cmd := h.command(append(c.args, "--with", "php,mysql,gd")...)
			cmd.Stdout, cmd.Stderr = &out, &errs
			_ = cmd.Run()
			require.Equal(t, 0, cmd.ProcessState.ExitCode(), out.String()+errs.String())
			require.Empty(t, errs.String())
			require.NotRegexp(t, `[\x00-\x09\x0b-\x1f\x7f]`, out.String(), "no control characters without a terminal")
			requireStory(t, strings.Split(out.String(), "\n"), c.story)
			require.Regexp(t, `(?s)\n +modules: [^:]*\bgd,[^:]*\bmysqli,[^:]*\n\n3\.`, out.String(), "what was asked for came along")
			h.nothingLeft(t)
			// The clock on the wall tells how busy the machine is.
			require.Less(t, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), 2*time.Minute)
		})
	}

	t.Run("unknown modules", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{
			{"--with", "nosuchmodule"},
			{"--with", "php,nosuchmodule"},
			{"--server", "apache", "--with", "nosuchmodule"},
			{"--server", "apache2", "--with", "php,../x"},
		} {
			h := host(t)
			stdout, stderr := h.run(t, 64, args...)
			require.Regexp(t, `^error: cannot find module (nosuchmodule|\.\./x): .*\nhint: .*\n$`, stderr, "%v\n%s", args, stdout)
			h.nothingLeft(t)
		}
	})
}

// TestDemoKeptWithPHP types out how to end a jail with two servers.
func TestDemoKeptWithPHP(t *testing.T) {
	t.Parallel()
	set, err := recipes.Load("")
	require.NoError(t, err)
	nginx, ok := set.Find("nginx")
	require.True(t, ok)
	php, ok := set.Companion(nginx, "php")
	require.True(t, ok)
	var out bytes.Buffer
	d := &demo{recipe: recipes.Join(nginx, php.At(recipes.Edition{Series: "9.9"})), main: nginx,
		say: &narrator{out: &out, events: event.New("x", nil)}, dir: "/d", jail: "/d/jail", state: "/d/state"}
	d.kept()
	require.Contains(t, out.String(), "remove:     jailup stop nginx --jail /d/jail --state-dir /d/state"+
		" && jailup stop php-fpm --jail /d/jail --state-dir /d/state && rm -r /d\n")
	require.Equal(t, "php-fpm and nginx", d.servers())
	require.Equal(t, "php-fpm9.9 -t and nginx -t find", d.tests())
	bad := d.sabotage()
	require.Equal(t, "php9.9-fpm", bad.pkg)
	require.Equal(t, "/etc/php/9.9/fpm/conf.d/99-broken.ini", bad.file.path)
	require.Contains(t, bad.file.data, bad.line)
}

// madeDeb is a package with nothing in it but its relations.
func madeDeb(t *testing.T, dir, name, version, fields string) {
	t.Helper()
	control := byhand.WholeTar(byhand.File("./control", "Package: "+name+"\nVersion: "+version+
		"\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"+fields+"Description: a test\n"))
	deb := byhand.Deb(".gz", byhand.Pack(t, ".gz", control), byhand.Pack(t, ".gz", byhand.WholeTar()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+"_"+version+".deb"), deb, 0o600))
}

// TestDemoOlderPHP takes older packages of one source together, for they need each
// other in the same version, and leaves the others as they are.
func TestDemoOlderPHP(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, v := range []string{"7.1", "7.2", "7.3"} {
		madeDeb(t, dir, "php7-fpm", v, "Source: php7\nDepends: php7-common (= "+v+"), lib\n")
		madeDeb(t, dir, "php7-gd", v, "Source: php7\nDepends: php7-common (= "+v+")\n")
		madeDeb(t, dir, "lib", v, "")
		madeDeb(t, dir, "nginx", v, "Depends: lib\n")
		if v != "7.1" { // so the oldest that there is cannot be had
			madeDeb(t, dir, "php7-common", v, "Source: php7\n")
		}
	}
	src, err := source.OpenDir(dir, source.DirOptions{})
	require.NoError(t, err)
	ix, err := src.Index(t.Context())
	require.NoError(t, err)
	set, err := recipes.Load("")
	require.NoError(t, err)
	nginx, ok := set.Find("nginx")
	require.True(t, ok)
	php, ok := set.Companion(nginx, "php")
	require.True(t, ok)
	target := &source.Target{}
	for _, n := range []string{"lib", "nginx", "php7-common", "php7-fpm", "php7-gd"} {
		versions := ix.Versions(n)
		require.NotEmpty(t, versions)
		target.Packages = append(target.Packages, versions[0])
	}
	d := &demo{main: nginx, s: &session{recipe: recipes.Join(nginx, php)}, dir: t.TempDir(), packed: map[string]string{},
		cast: cast{index: ix, source: src, first: target, create: []string{"--version", "7.3"}}}

	p, ok := packageOf(php, target)
	require.True(t, ok)
	require.Equal(t, "php7-fpm", p.Package)
	require.Equal(t, []string{"7.1", "7.2"}, olderVersions(ix, p))

	require.NoError(t, d.olderParts(t.Context()))
	var got []string
	for _, p := range d.cast.first.Packages {
		got = append(got, p.String())
	}
	require.Equal(t, []string{"lib 7.3", "nginx 7.3", "php7-common 7.2", "php7-fpm 7.2", "php7-gd 7.2"}, got)
	require.Equal(t, []string{"--source", "dir:" + filepath.Join(d.dir, "older")}, d.cast.create)
	debs, err := filepath.Glob(filepath.Join(d.dir, "older", "*.deb"))
	require.NoError(t, err)
	require.Len(t, debs, 5)

	t.Run("what is repacked is so in one folder only", func(t *testing.T) {
		for _, packed := range []map[string]string{d.packed, {}} { // there, and not there yet
			d := &demo{main: nginx, dir: t.TempDir(), packed: packed, cast: cast{source: src, target: target}}
			for _, want := range []string{"7.3+demo1", "7.3+demo2"} {
				folder, version, err := d.repack(t.Context(), "nginx", difference("nginx", want), debFile{path: "/" + want, data: "x"})
				require.NoError(t, err)
				require.Equal(t, want, version)
				data, err := os.ReadFile(debIn(folder, "nginx"))
				require.NoError(t, err)
				deb := openDeb(t, data)
				require.Equal(t, want, deb.Control().Version)
				all := members(t, deb)
				require.Contains(t, all, "/"+want)
				require.Equal(t, want+"\n", all["/usr/share/nginx/jailup-demo.txt"].Data)
				require.Len(t, all, 5, "two files and three folders: %v", all)
				files, err := os.ReadDir(folder)
				require.NoError(t, err)
				require.Len(t, files, len(target.Packages))
			}
		}
		data, err := os.ReadFile(debIn(filepath.Join(d.dir, "older"), "nginx"))
		require.NoError(t, err)
		require.Equal(t, "7.3", openDeb(t, data).Control().Version)
	})
}

func TestPackageOf(t *testing.T) {
	t.Parallel()
	part := func(pkg string) *recipes.Recipe { return &recipes.Recipe{Packages: []string{pkg}} }
	of := func(names ...string) *source.Target {
		t := &source.Target{}
		for _, n := range names {
			t.Packages = append(t.Packages, source.Package{Stanza: pkgs.Stanza{Package: n}})
		}
		return t
	}
	for _, c := range []struct{ template, want string }{
		{"php{series}-fpm", "php8.2-fpm"}, {"nginx", "nginx"}, {"libapache2-mod-php{series}", ""}, {"php{series}-gd", ""},
	} {
		p, ok := packageOf(part(c.template), of("libapache2-mod-php", "nginx", "php-fpm", "php-imagick-gd", "php8.2-fpm"))
		require.Equal(t, c.want, p.Package, c.template)
		require.Equal(t, c.want != "", ok)
	}
}
