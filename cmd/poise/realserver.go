package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"poise/internal/realserver"
)

func realserverCommand() *cobra.Command {
	var (
		settings   realserver.Settings
		vips       []string
		runtimeDir string
	)
	cmd := &cobra.Command{
		Use:   "realserver",
		Short: "Prepare this host as a real server behind a director",
		Long: `Prepare this host as a real server behind a director.

For direct routing (--mode dr) the virtual addresses stand on lo, and the host keeps silent about
them in ARP, so that only the director gets their packets. What was there before is remembered,
and undo restores it. Nothing of this survives a reboot: run apply at each boot.`,
		// With both, a mistyped subcommand is an error.
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			for _, text := range vips {
				vip, err := parseVIP(text)
				if err != nil {
					return err
				}
				settings.VIPs = append(settings.VIPs, vip)
			}
			return nil
		},
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&settings.Mode, "mode", "dr", "how the director forwards; only dr")
	flags.StringArrayVar(&vips, "vip", nil, "virtual address; may be repeated")
	flags.StringVar(&runtimeDir, "runtime-dir", defaultRuntimeDir, "where the former values are kept")
	_ = cmd.MarkPersistentFlagDirname("runtime-dir") // fails only for a flag that is not there

	cmd.AddCommand(&cobra.Command{
		Use:   "apply --vip ADDRESS [--vip ADDRESS]...",
		Short: "Silence ARP, then add the VIPs to those on lo",
		Args:  wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := realserver.Apply(runtimeDir, settings)
			printChanges(cmd.OutOrStdout(), changes)
			return err
		},
	}, &cobra.Command{
		Use:   "undo [--vip ADDRESS]...",
		Short: "Restore what was there before; with --vip only those VIPs, and all with the last one",
		Args:  wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := realserver.Undo(runtimeDir, settings)
			printChanges(cmd.OutOrStdout(), changes)
			if err == nil && len(changes) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to undo")
			}
			return err
		},
	}, &cobra.Command{
		Use:   "status [--vip ADDRESS]...",
		Short: "Show the settings; exit 1 unless all are as they must be",
		Long: `Show the settings for the VIPs, by default those applied since the last boot.

The exit status is 0 when all are as they must be, and 1 otherwise: also when no VIP is named
and nothing is applied.`,
		Args: wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			states, err := realserver.Status(runtimeDir, settings)
			if err != nil {
				return err
			}
			return printStates(cmd.OutOrStdout(), states)
		},
	})
	return cmd
}

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

func printChanges(w io.Writer, changes []realserver.Change) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer table.Flush()
	for _, c := range changes {
		switch {
		case c.Left != "":
			fmt.Fprintf(table, "%s\t%s, left: %s\n", c.Key, c.Before, c.Left)
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
		return fmt.Errorf("%d of %d settings are not as direct routing needs them: see poise realserver apply", wrong, len(states))
	}
	return nil
}
