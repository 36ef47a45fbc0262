package config

import (
	"fmt"
	"strings"
)

// Error is one mistake in a file, as it is shown to whoever wrote it:
//
//	poise.toml:31: service "web": check.interval = "2x": not a duration such as "500ms" or "2s"
type Error struct {
	File   string // as it was named to Load
	Line   int    // counted from 1
	Object string // whose mistake it is: `service "web", server 10.0.0.7`; "" for the file itself
	Key    string // within the object; "" for a syntax error
	Value  string // as the file writes it, shortened; "" where there is none
	Rule   string // what is wrong
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: ", e.File, e.Line)
	if e.Object != "" {
		b.WriteString(e.Object + ": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key)
		if e.Value != "" {
			b.WriteString(" = " + e.Value)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Rule)
	return b.String()
}

// shorten cuts text to what is readable as a part of a line.
func shorten(text string) string {
	const most = 64
	short, _, _ := strings.Cut(text, "\n")
	short = strings.TrimRight(short, "\r")
	if len(short) > most {
		short = strings.ToValidUTF8(short[:most], "")
	}
	if short != text {
		short += "…"
	}
	return short
}
