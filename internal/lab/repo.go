package lab

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Repo is a signed apt repository on 127.0.0.1, made with the archive's own
// tools: apt-ftparchive and gpg.
type Repo struct {
	URL         string // http://127.0.0.1:PORT
	Keyring     string // the public key, binary
	SourcesFile string // a deb822 file that names all of it
	Dir         string // what is served: dists/SUITE and pool/main
	Suite       string
	Arch        string

	keys *GnuPG
	mid  atomic.Pointer[func(http.Handler) http.Handler]
}

// SignedRepo publishes packages, given as files or as folders of .deb files.
// The server, gpg's agent and the files go with the test.
func SignedRepo(t testing.TB, debs ...string) *Repo {
	t.Helper()
	Need(t, "apt-ftparchive", "dpkg-deb", "dpkg", "xz")
	r := &Repo{Dir: t.TempDir(), Suite: "test"}
	arch, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		t.Fatalf("cannot ask dpkg for the architecture: %v", err)
	}
	r.Arch = strings.TrimSpace(string(arch))
	r.keys = NewGnuPG(t)
	r.keys.Key(t, time.Time{}, "test", "ed25519", "sign", "never")
	r.Keyring = filepath.Join(t.TempDir(), "test.gpg")
	r.write(t, r.Keyring, r.keys.Export(t, "test"))
	r.Add(t, debs...)
	r.Publish(t, nil)

	files := http.FileServer(http.Dir(r.Dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		h := http.Handler(files)
		if mid := r.mid.Load(); mid != nil {
			h = (*mid)(files)
		}
		h.ServeHTTP(w, q)
	}))
	t.Cleanup(srv.Close)
	r.URL = srv.URL
	r.SourcesFile = filepath.Join(t.TempDir(), "test.sources")
	text := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n", r.URL, r.Suite, r.Keyring)
	if err := os.WriteFile(r.SourcesFile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

// Intercept puts a handler of the test before the file server, for a mirror
// that stalls, lies or breaks off. nil takes it away again.
func (r *Repo) Intercept(mid func(next http.Handler) http.Handler) {
	if mid == nil {
		r.mid.Store(nil)
		return
	}
	r.mid.Store(&mid)
}

// epochInName is how apt names a downloaded package with an epoch; a pool
// leaves the epoch out.
var epochInName = regexp.MustCompile(`_[0-9]+(%3a|:)`)

// Add copies packages into the pool. They are offered after the next Publish.
func (r *Repo) Add(t testing.TB, debs ...string) {
	t.Helper()
	pool := filepath.Join(r.Dir, "pool", "main")
	if err := os.MkdirAll(pool, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range debs {
		files := []string{d}
		if fi, err := os.Stat(d); err == nil && fi.IsDir() {
			files, _ = filepath.Glob(filepath.Join(d, "*.deb"))
		}
		for _, f := range files {
			name := epochInName.ReplaceAllString(filepath.Base(f), "_")
			if err := copyFile(f, filepath.Join(pool, name), 0o644); err != nil {
				t.Fatalf("cannot add %s to the repository: %v", name, err)
			}
		}
	}
}

// Publish writes the indexes of what is in the pool, uncompressed, .gz and .xz
// and by hash, then Release and its signatures. Where edit is not nil, it gets
// the text of Release before it is signed and returns another.
func (r *Repo) Publish(t testing.TB, edit func(release string) string) {
	t.Helper()
	bin := filepath.Join(r.Dir, "dists", r.Suite, "main", "binary-"+r.Arch)
	if err := os.RemoveAll(filepath.Join(r.Dir, "dists")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	packages := r.ftparchive(t, "--arch", r.Arch, "packages", "pool/main")
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(packages); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("xz", "-c", "-1")
	cmd.Stdin = bytes.NewReader(packages)
	xz, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot compress an index: %v", err)
	}
	for name, data := range map[string][]byte{"Packages": packages, "Packages.gz": gz.Bytes(), "Packages.xz": xz} {
		r.write(t, filepath.Join(bin, name), data)
		r.write(t, filepath.Join(bin, "by-hash", "SHA256", fmt.Sprintf("%x", sha256.Sum256(data))), data)
		r.write(t, filepath.Join(bin, "by-hash", "SHA512", fmt.Sprintf("%x", sha512.Sum512(data))), data)
	}
	args := []string{}
	for k, v := range map[string]string{"Origin": "jailup", "Label": "jailup test", "Suite": r.Suite, "Codename": r.Suite,
		"Components": "main", "Architectures": r.Arch, "Acquire-By-Hash": "yes"} {
		args = append(args, "-o", "APT::FTPArchive::Release::"+k+"="+v)
	}
	release := string(r.ftparchive(t, append(args, "release", filepath.Join("dists", r.Suite))...))
	if edit != nil {
		release = edit(release)
	}
	r.write(t, r.dist("Release"), []byte(release))
	r.Sign(t)
}

// Sign signs Release as it lies there, anew: InRelease and Release.gpg.
func (r *Repo) Sign(t testing.TB) {
	t.Helper()
	r.keys.Run(t, time.Time{}, nil, "--clearsign", "--output", r.dist("InRelease"), r.dist("Release"))
	r.keys.Run(t, time.Time{}, nil, "--armor", "--detach-sign", "--output", r.dist("Release.gpg"), r.dist("Release"))
}

// dist is the path of a file of the suite.
func (r *Repo) dist(name string) string { return filepath.Join(r.Dir, "dists", r.Suite, name) }

func (r *Repo) ftparchive(t testing.TB, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("apt-ftparchive", append([]string{"-qq"}, args...)...)
	cmd.Dir = r.Dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("apt-ftparchive: %v: %s", err, errs.String())
	}
	return out
}

func (r *Repo) write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// ServeBytes answers as a mirror's file server does: ranges, and an ETag that is
// another one for other content.
func ServeBytes(w http.ResponseWriter, q *http.Request, data []byte) {
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data))[:17]+`"`)
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
}
