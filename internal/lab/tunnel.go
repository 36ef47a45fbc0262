package lab

import (
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// Tunnel is how a director wraps packets for a TUN server.
type Tunnel string

// The kinds of tunnels.
const (
	IPIP        Tunnel = "ipip"
	GUE         Tunnel = "gue"      // to GUEPort, whatever the checksums
	GRE         Tunnel = "gre"      // without checksums
	GREChecksum Tunnel = "gre-csum" // only with; not beside GRE on one server
)

// GUEPort is where a server takes GUE.
const GUEPort = 6080

// AcceptTunnel makes a TUN server take packets for vip out of the director's IPIP tunnel over IPv4,
// without answering ARP for vip.
func (s *RealServer) AcceptTunnel(vip string) { s.Unwrap(IPIP, s.Addr, vip) }

// Unwrap is AcceptTunnel for each kind of tunnel, one kind to each of the server's addresses. The virtual addresses
// may be of the other family.
func (s *RealServer) Unwrap(kind Tunnel, to netip.Addr, vips ...string) {
	link := kind.end(to)
	name := link.Attrs().Name
	s.net.must(s.wrap("add "+name, s.links.LinkAdd(link)))
	if kind == GUE {
		s.takeGUE(to)
	}
	s.Sysctl("net/ipv4/conf/all/arp_ignore", "1")
	s.Sysctl("net/ipv4/conf/all/arp_announce", "2")
	// What comes out of the tunnel is from clients which are routed elsewhere.
	s.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	s.Sysctl("net/ipv4/conf/"+name+"/rp_filter", "0")
	s.SetLink(name, true)
	for _, vip := range vips {
		addr := netip.MustParseAddr(vip)
		s.AddAddr(name, netip.PrefixFrom(addr, addr.BitLen()).String())
	}
}

// end is the link which unwraps what comes to an address, packets of both families and from anywhere: of GUE, what
// is left is IP in IP. The kernel loads by itself what such a link needs.
func (k Tunnel) end(to netip.Addr) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	switch {
	case k == GRE || k == GREChecksum:
		attrs.Name = "gre-v4"
		if to.Is6() {
			attrs.Name = "gre-v6"
		}
		link := &netlink.Gretun{LinkAttrs: attrs, Local: to.AsSlice()}
		if k == GREChecksum {
			link.IFlags = nl.GRE_CSUM
		}
		return link
	case to.Is6():
		attrs.Name = "ip-v6"
		return &netlink.Ip6tnl{LinkAttrs: attrs, Local: to.AsSlice()}
	default:
		attrs.Name = "ip-v4"
		return &netlink.Sittun{LinkAttrs: attrs, Local: to.AsSlice()}
	}
}

// takeGUE takes GUE apart which comes to an address of to's family.
func (s *RealServer) takeGUE(to netip.Addr) {
	// Unlike links' modules this one is never loaded by the kernel itself. It may be built in or loaded already.
	exec.Command("modprobe", "fou").Run()
	family := "-4"
	if to.Is6() {
		family = "-6"
	}
	s.Run("ip", family, "fou", "add", "port", fmt.Sprint(GUEPort), "gue")
}
