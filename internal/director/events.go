package director

import (
	"context"
	"log/slog"
	"sync"

	"poise/internal/status"
)

// ringSize is how many events are kept: enough for a night with a flapping server, about 200 kB.
const ringSize = 1024

// ring keeps the latest events. It lives in the parent, so that it survives the balancer.
type ring struct {
	mu      sync.Mutex
	events  []status.Event // oldest first
	last    uint64
	changed chan struct{} // closed and replaced at each new event
}

func newRing() *ring { return &ring{changed: make(chan struct{})} }

func (r *ring) add(e status.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	e.Seq = r.last
	if len(r.events) == ringSize {
		r.events = append(r.events[:0], r.events[1:]...)
	}
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

// since returns the events kept that came after number seq, and a channel that closes when there are more.
func (r *ring) since(seq uint64) ([]status.Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range r.events {
		if e.Seq > seq {
			return append([]status.Event(nil), r.events[i:]...), r.changed
		}
	}
	return nil, r.changed
}

// logEvent writes the log line of an event: the one place where a decision becomes text in the journal.
func logEvent(log *slog.Logger, e status.Event) {
	log.LogAttrs(context.Background(), e.Level, e.What, e.Attrs()...)
}
