package vrrp

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

type round struct {
	due   time.Duration
	n     int
	addrs []netip.Addr
}

// lead enters Master. The advert goes first: an old master removes the addresses while they are added here.
func (m *Machine) lead(format string, args ...any) {
	m.become(Master, format, args...)
	m.leaving, m.overflowed = false, false
	m.send()
	m.delete(m.stale(), false)
	m.add(m.cfg.All())
}

func (m *Machine) timerMaster() {
	if m.suspect() {
		m.resolve()
	}
	if m.state != Master || m.suspect() {
		return
	}
	if m.retryAt <= m.now {
		m.retryAt = Never
		m.add(m.unsure())
	}
	if m.sendAt <= m.now {
		due := m.sendAt
		m.sendFor(due)
		// The beat keeps its time; after a stall it begins anew, rather than catch up in a burst.
		if m.now-due <= m.cfg.Interval/2 {
			m.sendAt = due + m.cfg.Interval
		}
	}
	m.timerRounds()
}

// timerRounds announces what is due; several rounds that a stall has made one are one.
func (m *Machine) timerRounds() {
	var due round
	for len(m.rounds) > 0 && m.rounds[0].due <= m.now {
		r := m.rounds[0]
		m.rounds = m.rounds[1:]
		due.n = max(due.n, r.n)
		for _, a := range r.addrs {
			if !slices.Contains(due.addrs, a) {
				due.addrs = append(due.addrs, a)
			}
		}
	}
	m.announce(due.addrs, due.n)
}

// suspect tells that this master has been silent so long that a backup may have taken over: first what
// was heard meanwhile must be judged.
func (m *Machine) suspect() bool {
	return m.state == Master && (m.checking || m.now-m.lastSent >= (missed-1)*m.cfg.Interval)
}

// resolve ends the suspicion, now that all packets that waited have been judged.
func (m *Machine) resolve() {
	switch {
	case m.overflowed:
		m.silence()
		m.yield("this process slept, and what was said meanwhile is lost")
	case m.doubted || m.checking && m.checkUntil <= m.now:
		m.reassure()
	case !m.checking:
		m.check()
	}
}

// check asks whether interface and addresses are still what they were; until then the suspicion goes on.
func (m *Machine) check() {
	m.checking, m.checkUntil = true, m.now+m.cfg.Interval
	m.do(Recheck{})
}

// reassure goes on as Master after a suspicion that was unfounded, or with only lower nodes about.
func (m *Machine) reassure() {
	m.note(slog.LevelWarn, "this process slept, and goes on as master", "no advert was sent for %v", (m.now - m.lastSent).Round(time.Millisecond))
	again := resumeRounds
	if m.doubted {
		again, m.asserted = assertRounds, m.now
	}
	m.checking, m.doubted = false, false
	m.answered = m.now
	m.send()
	// What was due meanwhile is one round now.
	m.rounds = slices.DeleteFunc(m.rounds, func(r round) bool { return r.due <= m.now })
	var old, fresh []netip.Addr
	for _, o := range m.ours {
		switch {
		case o.told:
			old = append(old, o.addr)
		case o.sure:
			fresh = append(fresh, o.addr)
		}
	}
	m.schedule(again, old)
	m.schedule(takeoverRounds, fresh)
}

func (m *Machine) checked() {
	if m.checking && m.state == Master {
		m.reassure()
	}
}

// send sends an advert as Master, and the next one an interval later.
func (m *Machine) send() { m.sendFor(m.now) }

func (m *Machine) sendFor(due time.Duration) {
	m.do(Send{m.cfg.Priority, due})
	if m.owing {
		m.owing, m.answered = false, m.now
	}
	m.lastSent, m.sendAt = m.now, m.now+m.cfg.Interval
}

// schedule plans announcements of addrs after the given times.
func (m *Machine) schedule(after []time.Duration, addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	for n, wait := range after {
		if wait == 0 {
			m.announce(addrs, n)
			continue
		}
		m.rounds = append(m.rounds, round{m.now + wait, n, addrs})
	}
	slices.SortStableFunc(m.rounds, func(a, b round) int { return cmp.Compare(a.due, b.due) })
}

// announce announces those of addrs that are still installed.
func (m *Machine) announce(addrs []netip.Addr, n int) {
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return m.Expects(a) != Yes })
	if len(addrs) == 0 {
		return
	}
	m.do(Announce{addrs, n})
	for i := range m.ours {
		if slices.Contains(addrs, m.ours[i].addr) {
			m.ours[i].told = true
		}
	}
}

// beats tells whether an advert is of a node that should rather be master than this one (RFC 9568 section 6.4.3).
func (m *Machine) beats(from netip.Addr, priority uint8) bool {
	return priority > m.cfg.Priority || priority == m.cfg.Priority && from.Compare(m.source) > 0
}

func (m *Machine) receivedMaster(from netip.Addr, a Advert) {
	suspect := m.suspect()
	switch {
	case a.Priority == PriorityRelease:
		if !suspect {
			m.answer(releasePause)
		}
	case m.beats(from, a.Priority) || suspect && !m.cfg.Preempt:
		m.alarmOwners(from, a)
		m.silence()
		if !suspect {
			// The better one may have been master all the time, without a way from there to here: what this node has
			// announced, it will announce again only when it hears of this node.
			m.send()
		}
		m.yield("%v is master with priority %d", from, a.Priority)
		m.accept(a)
	case suspect:
		m.doubted = true
	default:
		m.assert(from, a)
	}
}

// How soon after one answer there may be another: what asks for them may come in a flood. One to a release may not
// wait, as there are backups that count a short time from it.
const (
	answerPause  = 250 * time.Millisecond
	releasePause = 2 * time.Millisecond
)

// answer sends an advert at once; when the last answer was less than pause ago, then.
func (m *Machine) answer(pause time.Duration) {
	pause = min(pause, m.cfg.Interval/4)
	if m.answered != 0 && m.now-m.answered < pause {
		if m.answered+pause < m.sendAt {
			m.sendAt, m.owing = m.answered+pause, true
		}
		return
	}
	m.answered = m.now
	m.send()
}

// assert answers a node that is master too and should not be.
func (m *Machine) assert(from netip.Addr, a Advert) {
	m.answer(answerPause)
	switch again := assertRounds[len(assertRounds)-1]; {
	case m.asserted != 0 && m.now-m.asserted < again:
		return // a later round is still to come
	case m.now-m.since < answerPause:
		return // the farewell of a master that this one has just replaced, or of one that became master at the same moment
	}
	m.asserted = m.now
	m.alarmOwners(from, a)
	m.note(slog.LevelWarn, "another node is master too, and should not be", "%v with priority %d, here it is %d", from, a.Priority, m.cfg.Priority)
	// What both have announced, the right one announces last.
	m.schedule(assertRounds, m.sure())
}

func (m *Machine) alarmOwners(from netip.Addr, a Advert) {
	if a.Priority == PriorityOwner && m.cfg.Owner() {
		m.note(slog.LevelError, "two nodes say that they own the addresses", "%v has priority 255 too", from)
	}
}

// yield leaves Master, after silence, for a better one.
func (m *Machine) yield(format string, args ...any) {
	m.remove()
	m.follow(format, args...)
}

// silence ends all announcements: none may leave after the address is another's.
func (m *Machine) silence() {
	m.owing = false
	m.rounds, m.asserted, m.answered, m.retryAt, m.failures = nil, 0, 0, Never, 0
	m.checking, m.doubted = false, false
	m.do(CancelAnnounce{})
}

// release leaves Master in good order: make before break.
func (m *Machine) release() {
	m.silence()
	m.do(Send{PriorityRelease, m.now})
	m.leaving = true
	// One lost release would cost the others three intervals; a later copy would let some wait again.
	m.secondAt = m.now + min(5*time.Millisecond, m.cfg.Interval/10)
	// By then every backup has waited its skew, which is at most an interval, in version 2 at most a second.
	m.leaveAt = m.now + max(Skew(m.cfg.Version, m.cfg.Interval, 0), time.Second)*11/10
}

// left ends the leaving: another node serves, or none will.
func (m *Machine) left() {
	m.leaving, m.secondAt = false, Never
	m.remove()
	m.finish()
}
