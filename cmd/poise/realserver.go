package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"poise/internal/realserver"
)

func realserverCommand() *cobra.Command {
	var a realserverArgs
	cmd := &cobra.Command{
		Use:   "realserver",
		Short: "Prepare this host as a real server behind a director",
		Long: `Prepare this host as a real server behind a director.

  --mode dr   the virtual addresses stand on lo, and the host keeps silent about them in ARP, so that
              only the director gets their packets.
  --mode tun  as dr, and an interface unwraps what the director sends in a tunnel to --address.
  --mode nat  replies go back through the director, --gateway: everything by the default route, or
              with --port only what is sent from those ports.

With -c, all that is read from the directors' poise.toml: the services that name an address of this
host. Full NAT needs nothing here.

What was there before is remembered before each step, and undo restores it, also after an apply that
was interrupted. A reboot undoes everything by itself; with --persist a systemd unit applies it again.`,
		// With both, a mistyped subcommand is an error.
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&a.runtimeDir, "runtime-dir", defaultRuntimeDir, "where the former values are kept")
	_ = cmd.MarkPersistentFlagDirname("runtime-dir") // fails only for a flag that is not there

	plan := &cobra.Command{
		Use:   "plan [what apply is given]",
		Short: "Show what apply would do, and change nothing",
		Args:  wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.settings(cmd)
			if err != nil {
				return err
			}
			changes, err := realserver.Preview(all...)
			printChanges(cmd.OutOrStdout(), changes)
			return err
		},
	}
	apply := &cobra.Command{
		Use:   "apply --vip ADDRESS [--vip ADDRESS]...",
		Short: "Set this host up: what keeps it silent first, the addresses last",
		Args:  wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.settings(cmd)
			if err != nil {
				return err
			}
			changes, err := realserver.Apply(a.runtimeDir, all...)
			printChanges(cmd.OutOrStdout(), changes)
			if err == nil && a.persist {
				err = a.install(cmd)
			}
			return err
		},
	}
	undo := &cobra.Command{
		Use:   "undo [--vip ADDRESS]...",
		Short: "Restore what was there before; with --vip only those VIPs, and with the last one what they share",
		Args:  wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			vips, err := a.addresses()
			if err != nil {
				return err
			}
			changes, err := realserver.Undo(a.runtimeDir, vips...)
			printChanges(cmd.OutOrStdout(), changes)
			if err != nil {
				return err
			}
			if len(changes) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to undo")
			}
			if left, err := realserver.Applied(a.runtimeDir); left || err != nil {
				return errors.Join(err, a.remind(cmd))
			}
			return a.uninstall()
		},
	}
	status := &cobra.Command{
		Use:   "status [what apply was given]",
		Short: "Show the settings; exit 1 unless all are as they must be",
		Long: `Show the settings, by default those applied since the last boot.

The exit status is 0 when all are as they must be, and 1 otherwise: also when nothing is named
and nothing is applied.`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.settingsIfAny(cmd)
			if err != nil {
				return err
			}
			states, err := realserver.Status(a.runtimeDir, all...)
			if err != nil {
				return err
			}
			return printStates(cmd.OutOrStdout(), states)
		},
	}
	verify := &cobra.Command{
		Use:   "verify [what apply was given]",
		Short: "Show what the settings come to and what this host says on the wire; exit status by what is found",
		Long: `Show, for the settings named or else for those applied, what this host would do and what it does.

Each line says how it is known: computed from addresses, sysctls, rules and routes, or observed on the
wire while poise listens. A host cannot hear itself answer: poise doctor --servers asks, from a
director.

` + findingsHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.settingsIfAny(cmd)
			if err == nil && a.listen < 0 {
				err = fmt.Errorf("--listen %v: below 0s", a.listen)
			}
			if err != nil {
				return exitError{err, unexamined}
			}
			findings, err := realserver.Verify(cmd.Context(), a.runtimeDir, a.listen, all...)
			return printFindings(cmd.OutOrStdout(), findings, a.json, err)
		},
	}
	examines(verify, wantArgs(0, 0))
	verify.Flags().DurationVar(&a.listen, "listen", 5*time.Second, "how long to listen to what this host says; 0s is not at all")
	verify.Flags().BoolVar(&a.json, "json", false, "as JSON")
	apply.Flags().BoolVar(&a.persist, "persist", false, "also at each boot, by a systemd unit, until undo")
	undo.Flags().StringArrayVar(&a.vips, "vip", nil, "virtual address; may be repeated")
	for _, c := range []*cobra.Command{plan, apply, status, verify} {
		a.flags(c)
	}
	for _, c := range []*cobra.Command{apply, undo} {
		c.Flags().StringVar(&a.unitDir, "unit-dir", defaultUnitDir, "where systemd looks for units")
	}
	cmd.AddCommand(plan, apply, verify, undo, status)
	return cmd
}

const defaultUnitDir = "/etc/systemd/system"

func parseVIP(text string) (netip.Addr, error) {
	vip, err := netip.ParseAddr(text)
	switch {
	case err == nil:
		return vip, nil
	case strings.Contains(text, ","):
		return vip, fmt.Errorf("--vip %q: not an IP address: give --vip once for each", text)
	case strings.Contains(text, "/"):
		return vip, fmt.Errorf("--vip %q: not an IP address: give it without a prefix length", text)
	default:
		return vip, fmt.Errorf("--vip %q: not an IP address", text)
	}
}

func parsePort(text string) (realserver.Port, error) {
	number, protocol, found := strings.Cut(text, "/")
	if !found {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	// The kernel has no rule for the last one.
	if err != nil || n == 0 || n == 65535 || protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return realserver.Port{}, fmt.Errorf("--port %q: neither a port such as 80 nor one of a protocol such as 53/udp", text)
	}
	return realserver.Port{Protocol: protocol, Number: uint16(n)}, nil
}

func printChanges(w io.Writer, changes []realserver.Change) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer table.Flush()
	for _, c := range changes {
		switch {
		case c.Left != "" && c.Before == c.After:
			fmt.Fprintf(table, "%s\t%s, left: %s\n", c.Key, c.Before, c.Left)
		case c.Left != "":
			fmt.Fprintf(table, "%s\t%s → %s, left: %s\n", c.Key, c.Before, c.After, c.Left)
		case c.Before == c.After:
			fmt.Fprintf(table, "%s\t%s, already so\n", c.Key, c.Before)
		default:
			fmt.Fprintf(table, "%s\t%s → %s\n", c.Key, c.Before, c.After)
		}
	}
}

// printStates returns an error when one of the states is not as it must be.
func printStates(w io.Writer, states []realserver.State) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer table.Flush()
	wrong := 0
	for _, s := range states {
		verdict, former := "ok", "not applied by poise"
		if s.Former != "" {
			former = "was " + s.Former
		}
		if !s.OK() {
			wrong++
			verdict = "must be " + s.Want[0]
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Key, s.Now, verdict, former)
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d settings are not as they must be: see poise realserver apply", wrong, len(states))
	}
	return nil
}
