package backup_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/backup/storetest"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m, child) }

// copyEnv makes a store and room for jails below dir.
func copyEnv(t testing.TB, dir string) storetest.Env {
	snapshots := filepath.Join(dir, "store")
	s, err := backup.NewCopy(snapshots)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return storetest.Env{Store: s, Dir: dir, Snapshots: snapshots}
}

func openJail(t testing.TB, dir string) *jail.Root {
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func TestCopy(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB) storetest.Env { return copyEnv(t, lab.ShmDir(t)) })
}

// The suite on the file systems that people have, jail and store on one.
func TestCopyOn(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			at := lab.Loop(t, fstype, 700)
			storetest.Run(t, func(t testing.TB) storetest.Env {
				dir, err := os.MkdirTemp(at, "env")
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
				return copyEnv(t, dir)
			})
		})
	}
}

func TestReflinkWhereBothAreOnOneFileSystemThatCan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ jail, store, kind string }{
		{"xfs", "", "reflink"}, {"btrfs", "", "reflink"}, {"ext4", "", "copy"}, {"xfs", "ext4", "copy"}, {"btrfs", "xfs", "copy"},
	} {
		t.Run(c.jail+"to"+c.store, func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			at := lab.Loop(t, c.jail, 300)
			to := at
			if c.store != "" {
				to = lab.Loop(t, c.store, 300)
			}
			env := copyEnv(t, to)
			dir := filepath.Join(at, "jail")
			storetest.Nasty(t, dir)
			// Bigger than what is left: only shared blocks can hold it twice.
			big := int64(20 << 20)
			if c.kind == "reflink" {
				var fs unix.Statfs_t
				require.NoError(t, unix.Statfs(at, &fs))
				big = int64(fs.Bavail) * fs.Bsize * 6 / 10
			}
			f, err := os.Create(filepath.Join(dir, "large"))
			require.NoError(t, err)
			for n := int64(0); n < big; n += 1 << 20 {
				_, err := f.WriteAt(make([]byte, 1<<20), n)
				require.NoError(t, err)
			}
			require.NoError(t, f.Close())
			root, err := jail.Open(dir)
			require.NoError(t, err)
			defer root.Close()
			want := storetest.Photo(t, dir)
			p, err := env.Store.Begin(context.Background(), root, "one", backup.CopyOptions{})
			require.NoError(t, err)
			_, err = p.Settle(context.Background(), root)
			require.NoError(t, err)
			s, err := p.Seal(context.Background(), backup.Meta{})
			require.NoError(t, err)
			defer s.Close()
			require.Equal(t, c.kind, s.Meta().Kind)
			storetest.Same(t, want, storetest.Photo(t, filepath.Join(env.Snapshots, "one", "tree")))
			bad, err := s.Verify(context.Background())
			require.NoError(t, err)
			require.Empty(t, bad)
		})
	}
}

func TestStoreFull(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, opts string }{{"blocks", "size=512k"}, {"inodes", "nr_inodes=60"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			dir := lab.ShmDir(t)
			small := filepath.Join(dir, "small")
			require.NoError(t, os.Mkdir(small, 0o700))
			require.NoError(t, unix.Mount("none", small, "tmpfs", 0, c.opts))
			defer unix.Unmount(small, unix.MNT_DETACH)
			env := copyEnv(t, small)
			src := filepath.Join(dir, "jail")
			require.NoError(t, os.Mkdir(src, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(src, "f"), []byte("good"), 0o644))
			root := openJail(t, src)
			p, err := env.Store.Begin(context.Background(), root, "good", backup.CopyOptions{})
			require.NoError(t, err)
			s, err := p.Seal(context.Background(), backup.Meta{JailID: "j"})
			require.NoError(t, err)
			s.Close()

			storetest.Nasty(t, src)
			_, err = env.Store.Begin(context.Background(), root, "bad", backup.CopyOptions{})
			require.ErrorIs(t, err, unix.ENOSPC)
			require.Regexp(t, `^cannot make snapshot bad in \S+: cannot (copy|make the copy of) /\S*: no space left on device$`, err.Error())
			left, err := os.ReadDir(env.Snapshots)
			require.NoError(t, err)
			require.Len(t, left, 1)

			// Full while the server is down: the copy is dropped, the good one stays.
			require.NoError(t, os.RemoveAll(src))
			require.NoError(t, os.Mkdir(src, 0o755))
			root = openJail(t, src)
			p, err = env.Store.Begin(context.Background(), root, "bad", backup.CopyOptions{})
			require.NoError(t, err)
			storetest.Nasty(t, src)
			_, err = p.Settle(context.Background(), root)
			require.ErrorIs(t, err, unix.ENOSPC)
			_, err = p.Seal(context.Background(), backup.Meta{})
			require.Error(t, err)
			require.NoError(t, p.Drop(context.Background()))
			_, err = backup.Prune(context.Background(), env.Store, "j", backup.Policy{Keep: 1}, time.Now())
			require.NoError(t, err)
			s, err = env.Store.Open(context.Background(), "good")
			require.NoError(t, err)
			bad, err := s.Verify(context.Background())
			require.NoError(t, err)
			require.Empty(t, bad)
			s.Close()
			left, err = os.ReadDir(env.Snapshots)
			require.NoError(t, err)
			require.Len(t, left, 1)
		})
	}
}

func TestMountsAreLeftOut(t *testing.T) {
	t.Parallel()
	if lab.InPrivateMounts(t) {
		return
	}
	dir := lab.ShmDir(t)
	src := filepath.Join(dir, "jail")
	p := func(rel string) string { return filepath.Join(src, rel) }
	for _, d := range []string{"proc", "mnt", "bound", "etc"} {
		require.NoError(t, os.MkdirAll(p(d), 0o755))
	}
	outside := filepath.Join(dir, "outside")
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("of the host"), 0o600))
	require.NoError(t, os.WriteFile(p("etc/hosts"), nil, 0o644))
	require.NoError(t, unix.Mount("proc", p("proc"), "proc", 0, ""))
	require.NoError(t, unix.Mount("none", p("mnt"), "tmpfs", 0, ""))
	require.NoError(t, os.WriteFile(p("mnt/in"), []byte("not of the jail"), 0o644))
	require.NoError(t, unix.Mount(outside, p("bound"), "", unix.MS_BIND, ""))
	require.NoError(t, unix.Mount(filepath.Join(outside, "secret"), p("etc/hosts"), "", unix.MS_BIND, ""))
	all := []string{"proc", "mnt", "bound", "etc/hosts"}
	unmount := func() {
		for _, m := range all {
			unix.Unmount(p(m), unix.MNT_DETACH)
		}
	}
	defer unmount()

	env := copyEnv(t, dir)
	root := openJail(t, src)
	pending, err := env.Store.Begin(context.Background(), root, "one", backup.CopyOptions{})
	require.NoError(t, err)
	_, err = pending.Settle(context.Background(), root)
	require.NoError(t, err)
	s, err := pending.Seal(context.Background(), backup.Meta{})
	require.NoError(t, err)
	defer s.Close()
	var skipped []string
	for _, k := range s.Meta().Skipped {
		skipped = append(skipped, k.Path)
	}
	require.Equal(t, []string{"/bound", "/etc/hosts", "/mnt", "/proc"}, skipped)
	have := storetest.Photo(t, filepath.Join(env.Snapshots, "one", "tree"))
	require.Len(t, have, 6, "%v", have)
	bad, err := s.Verify(context.Background())
	require.NoError(t, err)
	require.Empty(t, bad)
	c, err := s.DiffJail(context.Background(), root)
	require.NoError(t, err)
	require.Empty(t, c)
	require.NoError(t, s.Restore(context.Background(), filepath.Join(dir, "restored")))
	require.DirExists(t, filepath.Join(dir, "restored", "proc"))

	// Mounted at Begin, not mounted when the server is stopped.
	pending, err = env.Store.Begin(context.Background(), root, "two", backup.CopyOptions{})
	require.NoError(t, err)
	unmount()
	_, err = pending.Settle(context.Background(), root)
	require.NoError(t, err)
	two, err := pending.Seal(context.Background(), backup.Meta{})
	require.NoError(t, err)
	defer two.Close()
	require.Empty(t, two.Meta().Skipped)
	storetest.Same(t, storetest.Photo(t, src), storetest.Photo(t, filepath.Join(env.Snapshots, "two", "tree")))
}

// A tree of 10,000 levels, whose paths no system call takes, each with a file.
func TestDeepTree(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	for _, c := range []struct {
		name   string
		length int
		levels int
	}{{"short", 1, 10000}, {"long", 200, 1000}} {
		t.Run(c.name, func(t *testing.T) {
			dir := lab.ShmDir(t)
			src := filepath.Join(dir, "jail")
			require.NoError(t, os.Mkdir(src, 0o755))
			root := openJail(t, src)
			name := make([]byte, c.length)
			for i := range name {
				name[i] = 'd'
			}
			fd, err := unix.Dup(root.Fd())
			require.NoError(t, err)
			for range c.levels {
				require.NoError(t, unix.Mkdirat(fd, string(name), 0o751))
				require.NoError(t, unix.Mkdirat(fd, "side", 0o755))
				f, err := unix.Openat(fd, "leaf", unix.O_CREAT|unix.O_WRONLY, 0o644)
				require.NoError(t, err)
				unix.Close(f)
				next, err := unix.Openat(fd, string(name), unix.O_RDONLY|unix.O_DIRECTORY, 0)
				require.NoError(t, err)
				unix.Close(fd)
				fd = next
			}
			defer unix.Close(fd)
			env := copyEnv(t, dir)
			ctx := context.Background()
			start := time.Now()
			lap := func(what string) { t.Logf("%s: %v", what, time.Since(start)) }
			p, err := env.Store.Begin(ctx, root, "one", backup.CopyOptions{})
			lap("begin")
			require.NoError(t, err)
			require.NoError(t, unix.Mkdirat(fd, "late", 0o700))
			changed, err := p.Settle(ctx, root)
			lap("settle")
			require.NoError(t, err)
			require.NotZero(t, changed.Copied)
			s, err := p.Seal(ctx, backup.Meta{})
			require.NoError(t, err)
			defer s.Close()
			lap("seal")
			require.Equal(t, 3*c.levels+2, s.Meta().Entries)
			bad, err := s.Verify(ctx)
			require.NoError(t, err)
			require.Empty(t, bad)
			lap("verify")
			diff, err := s.DiffJail(ctx, root)
			lap("diff")
			require.NoError(t, err)
			require.Empty(t, diff)
			n := 0
			for _, err := range s.Manifest() {
				require.NoError(t, err)
				n++
			}
			require.Equal(t, s.Meta().Entries, n)
			var st unix.Stat_t
			require.NoError(t, unix.Stat(filepath.Join(env.Snapshots, "one", "manifest.jsonl"), &st))
			require.Less(t, st.Size, int64(100<<20))
			lap("list")
			require.NoError(t, s.Restore(ctx, filepath.Join(dir, "restored")))
			lap("restore")
			require.NoError(t, env.Store.Remove(ctx, "one"))
			lap("remove")
		})
	}
}

func TestSparseTerabyte(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	dir := lab.ShmDir(t)
	src := filepath.Join(dir, "jail")
	require.NoError(t, os.Mkdir(src, 0o755))
	f, err := os.Create(filepath.Join(src, "huge"))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<40))
	_, err = f.WriteAt([]byte("data"), 1<<39+12345)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	env := copyEnv(t, dir)
	root := openJail(t, src)
	start := time.Now()
	p, err := env.Store.Begin(context.Background(), root, "one", backup.CopyOptions{})
	require.NoError(t, err)
	s, err := p.Seal(context.Background(), backup.Meta{})
	require.NoError(t, err)
	defer s.Close()
	bad, err := s.Verify(context.Background())
	require.NoError(t, err)
	require.Empty(t, bad)
	require.Less(t, time.Since(start), 30*time.Second)
	copied := filepath.Join(env.Snapshots, "one", "tree", "huge")
	var st unix.Stat_t
	require.NoError(t, unix.Stat(copied, &st))
	require.EqualValues(t, 1<<40, st.Size)
	require.Less(t, st.Blocks*512, int64(1<<20))
	// A bit in the middle of nothing is found as well.
	g, err := os.OpenFile(copied, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = g.WriteAt([]byte{1}, 1<<38)
	require.NoError(t, err)
	require.NoError(t, g.Close())
	bad, err = s.Verify(context.Background())
	require.NoError(t, err)
	require.NotEmpty(t, bad)
}

// A lease (fcntl(2)) makes others wait who open the file.
func TestLeasedFileIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := lab.ShmDir(t)
	src := filepath.Join(dir, "jail")
	require.NoError(t, os.Mkdir(src, 0o755))
	leased := filepath.Join(src, "leased")
	require.NoError(t, os.WriteFile(leased, []byte("x"), 0o644))
	f, err := os.OpenFile(leased, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	require.NoError(t, err)
	time.AfterFunc(200*time.Millisecond, func() { f.Close() })
	env := copyEnv(t, dir)
	p, err := env.Store.Begin(context.Background(), openJail(t, src), "one", backup.CopyOptions{})
	require.NoError(t, err)
	defer p.Drop(context.Background())
	b, err := os.ReadFile(filepath.Join(env.Snapshots, ".one.partial", "tree", "leased"))
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

func TestStoreFolderIsPrivate(t *testing.T) {
	t.Parallel()
	dir := lab.ShmDir(t)
	open := filepath.Join(dir, "open")
	require.NoError(t, os.Mkdir(open, 0o755))
	require.NoError(t, os.Chmod(open, 0o777))
	_, err := backup.NewCopy(open)
	require.ErrorContains(t, err, "others may write")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	_, err = backup.NewCopy(filepath.Join(dir, "file"))
	require.Error(t, err)
	s, err := backup.NewCopy(filepath.Join(dir, "made", "of", "parts"))
	require.NoError(t, err)
	s.Close()
}

func TestStoreInJailIsRefused(t *testing.T) {
	t.Parallel()
	dir := lab.ShmDir(t)
	env := copyEnv(t, filepath.Join(dir, "var"))
	_, err := env.Store.Begin(context.Background(), openJail(t, dir), "one", backup.CopyOptions{})
	require.ErrorContains(t, err, "lies in the jail")
}

// What the store's folder hands down to new files is not part of the copy.
func TestStoreFolderWithACLAndSetgid(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	dir := lab.ShmDir(t)
	src := filepath.Join(dir, "jail")
	storetest.Nasty(t, src)
	env := copyEnv(t, dir)
	require.NoError(t, os.Chown(env.Snapshots, 0, 77))
	require.NoError(t, unix.Chmod(env.Snapshots, 0o2700))
	acl := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255, 255, 255, 255}
	require.NoError(t, unix.Setxattr(env.Snapshots, "system.posix_acl_default", acl, 0))
	root := openJail(t, src)
	p, err := env.Store.Begin(context.Background(), root, "one", backup.CopyOptions{})
	require.NoError(t, err)
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	s, err := p.Seal(context.Background(), backup.Meta{})
	require.NoError(t, err)
	s.Close()
	storetest.Same(t, storetest.Photo(t, src), storetest.Photo(t, filepath.Join(env.Snapshots, "one", "tree")))
}

// What is written through a mapping after a page has become dirty changes no
// time. (On tmpfs nothing of a mapping ever does: there it cannot be seen.)
func TestSettleSeesMappedWrites(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			if lab.InPrivateMounts(t) {
				return
			}
			at := lab.Loop(t, fstype, 300)
			dir := filepath.Join(at, "jail")
			require.NoError(t, os.Mkdir(dir, 0o755))
			file := filepath.Join(dir, "mapped")
			require.NoError(t, os.WriteFile(file, make([]byte, 8192), 0o644))
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			require.NoError(t, err)
			m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			require.NoError(t, err)
			defer unix.Munmap(m)
			f.Close()
			m[0] = 1 // the page is dirty now
			time.Sleep(100 * time.Millisecond)
			env := copyEnv(t, lab.ShmDir(t)) // not synced along with the store's
			root, err := jail.Open(dir)
			require.NoError(t, err)
			defer root.Close()
			p, err := env.Store.Begin(context.Background(), root, "one", backup.CopyOptions{})
			require.NoError(t, err)
			m[1] = 2
			_, err = p.Settle(context.Background(), root)
			require.NoError(t, err)
			b, err := os.ReadFile(filepath.Join(env.Snapshots, ".one.partial", "tree", "mapped"))
			require.NoError(t, err)
			require.Equal(t, []byte{1, 2}, b[:2])
			require.NoError(t, p.Drop(context.Background()))
		})
	}
}
