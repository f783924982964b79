package phpconf

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// dump is what php-fpm -tt tells: section, name, value, a name more than once.
type dump map[string]map[string][]string

var dumpDate = regexp.MustCompile(`^\[[^\]]*\] [A-Z]+: `)

// dumped makes FPM tell how it has understood a configuration; not ok is one
// that it refuses.
func dumped(t *testing.T, j *lab.Jail, conf string) (dump, string, bool) {
	t.Helper()
	out, status := run(t, j, []string{"GREETING=hello"}, "/usr/sbin/php-fpm"+j.Series, "-y", conf, "-tt")
	d := dump{}
	section := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		line = line[len(dumpDate.FindString(line)):]
		if name, value, ok := strings.Cut(strings.TrimPrefix(line, "\t"), " = "); ok && strings.HasPrefix(line, "\t") {
			d[section][name] = append(d[section][name], value)
		} else if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = line[1 : len(line)-1]
			d[section] = map[string][]string{}
		}
	}
	return d, out, status == 0
}

func sameAsFPM(t *testing.T, j *lab.Jail, root *jail.Root, conf string) *FPM {
	t.Helper()
	want, out, ok := dumped(t, j, conf)
	require.True(t, ok, out)
	f, err := ReadFPMEnv(root, conf, map[string]string{"GREETING": "hello"})
	require.NoError(t, err)
	value := func(section, name, ours, unset string) {
		t.Helper()
		if w := want[section][name]; ours == unset && (len(w) == 0 || w[0] == "undefined") {
			return // an older FPM does not know all of them
		}
		require.Equal(t, want[section][name], []string{ours}, "%s of %s", name, section)
	}
	value("global", "pid", f.PIDFile, "")
	value("global", "error_log", f.ErrorLog, "")
	value("global", "process_control_timeout", strconv.Itoa(int(f.ControlTimeout/time.Second))+"s", "")
	require.Len(t, want, 1+len(f.Pools))
	for _, p := range f.Pools {
		require.Contains(t, want, p.Name)
		value(p.Name, "listen", p.Listen, "")
		value(p.Name, "listen.owner", p.ListenOwner, "")
		value(p.Name, "listen.group", p.ListenGroup, "")
		value(p.Name, "listen.mode", p.ListenMode, "0660")
		value(p.Name, "user", p.User, "")
		value(p.Name, "group", p.Group, "")
		value(p.Name, "chroot", p.Chroot, "")
		value(p.Name, "chdir", p.Chdir, "")
		value(p.Name, "ping.path", p.PingPath, "")
		value(p.Name, "ping.response", p.PingResponse, "")
		value(p.Name, "pm.status_path", p.StatusPath, "")
		value(p.Name, "pm.status_listen", p.StatusListen, "")
		value(p.Name, "access.log", p.AccessLog, "")
		value(p.Name, "slowlog", p.SlowLog, "")
		ours := map[string][]string{}
		for _, d := range p.PHP {
			ours[d.Name] = append(ours[d.Name], d.Value)
			text, err := os.ReadFile(filepath.Join(j.Dir, d.File))
			require.NoError(t, err)
			require.Contains(t, strings.Split(string(text), "\n")[d.Line-1], d.Name)
		}
		theirs := map[string][]string{}
		for name, values := range want[p.Name] {
			if _, key, ok := strings.Cut(strings.TrimSuffix(name, "]"), "["); ok && strings.HasPrefix(name, "php_") {
				theirs[key] = append(theirs[key], values...)
			}
		}
		require.Len(t, ours, len(theirs))
		for name, values := range theirs {
			require.ElementsMatch(t, values, ours[name], "%s of %s", name, p.Name)
		}
	}
	return f
}

// series is "8.2" as 802.
func series(t *testing.T, j *lab.Jail) int {
	major, minor, _ := strings.Cut(j.Series, ".")
	a, err := strconv.Atoi(major)
	require.NoError(t, err)
	b, err := strconv.Atoi(minor)
	require.NoError(t, err)
	return 100*a + b
}

const poolBasics = "user = www-data\npm = static\npm.max_children = 1\n"

func TestRealFPM(t *testing.T) {
	t.Parallel()
	eachPHP(t, []int{-1, 0, 1}, realFPM)
}

func realFPM(t *testing.T, suite string) {
	j, root := realJail(t, suite)
	write := func(name, text string) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(j.Dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(j.Dir, name), []byte(text), 0o644))
	}

	t.Run("as Debian has it", func(t *testing.T) {
		etc := "/etc/php/" + j.Series + "/fpm/"
		f := sameAsFPM(t, j, root, etc+"php-fpm.conf")
		require.Equal(t, []string{etc + "php-fpm.conf", etc + "pool.d/www.conf"}, f.Files)
		require.Len(t, f.Pools, 1)
		require.Equal(t, "unix", f.Pools[0].Network)
		require.Equal(t, etc+"pool.d/www.conf", f.Pools[0].File)
		require.Empty(t, f.Warnings)
	})

	t.Run("edited", func(t *testing.T) {
		for _, d := range []string{"/usr/pfx", "/usr/srv/x", "/usr/log", "/usr/inc/d.conf", "/var/tmp"} {
			require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, d), 0o755))
		}
		write("/usr/inc/b.conf", "[b]\n"+poolBasics+"listen = /run/b.sock\n")
		write("/usr/inc/a.conf", "[a]\n"+poolBasics+"listen = 29001\r\n\r\nphp_value[include_path] = \".:/x\"\n[global]\nprocess_control_timeout = 2m\n")
		write("/usr/inc/.h.conf", "[h]\nlisten = /h\n")
		text := "[global] ; section\npid = run/x.pid\nerror_log = tmp/${GREETING}.log\ninclude=inc/*.conf\ninclude = inc/nothing\ninclude=/etc/none*.conf\nchdir = /tmp\n" +
			"[ spaced name ]\n" + poolBasics + "Listen=127.0.0.1:29002\nlisten.mode=0666\nlisten.owner = root\nListen.Group=\"www-data\" ; who\n" +
			"access.log = log/$pool.access\nslowlog = log/$pool-$pool.slow\nping.path=/ping\nphp_flag[display_errors] = on\nphp_admin_flag[log_errors] = no\n" +
			"php_admin_value[error_log] = e/$pool.log\nphp_value[sendmail_path] = /bin/x -t\nphp_value[memory_limit] = 1M\nphp_value[memory_limit] = 2M\nenv[A]=$HOME\n" +
			"[V6]\n" + poolBasics + "listen=[::1]:29003\nping.path = /a\nping.response=x\nping.response=\"pong pong\"\n[v6]\nlisten=[::1]:29004\n" +
			"[prefixed]\n" + poolBasics + "prefix = pfx\nlisten = run/x.sock\nchroot = $prefix\naccess.log=a.log\nphp_admin_value[error_log]=x.log\npm.status_path = /st\n" +
			"[bare]\n" + poolBasics + "chdir=srv/x\nlisten=bare:29005\npm.status_listen = 127.0.0.1:29006\npm.status_path=/status\ngroup=www-data\nphp_admin_value[error_log]=syslog\n"
		if series(t, j) < 800 { // it came with 8.0
			text = strings.Replace(text, "pm.status_listen = 127.0.0.1:29006\n", "", 1)
		}
		write("/etc/one.conf", text)
		f := sameAsFPM(t, j, root, "/etc/one.conf")
		require.Equal(t, []string{"/etc/one.conf", "/usr/inc/a.conf", "/usr/inc/b.conf"}, f.Files)
		require.Len(t, f.Warnings, 2)
		require.Equal(t, 2*time.Minute, f.ControlTimeout)
		addresses := map[string]string{}
		for _, p := range f.Pools {
			addresses[p.Name] = p.Network + " " + p.Address
		}
		require.Equal(t, map[string]string{"a": "tcp 127.0.0.1:29001", "b": "unix /run/b.sock", " spaced name ": "tcp 127.0.0.1:29002", "V6": "tcp [::1]:29004",
			"prefixed": "unix /usr/pfx/run/x.sock", "bare": "tcp bare:29005"}, addresses)
		require.Equal(t, "/tmp", f.Pools[1].Chdir)
	})

	// What FPM refuses is refused; what it takes is taken.
	for name, text := range map[string]string{
		"comment of a shell":   "[w]\n" + poolBasics + "listen=/x\n# comment\n",
		"quote over two lines": "[w]\n" + poolBasics + "listen=/x\nping.response=\"a\nb\"\n",
		"brackets left open":   "[w\n" + poolBasics + "listen=/x\n",
		"includes itself":      "include=/etc/case.conf\n",
		"no pool":              "[global]\n",
		"array in global":      "[global]\nphp_value[a]=b\n",
		"flag of neither kind": "[w]\n" + poolBasics + "listen=/x\nphp_flag[a]=maybe\n",
		"time of no unit":      "[global]\nprocess_control_timeout=5x\n[w]\n" + poolBasics + "listen=/x\n",
		"empty time":           "[global]\nprocess_control_timeout=\n[w]\n" + poolBasics + "listen=/x\n",
		"a name alone":         "[w]\n" + poolBasics + "listen=/x\nfoo\n",
		"indented section":     " [w]\n" + poolBasics + "listen=/x\n",
		"link to nowhere":      "include=/etc/dangling/*.conf\n[w]\n" + poolBasics + "listen=/x\n",
		"no such folder":       "include=/etc/none/*.conf\n[w]\n" + poolBasics + "listen=/x\n",
		"no such file":         "include=/etc/none/x.conf\n[w]\n" + poolBasics + "listen=/x\n",
		"a file as a folder":   "include=/etc/passwd/*.conf\n[w]\n" + poolBasics + "listen=/x\n",
		"folders":              "include=inc/d*.conf\n[w]\n" + poolBasics + "listen=/x\n",
		"fine":                 "\xef\xbb\xbf[w]\n" + poolBasics + "\tlisten = /x ; y\n\n;c\n",
		"times":                "[global]\nprocess_control_timeout=1d\n[w]\n" + poolBasics + "listen=/x",
		"empty flags":          "[w]\n" + poolBasics + "listen=/x\nphp_flag[a]=\nphp_admin_value[b]=\n",
		"odd characters":       "[w]\n" + poolBasics + "listen=/x\nping.response='a;b'\nping.path=/a\nphp_value[\"a b\"]=(1|2)\n",
	} {
		t.Run(name, func(t *testing.T) {
			if name == "link to nowhere" {
				require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "etc/dangling"), 0o755))
				require.NoError(t, os.Symlink("/nowhere", filepath.Join(j.Dir, "etc/dangling/x.conf")))
			}
			write("/etc/case.conf", text)
			_, out, ok := dumped(t, j, "/etc/case.conf")
			_, err := ReadFPM(root, "/etc/case.conf")
			require.Equal(t, ok, err == nil, "%v\n%s", err, out)
			if err == nil {
				sameAsFPM(t, j, root, "/etc/case.conf")
			}
		})
	}

	t.Run("the socket edited", func(t *testing.T) {
		name := "/etc/php/" + j.Series + "/fpm/pool.d/www.conf"
		text, err := os.ReadFile(filepath.Join(j.Dir, name))
		require.NoError(t, err)
		pool, value, line := ListenLine(text)
		require.Equal(t, "www", pool)
		require.Contains(t, strings.Split(string(text), "\n")[line-1], value)
		changed, ok := SetListen(text, "www", "/run/other place.sock")
		require.True(t, ok)
		before, after := strings.Split(string(text), "\n"), strings.Split(string(changed), "\n")
		require.Len(t, after, len(before))
		for i := range before {
			require.Equal(t, i == line-1, before[i] != after[i])
		}
		write(name, string(changed))
		f := sameAsFPM(t, j, root, "/etc/php/"+j.Series+"/fpm/php-fpm.conf")
		require.Equal(t, "/run/other place.sock", f.Pools[0].Address)
	})
}
