package steps

import (
	"context"
	"fmt"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/internal/source"
)

// fetch brings the target's packages into the cache, each verified.
type fetch struct{ e *Env }

func (s *fetch) Name() string { return "fetch" }

func (s *fetch) Do(ctx context.Context, _ *Run) error {
	return s.e.fetchTarget(ctx)
}

func (s *fetch) Undo(context.Context, *Run) error { return nil }

func (e *Env) fetchTarget(ctx context.Context) error {
	blobs, err := e.Source.Fetch(ctx, e.target.Packages, func(p source.Progress) {
		e.Events.Progress("fetch", event.Bytes, p.Bytes, p.TotalBytes)
	})
	if err != nil {
		return sourceError(err)
	}
	e.blobs = blobs
	return nil
}

// withDeb opens a package out of the cache, verified through the descriptor that
// it is read from.
//
// What it may unpack to is bounded by what the signed index says of it.
func withDeb(p source.Package, b source.Blob, fn func(*pkgs.Deb) error) error {
	f, err := b.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	deb, err := pkgs.OpenDeb(f, b.Size, pkgs.Limits{Output: 4*p.InstalledSize<<10 + 64<<20})
	if err != nil {
		return fmt.Errorf("cannot open a package: %w", err)
	}
	return fn(deb)
}
