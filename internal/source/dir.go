package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// DirOptions says how to use a folder of packages. The zero value works.
type DirOptions struct {
	// CacheDir is where Fetch copies packages to, so that nobody changes a file
	// between its check and its use; "" uses the files where they lie.
	CacheDir string
	Arch     string // Debian's name, default that of this machine
	Parallel int    // files read at once, default the number of processors
}

// dir is the Source of a folder of .deb files. There is no signature: whoever
// may write to the folder decides what is installed.
type dir struct {
	path  string
	o     DirOptions
	cache *Cache // nil: none
}

// OpenDir takes the .deb files of a folder, not of folders below it. A folder
// that is not there, or holds none, is an ErrSources.
func OpenDir(path string, o DirOptions) (Source, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &Error{Kind: ErrSources, Err: err}
	}
	if o.Arch == "" {
		o.Arch = debArch()
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	d := &dir{path: abs, o: o}
	if o.CacheDir != "" {
		if d.cache, err = OpenCache(o.CacheDir); err != nil {
			return nil, err
		}
	}
	if _, err := d.files(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *dir) files() ([]string, error) {
	list, err := os.ReadDir(d.path)
	if err != nil {
		return nil, &Error{Kind: ErrSources, Err: fmt.Errorf("cannot read the folder of packages: %w", err)}
	}
	var names []string
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".deb") && !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, fail(ErrSources, d.path, "the folder holds no .deb file")
	}
	return names, nil
}

// Index implements Source: it reads the control file and takes the digest of
// each package. One that cannot be read is an error, for it was put there to be
// used; one for another architecture is passed over with a notice.
func (d *dir) Index(ctx context.Context) (*Index, error) {
	names, err := d.files()
	if err != nil {
		return nil, err
	}
	found := make([]*pkgs.Stanza, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(d.o.Parallel)
	for i, name := range names {
		group.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			s, err := readDeb(filepath.Join(d.path, name))
			if err != nil {
				return fail(ErrSources, filepath.Join(d.path, name), "%s", event.Clean(err.Error(), 300))
			}
			s.Filename = name
			found[i] = &s
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	ix := newIndex(d.o.Arch)
	found = slices.DeleteFunc(found, func(s *pkgs.Stanza) bool {
		other := s.Architecture != d.o.Arch && s.Architecture != "all"
		if other {
			ix.Notices = append(ix.Notices, Notice{d.path, fmt.Sprintf("%s is passed over: it is for %s", event.Clean(s.Filename, 200), s.Architecture)})
		}
		return other
	})
	// Filename holds a plain name of this folder, so what Versions makes of it
	// is not a URL but the path; see Fetch.
	ix.add(&origin{name: d.path, priority: 500, base: d.path + "/"}, found)
	return ix, nil
}

// readDeb reads what an index would tell of a package file.
func readDeb(path string) (pkgs.Stanza, error) {
	f, err := openRegular(path)
	if err != nil {
		return pkgs.Stanza{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return pkgs.Stanza{}, err
	}
	deb, err := pkgs.OpenDeb(f, fi.Size(), pkgs.Limits{})
	if err != nil {
		return pkgs.Stanza{}, err
	}
	s := deb.Control()
	s.Size = fi.Size()
	s.SHA256, err = hashFile(f)
	return s, err
}

// Fetch implements Source.
func (d *dir) Fetch(ctx context.Context, list []Package, progress func(Progress)) (map[string]Blob, error) {
	return fetchAll(ctx, list, progress, d.o.Parallel, func(ctx context.Context, p Package, told func(int64)) (Blob, error) {
		if p.Origin != d.path || p.Filename != filepath.Base(p.Filename) {
			return Blob{}, fail(ErrSources, p.String(), "it does not come from the folder %s", d.path)
		}
		path := filepath.Join(d.path, p.Filename)
		if d.cache == nil {
			blob := Blob{Path: path, SHA256: p.SHA256, Size: p.Size}
			return blob, nil // hashed when it is opened
		}
		if blob, err := d.cache.Get(p.SHA256, p.Size); err == nil {
			return blob, nil
		}
		f, err := openRegular(path)
		if err != nil {
			return Blob{}, fmt.Errorf("cannot read %s: %w", p, err)
		}
		defer f.Close()
		blob, err := d.cache.Put(ctx, f, p.SHA256, p.Size)
		if err != nil {
			return Blob{}, fmt.Errorf("cannot copy %s: %w", p, err)
		}
		told(p.Size)
		return blob, nil
	})
}
