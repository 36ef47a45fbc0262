package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"poise/internal/status"
)

func eventsCommand() *cobra.Command {
	var dir string
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened and why, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := "/v1/events"
			if follow {
				path += "?follow=1"
			}
			body, err := request(cmd.Context(), dir, http.MethodGet, path, nil)
			if err != nil {
				return err
			}
			defer body.Close()
			if asJSON {
				_, err := io.Copy(cmd.OutOrStdout(), body)
				return err
			}
			events := json.NewDecoder(body)
			for {
				var e status.Event
				if err := events.Decode(&e); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), e); err != nil {
					return err
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each event as a line of JSON")
	runtimeDirFlag(cmd, &dir)
	return cmd
}
