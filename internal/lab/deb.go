package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Control is the control file of a package, its fields in their order.
type Control struct {
	order  []string
	fields map[string]string // continuation lines included, with their newlines
}

// Get returns a field's value, or "" where there is none.
func (c *Control) Get(name string) string { return c.fields[name] }

// Set changes a field or adds it; an empty value removes it.
func (c *Control) Set(name, value string) {
	if _, ok := c.fields[name]; !ok {
		c.order = append(c.order, name)
	}
	c.fields[name] = value
	if value == "" {
		delete(c.fields, name)
		c.order = slices.DeleteFunc(c.order, func(s string) bool { return s == name })
	}
}

func (c *Control) String() string {
	var b strings.Builder
	for _, name := range c.order {
		fmt.Fprintf(&b, "%s: %s\n", name, c.fields[name])
	}
	return b.String()
}

func parseControl(text string) *Control {
	c := &Control{fields: map[string]string{}}
	last := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		k, v, ok := strings.Cut(line, ":")
		switch {
		case line == "":
		case (line[0] == ' ' || line[0] == '\t') && last != "":
			c.fields[last] += "\n" + line
		case ok:
			last = k
			if _, twice := c.fields[k]; !twice {
				c.order = append(c.order, k)
			}
			c.fields[k] = strings.TrimSpace(v)
		}
	}
	return c
}

func controlOf(deb string) (*Control, error) {
	out, err := exec.Command("dpkg-deb", "-f", deb).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Base(deb), err)
	}
	return parseControl(string(out)), nil
}

// Repack unpacks a package into a folder in memory, lets change alter its
// files (dir is the root of the package) and its control fields, and packs it
// again beside it. It returns the path of the new package. The owner of all
// files in it is root, whoever runs the test.
func Repack(t testing.TB, deb string, change func(dir string, control *Control)) string {
	t.Helper()
	Need(t, "dpkg-deb")
	out, err := repack(deb, ShmDir(t), func(dir string, c *Control) error {
		if change != nil {
			change(dir, c)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("cannot repack %s: %v", filepath.Base(deb), err)
	}
	return out
}

// repack writes NAME_VERSION_ARCH.deb into the folder to.
func repack(deb, to string, change func(dir string, control *Control) error) (string, error) {
	work, err := os.MkdirTemp(to, "repack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	dir := filepath.Join(work, "root")
	if out, err := exec.Command("dpkg-deb", "-R", deb, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("dpkg-deb -R: %w: %s", err, tail(string(out)))
	}
	file := filepath.Join(dir, "DEBIAN", "control")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	c := parseControl(string(text))
	if err := change(dir, c); err != nil {
		return "", err
	}
	if err := os.WriteFile(file, []byte(c.String()), 0o644); err != nil {
		return "", err
	}
	_, bare, epoch := strings.Cut(c.Get("Version"), ":")
	if !epoch {
		bare = c.Get("Version")
	}
	dst := filepath.Join(to, c.Get("Package")+"_"+bare+"_"+c.Get("Architecture")+".deb")
	// -z1: these packages are read a few times and then thrown away.
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "-b", dir, dst).CombinedOutput(); err != nil {
		return "", fmt.Errorf("dpkg-deb -b: %w: %s", err, tail(string(out)))
	}
	return dst, nil
}

// FindDeb is the path of the one .deb in dir that holds the named package.
func FindDeb(t testing.TB, dir, name string) string {
	t.Helper()
	p, err := findDeb(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func findDeb(dir, name string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d packages %s in %s, want one", len(found), name, dir)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// ReplaceDebs makes a copy of a folder of packages in which those given take
// the place of the ones with the same name. The rest are hard links or copies.
func ReplaceDebs(t testing.TB, dir string, debs ...string) string {
	t.Helper()
	to := t.TempDir()
	if err := replaceDebs(dir, to, debs...); err != nil {
		t.Fatalf("cannot copy a folder of packages: %v", err)
	}
	return to
}

func replaceDebs(dir, to string, debs ...string) error {
	all, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, d := range debs {
		taken[debName(d)] = true
	}
	for _, d := range all {
		if !taken[debName(d)] {
			debs = append(debs, d)
		}
	}
	for _, d := range debs {
		dst := filepath.Join(to, filepath.Base(d))
		if d == dst {
			continue
		}
		if err := linkOrCopy(d, dst); err != nil {
			return err
		}
	}
	return nil
}

func linkOrCopy(src, dst string) error {
	if os.Link(src, dst) == nil {
		return nil
	}
	return copyFile(src, dst, 0o644)
}

func debName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), "_")
	return name
}

// bumpSet copies a set with nginx and nginx-common under a higher version, and
// with a binary that says so.
func bumpSet(old, to string) (string, error) {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", err
	}
	var version, from string
	bump := func(dir string, c *Control) error {
		from = c.Get("Version")
		version = from + "+jailup1"
		c.Set("Version", version)
		if c.Get("Package") != "nginx" {
			return nil
		}
		c.Set("Depends", commonRelation.ReplaceAllStringFunc(c.Get("Depends"), func(string) string {
			return "nginx-common (= " + version + ")"
		}))
		return bumpBinary(filepath.Join(dir, "usr/sbin/nginx"))
	}
	var debs []string
	for _, name := range []string{"nginx-common", "nginx"} {
		src, err := findDeb(old, name)
		if err != nil {
			return "", err
		}
		deb, err := repack(src, to, bump)
		if err != nil {
			return "", err
		}
		debs = append(debs, deb)
	}
	return version, replaceDebs(old, to, debs...)
}

var (
	commonRelation = regexp.MustCompile(`nginx-common \([^)]*\)`)
	serverVersion  = regexp.MustCompile(`nginx/[0-9]+\.[0-9]+\.[0-9]+`)
)

// bumpBinary changes the version that the server reports, at the same length.
func bumpBinary(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	n := 0
	b = serverVersion.ReplaceAllFunc(b, func(v []byte) []byte {
		n++
		return []byte(bumpDigits(string(v)))
	})
	if n == 0 {
		return errors.New("no version string in " + filepath.Base(path))
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, fi.Mode().Perm())
}
