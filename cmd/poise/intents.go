package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"poise/internal/director"
	"poise/internal/status"
)

func drainCommand() *cobra.Command {
	return lasting(intentCommand("drain", "Give a server no new connections, whatever its checks say; those it has go on", nil))
}

func enableCommand() *cobra.Command {
	return intentCommand("enable", "End what drain and weight began: checks and configuration decide again", nil)
}

func weightCommand() *cobra.Command {
	cmd := lasting(intentCommand("weight", "Give a server another weight than the configured one", parseWeight))
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		// A negative number looks like short flags.
		type unknownFlag interface {
			error
			GetSpecifiedShortnames() string
		}
		if flag, ok := errors.AsType[unknownFlag](err); ok {
			if _, notNumber := strconv.Atoi(flag.GetSpecifiedShortnames()); notNumber == nil {
				_, err = parseWeight("-" + flag.GetSpecifiedShortnames())
			}
		}
		return err
	})
	return cmd
}

func parseWeight(arg string) (*int, error) {
	weight, err := strconv.ParseInt(arg, 10, 32)
	if err != nil || weight < 0 {
		return nil, fmt.Errorf("weight %q: must be 0..2147483647", arg)
	}
	return new(int(weight)), nil
}

// lasting says of an intent how long it holds.
func lasting(cmd *cobra.Command) *cobra.Command {
	cmd.Long = cmd.Short + ".\nThe wish survives reloads and restarts of the daemon; a reboot or \"poise enable\" ends it."
	return cmd
}

// intentCommand is one of the operator's wishes about a server. parseWeight reads the third argument, where there is one.
func intentCommand(name, short string, parseWeight func(string) (*int, error)) *cobra.Command {
	var dir, reason string
	use, args := name+" SERVICE ADDRESS:PORT", 2
	if parseWeight != nil {
		use, args = use+" WEIGHT", 3
	}
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  wantArgs(args, args),
		RunE: func(cmd *cobra.Command, args []string) error {
			wish := director.IntentRequest{Reason: reason}
			if parseWeight != nil {
				weight, err := parseWeight(args[2])
				if err != nil {
					return err
				}
				wish.Weight = weight
			}
			path := fmt.Sprintf("/v1/services/%s/servers/%s/%s", url.PathEscape(args[0]), url.PathEscape(args[1]), name)
			body, err := request(cmd.Context(), dir, http.MethodPost, path, wish)
			if err != nil {
				return err
			}
			defer body.Close()
			var after status.Server
			if err := json.NewDecoder(body).Decode(&after); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %v: weight %d (%s)\n", args[0], after.Addr, after.Weight, after.Reason)
			return err
		},
		ValidArgsFunction: completeServer(&dir),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the colleague who looks next")
	runtimeDirFlag(cmd, &dir)
	return cmd
}
