package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

func TestUpgradeOfAJailMadeByHand(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]lab.JailOption{"split": nil, "merged": {lab.Merged()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, pair := oldJail(t, opts...)
			h := newHost(t, pair.New, pair.Old)
			secret := filepath.Join(j.Dir, "srv/unknown file\nwith a newline")
			require.NoError(t, os.WriteFile(secret, []byte("mine"), 0o640))
			before := stateless(t, j.Dir)

			file := filepath.Join(t.TempDir(), "plan.json")
			plan := h.must(0, "planned", "plan", "nginx", "--jail", j.Dir, "-o", file)
			var room struct {
				Stage    int64 `json:"stage_bytes"`
				Unpacked int64 `json:"unpacked_bytes"`
			}
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &room))
			require.Positive(t, room.Stage)
			require.Greater(t, room.Unpacked, room.Stage, "all is unpacked before it is known what is kept")
			require.Equal(t, pair.NewVersion, plan.Done["to"].(map[string]any)["nginx"])
			require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)), "plan changed something")
			require.NoDirExists(t, filepath.Join(h.dir, "state", "snapshots"))

			up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "1s")
			require.Equal(t, pair.OldVersion, up.Done["from"].(map[string]any)["nginx"], up.String())
			require.Equal(t, pair.NewVersion, up.Done["to"].(map[string]any)["nginx"])
			require.Less(t, up.Done["downtime_ms"].(float64), 5000.0)
			require.NotZero(t, up.Done["changed_files"])
			require.NotEmpty(t, up.Done["snapshot"])
			status, body := j.Get(t, "/")
			require.Equal(t, 200, status)
			require.Equal(t, lab.Page, body)
			requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.New), "usr/sbin/nginx"), filepath.Join(j.Dir, "usr/sbin/nginx"))
			require.FileExists(t, secret)
			after := stateless(t, j.Dir)
			for _, d := range lab.DiffTrees(before, after) {
				require.NotContains(t, d, "unknown file")
				require.NotContains(t, d, "etc/nginx/nginx.conf ")
			}

			again := h.must(0, "current", "upgrade", "nginx", "--jail", j.Dir)
			require.Zero(t, again.Done["changed_files"])
			require.Empty(t, lab.DiffTrees(after, stateless(t, j.Dir)))

			pid := j.MasterPID()
			h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "1s")
			require.NotEqual(t, pid, j.MasterPID())
			status, body = j.Get(t, "/")
			require.Equal(t, 200, status)
			require.Equal(t, lab.Page, body)
			require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)), "not wholly old")
			h.must(1, "failed", "rollback", "--jail", j.Dir)
		})
	}
}

func requireSameFile(t testing.TB, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	require.NoError(t, err)
	y, err := os.ReadFile(b)
	require.NoError(t, err)
	require.Equal(t, len(x), len(y))
	require.True(t, string(x) == string(y), "%s differs from %s", a, b)
}

// A stopped server is upgraded, started for the checks, and left down.
func TestAStoppedServerStaysDown(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	j.Stop(t)
	h := newHost(t, pair.New, pair.Old)
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	require.Zero(t, j.MasterPID())
}

// A sabotaged package goes back by itself: the server is up in its old version.
func TestSabotage(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb", "gcc")
	for name, c := range map[string]struct {
		exit   int
		result string
		change func(t *testing.T, dir string, j *lab.Jail)
		blame  string
	}{
		"configuration test fails": {1, "failed", func(t *testing.T, dir string, _ *lab.Jail) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "usr/sbin/nginx"), []byte("#!/bin/nothing\n"), 0o755))
		}, "nginx"},
		"a library is missing": {1, "failed", func(t *testing.T, dir string, _ *lab.Jail) {
			buildC(t, filepath.Join(dir, "usr/sbin/nginx"), `int main(void){return 0;}`, "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", stub(t, "libnowhere.so.1"))
		}, "libnowhere"},
		"dies after two seconds": {3, "rolled-back", func(t *testing.T, dir string, _ *lab.Jail) {
			wrapper(t, dir, 2)
		}, "not well"},
		"exits at once": {3, "rolled-back", func(t *testing.T, dir string, _ *lab.Jail) {
			wrapper(t, dir, 0)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, pair, h := createdJail(t)
			bad := lab.ReplaceDebs(t, pair.New, lab.Repack(t, lab.FindDeb(t, pair.New, "nginx"), func(dir string, _ *lab.Control) {
				c.change(t, dir, j)
			}))
			h.debs = newHost(t, bad, pair.Old).debs
			before := stateless(t, j.Dir)
			pid := j.MasterPID()
			r := h.must(c.exit, c.result, "upgrade", "nginx", "--jail", j.Dir, "--soak", "4s", "--start-timeout", "10s")
			require.Contains(t, r.err(), c.blame)
			status, body := j.Get(t, "/")
			require.Equal(t, 200, status)
			require.Equal(t, lab.Page, body)
			require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
			if c.exit == 1 {
				require.Equal(t, pid, j.MasterPID(), "the old server was touched")
			} else {
				require.DirExists(t, r.Done["evidence"].(string))
			}
			noStage(t, j.Dir)
		})
	}
}

// noStage wants nothing of jailup's left beside the jail.
func noStage(t testing.TB, jail string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(jail))
	require.NoError(t, err)
	for _, e := range entries {
		require.False(t, strings.HasPrefix(e.Name(), ".jailup"), "left behind: %s", e.Name())
	}
}

// A port that somebody takes while the server is down.
func TestATakenPort(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	before := stateless(t, j.Dir)
	stop := make(chan struct{})
	done := make(chan bool)
	go func() {
		// As soon as the port is free it is taken, once, for four seconds.
		for {
			select {
			case <-stop:
				done <- false
				return
			default:
			}
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(j.Port))
			if err == nil {
				time.Sleep(4 * time.Second)
				l.Close()
				done <- true
				return
			}
		}
	}()
	r := h.run("upgrade", "nginx", "--jail", j.Dir, "--soak", "1s", "--start-timeout", "2s")
	close(stop)
	require.True(t, <-done, "the port was never free")
	require.Contains(t, []int{3, 4}, r.Exit, r.String())
	if r.Exit == 4 {
		// The squatter was there for the old one as well: the tree is old, and
		// the way out is told.
		require.Contains(t, r.Done["hint"], "jailup recover")
		h.must(0, "recovered", "recover", "--jail", j.Dir)
	}
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	status, _ := j.Get(t, "/")
	require.Equal(t, 200, status)
}

func TestServedWhileItIsUpgraded(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	h := newHost(t, pair.New, pair.Old)
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	type answer struct {
		ok bool
		at time.Time
	}
	answers := make(chan answer, 100000)
	stop := make(chan struct{})
	go func() {
		defer close(answers)
		for i := 0; i < 20000; i++ {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := client.Get(j.URL)
			if err == nil {
				resp.Body.Close()
			}
			answers <- answer{err == nil && resp.StatusCode == 200, time.Now()}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	r := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "1s")
	close(stop)
	var last time.Time
	var longest time.Duration
	good := 0
	for a := range answers {
		if !a.ok {
			continue
		}
		if good > 0 {
			longest = max(longest, a.at.Sub(last))
		}
		good++
		last = a.at
	}
	require.Greater(t, good, 100)
	reported := time.Duration(r.Done["downtime_ms"].(float64)) * time.Millisecond
	// The prober looks 20 times a second and may see two periods more; the rest is
	// for a busy machine, on which either of the two may be kept waiting.
	require.Positive(t, reported)
	require.InDelta(t, longest.Seconds(), reported.Seconds(), 1, "seen %s, reported %s", longest, reported)
}
