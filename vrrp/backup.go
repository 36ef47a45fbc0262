package vrrp

import (
	"log/slog"
	"net/netip"
	"time"
)

// follow enters Backup, and waits for adverts anew.
func (m *Machine) follow(format string, args ...any) {
	if m.held {
		format, args = "held by an operator", nil
	}
	m.become(Backup, format, args...)
	m.listenAnew()
}

// listenAnew begins to wait with the own interval for what the master's is.
func (m *Machine) listenAnew() {
	m.learned, m.adopted = m.cfg.Interval, false
	m.listenFrom(m.now)
}

// listenFrom begins to wait for the master's silence.
func (m *Machine) listenFrom(base time.Duration) {
	m.base, m.releasedAt, m.listen, m.patience = base, Never, 0, 0
}

// down is when a Backup takes over if it hears nothing.
func (m *Machine) down() time.Duration {
	if m.held {
		return Never
	}
	d := m.base + MasterDown(m.cfg.Version, m.learned, m.cfg.Priority)
	if m.releasedAt != Never {
		d = min(d, m.releasedAt+Skew(m.cfg.Version, m.learned, m.cfg.Priority))
	}
	return max(d, m.listen)
}

func (m *Machine) timerBackup() {
	down := m.down()
	switch late := m.now - down; {
	case down > m.now:
	case late >= m.cfg.Interval:
		// This process slept, or its machine did: the master may have been heard had anybody listened.
		m.listen = m.now + m.learned
	case m.releasedAt != Never:
		m.lead("%v released it", m.releasedBy)
	case m.master.IsValid():
		m.lead("no better advert for %v", (m.now - m.base).Round(time.Millisecond))
	default:
		m.lead("nobody else was heard for %v", (m.now - m.base).Round(time.Millisecond))
	}
}

func (m *Machine) receivedBackup(from netip.Addr, a Advert) {
	switch {
	case a.Priority == PriorityRelease:
		// That of a node which was not the master changes nothing: the master is still there, or its silence will show.
		if m.releasedAt == Never && (from == m.master || !m.master.IsValid()) {
			m.releasedAt, m.releasedBy = m.now, from
		}
	case a.Priority >= m.cfg.Priority:
		m.accept(a)
	case !m.cfg.Preempt || m.held:
		m.accept(a)
	default:
		patience := m.patience
		if patience == 0 {
			patience = m.now + m.cfg.PreemptDelay
		}
		if m.now < patience {
			m.accept(a)
		}
		m.patience = patience
	}
}

// accept takes an advert as the sign of life of a rightful master.
func (m *Machine) accept(a Advert) {
	if m.cfg.Version == 3 {
		m.adopted = true
	}
	if m.cfg.Version == 3 && a.Interval != m.learned {
		m.learned = a.Interval
		if a.Interval > 4*m.cfg.Interval {
			m.note(slog.LevelWarn, "the master's advert interval is long: its death will be noticed late",
				"%v, and %v here; takeover after %v", a.Interval, m.cfg.Interval, MasterDown(3, a.Interval, m.cfg.Priority).Round(time.Millisecond))
		}
	}
	m.listenFrom(m.now)
}
