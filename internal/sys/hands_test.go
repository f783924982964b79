package sys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/wall"
)

// Where no hand can be had for a folder the calls beneath it are made without one,
// and only those.
func TestAdmitWithoutAHand(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	if wall.ABI() < 2 {
		if lab.RequireAll() {
			t.Fatal("needs Landlock, ABI 2")
		}
		t.Skip("needs Landlock, ABI 2")
	}
	base := lab.ShmDir(t)
	jail, stage, other := filepath.Join(base, "jail"), filepath.Join(base, "stage"), filepath.Join(base, "other")
	for _, d := range []string{jail, filepath.Join(stage, "a/b"), other} {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	h := &hands{folders: []int{openDir(t, jail)}}
	require.NoError(t, h.hire())
	defer func() { close(h.jobs); h.rules.Close() }()
	deep, beside, in := openDir(t, filepath.Join(stage, "a/b")), openDir(t, other), openDir(t, jail)
	mkdir := func(dir int, name string) error {
		return h.run(func() error { return unix.Mkdirat(dir, name, 0o700) }, dir)
	}
	swap := func() error {
		return h.run(func() error { return unix.Renameat2(in, "x", deep, "x", unix.RENAME_EXCHANGE) }, in, deep)
	}
	require.NoError(t, mkdir(in, "x"))
	require.ErrorIs(t, mkdir(deep, "x"), unix.EACCES)

	h.folders = append(h.folders, -1) // no rule can be made of it
	dir, err := os.Open(stage)
	require.NoError(t, err)
	defer dir.Close()
	for range 2 {
		require.NoError(t, h.admit(dir))
	}
	require.Len(t, h.direct, 1)
	require.NoError(t, mkdir(int(dir.Fd()), "x"))
	require.NoError(t, mkdir(deep, "x"))
	require.NoError(t, swap())
	require.ErrorIs(t, mkdir(beside, "x"), unix.EACCES)
	// Also where a hand is at work.
	require.NoError(t, h.hand(h.rules, func() error {
		if err := mkdir(beside, "y"); !errors.Is(err, unix.EACCES) {
			return errors.New("the hand has no rules")
		}
		return errors.Join(mkdir(deep, "y"), swap())
	}, nil))
}
