package steps

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/source"
	"golang.org/x/sys/unix"
)

// known recognises files by their digest: those of the other versions that the
// sources offer, and those of this host's own packages, which a jail made by
// hand was most likely copied from.
type known struct {
	ctx     context.Context
	e       *Env
	offered map[string]map[string]fileID // package → digest → what it is
	files   map[fileID][]manifest.File   // what these packages hold
	host    map[string]fileID            // canonical path and MD5 → what it is
}

type fileID struct{ pkg, version string }

func newKnown(ctx context.Context, e *Env) *known {
	return &known{ctx: ctx, e: e, offered: map[string]map[string]fileID{}, files: map[fileID][]manifest.File{}}
}

// maxOthers bounds how many other versions of one package are looked into.
const maxOthers = 4

func (k *known) identify(canonical string, st *changeset.State) (pkg, version string, ok bool) {
	if st.SHA256 == "" {
		return "", "", false
	}
	if id, ok := k.onHost(canonical, st); ok {
		return id.pkg, id.version, true
	}
	for _, name := range k.candidates(canonical) {
		if id, ok := k.versions(name)[st.SHA256]; ok {
			return id.pkg, id.version, true
		}
	}
	return "", "", false
}

// candidates are the target's packages that may hold the path: those whose
// files are owned for the server's own, else the libraries.
func (k *known) candidates(canonical string) []string {
	var out []string
	for _, p := range k.e.target.Packages {
		owned := slices.ContainsFunc(k.e.Recipe.Owns, func(g string) bool {
			ok, err := filepath.Match(g, p.Package)
			return err == nil && ok
		})
		library := strings.Contains(filepath.Base(canonical), ".so")
		if owned != library {
			out = append(out, p.Package)
		}
	}
	return out
}

// versions digests the other versions of one package that the sources offer.
func (k *known) versions(name string) map[string]fileID {
	if m, ok := k.offered[name]; ok {
		return m
	}
	m := map[string]fileID{}
	k.offered[name] = m
	chosen, _ := k.e.target.Get(name)
	var others []source.Package
	for _, p := range k.e.index.Versions(name) {
		if p.Version != chosen.Version && len(others) < maxOthers {
			others = append(others, p)
		}
	}
	for _, p := range others {
		blobs, err := k.e.Source.Fetch(k.ctx, []source.Package{p}, nil)
		if err == nil {
			err = withDeb(p, blobs[p.SHA256], func(d *pkgs.Deb) error {
				return k.read(d, fileID{p.Package, p.Version}, m)
			})
		}
		if err != nil {
			k.e.note(event.Info, fmt.Sprintf("cannot look into %s: %v", p, err), "")
		}
	}
	return m
}

// read digests one package.
func (k *known) read(d *pkgs.Deb, id fileID, byDigest map[string]fileID) error {
	conf := map[string]bool{}
	for _, c := range d.Conffiles() {
		conf[c] = true
	}
	return d.Files(func(e *pkgs.Entry, content io.Reader) error {
		f := manifest.File{Path: fileset.Canonical(e.Path), Package: id.pkg, Conf: conf[e.Path]}
		switch e.Type {
		case pkgs.TypeRegular:
			sum, err := hash(content)
			if err != nil {
				return err
			}
			byDigest[sum] = id
			f.Mode, f.SHA256 = unix.S_IFREG|e.Mode, sum
		case pkgs.TypeSymlink:
			f.Mode, f.Link = unix.S_IFLNK|0o777, e.Link
		default:
			return nil
		}
		k.files[id] = append(k.files[id], f)
		return nil
	})
}

// shipped lists what one version of a package held, where the sources still
// offer it.
func (k *known) shipped(pkg, version string) []manifest.File {
	return k.files[fileID{pkg, version}]
}

const (
	hostStatus = "/var/lib/dpkg/status"
	hostInfo   = "/var/lib/dpkg/info"
)

// onHost compares with the digests that this host's dpkg keeps of its packages
// (MD5; for recognition only, nothing is trusted because of it).
func (k *known) onHost(canonical string, st *changeset.State) (fileID, bool) {
	if k.host == nil {
		k.host = k.readHost()
	}
	if len(k.host) == 0 {
		return fileID{}, false
	}
	sum, err := k.md5(canonical, st)
	if err != nil {
		return fileID{}, false
	}
	id, ok := k.host[canonical+" "+sum]
	return id, ok
}

func (k *known) md5(canonical string, st *changeset.State) (string, error) {
	layout := fileset.NewLayout(k.e.Root)
	for _, p := range layout.Existing(canonical) {
		f, err := k.e.Root.OpenFile(p)
		if err != nil {
			continue
		}
		h := md5.New()
		_, err = io.Copy(h, io.LimitReader(f, st.Size))
		f.Close()
		if err == nil {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
	}
	return "", jail.ErrNotRegular
}

func (k *known) readHost() map[string]fileID {
	out := map[string]fileID{}
	versions := hostVersions()
	for _, p := range k.e.target.Packages {
		for _, name := range []string{p.Package, p.Package + ":" + k.e.Arch} {
			f, err := os.Open(filepath.Join(hostInfo, name+".md5sums"))
			if err != nil {
				continue
			}
			sc := bufio.NewScanner(f)
			for sc.Scan() {
				sum, file, ok := strings.Cut(sc.Text(), "  ")
				if ok && len(sum) == 32 {
					out[fileset.Canonical(file)+" "+sum] = fileID{p.Package, versions[p.Package]}
				}
			}
			f.Close()
		}
	}
	return out
}

func hostVersions() map[string]string {
	out := map[string]string{}
	f, err := os.Open(hostStatus)
	if err != nil {
		return out
	}
	defer f.Close()
	_ = pkgs.ReadParagraphs(f, pkgs.Limits{}, func(p pkgs.Paragraph) error {
		if strings.HasSuffix(p.Get("Status"), " installed") {
			out[p.Get("Package")] = p.Get("Version")
		}
		return nil
	})
	return out
}
