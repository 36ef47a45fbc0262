package lab

import (
	"fmt"
	"net/netip"
	"testing"
)

// Addresses of the LVS network, in both families. VIP and VIP6 are for callers to use: no host has them at first.
const (
	ClientAddr    = "203.0.113.2"
	RouterAddr    = "192.0.2.254"
	DirectorIP    = "192.0.2.1"
	DirectorNAT   = "10.0.0.1" // the inside address, gateway of NAT servers
	NeighbourAddr = "192.0.2.3"
	BypassAddr    = "10.0.0.253"
	VIP           = "192.0.2.10"

	ClientAddr6    = "2001:db8:113::2"
	RouterAddr6    = "2001:db8:2::254"
	DirectorIP6    = "2001:db8:2::1"
	DirectorNAT6   = "fd00:10::1"
	NeighbourAddr6 = "2001:db8:2::3"
	BypassAddr6    = "fd00:10::253"
	VIP6           = "2001:db8:2::10"

	outsideGateway  = "203.0.113.1"
	outsideGateway6 = "2001:db8:113::1"
	bypassOutside   = "192.0.2.253"
	bypassOutside6  = "2001:db8:2::253"
)

// LVS is the network which most tests use:
//
//	Client ─ 203.0.113.0/24 ──── Router ─ 192.0.2.0/24 ──── Director ─ 10.0.0.0/24 ─ NAT servers
//	         2001:db8:113::/64        │   2001:db8:2::/64              fd00:10::/64
//	                                  ├ DR, TUN and full NAT servers
//	                                  └ AddNeighbour
//
// DR, TUN and full NAT servers have their default route through the Router, not the Director. The Director
// neither forwards nor has a virtual address: that is the business of who uses it.
type LVS struct {
	*Network
	Client, Router, Director *Host

	front, back *Switch
	servers     int
}

// RealServer is a host behind the director.
type RealServer struct {
	*Host
	Addr, Addr6 netip.Addr
}

// NewLVS returns the network without servers.
func NewLVS(t testing.TB) *LVS { return New(t).LVS() }

// LVS builds the LVS network in n, for a program.
func (n *Network) LVS() *LVS {
	l := &LVS{Network: n, front: n.Switch("front"), back: n.Switch("back")}
	outside := n.Switch("outside")
	l.Client, l.Router, l.Director = l.newHost("client"), l.newHost("router"), l.newHost("director")
	l.Client.Connect(outside, ClientAddr+"/24", ClientAddr6+"/64")
	l.Router.Connect(outside, outsideGateway+"/24", outsideGateway6+"/64")
	l.Router.Connect(l.front, RouterAddr+"/24", RouterAddr6+"/64")
	l.Director.Connect(l.front, DirectorIP+"/24", DirectorIP6+"/64")
	l.Director.Connect(l.back, DirectorNAT+"/24", DirectorNAT6+"/64")
	l.Client.gateways(outsideGateway, outsideGateway6)
	l.Director.gateways(RouterAddr, RouterAddr6)
	l.Router.Sysctl("net/ipv4/ip_forward", "1")
	l.Router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	return l
}

// newHost makes a host whose link-local addresses are usable at once, too: a router asks for its neighbours from them.
func (l *LVS) newHost(name string) *Host {
	h := l.Host(name)
	h.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	return h
}

// gateways sets the default route of each family.
func (h *Host) gateways(via, via6 string) {
	h.Route("default", via)
	h.Route("default", via6)
}

// AddServer adds a host that can serve behind the director by method. A DR server has no
// virtual address yet, a TUN server none before AcceptTunnel or Unwrap.
func (l *LVS) AddServer(method Method) *RealServer {
	l.servers++
	s := &RealServer{Host: l.newHost(fmt.Sprintf("%s%d", method, l.servers))}
	to, subnet, subnet6 := l.front, "192.0.2.%d", "2001:db8:2::%d"
	if method == NAT {
		to, subnet, subnet6 = l.back, "10.0.0.%d", "fd00:10::%d"
	}
	s.Addr = netip.MustParseAddr(fmt.Sprintf(subnet, 20+l.servers))
	s.Addr6 = netip.MustParseAddr(fmt.Sprintf(subnet6, 20+l.servers)) // ends in the same digits
	s.Connect(to, s.Addr.String()+"/24", s.Addr6.String()+"/64")
	if method == NAT {
		s.gateways(DirectorNAT, DirectorNAT6)
	} else {
		s.gateways(RouterAddr, RouterAddr6)
	}
	return s
}

// AddNeighbour adds a client on the subnet of the director and of all but NAT servers: together they are a
// network of their own, where servers can answer a client without director and router.
func (l *LVS) AddNeighbour() *Host {
	h := l.newHost("neighbour")
	h.Connect(l.front, NeighbourAddr+"/24", NeighbourAddr6+"/64")
	h.gateways(RouterAddr, RouterAddr6)
	return h
}

// AddBypass adds a router between the two networks of the director, which knows nothing of it.
func (l *LVS) AddBypass() *Host {
	h := l.newHost("bypass")
	h.Connect(l.back, BypassAddr+"/24", BypassAddr6+"/64")
	h.Connect(l.front, bypassOutside+"/24", bypassOutside6+"/64")
	h.gateways(RouterAddr, RouterAddr6)
	h.Sysctl("net/ipv4/ip_forward", "1")
	h.Sysctl("net/ipv6/conf/all/forwarding", "1")
	return h
}
