// Package ipvsctl makes the kernel's IPVS table what it should be.
//
//	want Table ─▶ ┌──────┐      ┌────────┐
//	              │ Diff │─ops─▶│ Client │─▶ kernel (generic netlink, family "IPVS")
//	have Table ─▶ └──────┘      └────────┘
//	     ▲                           │
//	     └────── Client.Read ◀───────┘
//
// Table, Diff and the message codec are pure; Client owns the socket.
package ipvsctl

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Protocol is the transport protocol of a virtual service, by its IP protocol number.
type Protocol uint8

// The protocols IPVS balances. A service by firewall mark has none: whatever carries the mark is balanced.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

var protocolNames = map[Protocol]string{TCP: "tcp", UDP: "udp", SCTP: "sctp"}

// String returns the name used in the configuration, or the number of a protocol poise does not configure.
func (p Protocol) String() string { return nameOf(protocolNames, p) }

// MarshalText writes the configuration's name.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText accepts "tcp", "udp" and "sctp".
func (p *Protocol) UnmarshalText(text []byte) error { return byName(protocolNames, p, text) }

// Method is how packets reach a real server, as the kernel numbers it
// (IP_VS_CONN_F_FWD_MASK in include/uapi/linux/ip_vs.h).
type Method uint8

// The forwarding methods. Local is never configured: the kernel finds out by itself that a server is this host.
const (
	NAT   Method = 0 // masquerading: the director rewrites the destination and sees the replies
	Local Method = 1
	TUN   Method = 2 // tunnelling: the packet travels whole inside another one
	DR    Method = 3 // direct routing: only the link-layer destination changes
)

var methodNames = map[Method]string{NAT: "nat", TUN: "tun", DR: "dr"}

// String returns the name used in the configuration, or the number of a method poise does not configure.
func (m Method) String() string { return nameOf(methodNames, m) }

// MarshalText writes the configuration's name.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText accepts "nat", "dr" and "tun".
func (m *Method) UnmarshalText(text []byte) error { return byName(methodNames, m, text) }

// KeepsPort reports whether packets arrive at the real server with the service's port:
// DR and TUN do not touch the packet, so the server must listen on that port.
func (m Method) KeepsPort() bool { return m == DR || m == TUN }

// nameOf and byName serve the small enumerations of this package.
func nameOf[T ~uint8](names map[T]string, v T) string {
	if s, ok := names[v]; ok {
		return s
	}
	return fmt.Sprint(uint8(v))
}

func byName[T ~uint8](names map[T]string, v *T, text []byte) error {
	var known []string
	for n, s := range names {
		if s == string(text) {
			*v = n
			return nil
		}
		known = append(known, s)
	}
	slices.Sort(known)
	return fmt.Errorf("%q is none of %q", text, known)
}

// Schedulers are the names of every scheduler in the kernel's sources (net/netfilter/ipvs).
// A kernel may be built without some: adding a service that asks for one of those fails with ENOENT.
var Schedulers = []string{
	"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos",
}

// Table is what the kernel balances, or should.
type Table map[ServiceKey]Service

// ServiceKey is the identity of a virtual service; everything else about it can be edited. A service by firewall
// mark, which comes from ByMark, has no protocol and no port, and of the address only the family means something.
type ServiceKey struct {
	Protocol Protocol       `json:"protocol,omitzero"`
	Addr     netip.AddrPort `json:"addr"`
	Mark     uint32         `json:"mark,omitzero"`
}

// ByMark is the identity of the service that takes all packets of one family with a firewall mark, which is not 0.
func ByMark(mark uint32, ipv6 bool) ServiceKey {
	any := netip.IPv4Unspecified()
	if ipv6 {
		any = netip.IPv6Unspecified()
	}
	return ServiceKey{Addr: netip.AddrPortFrom(any, 0), Mark: mark}
}

// IsIPv6 reports the family of the service. Its servers have the same one, but for those behind a tunnel.
func (k ServiceKey) IsIPv6() bool { return k.Addr.Addr().Is6() }

// String returns the address, with the protocol where it is not TCP: "192.0.2.10:80", "192.0.2.10:53/udp"; of a mark
// "mark 66", "mark 66 ipv6". Large marks are hexadecimal, as nft shows them.
func (k ServiceKey) String() string {
	switch {
	case k.Mark != 0:
		text := fmt.Sprintf("mark %d", k.Mark)
		if k.Mark > 0xffff {
			text = fmt.Sprintf("mark %#x", k.Mark)
		}
		if k.IsIPv6() {
			text += " ipv6"
		}
		return text
	case k.Protocol == TCP:
		return k.Addr.String()
	}
	return k.Addr.String() + "/" + k.Protocol.String()
}

// Compare orders keys by address, port and protocol; those by mark come first.
func (k ServiceKey) Compare(o ServiceKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Protocol, o.Protocol), cmp.Compare(k.Mark, o.Mark))
}

// Service is a virtual service: its settings and the destinations it spreads over.
type Service struct {
	Settings
	Destinations map[netip.AddrPort]Destination // by the real server's address, its identity within the service
}

// Settings are what a service can be edited to. The zero value of all but Scheduler is the kernel's default.
type Settings struct {
	Scheduler   string
	Flags       Flags
	Persistence time.Duration // how long a client stays with its server; whole seconds, 0 = not at all
	ClientMask  ClientMask    // with Persistence: which clients stay together
	Engine      string        // with Persistence: what a client is told by, "" = its address
}

// Flags are the switches of a service (IP_VS_SVC_F_* in include/uapi/linux/ip_vs.h), without
// PERSISTENT, which Settings.Persistence says, and HASHED, which is the kernel's own.
type Flags uint32

// The switches. Two of them mean something to the schedulers sh and mh only.
const (
	OnePacket  Flags = 0x04 // each datagram is scheduled by itself
	Fallback   Flags = 0x08 // a client whose server takes no connections is given another
	SourcePort Flags = 0x10 // clients are told by address and port
	Flag3      Flags = 0x20 // no scheduler in the kernel's sources has a use for it
)

// String lists the switches that are on: "one-packet, source-port".
func (f Flags) String() string {
	var on []string
	for _, s := range []struct {
		flag Flags
		name string
	}{{OnePacket, "one-packet"}, {Fallback, "fallback"}, {SourcePort, "source-port"}, {Flag3, "flag-3"}} {
		if f&s.flag != 0 {
			on = append(on, s.name)
			f &^= s.flag
		}
	}
	if f != 0 {
		on = append(on, fmt.Sprintf("%#x", uint32(f)))
	}
	return cmp.Or(strings.Join(on, ", "), "none")
}

// Destination is how one real server takes part in one service.
type Destination struct {
	Method Method
	Weight int    // share of new connections, 0..2^31-1; 0 = no new ones, established ones go on
	Upper  uint32 // no new connections at this many; 0 = no limit
	Lower  uint32 // new ones again below this many, at most Upper; 0 = 3/4 of Upper
	Tunnel Tunnel // of TUN
}

// String is "nat weight 1", with thresholds and tunnel where there are any.
func (d Destination) String() string {
	text := fmt.Sprintf("%v weight %d", d.Method, d.Weight)
	if d.Upper != 0 {
		text += fmt.Sprintf(" thresholds %d %d", d.Upper, d.Lower)
	}
	if d.Method == TUN && d.Tunnel != (Tunnel{}) {
		text += " " + d.Tunnel.String()
	}
	return text
}

// Counters are what passed since the entry was made, as the kernel counts it; they lag by up to 2 s.
type Counters struct {
	Connections uint64 `json:"connections"`
	InPackets   uint64 `json:"in_packets"`
	OutPackets  uint64 `json:"out_packets"`
	InBytes     uint64 `json:"in_bytes"`
	OutBytes    uint64 `json:"out_bytes"`
}

// Rates are what passes in a second, a moving average over samples of 2 s.
type Rates struct {
	Connections, InPackets, OutPackets, InBytes, OutBytes uint64
}

// ServiceStats is what the kernel counted for one service.
type ServiceStats struct {
	Counters
	Rates        Rates
	Destinations map[netip.AddrPort]DestinationStats
}

// DestinationStats is what the kernel counted for one real server of one service.
type DestinationStats struct {
	Counters
	Rates      Rates
	Active     uint32 // TCP connections in SYN_RECV and ESTABLISHED
	Inactive   uint32 // all others, and all of UDP
	Persistent uint32 // clients that are bound to the server
}
