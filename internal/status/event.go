package status

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// Event is one thing that happened and why. The log line, the list of "poise events" and the
// line on the control socket are all made from it.
type Event struct {
	Seq     uint64         `json:"seq"` // given by the ring; counts from 1 since the daemon started
	Time    time.Time      `json:"time"`
	Level   slog.Level     `json:"level"`
	What    string         `json:"what"` // a constant phrase: "server down"
	Router  string         `json:"router,omitempty"`
	Service string         `json:"service,omitempty"`
	Server  netip.AddrPort `json:"server,omitzero"`
	Cause   string         `json:"cause,omitempty"`
}

// Attrs are the parts that vary, for a logger.
func (e Event) Attrs() []slog.Attr {
	var attrs []slog.Attr
	if e.Router != "" {
		attrs = append(attrs, slog.String("router", e.Router))
	}
	if e.Service != "" {
		attrs = append(attrs, slog.String("service", e.Service))
	}
	if e.Server.IsValid() {
		attrs = append(attrs, slog.String("server", e.Server.String()))
	}
	if e.Cause != "" {
		attrs = append(attrs, slog.String("cause", e.Cause))
	}
	return attrs
}

// String is the event as one line: time, what, about what, why.
func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-5s %s", e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Level, e.What)
	if e.Router != "" {
		fmt.Fprintf(&b, ": %s", e.Router)
	}
	if e.Service != "" {
		fmt.Fprintf(&b, ": %s", e.Service)
	}
	if e.Server.IsValid() {
		fmt.Fprintf(&b, " %v", e.Server)
	}
	if e.Cause != "" {
		fmt.Fprintf(&b, " (%s)", e.Cause)
	}
	return b.String()
}
