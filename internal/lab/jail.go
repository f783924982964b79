package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Jail is a chroot jail with servers in it, built without jailup.
type Jail struct {
	Dir   string // of the host; the root that the server sees
	Port  int    // of 127.0.0.1
	URL   string // http://127.0.0.1:PORT
	Parts []Part // its servers, in the order in which they are started; the last one answers at URL

	Series  string // of its PHP ("8.2"), or ""
	API     string // of its PHP ("20220829"), the name of the folder of extensions, or ""
	FastCGI string // where its php-fpm listens: "/run/php/php8.2-fpm.sock", "127.0.0.1:9000", or ""
	Host    string // ChrootDirJail: the folder with what stays outside of the jail; else ""
}

// Page is what every jail serves at "/".
const Page = "<!doctype html><title>jail</title><p>served from the jail\n"

// minimalConf is a whole configuration of nginx: siteHead, more locations where a
// jail has them, siteEnd.
const (
	minimalConf = siteHead + siteEnd
	siteHead    = `# written by hand
user www-data;
worker_processes 2;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log notice;
events { worker_connections 64; }
http {
    include /etc/nginx/mime.types;
    access_log /var/log/nginx/access.log;
    keepalive_timeout 5;
    server {
        listen 127.0.0.1:@PORT@;
        server_name localhost;
        root /srv/www;
        location / { index index.html; }
`
	siteEnd = `    }
}
`
)

// HandMadeJail builds a jail the way the usual tutorial does: the nginx binary
// copied, each library that ld.so lists copied to the very path it is listed
// under, a minimal configuration, users, devices, folders, one page. The files
// come from a folder of packages (see NginxPair), the database of packages
// does not. Needs root; every process in the jail is killed at the end.
func HandMadeJail(t testing.TB, debs string, opts ...JailOption) *Jail {
	t.Helper()
	Need(t, "root", "dpkg-deb")
	c := config(opts)
	if c.conf == "" {
		c.conf = minimalConf
	}
	b := newJail(t, debs, c)
	b.must(b.skeleton())
	b.must(b.nginx())
	b.must(b.finish())
	return b.jail
}

// ShmDir is a folder in memory that goes with the test.
func ShmDir(t testing.TB) string {
	t.Helper()
	base := shmBase()
	if base == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(base, "jailup-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cannot remove the test's folder in memory: %v", err)
		}
	})
	return dir
}

func isTmpfs(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && unix.Access(dir, unix.W_OK) == nil
}

// openParents lets the server's workers, who are not root, reach a jail below
// the test's folder. Chrooted as they are they never look above their root, but
// a server that is not chrooted yet does.
func openParents(t testing.TB, dir string) {
	for d := filepath.Dir(dir); len(d) > len(os.TempDir()) && strings.HasPrefix(d, os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Logf("cannot open %s: %v", d, err)
			return
		}
	}
}

// Unpacked is the tree that a folder of packages makes when unpacked with no
// maintainer script run. It is shared between tests where the packages are
// those of NginxPair: read only.
func Unpacked(t testing.TB, debs string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no packages in %s", debs)
	}
	cache := Cache(t)
	if os.Geteuid() != 0 || !strings.HasPrefix(debs, cache+"/") {
		dir := filepath.Join(ShmDir(t), "tree")
		if err := unpackAll(all, dir); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	// Beside the folder, which holds packages alone, and below the set, so that
	// it goes when the set does.
	h := sha256.New()
	for _, d := range all {
		if fi, err := os.Stat(d); err == nil {
			fmt.Fprintln(h, d, fi.Size(), fi.ModTime().UnixNano())
		}
	}
	dir := filepath.Join(filepath.Dir(debs), "tree-"+hex.EncodeToString(h.Sum(nil))[:16])
	err = withLock("tree", func() error {
		if _, err := os.Stat(dir); err == nil {
			return nil
		}
		tmp := dir + ".tmp"
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		if err := unpackAll(all, tmp); err != nil {
			return err
		}
		return os.Rename(tmp, dir)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// unpackAll unpacks base-files first where it is there: on a release that has
// no other layout it brings the links lib -> usr/lib, and on all others folders.
func unpackAll(debs []string, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	rest := slices.Clone(debs)
	if i := slices.IndexFunc(rest, func(d string) bool { return debName(d) == "base-files" }); i >= 0 {
		if err := unpack(rest[i], dir); err != nil {
			return err
		}
		rest = slices.Delete(rest, i, i+1)
	}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for _, d := range rest {
		g.Go(func() error { return unpack(d, dir) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if _, err := os.Stat(filepath.Join(dir, "usr", d)); err != nil {
			continue
		}
		if err := os.Symlink("usr/"+d, filepath.Join(dir, d)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

func unpack(deb, dir string) error {
	if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot unpack %s: %w: %s", filepath.Base(deb), err, tail(string(out)))
	}
	return nil
}
