package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func itoa(n int) string { return strconv.Itoa(n) }

// caller calls the program as a user does, with a state of its own.
type caller struct {
	t     *testing.T
	bin   string
	state string
	env   []string
}

func newCaller(t *testing.T) *caller {
	t.Helper()
	dir := t.TempDir()
	c := &caller{t: t, bin: filepath.Join(program(t), "jailup"), state: filepath.Join(dir, "state")}
	c.env = append(cleanEnviron(), "JAILUP_STATE_DIR="+c.state, "JAILUP_CACHE_DIR="+filepath.Join(dir, "cache"), "JAILUP_CONFIG="+dir)
	return c
}

func (c *caller) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.bin, args...)
	cmd.Env = append([]string{}, c.env...)
	return cmd
}

// run returns what the program answers; it must end by itself.
func (c *caller) run(args ...string) (code int, stdout, stderr string) {
	c.t.Helper()
	cmd := c.command(args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		require.NoError(c.t, err)
	}
	require.NotContains(c.t, o.String()+e.String(), "\x1b", "%q", args)
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// ok is run for what must end with status 0.
func (c *caller) ok(args ...string) (stdout, stderr string) {
	c.t.Helper()
	code, stdout, stderr := c.run(args...)
	require.Equal(c.t, 0, code, "jailup %s\n%s%s", strings.Join(args, " "), stdout, stderr)
	return stdout, stderr
}

// document is run for one JSON document on standard output.
func (c *caller) document(want int, args ...string) map[string]any {
	c.t.Helper()
	code, stdout, stderr := c.run(append(args, "--output", "json")...)
	require.Equal(c.t, want, code, "jailup %s\n%s%s", strings.Join(args, " "), stdout, stderr)
	dec := json.NewDecoder(strings.NewReader(stdout))
	var doc map[string]any
	require.NoError(c.t, dec.Decode(&doc), "%s", stdout)
	require.False(c.t, dec.More(), "more than one document: %s", stdout)
	require.EqualValues(c.t, 1, doc["schema"])
	return doc
}

// lines is run for JSON lines; it returns them, the run.done last.
func (c *caller) lines(want int, args ...string) []map[string]any {
	c.t.Helper()
	code, stdout, stderr := c.run(append(args, "--output", "json")...)
	require.Equal(c.t, want, code, "jailup %s\n%s%s", strings.Join(args, " "), stdout, stderr)
	var all []map[string]any
	for line := range strings.Lines(stdout) {
		var m map[string]any
		require.NoError(c.t, json.Unmarshal([]byte(line), &m), "%s", line)
		for _, key := range []string{"schema", "time", "run", "kind"} {
			require.Contains(c.t, m, key, "%s", line)
		}
		all = append(all, m)
	}
	require.NotEmpty(c.t, all)
	require.Equal(c.t, "run.done", all[len(all)-1]["kind"])
	require.EqualValues(c.t, want, all[len(all)-1]["exit"])
	return all
}

func last(all []map[string]any) map[string]any { return all[len(all)-1] }
