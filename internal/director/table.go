package director

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"poise/internal/status"
	"poise/ipvsctl"
)

// kernel is what the balancer needs of ipvsctl.Client.
type kernel interface {
	Read(context.Context) (ipvsctl.Table, map[ipvsctl.ServiceKey]ipvsctl.ServiceStats, error)
	Apply(context.Context, []ipvsctl.Op) []error // one an op, same order
}

// How long a change that the kernel refused is left alone before it is tried again.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// keeper keeps our entries of the kernel's table as they are wanted. It never touches foreign ones.
type keeper struct {
	kernel kernel
	owned  *ownership
	emit   func(status.Event)
	totals *status.Totals
	names  map[ipvsctl.ServiceKey]string // for events

	// believed is what the kernel held of ours when last seen or changed; nil when it must be read first.
	believed ipvsctl.Table
	refused  map[opID]*refusal
	unread   string // why the kernel's table could not be read; said once
}

// opID is what a change is about, so that a retry is recognised although its details may have moved on.
type opID struct {
	kind    ipvsctl.OpKind
	service ipvsctl.ServiceKey
	server  netip.AddrPort
}

// refusal is a change that the kernel did not accept.
type refusal struct {
	problem string
	wait    time.Duration
	next    time.Time
}

func idOf(op ipvsctl.Op) opID { return opID{op.Kind, op.Service, op.Server} }

// verify reads the kernel's table, says what somebody else has changed of ours, and makes it what is wanted.
func (k *keeper) verify(ctx context.Context, now time.Time, want ipvsctl.Table) {
	table, err := k.read(ctx)
	if err != nil {
		k.believed = nil
		return
	}
	ours := k.mine(table, want)
	if k.believed != nil {
		k.reportDrift(ipvsctl.Diff(ours, k.believed))
	}
	k.believed = ours
	k.apply(ctx, now, want)
}

// apply makes the kernel's table what is wanted, starting from what it is believed to be.
func (k *keeper) apply(ctx context.Context, now time.Time, want ipvsctl.Table) {
	if k.believed == nil {
		table, err := k.read(ctx)
		if err != nil {
			return
		}
		k.believed = k.mine(table, want)
	}
	// Identities go to disk before the kernel makes entries of them. Where the disk refuses, traffic is
	// worth more than the memory of whose entries carry it.
	k.claim(entriesOf(want, k.believed))
	all := ipvsctl.Diff(k.believed, want)
	k.forget(all)
	ops := k.due(now, all)
	failed := false
	broken := make(map[ipvsctl.ServiceKey]bool) // services that could not be made: their servers' errors only repeat that
	for i, err := range k.kernel.Apply(ctx, ops) {
		op := ops[i]
		if err == nil {
			k.totals.Writes++
			k.accepted(op)
			continue
		}
		failed = true
		k.totals.WriteErrors++
		if op.Kind == ipvsctl.AddService {
			broken[op.Service] = true
		} else if broken[op.Service] {
			delete(k.refused, idOf(op))
			continue
		}
		k.refuse(now, op, err)
	}
	if !failed && len(ops) == len(all) {
		k.believed = maps.Clone(want) // the caller goes on changing its own
		k.claim(entriesOf(want))
		return
	}
	// After an error only the kernel knows what it holds.
	k.believed = nil
	if table, err := k.read(ctx); err == nil {
		k.believed = k.mine(table, want)
	}
}

// remove takes all that is ours out of the kernel.
func (k *keeper) remove(ctx context.Context, now time.Time) {
	clear(k.refused)
	k.verify(ctx, now, ipvsctl.Table{})
}

// mine is the part of the kernel's table that is wanted, and so adopted, or known to be ours.
func (k *keeper) mine(table, want ipvsctl.Table) ipvsctl.Table {
	known := entriesOf(want)
	for key, servers := range k.owned.entries {
		if known[key] == nil {
			known[key] = make(map[netip.AddrPort]bool)
		}
		maps.Copy(known[key], servers)
	}
	return known.within(table)
}

func (k *keeper) read(ctx context.Context) (ipvsctl.Table, error) {
	table, _, err := k.kernel.Read(ctx)
	switch {
	case err != nil && err.Error() != k.unread:
		k.unread = err.Error()
		k.emit(status.Event{Level: slog.LevelError, What: "kernel table unreadable", Cause: k.unread})
	case err == nil && k.unread != "":
		k.unread = ""
		k.emit(status.Event{Level: slog.LevelInfo, What: "kernel table readable again"})
	}
	return table, err
}

func (k *keeper) claim(e entries) {
	if err := k.owned.claim(e); err != nil {
		k.emit(status.Event{Level: slog.LevelError, What: "ownership not recorded", Cause: err.Error()})
	}
}

// due leaves out the changes that were refused and whose time has not come, and what depends on them.
func (k *keeper) due(now time.Time, ops []ipvsctl.Op) []ipvsctl.Op {
	var due []ipvsctl.Op
	waits := make(map[ipvsctl.ServiceKey]bool)
	for _, op := range ops {
		r := k.refused[idOf(op)]
		switch {
		case r != nil && now.Before(r.next):
			waits[op.Service] = waits[op.Service] || op.Kind == ipvsctl.AddService
		case !waits[op.Service]:
			due = append(due, op)
		}
	}
	return due
}

func (k *keeper) refuse(now time.Time, op ipvsctl.Op, err error) {
	r := k.refused[idOf(op)]
	if r == nil {
		r = &refusal{}
		k.refused[idOf(op)] = r
	}
	r.wait = min(max(2*r.wait, firstRetry), lastRetry)
	r.next = now.Add(r.wait)
	if problem := err.Error(); problem != r.problem {
		r.problem = problem
		k.emit(status.Event{Level: slog.LevelError, What: "kernel refuses", Service: k.names[op.Service], Cause: problem})
	}
}

func (k *keeper) accepted(op ipvsctl.Op) {
	if k.refused[idOf(op)] != nil {
		delete(k.refused, idOf(op))
		k.emit(status.Event{Level: slog.LevelInfo, What: "kernel accepts", Service: k.names[op.Service], Cause: op.String()})
	}
}

// forget drops refusals of changes that are no longer needed: others made them, or wanting has changed.
func (k *keeper) forget(needed []ipvsctl.Op) {
	if len(k.refused) == 0 {
		return
	}
	ids := make(map[opID]bool)
	for _, op := range needed {
		ids[idOf(op)] = true
	}
	maps.DeleteFunc(k.refused, func(id opID, _ *refusal) bool { return !ids[id] })
}

// problem is what the kernel has against a service, "" when nothing.
func (k *keeper) problem(key ipvsctl.ServiceKey) string {
	var problems []string
	for id, r := range k.refused {
		if id.service == key {
			problems = append(problems, r.problem)
		}
	}
	slices.Sort(problems)
	return strings.Join(problems, "; ")
}

// nextRetry is when the first refused change may be tried again, zero when none was refused.
func (k *keeper) nextRetry() time.Time {
	var first time.Time
	for _, r := range k.refused {
		if first.IsZero() || r.next.Before(first) {
			first = r.next
		}
	}
	return first
}

// reportDrift says what has to be put back, one event a service: a flushed table is one story, not ten thousand.
func (k *keeper) reportDrift(back []ipvsctl.Op) {
	const shown = 3
	for _, ops := range chunkByService(back) {
		k.totals.Drift += uint64(len(ops))
		var words []string
		for _, op := range ops[:min(shown, len(ops))] {
			words = append(words, op.String())
		}
		if more := len(ops) - shown; more > 0 {
			words = append(words, fmt.Sprintf("%d more", more))
		}
		k.emit(status.Event{
			Level: slog.LevelWarn, What: "drift", Service: k.names[ops[0].Service],
			Cause: "changed by somebody else, put back: " + strings.Join(words, ", "),
		})
	}
}

// chunkByService splits changes, which Diff orders by service, at the borders between services.
func chunkByService(ops []ipvsctl.Op) [][]ipvsctl.Op {
	var chunks [][]ipvsctl.Op
	for len(ops) > 0 {
		n := slices.IndexFunc(ops, func(op ipvsctl.Op) bool { return op.Service != ops[0].Service })
		if n < 0 {
			n = len(ops)
		}
		chunks = append(chunks, ops[:n])
		ops = ops[n:]
	}
	return chunks
}
