package vrrp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Tap sees the VRRP packets on one interface as they are on the wire: those that a packet filter keeps from every [Conn],
// too, and those that this host sends. It is not safe for concurrent use.
type Tap struct {
	fd int
	in []byte
}

// tapped is a filter for VRRP behind an IP header, without extension headers. A trunk's VLANs pass the tap on the trunk, too, and are
// not for it: of what comes in, the kernel has taken the tag out of the frame by then and keeps it beside; of what goes out the
// frame may have it, and then the protocol is that of the tag. VLAN 0 is no VLAN, but a priority (IEEE 802.1Q section 9.6).
var tapped = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: besideTagged},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 2},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: besideTag},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x0fff, Jt: 8},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: besideProtocol},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jf: 2},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: Protocol, Jt: 3, Jf: 4},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IPV6, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: Protocol, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: mostBytes},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// Where a filter finds what the kernel knows of a packet beside its bytes (SKF_AD_* in include/uapi/linux/filter.h).
const (
	besideProtocol = 1<<32 - 0x1000
	besideTag      = besideProtocol + 44
	besideTagged   = besideProtocol + 48
)

// OpenTap begins to see what passes an interface of the calling thread's network namespace. It needs CAP_NET_RAW. Adverts to a
// group are there only while somebody on this host has joined it.
func OpenTap(ifindex int) (*Tap, error) {
	// With protocol 0 nothing comes before the filter is there. A cooked socket has no link's header.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	// What this host sends is only there for those who want every protocol.
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(tapped)), Filter: &tapped[0]}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), unix.Close(fd))
	}
	return &Tap{fd, make([]byte, mostBytes)}, nil
}

// FD is readable while packets wait.
func (t *Tap) FD() int { return t.fd }

// Close closes the socket.
func (t *Tap) Close() error { return unix.Close(t.fd) }

// Sender is who sent a packet: this host, or the neighbour with this MAC address.
type Sender struct {
	Own bool
	MAC net.HardwareAddr
}

// Receive returns the next packet and who sent it, or false when none waits. Its payload is valid until the next call. A packet that
// cannot be read comes empty, which a [Filter] refuses.
func (t *Tap) Receive() (p Packet, from Sender, ok bool, err error) {
	n, sender, err := unix.Recvfrom(t.fd, t.in, 0)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return Packet{}, Sender{}, false, nil
	case err != nil:
		return Packet{}, Sender{}, false, fmt.Errorf("packet socket: %w", err)
	}
	if link, known := sender.(*unix.SockaddrLinklayer); known {
		from = Sender{link.Pkttype == unix.PACKET_OUTGOING, append(net.HardwareAddr(nil), link.Addr[:min(int(link.Halen), len(link.Addr))]...)}
	}
	b := t.in[:n]
	if n > 0 && b[0]>>4 == 6 {
		p, _ = parseIPv6(b)
	} else {
		p, _ = ParseIPv4(b)
	}
	return p, from, true, nil
}

// parseIPv6 reads a whole IPv6 packet without extension headers.
func parseIPv6(b []byte) (Packet, error) {
	if len(b) < ipv6Header || b[0]>>4 != 6 {
		return Packet{}, drop(netip.Addr{}, DropLength, "without an IPv6 header")
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	total := ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
	if total < ipv6Header+headerLen || total > len(b) {
		return Packet{}, drop(src, DropLength, "cut short: %d bytes of %d", len(b), total)
	}
	if b[6] != Protocol {
		return Packet{}, drop(src, DropProtocol, "of IP protocol %d instead of %d", b[6], Protocol)
	}
	return Packet{Src: src, Dst: dst, TTL: int(b[7]), Payload: b[ipv6Header:total]}, nil
}

const ipv6Header = 40 // RFC 8200 section 3
