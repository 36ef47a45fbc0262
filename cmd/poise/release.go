package main

import (
	"os"

	"github.com/spf13/cobra"

	"poise/internal/director"
)

func releaseCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "release [SERVICE]",
		Short: "End a hold of a service; without one, hand over the virtual addresses that a killed daemon left",
		Long: `With a service, end what "poise hold" began: the kernel gets what checks, operators and the file have decided
meanwhile.

Without one, hand over the virtual addresses that a daemon left on this host when it was killed with all its
processes: other nodes are told that they may take over, and within a second the addresses are gone from here.
While a daemon runs, or when nothing is left, this does nothing. The systemd unit calls it after each stop.`,
		Args: wantArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return releaseService(cmd.Context(), cmd.OutOrStdout(), dir, args[0])
			}
			return director.Release(dir, newLogger(os.Stderr))
		},
		ValidArgsFunction: completeService(&dir),
	}
	runtimeDirFlag(cmd, &dir)
	return cmd
}
