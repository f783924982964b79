package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/steps"
)

// cast are the versions that play in the demo.
type cast struct {
	old, new string   // of the server's package
	create   []string // flags of the jail's creation
	upgrade  []string // flags of its upgrade
	source   source.Source
	target   *source.Target // the newest that the sources offer, and what it needs
	how      string         // where the older one comes from
	suite    string         // the earlier one that it comes from, "" for none
}

// earlierSuites are the releases of the archives before a given one, the latest
// first: a table, because no archive tells what came before.
func earlierSuites(codename string) []string {
	for _, archive := range [][]string{
		{"bullseye", "bookworm", "trixie", "forky", "sid"},
		{"focal", "jammy", "noble", "questing", "resolute"},
	} {
		if i := slices.Index(archive, codename); i >= 0 {
			before := slices.Clone(archive[:i])
			slices.Reverse(before)
			return before
		}
	}
	return nil
}

// casting looks for two versions of the server.
func (d *demo) casting(ctx context.Context) error {
	e, err := d.open(*d.s.set.Suite)
	if err != nil {
		return err
	}
	ix, err := e.Index(ctx)
	if err != nil {
		return &steps.Error{Err: fmt.Errorf("cannot read the package index: %w", err),
			Hint: "look at the network, at http_proxy and at the sources of apt, or give --source dir:FOLDER"}
	}
	target, err := d.resolve(ix, "")
	if err != nil {
		return err
	}
	newest, _ := target.Get(d.server())
	d.cast = cast{new: newest.Version, source: e, target: target, upgrade: d.sourceFlags(*d.s.set.Suite)}
	d.say.fact("source:", "%s", newest.Origin)
	if err := d.older(ctx, ix, newest); err != nil {
		return err
	}
	d.say.fact("older:", "%s %s, %s", d.server(), d.cast.old, d.cast.how)
	d.say.fact("newest:", "%s %s, of %d packages", d.server(), d.cast.new, len(target.Packages))
	return nil
}

// older decides which version the jail begins with: an older one of the index,
// else that of an earlier suite of the archive, else the newest itself, which is
// then upgraded to its own content under a higher version.
func (d *demo) older(ctx context.Context, ix *source.Index, newest source.Package) error {
	versions := ix.Versions(d.server())
	slices.SortStableFunc(versions, func(a, b source.Package) int {
		c, _ := pkgs.CompareVersions(a.Version, b.Version) // an index holds valid ones only
		return c
	})
	for _, v := range versions {
		if c, err := pkgs.CompareVersions(v.Version, newest.Version); err != nil || c >= 0 {
			continue
		}
		if _, err := d.resolve(ix, v.Version); err == nil {
			d.cast.old, d.cast.how = v.Version, "the oldest that the index offers"
			d.cast.create = append(d.sourceFlags(*d.s.set.Suite), "--version", v.Version)
			return nil
		}
	}
	if *d.s.set.Source == "apt" {
		for _, suite := range earlierSuites(newest.Codename) {
			v, err := d.inSuite(ctx, suite)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				continue // no longer there, or no key of it on this host
			}
			if c, err := pkgs.CompareVersions(v, newest.Version); err != nil || c >= 0 {
				continue
			}
			d.cast.old, d.cast.how = v, "of the earlier suite "+suite+", for the index offers one version only"
			d.cast.create, d.cast.suite = d.sourceFlags(suite), suite
			return nil
		}
	}
	return d.same(ctx, newest.Version)
}

// same has the newest version play both: as it is, and repacked.
func (d *demo) same(ctx context.Context, version string) error {
	d.cast.old, d.cast.create, d.cast.suite = version, d.cast.upgrade, ""
	d.cast.how = "the only one that the sources offer; the newer one is the same, repacked under a higher version"
	dir, version, err := d.repack(ctx, difference("a newer version"))
	if err != nil {
		return err
	}
	d.cast.new, d.cast.upgrade = version, []string{"--source", "dir:" + dir}
	return nil
}

// difference is a file that makes one, and no other.
func difference(text string) debFile {
	return debFile{path: "/usr/share/nginx/jailup-demo.txt", data: text + "\n"}
}

// inSuite is the version that another suite offers.
func (d *demo) inSuite(ctx context.Context, suite string) (string, error) {
	src, err := d.open(suite)
	if err != nil {
		return "", err
	}
	ix, err := src.Index(ctx)
	if err != nil {
		return "", err
	}
	t, err := d.resolve(ix, "")
	if err != nil {
		return "", err
	}
	p, _ := t.Get(d.server())
	return p.Version, nil
}

func (d *demo) server() string { return d.s.recipe.Server() }

// open opens the sources that the user means, or another suite of them.
func (d *demo) open(suite string) (source.Source, error) {
	s := *d.s
	s.set.Suite = &suite
	var e steps.Env
	if err := s.openSource(&e); err != nil {
		return nil, err
	}
	return e.Source, nil
}

func (d *demo) sourceFlags(suite string) []string {
	out := []string{"--source", *d.s.set.Source}
	for _, f := range *d.s.set.AptSources {
		out = append(out, "--apt-sources", f)
	}
	if k := *d.s.set.Keyring; k != "" {
		out = append(out, "--keyring", k)
	}
	if suite != "" {
		out = append(out, "--suite", suite)
	}
	return out
}

func (d *demo) resolve(ix *source.Index, version string) (*source.Target, error) {
	t, err := source.Resolve(ix, source.Request{Roots: steps.Wants(d.s.recipe, "", version, true), Without: d.s.recipe.Without})
	if err != nil {
		return nil, err
	}
	if _, ok := t.Get(d.server()); !ok {
		return nil, fmt.Errorf("cannot resolve %s: the sources offer no such package", d.server())
	}
	return t, nil
}

// repack makes a folder of packages: all that the newest version needs, and the
// server's own package under a higher version, with a file more.
func (d *demo) repack(ctx context.Context, extra ...debFile) (dir, version string, err error) {
	blobs, err := d.cast.source.Fetch(ctx, d.cast.target.Packages, nil)
	if err != nil {
		return "", "", fmt.Errorf("cannot fetch the packages: %w", err)
	}
	d.repacked++
	newest, _ := d.cast.target.Get(d.server())
	version = fmt.Sprintf("%s+demo%d", newest.Version, d.repacked)
	dir = filepath.Join(d.dir, fmt.Sprintf("packages-%d", d.repacked))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("cannot repack %s: %w", d.server(), err)
	}
	for _, p := range d.cast.target.Packages {
		blob, ok := blobs[p.SHA256]
		if !ok {
			return "", "", fmt.Errorf("cannot repack %s: %s was not fetched", d.server(), p)
		}
		if err := writeDeb(filepath.Join(dir, p.Package+".deb"), blob, func(w io.Writer, in *os.File) error {
			if p.Package != d.server() {
				_, err := io.Copy(w, in)
				return err
			}
			deb, err := pkgs.OpenDeb(in, blob.Size, pkgs.Limits{})
			if err != nil {
				return err
			}
			return repackDeb(w, deb, version, extra...)
		}); err != nil {
			return "", "", err
		}
	}
	return dir, version, nil
}

func writeDeb(name string, blob source.Blob, write func(w io.Writer, in *os.File) error) error {
	in, err := blob.Open()
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
