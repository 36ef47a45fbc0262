package sim

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"poise/vrrp"
)

// Network is one segment. Every packet arrives after [0, D], so that two sent within D may swap. What it does beyond
// that breaks the peace: see [World.Disturb].
type Network struct {
	Loss float64 // of one packet to one node, 0..1
	Dup  float64 // of a packet arriving twice
	// Drop loses the packets of a scenario's choice.
	Drop func(from, to *Node, a vrrp.Advert) bool

	w      *World
	cut    map[[2]*Node]bool // from one to another
	recent []sent            // what Replay repeats
}

type sent struct {
	from *Node
	dst  netip.Addr
	p    vrrp.Packet
}

// Cut ends or restores what one node hears of another.
func (w *World) Cut(from, to *Node, on bool) {
	w.Disturb("%s from %s to %s", map[bool]string{true: "cut", false: "mended"}[on], from, to)
	if w.Net.cut == nil {
		w.Net.cut = map[[2]*Node]bool{}
	}
	if on {
		w.Net.cut[[2]*Node{from, to}] = true
	} else {
		delete(w.Net.cut, [2]*Node{from, to})
	}
}

// Part cuts both ways between the nodes of a side and the others.
func (w *World) Part(side []*Node, on bool) {
	for _, a := range side {
		for _, b := range w.Nodes {
			if !slices.Contains(side, b) {
				w.Cut(a, b, on)
				w.Cut(b, a, on)
			}
		}
	}
}

// broken tells that packets do not all arrive.
func (net *Network) broken() bool { return net.Loss > 0 || net.Drop != nil || len(net.cut) > 0 }

// advert sends an advert as a node's host does: one packet to the group, or one to each peer.
func (net *Network) advert(n *Node, priority uint8) {
	if !n.link || !n.source.IsValid() {
		return
	}
	a := n.Config.Advert(priority)
	for _, dst := range n.destinations() {
		p := vrrp.Packet{Src: n.source, Dst: dst, TTL: 255, Payload: a.Append(nil, n.source, dst, n.Config.Checksum)}
		net.recent = append(net.recent, sent{n, dst, p})
		if len(net.recent) > 64 {
			net.recent = slices.Delete(net.recent, 0, 32)
		}
		for _, to := range net.w.Nodes {
			if to == n || !dst.IsMulticast() && dst != to.source || net.cut[[2]*Node{n, to}] ||
				net.Drop != nil && net.Drop(n, to, a) || net.lucky(net.Loss) {
				continue
			}
			net.carry(to, p)
			if net.lucky(net.Dup) {
				net.carry(to, p)
			}
		}
	}
}

// Replay delivers an old packet to everybody but its sender, as a network with a loop might.
func (w *World) Replay(i int) {
	if len(w.Net.recent) == 0 {
		return
	}
	s := w.Net.recent[i%len(w.Net.recent)]
	w.Disturb("an old packet of %s comes again", s.from)
	for _, to := range w.Nodes {
		if to != s.from && (s.dst.IsMulticast() || s.dst == to.source) {
			w.Net.carry(to, s.p)
		}
	}
}

// Forge delivers an advert as if a node had sent it.
func (w *World) Forge(from, to *Node, priority uint8) {
	w.Disturb("forged advert %d of %s to %s", priority, from, to)
	dst := to.source
	if len(from.Config.Peers) == 0 {
		dst = from.destinations()[0]
	}
	a := from.Config.Advert(priority)
	w.Net.carry(to, vrrp.Packet{Src: from.source, Dst: dst, TTL: 255, Payload: a.Append(nil, from.source, dst, from.Config.Checksum)})
}

func (net *Network) lucky(p float64) bool { return p > 0 && net.w.rand.Float64() < p }

func (net *Network) carry(to *Node, p vrrp.Packet) {
	net.w.After(net.w.upTo(net.w.Delay), func() { to.arrive(p) })
}

// Junk lets a damaged, foreign or forged packet arrive at every node again and again. None may have any effect.
func (w *World) Junk(seed uint64, every time.Duration) {
	r := rand.New(rand.NewPCG(seed, 1)) // its own, so that nothing else changes when there is junk
	var next func()
	next = func() {
		for _, n := range w.Nodes {
			n.arriveJunk(junk(r, n, w.Nodes))
		}
		w.After(every, next)
	}
	w.After(0, next)
}

// junk makes a packet that to must not hear.
func junk(r *rand.Rand, to *Node, nodes []*Node) vrrp.Packet {
	from := nodes[r.IntN(len(nodes))]
	a, form := from.Config.Advert(uint8(r.IntN(256))), from.Config.Checksum
	p := vrrp.Packet{Src: from.Addr, Dst: to.destinations()[0], TTL: 255}
	unicast := len(to.Config.Peers) > 0
	if unicast {
		p.Dst = to.Addr
	}
	spoil := func() {} // what is to be done to the message when it is ready
	switch r.IntN(9) {
	case 0: // damaged: every sum sees a single bit
		spoil = func() { p.Payload[r.IntN(len(p.Payload))] ^= 1 << r.IntN(8) }
	case 1: // cut short
		spoil = func() { p.Payload = p.Payload[:r.IntN(len(p.Payload))] }
	case 2: // with something behind
		spoil = func() { p.Payload = append(p.Payload, make([]byte, 1+r.IntN(40))...) }
	case 3: // of a stranger, or through a router
		if p.TTL = r.IntN(255); unicast {
			p.Src = from.stranger()
		}
	case 4: // of the node itself
		p.Src = to.source
	case 5: // of another virtual router
		a.VRID++
	case 6: // of the other version
		a.Version = 5 - a.Version
	case 7: // with an interval, or a password, that is none
		switch {
		case a.Version == 3:
			a.Interval = 0
		case r.IntN(2) == 0:
			a.Interval += time.Second
		default:
			a.AuthType, a.AuthData[7] = uint8(r.IntN(2)), a.AuthData[7]+1
			if a.AuthType == to.Config.Advert(0).AuthType && a.AuthType == 0 {
				a.AuthType = 2
			}
		}
	case 8: // of another type; the sum is right
		spoil = func() {
			p.Payload[0]++
			sum := uint32(^binary.BigEndian.Uint16(p.Payload[6:])) + 0x100
			binary.BigEndian.PutUint16(p.Payload[6:], ^uint16(sum+sum>>16))
		}
	}
	p.Payload = a.Append(nil, p.Src, p.Dst, form)
	spoil()
	return p
}
