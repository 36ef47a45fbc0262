package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// whoHasTries is how often a question is asked: frames get lost.
const whoHasTries = 3

// WhoHas asks on an interface who has each of the addresses, and returns who answered within wait, each once. This host does not
// answer itself.
func WhoHas(ctx context.Context, ifname string, addrs []netip.Addr, wait time.Duration) (map[netip.Addr][]net.HardwareAddr, error) {
	link, exists, err := Look(ifname)
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, fmt.Errorf("interface %s: %w", ifname, errNoInterface)
	}
	var questions [][]byte
	for _, addr := range addrs {
		question, err := link.question(addr)
		if err != nil {
			return nil, fmt.Errorf("ask on %s who has %v: %w", ifname, addr, err)
		}
		questions = append(questions, question)
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	defer unix.Close(socket)

	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answers := make(map[netip.Addr][]net.HardwareAddr)
	tap, err := OpenTap(unix.SOCK_RAW, claims)
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	for try := range whoHasTries {
		for i, question := range questions {
			to := &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: binary.NativeEndian.Uint16(question[12:])}
			if err := unix.Sendto(socket, question, 0, to); err != nil {
				return nil, fmt.Errorf("ask on %s who has %v: %w", ifname, addrs[i], err)
			}
		}
		until, cancel := context.WithTimeout(ctx, wait/whoHasTries)
		if try == whoHasTries-1 {
			until = ctx
		}
		err := tap.Hear(until, claimsTo(func(c Claim) {
			same := func(mac net.HardwareAddr) bool { return slices.Equal(mac, c.MAC) }
			if c.Own || c.Kind == ARPRequest || c.Interface != ifname || !slices.Contains(addrs, c.Addr) || slices.ContainsFunc(answers[c.Addr], same) {
				return
			}
			answers[c.Addr] = append(answers[c.Addr], c.MAC)
		}))
		cancel()
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// question is the frame that asks who has an address. Of IPv4 it is a probe (RFC 5227 section 1.1), which says nothing of who asks,
// so that nobody's memory changes. Of IPv6 such a one would stop somebody who is about to take the address, so it is a
// neighbour solicitation as before any packet.
func (i Interface) question(addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return arpRequest(i.MAC, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), addr)
	}
	at := slices.IndexFunc(i.Addrs, func(a Address) bool { return a.Addr().Is6() && a.Usable && a.Addr() != addr })
	if at < 0 {
		return nil, errors.New("the interface has no IPv6 address to ask from")
	}
	from := i.Addrs[at].Addr()
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil, err
	}
	message, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{
		TargetAddress: addr, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: i.MAC}},
	}, from, group)
	if err != nil {
		return nil, err
	}
	return multicast(i.MAC, from, group, message)
}
