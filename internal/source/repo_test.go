package source

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/lab/byhand"
)

// deb builds a package of one small file; control holds more fields.
func deb(t testing.TB, name, version, arch, control string) []byte {
	t.Helper()
	lab.Need(t, "dpkg-deb")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "DEBIAN"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/share", name), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "usr/share", name, "version"), []byte(version+"\n"), 0o644))
	text := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Nobody <nobody@example.org>\nDescription: a test\n%s", name, version, arch, control)
	require.NoError(t, os.WriteFile(filepath.Join(root, "DEBIAN/control"), []byte(text), 0o644))
	out := filepath.Join(dir, "out.deb")
	cmd := exec.Command("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, out)
	msg, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", msg)
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	return data
}

// repo is a repository in memory: what the mirror serves.
type repo struct {
	g     *lab.GnuPG
	suite string
	files map[string][]byte
	hooks map[string]http.HandlerFunc // by path, before the files
	any   http.HandlerFunc            // for all paths, before the hooks
	seen  func(r *http.Request)
	mu    sync.Mutex
}

// newRepo makes a real repository with apt-ftparchive: pool files by their path.
func newRepo(t testing.TB, g *lab.GnuPG, suite, codename string, pool map[string][]byte) *repo {
	t.Helper()
	lab.Need(t, "apt-ftparchive")
	r := &repo{g: g, suite: suite, files: map[string][]byte{}, hooks: map[string]http.HandlerFunc{}}
	dir := t.TempDir()
	for name, data := range pool {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, data, 0o644))
		r.files[name] = data
	}
	cmd := exec.Command("apt-ftparchive", "packages", "pool")
	cmd.Dir = dir
	packages, err := cmd.Output()
	require.NoError(t, err)
	r.setPackages(t, packages)
	r.release(t, suite, codename, nil)
	return r
}

func (r *repo) clone() *repo {
	c := &repo{g: r.g, suite: r.suite, files: map[string][]byte{}, hooks: map[string]http.HandlerFunc{}}
	for k, v := range r.files {
		c.files[k] = v
	}
	return c
}

func (r *repo) indexPath() string { return "dists/" + r.suite + "/main/binary-amd64/Packages" }

func (r *repo) setPackages(t testing.TB, packages []byte) {
	t.Helper()
	for _, ext := range []string{"", ".gz", ".xz"} {
		r.files[r.indexPath()+ext] = byhand.Pack(t, ext, packages)
	}
}

// release writes the Release file over the indices that are there, and adds or
// replaces fields; a value "-" takes one away.
func (r *repo) release(t testing.TB, suite, codename string, fields map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, data := range r.files {
		if rest, ok := strings.CutPrefix(name, "dists/"+r.suite+"/main/"); ok {
			p := filepath.Join(dir, "main", rest)
			require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
			require.NoError(t, os.WriteFile(p, data, 0o644))
		}
	}
	set := map[string]string{"Suite": suite, "Codename": codename, "Components": "main", "Architectures": "amd64"}
	cmd := exec.Command("apt-ftparchive")
	for k, v := range set {
		cmd.Args = append(cmd.Args, "-o", "APT::FTPArchive::Release::"+k+"="+v)
	}
	cmd.Args = append(cmd.Args, "release", dir)
	out, err := cmd.Output()
	require.NoError(t, err)
	var text []string
	for line := range strings.Lines(string(out)) {
		k, _, _ := strings.Cut(line, ":")
		if _, replaced := fields[k]; replaced && line[0] != ' ' {
			continue
		}
		text = append(text, line)
	}
	var first []string
	for k, v := range fields {
		if v != "-" {
			first = append(first, k+": "+v+"\n")
		}
	}
	release := []byte(strings.Join(append(first, text...), ""))
	r.files["dists/"+r.suite+"/Release"] = release
	return release
}

// sign puts a signed index of the Release file in its place.
func (r *repo) sign(t testing.TB, key string, opts ...string) {
	t.Helper()
	r.files["dists/"+r.suite+"/InRelease"] = r.g.Clearsign(t, time.Time{}, key, r.files["dists/"+r.suite+"/Release"], opts...)
}

func (r *repo) inRelease() string { return "dists/" + r.suite + "/InRelease" }

// ServeHTTP is the mirror.
func (r *repo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(path.Clean(req.URL.Path), "/")
	r.mu.Lock()
	hook, any, data, seen := r.hooks[name], r.any, r.files[name], r.seen
	_, ok := r.files[name]
	r.mu.Unlock()
	if seen != nil {
		seen(req)
	}
	switch {
	case any != nil:
		any(w, req)
	case hook != nil:
		hook(w, req)
	case ok:
		lab.ServeBytes(w, req, data)
	default:
		http.NotFound(w, req)
	}
}

func (r *repo) serve(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s.URL
}

// quick are bounds that keep tests short.
func quick() HTTPOptions {
	return HTTPOptions{
		Connect: 2 * time.Second, Header: 400 * time.Millisecond, Stall: 400 * time.Millisecond,
		MinRate: 1000, Lost: 900 * time.Millisecond, Attempts: 3,
	}
}

// client is one host that uses a mirror: its sources, keyring, cache and memory.
type client struct {
	o   AptOptions
	dir string
}

func newClientDir(t testing.TB, g *lab.GnuPG, url, suite string, keys ...string) *client {
	t.Helper()
	c := &client{dir: t.TempDir()}
	ring := filepath.Join(c.dir, "ring.gpg")
	require.NoError(t, os.WriteFile(ring, g.Export(t, keys...), 0o644))
	c.o = AptOptions{
		SourcesFiles: []string{filepath.Join(c.dir, "test.list")}, Arch: "amd64", HTTP: quick(),
		CacheDir: filepath.Join(c.dir, "cache"), StateDir: filepath.Join(c.dir, "state"),
	}
	c.source(t, fmt.Sprintf("deb [signed-by=%s] %s %s main\n", ring, url, suite))
	return c
}

func (c *client) source(t testing.TB, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(c.o.SourcesFiles[0], []byte(text), 0o644))
}

func (c *client) index(t testing.TB) (*Index, error) {
	t.Helper()
	s, err := OpenApt(c.o)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return s.Index(ctx)
}

// fetch resolves and fetches one package.
func (c *client) fetch(t testing.TB, name string) (map[string]Blob, error) {
	t.Helper()
	s, err := OpenApt(c.o)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ix, err := s.Index(ctx)
	if err != nil {
		return nil, err
	}
	target, err := Resolve(ix, Request{Roots: []Want{{Name: name}}})
	if err != nil {
		return nil, err
	}
	return s.Fetch(ctx, target.Packages, nil)
}

// notices joins what the index has to say.
func notices(ix *Index) string {
	var b strings.Builder
	for _, n := range ix.Notices {
		fmt.Fprintf(&b, "%s: %s\n", n.Source, n.Message)
	}
	return b.String()
}
