package director

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"poise/internal/status"
)

// outbox is what a child has still to say: to the log, and to its parent. Putting never waits, and the list is bounded:
// where the parent does not read, the oldest of what may be lost is.
type outbox struct {
	conn *conn // nil without a parent
	log  *slog.Logger

	mu      sync.Mutex
	filled  sync.Cond
	waiting []letter
	lost    uint64
	closing bool
	done    chan struct{}
}

type letter struct {
	message
	keep bool // may not be lost
}

func newOutbox(c *conn, log *slog.Logger) *outbox {
	o := &outbox{conn: c, log: log, done: make(chan struct{})}
	o.filled.L = &o.mu
	return o
}

func (o *outbox) put(m message, keep bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) >= ringSize {
		i := slices.IndexFunc(o.waiting, func(l letter) bool { return !l.keep })
		o.waiting = slices.Delete(o.waiting, max(i, 0), max(i, 0)+1)
		o.lost++
	}
	o.waiting = append(o.waiting, letter{m, keep})
	o.filled.Signal()
}

// event records a decision: in the log, and in the parent's ring.
func (o *outbox) event(e status.Event, keep bool) {
	e.Time = time.Now()
	o.put(message{Kind: kindEvent, Event: &e}, keep)
}

// missed is how many were lost.
func (o *outbox) missed() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost
}

// run says what is put until flush.
func (o *outbox) run() {
	defer close(o.done)
	for {
		o.mu.Lock()
		for len(o.waiting) == 0 && !o.closing {
			o.filled.Wait()
		}
		if len(o.waiting) == 0 {
			o.mu.Unlock()
			return
		}
		m := o.waiting[0].message
		o.waiting = o.waiting[1:]
		o.mu.Unlock()
		if m.Event != nil {
			logEvent(o.log, *m.Event)
		}
		if o.conn != nil {
			_ = o.conn.send(m) // the reader sees a parent that is gone
		}
	}
}

// flush waits until everything is said.
func (o *outbox) flush() {
	o.mu.Lock()
	o.closing = true
	o.filled.Signal()
	o.mu.Unlock()
	<-o.done
}
