package through

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/host"
)

// Return is what became of a server's reply to a client from afar.
type Return struct {
	Here   bool   // it came back to this host,
	Link   string // on this interface,
	From   net.HardwareAddr
	SentOn bool // and this host sends it on to the client
}

// returnTries is how often a client knocks: frames get lost.
const returnTries = 3

// Returns tells, of ways that [Prober.Probe] had an answer by, whether the servers' replies to clients come back to this host: each
// is knocked at in the name of Somebody, a client that there is not, and what comes back here within wait is seen. Nothing
// tells whether replies that do not come here arrive elsewhere. Ways without a path are left out, those to this host itself, and
// those for which no port is left that would tell their replies from others'.
func (p *Prober) Returns(ctx context.Context, ways []Way, wait time.Duration) (map[Way]Return, error) {
	tap, err := host.OpenTap(unix.SOCK_DGRAM, tcpOf(destination, Somebody(false), Somebody(true)))
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	returns, knocks := make(map[Way]Return), make(map[uint16]Way)
	defer func() {
		for port, w := range knocks { // so that no server waits for what is not to come
			_ = p.knock(w, port, tcpRST, 1) // a courtesy
		}
	}()
	for _, w := range ways {
		if at := p.paths[w]; at.err != nil || at.own {
			continue
		}
		port := uint16(p.ports.take())
		if _, taken := knocks[port]; !taken {
			knocks[port] = w
			returns[w] = Return{}
		}
	}
	for range returnTries {
		for port, w := range knocks {
			if returns[w].Here {
				continue
			}
			if err := p.knock(w, port, tcpSYN, 0); err != nil { // a packet filter of this host's, for example
				delete(knocks, port)
				delete(returns, w)
			}
		}
		until, cancel := context.WithTimeout(ctx, wait/returnTries)
		err := tap.Hear(until, func(packet []byte, from *unix.SockaddrLinklayer) {
			port, isSegment := destinationPort(packet)
			w, ours := knocks[port]
			if !isSegment || !ours || from.Pkttype != unix.PACKET_HOST { // what this host sends on is its own business
				return
			}
			r := Return{Here: true, From: append(net.HardwareAddr(nil), from.Addr[:min(int(from.Halen), len(from.Addr))]...)}
			if link, err := net.InterfaceByIndex(from.Ifindex); err == nil {
				r.Link = link.Name
			}
			returns[w] = r
		})
		cancel()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
	}
	for w, r := range returns {
		if r.Here && w.Method.KeepsPort() {
			if r.SentOn, err = p.sendsOn(r.Link, w.VIP.Addr()); err != nil {
				return nil, err
			}
			returns[w] = r
		}
	}
	return returns, nil
}

// sendsOn tells whether this host forwards what comes in on a link with a virtual address as its source, which it may have itself:
// IPv6 does not look at that.
func (p *Prober) sendsOn(ifname string, vip netip.Addr) (bool, error) {
	if vip.Is6() {
		forwarding, err := host.Sysctls{}.Read("net.ipv6.conf.all.forwarding")
		return forwarding != "0", err
	}
	forwarding, err := host.Sysctls{}.Read("net.ipv4.ip_forward")
	_, guarded := p.record.Former(acceptLocal(ifname)) // set by this prober: but for answers to itself nothing passes
	if err != nil || forwarding == "0" || guarded {
		return false, err
	}
	accepts, err := host.Sysctls{}.InForce(ifname, "accept_local")
	return accepts != 0, err
}

const (
	tcpSYN = 2
	tcpRST = 4
)

// knock sends a segment from Somebody by a way.
func (p *Prober) knock(w Way, port uint16, flags byte, sequence uint32) error {
	at := p.paths[w]
	ipv6 := w.VIP.Addr().Is6()
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(w.VIP.Addr().AsSlice())})
	if ipv6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: w.VIP.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // the header is ours
	if err != nil {
		return fmt.Errorf("raw socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(at.mark)); err != nil {
		return fmt.Errorf("raw socket: SO_MARK: %w", err)
	}
	hops := byte(64)
	if at.hops > 0 {
		hops = byte(at.hops)
	}
	packet := segment(netip.AddrPortFrom(Somebody(ipv6), port), w.VIP, flags, sequence, hops)
	if err := unix.Sendto(fd, packet, 0, to); err != nil {
		return fmt.Errorf("send to %v in the name of a client: %w", w.VIP, err)
	}
	return nil
}

// segment is a whole packet with a TCP header alone (RFC 9293 section 3.1).
func segment(from, to netip.AddrPort, flags byte, sequence uint32, hops byte) []byte {
	const size = 20
	var b []byte
	if from.Addr().Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, 20+size)
		b = append(b, 0, 0, 0x40, 0, hops, unix.IPPROTO_TCP, 0, 0) // do not fragment; the kernel adds the checksum
	} else {
		b = append(b, 0x60, 0, 0, 0, 0, size, unix.IPPROTO_TCP, hops)
	}
	b = append(b, from.Addr().AsSlice()...)
	b = append(b, to.Addr().AsSlice()...)
	header := len(b)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = append(b, 0, 0, 0, 0, size/4<<4, flags, 0xff, 0xff, 0, 0, 0, 0)

	sum := uint32(unix.IPPROTO_TCP + size) // of the pseudo-header
	addrs := header - 2*len(from.Addr().AsSlice())
	for at := addrs; at < len(b); at += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[at:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[header+16:], ^uint16(sum))
	return b
}

// Where a packet has its addresses.
const (
	source      = 0
	destination = 1
)

// tcpOf is a filter for TCP packets, behind an IP header without options and extension headers, that have one of the addresses
// as their source or destination.
func tcpOf(side uint32, addrs ...netip.Addr) (program []unix.SockFilter) {
	for _, addr := range addrs {
		version, protocol, at, bytes := uint32(4), uint32(9), uint32(12), addr.AsSlice()
		if addr.Is6() {
			version, protocol, at = 6, 6, 8
		}
		at += side * uint32(len(bytes))
		block := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 0}, {Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 4}}
		must := func(value uint32) {
			block = append(block, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value})
		}
		must(version)
		block = append(block, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: protocol})
		must(unix.IPPROTO_TCP)
		for word := 0; word < len(bytes); word += 4 {
			block = append(block, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at + uint32(word)})
			must(binary.BigEndian.Uint32(bytes[word:]))
		}
		block = append(block, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 128})
		for i := range block {
			if block[i].Code&0x07 == unix.BPF_JMP {
				block[i].Jf = uint8(len(block) - i - 1) // to the next one
			}
		}
		program = append(program, block...)
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
}

// destinationPort is where a TCP packet goes.
func destinationPort(b []byte) (uint16, bool) {
	if b = tcpHeader(b); len(b) < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[2:]), true
}

// tcpHeader is what follows the IP header; nothing where that is cut short.
func tcpHeader(b []byte) []byte {
	header := 40
	switch {
	case len(b) > 0 && b[0]>>4 == 4:
		header = int(b[0]&0x0f) * 4
	case len(b) == 0 || b[0]>>4 != 6:
		return nil
	}
	return b[min(header, len(b)):]
}

// Segment returns how large packets a server takes by a way that [Prober.Probe] had an answer by: as it tells clients, by its MSS
// (RFC 9293 section 3.7.1). A connection of this host's own does not show it, as the kernel knows about the tunnel. 0 is not known.
func (p *Prober) Segment(ctx context.Context, w Way) (bytes int, err error) {
	err = p.Probe(ctx, w, func(ctx context.Context, dial Dial) error {
		tap, err := host.OpenTap(unix.SOCK_DGRAM, tcpOf(source, w.VIP.Addr()))
		if err != nil {
			return err
		}
		defer tap.Close()
		conn, err := dial(ctx, w.VIP)
		if err != nil {
			return err
		}
		defer conn.Close()
		port := netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
		err = tap.Take(func(packet []byte, _ *unix.SockaddrLinklayer) { // it has come before the connection was there
			if to, ok := destinationPort(packet); ok && to == port {
				bytes = max(bytes, announced(packet))
			}
		})
		return errors.Join(err, conn.SetLinger(0))
	})
	return bytes, err
}

// announced is the size of packet that a SYN asks for; 0 where it says nothing, or is none.
func announced(b []byte) int {
	tcp := tcpHeader(b)
	if len(tcp) < 20 || tcp[13]&tcpSYN == 0 {
		return 0
	}
	options := tcp[20:max(20, min(len(tcp), int(tcp[12]>>4)*4))]
	for len(options) > 1 && options[0] != 0 {
		switch kind, size := options[0], int(options[1]); {
		case kind == 1: // nothing
			options = options[1:]
		case kind == 2 && size == 4 && len(options) >= 4:
			return int(binary.BigEndian.Uint16(options[2:])) + len(b) - len(tcp) + 20
		case size < 2 || size > len(options):
			return 0
		default:
			options = options[size:]
		}
	}
	return 0
}
