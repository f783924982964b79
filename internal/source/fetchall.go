package source

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// fetchAll gets packages, several at once, and checks that each is inside what
// the index said it is.
func fetchAll(ctx context.Context, list []Package, progress func(Progress), parallel int,
	get func(ctx context.Context, p Package, told func(int64)) (Blob, error),
) (map[string]Blob, error) {
	todo := map[string]Package{}
	var order []string
	t := tally{report: progress, bytes: map[string]int64{}}
	for _, p := range list {
		if err := p.Fetchable(); err != nil {
			return nil, err
		}
		if _, twice := todo[p.SHA256]; twice {
			continue
		}
		todo[p.SHA256] = p
		order = append(order, p.SHA256)
		t.p.TotalBytes += p.Size
		t.p.TotalItems++
	}
	blobs := make(map[string]Blob, len(order))
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, sha := range order {
		group.Go(func() error {
			p := todo[sha]
			blob, err := get(ctx, p, func(n int64) { t.told(p, n) })
			if err != nil {
				return err
			}
			if err := matches(blob, p); err != nil {
				return err
			}
			t.done(p)
			mu.Lock()
			defer mu.Unlock()
			blobs[sha] = blob
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return blobs, nil
}

// matches opens the package and holds its control file against the index.
func matches(blob Blob, p Package) error {
	f, err := blob.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := pkgs.OpenDeb(f, blob.Size, pkgs.Limits{})
	if err == nil {
		err = d.Match(p.Stanza)
	}
	if err != nil {
		return &Error{Kind: ErrHash, Source: event.Clean(p.String(), 300), Err: fmt.Errorf("the file is not the package that the index tells of: %s", event.Clean(err.Error(), 300))}
	}
	return nil
}

// tally sums what several downloads tell.
type tally struct {
	mu     sync.Mutex
	report func(Progress)
	bytes  map[string]int64 // by SHA-256
	p      Progress
}

func (t *tally) told(p Package, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(p, n)
}

func (t *tally) done(p Package) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p.Items++
	t.set(p, p.Size)
}

func (t *tally) set(p Package, n int64) {
	t.p.Bytes += n - t.bytes[p.SHA256]
	t.bytes[p.SHA256] = n
	t.p.Item = event.Clean(p.String(), 200)
	if t.report != nil {
		t.report(t.p)
	}
}
