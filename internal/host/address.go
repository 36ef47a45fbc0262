package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// AddAddr puts an address on an interface. It reports false when it was there.
func AddAddr(ifname string, p netip.Prefix) (added bool, err error) {
	err = changeAddr(netlink.AddrAdd, ifname, p)
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("add %s to %s: %w", p, ifname, err)
	}
	return true, nil
}

// DelAddr takes an address off an interface. It reports false when it was not there.
func DelAddr(ifname string, p netip.Prefix) (deleted bool, err error) {
	err = changeAddr(netlink.AddrDel, ifname, p)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete %s from %s: %w", p, ifname, err)
	}
	return true, nil
}

func changeAddr(change func(netlink.Link, *netlink.Addr) error, ifname string, p netip.Prefix) error {
	link, err := linkByName(ifname)
	if err != nil {
		return err
	}
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return change(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: mask}})
}

// HasAddr tells whether an interface has an address, with exactly this prefix length.
func HasAddr(ifname string, p netip.Prefix) (bool, error) {
	link, err := linkByName(ifname)
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", ifname, err)
	}
	addrs, err := addrsOf(link.Attrs().Index)
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", ifname, err)
	}
	return slices.ContainsFunc(addrs, func(a ifAddr) bool { return a.Prefix == p }), nil
}

// ifAddr is an address of an interface.
type ifAddr struct {
	netip.Prefix
	link    int
	flags   uint8  // IFA_F_*, the lowest eight
	message []byte // what the kernel tells of it: sent back, the same address is made or deleted
}

// addrsOf returns the addresses of an interface, or those of all for index 0.
func addrsOf(index int) ([]ifAddr, error) {
	messages, err := dump(unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC), unix.RTM_NEWADDR)
	if err != nil {
		return nil, err
	}
	var addrs []ifAddr
	for _, m := range messages {
		a, err := parseAddr(m)
		if err != nil {
			return nil, err
		}
		if index == 0 || index == a.link {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// dump returns all that the kernel answers to a question. It starts again when things changed under the dump.
func dump(question int, header nl.NetlinkRequestData, answer uint16) (messages [][]byte, err error) {
	for range 10 {
		request := nl.NewNetlinkRequest(question, unix.NLM_F_DUMP)
		request.AddData(header)
		messages, err = request.Execute(unix.NETLINK_ROUTE, answer)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return messages, nil
}

func parseAddr(message []byte) (ifAddr, error) {
	header := nl.DeserializeIfAddrmsg(message)
	attrs, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return ifAddr{}, err
	}
	a := ifAddr{link: int(header.Index), flags: header.Flags, message: message}
	var local, address []byte
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFA_LOCAL:
			local = attr.Value
		case unix.IFA_ADDRESS: // on a line between two points the other end's, else the same
			address = attr.Value
		}
	}
	if local == nil {
		local = address
	}
	ip, _ := netip.AddrFromSlice(local)
	a.Prefix = netip.PrefixFrom(ip, int(header.Prefixlen))
	return a, nil
}

// LinkExists tells whether there is an interface of this name.
func LinkExists(ifname string) (bool, error) {
	_, err := linkByName(ifname)
	if errors.Is(err, errNoInterface) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("interface %s: %w", ifname, err)
	}
	return true, nil
}

var errNoInterface = errors.New("no such interface")

func linkByName(ifname string) (netlink.Link, error) {
	link, err := netlink.LinkByName(ifname)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, errNoInterface
	}
	return link, err
}

// Outgoing returns the interfaces through which packets to dsts leave, sorted; lo where a destination is
// this host itself. A destination without a route has none.
func Outgoing(dsts []netip.Addr) ([]string, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE) // one socket for all: there may be thousands
	if err != nil {
		return nil, fmt.Errorf("routing socket: %w", err)
	}
	defer handle.Close()
	indices := make(map[int]bool)
	for _, dst := range dsts {
		routes, err := handle.RouteGet(dst.Unmap().AsSlice())
		if err == nil && len(routes) > 0 {
			indices[routes[0].LinkIndex] = true
		}
	}
	var names []string
	for index := range indices {
		link, err := handle.LinkByIndex(index)
		if err != nil {
			return nil, fmt.Errorf("interface %d: %w", index, err)
		}
		names = append(names, link.Attrs().Name)
	}
	slices.Sort(names)
	return names, nil
}

// Holders returns the interfaces that have an address, with whatever prefix length, sorted.
func Holders(addr netip.Addr) ([]string, error) {
	addrs, err := addrsOf(0)
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	var names []string
	for _, a := range addrs {
		if a.Addr() != addr {
			continue
		}
		link, err := netlink.LinkByIndex(a.link)
		if err != nil {
			return nil, fmt.Errorf("interface %d: %w", a.link, err)
		}
		names = append(names, link.Attrs().Name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Asked returns those of [Holders] where neighbours ask for an address: not lo, nor what has no ARP, as a dummy, to which packets
// come routed.
func Asked(addr netip.Addr) ([]string, error) {
	names, err := Holders(addr)
	if err != nil {
		return nil, err
	}
	var asked []string
	for _, name := range names {
		link, _, err := Look(name)
		if err != nil {
			return nil, err
		}
		if name != "lo" && !link.NoARP {
			asked = append(asked, name)
		}
	}
	return asked, nil
}

// Local returns those of addrs that are this host's own: packets to them are delivered here.
func Local(addrs []netip.Addr) (map[netip.Addr]bool, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("routing socket: %w", err)
	}
	defer handle.Close()
	local := make(map[netip.Addr]bool)
	for _, addr := range addrs {
		// By its route and not by the addresses of interfaces: a local route for a whole block serves as well.
		routes, err := handle.RouteGet(addr.Unmap().AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			local[addr] = true
		}
	}
	return local, nil
}

// ofHost tells whether an address can be a host's, as it stands in packets.
func ofHost(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.Is4In6() && addr.Zone() == ""
}
