package vrrp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// operation is an Add or Delete without an answer yet.
type operation struct {
	op    uint64
	add   bool
	addrs []netip.Addr
}

// owned is an address that this router has asked to be on the interface.
type owned struct {
	addr netip.Addr
	sure bool // the kernel has acknowledged it
	told bool // and the neighbours have been told
}

// change is an address that somebody else removed or added.
type change struct {
	addr netip.Addr
	at   time.Duration
}

const (
	// How often an address may be changed by others before this router leaves it to them for a while.
	changesBorne = 3
	changesTime  = 10 * time.Second
	healTime     = 30 * time.Second

	// How long the addresses of a dead master are kept for another node to take over: nothing vouches for what is behind them.
	orphanTime = 800 * time.Millisecond

	addRetries = 3
	addRetry   = 33 * time.Millisecond
)

// Presence tells whether an address should be on the interface.
type Presence int

// The answers.
const (
	Either Presence = iota // it is being added or deleted just now
	Yes
	No
)

// Expects tells whether addr, one of the configured addresses, should be on the interface now.
func (m *Machine) Expects(addr netip.Addr) Presence {
	if m.leaving || slices.ContainsFunc(m.pending, func(p operation) bool { return slices.Contains(p.addrs, addr) }) {
		return Either
	}
	i := slices.IndexFunc(m.ours, func(o owned) bool { return o.addr == addr })
	switch {
	case i < 0:
		return No
	case m.ours[i].sure:
		return Yes
	}
	return Either
}

// add asks for addresses on the interface.
func (m *Machine) add(addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	for _, a := range addrs {
		i := slices.IndexFunc(m.ours, func(o owned) bool { return o.addr == a })
		if i < 0 {
			m.ours = append(m.ours, owned{addr: a})
		} else {
			m.ours[i] = owned{addr: a}
		}
	}
	m.op++
	m.pending = append(m.pending, operation{m.op, true, addrs})
	m.do(Add{m.op, addrs})
}

// own takes addresses for installed that an earlier process has added.
func (m *Machine) own(addrs []netip.Addr) {
	for _, a := range addrs {
		m.ours = append(m.ours, owned{addr: a, sure: true})
	}
}

// stale are addresses of ours that the configuration has no more.
func (m *Machine) stale() []netip.Addr {
	all := m.cfg.All()
	var addrs []netip.Addr
	for _, o := range m.ours {
		if !slices.Contains(all, o.addr) {
			addrs = append(addrs, o.addr)
		}
	}
	return addrs
}

// remove takes all addresses of ours off the interface.
func (m *Machine) remove() {
	var addrs []netip.Addr
	for _, o := range m.ours {
		addrs = append(addrs, o.addr)
	}
	m.delete(addrs, false)
}

func (m *Machine) delete(addrs []netip.Addr, evict bool) {
	if len(addrs) == 0 {
		return
	}
	m.ours = slices.DeleteFunc(m.ours, func(o owned) bool { return slices.Contains(addrs, o.addr) })
	m.op++
	m.pending = append(m.pending, operation{m.op, false, addrs})
	m.do(Delete{m.op, addrs, evict})
}

// sure are the addresses that the kernel has acknowledged, unsure the others that were asked for.
func (m *Machine) sure() []netip.Addr { return m.oursThat(true) }

func (m *Machine) unsure() []netip.Addr { return m.oursThat(false) }

func (m *Machine) oursThat(sure bool) []netip.Addr {
	var addrs []netip.Addr
	for _, o := range m.ours {
		if o.sure == sure {
			addrs = append(addrs, o.addr)
		}
	}
	return addrs
}

// done takes note of what became of an operation.
func (m *Machine) done(op uint64, err error) {
	i := slices.IndexFunc(m.pending, func(p operation) bool { return p.op == op })
	if i < 0 {
		return
	}
	p := m.pending[i]
	m.pending = slices.Delete(m.pending, i, i+1)
	switch {
	case !p.add && err != nil:
		m.note(slog.LevelError, "virtual addresses not removed", "%v", err)
	case p.add && err != nil:
		m.addFailed(err)
	case p.add:
		m.failures = 0
		m.added(p.addrs)
	}
	m.finish()
}

// added announces what is there now and not to be removed again.
func (m *Machine) added(addrs []netip.Addr) {
	var fresh []netip.Addr
	for i := range m.ours {
		if o := &m.ours[i]; !o.sure && slices.Contains(addrs, o.addr) &&
			!slices.ContainsFunc(m.pending, func(p operation) bool { return slices.Contains(p.addrs, o.addr) }) {
			o.sure = true
			fresh = append(fresh, o.addr)
		}
	}
	if m.state == Master && !m.suspect() { // else what ends the suspicion announces all
		m.schedule(takeoverRounds, fresh)
	}
}

func (m *Machine) addFailed(err error) {
	if m.state != Master {
		return
	}
	m.failures++
	if m.failures <= addRetries {
		m.retryAt = m.now + addRetry
		return
	}
	m.note(slog.LevelError, "virtual addresses not added", "%v", err)
	m.failFor(Install, err.Error())
}

// missing puts back an address that somebody removed, unless that happens all the time.
func (m *Machine) missing(addr netip.Addr) {
	if m.Expects(addr) != Yes {
		return
	}
	if m.changed(addr) {
		m.failFor(Stolen, fmt.Sprintf("somebody keeps removing %v from %s", addr, m.cfg.InterfaceOf(addr)))
		return
	}
	m.note(slog.LevelWarn, "virtual address was removed by somebody else, and is put back", "%v on %s", addr, m.cfg.InterfaceOf(addr))
	m.add([]netip.Addr{addr})
}

// foreign takes off an address that is here though this node is not the master.
func (m *Machine) foreign(addr netip.Addr) {
	if m.state == Master || m.Expects(addr) != No {
		return
	}
	often := m.changed(addr)
	if !often {
		m.note(slog.LevelWarn, "virtual address was here although this node is not master, and is removed", "%v on %s", addr, m.cfg.InterfaceOf(addr))
	}
	m.delete([]netip.Addr{addr}, true)
	switch {
	case !often:
	case m.state == Backup:
		m.failFor(Stolen, fmt.Sprintf("somebody keeps adding %v to %s", addr, m.cfg.InterfaceOf(addr)))
	case m.faults&Stolen != 0:
		m.healAt = m.now + healTime // not over yet
	}
}

// changed notes that somebody else changed an address, and tells whether that is too often.
func (m *Machine) changed(addr netip.Addr) bool {
	m.changes = slices.DeleteFunc(m.changes, func(c change) bool { return m.now-c.at >= changesTime })
	m.changes = append(m.changes, change{addr, m.now})
	n := 0
	for _, c := range m.changes {
		if c.addr == addr {
			n++
		}
	}
	return n > changesBorne
}
