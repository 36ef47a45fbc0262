package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

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
	e, err := openEars()
	if err != nil {
		return err
	}
	defer e.close()
	return e.hear(ctx, take)
}

// ears is a socket that receives claims, sent or received by this host.
type ears struct{ fd int }

func openEars() (ears, error) {
	// With protocol 0 nothing comes before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ears{}, fmt.Errorf("packet socket: %w", err)
	}
	// What this host sends is only there for those who want every protocol.
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	program := unix.SockFprog{Len: uint16(len(claims)), Filter: &claims[0]}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}),
	)
	if err != nil {
		unix.Close(fd)
		return ears{}, fmt.Errorf("packet socket: %w", err)
	}
	return ears{fd}, nil
}

func (e ears) close() { unix.Close(e.fd) }

func (e ears) hear(ctx context.Context, take func(Claim)) error {
	frame := make([]byte, 256)
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, int(glance(ctx).Milliseconds()))
		if ready == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		n, from, err := unix.Recvfrom(e.fd, frame, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return fmt.Errorf("packet socket: %w", err)
		}
		sender, _ := from.(*unix.SockaddrLinklayer)
		c, ok := parseClaim(frame[:n])
		if !ok || sender == nil {
			continue
		}
		if link, err := net.InterfaceByIndex(sender.Ifindex); err == nil {
			c.Interface = link.Name
		}
		c.Own = sender.Pkttype == unix.PACKET_OUTGOING
		take(c)
	}
	return nil
}

// glance is how long to wait at most before looking whether the context has ended.
func glance(ctx context.Context) time.Duration {
	wait := 100 * time.Millisecond
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, max(time.Until(deadline), time.Millisecond))
	}
	return wait
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
