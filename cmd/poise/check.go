package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"poise/config"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Validate a configuration file: every mistake with its line, exit status 1 if there is any",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if err != nil {
				return err
			}
			servers := 0
			for _, s := range cfg.Services {
				servers += len(s.Servers)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: valid: services %d, servers %d\n", args[0], len(cfg.Services), servers)
			return err
		},
	}
}
