package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// A jail made by hand, with a real nginx, through all verbs that look at a jail
// and control its server, before and after an upgrade.
func TestVerbsOnARealJail(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	pair := lab.NginxPair(t)
	j := lab.HandMadeJail(t, pair.Old, lab.InMemory())
	c := newCaller(t)
	in := func(args ...string) []string { return append(args, "--jail", j.Dir) }
	status := func(want int) map[string]any {
		t.Helper()
		jails := c.document(want, in("status")...)["jails"].([]any)
		require.Len(t, jails, 1)
		return jails[0].(map[string]any)
	}
	before := lab.TreeDigest(t, j.Dir, "run/**", "var/log/nginx/**", "var/lib/nginx/**")

	t.Log("down, and jailup knows nothing of it")
	st := status(5)
	require.Equal(t, "down", st["state"])
	require.Equal(t, "nginx", st["server"])
	require.Equal(t, "", st["id"])
	require.Equal(t, "checked", last(c.lines(5, in("check", "nginx")...))["result"])
	require.NoDirExists(t, c.state)
	_, stderr := c.ok(in("stop", "nginx")...)
	require.Contains(t, stderr, "nginx is down already")

	t.Log("start")
	done := last(c.lines(0, in("start", "nginx")...))
	require.Equal(t, "started", done["result"])
	code, body := j.Get(t, "/")
	require.Equal(t, 200, code)
	require.Equal(t, lab.Page, body)
	master := j.MasterPID()
	_, stderr = c.ok(in("start", "nginx")...)
	require.Contains(t, stderr, fmt.Sprintf("nginx runs already: process %d", master))
	require.Equal(t, "current", last(c.lines(0, in("start", "nginx")...))["result"])
	require.Equal(t, master, j.MasterPID())

	t.Log("status and check of one that is well")
	st = status(0)
	require.Equal(t, "running", st["state"])
	require.Equal(t, true, st["healthy"])
	require.EqualValues(t, master, st["master_pid"])
	require.Len(t, st["worker_pids"], 2)
	require.Equal(t, []any{fmt.Sprintf("127.0.0.1:%d", j.Port)}, st["listens"])
	require.Empty(t, st["problems"])
	require.Nil(t, st["busy"])
	require.Nil(t, st["interrupted"])
	stdout, _ := c.ok("status")
	require.Contains(t, stdout, j.Dir)
	stdout, stderr = c.ok(in("status", "--quiet")...)
	require.Empty(t, stdout+stderr)
	all := c.lines(0, in("check", "nginx")...)
	require.Equal(t, "checked", last(all)["result"])
	kinds := map[any]int{}
	for _, e := range all {
		kinds[e["kind"]]++
	}
	require.GreaterOrEqual(t, kinds["check"], 4)
	stdout, stderr = c.ok(in("check", "nginx", "-q")...)
	require.Empty(t, stdout+stderr)

	t.Log("restart: another master, the same answers; a broken configuration is not restarted into")
	done = last(c.lines(0, in("restart", "nginx")...))
	require.Equal(t, "restarted", done["result"])
	require.NotNil(t, done["downtime_ms"])
	require.NotEqual(t, master, j.MasterPID())
	master = j.MasterPID()
	conf := filepath.Join(j.Dir, "etc/nginx/nginx.conf")
	sound, err := os.ReadFile(conf)
	require.NoError(t, err)
	info, err := os.Stat(conf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(conf, append(sound, "nonsense here;\n"...), 0o644))
	exit, _, stderr := c.run(in("restart", "nginx")...)
	require.Equal(t, 1, exit, stderr)
	require.Contains(t, stderr, "unknown directive \"nonsense\"")
	require.Equal(t, master, j.MasterPID())
	require.NoError(t, os.WriteFile(conf, sound, 0o644))
	require.NoError(t, os.Chtimes(conf, info.ModTime(), info.ModTime()))

	t.Log("run")
	exit, _, stderr = c.run(in("run")[0], "--jail", j.Dir, "--", "nginx", "-v")
	require.Equal(t, 0, exit)
	require.Contains(t, stderr, "nginx version: nginx/")

	t.Log("snapshots")
	saved := last(c.lines(0, in("snapshot", "create")...))
	require.Equal(t, "saved", saved["result"])
	id := saved["snapshot"].(string)
	list := c.document(0, in("snapshot", "list")...)["snapshots"].([]any)
	require.Len(t, list, 1)
	require.Equal(t, id, list[0].(map[string]any)["id"])
	require.Equal(t, "live", list[0].(map[string]any)["consistency"])
	stdout, _ = c.ok(in("snapshot", "verify")...)
	require.Equal(t, id+": whole\n", stdout)
	_, stderr = c.ok(in("snapshot", "diff", id)...)
	require.Contains(t, stderr, "no difference")
	page := filepath.Join(j.Dir, "srv/www/index.html")
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/www/new.html"), []byte("x"), 0o644))
	require.NoError(t, os.Chmod(page, 0o600))
	stdout, _ = c.ok(in("snapshot", "diff", id)...)
	require.Contains(t, stdout, "added    /srv/www/new.html\n")
	require.Contains(t, stdout, "modified /srv/www/index.html (mode)\n")
	second := last(c.lines(0, in("snapshot", "create")...))["snapshot"].(string)
	changes := c.document(0, in("snapshot", "diff", id, second)...)["changes"].([]any)
	require.Len(t, changes, 3) // the two, and the folder's time
	require.NoError(t, os.Remove(filepath.Join(j.Dir, "srv/www/new.html")))
	require.NoError(t, os.Chmod(page, 0o644))
	into := filepath.Join(t.TempDir(), "restored")
	c.ok(in("snapshot", "restore", id, "--into", into)...)
	restored := lab.TreeDigest(t, into, "run/**", "var/log/nginx/**", "var/lib/nginx/**")
	require.Empty(t, lab.DiffTrees(before, restored))
	exit, _, stderr = c.run(in("snapshot", "restore", id, "--into", into)...)
	require.Equal(t, 1, exit)
	require.Contains(t, stderr, "not empty")

	t.Log("another jail sees none of them")
	other := t.TempDir()
	exit, _, _ = c.run("snapshot", "show", id, "--jail", other)
	require.Equal(t, 1, exit)

	t.Log("a damaged one")
	require.NoError(t, os.WriteFile(filepath.Join(c.state, "snapshots", second, "tree/etc/hosts"), []byte("changed"), 0o644))
	exit, stdout, _ = c.run(in("snapshot", "verify")...)
	require.Equal(t, 1, exit)
	require.Contains(t, stdout, id+": whole\n")
	require.Contains(t, stdout, second+": /etc/hosts: ")
	require.NoError(t, os.RemoveAll(filepath.Join(c.state, "snapshots", second)))

	t.Log("upgrade, history, explain")
	c.ok(in("upgrade", "nginx", "--source", "dir:"+pair.New, "--soak", "300ms", "--adopt")...)
	st = status(0)
	require.Equal(t, pair.NewVersion, st["version"])
	require.Equal(t, "upgraded", st["last_run"].(map[string]any)["result"])
	runs := c.document(0, in("history")...)["runs"].([]any)
	var verbs []string
	for _, r := range runs {
		verbs = append(verbs, r.(map[string]any)["verb"].(string))
	}
	require.Equal(t, "stop start start start restart restart snapshot create snapshot create upgrade", strings.Join(verbs, " "))
	run := runs[len(runs)-1].(map[string]any)
	require.EqualValues(t, 0, run["exit"])
	require.NotNil(t, run["downtime_ms"])
	stdout, _ = c.ok(in("history")...)
	require.Contains(t, stdout, pair.NewVersion)
	require.Equal(t, len(runs)+1, strings.Count(stdout, "\n"))
	stdout, _ = c.ok("explain", run["run"].(string))
	require.Contains(t, stdout, "It went well")
	require.Contains(t, stdout, "to go back: jailup rollback --jail "+j.Dir)
	lastOne, _ := c.ok(in("explain", "last")...)
	require.Equal(t, stdout, lastOne)
	failed := c.document(0, "explain", runs[5].(map[string]any)["run"].(string))
	require.Equal(t, "test", failed["failed_step"])
	require.Contains(t, failed["why"], "nonsense")
	require.Contains(t, failed["files"], "rehearsal.txt")

	t.Log("prune keeps what is asked for")
	doc := c.document(0, in("snapshot", "prune", "--keep", "1")...)
	require.Equal(t, []any{id}, doc["pruned"])

	t.Log("a server that is half dead is unhealthy, and stop ends it all the same")
	killed := j.MasterPID()
	require.NoError(t, unix.Kill(killed, unix.SIGKILL))
	lab.Eventually(t, 5*time.Second, "the master is dead", func() bool {
		return !slices.ContainsFunc(j.Processes(), func(p lab.Process) bool { return p.PID == killed })
	})
	require.Equal(t, false, status(5)["healthy"])
	c.lines(5, in("check", "nginx")...)
	done = last(c.lines(0, in("stop", "nginx")...))
	require.Equal(t, "stopped", done["result"])
	require.Empty(t, j.Processes())
	require.Equal(t, "down", status(5)["state"])

	t.Log("the jail's folder goes: what is known of it is still told")
	away := j.Dir + ".away"
	require.NoError(t, os.Rename(j.Dir, away))
	require.Equal(t, "missing", status(5)["state"])
	require.Len(t, c.document(0, in("history")...)["runs"], len(runs)+1)
	rest := c.document(0, in("snapshot", "list")...)["snapshots"].([]any)
	require.Len(t, rest, 1)
	c.ok(in("snapshot", "restore", rest[0].(map[string]any)["id"].(string), "--into", filepath.Join(t.TempDir(), "again"))...)
	require.NoError(t, os.Rename(away, j.Dir))
}

// A server that does not get well is told with evidence.
func TestStartOfOneThatIsNotWell(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	pair := lab.NginxPair(t)
	j := lab.HandMadeJail(t, pair.Old, lab.InMemory())
	c := newCaller(t)
	conf := filepath.Join(j.Dir, "etc/nginx/nginx.conf")
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(conf, append(text, "nonsense here;\n"...), 0o644))
	done := last(c.lines(1, "start", "nginx", "--jail", j.Dir))
	require.Equal(t, "failed", done["result"])
	require.Contains(t, done["error"], "nonsense")
	require.Contains(t, done["hint"], "jailup restart nginx")
	require.DirExists(t, done["evidence"].(string))
	require.Empty(t, j.Processes())
	stdout, _ := c.ok("explain", "last", "--jail", j.Dir)
	require.Contains(t, stdout, "Failed: step start")
	require.Contains(t, stdout, "Evidence: ")
}
