package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"poise/config"
	"poise/internal/doctor"
	"poise/internal/finding"
	"poise/internal/status"
)

func doctorCommand() *cobra.Command {
	var asJSON, servers bool
	var dir string
	cmd := &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Examine this director, its neighbours and its servers; exit status by what is found",
		Long: `Examine this host as a director with the configuration FILE, without FILE ` + defaultConfigFile + `,
and change nothing: permissions, kernel, sysctls, limits, interfaces, who sends the adverts of each
virtual router in three of its intervals, who answers on the wire for each virtual address, and
whether every server answers at its own address.

With --servers also ask every server through each virtual address, by the service's own forwarding
method, on the master or the backup, and see which way its replies to clients go. For this, hidden
services with firewall marks from 0x50100000 on, table inet poise_probe and accept_local come into
being, and go again with the command; after a kill, with the next one.

Each line says how it is known: computed from what the kernel says of itself, observed on the wire,
or probed by asking. What is wrong comes with a remedy.

` + findingsHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP) // so that what it changes is undone
			defer stop()
			cfg, err := config.Load(configFile(args), nil)
			if err != nil {
				return exitError{err, unexamined}
			}
			balancer, findings := balancerOf(ctx, dir)
			more, err := doctor.Examine(ctx, cfg, balancer)
			findings = append(findings, more...)
			if servers && ctx.Err() == nil {
				more, errServers := doctor.Servers(ctx, cfg, dir)
				findings, err = append(findings, more...), errors.Join(err, errServers)
			}
			return printFindings(cmd.OutOrStdout(), findings, asJSON, err)
		},
	}
	takeConfigFile(cmd)
	examines(cmd, cmd.Args)
	cmd.Flags().BoolVar(&servers, "servers", false, "also ask every server through the virtual addresses")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	runtimeDirFlag(cmd, &dir)
	return cmd
}

// daemonTime is how long the daemon has to answer: this is for when something is wrong, too.
const daemonTime = 2 * time.Second

// balancerOf is the balancer of the daemon with this runtime directory; 0 where none runs, or where it hangs, which is a finding.
func balancerOf(ctx context.Context, dir string) (pid int, hung []finding.Finding) {
	ctx, cancel := context.WithTimeout(ctx, daemonTime)
	defer cancel()
	var snap status.Snapshot
	body, err := request(ctx, dir, http.MethodGet, "/v1/status", nil)
	if err == nil {
		defer body.Close()
		err = json.NewDecoder(body).Decode(&snap)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		hung = append(hung, finding.Finding{
			How: finding.Probed, What: "the daemon answers", Severity: finding.Warning, Seen: fmt.Sprintf("not within %v", daemonTime),
			Want: "its status", Remedy: "journalctl -u poise: what it said last; then systemctl restart poise", Page: "docs/operations.md#examining-a-director",
		})
	}
	return snap.Balancer.PID, hung
}
