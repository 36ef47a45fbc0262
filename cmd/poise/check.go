package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"poise/config"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Validate a configuration file: every mistake with its line, exit status 1 if there is any",
		Long: `Validate a configuration file, without FILE ` + defaultConfigFile + `, and change nothing:
every mistake is shown with its line, and the exit status is 1 if there is any.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file := configFile(args)
			cfg, err := config.Load(file, nil)
			if err != nil {
				return err
			}
			servers := 0
			for _, s := range cfg.Services {
				servers += len(s.Servers)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: valid: routers %d, services %d, servers %d\n", file, len(cfg.Routers), len(cfg.Services), servers)
			return err
		},
	}
	takeConfigFile(cmd)
	return cmd
}
