package main

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"poise/internal/status"
)

func statusCommand() *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon does now, and why",
		Long: `Show what the daemon does now, and why; problems come first. The exit status is 0 whenever the daemon
answers, whatever it says.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := request(cmd.Context(), dir, http.MethodGet, "/v1/status", nil)
			if err != nil {
				return err
			}
			defer body.Close()
			if asJSON {
				_, err := io.Copy(cmd.OutOrStdout(), body)
				return err
			}
			var snap status.Snapshot
			if err := json.NewDecoder(body).Decode(&snap); err != nil {
				return err
			}
			return snap.Text(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	runtimeDirFlag(cmd, &dir)
	return cmd
}
