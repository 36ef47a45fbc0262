package main

import (
	"github.com/spf13/cobra"

	"poise/internal/director"
)

// defaultRuntimeDir is emptied at boot, like the kernel's table that the files in it are about.
const defaultRuntimeDir = "/run/poise"

func runtimeDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "runtime-dir", defaultRuntimeDir, "where the control socket and the undo records are")
}

func runCommand() *cobra.Command {
	var o director.Options
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run the director daemon",
		Long: `Run the director daemon in the foreground: check the servers and keep the kernel's IPVS table
as the file says. SIGHUP reads the file again, whole or not at all. SIGTERM stops; whether the kernel
goes on balancing then is up to on_stop.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Version = version()
			o.Log = newLogger()
			return director.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVarP(&o.ConfigFile, "config", "c", "/etc/poise/poise.toml", "the configuration file")
	runtimeDirFlag(cmd, &o.RuntimeDir)
	return cmd
}
