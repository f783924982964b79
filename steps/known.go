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
	"github.com/jailup/jailup/recipes"
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
	version map[string]string            // package → the version that was recognised

	all       []string
	baseIndex *source.Index
	noBase    bool
}

type fileID struct{ pkg, version string }

func newKnown(ctx context.Context, e *Env) *known {
	return &known{ctx: ctx, e: e, offered: map[string]map[string]fileID{}, files: map[fileID][]manifest.File{}, version: map[string]string{}}
}

// maxOthers bounds how many other versions of one package are looked into.
const maxOthers = 4

func (k *known) identify(canonical string, st *changeset.State) (pkg, version string, ok bool) {
	if st.SHA256 == "" {
		return "", "", false
	}
	if id, ok := k.onHost(canonical, st); ok {
		k.version[id.pkg] = id.version
		return id.pkg, id.version, true
	}
	for _, name := range k.candidates(canonical) {
		if id, ok := k.versions(name)[st.SHA256]; ok {
			k.version[id.pkg] = id.version
			return id.pkg, id.version, true
		}
	}
	return "", "", false
}

// candidates are the packages that may hold the path, today or before: those whose
// files are owned for the server's own, else the libraries.
func (k *known) candidates(canonical string) []string {
	var out []string
	for _, name := range k.names() {
		owned := slices.ContainsFunc(append(k.e.Recipe.Owns, k.e.next().Owns...), func(g string) bool {
			ok, err := filepath.Match(g, name)
			return err == nil && ok
		})
		library := strings.Contains(filepath.Base(canonical), ".so") && !strings.HasPrefix(canonical, "/usr/lib/php/") &&
			!strings.HasPrefix(canonical, "/usr/lib/nginx/") && !strings.HasPrefix(canonical, "/usr/lib/apache2/")
		if owned != library {
			out = append(out, name)
		}
	}
	if name := k.sibling(canonical); name != "" && !slices.Contains(out, name) {
		out = append(out, name)
	}
	return out
}

// sibling is the package of another way to run PHP whose file lies in Apache's
// folders as well, at a place that moves with the series; "" for no such file.
func (k *known) sibling(canonical string) string {
	dir, base := filepath.Split(canonical)
	name := strings.TrimSuffix(base, filepath.Ext(base))
	moves := slices.ContainsFunc(k.e.carriedPrefixes(), func(c fileset.Carried) bool {
		return c.Old != c.New && !strings.HasSuffix(c.Old, "/") && strings.HasPrefix(canonical, c.Old)
	})
	switch {
	case !moves:
		return ""
	case dir == "/etc/apache2/conf-available/":
		return name // php8.2-fpm.conf is of php8.2-fpm
	case dir == "/etc/apache2/mods-available/":
		return "libapache2-mod-" + name
	}
	return ""
}

// names are the packages of the target, and those of the series that the jail is
// in where that is another one.
func (k *known) names() []string {
	if k.all != nil {
		return k.all
	}
	add := func(name string) {
		if !slices.Contains(k.all, name) {
			k.all = append(k.all, name)
		}
	}
	for _, p := range k.e.target.Packages {
		add(p.Package)
	}
	for _, part := range k.e.Recipe.Parts() {
		if next, ok := k.e.next().Part(part.Name); !ok || next == part {
			continue
		}
		for _, p := range part.Packages {
			add(p)
		}
		present, _ := k.e.presentModules(false)
		for _, m := range append(present, presentModule{name: "cli"}, presentModule{name: "opcache"}, presentModule{name: "readline"}) {
			names := []string{m.name}
			for in, brings := range part.Modules.Within {
				if slices.Contains(brings, m.name) {
					names = append(names, in)
				}
			}
			for _, n := range names {
				for _, template := range part.Modules.Packages {
					add(strings.ReplaceAll(template, "{module}", n))
				}
			}
		}
	}
	return k.all
}

// others are the versions of a package that the sources offer beside the target's.
func (k *known) others(name string) []offer {
	chosen, _ := k.e.target.Get(name)
	var out []offer
	look := func(src source.Source, ix *source.Index) {
		n := 0
		for _, p := range ix.Versions(name) {
			seen := slices.ContainsFunc(out, func(o offer) bool { return o.SHA256 == p.SHA256 })
			if p.SHA256 != chosen.SHA256 && !seen && n < maxOthers {
				out = append(out, offer{p, src})
				n++
			}
		}
	}
	look(k.e.Source, k.e.index)
	if base := k.base(); base != nil {
		look(k.e.Base, base)
	}
	return out
}

type offer struct {
	source.Package
	from source.Source
}

func (o offer) fetch(ctx context.Context, do func(*pkgs.Deb) error) error {
	blobs, err := o.from.Fetch(ctx, []source.Package{o.Package}, nil)
	if err != nil {
		return err
	}
	return withDeb(o.Package, blobs[o.SHA256], do)
}

// base is the index of the release that the jail may be of; nil where there is no
// other one, or it cannot be had.
func (k *known) base() *source.Index {
	if k.e.Base == nil || k.noBase {
		return nil
	}
	if k.baseIndex == nil {
		ix, err := k.e.Base.Index(k.ctx)
		if err != nil {
			k.e.note(event.Info, fmt.Sprintf("the versions of this host's own release are not known: %v", err), "")
			k.noBase = true
			return nil
		}
		k.baseIndex = ix
	}
	return k.baseIndex
}

// versions digests the other versions of one package that the sources offer.
func (k *known) versions(name string) map[string]fileID {
	if m, ok := k.offered[name]; ok {
		return m
	}
	m := map[string]fileID{}
	k.offered[name] = m
	for _, o := range k.others(name) {
		if err := o.fetch(k.ctx, func(d *pkgs.Deb) error { return k.read(d, fileID{o.Package.Package, o.Version}, m) }); err != nil {
			k.e.note(event.Info, fmt.Sprintf("cannot look into %s: %v", o.Package, err), "")
		}
	}
	return m
}

// maxPristine bounds the text of one configuration file.
const maxPristine = 1 << 20

// pristine returns a configuration file as the old packages shipped it: of the
// version that the jail has, as far as that is known and still offered.
func (k *known) pristine(canonical string) ([]byte, bool) {
	names := k.candidates(canonical)
	rec, recorded := k.e.old.Index()[canonical]
	if recorded {
		names = []string{rec.Package}
	}
	for _, name := range names {
		version := k.version[name]
		if recorded {
			version = k.e.old.Packages[name]
		}
		for _, o := range k.others(name) {
			if o.Version != version {
				continue
			}
			if text := k.textIn(o, canonical); text != nil {
				return text, true
			}
		}
	}
	return nil, false
}

// textIn reads one file out of a package, also one that a maintainer script would
// have copied to the path.
func (k *known) textIn(o offer, canonical string) []byte {
	var out []byte
	err := o.fetch(k.ctx, func(d *pkgs.Deb) error {
		return d.Files(func(e *pkgs.Entry, content io.Reader) error {
			p := fileset.Canonical(e.Path)
			if e.Type != pkgs.TypeRegular || p != canonical && !k.copiedTo(p, canonical) {
				return nil
			}
			var err error
			out, err = io.ReadAll(io.LimitReader(content, maxPristine))
			return err
		})
	})
	if err != nil {
		return nil
	}
	return out
}

func (k *known) copiedTo(from, to string) bool {
	for _, c := range k.e.Recipe.Effects.Copy {
		if recipes.Match([]string{c.From}, from) && (c.To == to || strings.HasSuffix(c.To, "/") && c.To+filepath.Base(from) == to) {
			return true
		}
	}
	return false
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
	for _, pkg := range k.names() {
		for _, name := range []string{pkg, pkg + ":" + k.e.Arch} {
			f, err := os.Open(filepath.Join(hostInfo, name+".md5sums"))
			if err != nil {
				continue
			}
			sc := bufio.NewScanner(f)
			for sc.Scan() {
				sum, file, ok := strings.Cut(sc.Text(), "  ")
				if ok && len(sum) == 32 {
					out[fileset.Canonical(file)+" "+sum] = fileID{pkg, versions[pkg]}
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
