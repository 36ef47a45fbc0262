package host

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AddVirtual puts virtual addresses on an interface, in order, as /32 or /128. One that is there already, also
// with another prefix length in the case of IPv6, is a success. The others are tried when one fails; the error joins one for
// each.
func AddVirtual(index int, addrs []netip.Addr) error {
	return eachVirtual("add", "to", index, addrs, addAddr)
}

// DelVirtual takes virtual addresses off an interface, in order, where they are /32 or /128. One that is not
// there, and an interface that is not, is a success. The others are tried when one fails; the error joins one for each.
func DelVirtual(index int, addrs []netip.Addr) error {
	return eachVirtual("delete", "from", index, addrs, delAddr)
}

// eachVirtual sends one message for each address: all in one would save little, as most of the time is the kernel's own.
func eachVirtual(verb, where string, index int, addrs []netip.Addr, change func(message []byte) error) error {
	var errs []error
	for _, addr := range addrs {
		if err := change(virtual(index, addr)); err != nil {
			p := netip.PrefixFrom(addr, addr.BitLen())
			errs = append(errs, fmt.Errorf("%s %s %s %s: %w", verb, p, where, nameOf(index), err))
		}
	}
	return errors.Join(errs...)
}

// virtual is the message for an address that packets are answered from, but that none should start from. IPv6 has
// the preferred lifetime for it, which is 0 (RFC 6724 section 5, rule 3). IPv4 has not, but takes an address in the next hop's
// network, which a /32 is not, and else the interface's first: a virtual one only where the host's own came
// later (inet_select_addr in net/ipv4/devinet.c). IPv6 is not checked for duplicates: the former master may
// still have the address, and one found once is never used again.
func virtual(index int, addr netip.Addr) []byte {
	ip := addr.AsSlice()
	header := nl.NewIfAddrmsg(nl.GetIPFamily(ip))
	header.Index, header.Prefixlen = uint32(index), uint8(addr.BitLen())
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip)}
	if addr.Is6() {
		header.Flags = unix.IFA_F_NODAD
		forever := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Prefered: 0, Valid: math.MaxUint32}}
		attrs = append(attrs, nl.NewRtAttr(unix.IFA_CACHEINFO, forever.Serialize()))
	}
	message := header.Serialize()
	for _, a := range attrs {
		message = append(message, a.Serialize()...)
	}
	return message
}

// Evict takes an address off an interface whatever its prefix length, and nothing else. One that is not there,
// and an interface that is not, is a success.
func Evict(index int, addr netip.Addr) error {
	if err := unlessGone(evict(index, addr)); err != nil {
		return fmt.Errorf("evict %s from %s: %w", addr, nameOf(index), err)
	}
	return nil
}

// evict keeps what would go with an IPv4 address: the addresses of its network that were added after it, unless
// net.ipv4.conf.*.promote_secondaries is set; the routes that prefer one of those as source; and with the interface's
// last address all routes through it (net/ipv4/devinet.c and fib_frontend.c). So the secondary addresses are put back,
// and are there as /32 meanwhile.
func evict(index int, addr netip.Addr) error {
	addrs, err := addrsOf(index)
	if err != nil {
		return err
	}
	var targets, secondaries []ifAddr
	var standIns []netip.Addr
	for _, a := range addrs {
		switch {
		case a.Addr() == addr:
			targets = append(targets, a)
		case addr.Is4() && a.Addr().Is4() && a.flags&unix.IFA_F_SECONDARY != 0:
			secondaries = append(secondaries, a)
			has := func(b ifAddr) bool { return b.Prefix == netip.PrefixFrom(a.Addr(), 32) }
			if !slices.ContainsFunc(addrs, has) {
				standIns = append(standIns, a.Addr())
			}
		}
	}
	if len(targets) == 0 {
		return nil
	}
	if err := AddVirtual(index, standIns); err != nil {
		return err
	}
	for _, a := range targets {
		if err := delAddr(a.message); err != nil {
			return err
		}
	}
	for _, a := range secondaries {
		if err := addAddr(a.message); err != nil {
			return fmt.Errorf("put back %s: %w", a.Prefix, err) // the /32 stays in its place
		}
	}
	return DelVirtual(index, standIns)
}

// addAddr succeeds where there is such an address.
func addAddr(message []byte) error {
	err := send(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, message)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// delAddr succeeds where there is no such address.
func delAddr(message []byte) error {
	return unlessGone(send(unix.RTM_DELADDR, 0, message))
}

func unlessGone(err error) error {
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// send sends a message to the kernel and waits for its answer.
func send(kind, flags int, message []byte) error {
	request := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	request.AddRawData(message)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// nameOf is what an error calls an interface.
func nameOf(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return "interface " + strconv.Itoa(index)
}
