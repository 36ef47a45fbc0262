package lab

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
)

// Addresses of the LVS network. VIP is the one for callers to use: no host has it at first.
const (
	ClientAddr  = "203.0.113.2"
	RouterAddr  = "192.0.2.254"
	DirectorIP  = "192.0.2.1"
	DirectorNAT = "10.0.0.1" // the inside address, gateway of NAT servers
	VIP         = "192.0.2.10"
)

// LVS is the network which most tests use:
//
//	Client ─ 203.0.113.0/24 ─ Router ─ 192.0.2.0/24 ─ Director ─ 10.0.0.0/24 ─ NAT servers
//	                                        └ DR and TUN servers
//
// DR and TUN servers reply through the Router, not the Director. The Director neither
// forwards nor has a virtual address: that is the business of who uses it.
type LVS struct {
	*Network
	Client, Router, Director *Host

	front, back *Switch
	servers     int
}

// RealServer is a host behind the director.
type RealServer struct {
	*Host
	Addr netip.Addr
}

// NewLVS returns the network without servers.
func NewLVS(t testing.TB) *LVS { return New(t).LVS() }

// LVS builds the LVS network in n, for a program.
func (n *Network) LVS() *LVS {
	l := &LVS{
		Network: n,
		Client:  n.Host("client"), Router: n.Host("router"), Director: n.Host("director"),
		front: n.Switch("front"), back: n.Switch("back"),
	}
	outside := n.Switch("outside")
	l.Client.Connect(outside, ClientAddr+"/24")
	l.Router.Connect(outside, "203.0.113.1/24")
	l.Router.Connect(l.front, RouterAddr+"/24")
	l.Director.Connect(l.front, DirectorIP+"/24")
	l.Director.Connect(l.back, DirectorNAT+"/24")
	l.Client.Route("default", "203.0.113.1")
	l.Director.Route("default", RouterAddr)
	l.Router.Sysctl("net/ipv4/ip_forward", "1")
	return l
}

// AddServer adds a host that can serve behind the director by method. A DR server has no
// virtual address yet, a TUN server none before AcceptTunnel.
func (l *LVS) AddServer(method Method) *RealServer {
	l.servers++
	s := &RealServer{Host: l.Host(fmt.Sprintf("%s%d", method, l.servers))}
	to, subnet, gateway := l.front, "192.0.2.%d", RouterAddr
	if method == NAT {
		to, subnet, gateway = l.back, "10.0.0.%d", DirectorNAT
	}
	s.Addr = netip.MustParseAddr(fmt.Sprintf(subnet, 20+l.servers))
	s.Connect(to, s.Addr.String()+"/24")
	s.Route("default", gateway)
	return s
}

// AcceptTunnel makes a TUN server take packets for vip out of the director's IPIP tunnel,
// without answering ARP for vip.
func (s *RealServer) AcceptTunnel(vip string) {
	// Each namespace has a tunl0 once the module is there, which may be built in or loaded already.
	exec.Command("modprobe", "ipip").Run()
	s.Sysctl("net/ipv4/conf/all/arp_ignore", "1")
	s.Sysctl("net/ipv4/conf/all/arp_announce", "2")
	// What comes out of the tunnel is from clients which are routed elsewhere.
	s.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	s.Sysctl("net/ipv4/conf/tunl0/rp_filter", "0")
	s.SetLink("tunl0", true)
	s.AddAddr("tunl0", vip+"/32")
}
