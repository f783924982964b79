package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// peekJail is a jail with one static program in it.
func peekJail(t *testing.T) string {
	t.Helper()
	lab.Need(t, "root", "go")
	dir := filepath.Join(t.TempDir(), "jail")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755))
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "usr/bin/peek"), "../../steps/testdata/peek")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

func (c *caller) runIn(jail string, argv ...string) *exec.Cmd {
	return c.command(append([]string{"run", "--jail", jail, "--"}, argv...)...)
}

// ownSignals are two that the C library keeps for itself, and that Go leaves
// alone: the tests' own program has one when the race detector is in it, the
// shipped program never.
var ownSignals = regexp.MustCompile(`(?m)^ignored 3[23]\n`)

func TestRunGivesACleanStart(t *testing.T) {
	t.Parallel()
	dir := peekJail(t)
	c := newCaller(t)
	cmd := c.runIn(dir, "peek", "-x", "--jail", "is an argument")
	cmd.Env = append(cmd.Env, "TERM=vt100", "LANG=de_DE.UTF-8", "SECRET=1", "PERL5LIB=/x")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	cmd.ExtraFiles = []*os.File{r, w} // jailup itself is started with them open
	cmd.Stdin = strings.NewReader("word\n")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s", stderr.String())
	require.Equal(t, strings.Join([]string{
		"env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "env HOME=/root", "env TERM=vt100", "env LANG=de_DE.UTF-8",
		"cwd /", "fd 0", "fd 1", "fd 2", "read word", "",
	}, "\n"), ownSignals.ReplaceAllString(stdout.String(), ""))
	require.Equal(t, "to stderr\n", stderr.String())
}

func TestRunPassesTheExitStatusOn(t *testing.T) {
	t.Parallel()
	dir := peekJail(t)
	c := newCaller(t)
	for _, x := range []struct {
		argv []string
		want int
	}{
		{[]string{"peek", "exit", "0"}, 0},
		{[]string{"/usr/bin/peek", "exit", "1"}, 1},
		{[]string{"usr/bin/peek", "exit", "64"}, 64},
		{[]string{"peek", "exit", "255"}, 255},
		{[]string{"peek", "signal", "9"}, 137},
		{[]string{"peek", "signal", "15"}, 143},
		{[]string{"missing"}, 127},
		{[]string{"./peek"}, 127},
		{[]string{""}, 127},
		{[]string{"/usr/bin"}, 126},
	} {
		code, _, stderr := c.run(append([]string{"run", "--jail", dir, "--"}, x.argv...)...)
		require.Equal(t, x.want, code, "%q: %s", x.argv, stderr)
	}
	// A program of the host is none of the jail, whatever leads to it.
	require.NoError(t, os.Symlink("/bin/true", filepath.Join(dir, "usr/bin/true")))
	require.NoError(t, os.Symlink("../../../../../../../../../../bin/true", filepath.Join(dir, "usr/bin/true2")))
	for _, name := range []string{"true", "true2", "/bin/sh"} {
		code, _, stderr := c.run("run", "--jail", dir, "--", name)
		require.Equal(t, 127, code, "%s: %s", name, stderr)
	}
	// A script whose interpreter is not in the jail, and a text.
	for name, text := range map[string]string{"script": "#!/bin/sh\n", "text": "text\n"} {
		lab.WriteProgram(t, filepath.Join(dir, "usr/bin", name), []byte(text))
		code, _, stderr := c.run("run", "--jail", dir, "--", name)
		require.Equal(t, 126, code, "%s: %s", name, stderr)
		require.Contains(t, stderr, "error: cannot run /usr/bin/"+name)
	}
}

func TestRunPassesSignalsOn(t *testing.T) {
	t.Parallel()
	dir := peekJail(t)
	c := newCaller(t)
	for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGUSR1} {
		cmd := c.runIn(dir, "peek", "wait", itoa(int(s)))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "waiting\n", line)
		require.NoError(t, cmd.Process.Signal(s))
		_ = cmd.Wait()
		require.Equal(t, 9, cmd.ProcessState.ExitCode(), "%v", s)
	}
	// The second signal must not end jailup before the program.
	cmd := c.runIn(dir, "peek", "wait", itoa(int(unix.SIGUSR2)))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR2))
	_ = cmd.Wait()
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
	// A time limit ends it.
	code, _, _ := c.run("run", "--jail", dir, "--timeout", "300ms", "--", "peek", "wait", "10")
	require.Equal(t, 143, code)
}
