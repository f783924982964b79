package source

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// AptOptions says which apt sources serve. CacheDir and StateDir are needed;
// the zero value of all else works.
type AptOptions struct {
	SourcesFiles []string // one-line, or deb822 where the name ends in .sources; default: the host's own (sources.list(5))
	Keyring      string   // a file of keys that replaces those of each source's own Signed-By; fingerprints there still count
	Keys         []string // pinned: FINGERPRINT or URI=FINGERPRINT, with "!" not its subkeys. Only such a key of a source's keyring may sign it
	Suite        string   // serve this suite instead of the host's, see OpenApt
	CacheDir     string   // see OpenCache
	StateDir     string   // remembers the newest index seen of each source
	Arch         string   // Debian's name, default that of this machine
	Root         string   // put before the host's own paths: sources, keyrings, os-release; default /
	HTTP         HTTPOptions
	Now          func() time.Time // default time.Now
}

// maxInRelease bounds a signed Release file; Debian's has 150 KB.
const maxInRelease = 2 << 20

// apt is the Source of apt repositories.
type apt struct {
	o       AptOptions
	entries []entry
	pins    []pin
	notices []Notice
	fetch   *fetcher
	memory  memory
}

// OpenApt reads the sources files and opens the cache; it asks no mirror yet.
// Wrong sources files are an ErrSources.
//
// With a Suite S, only the sources of S, S-updates and S-security serve where
// the files have S; otherwise the sources of the host's own release (by
// VERSION_CODENAME of os-release(5)) serve, rewritten to S.
func OpenApt(o AptOptions) (Source, error) {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Arch == "" {
		o.Arch = debArch()
	}
	files := o.SourcesFiles
	if len(files) == 0 {
		var err error
		if files, err = sourcesFiles(o.Root); err != nil {
			return nil, &Error{Kind: ErrSources, Err: err}
		}
	}
	entries, notices, err := readSources(files, o.Arch)
	if err != nil {
		return nil, err
	}
	pins, err := parsePins(o.Keys)
	if err != nil {
		return nil, err
	}
	for _, p := range pins {
		// A pin that holds nothing is most likely a misspelt one.
		if p.source != "" && !slices.ContainsFunc(entries, func(e entry) bool { return strings.HasPrefix(e.open(), p.source+"/") }) {
			return nil, fail(ErrSources, "", "a key is pinned for %s, and no apt source begins so", event.Clean(p.source, 200))
		}
	}
	if o.Suite != "" {
		if entries, err = forSuite(entries, o.Suite, hostCodename(o.Root)); err != nil {
			return nil, err
		}
	}
	entries = slices.DeleteFunc(merge(entries), func(e entry) bool { return !e.wants(o.Arch) })
	if len(entries) == 0 {
		return nil, fail(ErrSources, "", "the apt sources name no repository for %s", o.Arch)
	}
	cache, err := OpenCache(o.CacheDir)
	if err != nil {
		return nil, err
	}
	if o.StateDir == "" {
		return nil, errors.New("cannot remember the indices seen: no state folder is named")
	}
	m := memory{filepath.Join(o.StateDir, "sources")}
	if err := privateDir(m.dir); err != nil {
		return nil, fmt.Errorf("cannot remember the indices seen: %w", err)
	}
	return &apt{o, entries, pins, notices, newFetcher(cache, o.HTTP), m}, nil
}

// loaded is what came of one source.
type loaded struct {
	rel     *release
	files   []loadedFile
	notices []Notice
	down    error // no answer, and nothing in the cache that could serve
}

type loadedFile struct {
	file     indexFile
	packages []*pkgs.Stanza
	bad      map[string]string // name → what is wrong with its entry
}

// Index implements Source. A source that gives no answer is a notice while the
// cache or another source serves; whatever else is wrong with a source is an
// error, for to go on without it could hide what it would have told.
func (a *apt) Index(ctx context.Context) (*Index, error) {
	got := make([]loaded, len(a.entries))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(a.fetch.o.Parallel)
	for i, e := range a.entries {
		group.Go(func() (err error) {
			got[i], err = a.load(gctx, e)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	ix := newIndex(a.o.Arch)
	ix.Notices = append(ix.Notices, a.notices...)
	var down error
	served := map[string]bool{}
	for i, e := range a.entries {
		l := got[i]
		ix.Notices = append(ix.Notices, l.notices...)
		if l.down != nil {
			if down == nil {
				down = l.down
			}
			ix.Notices = append(ix.Notices, Notice{e.String(), "not used: " + event.Clean(rootCause(l.down).Error(), 300)})
			continue
		}
		served[e.Suite] = true
		ix.Date[e.String()] = l.rel.Date
		for _, f := range l.files {
			from := a.originOf(e, l.rel, f.file, i)
			ix.add(from, f.packages)
			for name, why := range f.bad {
				ix.bad[name] = from.name + ": " + why
			}
		}
	}
	switch {
	case a.o.Suite != "" && !served[a.o.Suite]:
		return nil, &Error{Kind: ErrUnreachable, Err: fmt.Errorf("no apt source serves the suite %s: %w", a.o.Suite, down)}
	case len(served) == 0:
		return nil, &Error{Kind: ErrUnreachable, Err: fmt.Errorf("no apt source can be reached: %w", down)}
	}
	return ix, nil
}

func (a *apt) originOf(e entry, r *release, f indexFile, order int) *origin {
	name := e.String()
	if c, _, ok := strings.Cut(f.Name, "/binary-"); ok && !e.flat() {
		name = strings.TrimSuffix(e.URI.Redacted(), "/") + " " + e.Suite + "/" + c
	}
	return &origin{name: name, suite: r.Suite, codename: r.Codename, priority: r.priority(), base: e.open(), order: order}
}

// signed is a verified index and where it came from.
type signed struct {
	rel  *release
	blob Blob
}

// load brings one source up to date.
func (a *apt) load(ctx context.Context, e entry) (loaded, error) {
	var out loaded
	note := func(format string, args ...any) {
		out.notices = append(out.notices, Notice{e.String(), fmt.Sprintf(format, args...)})
	}
	if e.NoExpiry {
		note("the sources file says not to check how long the index is valid")
	}
	ring, err := a.ring(e)
	if err != nil {
		return out, &Error{Kind: ErrSignature, Source: e.String(), Err: err}
	}
	mem, err := a.memory.load(e)
	if err != nil {
		return out, err
	}
	now := a.o.Now()
	cached := a.cached(e, mem, ring, now)
	var etag, modified string
	if cached != nil {
		etag, modified = mem.ETag, mem.LastModified
	}
	got, err := a.fetch.small(ctx, e.dist()+"InRelease", maxInRelease, etag, modified)
	use := cached
	fresh, stale := false, false
	var offered time.Time
	switch {
	case context.Cause(ctx) != nil:
		return out, context.Cause(ctx)
	case err != nil && errors.Is(err, errTooLong):
		return out, fail(ErrRelease, e.String(), "the index is longer than %d bytes", maxInRelease)
	case err != nil:
		out.down = fail(ErrUnreachable, e.String(), "cannot fetch its index InRelease: %s", event.Clean(err.Error(), 300))
		if cached == nil || cached.rel.checkExpiry(e, now) != nil {
			return out, nil
		}
		note("no answer (%s): the cached index of %s is used", event.Clean(err.Error(), 200), day(cached.rel.Date))
	case got.unchanged:
		if err := cached.rel.checkExpiry(e, now); err != nil {
			return out, err
		}
	default:
		rel, err := readRelease(got.data, e, ring, now)
		if err != nil {
			return out, err
		}
		if rel.Date.Before(mem.Date) {
			stale, offered = true, rel.Date
			if cached == nil {
				return out, staleError(e, offered, mem.Date)
			}
			if err := cached.rel.check(e, now); err != nil {
				return out, err
			}
			note("the mirror is behind: it offers the index of %s; the cached one of %s is used", day(offered), day(cached.rel.Date))
			break
		}
		if err := rel.check(e, now); err != nil {
			return out, err
		}
		fresh = true
		use = &signed{rel: rel}
	}
	err = a.packages(ctx, e, use.rel, &out)
	if err != nil && fresh && cached != nil && errors.Is(err, ErrUnreachable) && cached.rel.checkExpiry(e, now) == nil {
		note("the new index is not whole (%s): the cached one of %s is used", event.Clean(rootCause(err).Error(), 200), day(cached.rel.Date))
		fresh, use, out.files = false, cached, nil
		err = a.packages(ctx, e, use.rel, &out)
	}
	if err != nil {
		switch {
		case stale && errors.Is(err, ErrUnreachable):
			return out, staleError(e, offered, use.rel.Date)
		case errors.Is(err, ErrUnreachable):
			out.down = err
			return out, nil
		}
		return out, err
	}
	out.rel, out.down = use.rel, nil
	if !fresh {
		return out, nil
	}
	blob, err := a.fetch.cache.PutBytes(got.data)
	if err != nil {
		return out, err
	}
	mem = seen{Date: use.rel.Date, InRelease: blob.SHA256, ETag: got.etag, LastModified: got.lastModified}
	return out, a.memory.save(e, mem)
}

func staleError(e entry, mirror, seen time.Time) error {
	return &Error{
		Kind: ErrStale, Source: e.String(), MirrorDate: mirror, SeenDate: seen,
		Err: fmt.Errorf("the mirror is behind: it offers the index of %s, the one of %s was seen already", day(mirror), day(seen)),
	}
}

func (a *apt) ring(e entry) (keyring, error) {
	signedBy, root := e.SignedBy, a.o.Root
	if a.o.Keyring != "" {
		path, err := filepath.Abs(a.o.Keyring)
		if err != nil {
			return keyring{}, err
		}
		// Another file of keys does not undo that only some keys may sign.
		signedBy, root = append([]string{path}, fingerprintsIn(e.SignedBy)...), ""
	}
	ring, err := loadKeyring(signedBy, root)
	ring.pins = pinsOf(a.pins, e)
	return ring, err
}

// cached returns the index seen last if it is in the cache and holds today.
// Whatever is wrong with it, the mirror's answer decides.
func (a *apt) cached(e entry, mem seen, ring keyring, now time.Time) *signed {
	if mem.InRelease == "" {
		return nil
	}
	blob, err := a.fetch.cache.Get(mem.InRelease, -1)
	if err != nil {
		return nil
	}
	f, err := blob.Open()
	if err != nil {
		return nil
	}
	defer f.Close()
	data := make([]byte, min(blob.Size, maxInRelease))
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil
	}
	rel, err := readRelease(data, e, ring, now)
	if err != nil || !rel.Date.Equal(mem.Date) {
		return nil
	}
	return &signed{rel, blob}
}

// readRelease verifies a signed index, parses the verified bytes, and makes
// sure that it is the suite's that was asked for.
func readRelease(data []byte, e entry, ring keyring, now time.Time) (*release, error) {
	text, err := verifyClearsigned(data, ring, now)
	if err != nil {
		text := event.Clean(err.Error(), 300)
		cause := errors.New(text)
		if rest, ok := strings.CutPrefix(text, ErrNoKey.Error()); ok {
			cause = fmt.Errorf("%w%s", ErrNoKey, rest)
		}
		return nil, &Error{Kind: ErrSignature, Source: e.String(), Err: cause}
	}
	rel, err := parseRelease(text)
	if err != nil {
		return nil, &Error{Kind: ErrRelease, Source: e.String(), Err: fmt.Errorf("cannot read its index: %s", event.Clean(err.Error(), 300))}
	}
	if !e.flat() && e.Suite != rel.Suite && e.Suite != rel.Codename {
		return nil, fail(ErrRelease, e.String(), "the mirror's index is that of another suite (suite %q, codename %q)", rel.Suite, rel.Codename)
	}
	return rel, nil
}

// packages loads the Packages files of a verified index.
func (a *apt) packages(ctx context.Context, e entry, rel *release, out *loaded) error {
	files, missing := rel.packagesFiles(e, a.o.Arch)
	for _, c := range missing {
		out.notices = append(out.notices, Notice{e.String(), fmt.Sprintf("it has no packages for %s in %s", a.o.Arch, c)})
	}
	for _, f := range files {
		get := func() (Blob, error) { return a.fetch.file(ctx, a.wantOf(e, rel, f), nil) }
		list, bad, err := a.fetch.readPackages(ctx, get, f, a.o.Arch)
		if err != nil {
			var known *Error
			if cause := context.Cause(ctx); cause != nil {
				return cause
			} else if errors.As(err, &known) && known.Source != "" {
				return err
			} else if errors.Is(err, ErrHash) {
				return fail(ErrHash, e.String()+" "+f.Name, "%w", rootCause(err))
			}
			return &Error{Kind: ErrRelease, Source: e.String(), Err: fmt.Errorf("cannot read %s: %s", event.Clean(f.Name, 120), event.Clean(err.Error(), 300))}
		}
		if len(bad) > 0 {
			out.notices = append(out.notices, badNotice(e.String(), f.Name, len(bad)))
		}
		out.files = append(out.files, loadedFile{f, list, bad})
	}
	return nil
}

// wantOf names the places of an index file. By hash comes first where it is
// offered: a mirror in the middle of its update has the old and the new there.
func (a *apt) wantOf(e entry, rel *release, f indexFile) want {
	w := want{name: e.String() + " " + f.Name, sha: f.File.SHA256, size: f.File.Size}
	byHash := rel.ByHash && e.ByHash != "no" && e.ByHash != "false" || e.ByHash == "force"
	if byHash {
		dir, _, ok := cutLast(f.Name, "/")
		if ok {
			dir += "/"
		}
		w.urls = append(w.urls, e.dist()+escapePath(dir)+"by-hash/SHA256/"+f.File.SHA256)
	}
	w.urls = append(w.urls, e.dist()+escapePath(f.Name))
	return w
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// Fetch implements Source.
func (a *apt) Fetch(ctx context.Context, list []Package, progress func(Progress)) (map[string]Blob, error) {
	return fetchAll(ctx, list, progress, a.fetch.o.Parallel, func(ctx context.Context, p Package, told func(int64)) (Blob, error) {
		i := slices.IndexFunc(a.entries, func(e entry) bool { return strings.HasPrefix(p.URL, e.open()) })
		if i < 0 {
			return Blob{}, fail(ErrSources, p.String(), "it does not come from these sources (%s)", event.Clean(p.Origin, 300))
		}
		from := a.entries[i].URI.String() + strings.TrimPrefix(p.URL, a.entries[i].open())
		return a.fetch.file(ctx, want{name: p.String(), urls: []string{from}, sha: p.SHA256, size: p.Size}, told)
	})
}
