package journal

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func registry(t *testing.T) *Registry {
	return OpenRegistry(filepath.Join(t.TempDir(), "state"), t.TempDir())
}

// identify does what jailup does: it opens the folder, and takes its real path.
func identify(t *testing.T, dir string) Identity {
	t.Helper()
	real, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	f, err := os.Open(real)
	require.NoError(t, err)
	defer f.Close()
	id, err := Identify(int(f.Fd()), real)
	require.NoError(t, err)
	return id
}

func resolve(t *testing.T, r *Registry, want Identity) Jail {
	t.Helper()
	j, err := r.Resolve(t.Context(), want, "nginx")
	require.NoError(t, err)
	require.Len(t, j.ID, 16)
	return j
}

func TestRegistryKnowsAJailAgain(t *testing.T) {
	t.Parallel()
	r := registry(t)
	dir := filepath.Join(t.TempDir(), "jail")
	require.NoError(t, os.Mkdir(dir, 0o755))
	list, err := r.List()
	require.NoError(t, err)
	require.Empty(t, list)
	_, ok, err := r.Lookup(identify(t, dir))
	require.NoError(t, err)
	require.False(t, ok)
	require.NoFileExists(t, r.file, "looking makes nothing")

	first := resolve(t, r, identify(t, dir))
	require.Equal(t, first, resolve(t, r, identify(t, dir)))

	link := dir + "-link"
	require.NoError(t, os.Symlink(dir, link))
	require.Equal(t, first, resolve(t, r, identify(t, link)))

	moved := dir + "-moved"
	require.NoError(t, os.Rename(dir, moved))
	j := resolve(t, r, identify(t, moved))
	require.Equal(t, first.ID, j.ID)
	require.Equal(t, moved, j.Path)
	j, ok, err = r.Lookup(identify(t, moved))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, first.ID, j.ID)

	// A copy that came back to the jail's path from a backup is that jail.
	require.NoError(t, os.Rename(moved, dir+"-away"))
	require.NoError(t, os.Mkdir(moved, 0o755))
	j = resolve(t, r, identify(t, moved))
	require.Equal(t, first.ID, j.ID)
	require.Equal(t, identify(t, moved), j.Identity)

	// The server is kept where none is named, and replaced where one is.
	j, err = r.Resolve(t.Context(), identify(t, moved), "")
	require.NoError(t, err)
	require.Equal(t, "nginx", j.Server)
	j, err = r.Resolve(t.Context(), identify(t, moved), "apache")
	require.NoError(t, err)
	require.Equal(t, "apache", j.Server)

	require.NoError(t, r.Forget(t.Context(), j.ID))
	require.NoError(t, r.Forget(t.Context(), "nobody"))
	list, err = r.List()
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestRegistryTakesABindMountForWhatItShows(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	r := registry(t)
	dir, other := t.TempDir(), t.TempDir()
	first := resolve(t, r, identify(t, dir))
	require.NoError(t, unix.Mount(dir, other, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(other, 0) })
	j := resolve(t, r, identify(t, other))
	require.Equal(t, first.ID, j.ID)
	require.Equal(t, other, j.Path)
}

func TestFind(t *testing.T) {
	t.Parallel()
	a := Jail{ID: "a", Identity: Identity{FSID: "f", Inode: 10, Birth: 100, Path: "/a"}}
	b := Jail{ID: "b", Identity: Identity{FSID: "f", Inode: 20, Birth: 200, Path: "/b"}}
	n := Jail{ID: "n", Identity: Identity{FSID: "g", Inode: 30, Path: "/n"}} // a file system without birth times
	for _, c := range []struct {
		name string
		want Identity
		id   string // "" is none, "!" a contradiction
	}{
		{"as it was", a.Identity, "a"},
		{"moved", Identity{FSID: "f", Inode: 10, Birth: 100, Path: "/elsewhere"}, "a"},
		{"restored", Identity{FSID: "f", Inode: 99, Birth: 900, Path: "/b"}, "b"},
		{"on a file system that has another id now", Identity{FSID: "z", Inode: 10, Birth: 100, Path: "/a"}, "a"},
		{"new", Identity{FSID: "f", Inode: 99, Birth: 900, Path: "/new"}, ""},
		{"an inode number used again", Identity{FSID: "f", Inode: 10, Birth: 900, Path: "/new"}, ""},
		{"an inode number used again at a known path", Identity{FSID: "f", Inode: 10, Birth: 900, Path: "/b"}, "b"},
		{"the same number elsewhere", Identity{FSID: "h", Inode: 10, Birth: 100, Path: "/new"}, ""},
		{"one jail at the path of another", Identity{FSID: "f", Inode: 10, Birth: 100, Path: "/b"}, "!"},
		{"no birth time known", Identity{FSID: "g", Inode: 30, Birth: 7, Path: "/new"}, "n"},
		{"no birth time now", Identity{FSID: "f", Inode: 10, Path: "/new"}, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			jails := []Jail{a, b, n}
			i, err := find(jails, c.want)
			switch c.id {
			case "!":
				require.ErrorIs(t, err, ErrContradiction)
				require.ErrorContains(t, err, "/b has the inode of jail a and the path of jail b")
			case "":
				require.NoError(t, err)
				require.Equal(t, -1, i)
			default:
				require.NoError(t, err)
				require.Equal(t, c.id, jails[i].ID)
			}
		})
	}
}

// A contradiction is a person's to decide: no id is invented, nothing written.
func TestContradictionWritesNothing(t *testing.T) {
	t.Parallel()
	r := registry(t)
	base := t.TempDir()
	a, b := filepath.Join(base, "a"), filepath.Join(base, "b")
	require.NoError(t, os.Mkdir(a, 0o755))
	require.NoError(t, os.Mkdir(b, 0o755))
	resolve(t, r, identify(t, a))
	resolve(t, r, identify(t, b))
	before, err := os.ReadFile(r.file)
	require.NoError(t, err)
	require.NoError(t, os.Rename(b, b+"-away"))
	require.NoError(t, os.Rename(a, b))
	_, err = r.Resolve(t.Context(), identify(t, b), "")
	require.ErrorIs(t, err, ErrContradiction)
	_, _, err = r.Lookup(identify(t, b))
	require.ErrorIs(t, err, ErrContradiction)
	after, err := os.ReadFile(r.file)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}

func TestRegistryDamaged(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                 "cannot read the registry",
		"{":                                "cannot read the registry",
		`{"version":1,"jails":{}}`:         "cannot read the registry",
		`{"version":9,"jails":[]}`:         "newer jailup",
		`{"version":1,"jails":[{"id":1}]}`: "cannot read the registry",
	} {
		r := registry(t)
		require.NoError(t, os.MkdirAll(filepath.Dir(r.file), 0o700))
		require.NoError(t, os.WriteFile(r.file, []byte(text), 0o600))
		_, err := r.Resolve(t.Context(), Identity{FSID: "f", Inode: 1, Path: "/a"}, "")
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, r.Forget(t.Context(), "a"), want)
		data, err := os.ReadFile(r.file)
		require.NoError(t, err)
		require.Equal(t, text, string(data), "a registry that is not understood is not written over")
	}
}

// Many at once, all of new jails: no entry is lost, no id given twice.
func TestConcurrentResolve(t *testing.T) {
	t.Parallel()
	state, locks, base := filepath.Join(t.TempDir(), "state"), t.TempDir(), t.TempDir()
	const jails, each = 10, 3
	ids := make([][each]string, jails)
	var wg sync.WaitGroup
	for i := range jails {
		dir := filepath.Join(base, string(rune('a'+i)))
		require.NoError(t, os.Mkdir(dir, 0o755))
		want := identify(t, dir)
		for k := range each {
			wg.Go(func() {
				j, err := OpenRegistry(state, locks).Resolve(t.Context(), want, "nginx")
				if err != nil {
					t.Error(err)
					return
				}
				ids[i][k] = j.ID
			})
		}
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, of := range ids {
		require.Equal(t, of[0], of[1])
		require.Equal(t, of[0], of[2])
		require.False(t, seen[of[0]])
		seen[of[0]] = true
	}
	list, err := OpenRegistry(state, locks).List()
	require.NoError(t, err)
	require.Len(t, list, jails)
	for i, j := range list {
		require.Equal(t, ids[i][0], j.ID, "sorted by path")
	}
}

// An inode number alone proves nothing: where ext4 gives a removed folder's
// number to the next one, its birth time tells them apart.
func TestInodeUsedAgain(t *testing.T) {
	if lab.InPrivateMounts(t) {
		return
	}
	base := lab.Loop(t, "ext4", 16)
	r := registry(t)
	dir := filepath.Join(base, "first")
	require.NoError(t, os.Mkdir(dir, 0o755))
	old := identify(t, dir)
	first := resolve(t, r, old)
	require.NoError(t, os.Remove(dir))
	again := filepath.Join(base, "second")
	require.NoError(t, exec.Command("mkdir", again).Run())
	now := identify(t, again)
	require.Equal(t, old.Inode, now.Inode, "ext4 gives the number again")
	require.NotEqual(t, first.ID, resolve(t, r, now).ID)
}
