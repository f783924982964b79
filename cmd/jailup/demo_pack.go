package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/internal/sys"
)

// difference is a file that makes one, and no other.
func (d *demo) difference(text string) debFile { return difference(d.server(), text) }

func difference(pkg, text string) debFile {
	return debFile{path: "/usr/share/" + pkg + "/jailup-demo.txt", data: text + "\n"}
}

// repack makes a folder of packages: all that the newest version needs, and one of
// them under a higher version, with a file more. No other may need that one in
// exactly its own version.
func (d *demo) repack(ctx context.Context, name string, extra ...debFile) (dir, version string, err error) {
	p, ok := d.cast.target.Get(name)
	if !ok {
		return "", "", fmt.Errorf("cannot repack %s: it is not among the packages", name)
	}
	d.repacked++
	version = fmt.Sprintf("%s+demo%d", p.Version, d.repacked)
	dir, err = d.folder(ctx, fmt.Sprintf("packages-%d", d.repacked), d.cast.target.Packages)
	if err != nil {
		return "", "", err
	}
	return dir, version, d.repackIn(dir, p, version, extra)
}

// folder makes a folder of packages, as they are.
func (d *demo) folder(ctx context.Context, name string, list []source.Package) (string, error) {
	var missing []source.Package
	for _, p := range list {
		if d.packed[p.SHA256] == "" {
			missing = append(missing, p)
		}
	}
	blobs, err := d.cast.source.Fetch(ctx, missing, nil)
	if err != nil {
		return "", fmt.Errorf("cannot fetch the packages: %w", err)
	}
	dir := filepath.Join(d.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make a folder of packages: %w", err)
	}
	for _, p := range list {
		file := debIn(dir, p.Package)
		if have := d.packed[p.SHA256]; have != "" {
			if err := sys.Linkat(unix.AT_FDCWD, have, unix.AT_FDCWD, file, 0); err != nil {
				return "", fmt.Errorf("cannot make a folder of packages: %w", err)
			}
			continue
		}
		blob, ok := blobs[p.SHA256]
		if !ok {
			return "", fmt.Errorf("cannot make a folder of packages: %s was not fetched", p)
		}
		if err := writeDeb(file, blob.Open, func(w io.Writer, in *os.File) error {
			_, err := io.Copy(w, in)
			return err
		}); err != nil {
			return "", err
		}
		d.packed[p.SHA256] = file
	}
	return dir, nil
}

func debIn(dir, name string) string { return filepath.Join(dir, name+".deb") }

// repackIn gives one package of a folder another version. Its file may be that of
// other folders as well: it is a new one then.
func (d *demo) repackIn(dir string, p source.Package, version string, extra []debFile) error {
	file := debIn(dir, p.Package)
	if d.packed[p.SHA256] == file {
		delete(d.packed, p.SHA256) // it will be another one
	}
	if err := writeDeb(file+".new", func() (*os.File, error) { return os.Open(file) }, func(w io.Writer, in *os.File) error {
		st, err := in.Stat()
		if err != nil {
			return err
		}
		deb, err := pkgs.OpenDeb(in, st.Size(), pkgs.Limits{})
		if err != nil {
			return err
		}
		return repackDeb(w, deb, version, extra...)
	}); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func writeDeb(name string, open func() (*os.File, error), write func(w io.Writer, in *os.File) error) error {
	in, err := open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write a package: %w", err)
	}
	return errors.Join(write(out, in), out.Close())
}
