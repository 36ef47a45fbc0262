package director

import (
	"context"
	"errors"
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

// kernel is what the keeper needs of ipvsctl.Client.
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

	// configured is what the configuration names, in the table or not; set with each configuration.
	configured entries
	names      map[ipvsctl.ServiceKey]string // for events
	// held are services that an operator wants left alone, as they are or as somebody makes them.
	held map[ipvsctl.ServiceKey]bool

	// believed is what the kernel held of ours when last seen or changed; nil when it must be read first.
	believed ipvsctl.Table
	refused  map[opID]*refusal
	foreign  entries // seen last
	// What is wrong for longer, each said once when it begins and once when it ends.
	unread, unsaved lasting
}

// lasting is a trouble that is said when it begins, or changes, and when it ends.
type lasting struct{ now string }

func (l *lasting) set(err error, emit func(status.Event), begins, ends string) {
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	switch {
	case trouble == l.now:
	case trouble != "":
		emit(status.Event{Level: slog.LevelError, What: begins, Cause: trouble})
	default:
		emit(status.Event{Level: slog.LevelInfo, What: ends})
	}
	l.now = trouble
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
	if k.believed != nil {
		ours := k.known(k.believed).within(table)
		back := ipvsctl.Diff(ours, k.leaveHeld(ours, k.believed))
		k.tell(slog.LevelWarn, "drift", "changed by somebody else, put back: ", back)
		k.totals.Drift += uint64(len(back))
	}
	k.believed = k.known(want).within(table)
	k.apply(ctx, now, want)
}

// adopt begins with a new configuration over the kernel's table: what it names and the kernel already has is
// ours from now on. What that changes is said, as nothing else will.
//
// With between, what leaves goes only after that, which runs when all that stays and comes is there. Its error ends the
// adoption.
func (k *keeper) adopt(ctx context.Context, now time.Time, table, want ipvsctl.Table, between func() error) error {
	k.noteForeign(table)
	k.believed = k.known(want).within(table)
	k.tell(slog.LevelInfo, "table changed", "", ipvsctl.Diff(k.believed, k.leaveHeld(k.believed, want)))
	if between != nil {
		k.apply(ctx, now, k.withLeaving(want))
		if err := between(); err != nil {
			return err
		}
	}
	k.apply(ctx, now, want)
	return nil
}

// withLeaving returns want with the services of ours in the kernel that it lacks.
func (k *keeper) withLeaving(want ipvsctl.Table) ipvsctl.Table {
	all := maps.Clone(want)
	for key, service := range k.believed {
		if _, stays := want[key]; !stays {
			all[key] = service
		}
	}
	return all
}

// leaveHeld returns want with the services that are held as they are in have.
func (k *keeper) leaveHeld(have, want ipvsctl.Table) ipvsctl.Table {
	if len(k.held) == 0 {
		return want
	}
	want = maps.Clone(want)
	for key := range k.held {
		if service, exists := have[key]; exists {
			want[key] = service
		} else {
			delete(want, key)
		}
	}
	return want
}

// remove takes all that is ours out of the kernel, but for what is held, and says whether there is such.
func (k *keeper) remove(ctx context.Context, now time.Time) (left bool, err error) {
	clear(k.refused)
	table, err := k.read(ctx)
	if err != nil {
		return true, fmt.Errorf("our entries are still in the kernel: %w", err)
	}
	none := ipvsctl.Table{}
	_ = k.adopt(ctx, now, table, none, nil) // nothing comes between
	if k.believed == nil {
		return true, errors.New("our entries may still be in the kernel: " + k.unread.now)
	}
	if refused := ipvsctl.Diff(k.believed, k.leaveHeld(k.believed, none)); len(refused) > 0 {
		return true, fmt.Errorf("still in the kernel: %v", refused)
	}
	return len(k.believed) > 0, nil
}

// apply makes the kernel's table what is wanted, starting from what it is believed to be.
func (k *keeper) apply(ctx context.Context, now time.Time, want ipvsctl.Table) {
	if k.believed == nil {
		table, err := k.read(ctx)
		if err != nil {
			return
		}
		k.believed = k.known(want).within(table)
	}
	// Identities go to disk before the kernel makes entries of them. Where the disk refuses, traffic is
	// worth more than the memory of whose entries carry it.
	k.claim(k.owned.atLeast(want, k.believed))
	want = k.leaveHeld(k.believed, want)
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
		k.claim(k.owned.exactly(want))
		return
	}
	// After an error only the kernel knows what it holds.
	k.believed = nil
	if table, err := k.read(ctx); err == nil {
		k.believed = k.known(want).within(table)
	}
}

// known is everything that counts as ours: what is wanted, what the configuration names even where it is not to be in the
// table just now, and what is remembered from earlier configurations.
func (k *keeper) known(want ipvsctl.Table) known {
	return known{want, k.configured, k.owned.entries}
}

// read reads the kernel's table and notes what is foreign in it.
func (k *keeper) read(ctx context.Context) (ipvsctl.Table, error) {
	table, _, err := k.kernel.Read(ctx)
	k.unread.set(err, k.emit, "kernel table unreadable", "kernel table readable again")
	if err == nil {
		k.noteForeign(table)
	}
	return table, err
}

// noteForeign says which foreign entries came and went: they take traffic that nobody checks.
func (k *keeper) noteForeign(table ipvsctl.Table) {
	before, known := k.foreign, k.known(nil)
	k.foreign = known.outside(table)
	say := func(level slog.Level, what string, these, others entries) {
		for key, servers := range these {
			_, there := others[key]
			if !known.service(key) {
				if !there {
					k.emit(status.Event{Level: level, What: what, Cause: key.String()})
				}
				continue // its servers are the same story
			}
			for server := range servers {
				if !others[key][server] {
					k.emit(status.Event{Level: level, What: what, Service: k.names[key], Server: server})
				}
			}
		}
	}
	say(slog.LevelWarn, "foreign entry found, left alone", k.foreign, before)
	say(slog.LevelInfo, "foreign entry gone", before, k.foreign)
}

func (k *keeper) claim(err error) {
	k.unsaved.set(err, k.emit, "ownership not recorded", "ownership recorded again")
}

// due leaves out the changes that were refused and whose time has not come, and what depends on them.
func (k *keeper) due(now time.Time, ops []ipvsctl.Op) []ipvsctl.Op {
	if len(k.refused) == 0 {
		return ops
	}
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

// tell says what changes, one event a service; beyond a few services, in one: a flushed table is one story,
// not ten thousand.
func (k *keeper) tell(level slog.Level, what, prefix string, ops []ipvsctl.Op) {
	const mostServices, mostChanges = 8, 4
	chunks := chunkByService(ops)
	if len(chunks) > mostServices {
		k.emit(status.Event{Level: level, What: what, Cause: fmt.Sprintf("%s%d changes of %d services", prefix, len(ops), len(chunks))})
		return
	}
	for _, ops := range chunks {
		var words []string
		for _, op := range ops[:min(mostChanges, len(ops))] {
			words = append(words, op.Change())
		}
		if more := len(ops) - mostChanges; more > 0 {
			words = append(words, fmt.Sprintf("%d more", more))
		}
		cause := prefix + strings.Join(words, ", ")
		name := k.names[ops[0].Service]
		if name == "" { // not configured any more
			cause = ops[0].Service.String() + ": " + cause
		}
		k.emit(status.Event{Level: level, What: what, Service: name, Cause: cause})
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
