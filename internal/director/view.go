package director

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"poise/internal/status"
)

// view is what HTTP handlers see. It never waits for the parent's loop, which may be waiting for the balancer,
// and asks the balancer once for all who want to know.
type view struct {
	mu      sync.Mutex
	own     status.Snapshot  // the parent's part
	source  *child           // nil while there is nobody to ask
	last    *status.Snapshot // the balancer's last words
	begun   time.Time        // when last was asked for
	changed time.Time        // when something was published: what was asked for earlier is not fresh any more
	asking  *question        // nil while nobody asks
	silent  string           // why the last question had no answer, "" when it had
}

// question is one request for a snapshot that several wait for.
type question struct {
	begun time.Time
	done  chan struct{}
}

// publish replaces what the view shows of the parent, and whom it asks.
func (v *view) publish(own status.Snapshot, source *child) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.own, v.source, v.changed = own, source, time.Now()
}

// snapshot is the director's state. The balancer's part was asked for after since, or is its last words,
// marked stale.
func (v *view) snapshot(ctx context.Context, since time.Time) *status.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	if since.Before(v.changed) {
		since = v.changed
	}
	for v.begun.Before(since) && v.source != nil && ctx.Err() == nil {
		q := v.asking
		if q == nil {
			q = &question{begun: time.Now(), done: make(chan struct{})}
			v.asking = q
			go v.ask(q, v.source)
		}
		v.mu.Unlock()
		select {
		case <-q.done:
		case <-ctx.Done():
		}
		v.mu.Lock()
		if !q.begun.Before(since) {
			break // answered or not, there is nothing fresher to wait for
		}
	}
	s := v.own
	s.Balancer.Stale = v.begun.Before(since)
	s.Balancer.Problem = cmp.Or(s.Balancer.Problem, v.silent)
	if v.last != nil {
		s.Time, s.Services, s.Sysctls, s.OwnFault = v.last.Time, v.last.Services, v.last.Sysctls, v.last.OwnFault
		s.ForeignServices, s.Totals = v.last.ForeignServices, v.last.Totals
	}
	return &s
}

// ask gets a snapshot from the balancer for all who wait for q.
func (v *view) ask(q *question, source *child) {
	// Not with the context of one who waits: the others want to know even if he has left.
	answer, err := source.ask(context.Background(), askTimeout, message{Kind: kindSnapshot})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asking, v.silent = nil, ""
	if err != nil {
		v.silent = strings.TrimPrefix(err.Error(), "the balancer: ")
	} else if answer.Snapshot != nil && source == v.source {
		v.last, v.begun = answer.Snapshot, q.begun
	}
	close(q.done)
}
