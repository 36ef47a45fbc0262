package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"poise/internal/finding"
)

// exitError is an error with an exit status of its own.
type exitError struct {
	error
	status int
}

func (e exitError) Unwrap() error { return e.error }

// unexamined is the exit status of an examination that could not be made, as monitoring knows it (unknown). Else it is that of
// the worst finding.
const unexamined = 3

// findingsHelp is what commands that show findings say of their exit status.
const findingsHelp = "The exit status is 0 when nothing is wrong, 1 with warnings only, 2 with a fault, and 3 when not all could be\nexamined."

// examines has a command line that cannot be understood end as an examination that could not be made: status 1 would
// tell monitoring that it was.
func examines(cmd *cobra.Command, args cobra.PositionalArgs) {
	cmd.Args = func(cmd *cobra.Command, words []string) error {
		if err := args(cmd, words); err != nil {
			return exitError{err, unexamined}
		}
		return nil
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exitError{err, unexamined} })
}

// printFindings shows what an examination found. The error says how much is wrong, and err, why it is not complete.
func printFindings(w io.Writer, findings []finding.Finding, asJSON bool, err error) error {
	show := finding.Print
	if asJSON {
		show = finding.PrintJSON
	}
	if errShow := show(w, findings); err == nil {
		err = errShow
	}
	if err != nil {
		return exitError{err, unexamined}
	}
	if n := finding.Count(findings); n > 0 {
		return exitError{fmt.Errorf("%d of %d are wrong", n, len(findings)), int(finding.Worst(findings))}
	}
	return nil
}
