package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// wwwData is the group of the server's workers in a jail that jailup builds.
const wwwData = 33

// appended lays more behind a file; an ELF file is the same to ld.so.
func appended(t testing.TB, file, more string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(more)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func requireMeta(t testing.TB, file string, mode, uid, gid uint32) {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(file, &st))
	require.Equal(t, []uint32{mode, uid, gid}, []uint32{st.Mode & 0o7777, st.Uid, st.Gid}, file)
}

// offers makes the host offer the newer packages with some of them replaced.
func (h *host) offers(pair lab.Pair, debs ...string) {
	h.t.Helper()
	h.debs = newHost(h.t, lab.ReplaceDebs(h.t, pair.New, debs...), pair.Old).debs
}

// What an administrator made stricter stays so, with its new content; what he
// left alone goes with the package, also where that is the mode alone.
func TestModesAndOwnersSurvive(t *testing.T) {
	t.Parallel()
	j, pair, h := createdJail(t)
	exe, conf := filepath.Join(j.Dir, "usr/sbin/nginx"), filepath.Join(j.Dir, "etc/nginx/fastcgi.conf")
	theirs, mine := filepath.Join(j.Dir, "etc/nginx/koi-win"), filepath.Join(j.Dir, "etc/nginx/koi-utf")
	require.NoError(t, os.Chmod(exe, 0o750))
	require.NoError(t, os.Chown(conf, 0, wwwData))
	require.NoError(t, os.Chmod(conf, 0o640))
	require.NoError(t, os.Chown(mine, 0, wwwData))
	h.offers(pair, lab.Repack(t, lab.FindDeb(t, pair.New, "nginx-common"), func(dir string, _ *lab.Control) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/nginx/fastcgi.conf"), []byte("# new\n"), 0o644))
		require.NoError(t, os.Chmod(filepath.Join(dir, "etc/nginx/koi-win"), 0o600))
		require.NoError(t, os.Chmod(filepath.Join(dir, "etc/nginx/koi-utf"), 0o600))
	}))
	before := stateless(t, j.Dir)
	up := h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	data, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.Equal(t, "# new\n", string(data))
	requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.New), "usr/sbin/nginx"), exe)
	requireMeta(t, exe, 0o750, 0, 0)
	requireMeta(t, conf, 0o640, 0, wwwData)
	requireMeta(t, theirs, 0o600, 0, 0)
	requireMeta(t, mine, 0o600, 0, wwwData)

	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "500ms")
	require.Empty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--to", up.Done["snapshot"].(string), "--soak", "500ms")
	requireMeta(t, exe, 0o750, 0, 0)
	requireMeta(t, conf, 0o640, 0, wwwData)
	requireMeta(t, theirs, 0o644, 0, 0)
	requireMeta(t, mine, 0o644, 0, wwwData)
}

// multiarch is the folder of a package's libraries, below its root.
func multiarch(t testing.TB, tree string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-gnu*"))
	require.NoError(t, err)
	require.NotEmpty(t, found)
	rel, err := filepath.Rel(tree, found[0])
	require.NoError(t, err)
	return rel
}

// copied puts a file of the older packages into the jail, as cp does.
func copied(t testing.TB, pair lab.Pair, j *lab.Jail, rel string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(lab.Unpacked(t, pair.Old), rel))
	require.NoError(t, err)
	dst := filepath.Join(j.Dir, rel)
	require.NoError(t, os.MkdirAll(filepath.Dir(dst), 0o755))
	require.NoError(t, os.WriteFile(dst, data, 0o644))
}

// newer is a later version of a package, in which the named library differs.
func newer(t testing.TB, pair lab.Pair, name, lib string, change func(dir string)) string {
	t.Helper()
	return lab.Repack(t, lab.FindDeb(t, pair.New, name), func(dir string, c *lab.Control) {
		c.Set("Version", c.Get("Version")+"+later")
		found, err := filepath.Glob(filepath.Join(dir, "*", "*", "*-linux-gnu*", lib))
		require.NoError(t, err)
		if len(found) == 0 {
			found, err = filepath.Glob(filepath.Join(dir, "lib", "*-linux-gnu*", lib))
			require.NoError(t, err)
		}
		require.NotEmpty(t, found, lib)
		appended(t, found[0], "later")
		if change != nil {
			change(dir)
		}
	})
}

// What a recipe excludes is passed over, which does not mean that the package
// has it no more.
func TestExcludedFilesOfAGrownJailStay(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	rel := filepath.Join(multiarch(t, lab.Unpacked(t, pair.Old)), "gconv/UTF-16.so")
	copied(t, pair, j, rel)
	const cert = "usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt"
	copied(t, pair, j, cert)
	h := newHost(t)
	h.offers(pair, newer(t, pair, "libc6", "libc.so.6", nil))
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	require.FileExists(t, filepath.Join(j.Dir, rel))
	require.FileExists(t, filepath.Join(j.Dir, cert))
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--soak", "500ms")
	require.FileExists(t, filepath.Join(j.Dir, rel))
}

// An edited file in a folder that came with the upgrade: the folder stays, with
// nothing but the edit in it.
func TestKeepEditsInAFolderOfTheUpgrade(t *testing.T) {
	t.Parallel()
	for _, rehearse := range []string{"true", "false"} {
		t.Run(rehearse, func(t *testing.T) {
			t.Parallel()
			j, pair, h := createdJail(t)
			h.offers(pair, lab.Repack(t, lab.FindDeb(t, pair.New, "nginx-common"), func(dir string, _ *lab.Control) {
				deep := filepath.Join(dir, "usr/share/nginx/fresh/deep")
				require.NoError(t, os.MkdirAll(deep, 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(deep, "page"), []byte("new"), 0o644))
				require.NoError(t, os.WriteFile(filepath.Join(deep, "other"), []byte("new"), 0o644))
			}))
			h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
			deep := filepath.Join(j.Dir, "usr/share/nginx/fresh/deep")
			require.NoError(t, os.WriteFile(filepath.Join(deep, "page"), []byte("edited"), 0o644))
			h.must(7, "stale", "rollback", "--jail", j.Dir)
			h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--keep-edits", "--rehearse="+rehearse, "--soak", "500ms")
			list, err := os.ReadDir(deep)
			require.NoError(t, err)
			require.Len(t, list, 1)
			data, err := os.ReadFile(filepath.Join(deep, "page.jailup-edited"))
			require.NoError(t, err)
			require.Equal(t, "edited", string(data))
			requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.Old), "usr/sbin/nginx"), filepath.Join(j.Dir, "usr/sbin/nginx"))
		})
	}
}

// The folder itself cannot stay where a link was: the edit lies beside the link.
func TestKeepEditsInAFolderThatWasALink(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt")
	j, pair, h := createdJail(t)
	docs := filepath.Join(j.Dir, "usr/share/nginx/docs")
	common := func(from string, change func(dir string)) string {
		return lab.Repack(t, lab.FindDeb(t, from, "nginx-common"), func(dir string, c *lab.Control) {
			c.Set("Version", c.Get("Version")+"+later")
			change(filepath.Join(dir, "usr/share/nginx"))
		})
	}
	h.offers(pair, common(pair.New, func(dir string) { require.NoError(t, os.Symlink("html", filepath.Join(dir, "docs"))) }))
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	h.offers(pair, lab.Repack(t, common(pair.New, func(dir string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "docs"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "docs/page"), []byte("new"), 0o644))
	}), func(_ string, c *lab.Control) { c.Set("Version", c.Get("Version")+"+later") }))
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	require.NoError(t, os.WriteFile(filepath.Join(docs, "page"), []byte("edited"), 0o644))
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--keep-edits", "--soak", "500ms")
	to, err := os.Readlink(docs)
	require.NoError(t, err)
	require.Equal(t, "html", to)
	data, err := os.ReadFile(docs + "~page.jailup-edited")
	require.NoError(t, err)
	require.Equal(t, "edited", string(data))
}

// Back to a snapshot of a jail made by hand: what the upgrade took out, because
// the newer package has it no more, comes back; what was made by hand since under
// a name that the upgrade used stays.
func TestRollbackToASnapshotOfAGrownJail(t *testing.T) {
	t.Parallel()
	j, pair := oldJail(t)
	rel := filepath.Join(multiarch(t, lab.Unpacked(t, pair.Old)), "engines-3/padlock.so")
	copied(t, pair, j, rel)
	h := newHost(t)
	h.offers(pair, newer(t, pair, "libssl3", "libssl.so.3", func(dir string) {
		require.NoError(t, os.Remove(filepath.Join(dir, rel)))
	}))
	before := stateless(t, j.Dir)
	saved := h.must(0, "saved", "snapshot", "create", "--jail", j.Dir)
	h.must(0, "upgraded", "upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms")
	require.NoFileExists(t, filepath.Join(j.Dir, rel))
	mine := filepath.Join(j.Dir, "srv/mine")
	require.NoError(t, os.WriteFile(mine, []byte("mine"), 0o644))
	h.must(0, "rolled-back", "rollback", "--jail", j.Dir, "--to", saved.Done["snapshot"].(string), "--soak", "500ms")
	require.FileExists(t, mine)
	require.NoError(t, os.Remove(mine))
	now := stateless(t, j.Dir)
	require.Equal(t, slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(now)))
	requireSameFile(t, filepath.Join(lab.Unpacked(t, pair.Old), rel), filepath.Join(j.Dir, rel))
}
