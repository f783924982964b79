package source

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// twoDays is a repository as it was on two days.
func twoDays(t *testing.T) (g *lab.GnuPG, older, newer *repo) {
	g = lab.NewGnuPG(t)
	g.Key(t, time.Time{}, "good", "ed25519", "sign,cert", "never")
	day := func(v string, at time.Time) *repo {
		r := newRepo(t, g, "test", "test", map[string][]byte{"pool/hello.deb": deb(t, "hello", v, "amd64", "")})
		r.release(t, "test", "test", map[string]string{
			"Date":            at.UTC().Format(time.RFC1123),
			"Valid-Until":     at.AddDate(0, 0, 7).UTC().Format(time.RFC1123),
			"Acquire-By-Hash": "yes",
		})
		r.sign(t, "good")
		return r
	}
	return g, day("1.0-1", time.Now().AddDate(0, 0, -2)), day("1.0-2", time.Now().AddDate(0, 0, -1))
}

// become makes a mirror serve what another repository holds.
func (r *repo) become(o *repo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = o.files
}

func best(t *testing.T, ix *Index) string {
	t.Helper()
	v := ix.Versions("hello")
	require.NotEmpty(t, v)
	return v[0].Version
}

func TestOlderIndexIsNeverUsed(t *testing.T) {
	t.Parallel()
	g, older, newer := twoDays(t)
	mirror := newer.clone()
	c := newClientDir(t, g, mirror.serve(t), "test", "good")
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-2", best(t, ix))
	require.Empty(t, ix.Notices)

	// A mirror that is behind: the cached index serves, and it is said.
	mirror.become(older)
	for range 2 {
		ix, err = c.index(t)
		require.NoError(t, err)
		require.Equal(t, "1.0-2", best(t, ix))
		require.Contains(t, notices(ix), "the mirror is behind")
	}

	// With the cache gone the memory is left: the mirror is refused.
	require.NoError(t, os.RemoveAll(c.o.CacheDir))
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrStale)
	var e *Error
	require.True(t, errors.As(err, &e))
	require.Equal(t, 24*time.Hour, e.SeenDate.Sub(e.MirrorDate).Round(time.Hour))

	// It catches up.
	mirror.become(newer)
	ix, err = c.index(t)
	require.NoError(t, err)
	require.Empty(t, ix.Notices)

	// What expired meanwhile does not serve, old or new.
	c.o.Now = func() time.Time { return time.Now().AddDate(0, 0, 7) }
	mirror.become(older)
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrExpired)
	mirror.become(newer)
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrExpired)
}

func TestFirstVisitToAMirrorThatIsBehindCannotBeTold(t *testing.T) {
	t.Parallel()
	g, older, _ := twoDays(t)
	c := newClientDir(t, g, older.clone().serve(t), "test", "good")
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-1", best(t, ix))
}

func TestDamagedMemoryIsNotForgotten(t *testing.T) {
	t.Parallel()
	g, _, newer := twoDays(t)
	c := newClientDir(t, g, newer.clone().serve(t), "test", "good")
	_, err := c.index(t)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(c.o.StateDir, "sources", "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	whole, err := os.ReadFile(files[0])
	require.NoError(t, err)
	for n := range len(whole) - 2 { // cut off anywhere; the last bytes are "}\n"
		require.NoError(t, os.WriteFile(files[0], whole[:n], 0o600))
		_, err = memory{filepath.Dir(files[0])}.load(entryOf(t, c))
		require.ErrorContains(t, err, "damaged", "cut at %d", n)
	}
	_, err = c.index(t)
	require.ErrorContains(t, err, "damaged")
}

func entryOf(t *testing.T, c *client) entry {
	t.Helper()
	list, _, err := readSources(c.o.SourcesFiles, "amd64")
	require.NoError(t, err)
	return list[0]
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	g, _, newer := twoDays(t)
	down := newer.clone()
	down.any = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	downURL := down.serve(t)
	mirror := newer.clone()
	c := newClientDir(t, g, mirror.serve(t), "test", "good")

	// nobody there at all, and nothing in the cache
	alone := newClientDir(t, g, downURL, "test", "good")
	_, err := alone.index(t)
	require.ErrorIs(t, err, ErrUnreachable)
	closed := newClientDir(t, g, "http://127.0.0.1:1", "test", "good")
	_, err = closed.index(t)
	require.ErrorIs(t, err, ErrUnreachable)

	// one of two: the other serves
	text, err := os.ReadFile(c.o.SourcesFiles[0])
	require.NoError(t, err)
	ring := filepath.Join(c.dir, "ring.gpg")
	c.source(t, string(text)+"deb [signed-by="+ring+"] "+downURL+" test main\n")
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-2", best(t, ix))
	require.Contains(t, notices(ix), "not used: cannot fetch its index InRelease: HTTP status 503")

	// the one goes down as well: its cached index serves
	mirror.mu.Lock()
	mirror.any = down.any
	mirror.mu.Unlock()
	ix, err = c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-2", best(t, ix))
	require.Contains(t, notices(ix), "the cached index of")

	// not after it expired
	c.o.Now = func() time.Time { return time.Now().AddDate(0, 0, 8) }
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrUnreachable)
}

func TestUnchangedIndexIsAskedForByConditionOnly(t *testing.T) {
	t.Parallel()
	g, _, newer := twoDays(t)
	mirror := newer.clone()
	var conditional, all atomic.Int32
	mirror.seen = func(r *http.Request) {
		all.Add(1)
		if r.Header.Get("If-None-Match") != "" {
			conditional.Add(1)
		}
	}
	c := newClientDir(t, g, mirror.serve(t), "test", "good")
	_, err := c.index(t)
	require.NoError(t, err)
	require.Zero(t, conditional.Load())
	before := all.Load()
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-2", best(t, ix))
	require.EqualValues(t, 1, conditional.Load())
	require.EqualValues(t, 1, all.Load()-before, "nothing else is fetched")

	// A 304 for ever freezes the index no longer than it is valid.
	c.o.Now = func() time.Time { return time.Now().AddDate(0, 0, 8) }
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrExpired)

	// With the cached index damaged there is no condition, and all is well again.
	c.o.Now = time.Now
	blobs, err := filepath.Glob(filepath.Join(c.o.CacheDir, "sha256", "*", "*"))
	require.NoError(t, err)
	quickCopies, err := filepath.Glob(filepath.Join(c.o.CacheDir, "quick", "*"))
	require.NoError(t, err)
	require.Len(t, quickCopies, 1)
	for _, b := range append(blobs, quickCopies...) {
		data, err := os.ReadFile(b)
		require.NoError(t, err)
		data[len(data)/2] ^= 1
		require.NoError(t, os.WriteFile(b, data, 0o600))
	}
	before = conditional.Load()
	ix, err = c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-2", best(t, ix))
	require.Equal(t, before, conditional.Load())
}

func TestByHashComesFirst(t *testing.T) {
	t.Parallel()
	g, _, newer := twoDays(t)
	mirror := newer.clone()
	xz := mirror.files[mirror.indexPath()+".xz"]
	mirror.files["dists/test/main/binary-amd64/by-hash/SHA256/"+sum(xz)] = xz
	mirror.files[mirror.indexPath()+".xz"] = []byte("the mirror is in the middle of its update")
	c := newClientDir(t, g, mirror.serve(t), "test", "good")
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-2", best(t, ix))

	// By-Hash: no in the sources file
	c = newClientDir(t, g, mirror.serve(t), "test", "good")
	c.source(t, strings.Replace(readText(t, c.o.SourcesFiles[0]), "deb [", "deb [by-hash=no ", 1))
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrHash)
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

func TestCheckValidUntilNoIsHonouredAndSaid(t *testing.T) {
	t.Parallel()
	g, older, _ := twoDays(t)
	c := newClientDir(t, g, older.clone().serve(t), "test", "good")
	c.o.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	_, err := c.index(t)
	require.ErrorIs(t, err, ErrExpired)
	c.source(t, strings.Replace(readText(t, c.o.SourcesFiles[0]), "deb [", "deb [check-valid-until=no ", 1))
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Contains(t, notices(ix), "not to check how long")
}

func TestTrustedYesIsNotHonoured(t *testing.T) {
	t.Parallel()
	g, older, _ := twoDays(t)
	mirror := older.clone()
	mirror.files[mirror.inRelease()] = mirror.files["dists/test/Release"]
	c := newClientDir(t, g, mirror.serve(t), "test", "good")
	c.source(t, strings.Replace(readText(t, c.o.SourcesFiles[0]), "deb [", "deb [trusted=yes ", 1))
	_, err := c.index(t)
	require.ErrorIs(t, err, ErrSignature)
}

func TestFileURIs(t *testing.T) {
	t.Parallel()
	g, older, _ := twoDays(t)
	dir := t.TempDir()
	for name, data := range older.files {
		p := filepath.Join(dir, "repo with blanks", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, data, 0o644))
	}
	for _, scheme := range []string{"file:", "file://", "copy:"} {
		c := newClientDir(t, g, scheme+dir+"/repo%20with%20blanks", "test", "good")
		blobs, err := c.fetch(t, "hello")
		require.NoError(t, err, scheme)
		require.Len(t, blobs, 1)
	}
	// A FIFO in its place is refused at once, not waited for.
	c := newClientDir(t, g, "file:"+dir+"/fifo", "test", "good")
	mkfifo(t, filepath.Join(dir, "fifo/dists/test/InRelease"))
	_, err := c.index(t)
	require.ErrorIs(t, err, ErrUnreachable)
}

func TestNewIndexThatIsNotWhole(t *testing.T) {
	t.Parallel()
	g, older, newer := twoDays(t)
	mirror := older.clone()
	c := newClientDir(t, g, mirror.serve(t), "test", "good")
	_, err := c.index(t)
	require.NoError(t, err)
	half := newer.clone()
	delete(half.files, half.indexPath()+".xz")
	mirror.become(half)
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-1", best(t, ix))
	require.Contains(t, notices(ix), "not whole")
	// That index was never used, so it is not what was seen last.
	mirror.become(older)
	ix, err = c.index(t)
	require.NoError(t, err)
	require.Empty(t, ix.Notices)
}

func TestMemoryNeverGoesBack(t *testing.T) {
	t.Parallel()
	m := memory{t.TempDir()}
	e := entry{URI: &url.URL{Scheme: "http", Host: "m.test", Path: "/"}, Suite: "s"}
	now := time.Now().UTC().Truncate(time.Second)
	require.NoError(t, m.save(e, seen{Date: now}))
	require.NoError(t, m.save(e, seen{Date: now.Add(-time.Hour)}))
	s, err := m.load(e)
	require.NoError(t, err)
	require.Equal(t, now, s.Date)
}

func TestPasswordsStayInTheSourcesFile(t *testing.T) {
	t.Parallel()
	g, older, _ := twoDays(t)
	mirror := older.clone()
	var without atomic.Int32
	mirror.seen = func(r *http.Request) {
		if _, pass, _ := r.BasicAuth(); pass != "secret" {
			without.Add(1)
		}
	}
	c := newClientDir(t, g, strings.Replace(mirror.serve(t), "http://", "http://me:secret@", 1), "test", "good")
	ix, err := c.index(t)
	require.NoError(t, err)
	for _, p := range ix.Versions("hello") {
		require.NotContains(t, p.URL+p.Origin, "secret")
	}
	_, err = c.fetch(t, "hello")
	require.NoError(t, err)
	require.Zero(t, without.Load())
	mirror.mu.Lock()
	mirror.any = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }
	mirror.mu.Unlock()
	require.NoError(t, os.RemoveAll(c.o.CacheDir))
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrUnreachable)
	require.NotContains(t, err.Error(), "secret")
}

func TestSuiteThatTheMirrorDoesNotHave(t *testing.T) {
	t.Parallel()
	g, older, _ := twoDays(t)
	url := older.clone().serve(t)
	c := newClientDir(t, g, url, "old", "good")
	c.o.Root = fakeRoot(t, map[string]string{"etc/os-release": "VERSION_CODENAME=old\n"})
	c.o.Keyring = filepath.Join(c.dir, "ring.gpg")
	c.source(t, "deb "+url+" old main\ndeb "+url+" old-updates main\n")
	c.o.Suite = "test" // is there; test-updates is not
	ix, err := c.index(t)
	require.NoError(t, err)
	require.Equal(t, "1.0-1", best(t, ix))
	require.Contains(t, notices(ix), "test-updates: not used")
	c.o.Suite = "none"
	_, err = c.index(t)
	require.ErrorIs(t, err, ErrUnreachable)
	require.ErrorContains(t, err, "no apt source serves the suite none")
}
