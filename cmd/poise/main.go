// Command poise balances connections over real servers with the kernel's IPVS, and keeps addresses alive on one of
// several directors.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"poise/config"
	"poise/internal/director"
	"poise/ipvsctl/adm"
)

func main() {
	// A child of the daemon is told by its name; it has no command line to parse.
	if role, ok := director.ChildRole(os.Args); ok {
		exit(director.RunChild(role, os.Args, newLogger(os.Stderr)))
	}
	switch filepath.Base(os.Args[0]) {
	case "ipvsadm", "ipvsadm-save", "ipvsadm-restore":
		os.Exit(adm.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	exit(rootCommand().Execute())
}

// exit ends the process: with every line of err on standard error and status 1, or with status 0.
func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	prefix := "poise: "
	if _, ok := errors.AsType[*config.Error](err); ok {
		prefix = "" // editors find the place by the file:line at the start
	}
	for line := range strings.FieldsFuncSeq(err.Error(), func(r rune) bool { return r == '\n' }) {
		fmt.Fprintf(os.Stderr, "%s%s\n", prefix, line)
	}
	status := 1
	if e, ok := errors.AsType[exitError](err); ok {
		status = e.status
	}
	os.Exit(status)
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "poise",
		Short:         "Load balancer for Linux directors: a table true to the health of real servers, addresses that outlive a director",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	// Few arguments are files; those that are say so.
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.AddCommand(
		runCommand(), reloadCommand(), checkCommand(),
		statusCommand(), eventsCommand(),
		drainCommand(), enableCommand(), weightCommand(), holdCommand(), failoverCommand(),
		doctorCommand(), realserverCommand(), ipvsCommand(), releaseCommand(), versionCommand(),
	)
	return root
}

// wantArgs wants least to most arguments, and else shows which.
func wantArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("usage: %s", cmd.UseLine())
		}
		return nil
	}
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
