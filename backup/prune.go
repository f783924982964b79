package backup

import (
	"context"
	"slices"
	"time"
)

// Policy says which snapshots of a jail to keep. The zero value keeps all.
type Policy struct {
	// Keep is how many of the newest are kept whatever their age; 0: no limit
	// by number.
	Keep int
	// MaxAge is how old the others may be; 0: no limit by age. With both, a
	// snapshot goes only when it is beyond both.
	MaxAge time.Duration
	// Pinned ids are never pruned.
	Pinned []string
}

// Prune removes what p does not keep of one jail's snapshots (by Meta.JailID),
// oldest first, and returns it. The newest snapshot that can be opened is never
// removed, nor the newest that was settled with the server stopped. A broken one
// is left to a person, since it says nothing about its jail or age.
func Prune(ctx context.Context, s Store, jailID string, p Policy, now time.Time) ([]Meta, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var pruned []Meta
	for _, m := range p.surplus(ctx, s, jailID, all, now) {
		if err := s.Remove(ctx, m.ID); err != nil {
			return pruned, err
		}
		pruned = append(pruned, m)
	}
	return pruned, nil
}

func (p Policy) surplus(ctx context.Context, s Store, jailID string, all []Meta, now time.Time) []Meta {
	if p.Keep <= 0 && p.MaxAge <= 0 {
		return nil
	}
	mine := slices.DeleteFunc(slices.Clone(all), func(m Meta) bool { return m.Broken != "" || m.JailID != jailID })
	slices.Reverse(mine) // newest first
	var good, stopped bool
	var out []Meta
	for i, m := range mine {
		keep := slices.Contains(p.Pinned, m.ID)
		keep = keep || p.Keep > 0 && i < p.Keep
		keep = keep || p.MaxAge > 0 && now.Sub(m.Created) <= p.MaxAge
		if !good || !stopped && m.Consistency == Stopped {
			if snap, err := s.Open(ctx, m.ID); err == nil {
				snap.Close()
				keep = keep || !good || !stopped && m.Consistency == Stopped
				good = true
				stopped = stopped || m.Consistency == Stopped
			}
		}
		if !keep {
			out = append(out, m)
		}
	}
	slices.Reverse(out)
	return out
}
