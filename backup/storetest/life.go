package storetest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/backup"
)

func crash(t *testing.T, e Env) {
	dir, root := e.jail(t)
	e.take(t, root, "good")
	e.begin(t, root, "half").Release()
	p := e.begin(t, root, "settled")
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	p.Release()
	busy := e.begin(t, root, "busy")

	all, err := e.Store.List(context.Background())
	require.NoError(t, err)
	require.Len(t, all, 1)
	_, err = e.Store.Open(context.Background(), "half")
	require.ErrorIs(t, err, backup.ErrNotFound)
	_, err = e.Store.Begin(context.Background(), root, "half", backup.CopyOptions{})
	require.ErrorIs(t, err, backup.ErrExist)

	swept, err := e.Store.Sweep(context.Background())
	require.NoError(t, err)
	require.Equal(t, []string{"half", "settled"}, swept)
	swept, err = e.Store.Sweep(context.Background())
	require.NoError(t, err)
	require.Empty(t, swept)
	require.Equal(t, []string{".busy.partial", "good"}, list(t, e.Snapshots))
	_, err = busy.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, busy), Photo(t, dir))
}

func resume(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	opts := backup.CopyOptions{Exclude: []string{"su"}}
	p, err := e.Store.Begin(context.Background(), root, "one", opts)
	require.NoError(t, err)
	_, err = e.Store.Resume(context.Background(), "one")
	require.ErrorIs(t, err, backup.ErrBusy)
	p.Release()
	change(t, dir)
	p, err = e.Store.Resume(context.Background(), "one")
	require.NoError(t, err)
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.Less(t, c.Copied, 500, "a resumed copy settles what changed, not all")
	want := Photo(t, dir)
	delete(want, "bin/su")
	want["bin/su2"] = strings.Replace(want["bin/su2"], ` same-as="bin/su"`, "", 1)
	e.whole(t, seal(t, p), want)

	p = e.begin(t, root, "two")
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	p.Release()
	_, err = e.Store.Resume(context.Background(), "two")
	require.ErrorIs(t, err, backup.ErrNotResumable)
	_, err = e.Store.Resume(context.Background(), "none")
	require.ErrorIs(t, err, backup.ErrNotFound)
	_, err = e.Store.Sweep(context.Background())
	require.NoError(t, err)
}

func names(t *testing.T, e Env) {
	_, root := e.jail(t)
	e.take(t, root, "one")
	_, err := e.Store.Begin(context.Background(), root, "one", backup.CopyOptions{})
	require.ErrorIs(t, err, backup.ErrExist)
	for _, id := range []string{"", ".", "..", ".x", "-x", "a/b", "a b", "ü", strings.Repeat("x", 129), "x\n"} {
		_, err := e.Store.Begin(context.Background(), root, id, backup.CopyOptions{})
		require.Error(t, err, id)
		_, err = e.Store.Open(context.Background(), id)
		require.Error(t, err, id)
		require.Error(t, e.Store.Remove(context.Background(), id), id)
	}
	_, err = e.Store.Open(context.Background(), "none")
	require.ErrorIs(t, err, backup.ErrNotFound)
	require.NoError(t, e.Store.Remove(context.Background(), "none"))
	require.NoError(t, e.Store.Remove(context.Background(), "one"))
	require.Empty(t, list(t, e.Snapshots))
}

func prune(t *testing.T, e Env) {
	dir := filepath.Join(e.Dir, "small")
	require.NoError(t, os.Mkdir(dir, 0o755))
	root := open(t, dir)
	take := func(id, jailID, consistency string) {
		p := e.begin(t, root, id)
		s, err := p.Seal(context.Background(), backup.Meta{JailID: jailID, Consistency: consistency})
		require.NoError(t, err)
		s.Close()
	}
	for _, id := range []string{"s1", "s2", "s3", "s4"} {
		take(id, "j", backup.Stopped)
	}
	take("other", "k", backup.Stopped)
	take("l5", "j", backup.Live)
	run := func(p backup.Policy, now time.Time) []string {
		gone, err := backup.Prune(context.Background(), e.Store, "j", p, now)
		require.NoError(t, err)
		var ids []string
		for _, m := range gone {
			ids = append(ids, m.ID)
		}
		return ids
	}
	year := time.Now().AddDate(1, 0, 0)
	require.Empty(t, run(backup.Policy{}, year))
	require.Empty(t, run(backup.Policy{Keep: 5}, year))
	require.Empty(t, run(backup.Policy{MaxAge: time.Hour}, time.Now()))
	require.Equal(t, []string{"s2"}, run(backup.Policy{Keep: 3, Pinned: []string{"s1"}}, year))
	// The newest good one is damaged: the one before it is the last good one.
	require.NoError(t, os.Remove(filepath.Join(e.Snapshots, "s4", "manifest.jsonl")))
	require.Equal(t, []string{"s1", "s4"}, run(backup.Policy{MaxAge: time.Hour}, year))
	require.Equal(t, []string{"l5", "other", "s3"}, list(t, e.Snapshots))
	require.Empty(t, run(backup.Policy{MaxAge: 1}, year))
}

func cancel(t *testing.T, e Env) {
	_, root := e.jail(t)
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_, err := e.Store.Begin(ctx, root, "one", backup.CopyOptions{})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, list(t, e.Snapshots))

	p := e.begin(t, root, "two")
	_, err = p.Settle(ctx, root)
	require.ErrorIs(t, err, context.Canceled)
	_, err = p.Seal(context.Background(), backup.Meta{})
	require.Error(t, err, "a copy that was not settled to the end is not sealed")
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, p), Photo(t, root.Path()))
	require.NoError(t, p.Drop(context.Background()))
	require.Equal(t, []string{"two"}, list(t, e.Snapshots))
}

func list(t testing.TB, dir string) []string {
	var names []string
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, d := range all {
		if d.Name() != filepath.Base("store") {
			names = append(names, d.Name())
		}
	}
	return names
}

func exclude(t *testing.T, e Env) {
	dir, root := e.jail(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, backup.StageName, "x"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "etc", backup.StageName), 0o700))
	opts := backup.CopyOptions{Exclude: []string{"/many/f1*", "su", "/deep/**/leaf"}}
	p, err := e.Store.Begin(context.Background(), root, "one", opts)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "many/f1new"), nil, 0o644))
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	s := seal(t, p)
	want := Photo(t, dir)
	for p := range want {
		if strings.HasPrefix(p, "many/f1") || p == "bin/su" || strings.HasSuffix(p, "/leaf") || strings.HasPrefix(p, backup.StageName) {
			delete(want, p)
		}
	}
	e.whole(t, s, want)
	require.Equal(t, opts.Exclude, s.Meta().Exclude)
	c, err := s.DiffJail(context.Background(), root)
	require.NoError(t, err)
	require.Empty(t, c)

	for _, bad := range []string{"[", "", "/", "a/[z"} {
		_, err := e.Store.Begin(context.Background(), root, "two", backup.CopyOptions{Exclude: []string{bad}})
		require.ErrorContains(t, err, "malformed", bad)
	}
}

func diff(t *testing.T, e Env) {
	dir, root := e.jail(t)
	a := e.take(t, root, "a")
	c, err := a.DiffJail(context.Background(), root)
	require.NoError(t, err)
	require.Empty(t, c)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("x"), 0o600))
	age(t, dir, "etc/passwd", -1, 5)
	require.NoError(t, os.Remove(filepath.Join(dir, "bin/su")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin/sudo"), []byte("x"), 0o600))
	age(t, dir, "bin", 5, 5)
	require.NoError(t, os.Chmod(filepath.Join(dir, "closed"), 0o700))
	c, err = a.DiffJail(context.Background(), root)
	require.NoError(t, err)
	want := []string{"modified /bin (mtime)", "removed /bin/su", "added /bin/sudo", "modified /closed (mode)", "modified /etc/passwd (content)"}
	require.Equal(t, want, lines(c))
	b := e.take(t, root, "b")
	c, err = a.Diff(context.Background(), b)
	require.NoError(t, err)
	require.Equal(t, want, lines(c))
}

func lines(all []backup.Change) []string {
	var out []string
	for _, c := range all {
		out = append(out, c.String())
	}
	return out
}
