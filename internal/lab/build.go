package lab

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// builder makes a jail out of an unpacked tree, as an administrator makes it
// out of his host.
type builder struct {
	t    testing.TB
	jail *Jail
	c    jailConfig
	debs string
	tree string
}

// newJail prepares an empty one, whose processes end with the test.
func newJail(t testing.TB, debs string, c jailConfig) *builder {
	t.Helper()
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
	return &builder{t: t, jail: j, c: c, debs: debs, tree: Unpacked(t, debs)}
}

func (b *builder) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("cannot build a jail: %v", err)
	}
}

// skeleton makes what every jail has: folders, links, users, devices, the page.
func (b *builder) skeleton() error {
	if err := b.folders("", "usr", "usr/sbin", "usr/lib", "etc", "var", "var/log", "var/lib", "run", "dev", "srv", "srv/www"); err != nil {
		return err
	}
	if err := mkdir(b.path("tmp"), 0o1777); err != nil {
		return err
	}
	if b.c.merged {
		for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
			if err := mkdir(b.path("usr", d), 0o755); err != nil {
				return err
			}
			if err := os.Symlink("usr/"+d, b.path(d)); err != nil {
				return err
			}
		}
	}
	for name, text := range map[string]string{
		"etc/passwd":         "root:x:0:0:root:/root:/usr/sbin/nologin\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n",
		"etc/group":          "root:x:0:\nadm:x:4:\nwww-data:x:33:\n",
		"etc/hosts":          "127.0.0.1 localhost\n",
		"srv/www/index.html": Page,
	} {
		if err := b.write(name, text); err != nil {
			return err
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "urandom": 9} {
		p := b.path("dev", name)
		if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return fmt.Errorf("cannot make device %s: %w", p, err)
		}
		if err := os.Chmod(p, 0o666); err != nil {
			return err
		}
	}
	return nil
}

const serverPath = "/usr/sbin/nginx"

// nginx copies the server and writes its configuration.
func (b *builder) nginx() error {
	if err := b.folders("etc/nginx", "var/log/nginx", "var/lib/nginx"); err != nil {
		return err
	}
	if err := b.program(serverPath); err != nil {
		return err
	}
	if err := b.jail.copyIn(b.tree, "/etc/nginx/mime.types"); err != nil {
		return err
	}
	b.jail.Parts = append(b.jail.Parts, nginxPart())
	return b.write("etc/nginx/nginx.conf", b.fill(b.c.conf))
}

// fill replaces what configurations have as place holders.
func (b *builder) fill(text string) string {
	fastcgi := b.jail.FastCGI
	if strings.HasPrefix(fastcgi, "/") {
		fastcgi = "unix:" + fastcgi
	}
	return strings.NewReplacer("@PORT@", strconv.Itoa(b.jail.Port), "@FASTCGI@", fastcgi).Replace(text)
}

// finish does what the options ask of any jail.
func (b *builder) finish() error {
	for _, p := range b.c.also {
		if err := b.also(p); err != nil {
			return err
		}
	}
	if b.c.stray {
		return b.strayLibc()
	}
	return nil
}

func (b *builder) also(path string) error {
	src, err := inTree(b.tree, path)
	if err != nil {
		return err
	}
	fi, err := os.Stat(src)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return b.copyTree(path)
	}
	if text, err := os.ReadFile(src); err == nil && bytes.HasPrefix(text, []byte("\x7fELF")) {
		return b.program(path)
	}
	return b.jail.copyIn(b.tree, path)
}

func (b *builder) strayLibc() error {
	interp, err := interpreter(b.path(b.jail.Parts[0].Program))
	if err != nil {
		return err
	}
	libc, err := filepath.Glob(b.path("lib/*/libc.so.6"))
	if len(libc) == 0 && err == nil {
		libc, err = filepath.Glob(b.path("usr/lib/*/libc.so.6"))
	}
	if err != nil || len(libc) != 1 {
		return fmt.Errorf("%d libc.so.6 in the jail: %v", len(libc), err)
	}
	for _, p := range []string{libc[0], b.path(interp)} {
		if err := copyFile(p, b.path("lib", filepath.Base(p)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// program copies a program, what it will load later, and all libraries that
// ld.so lists for them; for an old libc also what it loads to look users up.
func (b *builder) program(exe string, later ...string) error {
	listed, err := loadedBy(b.tree, exe, later...)
	if err != nil {
		return err
	}
	files := append([]string{exe}, later...)
	for _, p := range listed {
		files = appendNew(files, p)
		// glibc before 2.34 has these outside of libc, whose file then has its
		// version in its name.
		if old, _ := filepath.Glob(filepath.Join(b.tree, filepath.Dir(p), "libc-2.*.so")); filepath.Base(p) == "libc.so.6" && len(old) > 0 {
			for _, n := range []string{"libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"} {
				files = appendNew(files, filepath.Join(filepath.Dir(p), n))
			}
		}
	}
	for _, p := range files {
		if _, err := os.Lstat(b.path(p)); err == nil {
			continue // by another program
		}
		if err := b.jail.copyIn(b.tree, p); err != nil {
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

// copyTree copies a folder with all below it, as cp -a does.
func (b *builder) copyTree(path string) error {
	root, err := inTree(b.tree, path)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dst := filepath.Join(b.path(path), strings.TrimPrefix(p, root))
		fi, err := e.Info()
		if err != nil {
			return err
		}
		switch {
		case e.IsDir():
			return mkdir(dst, uint32(fi.Mode().Perm()))
		case e.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return os.Symlink(to, dst)
		case e.Type().IsRegular():
			return copyFile(p, dst, fi.Mode().Perm())
		}
		return nil
	})
}

func (b *builder) path(elem ...string) string {
	return filepath.Join(append([]string{b.jail.Dir}, elem...)...)
}

func (b *builder) folders(names ...string) error {
	for _, n := range names {
		if err := mkdir(b.path(n), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(b.path(name), []byte(text), 0o644)
}

func (b *builder) link(target, name string) error {
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		return err
	}
	return os.Symlink(target, b.path(name))
}

// mkdir makes a folder whatever the umask, and takes one that is there.
func mkdir(dir string, mode uint32) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Chmod(dir, mode)
}
