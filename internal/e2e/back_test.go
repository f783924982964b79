package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// commonWith is a package nginx-common with one file of the configuration changed.
func commonWith(t *testing.T, pair lab.Pair, file, text string) string {
	t.Helper()
	deb := lab.Repack(t, lab.FindDeb(t, pair.New, "nginx-common"), func(dir string, _ *lab.Control) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	})
	return lab.ReplaceDebs(t, pair.New, deb)
}

// Somebody edits a new file while it is watched, and the run goes back: his edit
// stays, and so does the version of before, which would go with the stage.
func TestGoingBackLosesNoVersion(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.debs = newHost(t, commonWith(t, pair, "etc/nginx/fastcgi.conf", "# new\n"), pair.Old).debs
	conf := filepath.Join(j.Dir, "etc/nginx/fastcgi.conf")
	old, err := os.ReadFile(conf)
	require.NoError(t, err)
	cmd, end := started(t, h, j, "verify", "--soak", "30s")
	require.NoError(t, os.WriteFile(conf, []byte("# edited\n"), 0o644))
	require.NoError(t, cmd.Process.Signal(unix.SIGINT))
	done := end()
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), done)
	require.Contains(t, done["error"], "fastcgi.conf")
	now, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.Equal(t, "# edited\n", string(now))
	kept, err := filepath.Glob(filepath.Join(h.dir, "state/*/runs/*/evidence/old~etc~nginx~fastcgi.conf"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	saved, err := os.ReadFile(kept[0])
	require.NoError(t, err)
	require.Equal(t, string(old), string(saved))
}

// A listen was changed on purpose: what comes back is judged by the configuration
// that comes back with it, and a restart by the one that it reads.
func TestPortsThatWereChangedOnPurpose(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	h.debs = newHost(t, pair.New, pair.Old).debs
	up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	conf := filepath.Join(j.Dir, "etc/nginx/conf.d/default.conf")
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	was, moved := j.Port, lab.FreePort(t)
	require.NoError(t, os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), strconv.Itoa(was), strconv.Itoa(moved))), 0o644))
	h.must(0, "restarted", "restart", "nginx", "--jail", j.Dir)
	j.Port, j.URL = moved, "http://127.0.0.1:"+strconv.Itoa(moved)
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--to", up.Done["snapshot"].(string), "--soak", "500ms")
	j.Port, j.URL = was, "http://127.0.0.1:"+strconv.Itoa(was)
	status, _ = j.Get(t, "/")
	require.Equal(t, 200, status)
}

// A snapshot that was dropped is not named, and a time limit says what it was.
func TestWhatIsToldAtTheEnd(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	r := h.run("upgrade", "nginx", "--jail", j.Dir, "--timeout", "300ms")
	require.Equal(t, 1, r.Exit, r.String())
	require.Contains(t, r.err(), "the time limit of 300ms is over")
	require.Contains(t, r.err(), "nothing is changed")
	require.Empty(t, r.Done["snapshot"])
	require.NotContains(t, r.err(), "context")
}
