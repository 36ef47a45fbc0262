package main

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/spf13/cobra"

	"poise/config"
	"poise/internal/doctor"
	"poise/internal/status"
)

func doctorCommand() *cobra.Command {
	var asJSON, servers bool
	var dir string
	cmd := &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Examine this director and who answers for its addresses; exit 1 if something is wrong",
		Long: `Examine this host as a director with the configuration FILE, without FILE ` + defaultConfigFile + `,
and change nothing: permissions, IPVS, sysctls, limits, interfaces, who sends the adverts of each
virtual router in three of its intervals, and who answers on the wire for each virtual address.

Each line says how it is known: computed from what the kernel says of itself, observed on the wire,
or probed by asking. What is wrong comes with a remedy.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(configFile(args), nil)
			if err != nil {
				return err
			}
			findings, err := doctor.Examine(cmd.Context(), cfg, balancerOf(cmd.Context(), dir))
			if err != nil {
				return err
			}
			if servers {
				more, err := doctor.Servers(cmd.Context(), cfg, dir)
				if err != nil {
					return err
				}
				findings = append(findings, more...)
			}
			return printFindings(cmd.OutOrStdout(), findings, asJSON)
		},
	}
	takeConfigFile(cmd)
	cmd.Flags().BoolVar(&servers, "servers", false, "also ask every server through the virtual addresses")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	runtimeDirFlag(cmd, &dir)
	return cmd
}

// balancerOf is the balancer of the daemon with this runtime directory; 0 where none runs.
func balancerOf(ctx context.Context, dir string) (pid int) {
	body, err := request(ctx, dir, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return 0
	}
	defer body.Close()
	var snap status.Snapshot
	if json.NewDecoder(body).Decode(&snap) != nil {
		return 0
	}
	return snap.Balancer.PID
}
