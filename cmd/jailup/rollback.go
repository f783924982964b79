package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/steps"
)

func (a *app) rollbackVerb() *cobra.Command {
	var to string
	var keepEdits bool
	cmd := &cobra.Command{
		Use:   "rollback --jail DIR",
		Short: "Go back to the version before, or to a snapshot",
		Long: `Go back to the version before the last upgrade, at once, or to an older one by its
snapshot. What packages and configuration own goes back; what the server writes,
and files that jailup does not know, stay.`,
		Example: `  jailup rollback --jail /chroot
  jailup rollback --jail /chroot --to 20260101T020000Z-0a1b2c`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.rollback(cmd.Context(), to, keepEdits)
		},
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), "soak", "start-timeout", "rehearse", "snapshots", "keep", "accept-inconclusive")
	cmd.Flags().StringVar(&to, "to", "", "`snapshot` or run to go back to")
	cmd.Flags().BoolVar(&keepEdits, "keep-edits", false, "lay files that were edited since beside the old ones")
	return cmd
}

func (a *app) rollback(ctx context.Context, to string, keepEdits bool) error {
	s, err := a.open("rollback")
	if err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	e, err := s.begin(ctx, s.openStore, s.openRecord)
	if err != nil {
		return err
	}
	e.Options.ToSnapshot, e.Options.KeepEdits = to, keepEdits
	e.Guard = s.guardian
	return s.finish(e, steps.Execute(ctx, e, steps.Rollback(e), s.facts()))
}
