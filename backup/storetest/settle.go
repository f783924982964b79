package storetest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/backup"
)

func settleWithoutChange(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	p := e.begin(t, root, "one")
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.Less(t, c.Copied, 100, "only what was too young")
	c, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.Equal(t, backup.Changed{}, c)
	e.whole(t, seal(t, p), Photo(t, dir))
}

func change(t testing.TB, dir string) {
	p := func(rel string) string { return filepath.Join(dir, rel) }
	ok := func(err error) { t.Helper(); require.NoError(t, err) }
	f, err := os.OpenFile(p("big"), os.O_WRONLY|os.O_APPEND, 0)
	ok(err)
	_, err = f.WriteString("appended")
	ok(err)
	ok(f.Close())
	ok(os.WriteFile(p("etc/passwd"), []byte("short\n"), 0o600))
	ok(os.Remove(p("many/f300")))
	ok(os.WriteFile(p("many/new"), []byte("new"), 0o600))
	ok(os.WriteFile(p("var/shared/inherits"), []byte("acl"), 0o600))
	ok(os.RemoveAll(p("odd")))
	ok(os.MkdirAll(p("fresh/dir"), 0o750))
	ok(os.WriteFile(p("fresh/dir/f"), []byte("f"), 0o644))
	ok(os.Remove(p("absolute")))
	ok(os.Mkdir(p("absolute"), 0o755))
	ok(os.WriteFile(p("absolute/x"), []byte("was a link"), 0o644))
	ok(os.RemoveAll(p("deep")))
	ok(os.Symlink("/etc", p("deep")))
	ok(os.Remove(p("third")))
	ok(os.Link(p("bin/su"), p("bin/su2")))
	ok(os.Rename(p("z"), p("tmp/z")))
	ok(unix.Chmod(p("etc/shadow"), 0o600))
	ok(unix.Chmod(p("tmp"), 0o1770))
	ok(unix.Lremovexattr(p("var"), "user.dir"))
	ok(unix.Lsetxattr(p("etc"), "user.etc", []byte("new"), 0))
	ok(unix.Lremovexattr(p("var/shared"), "system.posix_acl_default"))
	ok(os.Lchown(p("dangling"), 5, 6))
	ok(os.Remove(p("fifo")))
	ok(os.WriteFile(p("fifo"), nil, 0o644))
	age(t, dir, "etc", 1234567890, 999999999) // the time it had
	age(t, dir, "closed/in/file", 77, 77)
}

func settleChanges(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	p := e.begin(t, root, "one")
	change(t, dir)
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.NotZero(t, c.Copied)
	require.NotZero(t, c.Removed)
	s := seal(t, p)
	e.whole(t, s, Photo(t, dir))
	into := filepath.Join(e.Dir, "restored")
	require.NoError(t, s.Restore(context.Background(), into))
	Same(t, Photo(t, dir), Photo(t, into))
}

func settleTwice(t *testing.T, e Env) {
	dir, root := e.jail(t)
	p := e.begin(t, root, "one")
	change(t, dir)
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tmp/z/y/second"), []byte("again"), 0o644))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "fresh")))
	_, err = p.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, p), Photo(t, dir))
}

// settleHidden changes content and puts size and mtime back.
func settleHidden(t *testing.T, e Env) {
	dir, root := e.jail(t)
	aWhile()
	p := e.begin(t, root, "one")
	f := filepath.Join(dir, "etc/shadow")
	var st unix.Stat_t
	require.NoError(t, unix.Stat(f, &st))
	b, err := os.ReadFile(f)
	require.NoError(t, err)
	b[0] ^= 1
	fd, err := os.OpenFile(f, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fd.WriteAt(b, 0)
	require.NoError(t, err)
	require.NoError(t, fd.Close())
	age(t, dir, "etc/shadow", st.Mtim.Sec, st.Mtim.Nsec)
	c, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	require.NotZero(t, c.Copied)
	e.whole(t, seal(t, p), Photo(t, dir))
}

func live(t *testing.T, e Env) {
	dir, root := e.jail(t)
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		p := func(rel string) string { return filepath.Join(dir, rel) }
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			// Errors do not matter here: it is only about unrest.
			f, _ := os.OpenFile(p("big"), os.O_WRONLY|os.O_APPEND, 0)
			f.WriteString(strings.Repeat("log line\n", 100))
			f.Close()
			os.Truncate(p("many/f000"), int64(i%3))
			os.RemoveAll(p("unrest"))
			os.MkdirAll(p("unrest/a/b/c"), 0o755)
			os.WriteFile(p("unrest/a/b/file"), nil, 0o644)
			os.Rename(p("unrest/a"), p("unrest/z"))
			os.Remove(p("flip"))
			if i%2 == 0 {
				os.Symlink("/etc", p("flip"))
			} else {
				os.Mkdir(p("flip"), 0o755)
				os.WriteFile(p("flip/passwd"), []byte("mine"), 0o644)
				os.RemoveAll(p("flip"))
				unix.Mkfifo(p("flip"), 0o600)
			}
		}
	}()
	for _, id := range []string{"l1", "l2", "l3"} {
		p := e.begin(t, root, id)
		_, err := p.Settle(context.Background(), root)
		require.NoError(t, err)
		s, err := p.Seal(context.Background(), backup.Meta{Consistency: backup.Live})
		require.NoError(t, err)
		bad, err := s.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, bad, "a live snapshot is at least what its manifest says")
		s.Close()
	}
	p := e.begin(t, root, "quiet")
	close(quit)
	<-gone
	_, err := p.Settle(context.Background(), root)
	require.NoError(t, err)
	e.whole(t, seal(t, p), Photo(t, dir))
}
