package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/recipes"
)

// shells are those whose completion can be printed.
var shells = []string{"bash", "zsh", "fish"}

// completionVerb takes the place of the library's own, which answers a shell that
// it does not know with a page of help and exit status 0.
func (a *app) completionVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script for bash, zsh or fish",
		Example: `  source <(jailup completion bash)
  jailup completion bash > /etc/bash_completion.d/jailup
  jailup completion fish > ~/.config/fish/completions/jailup.fish`,
		ValidArgs: shells,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := exactArgs("SHELL")(cmd, args); err != nil {
				return err
			}
			if !slices.Contains(shells, args[0]) {
				return usageError("cannot print the completion for %s: there are %s", event.Clean(args[0], 40), strings.Join(shells, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := cmd.Root(), error(nil)
			switch args[0] {
			case "bash":
				err = root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				err = root.GenZshCompletion(a.stdout)
			case "fish":
				err = root.GenFishCompletion(a.stdout, true)
			}
			if err != nil {
				return fmt.Errorf("cannot print the completion: %w", err)
			}
			return nil
		},
	}
}

// completed gives a verb what a shell offers after it: servers for SERVER, values
// for flags that have a few, folders for --jail.
func completed(cmd *cobra.Command) {
	if fields := strings.Fields(cmd.Use); len(fields) > 1 && fields[1] == "SERVER" {
		cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			set, err := recipes.Load("")
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, r := range set.All() {
				names = append(names, r.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		}
	}
	values := map[string][]string{"output": {ui.Text, ui.JSON}, "conf": {"keep", "new"}, "strategy": {"restart", "handover", "auto"}}
	for name, list := range values {
		if cmd.Flags().Lookup(name) != nil {
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp)) // twice is its only error
		}
	}
	for _, name := range []string{"jail", "into", "state-dir", "cache-dir", "snapshots"} {
		if cmd.Flags().Lookup(name) != nil {
			_ = cmd.MarkFlagDirname(name) // the flag is there
		}
	}
	for _, sub := range cmd.Commands() {
		completed(sub)
	}
}
