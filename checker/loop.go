// Package checker finds out which servers may take traffic.
//
//	Set(targets) ─▶ ┌──────┐ ── due ──▶ Probe: tcp, http, https ──▶ the server
//	clock ────────▶ │ Loop │ ◀─ error ─┘
//	                └──────┘ ── error ─▶ Health: rise, fall ──▶ Report
//
// The receiver of the reports sets weights from them, and a [Quorum] tells whether those suffice.
package checker

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"
)

// MaxInFlight bounds the probes under way, so that a network that answers nothing cannot take every
// descriptor. Probes beyond it wait their turn, longest overdue first; waiting is no failure.
const MaxInFlight = 1024

// grace is how long after its timeout a probe may come back and still be believed. One that takes longer
// was not waiting for the server: this process was stopped, or its machine was.
const grace = time.Second

// Key names a target for as long as it is checked: a server within a service.
type Key struct {
	Service string         `json:"service"`
	Server  netip.AddrPort `json:"server"`
}

// Target is one thing to check.
type Target struct {
	Key
	Addr   netip.AddrPort // where to ask
	Config Config         // complete and valid
}

// Report is the outcome of one probe and the verdict after it.
type Report struct {
	Key
	At   time.Time     // when the probe ended
	Late time.Duration // how long after its turn it began
	Took time.Duration
	// Err is nil for a success. An error that is ErrSelf did not count towards the verdict.
	Err     error
	State   State
	Changed bool // by this probe
}

// Loop checks many targets, each at its interval. Its methods may be called from any goroutine, and
// Set from the one that receives the reports.
type Loop struct {
	newProbe func(netip.AddrPort, Config) (Probe, error)
	sets     chan map[Key]*check
	results  chan result
	reports  chan Report
	ended    chan struct{}

	// The rest belongs to Run.
	checks   map[Key]*check
	idle     schedule
	inFlight int
	queue    []result // with a finished report, until it is received
}

// result is a probe's outcome on its way to the receiver.
type result struct {
	check  *check
	report Report
}

// NewLoop returns a loop without targets.
func NewLoop() *Loop {
	return &Loop{
		newProbe: NewProbe,
		sets:     make(chan map[Key]*check),
		results:  make(chan result, MaxInFlight), // a finished probe never waits to say so
		reports:  make(chan Report),
		ended:    make(chan struct{}),
	}
}

// Reports delivers the report of every probe. A target whose report waits here is not probed again
// until it was received.
func (l *Loop) Reports() <-chan Report { return l.reports }

// Set makes targets, whose keys are unique, all that is checked. An unchanged target goes on undisturbed.
// A changed one starts over but keeps its verdict, which was on the server and not on the question, until
// Rise or Fall new results overturn it. Once Set returns, no report of a target left out is delivered any more.
//
// An error, from [NewProbe], means that nothing was set. Set waits for Run to begin; after its end it does nothing.
func (l *Loop) Set(targets []Target) error {
	checks := make(map[Key]*check, len(targets))
	for _, t := range targets {
		probe, err := l.newProbe(t.Addr, t.Config)
		if err != nil {
			return fmt.Errorf("service %q: server %v: %w", t.Service, t.Server, err)
		}
		checks[t.Key] = &check{
			Target: t,
			probe:  probe,
			health: Health{Rise: t.Config.Rise, Fall: t.Config.Fall},
		}
	}
	select {
	case l.sets <- checks:
	case <-l.ended:
	}
	return nil
}

// Run checks until ctx ends, waits for the probes it started, and returns ctx's cause. It runs once.
func (l *Loop) Run(ctx context.Context) error {
	var probes sync.WaitGroup
	defer close(l.ended)
	defer probes.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()

	for ctx.Err() == nil {
		var wake <-chan time.Time
		for len(l.idle) > 0 && l.inFlight < MaxInFlight {
			if wait := time.Until(l.idle[0].due); wait > 0 {
				timer.Reset(wait)
				wake = timer.C
				break
			}
			c := l.idle.take()
			var probeCtx context.Context
			probeCtx, c.cancel = context.WithCancel(ctx)
			l.inFlight++
			probes.Go(func() { l.ask(probeCtx, c) })
		}

		var out chan<- Report
		var next result
		if len(l.queue) > 0 {
			out, next = l.reports, l.queue[0]
		}

		select {
		case <-ctx.Done():
		case <-wake:
		case checks := <-l.sets:
			l.replace(checks)
		case r := <-l.results:
			l.inFlight--
			r.check.cancel()
			l.judge(r)
		case out <- next.report:
			l.queue = l.queue[1:]
			l.rest(next.check)
		}
	}
	return context.Cause(ctx)
}

// ask runs one probe.
func (l *Loop) ask(ctx context.Context, c *check) {
	began := time.Now()
	err := c.probe(ctx)
	ended := time.Now()
	l.results <- result{c, Report{
		Key: c.Key, At: ended, Late: began.Sub(c.due), Took: ended.Sub(began), Err: err,
	}}
}

// judge turns a result into a verdict and queues the report, unless Set has dropped the check meanwhile.
func (l *Loop) judge(r result) {
	c, report := r.check, &r.report
	if l.checks[c.Key] != c {
		return
	}
	if report.Err != nil && report.Took > c.Config.Timeout+grace {
		report.Err = fmt.Errorf("%w: stopped or starved for %v", ErrSelf, (report.Took - c.Config.Timeout).Round(time.Millisecond))
	}
	if !errors.Is(report.Err, ErrSelf) {
		report.Changed = c.health.Observe(report.Err == nil)
	}
	report.State = c.health.State()
	l.queue = append(l.queue, r)
}

// rest puts a check back into the schedule, unless Set has dropped it meanwhile.
func (l *Loop) rest(c *check) {
	if l.checks[c.Key] == c {
		c.advance(time.Now())
		l.idle.add(c)
	}
}

// replace carries out Set.
func (l *Loop) replace(checks map[Key]*check) {
	now := time.Now()
	for key, c := range checks {
		old := l.checks[key]
		if old != nil && reflect.DeepEqual(old.Target, c.Target) {
			checks[key] = old
			continue
		}
		if old != nil {
			c.health.state = old.health.state
		}
		c.begin(now)
		l.idle = append(l.idle, c)
	}
	for key, old := range l.checks {
		if checks[key] != old && old.cancel != nil {
			old.cancel()
		}
	}
	l.checks = checks
	l.idle = slices.DeleteFunc(l.idle, func(c *check) bool { return checks[c.Key] != c })
	heap.Init(&l.idle)
	l.queue = slices.DeleteFunc(l.queue, func(r result) bool { return checks[r.check.Key] == nil })
}
