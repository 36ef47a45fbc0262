package main

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"poise/internal/status"
)

// completeServer offers the shell the daemon's services and, after one of them, its servers.
func completeServer(runtimeDir *string) cobra.CompletionFunc {
	return complete(runtimeDir, func(snap *status.Snapshot, args []string) (words []cobra.Completion) {
		for _, service := range snap.Services {
			switch {
			case len(args) == 0:
				words = append(words, service.Name)
			case len(args) == 1 && args[0] == service.Name:
				for _, server := range service.Servers {
					words = append(words, server.Addr.String())
				}
			}
		}
		return words
	})
}

// completeService offers the shell the daemon's services.
func completeService(runtimeDir *string) cobra.CompletionFunc {
	return complete(runtimeDir, func(snap *status.Snapshot, args []string) (words []cobra.Completion) {
		if len(args) == 0 {
			for _, service := range snap.Services {
				words = append(words, service.Name)
			}
		}
		return words
	})
}

// completeRouter offers the shell the daemon's routers.
func completeRouter(runtimeDir *string) cobra.CompletionFunc {
	return complete(runtimeDir, func(snap *status.Snapshot, args []string) (words []cobra.Completion) {
		if len(args) == 0 {
			for _, router := range snap.Routers {
				words = append(words, router.Name)
			}
		}
		return words
	})
}

// complete offers what choose finds in the daemon's status, for the word after args. Without an answer it offers
// nothing: a half-typed line is no place for an error.
func complete(runtimeDir *string, choose func(snap *status.Snapshot, args []string) []cobra.Completion) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		body, err := request(ctx, *runtimeDir, http.MethodGet, "/v1/status", nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer body.Close()
		var snap status.Snapshot
		if json.NewDecoder(body).Decode(&snap) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return choose(&snap, args), cobra.ShellCompDirectiveNoFileComp
	}
}
