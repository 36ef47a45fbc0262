package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// screen is where the story is written.
type screen struct {
	io.Writer
	colour bool
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

func (s screen) paint(code int, text string) string {
	if !s.colour {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, text)
}

func (s screen) bold(text string) string { return s.paint(1, text) }
func (s screen) check() string           { return s.paint(32, "✓") }

func (s screen) introduce() {
	machine := "this machine"
	if lab.Emulated() {
		machine = "an emulated machine: real ones are several times faster"
	}
	fmt.Fprintf(s, "\n%s on %s\n", s.bold("poise"), machine)
}

func (s screen) title(number int, name, title string) {
	fmt.Fprintf(s, "\n%s · %s\n", s.bold(fmt.Sprintf("%d %s", number, name)), title)
}

// say reports something that has been judged.
func (s screen) say(format string, args ...any) {
	fmt.Fprintf(s, "  %s %s\n", s.check(), fmt.Sprintf(format, args...))
}

func (s screen) failure(err error, log string) {
	cross := s.paint(31, "✗")
	if m, ok := errors.AsType[*mismatch](err); ok {
		fmt.Fprintf(s, "  %s expected: %s\n    seen:     %s\n", cross, m.expected, m.seen)
	} else {
		fmt.Fprintf(s, "  %s %v\n", cross, err)
	}
	fmt.Fprintf(s, "%s\n", log)
}

func (s screen) end(summary string, took time.Duration) {
	fmt.Fprintf(s, "\n%s\n%s\nAll of it came true in %.0f s, judged by the kernels' tables and addresses,\nwhat passed the wire, and the client's answers.\n",
		s.bold("Summary"), summary, took.Seconds())
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
