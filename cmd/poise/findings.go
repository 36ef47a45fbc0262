package main

import (
	"fmt"
	"io"

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
