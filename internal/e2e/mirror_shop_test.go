//go:build faultpoints

package e2e

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/lab/byhand"
)

// A shop is what all hostile mirrors are made from, made once: the real packages
// of a server and all that it needs, old and new, the archive's own index of
// them, and keys of every kind.
type shop struct {
	dir     string // of files that the tests name on command lines
	arch    string
	debs    map[string][]byte // by the path in the pool
	stanzas []string          // of the index, one for each package
	nginx   string            // the path of the newest nginx
	version string            // of it
	now     time.Time
	*lab.GnuPG

	rings map[string]string // name of a key → its keyring
	apart sync.Once
	parts []byhand.ArMember // of nginx, see newDeb
}

// shopKeys are the keys of the shop: how gpg makes them, and when.
func shopKeys(now time.Time) []shopKey {
	past, lately := now.AddDate(-3, 0, 0), now.AddDate(0, -2, 0)
	list := []shopKey{
		{name: "good", algo: "ed25519"},
		{name: "rsa2048", algo: "rsa2048"},
		{name: "nistp256", algo: "nistp256"},
		{name: "nistp521", algo: "nistp521"},
		{name: "wrong", algo: "ed25519"},
		{name: "rsa1024", algo: "rsa1024"},
		{name: "dsa2048", algo: "dsa2048"},
		{name: "secp256k1", algo: "secp256k1"},
		{name: "expired", algo: "ed25519", expire: "1y", at: past},
		{name: "future", algo: "ed25519", at: now.AddDate(1, 0, 0)},
		{name: "revoked", algo: "ed25519"},
		{name: "sha1bound", algo: "rsa2048", opts: []string{"--cert-digest-algo", "SHA1"}},
		{name: "sub", algo: "ed25519", sub: "ed25519", subExpire: "never"},
		{name: "subrevoked", algo: "ed25519", sub: "ed25519", subExpire: "never"},
		{name: "subexpired", algo: "ed25519", sub: "ed25519", subExpire: "1y", at: past},
		{name: "subweak", algo: "ed25519", sub: "rsa1024", subExpire: "never"},
		{name: "subsha1", algo: "rsa2048", sub: "rsa2048", subExpire: "never"},
		{name: "certonly", algo: "ed25519", usage: "cert", sub: "cv25519", subUsage: "encr", subExpire: "never"},
	}
	for i := range list {
		if list[i].at.IsZero() {
			list[i].at = lately
		}
	}
	return list
}

type shopKey struct {
	name, algo, usage, expire string
	at                        time.Time
	opts                      []string
	sub, subUsage, subExpire  string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	lab.Need(t, "apt-ftparchive", "dpkg-deb", "dpkg", "apt")
	pair := lab.NginxPair(t)
	s := &shop{GnuPG: lab.NewGnuPG(t), dir: t.TempDir(), debs: map[string][]byte{}, rings: map[string]string{}, now: time.Now(), version: pair.NewVersion}
	require.NoError(t, os.Chmod(s.dir, 0o755))
	out, err := exec.Command("dpkg", "--print-architecture").Output()
	require.NoError(t, err)
	s.arch = strings.TrimSpace(string(out))
	pool := filepath.Join(t.TempDir(), "pool", "main")
	require.NoError(t, os.MkdirAll(pool, 0o755))
	for _, dir := range []string{pair.Old, pair.New} {
		files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		require.NoError(t, err)
		for _, f := range files {
			data, err := os.ReadFile(f)
			require.NoError(t, err)
			name := strings.ReplaceAll(filepath.Base(f), "%3a", ".")
			s.debs["pool/main/"+name] = data
			if to := filepath.Join(pool, name); !exists(to) {
				require.NoError(t, os.Symlink(f, to))
			}
		}
	}
	cmd := exec.Command("apt-ftparchive", "-qq", "--arch", s.arch, "packages", "pool/main")
	cmd.Dir = filepath.Dir(filepath.Dir(pool))
	text, err := cmd.Output()
	require.NoError(t, err)
	for one := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		s.stanzas = append(s.stanzas, one)
		if fieldOf(one, "Package") == "nginx" && fieldOf(one, "Version") == s.version {
			s.nginx = fieldOf(one, "Filename")
		}
	}
	require.NotEmpty(t, s.nginx, "the index has no nginx %s", s.version)
	require.Contains(t, s.debs, s.nginx)
	s.keys(t)
	return s
}

func (s *shop) keys(t *testing.T) {
	for _, k := range shopKeys(s.now) {
		usage, expire := k.usage, k.expire
		if usage == "" {
			usage = "sign,cert"
		}
		if expire == "" {
			expire = "never"
		}
		s.Key(t, k.at, k.name, k.algo, usage, expire, k.opts...)
		if k.sub != "" {
			if k.subUsage == "" {
				k.subUsage = "sign"
			}
			s.Run(t, k.at, nil, []string{"--quick-add-key", s.Fingerprints(t, k.name)[0], k.sub, k.subUsage, k.subExpire}...)
		}
		if k.name == "subsha1" { // GnuPG makes no new subkey so, but it binds an old one so
			f := s.Fingerprints(t, k.name)
			s.Run(t, s.now.Add(-time.Second), nil, "--cert-digest-algo", "SHA1", "--quick-set-expire", f[0], "5y", f[1])
		}
		s.ring(t, k.name, s.Export(t, k.name))
	}
}

// ring makes a keyring file.
func (s *shop) ring(t testing.TB, name string, data []byte) string {
	file := filepath.Join(s.dir, name+".gpg")
	require.NoError(t, os.WriteFile(file, data, 0o644))
	s.rings[name] = file
	return file
}

// clearsign signs as the key called name; at may be zero.
func (s *shop) clearsign(t testing.TB, at time.Time, name string, text []byte, opts ...string) []byte {
	t.Helper()
	return s.Clearsign(t, at, name, text, append([]string{"--digest-algo", "SHA512"}, opts...)...)
}

// fieldOf is the value of a field of a stanza, its first line.
func fieldOf(stanza, name string) string {
	for line := range strings.Lines(stanza) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// A mirror is one hostile mirror: the shop's repository, with what its attack
// changes on each level. The hooks are called by build, from the first to the
// last; a nil one changes nothing.
type mirror struct {
	t   testing.TB
	s   *shop
	url string
	srv *httptest.Server

	debs     map[string][]byte                   // instead of the shop's
	packages func(index string) string           // the text of Packages
	forms    []string                            // in which it is offered: "", ".gz", ".xz", ".zst"; nil: "" and ".xz"
	indices  func(files map[string][]byte)       // by the name below dists/SUITE
	fields   map[string]string                   // of Release; "-" takes one away
	release  func(text string) string            // the text of Release
	key      string                              // who signs
	sign     func(release []byte) []byte         // how; nil: as key
	signed   func(inRelease []byte) []byte       // what becomes of InRelease
	after    func()                              // last
	every    func(http.Handler) http.Handler     // around all requests
	hooks    map[string]http.HandlerFunc         // by path, before the files
	seen     func(*http.Request)                 // each request
	files    map[string][]byte                   // what is served beside the packages
	listen   func(http.Handler) *httptest.Server // nil: plain HTTP
	sources  func(text string) string            // the client's sources file
	args     []string                            // more of the client
	env      []string                            // of the client
	client   func(m *mirror, dir string)         // what happens to the client's folders before it asks
	aptConf  []string                            // more settings of apt
	lock     sync.Mutex                          // of what follows, once it serves
	requests int
}

func (s *shop) mirror(t testing.TB) *mirror {
	return &mirror{
		t: t, s: s, key: "good", debs: map[string][]byte{}, files: map[string][]byte{}, hooks: map[string]http.HandlerFunc{},
		fields: map[string]string{
			"Date":        date(s.now.Add(-24 * time.Hour)),
			"Valid-Until": date(s.now.Add(7 * 24 * time.Hour)),
		},
	}
}

const mirrorSuite = "test"

func date(at time.Time) string { return at.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC") }

func (m *mirror) inRelease() string { return "dists/" + mirrorSuite + "/InRelease" }
func (m *mirror) index() string     { return "main/binary-" + m.s.arch + "/Packages" }
func (m *mirror) indexPath() string { return "dists/" + mirrorSuite + "/" + m.index() }

// put serves another package in the place of one, and lists it by what it is.
func (m *mirror) put(name string, deb []byte) { m.debs[name] = deb }

// build makes everything anew from the hooks.
func (m *mirror) build() {
	m.t.Helper()
	m.lock.Lock()
	defer m.lock.Unlock()
	clear(m.files)
	var stanzas []string
	for _, st := range m.s.stanzas {
		if deb, ok := m.debs[fieldOf(st, "Filename")]; ok {
			st = relisted(st, deb)
		}
		stanzas = append(stanzas, st)
	}
	text := strings.Join(stanzas, "\n\n") + "\n"
	if m.packages != nil {
		text = m.packages(text)
	}
	forms := m.forms
	if forms == nil {
		forms = []string{"", ".xz"}
	}
	index := map[string][]byte{}
	for _, ext := range forms {
		index[m.index()+ext] = byhand.Pack(m.t, ext, []byte(text))
	}
	if m.indices != nil {
		m.indices(index)
	}
	release := m.releaseText(index)
	if m.release != nil {
		release = m.release(release)
	}
	var in []byte
	if m.sign != nil {
		in = m.sign([]byte(release))
	} else {
		in = m.s.clearsign(m.t, time.Time{}, m.key, []byte(release))
	}
	if m.signed != nil {
		in = m.signed(bytes.Clone(in))
	}
	for name, data := range index {
		m.files["dists/"+mirrorSuite+"/"+name] = data
	}
	m.files["dists/"+mirrorSuite+"/Release"] = []byte(release)
	m.files[m.inRelease()] = in
	if m.after != nil {
		m.after()
	}
}

// relisted is a stanza that tells of another file.
func relisted(stanza string, deb []byte) string {
	var out []string
	for line := range strings.Lines(stanza) {
		name, _, _ := strings.Cut(line, ":")
		v := ""
		switch name {
		case "Size":
			v = fmt.Sprint(len(deb))
		case "SHA256":
			v = sha256Of(deb)
		case "MD5sum", "SHA1", "SHA512":
			continue
		}
		if v != "" {
			line = name + ": " + v + "\n"
		}
		out = append(out, line)
	}
	return strings.TrimSuffix(strings.Join(out, ""), "\n")
}

func sha256Of(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (m *mirror) releaseText(index map[string][]byte) string {
	fields := map[string]string{
		"Origin": "jailup", "Label": "jailup test", "Suite": mirrorSuite, "Codename": "codename",
		"Architectures": m.s.arch, "Components": "main", "Description": "a test",
	}
	for k, v := range m.fields {
		fields[k] = v
	}
	var b strings.Builder
	for _, k := range []string{"Origin", "Label", "Suite", "Version", "Codename", "Date", "Valid-Until", "Acquire-By-Hash", "Architectures", "Components", "Description"} {
		if v := fields[k]; v != "" && v != "-" {
			fmt.Fprintf(&b, "%s: %s\n", k, v)
		}
	}
	var names []string
	for n := range index {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, h := range []struct {
		field string
		sum   func([]byte) string
	}{
		{"MD5Sum", func(d []byte) string { s := md5.Sum(d); return hex.EncodeToString(s[:]) }},
		{"SHA1", func(d []byte) string { s := sha1.Sum(d); return hex.EncodeToString(s[:]) }},
		{"SHA256", sha256Of},
	} {
		fmt.Fprintf(&b, "%s:\n", h.field)
		for _, n := range names {
			fmt.Fprintf(&b, " %s %16d %s\n", h.sum(index[n]), len(index[n]), n)
		}
	}
	return b.String()
}

// ServeHTTP is the mirror.
func (m *mirror) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	m.lock.Lock()
	m.requests++
	every, seen := m.every, m.seen
	m.lock.Unlock()
	if seen != nil {
		seen(q)
	}
	h := http.Handler(http.HandlerFunc(m.honest))
	if every != nil {
		h = every(h)
	}
	h.ServeHTTP(w, q)
}

func (m *mirror) honest(w http.ResponseWriter, q *http.Request) {
	name := strings.TrimPrefix(path.Clean(q.URL.Path), "/")
	m.lock.Lock()
	hook, data, ok := m.hooks[name], []byte(nil), false
	if data, ok = m.files[name]; !ok {
		if data, ok = m.debs[name]; !ok {
			data, ok = m.s.debs[name]
		}
	}
	m.lock.Unlock()
	switch {
	case hook != nil:
		hook(w, q)
	case ok:
		lab.ServeBytes(w, q, data)
	default:
		http.NotFound(w, q)
	}
}

// serve opens the mirror for business. It ends by close.
func (m *mirror) serve() {
	if m.listen != nil {
		m.srv = m.listen(m)
	} else {
		m.srv = httptest.NewServer(m)
	}
	m.srv.Config.ErrorLog = nil
	m.url = m.srv.URL
}

func (m *mirror) close() {
	m.srv.CloseClientConnections()
	m.srv.Close()
}
