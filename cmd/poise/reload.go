package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"
)

func reloadCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Let the daemon read its configuration file again, whole or not at all",
		Long: `Let the daemon read its configuration file again and wait until the kernel has been told.
When there is a mistake in it, nothing changes: each is shown with its line, and the exit status is 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := request(cmd.Context(), dir, http.MethodPost, "/v1/reload", nil)
			if err != nil {
				return err
			}
			defer body.Close()
			taken, err := io.ReadAll(body)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "reloaded: %s\n", bytes.TrimSpace(taken))
			return err
		},
	}
	runtimeDirFlag(cmd, &dir)
	return cmd
}
