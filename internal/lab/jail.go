package lab

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Jail is a chroot jail with an nginx in it, built without jailup.
type Jail struct {
	Dir  string // of the host; the root that the server sees
	Port int    // of 127.0.0.1
	URL  string // http://127.0.0.1:PORT
}

// Page is what a jail of HandMadeJail serves at "/".
const Page = "<!doctype html><title>jail</title><p>served from the jail\n"

type jailConfig struct {
	merged, shm bool
	conf, dir   string
	port        int
}

// JailOption changes how HandMadeJail builds.
type JailOption func(*jailConfig)

// Merged gives the jail links lib, lib64, bin, sbin into usr, as a usr-merged
// system has; without it they are folders, as mkdir makes them.
func Merged() JailOption { return func(c *jailConfig) { c.merged = true } }

// WithConf sets the whole text of /etc/nginx/nginx.conf. In it, @PORT@ stands
// for the jail's port.
func WithConf(text string) JailOption { return func(c *jailConfig) { c.conf = text } }

// InDir builds the jail as that folder, which must be empty or not be there,
// and leaves it there at the end: it is the caller's. Its processes end.
func InDir(dir string) JailOption { return func(c *jailConfig) { c.dir = dir } }

// InMemory builds the jail below /dev/shm, in a folder that goes with the
// test: much faster than many a disk.
func InMemory() JailOption { return func(c *jailConfig) { c.shm = true } }

// Port sets the port; without it, it is a free one.
func Port(n int) JailOption { return func(c *jailConfig) { c.port = n } }

const minimalConf = `# written by hand
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
    }
}
`

// HandMadeJail builds a jail the way the usual tutorial does: the nginx binary
// copied, each library that ld.so lists copied to the very path it is listed
// under, a minimal configuration, users, devices, folders, one page. The files
// come from a folder of packages (see NginxPair), the database of packages
// does not. Needs root; every process in the jail is killed at the end.
func HandMadeJail(t testing.TB, debs string, opts ...JailOption) *Jail {
	t.Helper()
	Need(t, "root", "dpkg-deb")
	var c jailConfig
	for _, o := range opts {
		o(&c)
	}
	j := &Jail{Dir: c.dir, Port: c.port}
	switch {
	case j.Dir != "":
	case c.shm:
		j.Dir = filepath.Join(ShmDir(t), "jail")
	default:
		// Not the test's folder itself: what is staged beside a jail must be
		// the test's as well.
		j.Dir = filepath.Join(t.TempDir(), "jail")
		openParents(t, j.Dir)
	}
	if j.Port == 0 {
		j.Port = FreePort(t)
	}
	j.URL = "http://127.0.0.1:" + strconv.Itoa(j.Port)
	t.Cleanup(func() { j.end(t) })
	if c.conf == "" {
		c.conf = minimalConf
	}
	tree := Unpacked(t, debs)
	if err := j.build(tree, c.merged, strings.ReplaceAll(c.conf, "@PORT@", strconv.Itoa(j.Port))); err != nil {
		t.Fatalf("cannot build a jail: %v", err)
	}
	return j
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
	for _, first := range []bool{true, false} {
		for _, d := range debs {
			if (debName(d) == "base-files") != first {
				continue
			}
			if out, err := exec.Command("dpkg-deb", "-x", d, dir).CombinedOutput(); err != nil {
				return fmt.Errorf("cannot unpack %s: %w: %s", filepath.Base(d), err, tail(string(out)))
			}
		}
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

const serverPath = "/usr/sbin/nginx"

func (j *Jail) build(tree string, merged bool, conf string) error {
	for _, d := range []string{"", "usr", "usr/sbin", "usr/lib", "etc", "etc/nginx", "var", "var/log", "var/log/nginx",
		"var/lib", "var/lib/nginx", "run", "dev", "srv", "srv/www"} {
		if err := mkdir(filepath.Join(j.Dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := mkdir(filepath.Join(j.Dir, "tmp"), 0o1777); err != nil {
		return err
	}
	if merged {
		for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
			if err := mkdir(filepath.Join(j.Dir, "usr", d), 0o755); err != nil {
				return err
			}
			if err := os.Symlink("usr/"+d, filepath.Join(j.Dir, d)); err != nil {
				return err
			}
		}
	}
	libs, err := loadedBy(tree, serverPath)
	if err != nil {
		return err
	}
	for _, p := range append(libs, serverPath) {
		if err := j.copyIn(tree, p); err != nil {
			return err
		}
	}
	if err := j.copyIn(tree, "/etc/nginx/mime.types"); err != nil {
		return err
	}
	files := map[string]string{
		"etc/nginx/nginx.conf": conf,
		"etc/passwd":           "root:x:0:0:root:/root:/usr/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n",
		"etc/group":            "root:x:0:\nadm:x:4:\nwww-data:x:33:\n",
		"etc/hosts":            "127.0.0.1 localhost\n",
		"srv/www/index.html":   Page,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(j.Dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "urandom": 9} {
		p := filepath.Join(j.Dir, "dev", name)
		if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return fmt.Errorf("cannot make device %s: %w", p, err)
		}
		if err := os.Chmod(p, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// copyIn copies what a path leads to in the tree to that path in the jail.
func (j *Jail) copyIn(tree, path string) error {
	src, err := inTree(tree, path)
	if err != nil {
		return err
	}
	fi, err := os.Stat(src)
	if err != nil {
		return err
	}
	dst := filepath.Join(j.Dir, path)
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	return copyFile(src, dst, fi.Mode().Perm())
}

// inTree follows links as a process in the tree would, an absolute one from the
// tree's root.
func inTree(tree, path string) (string, error) {
	fd, err := unix.Open(tree, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	f, err := unix.Openat2(fd, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", fmt.Errorf("cannot find %s in the unpacked packages: %w", path, err)
	}
	defer unix.Close(f)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(f))
}

// ldsoLine is one library of ld.so's list: "name => /path (0x...)" or, for the
// interpreter itself, "/path (0x...)".
var ldsoLine = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$`)

// loadedBy lists the interpreter of a program of the tree and the libraries
// that the tree's own interpreter would load for it.
func loadedBy(tree, program string) ([]string, error) {
	file, err := inTree(tree, program)
	if err != nil {
		return nil, err
	}
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var interp string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return nil, err
			}
			interp = strings.TrimRight(string(b), "\x00")
		}
	}
	if interp == "" {
		return nil, nil // a static program
	}
	cmd := exec.Command(interp, "--list", program)
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: tree}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cannot list the libraries of %s: %w: %s", program, err, tail(string(out)))
	}
	libs := []string{interp}
	for _, m := range ldsoLine.FindAllStringSubmatch(string(out), -1) {
		libs = appendNew(libs, m[1])
	}
	return libs, nil
}

// mkdir makes a folder whatever the umask, and takes one that is there.
func mkdir(dir string, mode uint32) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Chmod(dir, mode)
}
