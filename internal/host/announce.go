package host

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// GratuitousARP returns the Ethernet frame that tells all neighbours that mac has an IPv4 address: a
// broadcast ARP request for the address by its own holder (RFC 5227 section 3).
func GratuitousARP(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	return arpRequest(mac, addr, ethernet.Broadcast, addr)
}

// arpRequest returns the Ethernet frame by which mac, with the address from, asks all neighbours who has an address.
func arpRequest(mac net.HardwareAddr, from netip.Addr, target net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	packet, err := arp.NewPacket(arp.OperationRequest, mac, from, target, addr)
	if err != nil {
		return nil, err
	}
	payload, err := packet.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return frame(ethernet.Broadcast, mac, ethernet.EtherTypeARP, payload)
}

// NeighborAdvertisement returns the Ethernet frame that tells all neighbours that mac has an IPv6 address
// (RFC 4861 section 7.2.6). Neighbours who use this host as their router forget it when router is not set.
func NeighborAdvertisement(mac net.HardwareAddr, addr netip.Addr, router bool) ([]byte, error) {
	allNodes := netip.IPv6LinkLocalAllNodes()
	message, err := ndp.MarshalMessageChecksum(&ndp.NeighborAdvertisement{
		Router:        router,
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	}, addr, allNodes)
	if err != nil {
		return nil, err
	}
	return multicast(mac, addr, allNodes, message)
}

// multicast returns the Ethernet frame of an ICMPv6 message to a group, which also names the frame's receivers (RFC 2464
// section 7).
func multicast(mac net.HardwareAddr, from, group netip.Addr, message []byte) ([]byte, error) {
	packet := binary.BigEndian.AppendUint32(nil, 6<<28) // version, no traffic class, no flow label
	packet = binary.BigEndian.AppendUint16(packet, uint16(len(message)))
	packet = append(packet, unix.IPPROTO_ICMPV6, ndp.HopLimit)
	packet = append(packet, from.AsSlice()...)
	packet = append(packet, group.AsSlice()...)
	packet = append(packet, message...)
	to := append(net.HardwareAddr{0x33, 0x33}, group.AsSlice()[12:]...)
	return frame(to, mac, ethernet.EtherTypeIPv6, packet)
}

func frame(to, from net.HardwareAddr, kind ethernet.EtherType, payload []byte) ([]byte, error) {
	if len(from) != len(ethernet.Broadcast) {
		return nil, fmt.Errorf("%q is not an Ethernet address", from)
	}
	f := ethernet.Frame{Destination: to, Source: from, EtherType: kind, Payload: payload}
	b, err := f.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return b[:2*len(from)+2+len(payload)], nil // the padding to the shortest frame is the driver's business
}

// Announcer tells neighbours where addresses are. One goroutine at a time may use it.
type Announcer struct {
	socket  int
	routers map[int]router // by interface index
}

// router is what an interface was when the announcer last looked.
type router struct {
	forwards bool
	seen     time.Time
}

// OpenAnnouncer returns an announcer for all interfaces of the calling thread's network namespace.
func OpenAnnouncer() (*Announcer, error) {
	// Protocol 0 receives nothing: no queue that nobody reads.
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return &Announcer{socket, map[int]router{}}, nil
}

// Close closes the socket.
func (a *Announcer) Close() error { return unix.Close(a.socket) }

// Announce sends one gratuitous ARP or neighbour advertisement. It does not wait: a full queue of the interface is an
// error. An interface without ARP needs none.
func (a *Announcer) Announce(i Interface, addr netip.Addr) error {
	if i.NoARP {
		return nil
	}
	if err := a.announce(i, addr); err != nil {
		return fmt.Errorf("announce %s on %s: %w", addr, i.Name, err)
	}
	return nil
}

func (a *Announcer) announce(i Interface, addr netip.Addr) error {
	f, err := a.frame(i, addr)
	if err != nil {
		return err
	}
	// The type is what the kernel files the frame under; it wants it as it stands there, in network byte order.
	to := &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: binary.NativeEndian.Uint16(f[12:])}
	return unix.Sendto(a.socket, f, unix.MSG_DONTWAIT, to)
}

func (a *Announcer) frame(i Interface, addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return GratuitousARP(i.MAC, addr)
	}
	forwards, err := a.forwards(i)
	if err != nil {
		return nil, err
	}
	return NeighborAdvertisement(i.MAC, addr, forwards)
}

// forwards tells whether the host routes IPv6 of an interface. There may be hundreds of addresses to announce
// at a time: an answer serves for 5 s.
func (a *Announcer) forwards(i Interface) (bool, error) {
	if r := a.routers[i.Index]; time.Since(r.seen) < 5*time.Second {
		return r.forwards, nil
	}
	value, err := Sysctls{}.Read(SysctlName("net", "ipv6", "conf", i.Name, "forwarding"))
	if err != nil {
		return false, err
	}
	r := router{forwards: value != "0", seen: time.Now()}
	a.routers[i.Index] = r
	return r.forwards, nil
}
