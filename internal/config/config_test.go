package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

const user = 1000 // one who is not root, and whose files are not looked at

func write(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

// say is what a user sees of an error.
func say(t testing.TB, err error) string {
	t.Helper()
	require.Error(t, err)
	var e *Error
	require.ErrorAs(t, err, &e, "every error of this room has a place for a hint")
	text := e.Error() + "\n"
	if e.Hint() != "" {
		text += "hint: " + e.Hint() + "\n"
	}
	require.LessOrEqual(t, strings.Count(text, "\n"), 2)
	require.False(t, strings.ContainsAny(text, "\x1b\u202e\r\t\x00"))
	return text
}

// Every NAME.yaml of testdata/bad is refused with the text of NAME.64.txt: 64 is
// the exit status that goes with it. jail_* are read as files of jails.d.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			dir := t.TempDir()
			if strings.HasPrefix(name, "jail_") {
				write(t, filepath.Join(dir, "jails.d/web.yaml"), string(data))
			} else {
				write(t, filepath.Join(dir, "config.yaml"), string(data))
			}
			_, err = loader{uid: user}.dir(dir)
			got := strings.ReplaceAll(say(t, err), dir, "/etc/jailup")
			golden := filepath.Join("testdata/bad", name+".64.txt")
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}

const whole = `# all that a file can say
source: dir:/srv/debs
apt-sources: /etc/apt/sources.list
keyring: /usr/share/keyrings/x.gpg
keys: [0123456789ABCDEF0123456789ABCDEF01234567]
suite: bookworm
version: 1.10
drop-module: [imap]
with: [headers-more]
hold: [nginx, libc6]
listen: 127.0.0.1:8080
strategy: restart
rehearse: no
conf: new
soak: 1m30s
stop-timeout: 45s
start-timeout: 2m
lock-wait: 0
timeout: 1h
snapshots: /backup
keep: 7
snapshot: {exclude: [/var/cache/**]}
skip-ok: true
accept-inconclusive: true
checks:
  - http: http://127.0.0.1/
`

func TestWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "config.yaml"), whole+"state-dir: /s\ncache-dir: /c\noutput: json\nquiet: off\nverbose: on\nno-color: yes\n")
	write(t, filepath.Join(dir, "jails.d/web.yaml"), "path: /srv//web/\nserver: nginx\nrecipe: {x: 1}\n"+whole)
	write(t, filepath.Join(dir, "jails.d/api.yaml"), "path: /srv/api\n")
	write(t, filepath.Join(dir, "jails.d/web.yaml~"), "junk: [")
	write(t, filepath.Join(dir, "jails.d/web.yaml.dpkg-old"), "junk: [")
	write(t, filepath.Join(dir, "jails.d/.web.yaml.swp.yaml"), "junk: [")
	c, err := loader{uid: user}.dir(dir)
	require.NoError(t, err)

	set := func(s Settings) {
		each(reflect.ValueOf(s), func(name string, f reflect.StructField, v reflect.Value) {
			if v.Kind() == reflect.Pointer {
				require.Equal(t, false, v.IsNil(), name)
			}
		})
	}
	set(c.Settings) // a setting that is added must be added to this test
	require.Equal(t, "1.10", *c.Version, "a version is a text, not the number 1.1")
	require.Equal(t, []string{"/etc/apt/sources.list"}, *c.AptSources)
	require.Equal(t, 90*time.Second, c.Soak.D())
	require.Equal(t, Duration(0), *c.LockWait)
	require.False(t, *c.Rehearse)
	require.Equal(t, []string{"/var/cache/**"}, *c.Snapshot.Exclude)
	require.Equal(t, yaml.SequenceNode, c.Checks.Kind)
	require.Equal(t, 26, c.Checks.Line, "checks keep their position")

	jails := c.Jails()
	require.Len(t, jails, 2)
	require.Equal(t, "api", jails[0].Name)
	require.True(t, jails[0].Checks.IsZero())
	web, ok := c.FindJail("web")
	require.True(t, ok)
	require.Equal(t, "/srv/web", web.Path)
	require.Equal(t, "nginx", web.Server)
	require.Equal(t, "new", *web.Conf)
	require.Equal(t, yaml.MappingNode, web.Recipe.Kind)
	_, ok = c.FindJail("nobody")
	require.False(t, ok)
	at, ok := c.JailAt("/srv/web/")
	require.True(t, ok)
	require.Equal(t, "web", at.Name)

	for arg, want := range map[string][2]string{
		"web":      {"/srv/web", "web"},
		"./web":    {"./web", ""},
		"other":    {"other", ""},
		"/srv/web": {"/srv/web", "web"},
	} {
		path, jail := c.Locate(arg)
		require.Equal(t, want[0], path)
		require.Equal(t, want[1] != "", jail != nil)
	}
}

func TestNothingThere(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "~\n", "{}\n"} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "config.yaml"), text)
		c, err := loader{uid: user}.dir(dir)
		require.NoError(t, err, "%q", text)
		require.Empty(t, c.Jails())
		require.Equal(t, Settings{}, c.Settings)
	}
	c, err := Load(filepath.Join(t.TempDir(), "none"))
	require.NoError(t, err)
	require.Empty(t, c.Jails())
}

func TestNamedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "mine.yaml")
	write(t, file, "soak: 3s\n")
	write(t, filepath.Join(dir, "jails.d/web.yaml"), "path: /srv/web\n")
	write(t, filepath.Join(dir, "config.yaml"), "soak: 5s\n")
	for name, want := range map[string]Duration{file: Duration(3 * time.Second), dir: Duration(5 * time.Second)} {
		c, err := LoadFile(name)
		require.NoError(t, err)
		require.Equal(t, want, *c.Soak)
		require.Len(t, c.Jails(), 1)
	}
	_, err := LoadFile(filepath.Join(dir, "none.yaml"))
	require.Contains(t, say(t, err), "none.yaml: no such file or directory")
}

// What is wrong with the files themselves, each in a folder of its own.
func TestBadPlaces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		uid  int
		make func(t *testing.T, dir string)
		want string
	}{
		{"huge", user, func(t *testing.T, dir string) {
			write(t, dir+"/config.yaml", strings.Repeat("#", maxSize+1))
		}, "cannot read DIR/config.yaml: it is larger than 1 MiB\n"},
		{"endless", user, func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("/dev/zero", dir+"/config.yaml"))
		}, "cannot read DIR/config.yaml: it is not a regular file\n"},
		{"fifo", user, func(t *testing.T, dir string) {
			require.NoError(t, syscall.Mkfifo(dir+"/config.yaml", 0o600))
		}, "cannot read DIR/config.yaml: it is not a regular file\n"},
		{"folder", user, func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir+"/config.yaml", 0o700))
		}, "cannot read DIR/config.yaml: it is not a regular file\n"},
		{"loop of links", user, func(t *testing.T, dir string) {
			require.NoError(t, os.Symlink("config.yaml", dir+"/config.yaml"))
		}, "cannot read DIR/config.yaml: too many levels of symbolic links\n"},
		{"jails.d is a file", user, func(t *testing.T, dir string) {
			write(t, dir+"/jails.d", "")
		}, "cannot read DIR/jails.d: it is not a directory\n"},
		{"jail is a link to nowhere", user, func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir+"/jails.d", 0o755))
			require.NoError(t, os.Symlink("none", dir+"/jails.d/web.yaml"))
		}, "cannot read DIR/jails.d/web.yaml: no such file or directory\n"},
		{"wrong ending", user, func(t *testing.T, dir string) {
			write(t, dir+"/jails.d/web.yml", "path: /srv/web\n")
		}, "cannot read DIR/jails.d/web.yml: its name does not end in .yaml\nhint: rename it, or move it away\n"},
		{"wrong name", user, func(t *testing.T, dir string) {
			write(t, dir+"/jails.d/-rf \x1b[2J.yaml", "path: /srv/web\n")
		}, "cannot read DIR/jails.d/-rf .yaml: a jail cannot be called \"-rf\"\n" +
			"hint: use letters, digits, dots, dashes and underscores, at most 64\n"},
		{"one path twice", user, func(t *testing.T, dir string) {
			write(t, dir+"/jails.d/a.yaml", "path: /srv/web\n")
			write(t, dir+"/jails.d/b.yaml", "path: /srv/./web/\n")
		}, "cannot read DIR/jails.d/b.yaml: its path \"/srv/web\" is that of the jail a already\nhint: remove one of the two files\n"},
		{"written by others", 0, func(t *testing.T, dir string) {
			write(t, dir+"/config.yaml", "")
			require.NoError(t, os.Chmod(dir+"/config.yaml", 0o646))
		}, "cannot read DIR/config.yaml: others than root may write it (mode 0646)\n" +
			"hint: look at what it says, then: chmod 644 DIR/config.yaml\n"},
		{"written by the group", 0, func(t *testing.T, dir string) {
			write(t, dir+"/jails.d/web.yaml", "path: /srv/web\n")
			require.NoError(t, os.Chmod(dir+"/jails.d/web.yaml", 0o664))
		}, "cannot read DIR/jails.d/web.yaml: others than root may write it (mode 0664)\n" +
			"hint: look at what it says, then: chmod 644 DIR/jails.d/web.yaml\n"},
		{"folder written by others", 0, func(t *testing.T, dir string) {
			require.NoError(t, os.Mkdir(dir+"/jails.d", 0o755))
			require.NoError(t, os.Chmod(dir+"/jails.d", 0o777))
		}, "cannot read DIR/jails.d: others than root may write it (mode 0777)\n" +
			"hint: look at what it says, then: chmod 755 DIR/jails.d\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.Chmod(dir, 0o755))
			c.make(t, dir)
			if c.uid == 0 && os.Geteuid() != 0 {
				// Here all files are the user's own, which root is told first.
				_, err := loader{uid: 0}.dir(dir)
				require.Contains(t, say(t, err), "not to root")
				return
			}
			_, err := loader{uid: c.uid}.dir(dir)
			require.Equal(t, c.want, strings.ReplaceAll(say(t, err), dir, "DIR"))
		})
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	write(t, dir+"/config.yaml", "")
	if os.Geteuid() == 0 { // else it belongs to somebody else than root already
		require.NoError(t, os.Chown(dir+"/config.yaml", user, 0))
	}
	_, err := loader{uid: 0}.dir(dir)
	require.Contains(t, say(t, err), "not to root\nhint: look at what it says, then: chown root")
	_, err = loader{uid: user}.dir(dir)
	require.NoError(t, err)
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("path: /srv\n" + whole))
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, into := range []any{new(Config), new(Jail)} {
			node, err := parse("f.yaml", data)
			if err == nil && node != nil {
				_, jail := into.(*Jail)
				d := decoder{file: "f.yaml", jail: jail}
				err = d.mapping(node, reflect.ValueOf(into).Elem(), "")
			}
			if err != nil {
				var e *Error
				require.True(t, errors.As(err, &e))
				require.Equal(t, "f.yaml", e.File)
				say(t, err)
			}
		}
	})
}
