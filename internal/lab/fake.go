package lab

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
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
//	less-listen A:P              all of them but one
//	deaf A:P                     there connections are taken, never answered
//	squat                        another program holds the ports
//	log TEXT                     ten times a second, level error
//	log-level LEVEL              of those lines
//	ignore-signals               all but SIGKILL
//	loops D                      the master dies and is followed by another
//	worker-crashes D             again and again, and is replaced
//	worker-escapes               out of the jail
//	bad-after D, good-first N    502 from then on
//	one-in N                     of the answers is 502
//	only-agent TEXT              all other User-Agents get 502
//	lost-host NAME               404 for it
//	resets N                     of 100 connections
//	cut-off, empty, garbage      instead of a whole answer
//	removes PATH, spoils PATH    when the master starts; a directory takes its place
//	writes PATH                  a file, when the master starts
//
// Where the configuration says "ssl" it has a certificate of its own.
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
		// A jail that was made by hand holds the program alone: it says the same.
		f, err := os.OpenFile(filepath.Join(dir, serverPath), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("\x00fake ways:\n" + text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
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
