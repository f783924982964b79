package lab

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Plain is the pair with its packages not compressed: the same control data, the
// same files with the same owners, modes and times. Unpacking it takes a tenth of
// the time, for tests that upgrade a thousand times. It is kept beside the pair.
func Plain(t testing.TB, p Pair) Pair { return plain(t, p, "-plain", nil) }

// Light is Plain without what an nginx never opens: documentation, character
// sets, locales, libraries that only other programs load. What is left is as it
// was, and a third in size: for tests that upgrade many thousand times.
func Light(t testing.TB, p Pair) Pair {
	sum := sha256.Sum256([]byte(unused.String())) // packages that were made with another list are others
	return plain(t, p, "-light-"+hex.EncodeToString(sum[:4]), unused.MatchString)
}

var unused = regexp.MustCompile(`^usr/share/(doc|man|lintian|locale|i18n|bug|doc-base)/.` +
	`|/(gconv|audit|engines-3|ossl-modules)/.` +
	`|/(libmvec|libthread_db|libc_malloc_debug|libnsl|libpcprofile|libmemusage|libBrokenLocale)[.-]`)

func plain(t testing.TB, p Pair, suffix string, without func(name string) bool) Pair {
	t.Helper()
	Need(t, "dpkg-deb")
	err := withLock("plain", func() error {
		for _, dir := range []*string{&p.Old, &p.New} {
			to := *dir + suffix
			if _, err := os.Stat(to); err != nil {
				if err := plainSet(*dir, to, without); err != nil {
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

func plainSet(from, to string, without func(name string) bool) error {
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
		if err := plainDeb(d, filepath.Join(tmp, filepath.Base(d)), without); err != nil {
			return err
		}
	}
	return os.Rename(tmp, to)
}

// plainDeb writes the members as dpkg-deb gives them out: byte for byte what was
// compressed, but for the files that it is to leave out (nil: none). The form is
// that of deb(5) and ar(5).
func plainDeb(from, to string, without func(name string) bool) error {
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
			if without != nil {
				if data, err = lighter(data, without); err != nil {
					return fmt.Errorf("cannot read %s: %w", filepath.Base(from), err)
				}
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

// lighter leaves entries out of a tar archive, and their lines out of its md5sums.
func lighter(data []byte, without func(name string) bool) ([]byte, error) {
	var out bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(data)), tar.NewWriter(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			err = w.Close()
			return out.Bytes(), err
		}
		if err != nil {
			return nil, err
		}
		if without(strings.TrimPrefix(h.Name, "./")) {
			continue
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if h.Name == "./md5sums" {
			var kept strings.Builder
			for line := range strings.Lines(string(body)) {
				if _, name, ok := strings.Cut(strings.TrimSpace(line), "  "); !ok || !without(name) {
					kept.WriteString(line)
				}
			}
			body = []byte(kept.String())
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(body); err != nil {
			return nil, err
		}
	}
}
