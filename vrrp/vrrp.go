// Package vrrp elects the director that answers for the virtual addresses (RFC 9568 and RFC 3768).
//
//	socket ── Packet ──▶ Filter ── Received ──▶ ┌─────────┐ ──▶ Send, Add, Delete, Announce, Became, …
//	clock ─────────────────────── Timer ──────▶ │ Machine │
//	kernel ─── Link, Source, Done, Missing ───▶ │         │
//	operator ─────────────────── Hold, Stop ──▶ └─────────┘ ──▶ Deadline: when the next Timer is due
//
// Filter and Machine are values: they do no I/O and read no clock. An [Instance] is a Machine with its sockets,
// and a [Loop] runs several. What the RFCs since 2022 call Active and Backup Router is Master and Backup here,
// as in everything that operators read.
package vrrp

import (
	"fmt"
	"strings"
	"time"
)

// State is what a node is in one virtual router (RFC 9568 section 6.3). The zero value is Init.
type State int

// The states. Fault is ours: a router that could not serve the addresses, and so does not stand for election.
const (
	Init State = iota
	Backup
	Master
	Fault
)

// String is the state in lower case: "master".
func (s State) String() string {
	switch s {
	case Init:
		return "init"
	case Backup:
		return "backup"
	case Master:
		return "master"
	case Fault:
		return "fault"
	}
	return fmt.Sprintf("state %d", int(s))
}

// MarshalText writes what String returns.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *State) UnmarshalText(text []byte) error {
	for _, known := range []State{Init, Backup, Master, Fault} {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("%q is no state", text)
}

// Faults is a set of reasons why a router cannot stand for election.
type Faults uint8

// The reasons.
const (
	NoLink   Faults = 1 << iota // the interface is missing, down, or without carrier
	NoSource                    // there is no address on the interface that adverts could come from
	Install                     // the kernel refuses to add a virtual address
	Stolen                      // somebody else keeps removing a virtual address here, or adding it
)

// String lists the reasons: "no link, no source address".
func (f Faults) String() string {
	var reasons []string
	for _, r := range []struct {
		fault Faults
		text  string
	}{
		{NoLink, "interface not up"},
		{NoSource, "no source address"},
		{Install, "an address cannot be added"},
		{Stolen, "somebody else changes its addresses"},
	} {
		if f&r.fault != 0 {
			reasons = append(reasons, r.text)
		}
	}
	return strings.Join(reasons, ", ")
}

// Priorities with a meaning of their own (RFC 9568 section 5.2.4).
const (
	PriorityRelease = 0   // in an advert: the master leaves
	PriorityOwner   = 255 // the addresses are this router's own: it never waits
)

// missed is how many intervals may pass without an advert before a backup takes over (RFC 9568 section 6.1).
const missed = 3

// Skew is how much longer than three intervals a backup waits, so that the highest priority wakes first.
// Version 2 counts it of one second (RFC 3768 section 6.1), version 3 of the master's interval
// (RFC 9568 section 6.1).
func Skew(version int, interval time.Duration, priority uint8) time.Duration {
	if version == 2 {
		interval = time.Second
	}
	return time.Duration(256-int64(priority)) * interval / 256
}

// MasterDown is how long a backup waits without adverts before it takes over.
func MasterDown(version int, interval time.Duration, priority uint8) time.Duration {
	return missed*interval + Skew(version, interval, priority)
}
