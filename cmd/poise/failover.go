package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"poise/internal/director"
	"poise/internal/status"
)

func failoverCommand() *cobra.Command {
	var dir, reason string
	var undo bool
	cmd := &cobra.Command{
		Use:   "failover ROUTER",
		Short: "Hand a router's addresses over to another node, for planned work on this one",
		Long: `Hand a router's addresses over to another node, for planned work on this one.

The master announces that it leaves, and serves on until another node has taken over. When none does, it lets
go after a second or so (with longer adverts after one interval and a bit): look first whether another node lives.
From then on this node takes no part in the election, whatever becomes of the others. A backup just stays one.

The wish survives reloads and restarts of the daemon; --undo or a reboot ends it. After --undo the node takes
over again if its configuration says so (priority, preempt).`,
		Args: wantArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			verb := "hold"
			if undo {
				verb = "release"
			}
			path := fmt.Sprintf("/v1/routers/%s/%s", url.PathEscape(args[0]), verb)
			body, err := request(cmd.Context(), dir, http.MethodPost, path, director.IntentRequest{Reason: reason})
			if err != nil {
				return err
			}
			defer body.Close()
			var after status.Router
			if err := json.NewDecoder(body).Decode(&after); err != nil {
				return err
			}
			line := fmt.Sprintf("router %s: not in the configuration", args[0])
			if after.Interface != "" {
				line = after.Line() + "\n" + next(&after)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		},
		ValidArgsFunction: completeRouter(&dir),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the colleague who looks next")
	cmd.Flags().BoolVar(&undo, "undo", false, "let this node take part in the election again")
	cmd.MarkFlagsMutuallyExclusive("reason", "undo")
	runtimeDirFlag(cmd, &dir)
	return cmd
}

// next tells what follows for a router that was just held or released.
func next(r *status.Router) string {
	if r.Hold == nil {
		return "it takes part in the election again"
	}
	now := "no other node is heard to serve"
	if peer := r.ServedBy(time.Now()); peer.IsValid() {
		now = peer.String() + " serves"
	} else if r.Serving {
		now = "this node serves until another has taken over"
	}
	return fmt.Sprintf("%s; undo with: poise failover %s --undo", now, r.Name)
}
