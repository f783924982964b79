package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// stamp is set by the linker: -X main.stamp=v1.2.3.
var stamp string

func version() string {
	if stamp != "" {
		return stamp
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

func (a *app) versionVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.stdout, "jailup", version())
			return err
		},
	}
}
