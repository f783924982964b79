package service

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvironIsThatOfTheProcessItself(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "60")
	cmd.Env = []string{"APACHE_RUN_DIR=/run/x", "EMPTY=", "TOKEN=secret=1", "noname", "=odd"}
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	p := procOf(t, cmd.Process.Pid)
	env, err := Environ(p.Process)
	require.NoError(t, err)
	require.Equal(t, []string{"APACHE_RUN_DIR=/run/x", "EMPTY=", "TOKEN=secret=1"}, env)

	other := p.Process
	other.StartTicks++
	_, err = Environ(other)
	require.ErrorIs(t, err, ErrNotRunning, "another process has its number")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	_, err = Environ(p.Process)
	require.ErrorIs(t, err, ErrNotRunning)
}

func procOf(t *testing.T, pid int) *proc {
	t.Helper()
	dir, err := os.Open("/proc")
	require.NoError(t, err)
	defer dir.Close()
	p, err := look(int(dir.Fd()), pid, want{})
	require.NoError(t, err)
	return p
}

func TestKeepEnviron(t *testing.T) {
	t.Parallel()
	env := []string{
		"APACHE_RUN_DIR=/run/old", "TZ=UTC", "APACHE_RUN_DIR=/run/new", "APACHE_X=a\nb", "APACHE_LONG=" + strings.Repeat("x", maxValue+1),
		"LD_PRELOAD=/evil.so", "LD_LIBRARY_PATH=/x", "PATH=/evil", "JAILUP_CONFIG=/x", "LISTEN_FDS=3", "NOTIFY_SOCKET=/run/s", "GCONV_PATH=/x",
		"SSH_AUTH_SOCK=/x", "AWS_SECRET=1", "BASH_FUNC_x%%=() { :; }", "APACHE_\xff=1", "site_root=/srv",
	}
	kept, err := KeepEnviron(env, "APACHE_*", "TZ", "site_root")
	require.NoError(t, err)
	require.Equal(t, []string{"APACHE_RUN_DIR=/run/new", "TZ=UTC", "site_root=/srv"}, kept)
	kept, err = KeepEnviron(env, "*")
	require.NoError(t, err)
	require.Equal(t, []string{"APACHE_RUN_DIR=/run/new", "AWS_SECRET=1", "TZ=UTC", "site_root=/srv"}, kept)
	kept, err = KeepEnviron(env)
	require.NoError(t, err)
	require.Empty(t, kept)
	_, err = KeepEnviron(env, "[")
	require.ErrorContains(t, err, "cannot choose")
	var many []string
	for i := range 10 {
		many = append(many, "A"+string(rune('0'+i))+"="+strings.Repeat("x", 4000))
	}
	_, err = KeepEnviron(many, "A*")
	require.ErrorContains(t, err, "too large")
}
