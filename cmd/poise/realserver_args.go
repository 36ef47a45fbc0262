package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"poise/config"
	"poise/internal/host"
	"poise/internal/realserver"
	"poise/ipvsctl"
)

// realserverArgs are the flags of poise realserver.
type realserverArgs struct {
	mode, tunnel, address, gateway string
	vips, ports                    []string
	arpFilter, tunnelChecksum      bool
	tunnelPort                     uint16
	mtu                            int
	file                           string // instead of all above

	runtimeDir, unitDir string
	persist, json       bool
	listen              time.Duration
}

// flags adds those that say how this host serves.
func (a *realserverArgs) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.mode, "mode", "dr", "how the director forwards: dr, tun or nat")
	f.StringArrayVar(&a.vips, "vip", nil, "virtual address, with dr and tun; may be repeated")
	f.BoolVar(&a.arpFilter, "arp-filter", false, "keep silent in ARP by nftables instead of sysctls, with dr and tun")
	f.StringVar(&a.address, "address", "", "this host's address to which the director sends, with tun and nat; by default its only one")
	f.StringVar(&a.tunnel, "tunnel", "ipip", "what packets come in: ipip, gue or gre, with tun")
	f.Uint16Var(&a.tunnelPort, "tunnel-port", 0, "UDP port, with gue")
	f.BoolVar(&a.tunnelChecksum, "tunnel-checksum", false, "the director adds checksums, with gre")
	f.IntVar(&a.mtu, "mtu", automatic, "largest packet that fits into the tunnel: clients send none larger; 0 leaves that to ICMP; by default what the interface carries less the tunnel's headers")
	f.StringVar(&a.gateway, "gateway", "", "the director's address in this network, with nat")
	f.StringArrayVar(&a.ports, "port", nil, "with nat, only what is sent from this port goes through the gateway: 80, 53/udp; may be repeated")
	f.StringVarP(&a.file, "config", "c", "", "poise.toml of the directors, instead of all that: its services that name an address of this host")
	_ = cmd.MarkFlagFilename("config", "toml") // fails only for a flag that is not there
}

const automatic = -1

// check refuses flags that go unused: who gives them means something else than would come of it.
func (a *realserverArgs) check(flags *pflag.FlagSet) error {
	with := "--mode " + a.mode
	if a.file != "" {
		with = "-c"
	} else if !slices.Contains(usersOf("mode"), with) {
		return nil // there is no such mode, which is said elsewhere
	}
	var errs []error
	flags.Visit(func(f *pflag.Flag) {
		users := usersOf(f.Name)
		if users != nil && !slices.Contains(users, with) {
			errs = append(errs, fmt.Errorf("--%s: is not used with %s, but with %s", f.Name, with, strings.Join(users, ", ")))
		}
	})
	if a.mtu < 0 && flags.Changed("mtu") {
		errs = append(errs, fmt.Errorf("--mtu %d: below 0", a.mtu))
	}
	return errors.Join(errs...)
}

// usersOf are the modes that a flag of [realserverArgs.flags] says something to, and -c; none for other flags.
func usersOf(flag string) []string {
	switch flag {
	case "mode":
		return []string{"--mode dr", "--mode tun", "--mode nat"}
	case "vip":
		return []string{"--mode dr", "--mode tun"}
	case "arp-filter":
		return []string{"--mode dr", "--mode tun", "-c"}
	case "address":
		return []string{"--mode tun", "--mode nat"}
	case "tunnel", "tunnel-port", "tunnel-checksum":
		return []string{"--mode tun"}
	case "mtu":
		return []string{"--mode tun", "-c"}
	case "port":
		return []string{"--mode nat"}
	case "gateway":
		return []string{"--mode nat", "-c"}
	case "config":
		return []string{"-c"}
	}
	return nil
}

// settings are how this host is to serve.
func (a *realserverArgs) settings(cmd *cobra.Command) ([]realserver.Settings, error) {
	if err := a.check(cmd.Flags()); err != nil {
		return nil, err
	}
	if a.file != "" {
		return a.fromFile()
	}
	s := realserver.Settings{
		Mode: realserver.Mode(a.mode), ARPFilter: a.arpFilter, MTU: a.mtu,
		Tunnel: realserver.Tunnel{Kind: a.tunnel, Port: a.tunnelPort, Checksum: a.tunnelChecksum},
	}
	var errs []error
	var err error
	s.VIPs, err = a.addresses()
	errs = append(errs, err)
	for flag, to := range map[string]struct {
		text string
		addr *netip.Addr
	}{"--address": {a.address, &s.Address}, "--gateway": {a.gateway, &s.Gateway}} {
		if to.text != "" {
			if *to.addr, err = netip.ParseAddr(to.text); err != nil {
				errs = append(errs, fmt.Errorf("%s %q: not an IP address", flag, to.text))
			}
		}
	}
	for _, text := range a.ports {
		p, err := parsePort(text)
		errs = append(errs, err)
		s.Ports = append(s.Ports, p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s, err = realserver.Complete(s)
	return []realserver.Settings{s}, err
}

// settingsIfAny are none where nothing was named.
func (a *realserverArgs) settingsIfAny(cmd *cobra.Command) ([]realserver.Settings, error) {
	named := false
	cmd.Flags().Visit(func(f *pflag.Flag) { named = named || usersOf(f.Name) != nil })
	if !named {
		return nil, nil
	}
	return a.settings(cmd)
}

func (a *realserverArgs) addresses() (vips []netip.Addr, _ error) {
	var errs []error
	for _, text := range a.vips {
		vip, err := parseVIP(text)
		errs = append(errs, err)
		vips = append(vips, vip)
	}
	return vips, errors.Join(errs...)
}

// fromFile reads what the directors' file asks of this host: every service that has one of its addresses as a server.
func (a *realserverArgs) fromFile() ([]realserver.Settings, error) {
	cfg, err := config.Load(a.file, nil)
	if err != nil {
		return nil, err
	}
	var all []realserver.Settings
	var errs []error
	named, ready := false, false
	for _, service := range cfg.Services {
		for _, server := range service.All() {
			holders, err := host.Holders(server.Address)
			if err != nil {
				return nil, err
			}
			if len(holders) == 0 {
				continue
			}
			named = true
			s, needed, err := a.ofService(cfg, service, server)
			if err != nil {
				errs = append(errs, fmt.Errorf("service %q: %w", service.Name, err))
			} else if needed {
				all = append(all, s)
			} else {
				ready = true
			}
		}
	}
	if len(errs) == 0 && len(all) == 0 {
		switch {
		case ready:
			return nil, fmt.Errorf("%s: this host serves by full NAT only, which needs nothing here", a.file)
		case !named:
			return nil, fmt.Errorf("%s: no service has an address of this host among its servers", a.file)
		}
	}
	return all, errors.Join(errs...)
}

// ofService is what one service asks of this host, if anything.
func (a *realserverArgs) ofService(cfg *config.Config, service config.Service, server config.Server) (s realserver.Settings, needed bool, err error) {
	s = realserver.Settings{VIPs: service.VIPs(), ARPFilter: a.arpFilter, Address: server.Address, MTU: a.mtu}
	switch server.Forward {
	case config.DR:
		s.Mode = realserver.DR
	case config.TUN:
		tunnel := service.Destination(server, 1).Tunnel
		s.Mode = realserver.TUN
		s.Tunnel = realserver.Tunnel{Kind: tunnel.Type.String(), Port: tunnel.Port, Checksum: tunnel.Type == ipvsctl.GRE && tunnel.Checksum != ipvsctl.NoChecksum}
	case config.NAT:
		s.Mode, s.VIPs = realserver.NAT, nil
		if server.Port != 0 {
			s.Ports = []realserver.Port{{Protocol: service.Protocol.String(), Number: server.Port}}
		}
		if s.Gateway, err = a.gatewayOf(cfg, server.Address); err != nil {
			return s, false, err
		}
	default:
		return s, false, nil
	}
	if s.Mode != realserver.NAT && len(s.VIPs) == 0 {
		return s, false, errors.New("it is by fwmark: its addresses are in your own rules: name them with --vip")
	}
	s, err = realserver.Complete(s)
	return s, true, err
}

// gatewayOf is the virtual address of a router that is in the server's own network: the director's, through which replies go.
func (a *realserverArgs) gatewayOf(cfg *config.Config, server netip.Addr) (netip.Addr, error) {
	if a.gateway != "" {
		gateway, err := netip.ParseAddr(a.gateway)
		if err != nil {
			return gateway, fmt.Errorf("--gateway %q: not an IP address", a.gateway)
		}
		return gateway, nil
	}
	holders, err := host.Holders(server)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, router := range cfg.Routers {
		for _, addr := range router.All() {
			if addr.Is6() != server.Is6() {
				continue
			}
			via, ifname, err := host.RouteTo(addr, server, 0, 0, 0)
			if err == nil && !via.IsValid() && slices.Contains(holders, ifname) {
				return addr, nil
			}
		}
	}
	return netip.Addr{}, errors.New("no router has a virtual address in the network of " + server.String() + ": name the director's with --gateway")
}
