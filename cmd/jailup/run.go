package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/steps"
)

func (a *app) runVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run --jail DIR -- COMMAND [ARGUMENT]...",
		Short: "Run a program in the jail",
		Long: `Run a program of the jail with the jail as its root: as root, in a clean environment,
with these three streams and no other descriptor. It is looked for in the jail and
never on the host. The exit status is the program's own, 128+n where signal n ended
it, 127 where there is no such program and 126 where it cannot be executed.`,
		Example: `  jailup run --jail /chroot -- nginx -t
  jailup run --jail /chroot -- /usr/sbin/nginx -V`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactArgs("COMMAND")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), args) },
	}
	a.common(cmd, true)
	// The first word that is no flag of ours begins the command.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) run(ctx context.Context, argv []string) error {
	s, err := a.open("run a program")
	if err != nil {
		return err
	}
	// What the program prints is all there is: no story, no summary.
	s.ui.Close()
	if err := s.needJail(); err != nil {
		if len(argv) > 1 && slices.ContainsFunc(argv, func(w string) bool { return w == "-j" || w == "--jail" || strings.HasPrefix(w, "--jail=") }) {
			return usage(err, "what comes after the first word is the program's: jailup run --jail DIR -- COMMAND")
		}
		return err
	}
	if err := s.needRoot(); err != nil {
		return err
	}
	if _, err := s.openJail(); err != nil {
		return err
	}
	defer s.root.Close()
	if err := steps.CheckKind(s.root); err != nil {
		return err
	}
	c := jail.Command{Argv: argv, Grace: s.set.StopTimeout.D(), Cancelled: steps.ErrInterrupted}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	for _, name := range []string{"TERM", "LANG"} {
		if v := a.getenv(name); v != "" {
			c.Env = append(c.Env, name+"="+v)
		} else if name == "LANG" {
			c.Env = append(c.Env, "LANG=C.UTF-8")
		}
	}
	for _, f := range []struct {
		to   **os.File
		what any
	}{{&c.Stdin, a.stdin}, {&c.Stdout, a.stdout}, {&c.Stderr, a.stderr}} {
		file, ok := f.what.(*os.File)
		if !ok {
			return fmt.Errorf("cannot run a program: its input and output must be files")
		}
		*f.to = file
	}
	if a.code, err = jail.Exec(ctx, s.root, c); err != nil {
		a.complain(err)
		return errTold
	}
	return nil
}

// usage is an error of the command line with a hint of its own.
func usage(err error, hint string) error {
	return &steps.Error{Kind: steps.ErrUsage, Err: err, Hint: hint}
}
