package lab

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

//go:embed testdata/fakenginx/main.go
var fakeSource []byte

// FakeNginx makes from a package of nginx one under a higher version, whose
// server is a stand-in that goes wrong in the ways named, each "NAME" or
// "NAME VALUE":
//
//	test-fails WHY, test-hangs   nginx -t
//	version-hangs                nginx -v
//	start-fails WHY              exit status 1, nothing runs
//	slow-start D                 D until the port is open
//	die-after D                  serves well, then all of it is gone
//	worker-dies-after D          the master and the open port stay
//	worker-is-root
//	silent                       connections are taken, never answered
//	slow-answer D
//	status N, body TEXT          for every path
//	no-listen, extra-listen A:P  not the ports that the configuration names
//	log TEXT                     ten times a second, level error
//	ignore-signals               all but SIGKILL
//
// With none it is a server that works. It reads listen, root and pid of the
// jail's nginx.conf and serves files. Returned is the new package's path.
func FakeNginx(t testing.TB, deb string, ways ...string) string {
	t.Helper()
	program := buildFake(t)
	return Repack(t, deb, func(dir string, c *Control) {
		c.Set("Version", c.Get("Version")+"+fake1")
		c.Set("Depends", commonRelation.ReplaceAllString(c.Get("Depends"), "nginx-common"))
		if err := copyFile(program, filepath.Join(dir, serverPath), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "usr/share/nginx"), 0o755); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(ways, "\n") + "\n"
		if err := os.WriteFile(filepath.Join(dir, "usr/share/nginx/fake"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

// buildFake compiles the stand-in, once for all tests of this user.
func buildFake(t testing.TB) string {
	t.Helper()
	Need(t, "go")
	sum := sha256.Sum256(fakeSource)
	out := filepath.Join(Cache(t), "fakenginx-"+hex.EncodeToString(sum[:8]))
	err := withLock("fakenginx", func() error {
		if _, err := os.Stat(out); err == nil {
			return nil
		}
		dir, err := os.MkdirTemp("", "fakenginx-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		src := filepath.Join(dir, "main.go")
		if err := os.WriteFile(src, fakeSource, 0o644); err != nil {
			return err
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "fake"), src)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		if err := copyFile(filepath.Join(dir, "fake"), out+".tmp", 0o755); err != nil {
			return err
		}
		return os.Rename(out+".tmp", out)
	})
	if err != nil {
		t.Fatalf("cannot build the stand-in for nginx: %v", err)
	}
	return out
}
