package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
)

// newLogger writes a line a record to w. Under systemd the journal knows the time, and wants the level in its own way.
func newLogger(w io.Writer) *slog.Logger {
	options := slog.HandlerOptions{Level: slog.LevelInfo}
	if os.Getenv("POISE_LOG") == "debug" {
		options.Level = slog.LevelDebug
	}
	if os.Getenv("JOURNAL_STREAM") != "" {
		w = journal{w}
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, &options))
}

// priorities are what sd-daemon(3) wants for the words that a line without time begins with.
var priorities = map[string]string{"level=DEBUG": "<7>", "level=INFO": "<6>", "level=WARN": "<4>", "level=ERROR": "<3>"}

// journal turns the level of each line into the priority by which "journalctl -p" selects. A handler writes
// a whole line at once.
type journal struct{ io.Writer }

func (j journal) Write(line []byte) (int, error) {
	marked := line
	level, rest, _ := bytes.Cut(line, []byte(" "))
	if priority, ok := priorities[string(level)]; ok {
		marked = append([]byte(priority), rest...)
	}
	if _, err := j.Writer.Write(marked); err != nil {
		return 0, err
	}
	return len(line), nil
}
