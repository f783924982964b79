package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/recipes"
	"github.com/jailup/jailup/steps"
)

// cast are the versions that play in the demo.
type cast struct {
	old, new string   // of the server's package
	create   []string // flags of the jail's creation
	upgrade  []string // flags of its upgrade
	source   source.Source
	index    *source.Index
	first    *source.Target // what the jail begins with
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

// casting looks for two versions of the server, and of its PHP.
func (d *demo) casting(ctx context.Context) error {
	src, err := d.open(*d.s.set.Suite)
	if err != nil {
		return err
	}
	ix, err := src.Index(ctx)
	if err != nil {
		return &steps.Error{Err: fmt.Errorf("cannot read the package index: %w", err),
			Hint: "look at the network, at http_proxy and at the sources of apt, or give --source dir:FOLDER"}
	}
	target, err := d.resolve(ctx, ix, d.modules, "")
	if err != nil && len(d.modules) > 0 {
		if _, without := d.resolve(ctx, ix, nil, ""); without == nil {
			return &steps.Error{Kind: steps.ErrUsage, Err: err, Hint: steps.HintOf(err)}
		}
	}
	if err != nil {
		return err
	}
	newest, _ := target.Get(d.server())
	d.cast = cast{new: newest.Version, source: src, index: ix, target: target, upgrade: d.sourceFlags(*d.s.set.Suite)}
	d.say.fact("source:", "%s", newest.Origin)
	if err := d.older(ctx, newest); err != nil {
		return err
	}
	d.say.fact("older:", "%s %s, %s", d.server(), d.cast.old, d.cast.how)
	d.sayParts(d.cast.first)
	d.say.fact("newest:", "%s %s, of %d packages", d.server(), d.cast.new, len(target.Packages))
	d.sayParts(target)
	return nil
}

func (d *demo) sayParts(t *source.Target) {
	for _, part := range d.s.recipe.Parts() {
		if p, ok := packageOf(part, t); ok && p.Package != d.server() {
			d.say.fact("", "%s", p)
		}
	}
}

// packageOf is the package of a part in the series that a target has of it.
func packageOf(part *recipes.Recipe, t *source.Target) (source.Package, bool) {
	head, tail, versioned := strings.Cut(part.Server(), "{series}")
	if !versioned {
		return t.Get(part.Server())
	}
	for _, p := range t.Packages {
		rest, ok := strings.CutPrefix(p.Package, head)
		if !ok {
			continue
		}
		if series, ok := strings.CutSuffix(rest, tail); ok && strings.Trim(series, "0123456789.") == "" && series != "" {
			return p, true
		}
	}
	return source.Package{}, false
}

// older decides which version the jail begins with: an older one of the index,
// else that of an earlier suite of the archive, else the newest itself, which is
// then upgraded to its own content under a higher version.
func (d *demo) older(ctx context.Context, newest source.Package) error {
	for _, v := range olderVersions(d.cast.index, newest) {
		t, err := d.resolve(ctx, d.cast.index, d.modules, v)
		if err != nil {
			continue
		}
		d.cast.old, d.cast.how, d.cast.first = v, "the oldest that the index offers", t
		d.cast.create = append(d.sourceFlags(*d.s.set.Suite), "--version", v)
		return d.olderParts(ctx)
	}
	if *d.s.set.Source == "apt" {
		for _, suite := range earlierSuites(newest.Codename) {
			t, err := d.inSuite(ctx, suite)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				continue // no longer there, or no key of it on this host
			}
			p, _ := t.Get(d.server())
			if c, err := pkgs.CompareVersions(p.Version, newest.Version); err != nil || c >= 0 {
				continue
			}
			d.cast.old, d.cast.how, d.cast.first = p.Version, "of the earlier suite "+suite+", for the index offers one version only", t
			d.cast.create, d.cast.suite = d.sourceFlags(suite), suite
			return nil
		}
	}
	return d.same(ctx)
}

// olderVersions are those of a package that an index offers before a version, the
// oldest first.
func olderVersions(ix *source.Index, than source.Package) []string {
	var out []string
	for _, v := range ix.Versions(than.Package) {
		if c, err := pkgs.CompareVersions(v.Version, than.Version); err == nil && c < 0 {
			out = append(out, v.Version)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int {
		c, _ := pkgs.CompareVersions(a, b) // an index holds valid ones only
		return c
	})
	return slices.Compact(out)
}

// olderParts has what goes along with the server begin with an older version as
// well, where the index offers one. Its packages need each other in one version,
// so all that were built together are older together; which they are no flag could
// say, but a folder of packages can.
func (d *demo) olderParts(ctx context.Context) error {
	t := d.cast.first
	for _, part := range d.s.recipe.Parts() {
		p, ok := packageOf(part, t)
		if !ok || p.Package == d.server() {
			continue
		}
		for _, v := range olderVersions(d.cast.index, p) {
			if earlier, err := d.earlier(t, p, v); err == nil {
				t = earlier
				break
			}
		}
	}
	if t == d.cast.first {
		return nil
	}
	dir, err := d.folder(ctx, "older", t.Packages)
	if err != nil {
		return err
	}
	d.cast.first, d.cast.create = t, []string{"--source", "dir:" + dir}
	return nil
}

// earlier is a target in which a package, and those of the same source, have
// another version.
func (d *demo) earlier(t *source.Target, p source.Package, version string) (*source.Target, error) {
	req := source.Request{Without: d.s.recipe.Without, Held: map[string]string{}}
	for _, q := range t.Packages {
		w := source.Want{Name: q.Package}
		if q.Package == d.server() {
			w.Exact = q.Version
		}
		req.Roots = append(req.Roots, w)
		offers := slices.ContainsFunc(d.cast.index.Versions(q.Package), func(o source.Package) bool { return o.Version == version })
		if offers && sourceOf(q) == sourceOf(p) {
			req.Held[q.Package] = version
		}
	}
	return source.Resolve(d.cast.index, req)
}

// sourceOf is the name of the source package that a package was built from.
func sourceOf(p source.Package) string {
	if p.Source != "" {
		return p.Source
	}
	return p.Package
}

// same has the newest version play both: as it is, and repacked.
func (d *demo) same(ctx context.Context) error {
	newest, _ := d.cast.target.Get(d.server())
	d.cast.old, d.cast.create, d.cast.suite = newest.Version, d.sourceFlags(*d.s.set.Suite), ""
	d.cast.first = d.cast.target
	d.cast.how = "the only one that the sources offer; the newer one is the same, repacked under a higher version"
	if err := d.olderParts(ctx); err != nil {
		return err
	}
	dir, version, err := d.repack(ctx, d.server(), d.difference("a newer version"))
	if err != nil {
		return err
	}
	d.cast.new, d.cast.upgrade = version, []string{"--source", "dir:" + dir}
	return nil
}

// inSuite is what another suite offers.
func (d *demo) inSuite(ctx context.Context, suite string) (*source.Target, error) {
	src, err := d.open(suite)
	if err != nil {
		return nil, err
	}
	ix, err := src.Index(ctx)
	if err != nil {
		return nil, err
	}
	return d.resolve(ctx, ix, d.modules, "")
}

func (d *demo) server() string { return d.main.Server() }

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
	for _, k := range *d.s.set.Keys {
		out = append(out, "--keys", k)
	}
	if k := *d.s.set.Keyring; k != "" {
		out = append(out, "--keyring", k)
	}
	if suite != "" {
		out = append(out, "--suite", suite)
	}
	return out
}

// resolve tells which packages a new jail would be made of. It is create itself
// that says so: it is given a source that offers the index and fetches nothing.
func (d *demo) resolve(ctx context.Context, ix *source.Index, modules []string, version string) (*source.Target, error) {
	e, err := d.s.env()
	if err != nil {
		return nil, err
	}
	asked := &askedOnly{index: ix}
	e.Source, e.Events = asked, event.New(d.s.run, nil)
	e.Options.With, e.Options.Version = modules, version
	if _, err = steps.Create(ctx, e, filepath.Join(d.dir, "nothing"), "", nil); !errors.Is(err, errAskedOnly) {
		return nil, err
	}
	if _, ok := asked.target.Get(d.server()); !ok {
		return nil, fmt.Errorf("cannot resolve %s: the sources offer no such package", d.server())
	}
	return &asked.target, nil
}

// askedOnly is a source that notes what is asked of it.
type askedOnly struct {
	index  *source.Index
	target source.Target
}

var errAskedOnly = errors.New("nothing is fetched")

func (a *askedOnly) Index(context.Context) (*source.Index, error) { return a.index, nil }

func (a *askedOnly) Fetch(_ context.Context, want []source.Package, _ func(source.Progress)) (map[string]source.Blob, error) {
	a.target.Packages = want
	return nil, errAskedOnly
}
