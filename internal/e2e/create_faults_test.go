//go:build faultpoints

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// kill -9 of a create: there is no jail, or a whole one that jailup knows as its
// own, and nothing is in the way of the next create.
func TestCreateIsKilled(t *testing.T) {
	t.Parallel()
	y := lab.NewTally(t, "crash")
	for shard := range 2 {
		t.Run(strconv.Itoa(shard), func(t *testing.T) {
			t.Parallel()
			if apart(t) {
				return
			}
			killCreates(t, y, shard, 2)
		})
	}
}

func killCreates(t *testing.T, y *lab.Tally, shard, shards int) {
	_, pair, dir := newPlace(t)
	h := newHost(t, lab.Light(t, pair).New)
	h.bin = program(t, true)
	parent, file := filepath.Dir(dir), filepath.Join(h.dir, "trace")
	// The first one makes folders and fills the cache: it is not like the others.
	h.must(0, "created", h.create(filepath.Join(parent, "first"))...)
	h.env = []string{"JAILUP_FAULT_TRACE=" + file}
	h.must(0, "created", h.create(filepath.Join(parent, "second"))...)
	h.env = nil
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	trace := strings.Split(strings.TrimSpace(string(data)), "\n")
	commit := 0
	for i, line := range trace {
		if strings.Contains(line, "before syncfs") {
			commit = i + 1
		}
	}
	require.NotZero(t, commit)
	var points []int
	for n := 1; n <= len(trace); n++ {
		// Before it there is a name that nobody knows, and file after file comes in.
		if n >= commit || n%(10*shards) == 10*shard {
			points = append(points, n)
		}
	}
	if shard == 0 {
		y.Cases(1)
		y.Of(len(trace))
	}
	absent, whole := 0, 0
	for i, n := range points {
		if n >= commit && i%shards != shard || !lab.Sampled(t, i) {
			continue
		}
		what := "killed at " + trace[n-1]
		counter := filepath.Join(h.dir, "counter")
		os.Remove(counter)
		cmd := h.command(h.create(dir)...)
		cmd.Env = append(cmd.Env, "JAILUP_FAULT=kill:"+strconv.Itoa(n), "JAILUP_FAULT_COUNTER="+counter)
		out, err := cmd.CombinedOutput()
		if err != nil {
			require.Equal(t, -1, cmd.ProcessState.ExitCode(), "%s: %s", what, out)
		}
		if !exists(dir) {
			absent++
			y.Point("none")
			require.Len(t, h.jails(), 2, what)
			if n < commit && i%8 != 0 {
				continue // the next one that is killed has swept
			}
			h.must(0, "created", "upgrade", "nginx", "--install", "--jail", dir, "--listen", "127.0.0.1:8080")
		} else {
			whole++
			y.Point("new")
		}
		onlyJails(t, parent, "first", "second", "chroot")
		var st map[string]any
		for _, j := range h.jails() {
			if one := j.(map[string]any); one["jail"] == dir {
				st = one
			}
		}
		require.NotNil(t, st, what)
		require.Equal(t, pair.NewVersion, st["version"], what)
		text, err := os.ReadFile(filepath.Join(h.dir, "state", st["id"].(string), "manifest.json"))
		require.NoError(t, err, what)
		var m struct{ Whole bool }
		require.NoError(t, json.Unmarshal(text, &m))
		require.True(t, m.Whole, what)
		h.must(0, "current", "upgrade", "nginx", "--jail", dir)
		require.NoError(t, os.RemoveAll(dir))                                                      //nolint:forbidigo // of the test's own
		require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "state", st["id"].(string), "runs"))) //nolint:forbidigo // likewise
		stages, err := filepath.Glob(filepath.Join(parent, ".jailup-stage-*"))
		require.NoError(t, err)
		require.Empty(t, stages, what)
	}
	t.Logf("%d points, %d kills with no jail, %d with a whole one", len(trace), absent, whole)
	if !lab.Sampling() {
		require.Greater(t, absent, 20)
		require.NotZero(t, whole)
	}
}
