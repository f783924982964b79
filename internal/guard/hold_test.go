package guard

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// The guard leaves nothing behind, whatever was there before, also when it is
// taken away by somebody who knows only the jail's id.
func TestHold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := Hold{Etc: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "state"), JailID: "0123abcd", Jail: "/srv/jail\n[Service]\nExecStart=/bin/false",
		Units: []string{"web.service", "php@8.2.service", "theirs.service"}, Recover: []string{"/usr/bin/jailup", "recover", "--jail", `/srv/a b"c$d%e\f`}}
	for _, d := range []string{h.Etc + "/theirs.service.d", h.StateDir} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	require.NoError(t, os.WriteFile(h.Etc+"/theirs.service.d/own.conf", []byte("[Service]\n"), 0o644))
	require.False(t, h.Held())
	require.NoError(t, h.Arm())
	require.NoError(t, h.Arm(), "again")
	require.True(t, h.Held())
	text, err := os.ReadFile(h.Etc + "/web.service.d/jailup-0123abcd.conf")
	require.NoError(t, err)
	require.Contains(t, string(text), "ConditionPathExists=!"+h.StateDir+"/in-flight\n")
	require.Contains(t, string(text), "After=jailup-recover-0123abcd.service jailup-recover.service\n")
	boot, err := os.ReadFile(h.Etc + "/jailup-recover-0123abcd.service")
	require.NoError(t, err)
	require.Contains(t, string(boot), `"/srv/a b\"c$$d%%e\\f"`)
	for _, s := range []string{string(text), string(boot)} {
		require.NotContains(t, s, "\nExecStart=/bin/false", "a path does not become a setting")
	}
	require.NotContains(t, string(text), "Wants=", "a start of the unit during a run would wait for its end")
	require.Regexp(t, `(?m)^Wants=.*\b`+regexp.QuoteMeta(mountUnit(filepath.Dir(dir)))+`\b`, string(boot))
	_, err = os.Stat(h.Etc + "/multi-user.target.wants/jailup-recover-0123abcd.service")
	require.NoError(t, err)

	// Where the unit for all jails is enabled, that waits for the mounts.
	other := Hold{Etc: h.Etc, StateDir: filepath.Join(dir, "ffff"), JailID: "ffff", Jail: "/none/a b", Units: []string{"web.service"}}
	require.NoError(t, os.MkdirAll(other.StateDir, 0o755))
	require.NoError(t, other.Arm())
	text, err = os.ReadFile(h.Etc + "/jailup-recover.service.d/jailup-ffff.conf")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^Wants=none-a\\x20b\.mount none\.mount .*\nAfter=none-a\\x20b\.mount none\.mount `, string(text))
	require.Equal(t, []string{"ffff"}, Strays(h.Etc, dir, []string{"0123abcd"}))
	require.Empty(t, Strays(h.Etc, dir, []string{"ffff"}))
	require.Empty(t, Strays(h.Etc, dir+"/else", nil), "of another state's jails nothing is known")
	bare := Hold{Etc: h.Etc, StateDir: h.StateDir, JailID: h.JailID}
	require.NoError(t, bare.Release())
	require.NoError(t, bare.Release())
	require.False(t, bare.Held())
	require.True(t, other.Held(), "another jail's stays")
	require.FileExists(t, h.Etc+"/web.service.d/jailup-ffff.conf")
	require.NoError(t, other.Release())
	left, err := filepath.Glob(h.Etc + "/*.service*")
	require.NoError(t, err)
	require.Equal(t, []string{h.Etc + "/theirs.service.d"}, left)

	for _, bad := range []Hold{
		{Etc: h.Etc, StateDir: h.StateDir, JailID: "x", Units: []string{"../web.service"}},
		{Etc: h.Etc, StateDir: h.StateDir, JailID: "x", Units: []string{"web.socket"}},
		{Etc: h.Etc, StateDir: dir + "/a\nb", JailID: "x"},
		{Etc: "/dev/null/etc", StateDir: h.StateDir, JailID: "x", Units: []string{"web.service"}},
	} {
		require.Error(t, bad.Arm())
		require.NoError(t, bad.Release())
	}
	require.False(t, bare.Held())
}

// What systemd-escape --path says.
func TestMountUnit(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]string{
		"/srv": "srv.mount", "/srv/jails/": "srv-jails.mount", "/srv/a b-c": `srv-a\x20b\x2dc.mount`,
		"/.x/.y:_1": `\x2ex-.y:_1.mount`, `/a\b"%ä`: `a\x5cb\x22\x25\xc3\xa4.mount`,
	} {
		require.Equal(t, want, mountUnit(dir), dir)
	}
}

// A job that left a server behind is not what starts it.
func TestUnitStarts(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"/usr/sbin/nginx|-g|daemon off;":                        true,
		"/bin/sh|-c|exec chroot /srv/x /usr/sbin/nginx -g 'x;'": true,
		"/usr/bin/jailup|start|nginx|--jail|/srv/x":             true,
		"/usr/bin/jailup|upgrade|nginx|--jail|/srv/x":           false,
		"/bin/sh|-c|jailup upgrade nginx --jail /srv/x":         false,
		"/usr/local/bin/nightly":                                false,
	} {
		u := Unit{Programs: programs(strings.Split(line, "|"))}
		require.Equal(t, want, u.Starts([]string{"nginx"}), line)
	}
	require.False(t, serves(map[string]any{"Type": "oneshot", "RemainAfterExit": false}))
	require.True(t, serves(map[string]any{"Type": "oneshot", "RemainAfterExit": true}))
	require.True(t, serves(map[string]any{"Type": "forking", "RemainAfterExit": false}))
}

func TestUnitOf(t *testing.T) {
	t.Parallel()
	for cgroups, want := range map[string]string{
		"0::/system.slice/nginx.service\n":                                           "nginx.service",
		"0::/system.slice/system-php.slice/php@8.2.service/sub\n":                    "php@8.2.service",
		"12:pids:/x\n1:name=systemd:/system.slice/web.service\n0::/\n":               "web.service",
		"1:name=systemd:/\n0::/system.slice/web.service\n":                           "web.service",
		"0::/user.slice/user-0.slice/session-3.scope\n":                              "",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service\n": "",
		"0::/system.slice/docker-0123.scope/system.slice/nginx.service\n":            "",
		"0::/\n": "", "": "", "junk": "", "0::/system.slice/a b.service\n": "",
	} {
		require.Equal(t, want, unitOf(cgroups), "%q", cgroups)
	}
}

func TestCgroupDirs(t *testing.T) {
	t.Parallel()
	mounts := `30 25 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw
31 25 0:27 / /sys/fs/cgroup/systemd rw shared:5 - cgroup cgroup rw,xattr,name=systemd
32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 - cgroup cgroup rw,cpu,cpuacct
33 25 0:29 /below /sys/fs/cgroup/pids rw shared:6 - cgroup cgroup rw,pids
`
	got := cgroupDirs("4:pids:/a\n3:cpu,cpuacct:/b/c\n2:name=systemd:/s\n1:memory:/m\n0::/u\n", mounts)
	require.Equal(t, []string{"/sys/fs/cgroup/cpu,cpuacct/b/c", "/sys/fs/cgroup/systemd/s", "/sys/fs/cgroup/unified/u"}, got)
	require.Empty(t, cgroupDirs("0::/\n", mounts), "the root of a hierarchy is nobody's to kill")
	require.Empty(t, cgroupDirs("0::/../x\n", mounts))
}

func TestEntersJail(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "chroot")
	require.NoError(t, os.Mkdir(dir, 0o755))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(dir, &st))
	for _, c := range []struct {
		argv string
		want bool
	}{
		{"/usr/sbin/chroot|DIR|/usr/sbin/nginx", true},
		{"/bin/sh|-c|exec chroot 'DIR' nginx -g \"daemon off;\"", true},
		{"/sbin/start-stop-daemon|--start|--chroot=DIR|--exec|/usr/sbin/nginx", true},
		{"/usr/sbin/chroot|/srv|/usr/sbin/nginx", false},
		{"/usr/local/bin/jailup|upgrade|nginx|--jail|DIR", false},
		{"/usr/bin/rsync|-a|DIR|/backup", false},
	} {
		argv := strings.Split(strings.ReplaceAll(c.argv, "DIR", dir), "|")
		require.Equal(t, c.want, entersJail(argv, st.Dev, st.Ino), c.argv)
	}
}

// Everything in the run's cgroup is killed at once: the guardian is in one of its
// own, beside it, and leaves none behind.
func TestCgroupOfTheRunIsKilled(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	base := ""
	for _, d := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(d, "cgroup.controllers")); err == nil && base == "" {
			base = d
		}
	}
	if base == "" || Booted() {
		if lab.RequireAll() {
			t.Fatal("needs a hierarchy of version 2 that no systemd manages")
		}
		t.Skip("needs a hierarchy of version 2 that no systemd manages")
	}
	up := filepath.Join(base, "jailup-test-"+strconv.Itoa(os.Getpid()))
	run := filepath.Join(up, "run")
	for _, d := range []string{up, run} {
		if err := unix.Mkdir(d, 0o755); err != nil {
			if lab.RequireAll() {
				t.Fatal("no cgroup can be made here: ", err)
			}
			t.Skip("no cgroup can be made here: ", err)
		}
		t.Cleanup(func() { require.NoError(t, unix.Rmdir(d)) })
	}
	fd, err := unix.Open(run, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	g := start(t, func(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: fd} })
	text, err := os.ReadFile("/proc/" + strconv.Itoa(g.pid) + "/cgroup")
	require.NoError(t, err)
	require.Contains(t, string(text), "0::/"+filepath.Base(up)+"/jailup-guardian-test-"+strconv.Itoa(g.pid))
	require.NoError(t, os.WriteFile(filepath.Join(run, "cgroup.kill"), []byte("1"), 0))
	_ = g.cmd.Wait()
	died, _ := g.seen()
	require.Equal(t, "true", died)
	lab.Eventually(t, 5*time.Second, "its cgroup is gone", func() bool {
		left, _ := filepath.Glob(filepath.Join(up, "jailup-guardian-*"))
		return len(left) == 0
	})
	lab.Eventually(t, 5*time.Second, "it has ended", func() bool { return !g.alive() })
}
