package host

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Claim is a word on the wire by which somebody's neighbours learn that an address is his.
type Claim struct {
	Interface string
	Own       bool // this host sent it
	Kind      ClaimKind
	Addr      netip.Addr
	MAC       net.HardwareAddr
}

// ClaimKind is which word it is. A question has its asker's address in it, and who hears it remembers that, too.
type ClaimKind string

// The kinds of claims.
const (
	ARPReply      ClaimKind = "ARP reply"
	ARPRequest    ClaimKind = "ARP request"
	Advertisement ClaimKind = "neighbour advertisement"
)

// claims is a filter for ARP and, behind no extension headers, neighbour advertisements: all that parseClaim takes.
var claims = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12}, // the frame's type
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_ARP, Jt: 5},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IPV6, Jf: 5},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 20}, // the next header
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 54}, // ICMP's type
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: icmpAdvertisement, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 128},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

const icmpAdvertisement = 136 // RFC 4861 section 4.4

// Overhear hands the claims on all interfaces of the calling thread's network namespace to take until the context ends.
func Overhear(ctx context.Context, take func(Claim)) error {
	tap, err := OpenTap(unix.SOCK_RAW, claims)
	if err != nil {
		return err
	}
	defer tap.Close()
	return tap.Hear(ctx, claimsTo(take))
}

// claimsTo reads frames.
func claimsTo(take func(Claim)) func([]byte, *unix.SockaddrLinklayer) {
	return func(frame []byte, from *unix.SockaddrLinklayer) {
		c, ok := parseClaim(frame)
		if !ok {
			return
		}
		if link, err := net.InterfaceByIndex(from.Ifindex); err == nil {
			c.Interface = link.Name
		}
		c.Own = from.Pkttype == unix.PACKET_OUTGOING
		take(c)
	}
}

// parseClaim reads an Ethernet frame: ARP of Ethernet and IPv4 (RFC 826), or a neighbour advertisement (RFC 4861
// section 4.4). A probe, which has no sender's address, claims nothing.
func parseClaim(f []byte) (c Claim, ok bool) {
	if len(f) < 14 {
		return c, false
	}
	switch kind, b := binary.BigEndian.Uint16(f[12:]), f[14:]; {
	case kind == unix.ETH_P_ARP && len(b) >= 28 && [6]byte(b) == [6]byte{0, 1, 8, 0, 6, 4}:
		switch binary.BigEndian.Uint16(b[6:]) {
		case 1:
			c.Kind = ARPRequest
		case 2:
			c.Kind = ARPReply
		default:
			return c, false
		}
		c.MAC, c.Addr = append(net.HardwareAddr(nil), b[8:14]...), netip.AddrFrom4([4]byte(b[14:]))
		return c, !c.Addr.IsUnspecified()
	case kind == unix.ETH_P_IPV6 && len(b) >= 64 && b[6] == unix.IPPROTO_ICMPV6 && b[40] == icmpAdvertisement:
		c.Kind = Advertisement
		c.MAC, c.Addr = append(net.HardwareAddr(nil), f[6:12]...), netip.AddrFrom16([16]byte(b[48:]))
		return c, true
	}
	return c, false
}
