package main

import (
	"os"

	"github.com/spf13/cobra"

	"poise/internal/director"
)

func releaseCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Hand over the virtual addresses that a killed daemon left",
		Long: `Hand over the virtual addresses that a daemon left on this host when it was killed with all its
processes: other nodes are told that they may take over, and within a second the addresses are gone from here.
While a daemon runs, or when nothing is left, this does nothing. The systemd unit calls it after each stop.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return director.Release(dir, newLogger(os.Stderr)) },
	}
	runtimeDirFlag(cmd, &dir)
	return cmd
}
