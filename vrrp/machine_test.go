package vrrp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// witness steps a machine, and holds it to what is true whatever happens.
type witness struct {
	t failer
	m *Machine

	cfg      Config
	now      time.Duration
	state    State
	started  bool
	held     bool
	stopping bool
	stopped  bool
	released int // priority 0 sent since it was last Master

	// What the kernel was asked, in order, and what it answered.
	unanswered []operation
	last       map[netip.Addr]operation // what was asked last for each address
	sure       map[netip.Addr]bool      // and that it was an Add which succeeded

	// What a Backup was told, for the earliest time at which it may take over.
	heard      time.Duration // an advert that no Backup may ignore, or the beginning
	interval   time.Duration // of the master
	adopted    bool          // it came from an advert
	releasedAt time.Duration // after that, or Never
	patient    bool          // its preemption delay counts, so that it may have to wait longer than these say

	story []chapter
}

// chapter is a Step as it went.
type chapter struct {
	now     time.Duration
	e       Event
	actions []Action
	due     time.Duration
}

// failer is what [testing.T] and [rapid.T] have in common here.
type failer interface{ Fatalf(string, ...any) }

func newWitness(t failer, c Config) *witness {
	return &witness{t: t, m: New(c), cfg: c, last: map[netip.Addr]operation{}, sure: map[netip.Addr]bool{}, releasedAt: Never}
}

func (w *witness) failf(format string, args ...any) {
	var story strings.Builder
	for _, c := range w.story {
		fmt.Fprintf(&story, "%-14v %-45s → %sdeadline %s\n", c.now, fmt.Sprintf("%T%+v", c.e, c.e), tell(c.actions, c.now), tellTime(c.due))
	}
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), story.String())
}

// step is Machine.Step, with an eye on everything.
func (w *witness) step(at time.Duration, e Event) []Action {
	w.now = max(w.now, at)
	before, due := w.m.Status(), w.m.Deadline()
	asleep := before.State == Master && w.now-before.LastSent >= 2*w.cfg.Interval
	most := 8 + 4*len(w.cfg.All())
	decides := w.m.decides(at)

	actions := w.m.Step(at, e)

	w.story = append(w.story, chapter{w.now, e, actions, w.m.Deadline()})
	_, releasing := e.(Release)
	releasing = releasing && !w.started || before.Leaving
	w.learn(e)
	for i, a := range actions {
		w.judge(a, actions[:i], asleep && !heardAll(e), releasing)
	}
	if r, is := e.(Received); is && w.state == Backup {
		w.hear(r.Advert)
	}
	if n := max(most, 8+4*len(w.cfg.All())); len(actions) > n {
		w.failf("%d actions, more than %d", len(actions), n)
	}
	after := w.m.Status()
	if _, is := e.(Timer); is {
		if w.now < due && (len(actions) > 0 || w.m.Deadline() != due || after != before) {
			w.failf("a Timer before the deadline did something")
		}
		if w.m.Deadline() <= w.now {
			w.failf("a Timer is due at once again")
		}
		if !decides && slices.ContainsFunc(actions, decision) {
			w.failf("a Timer decided, and decides did not foresee it")
		}
	}
	w.compare(after)
	w.comparePlaces(after)
	return actions
}

// heardAll tells whether e says that all packets which waited have been heard, so that a master which slept may speak.
func heardAll(e Event) bool {
	switch e.(type) {
	case Timer, Checked:
		return true
	}
	return false
}

// decision tells whether an action comes from the belief that nobody else is master, or that somebody may be.
func decision(a Action) bool {
	switch a := a.(type) {
	case Recheck:
		return true
	case Became:
		return a.To == Master || a.From == Master
	}
	return false
}

// compare holds what the machine says of itself against what was seen.
func (w *witness) compare(s Status) {
	switch due := w.m.Deadline(); {
	case w.m.State() != w.state || s.State != w.state:
		w.failf("state %v, but it told of %v", s.State, w.state)
	case w.state == Master && w.released > 0:
		w.failf("it has released, and is still master")
	case w.state == Backup && !w.held && !w.patient && due > max(w.heard+w.silence(), w.now+longest):
		// One that slept may listen for one more interval, which a Reload can have changed since.
		w.failf("it will not take over before %v, although it should after %v", due, w.heard+w.silence())
	case w.stopped && due != Never:
		w.failf("stopped, and waits for something")
	case w.stopping && !w.stopped && !s.Leaving && len(w.unanswered) == 0:
		w.failf("nothing is left to do, and it does not stop")
	}
}

// learn notes what an event says.
func (w *witness) learn(e Event) {
	switch e := e.(type) {
	case Start:
		w.started = true
	case Stop:
		w.started, w.stopping = true, true
	case Release:
		w.started, w.stopping = true, w.stopping || !w.started
	case Reload:
		// Until a master is heard the interval is one's own.
		if w.cfg.Version == 2 || !w.adopted {
			w.interval = e.Config.Interval
		}
		w.cfg = e.Config
	case Hold:
		if w.held && !e.On && w.state == Backup {
			w.listen()
		}
		w.held = e.On
	case Done:
		i := slices.IndexFunc(w.unanswered, func(o operation) bool { return o.op == e.Op })
		if i < 0 {
			return
		}
		o := w.unanswered[i]
		w.unanswered = slices.Delete(w.unanswered, i, i+1)
		for _, addr := range o.addrs {
			if w.last[addr].op == o.op {
				w.sure[addr] = o.add && e.Err == nil
			}
		}
	}
}

// listen begins to wait for a master.
func (w *witness) listen() {
	w.heard, w.releasedAt, w.patient = w.now, Never, false
	w.interval, w.adopted = w.cfg.Interval, false
}

// hear notes an advert that reached a Backup, or made it one.
func (w *witness) hear(a Advert) {
	switch {
	case a.Priority == PriorityRelease:
		w.releasedAt = min(w.releasedAt, w.now)
	case a.Priority >= w.cfg.Priority || !w.cfg.Preempt:
		w.heard, w.releasedAt, w.patient = w.now, Never, false
		if w.cfg.Version == 3 {
			w.interval, w.adopted = a.Interval, true
		}
	case w.cfg.PreemptDelay > 0:
		w.patient = true
	}
}

// judge judges one action of a Step; muzzled is a master that slept and has not judged yet what was said meanwhile,
// and releasing who gives up addresses without being master any more.
func (w *witness) judge(a Action, earlier []Action, muzzled, releasing bool) {
	if w.stopped {
		w.failf("after Stopped: %T", a)
	}
	switch a := a.(type) {
	case Send:
		switch {
		case a.Due > w.now:
			w.failf("an advert was sent before it was due")
		case a.Priority == PriorityRelease:
			if w.released++; w.state != Master && !releasing || w.released > 2 {
				w.failf("priority 0 from a node that is %v, number %d", w.state, w.released)
			}
		case w.state != Master || a.Priority != w.cfg.Priority:
			w.failf("priority %d from a node that is %v", a.Priority, w.state)
		case muzzled:
			w.failf("an advert before what waited was judged")
		}
	case Announce:
		if w.state != Master || muzzled {
			w.failf("announced while %v, muzzled %v", w.state, muzzled)
		}
		for _, addr := range a.Addrs {
			if !w.sure[addr] || !slices.Contains(w.cfg.All(), addr) {
				w.failf("%v was announced, but is not installed", addr)
			}
		}
	case Add:
		w.ask(operation{a.Op, true, a.Addrs})
		for _, addr := range a.Addrs {
			if w.state != Master || !slices.Contains(w.cfg.All(), addr) {
				w.failf("%v was added while %v", addr, w.state)
			}
		}
	case Delete:
		w.ask(operation{a.Op, false, a.Addrs})
	case Became:
		if a.From != w.state || a.From == a.To || a.Why == "" {
			w.failf("%+v from %v", a, w.state)
		}
		if a.From == Master && !slices.Contains(earlier, Action(CancelAnnounce{})) {
			w.failf("no longer master, and announcements may still leave")
		}
		w.became(a.To)
	case Stopped:
		if !w.stopping || w.m.Status().Leaving || len(w.unanswered) > 0 {
			w.failf("stopped too early")
		}
		w.stopped = true
	}
}

func (w *witness) ask(o operation) {
	if len(o.addrs) == 0 {
		w.failf("an operation on nothing")
	}
	w.unanswered = append(w.unanswered, o)
	for _, addr := range o.addrs {
		if o.op <= w.last[addr].op {
			w.failf("operation %d again", o.op)
		}
		w.last[addr], w.sure[addr] = o, false
	}
}

func (w *witness) became(s State) {
	switch s {
	case Backup:
		w.listen()
	case Master:
		if w.state == Backup {
			w.mayLead()
		}
		w.released = 0
	}
	w.state = s
}

// silence is how much of it makes a Backup take over.
func (w *witness) silence() time.Duration {
	return MasterDown(w.cfg.Version, w.interval, w.cfg.Priority)
}

// mayLead holds a Backup that takes over to RFC 9568 section 6.4.2.
func (w *witness) mayLead() {
	earliest := w.heard + w.silence()
	if w.releasedAt != Never {
		earliest = min(earliest, w.releasedAt+Skew(w.cfg.Version, w.interval, w.cfg.Priority))
	}
	if !w.patient && w.now < earliest || w.held {
		w.failf("took over, but may not before %v", earliest)
	}
}

// comparePlaces holds where the addresses were put against where they should be.
func (w *witness) comparePlaces(s Status) {
	var there []netip.Addr
	for addr, o := range w.last {
		if o.add {
			there = append(there, addr)
		}
	}
	all := w.cfg.All()
	slices.SortFunc(there, netip.Addr.Compare)
	slices.SortFunc(all, netip.Addr.Compare)
	serving := s.Leaving || s.State == Master
	for _, addr := range all {
		serving = serving && w.sure[addr]
		if p := w.m.Expects(addr); p == Yes && (!w.sure[addr] || s.Leaving) || p == No && w.last[addr].add {
			w.failf("%v is expected: %v", addr, p)
		}
	}
	switch {
	case s.Leaving:
	case s.State == Master && !slices.Equal(there, all):
		w.failf("master with %v instead of %v", there, all)
	case s.State != Master && len(there) > 0:
		w.failf("%v with %v", s.State, there)
	}
	if !s.Leaving && s.Serving != serving {
		w.failf("serving %v, want %v", s.Serving, serving)
	}
}

// dice decide what happens next: a number below n.
type dice func(n int) int

const longest = 40950 * time.Millisecond // of all intervals here

// happening is an event and when it happens.
type happening struct {
	at time.Duration
	e  Event
}

// live lets n random things happen to a machine, stops it, and returns all that happened.
func live(t failer, roll dice, n int) (Config, []happening) {
	cfg := randomConfig(roll, 2+roll(2))
	w := newWitness(t, cfg)
	var life []happening
	step := func(at time.Duration, e Event) {
		life = append(life, happening{at, e})
		w.step(at, e)
	}
	if roll(8) > 0 {
		step(0, Link{Up: true})
		step(0, Source{nodes[1]})
	}
	switch roll(10) {
	default:
		step(0, Start{Resume: roll(4) == 0})
	case 8:
		step(0, Release{})
	case 9:
	}
	for range n {
		step(randomTime(roll, w), randomEvent(roll, w))
	}
	step(w.now, Stop{})
	for !w.stopped {
		switch {
		case len(w.unanswered) > 0:
			step(w.now, Done{Op: w.unanswered[0].op})
		case w.m.Deadline() == Never:
			w.failf("it never stops")
		default:
			step(w.m.Deadline(), Timer{})
		}
	}
	for range 10 {
		step(w.now, randomEvent(roll, w))
	}
	return cfg, life
}

// Some of the nodes have a lower address than ours, which is the second or third, some a higher one.
var nodes = []netip.Addr{short(".1"), short(".2"), short(".3"), short(".4")}

func randomConfig(roll dice, version int) Config {
	c := Config{Name: "public", Interface: "eth0", VRID: 51, Version: version, Interval: time.Duration(1+roll(3)) * time.Second, Preempt: true}
	c.Priority = []uint8{100, 150, 200, 1, 254, 255}[roll(6)]
	if c.Version == 3 {
		c.Interval = []time.Duration{time.Second, 100 * time.Millisecond, 10 * time.Millisecond, 10 * time.Second, longest}[roll(5)]
	}
	if !c.Owner() {
		switch roll(4) {
		case 2:
			c.Preempt = false
		case 3:
			c.PreemptDelay = []time.Duration{20 * time.Millisecond, 2 * time.Second, 1000 * time.Second}[roll(3)]
		}
	}
	c.Addresses = []netip.Addr{short(".10")}
	for _, addr := range shorts(".11,.12,.13") {
		switch roll(4) {
		case 0:
			c.Addresses = append(c.Addresses, addr)
		case 1:
			c.Excluded = append(c.Excluded, addr)
		}
	}
	return c
}

// randomTime is often about the deadline, and sometimes in the past.
func randomTime(roll dice, w *witness) time.Duration {
	due, a := w.m.Deadline(), w.cfg.Interval
	if due == Never {
		due = w.now + a
	}
	return []time.Duration{
		due,
		due,
		w.now,
		w.now,
		w.now + time.Millisecond,
		w.now + a/3,
		due - 1,
		due + a/4,
		due + a,
		w.now + 2*a,
		w.now + 40*a,
		w.now - time.Millisecond,
	}[roll(12)]
}

func randomEvent(roll dice, w *witness) Event {
	addr := func() netip.Addr {
		all := w.cfg.All()
		return all[roll(len(all))]
	}
	switch roll(24) {
	default:
		return Timer{}
	case 8, 9, 10, 11, 12:
		p := w.cfg.Priority
		return Received{nodes[roll(len(nodes))], Advert{
			Version: w.cfg.Version, VRID: w.cfg.VRID,
			Priority: []uint8{0, p, max(1, p-1), 1, min(254, p), 255}[roll(6)],
			Interval: []time.Duration{w.cfg.Interval, time.Second, 10 * time.Millisecond, longest}[roll(4)],
		}}
	case 13, 14, 15, 16:
		switch {
		case len(w.unanswered) == 0:
			return Done{Op: uint64(roll(10))}
		case roll(3) == 0:
			return Done{w.unanswered[0].op, errors.New("operation not permitted")}
		}
		return Done{Op: w.unanswered[0].op}
	case 17:
		return Missing{addr()}
	case 18:
		return Foreign{addr()}
	case 19:
		return Checked{}
	case 20:
		return Reload{randomConfig(roll, w.cfg.Version)}
	case 21:
		return Hold{On: roll(2) == 0}
	case 22:
		return Overflow{}
	case 23:
		switch roll(8) {
		case 0, 1:
			return Link{Up: false}
		case 2, 3:
			return Link{Up: true}
		case 4, 5:
			return Source{nodes[1+roll(2)]}
		case 6:
			return Source{}
		}
		return []Event{Start{}, Release{}, Stop{}}[roll(3)]
	}
}

func rapidDice(t *rapid.T) dice {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") }
}

// TestMachineHolds lets things happen at random; what must hold is the witness's.
func TestMachineHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { live(t, rapidDice(t), 200) })
}

// FuzzMachine does the same with dice that the fuzzer throws.
func FuzzMachine(f *testing.F) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		throws := make([]byte, 1000)
		for i := range throws {
			throws[i] = byte(r.Uint32())
		}
		f.Add(throws)
	}
	f.Fuzz(func(t *testing.T, throws []byte) {
		roll := func(n int) int {
			if len(throws) == 0 {
				return 0
			}
			face := int(throws[0]) % n
			throws = throws[1:]
			return face
		}
		live(t, roll, len(throws)/4)
	})
}

// TestMachineRepeats replays a life: the same again, with a clock that does not go back where it did, and with Timers
// that come before their time must all lead to the same actions.
func TestMachineRepeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, life := live(t, rapidDice(t), 200)
		want := relive(cfg, life, func(*Machine, time.Duration, time.Duration) {})

		if got := relive(cfg, life, func(*Machine, time.Duration, time.Duration) {}); !reflect.DeepEqual(got, want) {
			t.Fatalf("the same events: got\n%v\nwant\n%v", got, want)
		}

		upright := slices.Clone(life)
		for i := 1; i < len(upright); i++ {
			upright[i].at = max(upright[i].at, upright[i-1].at)
		}
		if got := relive(cfg, upright, func(*Machine, time.Duration, time.Duration) {}); !reflect.DeepEqual(got, want) {
			t.Fatalf("with a clock that stands still instead of going back: got\n%v\nwant\n%v", got, want)
		}

		early := func(m *Machine, now, next time.Duration) {
			// Packets that were lost are news until a Timer tells that all the others have been read.
			if at := max(now, min(next, m.Deadline()-1)); at < m.Deadline() && !m.overflowed {
				m.Step(at, Timer{})
			}
		}
		if got := relive(cfg, upright, early); !reflect.DeepEqual(got, want) {
			t.Fatalf("with early Timers: got\n%v\nwant\n%v", got, want)
		}
	})
}

// relive lets the same things happen to a new machine and returns what it does, with something done between now and next.
func relive(c Config, life []happening, between func(m *Machine, now, next time.Duration)) [][]Action {
	m := New(c)
	var now time.Duration
	var all [][]Action
	for _, h := range life {
		between(m, now, h.at)
		all = append(all, m.Step(h.at, h.e))
		now = h.at
	}
	return all
}

// TestMasterKeepsItsBeat annoys a master with adverts that it need not obey: it must be heard once an interval all the
// same, and must not be made to talk more than is good for the network (RFC 9568 section 6.4.3).
func TestMasterKeepsItsBeat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roll := rapidDice(t)
		cfg := randomConfig(roll, 2+roll(2))
		w := newWitness(t, cfg)
		w.step(0, Link{Up: true})
		w.step(0, Source{nodes[1]})
		w.step(0, Start{Resume: true})
		var sent, answered time.Duration
		hear := func(at time.Duration, e Event) {
			for _, a := range w.step(at, e) {
				if _, is := a.(Send); !is {
					continue
				}
				sent = w.now
				if r, is := e.(Received); is {
					pause := 250 * time.Millisecond
					if r.Advert.Priority == PriorityRelease {
						pause = 2 * time.Millisecond
					}
					if answered != 0 && w.now-answered < min(cfg.Interval/4, pause) {
						w.failf("answered twice within %v", w.now-answered)
					}
					answered = w.now
				}
			}
			if w.state == Master && w.now-sent > cfg.Interval {
				w.failf("no advert for %v", w.now-sent)
			}
		}
		for range 200 {
			next := w.now + []time.Duration{0, 1, time.Millisecond, cfg.Interval / 10, cfg.Interval / 2, cfg.Interval * 3 / 2}[roll(6)]
			for w.m.Deadline() <= next {
				hear(w.m.Deadline(), Timer{})
			}
			hear(next, []Event{
				Received{nodes[0], cfg.Advert(cfg.Priority)},
				Received{nodes[3], cfg.Advert(cfg.Priority - 1)},
				Received{nodes[2], cfg.Advert(PriorityRelease)},
				Done{Op: uint64(1 + roll(3))},
				Missing{cfg.Addresses[0]},
				Overflow{},
			}[roll(6)])
			if w.state == Fault {
				break // somebody kept removing the address
			}
		}
	})
}
