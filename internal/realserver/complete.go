package realserver

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"poise/internal/host"
)

// Complete fills in what this host knows best: its address if it has only one, the MTU in a tunnel (below 0: to be found
// out), the interface that leads to the gateway.
func Complete(s Settings) (Settings, error) {
	var err error
	if s.Mode == NAT {
		switch {
		case !s.Gateway.IsValid():
			return s, nil // the plan says so
		case s.Gateway.Is4In6() || s.Gateway.Zone() != "" || !s.Gateway.IsGlobalUnicast() && !s.Gateway.IsLinkLocalUnicast():
			return s, fmt.Errorf("gateway %v: not the address of a host", s.Gateway)
		}
		var via netip.Addr
		if via, s.Interface, err = host.RouteTo(s.Gateway, s.Address, 0, 0, 0); err != nil {
			return s, fmt.Errorf("gateway %v: %w", s.Gateway, err)
		}
		if via.IsValid() {
			return s, fmt.Errorf("gateway %v: not in a network of this host's, but behind %v", s.Gateway, via)
		}
		if err := checkGateway(s.Gateway, s.Interface); err != nil {
			return s, err
		}
	}
	if s.Mode == TUN && !s.Address.IsValid() || s.Mode == NAT && !s.Address.IsValid() && len(s.Ports) > 0 {
		if s.Address, err = onlyAddress(s.VIPs, s.Gateway.IsValid() && s.Gateway.Is6()); err != nil {
			return s, err
		}
	}
	if s.Mode != DR && s.Address.IsValid() {
		if holders, err := host.Holders(s.Address); err != nil || len(holders) == 0 {
			return s, cmp.Or(err, fmt.Errorf("address %v: on no interface of this host", s.Address))
		}
	}
	switch {
	case s.Mode != TUN:
		s.MTU = 0
	case s.MTU < 0:
		s.MTU, err = s.tunnelMTU()
	}
	return s, err
}

// checkGateway refuses what the kernel takes for a way, but leads nowhere.
func checkGateway(gateway netip.Addr, ifname string) error {
	if ifname == "lo" {
		return fmt.Errorf("gateway %v: it is this host's own address", gateway)
	}
	link, _, err := host.Look(ifname)
	if err != nil {
		return err
	}
	for _, a := range link.Addrs {
		if a.Addr().Is4() && a.Bits() < 31 && a.Contains(gateway) && (gateway == a.Masked().Addr() || !a.Contains(gateway.Next())) {
			return fmt.Errorf("gateway %v: it is the address of the network %v itself, or of all its hosts", gateway, a.Masked())
		}
	}
	return nil
}

// onlyAddress is the address of this host beside virtual ones.
func onlyAddress(vips []netip.Addr, ipv6 bool) (netip.Addr, error) {
	var found []netip.Addr
	links, err := links()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, link := range links {
		for _, a := range link.Addrs {
			if a.Addr().Is6() == ipv6 && a.Addr().IsGlobalUnicast() && !slices.Contains(vips, a.Addr()) {
				found = append(found, a.Addr())
			}
		}
	}
	if len(found) != 1 {
		return netip.Addr{}, fmt.Errorf("this host has %d addresses %v: which one does the director send to? --address ADDRESS", len(found), found)
	}
	return found[0], nil
}

// tunnelMTU is what the interface of Address carries less the headers of the tunnel.
func (s Settings) tunnelMTU() (int, error) {
	links, err := links()
	if err != nil {
		return 0, err
	}
	headers := host.TunnelHeaders(s.Tunnel.Kind, s.Tunnel.Checksum, s.Address.Is6())
	for _, link := range links {
		if slices.ContainsFunc(link.Addrs, func(a host.Address) bool { return a.Addr() == s.Address }) {
			return max(1280, min(link.MTU, 65535)-headers), nil
		}
	}
	return 0, fmt.Errorf("address %v: on no interface of this host", s.Address)
}

// links are this host's interfaces but for lo.
func links() ([]host.Interface, error) {
	names, err := host.Sysctls{}.List("net.ipv4.conf")
	if err != nil {
		return nil, err
	}
	var all []host.Interface
	for _, name := range names {
		if name == "all" || name == "default" || name == "lo" {
			continue
		}
		link, exists, err := host.Look(name)
		if err != nil {
			return nil, err
		}
		if exists {
			all = append(all, link)
		}
	}
	return all, nil
}
