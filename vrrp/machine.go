package vrrp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// Machine decides for one virtual router (RFC 9568 section 6.4). It does no I/O and reads no clock; the same events
// at the same times give the same actions. Each Step's caller carries out the actions in their order.
type Machine struct {
	cfg     Config
	now     time.Duration
	actions []Action // of the current Step

	state    State
	since    time.Duration
	why      string
	started  bool
	stopping bool
	stopped  bool
	held     bool
	faults   Faults
	healAt   time.Duration // when Install and Stolen are over
	source   netip.Addr

	// Who was heard last, accepted or discarded.
	master         netip.Addr
	masterPriority uint8

	// As Backup: the down deadline is derived from these, so nothing has to be cancelled.
	learned    time.Duration // the master's interval
	adopted    bool          // it is an advert's, and not our own
	base       time.Duration // of the last accepted advert, or of becoming Backup
	releasedAt time.Duration // when the master said that it leaves, or Never
	releasedBy netip.Addr
	listen     time.Duration // not before this: the machine was asleep when the deadline passed
	patience   time.Duration // until when adverts of lower priority are accepted, for the preemption delay; 0 = none heard

	// As Master.
	lastSent   time.Duration
	sendAt     time.Duration
	answered   time.Duration // when an advert was last answered by one of ours
	owing      bool          // the next advert is an answer
	asserted   time.Duration // when an announcement was last repeated for that
	rounds     []round       // of announcements that are still to come, by time
	overflowed bool          // packets were lost, since the last Timer
	doubted    bool          // an advert of lower priority was heard while suspect
	checking   bool          // Recheck is unanswered
	checkUntil time.Duration

	// Leaving Master in good order: the addresses stay until somebody else serves, or so long.
	leaving  bool
	secondAt time.Duration // when the second copy of the release is due, or Never
	leaveAt  time.Duration

	// Addresses.
	op       uint64
	pending  []operation
	ours     []owned
	failures int           // to add, in a row
	retryAt  time.Duration // when what could not be added is tried again, or Never
	changes  []change      // by others, in the last while
}

// New returns a machine in state Init.
func New(c Config) *Machine {
	return &Machine{cfg: c, learned: c.Interval, releasedAt: Never, secondAt: Never, retryAt: Never, healAt: Never, faults: NoLink | NoSource}
}

// Step advances the machine by one event at now, which never goes back, and returns what to do, in order.
func (m *Machine) Step(now time.Duration, e Event) []Action {
	m.now = max(m.now, now)
	m.actions = nil
	if m.stopped {
		return nil
	}
	switch e := e.(type) {
	case Start:
		m.start(e.Resume)
	case Stop:
		m.stop()
	case Release:
		m.inherit()
	case Timer:
		m.timer()
	case Received:
		m.received(e.From, e.Advert)
	case Overflow:
		m.overflowed = true
	case Link:
		m.setFault(NoLink, !e.Up, "the interface is not up")
	case Source:
		m.setSource(e.Addr)
	case Done:
		m.done(e.Op, e.Err)
	case Missing:
		m.missing(e.Addr)
	case Foreign:
		m.foreign(e.Addr)
	case Checked:
		m.checked()
	case Reload:
		m.reload(e.Config)
	case Hold:
		m.hold(e.On)
	}
	return m.actions
}

// Deadline is when the next Timer is due, or Never.
func (m *Machine) Deadline() time.Duration {
	d := m.healAt
	if m.leaving {
		d = min(d, m.secondAt, m.leaveAt)
	}
	switch {
	case m.state == Backup:
		d = min(d, m.down())
	case m.state == Master && m.checking && !m.doubted && !m.overflowed:
		d = min(d, m.checkUntil)
	case m.state == Master:
		d = min(d, m.sendAt, m.retryAt)
		if len(m.rounds) > 0 {
			d = min(d, m.rounds[0].due)
		}
	}
	return d
}

// State is what the node is now.
func (m *Machine) State() State { return m.state }

// Status is what a machine knows, for those who look.
type Status struct {
	State   State
	Since   time.Duration // when it came into this state
	Why     string
	Started bool
	Held    bool // by an operator
	Leaving bool // it has released the addresses, and serves until another node does
	Serving bool // all addresses are installed
	Faults  Faults
	Source  netip.Addr
	// Master is the node whose advert was heard last, invalid before the first.
	Master         netip.Addr
	MasterPriority uint8
	LastSent       time.Duration // of an advert as Master
}

// Status returns what the machine knows.
func (m *Machine) Status() Status {
	serving := len(m.ours) == len(m.cfg.Addresses)+len(m.cfg.Excluded) &&
		!slices.ContainsFunc(m.ours, func(o owned) bool { return !o.sure })
	return Status{
		State: m.state, Since: m.since, Why: m.why, Started: m.started, Held: m.held, Leaving: m.leaving, Serving: serving,
		Faults: m.faults, Source: m.source, Master: m.master, MasterPriority: m.masterPriority, LastSent: m.lastSent,
	}
}

func (m *Machine) do(a Action) { m.actions = append(m.actions, a) }

func (m *Machine) note(level slog.Level, what, format string, args ...any) {
	m.do(Note{level, what, fmt.Sprintf(format, args...)})
}

func (m *Machine) become(s State, format string, args ...any) {
	m.why = fmt.Sprintf(format, args...)
	m.do(Became{m.state, s, m.why})
	m.state, m.since = s, m.now
}

func (m *Machine) start(resume bool) {
	if m.started {
		return
	}
	m.started = true
	if resume && (m.faults != 0 || m.held) {
		m.own(m.cfg.All())
		m.remove()
	}
	switch {
	case m.faults != 0:
		m.become(Fault, "%v", m.faults)
	case m.held:
		m.follow("held by an operator")
	case resume:
		m.lead("it was master a moment ago")
	case m.cfg.Owner():
		m.lead("it owns the addresses")
	default:
		m.follow("started")
	}
}

func (m *Machine) timer() {
	if m.healAt <= m.now {
		m.healAt = Never
		m.setFault(Install, false, "")
		m.setFault(Stolen, false, "")
	}
	if m.leaving && m.leaveAt <= m.now {
		m.left()
	}
	if m.leaving && m.secondAt <= m.now {
		m.secondAt = Never
		m.do(Send{PriorityRelease, m.now})
	}
	switch m.state {
	case Backup:
		m.timerBackup()
	case Master:
		m.timerMaster()
	}
	m.overflowed = false
}

func (m *Machine) received(from netip.Addr, a Advert) {
	if a.Priority != PriorityRelease {
		m.master, m.masterPriority = from, a.Priority
		if m.leaving {
			m.left() // another node serves
		}
	}
	switch m.state {
	case Backup:
		m.receivedBackup(from, a)
	case Master:
		m.receivedMaster(from, a)
	}
}

// finish tells that nothing is left to do for a machine that was stopped.
func (m *Machine) finish() {
	if m.stopping && !m.leaving && len(m.pending) == 0 {
		m.stopped = true
		m.do(Stopped{})
	}
}

func (m *Machine) stop() {
	m.stopping = true
	if m.state == Master {
		m.release()
	}
	if m.state != Init {
		m.become(Init, "stopped")
	}
	m.started = true // never again
	m.healAt = Never
	m.finish()
}

// inherit gives up what a dead master left.
func (m *Machine) inherit() {
	if m.started {
		return
	}
	m.started, m.stopping = true, true
	m.own(m.cfg.All())
	if m.faults != 0 {
		if m.source.IsValid() {
			m.do(Send{PriorityRelease, m.now})
		}
		m.remove()
		return
	}
	m.release()
	m.leaveAt = min(m.leaveAt, m.now+orphanTime)
}

func (m *Machine) hold(on bool) {
	if on == m.held {
		return
	}
	m.held = on
	switch {
	case on && m.state == Master:
		m.release()
		m.follow("held by an operator")
	case on && m.state == Backup:
		m.why = "held by an operator"
	case m.state == Backup:
		m.why = "no longer held"
		m.listenAnew()
	}
}

func (m *Machine) setSource(addr netip.Addr) {
	changed := addr != m.source
	m.source = addr
	m.setFault(NoSource, !addr.IsValid(), "no address to send from")
	if changed && m.state == Master && !m.suspect() {
		m.send()
	}
}

// setFault adds a reason not to stand for election, or takes one away.
func (m *Machine) setFault(f Faults, on bool, why string) {
	before := m.faults
	if on {
		m.faults |= f
	} else {
		m.faults &^= f
	}
	if m.leaving && m.faults != 0 {
		m.left()
	}
	if !m.started || m.stopping || m.state == Init {
		return
	}
	switch {
	case before == 0 && m.faults != 0:
		if m.state == Master {
			m.silence()
			if m.source.IsValid() {
				m.do(Send{PriorityRelease, m.now})
			}
		}
		m.remove()
		m.become(Fault, "%s", why)
	case before != 0 && m.faults == 0:
		m.follow("the fault is over")
	case before != m.faults && m.faults != 0:
		m.why = m.faults.String()
	}
}

// failFor is a fault that heals with time.
func (m *Machine) failFor(f Faults, why string) {
	m.healAt = m.now + healTime
	m.setFault(f, true, why)
}

// reload applies a new configuration without leaving the state.
func (m *Machine) reload(c Config) {
	suspect, before := m.suspect(), m.cfg.All()
	m.cfg = c
	if c.Version == 2 || !m.adopted {
		m.learned = c.Interval
	}
	if m.state != Master {
		return
	}
	switch {
	case !suspect:
		m.send()
	case !m.checking: // by the new interval it may not look so any more
		m.check()
	}
	m.add(slices.DeleteFunc(c.All(), func(a netip.Addr) bool { return slices.Contains(before, a) }))
	m.delete(m.stale(), false)
}

// decides tells whether a Timer at now would declare somebody dead, or this node alive: then everything that waits
// must have been read.
func (m *Machine) decides(now time.Duration) bool {
	m.now = max(m.now, now)
	return m.state == Backup && m.down() <= m.now || m.suspect()
}
