package e2e

import (
	"bytes"
	"fmt"
	"net/http"
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

	"github.com/jailup/jailup/internal/lab"
)

// outer is a running Apache on the host whose ChrootDir is a jail, in which there
// are older copies of what the children load and look up late.
type outer struct {
	*lab.Jail
	t    *testing.T
	h    *host
	pair lab.Pair
	// jail and host as they are before anything was done
	old, side map[string]string
}

// written are what the server itself writes on the host's side.
var written = []string{"var/log/**", "var/run/**", "run/**", "var/lock/**"}

func chrootDir(t *testing.T, opts ...lab.JailOption) *outer {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	names := []string{"apache2", "libgcc-s1", "tzdata", "media-types"}
	pair := lab.PairOf(t, append(names, lab.PHPNames(t, "", []string{"apache"}, "mysql")...)...)
	j := lab.ChrootDirJail(t, pair.Old, append([]lab.JailOption{lab.InDir(filepath.Join(lab.ShmDir(t), "chroot"))}, opts...)...)
	j.Start(t)
	o := &outer{Jail: j, t: t, pair: pair, h: newHost(t, pair.New)}
	o.old, o.side = o.jailSide(), o.hostSide()
	return o
}

func (o *outer) hostSide() map[string]string { return lab.TreeDigest(o.t, o.Host, written...) }

// jailSide leaves out what pages write.
func (o *outer) jailSide() map[string]string {
	return lab.TreeDigest(o.t, o.Dir, "var/lib/php/sessions", "var/lib/php/sessions/**")
}

// now returns what differs in the jail from how it was. The host's side never
// differs.
func (o *outer) now() []string {
	o.t.Helper()
	require.Empty(o.t, lab.DiffTrees(o.side, o.hostSide()), "the host's side was touched")
	return lab.DiffTrees(o.old, o.jailSide())
}

func (o *outer) serves() {
	o.t.Helper()
	status, body := o.Get(o.t, "/")
	require.Equal(o.t, 200, status)
	require.Equal(o.t, lab.Page, body)
	master := o.MasterPID()
	root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", master))
	require.NoError(o.t, err)
	require.Equal(o.t, "/", root)
	require.NotEmpty(o.t, o.Processes(), "no child is in the jail")
	for _, p := range o.Processes() {
		require.NotEqual(o.t, master, p.PID)
	}
	if o.Series != "" {
		require.Equal(o.t, "ok", o.Uses(o.t)["date"])
	}
}

// upgrade calls the program with a short soak.
func (o *outer) upgrade(exit int, want string, more ...string) result {
	o.t.Helper()
	return o.h.must(exit, want, append([]string{"upgrade", "apache", "--jail", o.Dir, "--soak", "500ms"}, more...)...)
}

func notices(r result) string {
	var out []string
	for _, e := range r.Events {
		if e["kind"] == "notice" {
			out = append(out, fmt.Sprint(e["message"], " | ", e["hint"]))
		}
	}
	return strings.Join(out, "\n")
}

// inJail finds the file of a name in the jail.
func (o *outer) inJail(name string) string {
	o.t.Helper()
	for _, dir := range []string{"lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"} {
		if p := filepath.Join(o.Dir, dir, name); exists(p) {
			return p
		}
	}
	require.Fail(o.t, "the jail holds no "+name)
	return ""
}

func TestChrootDirIsUpgraded(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]lab.JailOption{
		"event":   {lab.Merged()},
		"prefork": {lab.MPM("prefork")},
		"mod_php": {lab.Extensions("mysql")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := chrootDir(t, opts...)
			o.serves()
			master := o.MasterPID()

			o.h.must(0, "checked", "check", "apache2", "--jail", o.Dir)
			st := o.h.run("status", "--jail", o.Dir)
			require.Equal(t, 0, st.Exit, st.String())
			require.Contains(t, st.Stdout, `"outside": "`+o.Host+`/usr/sbin/apache2"`)
			require.Contains(t, st.Stdout, `"master_pid": `+strconv.Itoa(master))
			require.Contains(t, st.Stdout, `"healthy": true`)
			plan := o.h.must(0, "planned", "plan", "apache", "--jail", o.Dir)
			require.Empty(t, o.now())
			require.Equal(t, master, o.MasterPID())

			up := o.upgrade(0, "upgraded")
			require.NotEqual(t, master, o.MasterPID())
			o.serves()
			require.Contains(t, notices(up), "runs on the host")
			require.Equal(t, plan.Done["to"], up.Done["to"])
			require.Contains(t, up.Done["to"], "tzdata")
			require.Contains(t, up.Done["from"], "libgcc-s1")
			changed := o.now()
			require.NotEmpty(t, changed)
			for _, c := range changed {
				require.True(t, strings.HasPrefix(c, "changed: "), "only what was there is replaced: %s", c)
			}
			for _, lib := range []string{"libgcc_s.so.1", "libc.so.6"} {
				got, err := os.ReadFile(o.inJail(lib))
				require.NoError(t, err)
				want, err := os.ReadFile(fromTree(t, o.pair.New, lib))
				require.NoError(t, err)
				require.True(t, bytes.Equal(got, want), "%s is the new package's", lib)
			}

			o.upgrade(0, "current")
			master = o.MasterPID()
			o.h.must(0, "rolled-back", "rollback", "--jail", o.Dir, "--soak", "0s")
			require.NotEqual(t, master, o.MasterPID())
			require.Empty(t, o.now())
			o.serves()
		})
	}
}

// fromTree finds a library in the unpacked packages.
func fromTree(t *testing.T, debs, name string) string {
	t.Helper()
	for _, glob := range []string{"lib/*-linux-gnu/", "usr/lib/*-linux-gnu/"} {
		found, err := filepath.Glob(filepath.Join(lab.Unpacked(t, debs), glob, name))
		require.NoError(t, err)
		if len(found) > 0 {
			return found[0]
		}
	}
	require.Fail(t, "no package holds "+name)
	return ""
}

// spoilt is libgcc-s1 under a higher version, with other words in its library.
func spoilt(t *testing.T, debs string, change func(b []byte) []byte) string {
	t.Helper()
	return lab.Repack(t, lab.FindDeb(t, debs, "libgcc-s1"), func(dir string, c *lab.Control) {
		c.Set("Version", c.Get("Version")+"+bad1")
		found, err := filepath.Glob(filepath.Join(dir, "lib/*/libgcc_s.so.1"))
		require.NoError(t, err)
		if len(found) == 0 {
			found, err = filepath.Glob(filepath.Join(dir, "usr/lib/*/libgcc_s.so.1"))
			require.NoError(t, err)
		}
		require.Len(t, found, 1)
		b, err := os.ReadFile(found[0])
		require.NoError(t, err)
		changed := change(bytes.Clone(b))
		require.NotEqual(t, b, changed, "there was nothing to change")
		require.NoError(t, os.WriteFile(found[0], changed, 0o644))
	})
}

// wantsMore needs a C library that nobody has yet.
func wantsMore(b []byte) []byte {
	for _, v := range []string{"GLIBC_2.35", "GLIBC_2.34", "GLIBC_2.38", "GLIBC_2.18", "GLIBC_2.16", "GLIBC_2.14"} {
		if i := bytes.Index(b, []byte(v+"\x00")); i >= 0 {
			copy(b[i:], "GLIBC_9.99")
			return b
		}
	}
	return b
}

// What the host's server could not load is refused before anything is stopped;
// where the sources have one that it could, that one is taken.
func TestChrootDirMisfit(t *testing.T) {
	t.Parallel()
	o := chrootDir(t)
	master := o.MasterPID()
	bad := spoilt(t, o.pair.New, wantsMore)
	o.h.debs = newHost(t, lab.ReplaceDebs(t, o.pair.New, bad)).debs
	for _, verb := range []string{"plan", "upgrade"} {
		r := o.h.must(1, "failed", verb, "apache", "--jail", o.Dir)
		for _, word := range []string{"libgcc_s.so.1", "GLIBC_9.99", "libc.so.6", "the host's", "at most"} {
			require.Contains(t, r.err(), word)
		}
		require.Contains(t, r.Done["hint"], "apt-get install --only-upgrade libc6")
		require.Empty(t, o.now())
		require.Equal(t, master, o.MasterPID())
	}
	// A server that has loaded a libgcc_s of the host never loads the jail's: that is
	// so with PHP, see TestChrootDirMisfitOfNobody.

	o.h.debs = newHost(t, o.pair.New, filepath.Dir(bad)).debs
	r := o.upgrade(0, "upgraded")
	require.Contains(t, notices(r), "does not fit the host")
	to, _ := r.Done["to"].(map[string]any)
	require.NotContains(t, to["libgcc-s1"], "bad1")
	require.NotEqual(t, master, o.MasterPID())
	o.serves()
	o.upgrade(0, "current")
	o.h.must(0, "rolled-back", "rollback", "--jail", o.Dir, "--soak", "0s")
	require.Empty(t, o.now())
}

// What passes every look, and is wrong all the same, goes back by itself: without
// what ends a thread, each child of the event MPM dies.
func TestChrootDirGoesBack(t *testing.T) {
	t.Parallel()
	o := chrootDir(t)
	bad := spoilt(t, o.pair.New, func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("_Unwind_ForcedUnwind\x00"), []byte("_Unwind_ForcedUnwinx\x00"))
	})
	o.h.debs = newHost(t, lab.ReplaceDebs(t, o.pair.New, bad)).debs
	master := o.MasterPID()
	r := o.upgrade(3, "rolled-back")
	require.NotEqual(t, master, o.MasterPID())
	require.Empty(t, o.now())
	o.serves()
	evidence := filepath.Join(fmt.Sprint(r.Done["evidence"]), "error-0.log")
	text, err := os.ReadFile(evidence)
	require.NoError(t, err, r.String())
	require.Contains(t, string(text), "AH00052", "the log of the host's side is kept")
}

// The other verbs know such a server too, also when it is down: how it was started
// is remembered, for its configuration lies in no usual place.
func TestChrootDirVerbs(t *testing.T) {
	t.Parallel()
	o := chrootDir(t)
	master := o.MasterPID()
	before := environ(t, master)
	o.h.must(0, "restarted", "restart", "apache", "--jail", o.Dir)
	require.NotEqual(t, master, o.MasterPID())
	o.serves()
	o.h.must(0, "stopped", "stop", "apache", "--jail", o.Dir)
	require.Zero(t, o.MasterPID())
	require.Empty(t, o.Processes())
	o.h.must(0, "current", "stop", "apache", "--jail", o.Dir)
	o.h.must(5, "checked", "check", "apache", "--jail", o.Dir)
	require.Equal(t, 5, o.h.run("status", "--jail", o.Dir).Exit)

	// It is upgraded, started for the checks, and left down.
	r := o.upgrade(0, "upgraded")
	require.Contains(t, notices(r), "left down")
	require.Zero(t, o.MasterPID())
	require.NotEmpty(t, o.now())

	o.h.must(0, "started", "start", "apache", "--jail", o.Dir)
	o.serves()
	require.Equal(t, before, environ(t, o.MasterPID()))

	for _, c := range []struct {
		args []string
		word string
	}{
		{[]string{"--version", "2.4.1"}, "it is the host's"},
		{[]string{"--with", "gd"}, "are the host's"},
	} {
		r := o.h.run(append([]string{"upgrade", "apache", "--jail", o.Dir}, c.args...)...)
		require.Equal(t, 64, r.Exit, r.String())
		require.Contains(t, r.err(), c.word)
	}
	o.serves()
}

func environ(t *testing.T, pid int) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	require.NoError(t, err)
	out := map[string]bool{}
	for v := range strings.SplitSeq(strings.TrimRight(string(b), "\x00"), "\x00") {
		if !strings.HasPrefix(v, "PATH=") && !strings.HasPrefix(v, "LANG=") {
			out[v] = true
		}
	}
	require.NotEmpty(t, out)
	return out
}

// A server that would not come back as it is, is not stopped.
func TestChrootDirWouldNotComeBack(t *testing.T) {
	t.Parallel()
	o := chrootDir(t)
	master := o.MasterPID()
	conf := filepath.Join(o.Host, "etc/apache2/conf-enabled/chroot.conf")
	right, err := os.ReadFile(conf)
	require.NoError(t, err)
	for what, c := range map[string]struct{ text, word string }{
		"another jail": {"ChrootDir " + t.TempDir() + "\n", "and not jail"},
		"no jail":      {"", "names no ChrootDir"},
		"a mistake":    {string(right) + "NoSuchDirective on\n", "would not start again"},
	} {
		require.NoError(t, os.WriteFile(conf, []byte(c.text), 0o644))
		for _, verb := range []string{"upgrade", "restart"} {
			r := o.h.run(verb, "apache", "--jail", o.Dir)
			require.Equal(t, 1, r.Exit, "%s: %s", what, r)
			require.Contains(t, r.String(), c.word, what)
			require.Equal(t, master, o.MasterPID(), what)
		}
	}
	require.NoError(t, os.WriteFile(conf, right, 0o644))
	require.Empty(t, lab.DiffTrees(o.old, o.jailSide()))
	o.serves()
}

// Another server of the host from the same program has nothing to do with it.
func TestChrootDirLeavesOtherServersAlone(t *testing.T) {
	t.Parallel()
	o := chrootDir(t)
	port := lab.FreePort(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	mod := filepath.Join(o.Host, "usr/lib/apache2/modules/mod_")
	conf := filepath.Join(dir, "other.conf")
	require.NoError(t, os.WriteFile(conf, []byte(fmt.Sprintf(`ServerRoot %[1]s
ServerName other
Listen 127.0.0.1:%[2]d
PidFile %[1]s/pid
ErrorLog %[1]s/error.log
DefaultRuntimeDir %[1]s
User www-data
Group www-data
LoadModule mpm_event_module %[3]smpm_event.so
LoadModule authz_core_module %[3]sauthz_core.so
`, dir, port, mod)), 0o644))
	part := o.Parts[0]
	cmd := exec.Command(part.Program, "-d", dir, "-f", conf, "-k", "start")
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", append([]string{"PATH=" + os.Getenv("PATH")}, part.Env...), &syscall.SysProcAttr{Setsid: true}
	require.NoError(t, cmd.Run())
	pid := func() int {
		b, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			return 0
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		require.NoError(t, err)
		return n
	}
	lab.Eventually(t, 10*time.Second, "the other server runs", func() bool { return pid() > 0 })
	other := pid()
	t.Cleanup(func() {
		_ = unix.Kill(other, unix.SIGTERM)
		lab.Eventually(t, 10*time.Second, "the other server ends", func() bool { return unix.Kill(other, 0) != nil })
	})
	alive := func() {
		t.Helper()
		require.Equal(t, other, pid())
		require.NoError(t, unix.Kill(other, 0))
		resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	alive()
	o.upgrade(0, "upgraded")
	alive()
	o.h.must(0, "stopped", "stop", "apache", "--jail", o.Dir)
	alive()
	o.h.must(0, "started", "start", "apache", "--jail", o.Dir)
	alive()
	o.h.must(0, "rolled-back", "rollback", "--jail", o.Dir, "--soak", "0s")
	alive()
	require.Empty(t, o.now())
}

// Killed anywhere in the window, the server answers again and nobody has typed
// anything: the guardian knows how a server on the host is started.
func TestChrootDirIsKilled(t *testing.T) {
	t.Parallel()
	o := chrootDir(t)
	o.h.bin = program(t, true)
	call := func(fault string, env ...string) (killed bool) {
		counter := filepath.Join(o.h.dir, "counter")
		require.NoError(t, os.RemoveAll(counter))
		cmd := o.h.command("upgrade", "apache", "--jail", o.Dir, "--soak", "0s")
		cmd.Env = append(cmd.Env, append(env, "JAILUP_FAULT="+fault, "JAILUP_FAULT_COUNTER="+counter)...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return false
		}
		require.Equal(t, -1, cmd.ProcessState.ExitCode(), "%s: %s", fault, out)
		return true
	}
	trace := filepath.Join(o.h.dir, "trace")
	require.False(t, call("")) // the first one makes folders
	o.h.must(0, "rolled-back", "rollback", "--jail", o.Dir, "--soak", "0s")
	require.False(t, call("", "JAILUP_FAULT_TRACE="+trace))
	upgraded := o.now()
	require.NotEmpty(t, upgraded)
	now := o.jailSide()
	o.h.must(0, "rolled-back", "rollback", "--jail", o.Dir, "--soak", "0s")
	text, err := os.ReadFile(trace)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	at := func(what string) int {
		for i, l := range lines {
			if strings.Contains(l, `point "`+what+`"`) {
				return i + 1
			}
		}
		require.Fail(t, "no point "+what, string(text))
		return 0
	}
	stop, stopped, install, start, verify := at("do stop"), at("stopped"), at("do install"), at("do start"), at("do verify")
	points := []int{stop + 1, stopped, install, install + 3, (install + start) / 2, start - 2, start, verify, verify + 2}
	kills := 0
	for _, guard := range []string{"", "off"} {
		if guard == "off" {
			points = []int{stopped, (install + start) / 2, verify}
		}
		for _, n := range points {
			what := fmt.Sprintf("killed at %s, guardian %q", lines[n-1], guard)
			env := []string{"JAILUP_FAULT_GUARD=" + guard}
			if !call("kill:"+strconv.Itoa(n), env...) {
				t.Fatalf("%s: it was not", what)
			}
			kills++
			if guard == "off" {
				if n >= stopped && n <= start {
					require.Empty(t, o.Processes(), "%s: nobody starts it", what)
				}
				o.h.must(0, "recovered", "recover", "--jail", o.Dir)
			}
			lab.Eventually(t, 10*time.Second, what+": the server answers", func() bool {
				status, _, err := o.TryGet("/")
				return err == nil && status == 200
			})
			o.h.must(0, "recovered", "recover", "--jail", o.Dir, "--lock-wait", "30s") // after the guardian
			o.serves()
			require.Empty(t, lab.DiffTrees(o.side, o.hostSide()), what)
			is := o.jailSide()
			if len(lab.DiffTrees(now, is)) == 0 {
				o.h.must(0, "rolled-back", "rollback", "--jail", o.Dir, "--soak", "0s")
				is = o.jailSide()
			}
			require.Empty(t, lab.DiffTrees(o.old, is), "%s: neither old nor new", what)
		}
	}
	require.Equal(t, 12, kills)
}

// A library of the jail that the server has from the host is never loaded: whether
// it would fit is nobody's concern.
func TestChrootDirMisfitOfNobody(t *testing.T) {
	t.Parallel()
	o := chrootDir(t, lab.Extensions("mysql"))
	o.h.debs = newHost(t, lab.ReplaceDebs(t, o.pair.New, spoilt(t, o.pair.New, wantsMore))).debs
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", o.MasterPID()))
	require.NoError(t, err)
	require.Contains(t, string(maps), o.Host+"/", "the server runs from the host's side")
	require.Contains(t, string(maps), "libgcc_s.so.1")
	o.upgrade(0, "upgraded")
	o.serves()
}
