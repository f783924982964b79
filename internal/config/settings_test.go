package config

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDuration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want time.Duration
		out  string
	}{
		{"10s", 10 * time.Second, "10s"},
		{" 2m ", 2 * time.Minute, "2m"},
		{"1h30m", 90 * time.Minute, "1h30m"},
		{"1h", time.Hour, "1h"},
		{"10m", 10 * time.Minute, "10m"},
		{"500ms", 500 * time.Millisecond, "500ms"},
		{"0", 0, "0s"},
		{"0s", 0, "0s"},
		{"7d", 168 * time.Hour, "168h"},
		{"1d12h", 36 * time.Hour, "36h"},
		{"1.5s", 1500 * time.Millisecond, "1.5s"},
	} {
		d, err := ParseDuration(c.in)
		require.NoError(t, err, c.in)
		require.Equal(t, c.want, d.D(), c.in)
		require.Equal(t, c.out, d.String())
		again, err := ParseDuration(d.String())
		require.NoError(t, err)
		require.Equal(t, d, again)
	}
	for _, c := range []struct{ in, err, hint string }{
		{"10", `"10" is no duration: it has no unit`, "write 10s for seconds, or 10m for minutes"},
		{"1.5", `"1.5" is no duration: it has no unit`, "write 1.5s for seconds, or 1.5m for minutes"},
		{"-10", `"-10" is no duration: it is negative`, ""},
		{"-10s", `"-10s" is no duration: it is negative`, ""},
		{"", `"" is no duration`, "write it with a unit, such as 10s or 2m"},
		{"soon", `"soon" is no duration`, "write it with a unit, such as 10s, 2m or 7d"},
		{"1d2", `"1d2" is no duration`, "write it with a unit, such as 10s, 2m or 7d"},
		{"1dd", `"1dd" is no duration`, "write it with a unit, such as 10s, 2m or 7d"},
		{"-1d", `"-1d" is no duration`, "write it with a unit, such as 10s, 2m or 7d"},
		{"1d-2s", `"1d-2s" is no duration: it is negative`, ""},
		{"106752d", `"106752d" is no duration`, "write it with a unit, such as 10s, 2m or 7d"},
		{"106750d999h", `"106750d999h" is no duration: it is too long`, ""},
		{"10s\x1b[2J", `"10s" is no duration`, "write it with a unit, such as 10s, 2m or 7d"},
	} {
		var d Duration
		err := d.Set(c.in)
		require.EqualError(t, err, c.err)
		require.Equal(t, c.hint, err.(*Error).Hint(), c.in)
	}
}

func TestEverySettingHasADefault(t *testing.T) {
	t.Parallel()
	s := Resolve(Defaults(Dirs{State: "/s", Cache: "/c", Snapshots: "/n"}))
	var check func(v reflect.Value)
	check = func(v reflect.Value) {
		each(v, func(name string, _ reflect.StructField, f reflect.Value) {
			if f.Kind() == reflect.Struct {
				check(f)
				return
			}
			require.False(t, f.IsNil(), name)
		})
	}
	check(reflect.ValueOf(s))
	// What the contract names.
	require.Equal(t, "restart", *s.Strategy)
	require.Equal(t, "apt", *s.Source)
	require.Equal(t, 10*time.Second, s.Soak.D())
	require.Equal(t, 30*time.Second, s.StopTimeout.D())
	require.Equal(t, 60*time.Second, s.StartTimeout.D())
	require.Equal(t, "/s", *s.StateDir)
	require.Equal(t, "/c", *s.CacheDir)
	require.Equal(t, "/n", *s.Snapshots)
	for name, f := range map[string]*string{"strategy": s.Strategy, "conf": s.Conf, "output": s.Output} {
		require.NoError(t, new(Settings).Set(name, *f), "a default is a value that one may set")
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	var flags Settings
	require.NoError(t, flags.Set("soak", "1s"))
	env, err := FromEnv(func(name string) string {
		return map[string]string{"JAILUP_SOAK": "2s", "JAILUP_STOP_TIMEOUT": "2s", "JAILUP_HOLD": "a, b,", "JAILUP_SUITE": ""}[name]
	})
	require.NoError(t, err)
	var jail, file Settings
	require.NoError(t, jail.Set("stop-timeout", "3s"))
	require.NoError(t, jail.Set("lock-wait", "3s"))
	require.NoError(t, jail.Set("rehearse", "no"))
	require.NoError(t, file.Set("lock-wait", "4s"))
	require.NoError(t, file.Set("timeout", "4s"))
	require.NoError(t, file.Set("rehearse", "yes"))
	require.NoError(t, file.Set("suite", "sid"))
	file.Snapshot.Exclude = &[]string{"/x"}

	s := Resolve(flags, env, jail, file, Defaults(Dirs{}))
	require.Equal(t, "1s 2s 3s 4s", s.Soak.String()+" "+s.StopTimeout.String()+" "+s.LockWait.String()+" "+s.Timeout.String())
	require.False(t, *s.Rehearse, "no is something that is set")
	require.Equal(t, []string{"a", "b"}, *s.Hold)
	require.Equal(t, "sid", *s.Suite, "an empty variable sets nothing")
	require.Equal(t, []string{"/x"}, *s.Snapshot.Exclude)

	(*s.Snapshot.Exclude)[0], *s.Suite = "changed", "changed"
	require.Equal(t, "/x", (*file.Snapshot.Exclude)[0])
	require.Equal(t, "sid", *file.Suite)
}

func TestSetRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, err, hint string }{
		{"soak", "10", `"10" is no duration: it has no unit`, "write 10s for seconds, or 10m for minutes"},
		{"strategy", "handoff", `"handoff" is none of restart, handover, auto`, "the ones there are: restart, handover, auto"},
		{"strategy", "Restart", `"Restart" is none of restart, handover, auto`, "did you mean restart?"},
		{"rehearse", "perhaps", `"perhaps" is neither yes nor no`, "write true or false"},
		{"keep", "all", `"all" is no whole number`, ""},
		{"keep", "-1", `-1 is less than 1`, ""},
		{"suite", "a\x00b", `"ab" has a null character in it`, ""},
		{"soka", "10s", `there is no setting "soka"`, "did you mean soak?"},
		{"snapshot", "x", `there is no setting "snapshot"`, "did you mean snapshots?"},
	} {
		var s Settings
		err := s.Set(c.name, c.text)
		require.EqualError(t, err, c.err)
		require.Equal(t, c.hint, err.(*Error).Hint())
		require.Equal(t, Settings{}, s, "what is refused is not set")
	}
	_, err := FromEnv(func(name string) string {
		if name == "JAILUP_STOP_TIMEOUT" {
			return "30"
		}
		return ""
	})
	require.EqualError(t, err, `cannot use JAILUP_STOP_TIMEOUT of the environment: "30" is no duration: it has no unit`)
	require.Equal(t, "write 30s for seconds, or 30m for minutes", err.(*Error).Hint())
}

func TestEnvName(t *testing.T) {
	t.Parallel()
	require.Equal(t, "JAILUP_STOP_TIMEOUT", EnvName("stop-timeout"))
	require.Contains(t, Names(), "state-dir")
	require.NotContains(t, Names(), "snapshot")
}

func TestDefaultDirs(t *testing.T) {
	t.Parallel()
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		name string
		uid  int
		env  func(string) string
		want Dirs
	}{
		{"root, whatever the environment says", 0, env("HOME", "/home/eve", "XDG_CONFIG_HOME", "/tmp/eve", "XDG_RUNTIME_DIR", "/tmp/eve"),
			Dirs{"/etc/jailup", "/var/lib/jailup", "/var/cache/jailup", "/run/jailup", "/var/lib/jailup/snapshots"}},
		{"only a home", 1000, env("HOME", "/home/a"), Dirs{"/home/a/.config/jailup", "/home/a/.local/state/jailup",
			"/home/a/.cache/jailup", "/home/a/.local/state/jailup/run", "/home/a/.local/state/jailup/snapshots"}},
		{"all set, no home", 1000, env("XDG_CONFIG_HOME", "/c", "XDG_STATE_HOME", "/s", "XDG_CACHE_HOME", "/k", "XDG_RUNTIME_DIR", "/run/user/1000"),
			Dirs{"/c/jailup", "/s/jailup", "/k/jailup", "/run/user/1000/jailup", "/s/jailup/snapshots"}},
		{"relative ones do not count", 1000, env("HOME", "/h", "XDG_CONFIG_HOME", "c", "XDG_STATE_HOME", "../s", "XDG_RUNTIME_DIR", "r"),
			Dirs{"/h/.config/jailup", "/h/.local/state/jailup", "/h/.cache/jailup", "/h/.local/state/jailup/run", "/h/.local/state/jailup/snapshots"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := DefaultDirs(c.uid, c.env)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	_, err := DefaultDirs(1000, env("HOME", "a", "XDG_CONFIG_HOME", "/c"))
	require.EqualError(t, err, "cannot find a folder to work in: neither HOME nor XDG_STATE_HOME is an absolute path")
	var e *Error
	require.True(t, errors.As(err, &e))
	require.Equal(t, "set HOME, or run jailup as root", e.Hint())
}
