package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Plain is the pair with its packages not compressed: the same control data, the
// same files with the same owners, modes and times. Unpacking it takes a tenth of
// the time, for tests that upgrade a thousand times. It is kept beside the pair.
func Plain(t testing.TB, p Pair) Pair {
	t.Helper()
	Need(t, "dpkg-deb")
	err := withLock("plain", func() error {
		for _, dir := range []*string{&p.Old, &p.New} {
			to := *dir + "-plain"
			if _, err := os.Stat(to); err != nil {
				if err := plainSet(*dir, to); err != nil {
					return err
				}
			}
			*dir = to
		}
		return nil
	})
	if err != nil {
		t.Fatalf("cannot make packages that are not compressed: %v", err)
	}
	return p
}

func plainSet(from, to string) error {
	all, err := filepath.Glob(filepath.Join(from, "*.deb"))
	if err != nil {
		return err
	}
	tmp := to + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	for _, d := range all {
		if err := plainDeb(d, filepath.Join(tmp, filepath.Base(d))); err != nil {
			return err
		}
	}
	return os.Rename(tmp, to)
}

// plainDeb writes the members as dpkg-deb gives them out: byte for byte what was
// compressed. The form is that of deb(5) and ar(5).
func plainDeb(from, to string) error {
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range []struct{ name, how string }{{"debian-binary", ""}, {"control.tar", "--ctrl-tarfile"}, {"data.tar", "--fsys-tarfile"}} {
		data := []byte("2.0\n")
		if m.how != "" {
			cmd := exec.Command("dpkg-deb", m.how, from)
			var err error
			if data, err = cmd.Output(); err != nil {
				return fmt.Errorf("cannot read %s: %w", filepath.Base(from), err)
			}
		}
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(data))
		out.Write(data)
		if len(data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}
