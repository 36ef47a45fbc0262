package director

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"poise/internal/status"
)

// view is what HTTP handlers see. It never waits for the parent's loop, which may be waiting for a child,
// and asks each child once for all who want to know.
type view struct {
	mu                sync.Mutex
	own               status.Snapshot // the parent's part
	balancer, elector witness
}

// witness is a child as the view sees it. It is guarded by the view's mutex.
type witness struct {
	source  *child           // nil while there is nobody to ask
	last    *status.Snapshot // the child's last words
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
func (v *view) publish(own status.Snapshot, balancer, elector *child) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.own = own
	v.balancer.source, v.balancer.changed = balancer, time.Now()
	v.elector.source, v.elector.changed = elector, time.Now()
}

// snapshot is the director's state. The children's parts were asked for after since, or are their last words,
// marked stale.
func (v *view) snapshot(ctx context.Context, since time.Time) *status.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ask(&v.balancer, since) // both at once
	v.ask(&v.elector, since)
	v.await(ctx, &v.balancer, since)
	v.await(ctx, &v.elector, since)
	s := v.own
	if w := &v.balancer; w.source != nil || s.Balancer != (status.Balancer{}) {
		s.Balancer.Stale = w.stale(since)
		s.Balancer.Problem = cmp.Or(s.Balancer.Problem, w.silent)
		if w.last != nil {
			s.Time, s.Services, s.Sysctls, s.OwnFault = w.last.Time, w.last.Services, w.last.Sysctls, w.last.OwnFault
			s.ForeignServices, s.Totals = w.last.ForeignServices, w.last.Totals
			s.Sync, s.SyncProblem, s.NFTProblem = w.last.Sync, w.last.SyncProblem, w.last.NFTProblem
		}
	}
	if w := &v.elector; w.source != nil || s.Elector != (status.Elector{}) {
		s.Elector.Stale = w.stale(since)
		s.Elector.Problem = cmp.Or(s.Elector.Problem, w.silent)
		if w.last != nil {
			s.Routers, s.Elector.NoRealtime, s.Elector.Heard = w.last.Routers, w.last.Elector.NoRealtime, w.last.Time
			s.Totals.Lost += w.last.Totals.Lost
		}
	}
	return &s
}

// stale tells whether the last words are older than since, or than what was published.
func (w *witness) stale(since time.Time) bool { return w.begun.Before(w.fresh(since)) }

// fresh is since, or when something changed if that was later.
func (w *witness) fresh(since time.Time) time.Time {
	if since.Before(w.changed) {
		return w.changed
	}
	return since
}

// ask begins a question unless one is under way, or the last answer is fresh.
func (v *view) ask(w *witness, since time.Time) {
	if w.asking == nil && w.source != nil && w.stale(since) {
		w.asking = &question{begun: time.Now(), done: make(chan struct{})}
		go v.answer(w, w.asking, w.source)
	}
}

// await waits for words that are fresh, or for the certainty that there are none.
func (v *view) await(ctx context.Context, w *witness, since time.Time) {
	since = w.fresh(since)
	for w.begun.Before(since) && w.source != nil && ctx.Err() == nil {
		v.ask(w, since)
		q := w.asking
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
}

// answer gets a snapshot from a child for all who wait for q.
func (v *view) answer(w *witness, q *question, source *child) {
	// Not with the context of one who waits: the others want to know even if he has left.
	answer, err := source.ask(context.Background(), askTimeout, message{Kind: kindSnapshot})
	v.mu.Lock()
	defer v.mu.Unlock()
	w.asking, w.silent = nil, ""
	if err != nil {
		w.silent = strings.TrimLeft(strings.TrimPrefix(err.Error(), "the "+source.role), ": ")
	} else if answer.Snapshot != nil && source == w.source {
		w.last, w.begun = answer.Snapshot, q.begun
	}
	close(q.done)
}
