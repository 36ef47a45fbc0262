package vrrp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Config is one virtual router as this node plays it. The field tags are the configuration file's rules:
// its key, the default, and the range that is accepted. It is plain data and never modified.
type Config struct {
	// Name is what commands, logs and metrics call the router: a letter or digit, then up to 63 of A-Z, a-z, 0-9,
	// ".", "_" and "-".
	Name string `toml:"name,required"`
	// Interface is where adverts are sent and heard, and what gets the addresses.
	Interface string `toml:"interface,required"`
	// VRID is the virtual router's number, the same on all its nodes and unique in the network.
	VRID uint8 `toml:"vrid,required" range:"1..255"`
	// Version is the protocol's: 3 (RFC 9568), or 2 (RFC 3768) for peers that have no other. No mixing.
	Version int `toml:"version" default:"3" range:"2..3"`
	// Priority is this node's: the highest becomes master. 255 is for the owner of the addresses, who never waits.
	Priority uint8 `toml:"priority" default:"100" range:"1..255"`
	// Interval is the time between two adverts of the master; a backup takes over after three, and a bit. Version 3: in steps
	// of 10 ms up to 40.95 s. Version 2: in whole seconds, and the same on all nodes.
	Interval time.Duration `toml:"advert_interval" default:"1s" range:"10ms..255s"`
	// Addresses are the virtual addresses that are advertised, all IPv4 or all IPv6. The master has them as /32 or /128.
	Addresses []netip.Addr `toml:"addresses,required"`
	// Excluded are virtual addresses that come and go with the others but are not advertised: those of the other
	// family, for instance.
	Excluded []netip.Addr `toml:"excluded_addresses"`
	// ExcludedInterface is what gets the excluded addresses: that of the real servers' network, for instance, where one of them
	// is the servers' gateway. Without it, the router's interface. When either is down, the router is at fault.
	ExcludedInterface string `toml:"excluded_interface"`
	// Preempt says whether this node takes over from a living master of lower priority.
	Preempt bool `toml:"preempt" default:"true"`
	// PreemptDelay is how long a living master of lower priority is left alone first.
	PreemptDelay time.Duration `toml:"preempt_delay" default:"0s" range:"0s..1000s"`
	// Source is where adverts come from. Without it, the first address of the interface that is not virtual; with
	// IPv6 its link-local one.
	Source netip.Addr `toml:"source"`
	// Peers are the other nodes, for networks without multicast: adverts go to each of them, and only theirs count.
	Peers []netip.Addr `toml:"peers"`
	// Password is the plain-text password of version 2, at most 8 bytes. It protects from mistakes, not from attackers.
	Password string `toml:"password"`
	// Checksum is what the checksum of version 3 over IPv4 covers: "pseudo-header" as keepalived and most others have it,
	// "message" alone as RFC 9568 and some routers want it. Both are accepted from others.
	Checksum Checksum `toml:"checksum" default:"pseudo-header"`
}

// Checksum is what the checksum of a version 3 advert over IPv4 covers.
type Checksum string

// The two readings of the RFCs.
const (
	PseudoHeader Checksum = "pseudo-header" // RFC 5798 section 5.2.8 as keepalived, FRR and tcpdump read it
	MessageOnly  Checksum = "message"       // RFC 9568 section 5.2.8
)

// UnmarshalText accepts "pseudo-header" and "message".
func (c *Checksum) UnmarshalText(text []byte) error {
	known := []Checksum{PseudoHeader, MessageOnly}
	if !slices.Contains(known, Checksum(text)) {
		return fmt.Errorf("%q is none of %q", text, known)
	}
	*c = Checksum(text)
	return nil
}

// IPv6 tells which family adverts are sent over: that of the addresses they carry.
func (c Config) IPv6() bool { return c.Addresses[0].Is6() }

// All are the addresses that the master has: the advertised ones, then the others.
func (c Config) All() []netip.Addr { return slices.Concat(c.Addresses, c.Excluded) }

// InterfaceOf is what gets one of the addresses.
func (c Config) InterfaceOf(addr netip.Addr) string {
	if c.ExcludedInterface != "" && !slices.Contains(c.Addresses, addr) {
		return c.ExcludedInterface
	}
	return c.Interface
}

// Interfaces are those that the router needs: the one of its adverts first.
func (c Config) Interfaces() []string {
	if c.ExcludedInterface != "" && c.ExcludedInterface != c.Interface {
		return []string{c.Interface, c.ExcludedInterface}
	}
	return []string{c.Interface}
}

// Owner tells whether this node owns the addresses (RFC 9568 section 1.7).
func (c Config) Owner() bool { return c.Priority == PriorityOwner }

// SameRouter tells whether two configurations are of the same participant in the same election, so that one
// can replace the other without leaving it.
func (c Config) SameRouter(o Config) bool {
	return c.Interface == o.Interface && c.VRID == o.VRID && c.Version == o.Version && c.IPv6() == o.IPv6() &&
		c.ExcludedInterface == o.ExcludedInterface && c.Password == o.Password && c.Source == o.Source && slices.Equal(c.Peers, o.Peers)
}
