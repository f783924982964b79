// Package storetest is the suite that every kind of backup.Store passes.
package storetest

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// Env is a place for one test: a new empty store, and a folder for jails. Both
// are removed by the test that made them.
type Env struct {
	Store backup.Store
	Dir   string
	// Snapshots is the folder in which the store keeps its things, so that the
	// suite can damage them. A snapshot's tree is Snapshots/ID/tree.
	Snapshots string
}

// Run tries all that the contract of backup.Store promises.
func Run(t *testing.T, newEnv func(t testing.TB) Env) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, e Env)
	}{
		{"RoundTrip", roundTrip},
		{"SettleWithoutChange", settleWithoutChange},
		{"SettleBringsUpEveryChange", settleChanges},
		{"SettleTwice", settleTwice},
		{"SettleSeesWhatTimesHide", settleHidden},
		{"LiveJailIsNoError", live},
		{"Exclude", exclude},
		{"VerifyFindsDamage", verifyFinds},
		{"RestoreRefusesDamage", restoreDamaged},
		{"RestoreRefusesFullFolder", restoreRefuses},
		{"Diff", diff},
		{"CrashLeavesNoName", crash},
		{"Resume", resume},
		{"Names", names},
		{"Prune", prune},
		{"Cancel", cancel},
		{"SharesNoInode", sharesNoInode},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, "root")
			c.run(t, newEnv(t))
		})
	}
}

func (e Env) jail(t testing.TB) (dir string, root *jail.Root) {
	t.Helper()
	dir = filepath.Join(e.Dir, "jail")
	Nasty(t, dir)
	return dir, open(t, dir)
}

func open(t testing.TB, dir string) *jail.Root {
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func (e Env) begin(t testing.TB, root *jail.Root, id string) *backup.Pending {
	t.Helper()
	p, err := e.Store.Begin(context.Background(), root, id, backup.CopyOptions{})
	require.NoError(t, err)
	return p
}

func (e Env) take(t testing.TB, root *jail.Root, id string) *backup.Snapshot {
	t.Helper()
	p := e.begin(t, root, id)
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	return seal(t, p)
}

func seal(t testing.TB, p *backup.Pending) *backup.Snapshot {
	t.Helper()
	s, err := p.Seal(context.Background(), backup.Meta{JailID: "j1", Jail: "/srv/jail", Consistency: backup.Stopped, Reason: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (e Env) tree(id string) string { return filepath.Join(e.Snapshots, id, "tree") }

// whole asserts that the snapshot is sound and holds what the photo shows.
func (e Env) whole(t testing.TB, s *backup.Snapshot, want map[string]string) {
	t.Helper()
	Same(t, want, Photo(t, e.tree(s.Meta().ID)))
	bad, err := s.Verify(context.Background())
	require.NoError(t, err)
	require.Empty(t, bad)
}

func roundTrip(t *testing.T, e Env) {
	dir, root := e.jail(t)
	want := Photo(t, dir)
	var files int
	p, err := e.Store.Begin(context.Background(), root, "one", backup.CopyOptions{Progress: func(f int, _ int64) { files = f }})
	require.NoError(t, err)
	require.Greater(t, files, 700)
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	s := seal(t, p)
	Same(t, want, Photo(t, dir))
	e.whole(t, s, want)

	for _, name := range []string{"sparse", "hole"} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(e.tree("one"), name), &st))
		require.Less(t, st.Blocks*512, st.Size/2, "%s is no longer sparse", name)
	}
	m := s.Meta()
	require.Equal(t, "one", m.ID)
	require.Equal(t, "j1", m.JailID)
	require.Equal(t, backup.Stopped, m.Consistency)
	require.WithinDuration(t, time.Now(), m.Created, time.Minute)
	require.Equal(t, len(want), m.Entries)

	n := 0
	groups := map[int]int{}
	for entry, err := range s.Manifest() {
		require.NoError(t, err)
		_, ok := want[strings.TrimPrefix(filepath.Clean("."+entry.Path), "./")]
		require.True(t, ok, "%q", entry.Path)
		if entry.Hardlink > 0 {
			groups[entry.Hardlink]++
		}
		if entry.Path == "/etc/shadow" {
			require.Equal(t, backup.File, entry.Type)
			require.EqualValues(t, 0o640, entry.Mode)
			require.Len(t, entry.Digest, 64)
			require.Equal(t, "kept\x00binary\xff", entry.Xattrs["user.note"])
		}
		n++
	}
	require.Equal(t, m.Entries, n)
	require.Equal(t, map[int]int{1: 3, 2: 2}, groups)

	into := filepath.Join(e.Dir, "restored")
	require.NoError(t, s.Restore(context.Background(), into))
	Same(t, want, Photo(t, into))

	tree, err := s.Tree()
	require.NoError(t, err)
	defer tree.Close()
	b, err := tree.ReadFile("/etc/passwd", 1000)
	require.NoError(t, err)
	require.Contains(t, string(b), "root:x:0")

	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(e.Snapshots, "one"), &st))
	require.EqualValues(t, 0o700, st.Mode&0o7777)
}
