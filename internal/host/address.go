package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
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
	addrs, err := addrsOf(link)
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", ifname, err)
	}
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		ip, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		return netip.PrefixFrom(ip.Unmap(), bits) == p
	}), nil
}

// addrsOf dumps the addresses of a link, again when they changed under the dump.
func addrsOf(link netlink.Link) (addrs []netlink.Addr, err error) {
	for range 10 {
		addrs, err = netlink.AddrList(link, netlink.FAMILY_ALL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return addrs, err
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

// Outgoing returns the interface through which packets to dst leave; lo when dst is this host.
func Outgoing(dst netip.Addr) (ifname string, err error) {
	route, err := routeTo(dst)
	if err != nil {
		return "", fmt.Errorf("route to %s: %w", dst, err)
	}
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return "", fmt.Errorf("route to %s: interface %d: %w", dst, route.LinkIndex, err)
	}
	return link.Attrs().Name, nil
}

func routeTo(dst netip.Addr) (netlink.Route, error) {
	routes, err := netlink.RouteGet(dst.Unmap().AsSlice())
	if err != nil {
		return netlink.Route{}, err
	}
	if len(routes) == 0 {
		return netlink.Route{}, unix.ENETUNREACH
	}
	return routes[0], nil
}
