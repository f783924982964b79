package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/pkgs"
)

// debFile is a plain file that a repacked package holds besides its own.
type debFile struct {
	path string // absolute, clean
	data string
	conf bool // a conffile, as Debian Policy wants of everything in /etc
}

// repackDeb writes the package again under another version and with more files.
// All else of it stays as it is: relations, scripts, owners, modes and times. The
// format is deb(5): an ar archive of two tars.
func repackDeb(w io.Writer, deb *pkgs.Deb, version string, extra ...debFile) error {
	fail := func(err error) error {
		return fmt.Errorf("cannot repack %s: %w", deb.Control().Package, err)
	}
	control, err := debControl(deb, version, extra)
	if err != nil {
		return fail(err)
	}
	data, err := debData(deb, extra)
	if err != nil {
		return fail(err)
	}
	if _, err := io.WriteString(w, "!<arch>\n"); err != nil {
		return fail(err)
	}
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", control}, {"data.tar.gz", data}} {
		if err := arMember(w, m.name, m.data); err != nil {
			return fail(err)
		}
	}
	return nil
}

// arMember writes one member: a header of 60 bytes, and data of even length.
func arMember(w io.Writer, name string, data []byte) error {
	if _, err := fmt.Fprintf(w, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data)); err != nil {
		return err
	}
	if len(data)%2 == 1 {
		data = append(slices.Clip(data), '\n')
	}
	_, err := w.Write(data)
	return err
}

// tarball collects a compressed tar in memory.
type tarball struct {
	buf bytes.Buffer
	zip *gzip.Writer
	*tar.Writer
}

func newTarball() *tarball {
	t := &tarball{}
	// Written once and read a few times: time matters more than size.
	t.zip, _ = gzip.NewWriterLevel(&t.buf, gzip.BestSpeed) // the level is a valid one
	t.Writer = tar.NewWriter(t.zip)
	return t
}

func (t *tarball) file(name string, mode int64, data []byte) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)),
		Uname: "root", Gname: "root", ModTime: time.Unix(0, 0), Format: tar.FormatGNU}); err != nil {
		return err
	}
	_, err := t.Write(data)
	return err
}

func (t *tarball) end() ([]byte, error) {
	if err := t.Close(); err != nil {
		return nil, err
	}
	if err := t.zip.Close(); err != nil {
		return nil, err
	}
	return t.buf.Bytes(), nil
}

// debControl makes the control part: the version is replaced, conffiles are
// added. Sums of the files that were there stay true.
func debControl(deb *pkgs.Deb, version string, extra []debFile) ([]byte, error) {
	files := deb.ControlFiles()
	var text strings.Builder
	found := false
	for line := range strings.Lines(string(files["control"])) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Version") {
			found, line = true, "Version: "+version+"\n"
		}
		text.WriteString(line)
	}
	if !found {
		return nil, fmt.Errorf("its control file has no version")
	}
	files["control"] = []byte(text.String())
	conf := strings.TrimRight(string(files["conffiles"]), "\n")
	for _, f := range extra {
		if f.conf && !slices.Contains(deb.Conffiles(), f.path) {
			conf += "\n" + f.path
		}
	}
	if conf = strings.TrimLeft(conf, "\n"); conf != "" {
		files["conffiles"] = []byte(conf + "\n")
	}
	t := newTarball()
	for _, name := range sortedFiles(files) {
		mode := int64(0o644)
		if slices.Contains([]string{"preinst", "postinst", "prerm", "postrm", "config"}, name) {
			mode = 0o755
		}
		if err := t.file("./"+name, mode, files[name]); err != nil {
			return nil, err
		}
	}
	return t.end()
}

func sortedFiles(m map[string][]byte) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// debData copies the package's tree and adds the extra files at its end.
func debData(deb *pkgs.Deb, extra []debFile) ([]byte, error) {
	t := newTarball()
	there := map[string]bool{"/": true}
	err := deb.Files(func(e *pkgs.Entry, content io.Reader) error {
		if slices.ContainsFunc(extra, func(f debFile) bool { return f.path == e.Path }) {
			return nil // replaced
		}
		there[e.Path] = true
		h := tarHeader(e)
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(t, content)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, f := range extra {
		for _, dir := range parents(f.path) {
			if there[dir] {
				continue
			}
			there[dir] = true
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "." + dir + "/", Mode: 0o755,
				Uname: "root", Gname: "root", ModTime: time.Unix(0, 0), Format: tar.FormatGNU}); err != nil {
				return nil, err
			}
		}
		if err := t.file("."+f.path, 0o644, []byte(f.data)); err != nil {
			return nil, err
		}
	}
	return t.end()
}

// parents are the directories above an absolute path, the highest first.
func parents(p string) []string {
	var out []string
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		out = append(out, d)
	}
	slices.Reverse(out)
	return out
}

func tarHeader(e *pkgs.Entry) *tar.Header {
	h := &tar.Header{Name: "." + e.Path, Mode: int64(e.Mode), Uid: e.UID, Gid: e.GID, Uname: e.Uname, Gname: e.Gname,
		ModTime: time.Unix(0, e.MtimeNS), Format: tar.FormatGNU}
	switch e.Type {
	case pkgs.TypeDir:
		h.Typeflag = tar.TypeDir
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	case pkgs.TypeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case pkgs.TypeHardlink:
		h.Typeflag, h.Linkname = tar.TypeLink, "."+e.Link
	case pkgs.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	case pkgs.TypeChar, pkgs.TypeBlock:
		h.Typeflag = tar.TypeChar
		if e.Type == pkgs.TypeBlock {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(e.Rdev)), int64(unix.Minor(e.Rdev))
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	return h
}
