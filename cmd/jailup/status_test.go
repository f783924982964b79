package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/lab"
)

// knownJail is a jail with a stand-in for a server that never runs, entered into
// the caller's registry.
func knownJail(t *testing.T, c *caller) (dir, id string) {
	t.Helper()
	lab.Need(t, "root")
	dir = filepath.Join(t.TempDir(), "jail")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr/sbin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "usr/sbin/nginx"), []byte("x"), 0o755))
	root, err := jail.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	who, err := journal.Identify(root.Fd(), root.Path())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(c.state, "run"), 0o700))
	j, err := journal.OpenRegistry(c.state, filepath.Join(c.state, "run")).Resolve(context.Background(), who, "nginx")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(c.state, j.ID), 0o700))
	return dir, j.ID
}

func TestARunThatWasCutOffIsNamed(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	dir, id := knownJail(t, c)
	const run = "20260102T030405Z-00ff00"
	require.NoError(t, os.MkdirAll(filepath.Join(c.state, id, "runs", run), 0o700))
	j, err := journal.Open(filepath.Join(c.state, id))
	require.NoError(t, err)
	require.NoError(t, j.Save(journal.Record{Run: run, Plan: "upgrade", Phase: journal.Forward, Step: "install"}))
	require.NoError(t, j.Close())
	before := lab.TreeDigest(t, c.state)

	code, stdout, _ := c.run("status", "--jail", dir)
	require.Equal(t, 5, code)
	require.Contains(t, stdout, "run "+run+" (upgrade) was cut off in step install; end it with: jailup recover --jail "+dir)
	st := c.document(5, "status", "--jail", dir)["jails"].([]any)[0].(map[string]any)
	require.Equal(t, "jailup recover --jail "+dir, st["interrupted"].(map[string]any)["command"])
	stdout, _ = c.ok("status")
	require.Contains(t, stdout, "interrupted")
	stdout, _ = c.ok("history", "--jail", dir)
	require.Contains(t, stdout, "cut off, not recovered")
	stdout, _ = c.ok("explain", "20260102")
	require.Contains(t, stdout, "what it began is not ended yet")
	require.Contains(t, stdout, "jailup recover --jail "+dir)
	code, _, stderr := c.run("check", "nginx", "--jail", dir)
	require.Equal(t, 1, code) // its configuration cannot be read
	require.Contains(t, stderr, "was cut off in step install")
	require.Empty(t, lab.DiffTrees(before, lab.TreeDigest(t, c.state)))
}

// What a plan would say of a jail that is between two versions is not true.
func TestNoPlanOfAJailThatIsNeitherOldNorNew(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	dir, id := knownJail(t, c)
	const run = "20260102T030405Z-00ff00"
	j, err := journal.Open(filepath.Join(c.state, id))
	require.NoError(t, err)
	require.NoError(t, j.Save(journal.Record{Run: run, Plan: "upgrade", Phase: journal.Forward, Step: "install"}))
	for _, args := range [][]string{{"plan", "nginx", "--detailed-exitcode"}, {"upgrade", "nginx", "--dry-run"}} {
		code, _, stderr := c.run(append(args, "--jail", dir)...)
		require.Equal(t, 1, code, "%q", args)
		require.Contains(t, stderr, "cannot plan: run "+run+" was cut off in step install")
		require.Contains(t, stderr, "jailup recover --jail "+dir)
	}
	require.NoError(t, j.Save(journal.Record{Run: run, Plan: "upgrade", Phase: journal.Ended, Step: "install"}))
	require.NoError(t, j.Close())
	_, _, stderr := c.run("plan", "nginx", "--jail", dir)
	require.NotContains(t, stderr, "was cut off")
	// Nor of one of which nobody knows.
	file := filepath.Join(c.state, id, "journal")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte{0xff}, len(text)), 0o600))
	code, _, stderr := c.run("plan", "nginx", "--jail", dir)
	require.NotZero(t, code)
	require.Contains(t, stderr, "journal")
	require.NotContains(t, stderr, "was cut off")
}

func TestARunUnderWayIsNamed(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	dir, id := knownJail(t, c)
	lock, err := journal.Acquire(context.Background(), filepath.Join(c.state, "run"), id, journal.Holder{Run: "20260102T030405Z-00ff00", Verb: "upgrade"}, 0)
	require.NoError(t, err)
	defer lock.Release()
	before := lab.TreeDigest(t, c.state, "run/**")

	stdout, _ := c.ok("status", "--jail", dir)
	require.Contains(t, stdout, "upgrade under way")
	require.Contains(t, stdout, "run 20260102T030405Z-00ff00, process "+itoa(os.Getpid()))
	for _, args := range [][]string{
		{"start", "nginx"}, {"stop", "nginx"}, {"restart", "nginx"}, {"snapshot", "create"},
	} {
		code, _, stderr := c.run(append(args, "--jail", dir)...)
		require.Equal(t, 11, code, "%q: %s", args, stderr)
		require.Contains(t, stderr, "error: cannot lock the jail: upgrade (run 20260102T030405Z-00ff00, pid "+itoa(os.Getpid())+")")
		require.Contains(t, stderr, "hint: wait for it with --lock-wait")
	}
	require.Empty(t, lab.DiffTrees(before, lab.TreeDigest(t, c.state, "run/**")))
}

// A state that somebody has spoilt is told, not guessed about.
func TestSpoiltState(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	dir, id := knownJail(t, c)
	for name, want := range map[string]string{
		"manifest.json": "cannot read the manifest",
		"journal":       "the journal is damaged",
	} {
		file := filepath.Join(c.state, id, name)
		require.NoError(t, os.WriteFile(file, []byte("{\x1b[2J"), 0o600))
		code, stdout, stderr := c.run("status", "--jail", dir)
		require.Equal(t, 5, code, "%s: %s", name, stderr)
		require.Contains(t, stdout, want)
		c.ok("status")
		require.NoError(t, os.Remove(file))
	}
	require.NoError(t, os.WriteFile(filepath.Join(c.state, "jails.json"), []byte("{"), 0o600))
	for _, args := range [][]string{{"status"}, {"status", "--jail", dir}, {"history", "--jail", dir}, {"explain", "x"}, {"snapshot", "list", "--jail", dir}} {
		code, stdout, stderr := c.run(args...)
		require.Equal(t, 1, code, "%q", args)
		require.Empty(t, stdout)
		require.Contains(t, stderr, "error: cannot read the registry of jails")
	}
}
