// Package finding is what an examination of a host says: one thing after the other that should be true, and whether it is.
package finding

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Finding is one thing that should be true.
type Finding struct {
	How      How      `json:"how"`
	What     string   `json:"what"`
	Severity Severity `json:"severity"`
	Seen     string   `json:"seen"`
	Want     string   `json:"want,omitzero"`   // unless it is OK
	Remedy   string   `json:"remedy,omitzero"` // unless it is OK
	Page     string   `json:"page,omitzero"`   // of the documentation, unless it is OK
}

// How a finding came about.
type How string

// A host cannot hear itself answer: what it would do is computed from its settings, what it and others say is observed on
// the wire, and what another host does is probed by asking it.
const (
	Computed How = "computed"
	Observed How = "observed"
	Probed   How = "probed"
)

// Severity is how bad it is that something is not true.
type Severity int

// The severities, which are exit statuses, too.
const (
	OK      Severity = 0
	Warning Severity = 1 // it works, and may not tomorrow or under load
	Fault   Severity = 2 // it does not work
)

// FaultUnless is OK if something is true, else Fault.
func FaultUnless(is bool) Severity {
	if is {
		return OK
	}
	return Fault
}

// String is "ok", "warning" or "FAULT".
func (s Severity) String() string { return [...]string{"ok", "warning", "FAULT"}[s] }

// MarshalText is the same without shouting.
func (s Severity) MarshalText() ([]byte, error) {
	return []byte([...]string{"ok", "warning", "fault"}[s]), nil
}

// UnmarshalText reads what MarshalText writes.
func (s *Severity) UnmarshalText(text []byte) error {
	for _, *s = range []Severity{OK, Warning, Fault} {
		if t, _ := s.MarshalText(); string(t) == string(text) {
			return nil
		}
	}
	return fmt.Errorf("%q is no severity", text)
}

// Worst is the greatest severity among findings.
func Worst(all []Finding) Severity {
	worst := OK
	for _, f := range all {
		worst = max(worst, f.Severity)
	}
	return worst
}

// Count is how many are not OK.
func Count(all []Finding) (n int) {
	for _, f := range all {
		if f.Severity != OK {
			n++
		}
	}
	return n
}

// Refer gives this page to those that are wrong and have none.
func Refer(all []Finding, page string) {
	for i := range all {
		if all[i].Severity != OK && all[i].Page == "" {
			all[i].Page = page
		}
	}
}

// Print writes findings as a table, the remedy below what is wrong.
func Print(w io.Writer, all []Finding) error {
	var rows bytes.Buffer
	table := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
	for _, f := range all {
		fmt.Fprintf(table, "%v\t%s\t%s\t%s\n", f.Severity, f.How, f.What, strings.ReplaceAll(f.Seen, "\n", " "))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var text strings.Builder
	for _, f := range all {
		row, err := rows.ReadString('\n')
		if err != nil {
			return err
		}
		text.WriteString(row)
		for _, more := range []struct{ what, is string }{{"want", f.Want}, {"remedy", f.Remedy}, {"see", f.Page}} {
			if f.Severity != OK && more.is != "" {
				fmt.Fprintf(&text, "    %s: %s\n", more.what, more.is)
			}
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// PrintJSON writes findings as a JSON list.
func PrintJSON(w io.Writer, all []Finding) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(append([]Finding{}, all...)) // an empty list is one, too
}
