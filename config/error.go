package config

import (
	"fmt"
	"strings"
	"unicode"
)

// Error is one mistake in a file, as it is shown to whoever wrote it:
//
//	poise.toml:31: service "web": check.interval = "2x": not a duration such as "500ms" or "2s"
type Error struct {
	File   string // as it was named to Load
	Line   int    // counted from 1
	Object string // whose mistake it is: `service "web", server 10.0.0.7`; "" for the file itself
	Key    string // within the object; "" for a syntax error
	Value  string // as the file writes it, shortened; of a syntax error the line; "" where there is none
	Rule   string // what is wrong
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: ", e.File, e.Line)
	if e.Object != "" {
		b.WriteString(e.Object + ": ")
	}
	switch {
	case e.Key != "" && e.Value != "":
		b.WriteString(e.Key + " = " + e.Value + ": ")
	case e.Key+e.Value != "":
		b.WriteString(e.Key + e.Value + ": ")
	}
	b.WriteString(e.Rule)
	return b.String()
}

// printable makes any text fit to stand in a line on a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.Join(strings.Fields(text), " "))
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
