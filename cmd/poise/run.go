package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"poise/internal/director"
)

// defaultConfigFile is what commands take when none is named.
const defaultConfigFile = "/etc/poise/poise.toml"

// defaultRuntimeDir is emptied at boot, like the kernel's table that the files in it are about.
const defaultRuntimeDir = "/run/poise"

func runtimeDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "runtime-dir", defaultRuntimeDir, "where the control socket and the undo records are")
	_ = cmd.MarkFlagDirname("runtime-dir") // fails only for a flag that does not exist
}

func runCommand() *cobra.Command {
	var o director.Options
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run the director daemon",
		Long: `Run the director daemon in the foreground: check the servers and keep the kernel's IPVS table
as the file says. SIGHUP, or poise reload, reads the file again, whole or not at all. SIGTERM stops;
whether the kernel goes on balancing then is up to on_stop. With POISE_LOG=debug in the environment
the log tells more, such as each failed check.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			// What status shows must make sense to who stands in another directory.
			if o.ConfigFile, err = filepath.Abs(o.ConfigFile); err != nil {
				return err
			}
			o.Version = version()
			o.Log = newLogger(os.Stderr)
			return director.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVarP(&o.ConfigFile, "config", "c", defaultConfigFile, "the configuration file")
	_ = cmd.MarkFlagFilename("config", "toml") // fails only for a flag that does not exist
	runtimeDirFlag(cmd, &o.RuntimeDir)
	// For measurements and tests: the balancer without IPVS.
	cmd.Flags().StringVar(&o.Table, "table", "", "record:FILE keeps the table in memory and writes its changes to FILE, instead of the kernel")
	_ = cmd.Flags().MarkHidden("table") // fails only for a flag that does not exist
	return cmd
}

// takeConfigFile has a command take a configuration file as its argument, or none.
func takeConfigFile(cmd *cobra.Command) {
	cmd.Args = wantArgs(0, 1)
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return []cobra.Completion{"toml"}, cobra.ShellCompDirectiveFilterFileExt
	}
}

// configFile is the file that such arguments name.
func configFile(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	return defaultConfigFile
}
