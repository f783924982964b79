//go:build faultpoints

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// crowd is a jail that many runs want at once.
type crowd struct {
	t        *testing.T
	y        *lab.Tally
	h        *host
	j        *lab.Jail
	old, new map[string]string
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	pair := lab.Light(t, lab.NginxPair(t))
	c := &crowd{t: t, y: lab.NewTally(t, "concurrency")}
	c.j = lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")))
	c.j.Start(t)
	c.h = newHost(t, pair.Old, pair.New)
	c.old = stateless(t, c.j.Dir)
	return c
}

// learn goes to the new version and back, to know both trees.
func (c *crowd) learn() {
	c.t.Helper()
	c.h.must(0, "upgraded", "upgrade", "nginx", "--jail", c.j.Dir, "--soak", "0s")
	c.new = stateless(c.t, c.j.Dir)
	c.h.must(0, "rolled-back", "rollback", "--jail", c.j.Dir, "--soak", "0s")
}

// whole says which of the two trees it is.
func (c *crowd) whole(what string) string {
	c.t.Helper()
	now := stateless(c.t, c.j.Dir)
	switch {
	case len(lab.DiffTrees(c.old, now)) == 0:
		return "old"
	case c.new != nil && len(lab.DiffTrees(c.new, now)) == 0:
		return "new"
	}
	c.y.Mixed("%s: neither old nor new: %v", what, lab.DiffTrees(c.old, now))
	return "mixed"
}

func (c *crowd) answers(what string) {
	c.t.Helper()
	lab.Eventually(c.t, 20*time.Second, what+": the server answers", func() bool {
		status, _, err := c.j.TryGet("/")
		return err == nil && status == 200
	})
}

// busy starts a run and halts it in its verify: it holds the lock however slow the
// machine is. What is returned lets it go on and waits for its end.
func (c *crowd) busy(verb ...string) (*exec.Cmd, func() error) {
	c.t.Helper()
	cmd := c.h.command(append(verb, "--jail", c.j.Dir, "--soak", "300ms", "--start-timeout", "10m")...)
	require.NoError(c.t, cmd.Start())
	var once sync.Once
	var err error
	end := func() error {
		once.Do(func() {
			_ = cmd.Process.Signal(unix.SIGCONT)
			err = cmd.Wait()
		})
		return err
	}
	c.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = end() })
	lab.Eventually(c.t, 2*time.Minute, "the run is in its verify", func() bool {
		list, _ := filepath.Glob(filepath.Join(c.h.dir, "state/*/runs/*/events.jsonl"))
		for _, f := range list {
			text, _ := os.ReadFile(f)
			if bytes.Contains(text, []byte(`"kind":"step.start","step":"verify"`)) && !bytes.Contains(text, []byte("run.done")) {
				return cmd.Process.Signal(unix.SIGSTOP) == nil
			}
		}
		return false
	})
	return cmd, end
}

// told wants the words of one who is turned away.
func (c *crowd) told(r result, what string, pid int) {
	c.t.Helper()
	if r.Exit != 11 {
		c.y.WrongExit("%s: exit status %d, not 11: %s", what, r.Exit, r)
		return
	}
	said := r.err() + r.Stderr
	require.Contains(c.t, said, "holds the lock since 20", what)
	if pid > 0 {
		require.Contains(c.t, said, fmt.Sprintf("pid %d", pid), what)
	}
	require.Contains(c.t, fmt.Sprint(r.Done["hint"]), "--lock-wait", what)
}

// Twenty at once on one jail: one goes on, all the others say who has the lock,
// at once. Whatever they were, the tree is whole and the server answers.
func TestFaultTwentyAtOnce(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	c.learn()
	_, end := c.busy("upgrade", "nginx")
	verbs := [][]string{
		{"upgrade", "nginx"}, {"rollback"}, {"recover"}, {"stop", "nginx"}, {"start", "nginx"}, {"restart", "nginx"}, {"snapshot", "create"},
	}
	const crowdSize = 20
	results := make([]result, crowdSize)
	var wait sync.WaitGroup
	for i := range crowdSize {
		wait.Go(func() { results[i] = c.h.run(append(verbs[i%len(verbs)], "--jail", c.j.Dir)...) })
	}
	wait.Wait()
	c.y.Cases(len(verbs))
	for i, r := range results {
		what := strings.Join(verbs[i%len(verbs)], " ")
		c.told(r, what, 0)
		c.y.Point("turned away")
	}
	require.NoError(t, end(), "the one that had the lock was disturbed")
	require.Equal(t, "new", c.whole("after twenty at once"))
	c.answers("after twenty at once")

	// One alone is told within a second, of what the machine lets it have.
	_, end = c.busy("rollback")
	began := time.Now()
	r := c.h.run("recover", "--jail", c.j.Dir)
	c.told(r, "recover", 0)
	t.Logf("told after %s", time.Since(began))
	require.NoError(t, end())
}

// Those that wait take their turn, and each ends right.
func TestFaultQueue(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	c.learn()
	verbs := [][]string{{"upgrade", "nginx", "--soak", "0s"}, {"rollback", "--soak", "0s"}, {"recover"}, {"upgrade", "nginx", "--soak", "0s"}, {"restart", "nginx"}, {"rollback", "--soak", "0s"}, {"snapshot", "create"}, {"recover"}}
	results := make([]result, len(verbs))
	var wait sync.WaitGroup
	for i, v := range verbs {
		wait.Go(func() { results[i] = c.h.run(append(v, "--jail", c.j.Dir, "--lock-wait", "5m")...) })
	}
	wait.Wait()
	c.y.Cases(len(verbs))
	for i, r := range results {
		what := strings.Join(verbs[i], " ")
		// A rollback that comes first has nothing to go back to.
		if r.Exit != 0 && !(verbs[i][0] == "rollback" && r.Exit == 1 && strings.Contains(r.err(), "nothing was upgraded")) {
			c.y.WrongExit("%s: exit status %d: %s", what, r.Exit, r)
		}
		c.y.Point("in turn")
	}
	c.whole("after the queue")
	c.answers("after the queue")
}

// kill -9 of the holder: the lock is free at once. The guardian and a person's
// recover want it at the same time; both end well, and nothing is done twice.
func TestFaultHolderIsKilled(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	cmd, end := c.busy("upgrade", "nginx")
	require.NoError(t, cmd.Process.Kill())
	_ = end()
	c.y.Cases(2)
	var wait sync.WaitGroup
	results := make([]result, 4)
	for i := range results {
		wait.Go(func() { results[i] = c.h.run("recover", "--jail", c.j.Dir, "--lock-wait", "2m") })
	}
	wait.Wait()
	undone := 0
	for _, r := range results {
		if r.Exit != 0 {
			c.y.WrongExit("recover beside the guardian: exit status %d: %s", r.Exit, r)
		}
		for _, e := range r.Events {
			if e["kind"] == "step.undo" && e["step"] == "install" {
				undone++
			}
		}
		c.y.Point("recovered")
	}
	require.LessOrEqual(t, undone, 1)
	require.Equal(t, "old", c.whole("after the kill"))
	c.answers("after the kill")
	// The lock is free while the server lives.
	require.NotEmpty(t, c.j.Processes())
	r := c.h.run("recover", "--jail", c.j.Dir)
	require.Equal(t, 0, r.Exit, r.String())
	c.y.Point("free")
}

// One jail by many names is one jail: by links, dots, a bind mount, another
// working directory, another state.
func TestFaultNamesOfOneJail(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	c := newCrowd(t)
	base := filepath.Dir(c.j.Dir)
	link := filepath.Join(base, "link")
	require.NoError(t, os.Symlink("chroot", link))
	chain := filepath.Join(base, "chain")
	require.NoError(t, os.Symlink(link, chain))
	bound := filepath.Join(base, "bound")
	require.NoError(t, os.Mkdir(bound, 0o755))
	require.NoError(t, unix.Mount(c.j.Dir, bound, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(bound, unix.MNT_DETACH) })
	cmd, end := c.busy("upgrade", "nginx")
	names := []string{
		c.j.Dir, c.j.Dir + "/", base + "/./chroot", base + "/../" + filepath.Base(base) + "/chroot", c.j.Dir + "/etc/..",
		"/proc/self/root" + c.j.Dir, link, link + "/.", chain, bound,
	}
	c.y.Cases(len(names) + 3)
	for _, name := range names {
		r := c.h.run("recover", "--jail", name)
		if name == bound && r.Exit == 1 && strings.Contains(r.err(), "mount") {
			c.y.Point("refused")
			continue
		}
		c.told(r, name, cmd.Process.Pid)
		c.y.Point("turned away")
	}
	// Another state does not know the run, nor its id, and is turned away all the same.
	for _, args := range [][]string{{"upgrade", "nginx"}, {"stop", "nginx"}, {"recover"}} {
		other := *c.h
		other.dir = lab.ShmDir(t)
		r := other.run(append(args, "--jail", c.j.Dir)...)
		if args[0] == "recover" { // it does not know the jail: there is nothing to do
			require.Equal(t, 0, r.Exit, r.String())
			c.y.Point("nothing to do")
			continue
		}
		c.told(r, "another state: "+args[0], cmd.Process.Pid)
		c.y.Point("turned away")
	}
	// So is one that finds the jail where it was moved to meanwhile.
	moved := filepath.Join(base, "moved")
	require.NoError(t, os.Rename(c.j.Dir, moved))
	c.told(c.h.run("recover", "--jail", moved), "moved", cmd.Process.Pid)
	c.y.Point("turned away")
	require.NoError(t, os.Rename(moved, c.j.Dir))
	require.NoError(t, end())
	c.answers("after all names")
}

// recover --all beside a run: that one goes on, and its jail is named.
func TestFaultRecoverAllBesideARun(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	c.learn()
	_, end := c.busy("upgrade", "nginx")
	c.y.Cases(1)
	r := c.h.run("recover", "--all")
	c.told(r, "recover --all", 0)
	c.y.Point("turned away")
	waits := make(chan result)
	go func() { waits <- c.h.run("recover", "--all", "--lock-wait", "2m") }()
	require.NoError(t, end(), "the run was disturbed")
	r = <-waits
	require.Equal(t, 0, r.Exit, r.String())
	c.y.Point("in turn")
	require.Equal(t, "new", c.whole("beside recover --all"))
}
