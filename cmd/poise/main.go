// Command poise balances connections over real servers with the kernel's IPVS.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"poise/internal/director"
)

func main() {
	// A child of the daemon is told by its name; it has no command line to parse.
	if role, ok := director.ChildRole(os.Args); ok {
		exit(director.RunChild(role, os.Args, newLogger()))
	}
	exit(rootCommand().Execute())
}

// exit ends the process: with every line of err on standard error and status 1, or with status 0.
func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	for line := range strings.FieldsFuncSeq(err.Error(), func(r rune) bool { return r == '\n' }) {
		fmt.Fprintf(os.Stderr, "poise: %s\n", line)
	}
	os.Exit(1)
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "poise",
		Short:         "Load balancer for Linux directors: keeps the kernel's IPVS table true to the health of real servers",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		runCommand(), checkCommand(),
		statusCommand(), eventsCommand(),
		drainCommand(), enableCommand(), weightCommand(),
		realserverCommand(), versionCommand(),
	)
	return root
}

// exactArgs wants n arguments, and else shows which.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// newLogger writes to standard error. Under systemd the journal adds the time itself.
func newLogger() *slog.Logger {
	var options slog.HandlerOptions
	if os.Getenv("JOURNAL_STREAM") != "" {
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &options))
}

// release is set when a release is built; other builds are known by their commit.
var release string

// version is the release, or the commit that was built.
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return "unreleased"
}
