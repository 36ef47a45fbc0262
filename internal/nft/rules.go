// Package nft owns poise's nftables tables. The director's is inet poise: firewall marks for services that listen on
// several addresses, ports or ranges, and the source NAT of full NAT.
//
//	configuration ─▶ Rules ─▶ ┌─────────┐ Replace       one transaction: packets meet the old table or the new one
//	                          │ Client  │ ────────────▶ kernel
//	events ◀── Differences ── └─────────┘ ◀──────────── what is really there
//	                               ▲
//	Watcher.Changes ───────────────┘ somebody changed some table: look again
//
// What a packet meets:
//
//	prerouting, output   to 192.0.2.10:8000-8100?          mark 0x50000001, by which IPVS finds the service; not of probes
//	IPVS                 mark or address is a service's?   to 10.0.0.7:80
//	postrouting          was to 192.0.2.10:8000-8100,      masquerade: the server answers to the director
//	                     is to 10.0.0.7:80?
//
// Rules and the table are values; Client owns the socket. Other tables are never touched.
//
// A real server's are arp poise and inet poise_realserver, which are set and read whole. What they do for a virtual address:
//
//	SetSilence   arp poise input                  who has it?                 nothing: the director answers
//	             arp poise output                 a neighbour is asked for    in the name of the server's own address
//	SetClamp     inet poise_realserver output     SYN, SYN-ACK                no MSS that does not fit into the tunnel
package nft

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// The firewall marks of probes, which choose their server by them. Rules leave them as they are.
const (
	ProbeBlock uint32 = 0x50100000
	ProbeMask  uint32 = 0xfff00000
)

// Rules is what poise wants of nftables. The zero value wants nothing, and then there is no table.
type Rules struct {
	// Marks are given to packets to a flow before IPVS looks for a service. Flows must not overlap.
	Marks map[Flow]uint32

	// Masquerades leave with the director's own address.
	Masquerades map[Masquerade]struct{}
}

// Flow is all that is sent to a range of ports of one address.
type Flow struct {
	Protocol    uint8 // 6 TCP, 17 UDP or 132 SCTP
	Addr        netip.Addr
	First, Last uint16 // equal for one port
}

// Masquerade is what came to a flow and goes on to a server, with the same port where Server has port 0. Both conditions
// are needed: a directly routed packet still has the address it came to, one in a tunnel never had another than the
// server's, and so none of them is masqueraded, nor anything else that the director sends or forwards to the server.
//
// With a Mark, which somebody else gave, it is what has this mark and goes to a server that it did not come to: of any
// protocol, to any port where Server has port 0. Exactly one of Flow and Mark is set.
//
// Connection tracking knows where a packet came to: IPVS must take part in it (net.ipv4.vs.conntrack=1).
type Masquerade struct {
	Flow   Flow
	Mark   uint32
	Server netip.AddrPort
}

// String is how the configuration has it, with the protocol where it is not TCP: "192.0.2.10:53/udp".
func (f Flow) String() string {
	s := netip.AddrPortFrom(f.Addr, f.First).String()
	if f.Last != f.First {
		s += fmt.Sprintf("-%d", f.Last)
	}
	switch f.Protocol {
	case 6:
		return s
	case 17:
		return s + "/udp"
	case 132:
		return s + "/sctp"
	}
	return fmt.Sprintf("%s/%d", s, f.Protocol)
}

// Compare orders flows by protocol, address and ports.
func (f Flow) Compare(o Flow) int {
	return cmp.Or(cmp.Compare(f.Protocol, o.Protocol), f.Addr.Compare(o.Addr), cmp.Compare(f.First, o.First), cmp.Compare(f.Last, o.Last))
}

// Equal reports whether both want the same.
func (r Rules) Equal(o Rules) bool {
	return maps.Equal(r.Marks, o.Marks) && maps.Equal(r.Masquerades, o.Masquerades)
}

// Merge returns rules that do what either wants. Of a flow that both mark, in whole or in part, r's mark holds.
func (r Rules) Merge(o Rules) Rules {
	merged := Rules{maps.Clone(r.Marks), maps.Clone(r.Masquerades)}
	if merged.Marks == nil {
		merged.Marks = make(map[Flow]uint32)
	}
	if merged.Masquerades == nil {
		merged.Masquerades = make(map[Masquerade]struct{})
	}
	marked := make(map[Flow][]Flow) // r's, by their endpoint
	for f := range r.Marks {
		marked[f.endpoint()] = append(marked[f.endpoint()], f)
	}
	for f, mark := range o.Marks {
		for _, rest := range f.without(marked[f.endpoint()]) {
			merged.Marks[rest] = mark
		}
	}
	maps.Copy(merged.Masquerades, o.Masquerades)
	return merged
}

// check finds flows that overlap: the kernel would refuse them, and only say that something exists already.
func (r Rules) check() error {
	flows := slices.SortedFunc(maps.Keys(r.Marks), Flow.Compare)
	for i := 1; i < len(flows); i++ {
		a, b := flows[i-1], flows[i]
		if a.endpoint() == b.endpoint() && b.First <= a.Last {
			return fmt.Errorf("mark %#x for %v: overlaps %v, which gets mark %#x", r.Marks[b], b, a, r.Marks[a])
		}
	}
	return nil
}

// endpoint is the flow without its ports.
func (f Flow) endpoint() Flow { return Flow{Protocol: f.Protocol, Addr: f.Addr} }

// without returns what is left of a flow without others of the same endpoint.
func (f Flow) without(others []Flow) []Flow {
	var left []Flow
	for _, o := range union(others) {
		if o.Last < f.First || o.First > f.Last {
			continue
		}
		if o.First > f.First {
			before := f
			before.Last = o.First - 1
			left = append(left, before)
		}
		if o.Last >= f.Last {
			return left
		}
		f.First = o.Last + 1
	}
	return append(left, f)
}

// union returns flows of one endpoint in order, those that overlap made one.
func union(flows []Flow) []Flow {
	var united []Flow
	for _, f := range slices.SortedFunc(slices.Values(flows), Flow.Compare) {
		if n := len(united); n > 0 && f.First <= united[n-1].Last {
			united[n-1].Last = max(united[n-1].Last, f.Last)
		} else {
			united = append(united, f)
		}
	}
	return united
}

// masquerade is a Masquerade with the ports of the server spelt out: from any port of the flow to any of these.
type masquerade struct {
	flow        Flow
	server      netip.Addr
	first, last uint16
}

// masquerades are r.Masquerades of flows without overlaps, which the kernel would refuse although all mean the same.
func (r Rules) masquerades() []masquerade {
	flows := make(map[Masquerade][]Flow) // by endpoint and server
	for m := range r.Masquerades {
		if m.Mark == 0 {
			key := Masquerade{Flow: m.Flow.endpoint(), Server: m.Server}
			flows[key] = append(flows[key], m.Flow)
		}
	}
	var disjoint []masquerade
	for key, from := range flows {
		server, port := key.Server.Addr(), key.Server.Port()
		kept := union(flows[Masquerade{Flow: key.Flow, Server: netip.AddrPortFrom(server, 0)}])
		for _, f := range union(from) {
			if port == 0 {
				disjoint = append(disjoint, masquerade{f, server, f.First, f.Last})
				continue
			}
			// Where the port is kept, all ports of that flow go to all of them, this port too.
			same := func(k Flow) bool { return k.First <= port && port <= k.Last }
			if i := slices.IndexFunc(kept, same); i >= 0 {
				for _, rest := range f.without(kept[i : i+1]) {
					disjoint = append(disjoint, masquerade{rest, server, port, port})
				}
			} else {
				disjoint = append(disjoint, masquerade{f, server, port, port})
			}
		}
	}
	return disjoint
}
