package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/steps"
)

// control is start, stop or restart of package steps.
type control func(context.Context, *steps.Env, steps.Facts) steps.Outcome

func (a *app) startVerb() *cobra.Command {
	return a.serviceVerb(steps.Start, &cobra.Command{
		Use:   "start SERVER --jail DIR",
		Short: "Start the server of a jail and wait until it is well",
		Long: `Start the server, chrooted, with a clean environment, and wait until it passes its
checks. One that runs already is left alone. One that does not pass its checks is
left as it is; what tells why is kept.`,
		Example: `  jailup start nginx --jail /chroot`,
	})
}

func (a *app) stopVerb() *cobra.Command {
	return a.serviceVerb(steps.Stop, &cobra.Command{
		Use:   "stop SERVER --jail DIR",
		Short: "Stop the server of a jail: gracefully, then harder",
		Long: `Stop the server: gracefully, harder after --stop-timeout, and by force in the end. It
is done when no process of it is left. Other programs of the jail stay.`,
		Example: `  jailup stop nginx --jail /chroot
  jailup stop nginx --jail /chroot --stop-timeout 5s`,
	})
}

func (a *app) restartVerb() *cobra.Command {
	return a.serviceVerb(steps.Restart, &cobra.Command{
		Use:   "restart SERVER --jail DIR",
		Short: "Restart the server of a jail, if its configuration is sound",
		Long: `Test the configuration in a sandbox, stop the server, start it as it was started
before, and wait until it is as well as it was. A configuration that does not pass
leaves the server running.`,
		Example: `  jailup restart nginx --jail /chroot
  jailup restart nginx --jail /chroot --rehearse=false`,
	})
}

func (a *app) serviceVerb(do control, cmd *cobra.Command) *cobra.Command {
	verb := cmd.Name()
	cmd.Args = exactArgs("SERVER")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.service(cmd.Context(), verb, args[0], do) }
	a.common(cmd, true)
	if verb != "stop" {
		a.settings(cmd.Flags(), "start-timeout")
	}
	if verb == "restart" {
		a.settings(cmd.Flags(), "rehearse")
	}
	return cmd
}

func (a *app) service(ctx context.Context, verb, server string, do control) error {
	s, err := a.open(verb)
	if err != nil {
		return err
	}
	if err := s.server(server); err != nil {
		return s.refuse(err)
	}
	s.alone = true
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	e, err := s.begin(ctx, s.openRecord)
	if err != nil {
		return err
	}
	return s.finish(e, do(ctx, e, s.facts()))
}
