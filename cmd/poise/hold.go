package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"poise/internal/director"
	"poise/internal/status"
)

func holdCommand() *cobra.Command {
	var dir, reason string
	cmd := &cobra.Command{
		Use:   "hold SERVICE",
		Short: "Leave a service's entries in the kernel alone, as they are or as you make them",
		Long: `Leave a service's entries in the kernel alone, as they are or as you make them with "poise ipvs": neither what
others change is put back, nor does what checks, operators and reloads decide reach the kernel. Checks go on, and
"poise status" shows what waits. A reload that takes the service out of the file ends it all the same.

The wish survives reloads and restarts of the daemon; "poise release SERVICE" or a reboot ends it.`,
		Args: wantArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			after, err := wishService(cmd.Context(), dir, args[0], "hold", reason)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s; undo with: poise release %s\n", after.HoldLine(), args[0])
			return err
		},
		ValidArgsFunction: completeService(&dir),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the colleague who looks next")
	runtimeDirFlag(cmd, &dir)
	return cmd
}

// releaseService ends what hold began.
func releaseService(ctx context.Context, out io.Writer, dir, name string) error {
	after, err := wishService(ctx, dir, name, "release", "")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, after.HoldLine())
	return err
}

// wishService tells the daemon a wish about a service, and returns the service as it is then.
func wishService(ctx context.Context, dir, name, verb, reason string) (after status.Service, err error) {
	path := fmt.Sprintf("/v1/services/%s/%s", url.PathEscape(name), verb)
	body, err := request(ctx, dir, http.MethodPost, path, director.IntentRequest{Reason: reason})
	if err != nil {
		return after, err
	}
	defer body.Close()
	return after, json.NewDecoder(body).Decode(&after)
}
