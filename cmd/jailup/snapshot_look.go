package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/steps"
)

// snapshotItem is a snapshot in a JSON document.
type snapshotItem struct {
	backup.Meta
	Path   string `json:"path"`
	Broken string `json:"broken,omitempty"`
}

// snapshotDoc is the JSON document of the verbs on snapshots.
type snapshotDoc struct {
	Schema    int            `json:"schema"`
	Jail      string         `json:"jail"`
	Snapshots []snapshotItem `json:"snapshots"`
}

func (s *session) itemOf(m backup.Meta) snapshotItem {
	return snapshotItem{m, filepath.Join(*s.set.Snapshots, m.ID), event.Clean(m.Broken, 300)}
}

func (a *app) snapshotList() *cobra.Command {
	return &cobra.Command{
		Use:     "list --jail DIR",
		Short:   "List the snapshots of a jail",
		Example: `  jailup snapshot list --jail /chroot`,
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.onSnapshots(cmd.Context(), "list", func(ctx context.Context, s *session, store backup.Store) error {
				doc := snapshotDoc{documentSchema, s.jailPath(), []snapshotItem{}}
				var broken []backup.Meta
				if store != nil {
					mine, bad, err := steps.Snapshots(ctx, store, s.id)
					if err != nil {
						return s.refuse(err)
					}
					if s.id == "" {
						mine = nil
					}
					broken = bad
					for _, m := range append(mine, bad...) {
						doc.Snapshots = append(doc.Snapshots, s.itemOf(m))
					}
				}
				if len(doc.Snapshots) == 0 {
					s.talk("jail %s has no snapshot", doc.Jail)
				}
				if n := len(broken); n > 0 {
					s.talk("warning: %d snapshots cannot be read, of this jail or another", n)
				}
				return s.show(doc, exitOK, func(w io.Writer) error { return printSnapshots(w, doc.Snapshots) })
			})
		},
	}
}

func printSnapshots(w io.Writer, list []snapshotItem) error {
	var rows [][]string
	for _, m := range list {
		if m.Broken != "" {
			rows = append(rows, []string{m.ID, "-", "-", "-", "-", "broken: " + m.Broken})
			continue
		}
		rows = append(rows, []string{m.ID, ui.Age(m.Created, time.Now()), m.Consistency, fmt.Sprint(m.Files), ui.Bytes(m.Bytes), m.Reason})
	}
	return ui.Table(w, []string{"SNAPSHOT", "AGE", "SERVER", "FILES", "SIZE", "REASON"}, rows)
}

func (a *app) snapshotShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID --jail DIR",
		Short:   "Show what is known about a snapshot",
		Example: `  jailup snapshot show 20260101T020000Z-0a1b2c --jail /chroot`,
		Args:    exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onSnapshots(cmd.Context(), "show", func(ctx context.Context, s *session, store backup.Store) error {
				snap, err := s.snapshot(ctx, store, args[0])
				if err != nil {
					return s.refuse(err)
				}
				defer snap.Close()
				item := s.itemOf(snap.Meta())
				return s.show(snapshotDoc{documentSchema, s.jailPath(), []snapshotItem{item}}, exitOK,
					func(w io.Writer) error { return printSnapshot(w, item) })
			})
		},
	}
}

func printSnapshot(w io.Writer, m snapshotItem) error {
	rows := [][]string{
		{"snapshot", m.ID}, {"of", m.Jail}, {"folder", m.Path}, {"made", m.Created.Local().Format("2006-01-02 15:04:05 MST")},
		{"server", m.Consistency}, {"kind", m.Kind}, {"entries", fmt.Sprint(m.Entries)}, {"files", fmt.Sprint(m.Files)},
		{"size", ui.Bytes(m.Bytes)}, {"reason", orDash(m.Reason)}, {"run", orDash(m.Run)},
	}
	if len(m.Exclude) > 0 {
		rows = append(rows, []string{"left out", strings.Join(m.Exclude, " ")})
	}
	for _, p := range sortedNames(m.Packages) {
		rows = append(rows, []string{"package", p + " " + m.Packages[p]})
	}
	for _, k := range m.Skipped {
		rows = append(rows, []string{"not in it", k.Path + ": " + k.Reason})
	}
	return ui.Table(w, nil, rows)
}

// verifyDoc is the JSON document of snapshot verify.
type verifyDoc struct {
	Schema    int              `json:"schema"`
	Jail      string           `json:"jail"`
	Snapshots []verifiedResult `json:"snapshots"`
}

type verifiedResult struct {
	ID       string    `json:"id"`
	OK       bool      `json:"ok"`
	Problems []problem `json:"problems"`
}

type problem struct {
	Path string `json:"path"`
	What string `json:"what"`
}

func (a *app) snapshotVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify [ID] --jail DIR",
		Short: "Read every file of a snapshot again and compare it with its manifest",
		Long: `Read every file of a snapshot, or of all snapshots of the jail, again and compare it
with the manifest. The exit status is 1 where anything differs.`,
		Example: `  jailup snapshot verify --jail /chroot
  jailup snapshot verify 20260101T020000Z-0a1b2c --jail /chroot`,
		Args: atMostOneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onSnapshots(cmd.Context(), "verify", func(ctx context.Context, s *session, store backup.Store) error {
				ids := args
				if len(args) == 0 && store != nil && s.id != "" {
					mine, _, err := steps.Snapshots(ctx, store, s.id)
					if err != nil {
						return s.refuse(err)
					}
					for _, m := range mine {
						ids = append(ids, m.ID)
					}
				}
				return s.verify(ctx, store, ids)
			})
		},
	}
}

func atMostOneID(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return exactArgs("ID")(cmd, args)
	}
	return nil
}

func (s *session) verify(ctx context.Context, store backup.Store, ids []string) error {
	doc, code := verifyDoc{documentSchema, s.jailPath(), []verifiedResult{}}, exitOK
	for _, id := range ids {
		snap, err := s.snapshot(ctx, store, id)
		if err != nil {
			return s.refuse(err)
		}
		found, err := snap.Verify(ctx)
		snap.Close()
		if err != nil {
			return s.refuse(err)
		}
		r := verifiedResult{ID: id, OK: len(found) == 0, Problems: []problem{}}
		for _, p := range found {
			r.Problems = append(r.Problems, problem{event.Clean(p.Path, 4096), event.Clean(p.What, 300)})
			code = exitFailed
		}
		doc.Snapshots = append(doc.Snapshots, r)
	}
	if len(ids) == 0 {
		s.talk("jail %s has no snapshot", doc.Jail)
	}
	return s.show(doc, code, func(w io.Writer) error {
		for _, r := range doc.Snapshots {
			if r.OK {
				fmt.Fprintf(w, "%s: whole\n", r.ID)
			}
			for _, p := range r.Problems {
				fmt.Fprintf(w, "%s: %s: %s\n", r.ID, p.Path, p.What)
			}
		}
		return nil
	})
}

// diffDoc is the JSON document of snapshot diff.
type diffDoc struct {
	Schema  int          `json:"schema"`
	Jail    string       `json:"jail"`
	From    string       `json:"from"` // a snapshot
	To      string       `json:"to"`   // a snapshot, or "" for the jail as it is now
	Changes []diffChange `json:"changes"`
}

type diffChange struct {
	Path string   `json:"path"`
	Kind string   `json:"kind"`
	What []string `json:"what"`
}

func (a *app) snapshotDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff ID [ID2] --jail DIR",
		Short: "Tell how the jail, or a second snapshot, differs from a snapshot",
		Example: `  jailup snapshot diff 20260101T020000Z-0a1b2c --jail /chroot
  jailup snapshot diff 20260101T020000Z-0a1b2c 20260108T020000Z-3d4e5f --jail /chroot`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			if len(args) != 1 {
				return exactArgs("ID", "[ID2]")(cmd, nil)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onSnapshots(cmd.Context(), "diff", func(ctx context.Context, s *session, store backup.Store) error {
				doc, err := s.diff(ctx, store, args)
				if err != nil {
					return s.refuse(err)
				}
				if len(doc.Changes) == 0 {
					s.talk("no difference")
				}
				return s.show(doc, exitOK, func(w io.Writer) error {
					for _, c := range doc.Changes {
						line := fmt.Sprintf("%-8s %s", c.Kind, c.Path)
						if len(c.What) > 0 {
							line += " (" + strings.Join(c.What, ", ") + ")"
						}
						fmt.Fprintln(w, line)
					}
					return nil
				})
			})
		},
	}
}

func (s *session) diff(ctx context.Context, store backup.Store, ids []string) (*diffDoc, error) {
	doc := &diffDoc{Schema: documentSchema, Jail: s.jailPath(), From: ids[0], Changes: []diffChange{}}
	snap, err := s.snapshot(ctx, store, ids[0])
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	var found []backup.Change
	if len(ids) == 2 {
		doc.To = ids[1]
		other, err := s.snapshot(ctx, store, ids[1])
		if err != nil {
			return nil, err
		}
		defer other.Close()
		if found, err = snap.Diff(ctx, other); err != nil {
			return nil, err
		}
	} else {
		if s.root == nil {
			return nil, fmt.Errorf("cannot compare with jail %s: it is not there", event.Clean(s.path, 200))
		}
		if found, err = snap.DiffJail(ctx, s.root); err != nil {
			return nil, err
		}
	}
	for _, c := range found {
		d := diffChange{Path: event.Clean(c.Path, 4096), Kind: string(c.Kind), What: []string{}}
		for _, w := range c.What {
			d.What = append(d.What, event.Clean(w, 100))
		}
		doc.Changes = append(doc.Changes, d)
	}
	return doc, nil
}
