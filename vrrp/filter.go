package vrrp

import (
	"crypto/subtle"
	"fmt"
	"net/netip"
	"slices"
)

// Reason is why a packet counts for nothing: the metric label `reason`.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	DropLength      Reason = "length"      // does not hold what its headers say
	DropProtocol    Reason = "protocol"    // not VRRP
	DropTTL         Reason = "ttl"         // may have passed a router
	DropOwnSource   Reason = "own_source"  // comes from an address of this host: a mirror, or a node with the same address
	DropVRID        Reason = "vrid"        // of another virtual router: normal
	DropOurAddress  Reason = "our_address" // of another virtual router, with an address of ours: one of the numbers is wrong
	DropVersion     Reason = "version"     // not the router's version
	DropType        Reason = "type"        // not an advert
	DropCount       Reason = "count"       // no addresses
	DropChecksum    Reason = "checksum"    // damaged
	DropAuth        Reason = "auth"        // another password, or only one of us has one
	DropInterval    Reason = "interval"    // version 2: not ours; version 3: none
	DropDestination Reason = "destination" // to the group and we have peers, or the reverse
	DropPeer        Reason = "peer"        // not from one of the peers
)

// Reasons lists all of them.
func Reasons() []Reason {
	return []Reason{
		DropLength, DropProtocol, DropTTL, DropOwnSource, DropVRID, DropOurAddress, DropVersion, DropType, DropCount, DropChecksum,
		DropAuth, DropInterval, DropDestination, DropPeer,
	}
}

// Drop tells why a packet counts for nothing.
type Drop struct {
	Reason Reason
	From   netip.Addr // invalid when the packet is too short to tell
	What   string     // completes "adverts …": "with another password"
}

// Error is a sentence for operators: "adverts with another password from 192.0.2.7".
func (d *Drop) Error() string {
	if !d.From.IsValid() {
		return "adverts " + d.What
	}
	return fmt.Sprintf("adverts %s from %v", d.What, d.From)
}

func drop(from netip.Addr, reason Reason, format string, args ...any) *Drop {
	return &Drop{reason, from, fmt.Sprintf(format, args...)}
}

// Oddity is something in an accepted advert that operators should know. It comes with every such advert; equal values
// are the same news.
type Oddity struct {
	What  string // a constant phrase
	Cause string // who and what
}

// The oddities.
const (
	OddAddresses = "peer advertises other addresses"
	OddChecksum  = "peer has another form of checksum"
	OddInterval  = "peer has another advert interval"
)

// Filter decides which packets an election hears: one router's adverts, whole and from where they may come
// (RFC 9568 section 7.1). It never changes; a changed configuration needs a new one.
type Filter struct {
	ours  Advert
	form  Checksum
	group netip.Addr
	peers []netip.Addr // none: the group
}

// NewFilter is the filter of a router with a valid configuration.
func NewFilter(c Config) *Filter {
	group := GroupIPv4
	if c.IPv6() {
		group = GroupIPv6
	}
	return &Filter{ours: c.Advert(c.Priority), form: wireForm(c.Checksum, c.Version, group), group: group, peers: c.Peers}
}

// Judge returns the advert in a packet, and what is odd about it, or a [*Drop]. Own tells whether an address is
// this host's.
func (f *Filter) Judge(p Packet, own func(netip.Addr) bool) (Received, []Oddity, error) {
	a, form, err := f.advert(p, own)
	if err != nil {
		return Received{}, nil, err
	}
	return Received{From: p.Src, Advert: a}, f.oddities(p.Src, a, form), nil
}

func (f *Filter) advert(p Packet, own func(netip.Addr) bool) (Advert, Checksum, error) {
	refuse := func(reason Reason, format string, args ...any) (Advert, Checksum, error) {
		return Advert{}, "", drop(p.Src, reason, format, args...)
	}
	// Before Decode stands what says that the packet is not meant for us, or is none that we can read.
	switch {
	case len(p.Payload) < headerLen:
		return refuse(DropLength, "of only %d bytes", len(p.Payload))
	case p.Dst.IsMulticast() && p.TTL != ttl:
		return refuse(DropTTL, "with TTL %d instead of %d", p.TTL, ttl)
	case own(p.Src):
		return refuse(DropOwnSource, "as if by this node")
	case p.Payload[1] != f.ours.VRID:
		if a, _, err := Decode(p.Payload, p.Src, p.Dst); err == nil {
			if both := common(a.Addrs, f.ours.Addrs); len(both) > 0 {
				return refuse(DropOurAddress, "of %v with VRID %d instead of %d", both, a.VRID, f.ours.VRID)
			}
		}
		return refuse(DropVRID, "of another virtual router")
	case int(p.Payload[0]>>4) != f.ours.Version:
		return refuse(DropVersion, "of version %d instead of %d", p.Payload[0]>>4, f.ours.Version)
	}
	a, form, err := Decode(p.Payload, p.Src, p.Dst)
	switch {
	case err != nil:
		return Advert{}, "", err
	case a.AuthType != f.ours.AuthType:
		return refuse(DropAuth, "with authentication type %d instead of %d", a.AuthType, f.ours.AuthType)
	case a.AuthType != 0 && subtle.ConstantTimeCompare(a.AuthData[:], f.ours.AuthData[:]) == 0:
		return refuse(DropAuth, "with another password")
	case a.Version == 2 && a.Interval != f.ours.Interval:
		return refuse(DropInterval, "with interval %v instead of %v", a.Interval, f.ours.Interval)
	case a.Interval == 0: // RFC 9568 erratum 8301: we would time out at once, every time
		return refuse(DropInterval, "with interval 0")
	case len(f.peers) == 0 && p.Dst != f.group:
		return refuse(DropDestination, "to %v instead of %v", p.Dst, f.group)
	case len(f.peers) > 0 && p.Dst.IsMulticast():
		return refuse(DropDestination, "to %v instead of an address of this node", p.Dst)
	case len(f.peers) > 0 && !slices.Contains(f.peers, p.Src):
		return refuse(DropPeer, "by a node that is not a peer")
	}
	return a, form, nil
}

func (f *Filter) oddities(from netip.Addr, a Advert, form Checksum) []Oddity {
	var odd []Oddity
	if more, less := missing(a.Addrs, f.ours.Addrs), missing(f.ours.Addrs, a.Addrs); len(more)+len(less) > 0 {
		odd = append(odd, Oddity{OddAddresses, fmt.Sprintf("%v has %v that we have not, and lacks %v: keepalived before 2.3.3 rejects our adverts for that, and may be master too", from, more, less)})
	}
	if form != f.form {
		odd = append(odd, Oddity{OddChecksum, fmt.Sprintf("%v has %s, we send %s", from, form, f.form)})
	}
	if a.Interval != f.ours.Interval {
		odd = append(odd, Oddity{OddInterval, fmt.Sprintf("%v has %v, we have %v", from, a.Interval, f.ours.Interval)})
	}
	return odd
}

// common are those of a that are in b too.
func common(a, b []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(a), func(addr netip.Addr) bool { return !slices.Contains(b, addr) })
}

// missing are those of a that are not in b.
func missing(a, b []netip.Addr) []netip.Addr {
	if slices.Equal(a, b) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(a), func(addr netip.Addr) bool { return slices.Contains(b, addr) })
}
