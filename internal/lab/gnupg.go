package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// GnuPG is a home of GnuPG with the keys of a test. A key is called by a name of
// its own: "good" is the user "good <good@test>".
type GnuPG struct {
	home string
	mu   sync.Mutex // of the agent: one call at a time
}

// NewGnuPG makes an empty home, which goes with the test, its agent too.
func NewGnuPG(t testing.TB) *GnuPG {
	t.Helper()
	Need(t, "gpg", "gpgconf")
	home, err := os.MkdirTemp("", "g") // short: the agent's socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	g := &GnuPG{home: home}
	t.Cleanup(func() {
		if out, err := g.command("gpgconf", "--kill", "all").CombinedOutput(); err != nil {
			t.Errorf("cannot end gpg's agent: %v: %s", err, out)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Errorf("cannot remove gpg's home: %v", err)
		}
	})
	return g
}

func (g *GnuPG) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home, "LC_ALL=C.UTF-8")
	return cmd
}

// Run runs gpg on the input, at a time of choice if at is not zero, and returns
// what it prints.
func (g *GnuPG) Run(t testing.TB, at time.Time, in []byte, args ...string) []byte {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	all := []string{"--batch", "--yes", "--quiet", "--no-tty", "--passphrase", "", "--pinentry-mode", "loopback", "--trust-model", "always", "--no-auto-check-trustdb"}
	if !at.IsZero() {
		all = append(all, "--faked-system-time", at.UTC().Format("20060102T150405")+"!")
	}
	cmd := g.command("gpg", append(all, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("gpg %s: %v: %s", strings.Join(args, " "), err, &errs)
	}
	return out
}

// User is the key of that name, and no other, as gpg's options take it.
func User(name string) string { return "=" + name + " <" + name + "@test>" }

// Key makes a key pair; algo, usage and expire are as --quick-gen-key takes them.
func (g *GnuPG) Key(t testing.TB, at time.Time, name, algo, usage, expire string, opts ...string) {
	t.Helper()
	g.Run(t, at, nil, append(opts, "--quick-gen-key", User(name)[1:], algo, usage, expire)...)
}

// Export returns the public keys, binary.
func (g *GnuPG) Export(t testing.TB, names ...string) []byte {
	t.Helper()
	args := []string{"--export"}
	for _, n := range names {
		args = append(args, User(n))
	}
	return g.Run(t, time.Time{}, nil, args...)
}

// Fingerprints are those of a key and its subkeys, in upper case.
func (g *GnuPG) Fingerprints(t testing.TB, name string) []string {
	t.Helper()
	var list []string
	for line := range strings.Lines(string(g.Run(t, time.Time{}, nil, "--with-colons", "--list-keys", User(name)))) {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			list = append(list, f[9])
		}
	}
	return list
}

// Clearsign signs a text as the key of that name, or of that fingerprint where it
// ends in "!": then it is just that subkey.
func (g *GnuPG) Clearsign(t testing.TB, at time.Time, name string, text []byte, opts ...string) []byte {
	t.Helper()
	user := name
	if !strings.HasSuffix(name, "!") {
		user = User(name)
	}
	return g.Run(t, at, text, append(opts, "--local-user", user, "--clearsign")...)
}

// Revocation is the certificate that gpg has made along with the key of that
// fingerprint, to be imported.
func (g *GnuPG) Revocation(t testing.TB, fingerprint string) []byte {
	t.Helper()
	cert, err := os.ReadFile(filepath.Join(g.home, "openpgp-revocs.d", fingerprint+".rev"))
	if err != nil {
		t.Fatal(err)
	}
	// gpg guards it by a colon against a mistake.
	return bytes.Replace(cert, []byte(":-----BEGIN"), []byte("-----BEGIN"), 1)
}
