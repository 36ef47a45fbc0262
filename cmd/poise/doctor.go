package main

import (
	"github.com/spf13/cobra"

	"poise/config"
	"poise/internal/doctor"
)

func doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Examine this director and who answers for its addresses; exit 1 if something is wrong",
		Long: `Examine this host as a director with the configuration FILE, without FILE ` + defaultConfigFile + `,
and change nothing: permissions, IPVS, sysctls, the table of tracked connections, and who answers on
the wire for each virtual address.

Each line says how it is known: computed from what the kernel says of itself, or probed by asking the
neighbours. What is wrong comes with a remedy.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(configFile(args), nil)
			if err != nil {
				return err
			}
			findings, err := doctor.Examine(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return printFindings(cmd.OutOrStdout(), findings, asJSON)
		},
	}
	takeConfigFile(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}
