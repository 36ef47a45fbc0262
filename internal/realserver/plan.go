// Package realserver prepares a real server: the host takes the packets that its director sends, answers as the method
// wants it, and leaves ARP for the virtual addresses to the director.
//
//	Settings ─▶ Plan ─▶ steps ─▶ Apply ─▶ sysctls, addresses, tunnels, routes (host), ARP and MSS (nft)
//	                               │ former values first
//	                               ▼
//	                    runtime directory/realserver.json ─▶ Undo, newest first
//
// What can be set has a text, its key, which names it in the record: things.go and the files named after them.
package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Mode is how the director sends packets to this host.
type Mode string

// The modes. Full NAT needs nothing.
const (
	DR  Mode = "dr"
	TUN Mode = "tun"
	NAT Mode = "nat"
)

// Settings is how this host serves some virtual addresses.
type Settings struct {
	Mode      Mode
	VIPs      []netip.Addr // of DR and TUN, each once
	ARPFilter bool         // of DR and TUN: nftables keeps the host silent, and not sysctls

	Address netip.Addr // of TUN and NAT: where the director sends to, an address of this host
	Tunnel  Tunnel     // of TUN
	MTU     int        // of TUN: the largest packet that fits into the tunnel, so that clients send none larger; 0 leaves that to ICMP

	Gateway   netip.Addr // of NAT: the director's address in the servers' network
	Interface string     // of NAT: the one that leads to Gateway
	Ports     []Port     // of NAT: only what is sent from these ports of Address takes the way back through Gateway; none: everything does
}

// Tunnel is what the director's packets come in.
type Tunnel struct {
	Kind     string // "ipip", "gue", "gre"
	Port     uint16 // of gue
	Checksum bool   // of gre: the director adds checksums
}

// Port is one that this host serves.
type Port struct {
	Protocol string // "tcp", "udp", "sctp"
	Number   uint16
}

// Step is one setting of the host and the values that will do.
type Step struct {
	Key  string
	Want []string // Apply sets the first
}

// The values of a thing that is there or not.
const (
	absent  = "absent"
	present = "present"
)

// Plan returns the steps in the order to take them. Addresses come last: before that the host would answer for them in
// ARP, or drop what comes.
func Plan(all ...Settings) ([]Step, error) {
	var errs []error
	var things []thing
	for _, s := range all {
		errs = append(errs, s.validate())
		things = append(things, s.things()...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(things) == 0 {
		return nil, errors.New("no VIP: name it: --vip ADDRESS")
	}
	var steps []Step
	for _, t := range things {
		step := Step{t.key(), t.want()}
		if !slices.ContainsFunc(steps, func(o Step) bool { return o.Key == step.Key }) {
			steps = append(steps, step)
		}
	}
	return steps, nil
}

func (s Settings) things() []thing {
	if s.Mode == NAT {
		return s.wayBack()
	}
	things, ifname := s.silence(), "lo"
	if s.Mode == TUN && len(s.VIPs) > 0 {
		things = append(things, s.unwrapping()...)
		// Reverse path filtering, also the loose one, lets nothing in through an interface without an address
		// (__fib_validate_source in net/ipv4/fib_frontend.c).
		ifname = s.tunnelName()
	}
	for _, vip := range s.VIPs {
		things = append(things, quietVIP{netip.PrefixFrom(vip, vip.BitLen()), ifname})
	}
	return things
}

func (s Settings) validate() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, vip := range s.VIPs {
		switch {
		case !vip.IsValid() || vip.Is4In6() || vip.Zone() != "" || !vip.IsGlobalUnicast():
			refuse("VIP %s: not a unicast address that routers forward", vip)
		case slices.Contains(s.VIPs[:i], vip):
			refuse("VIP %s: named twice", vip)
		}
	}
	switch s.Mode {
	case DR:
	case TUN:
		if !s.Address.IsValid() {
			refuse("mode tun: where does the tunnel end? Name this host's address: --address ADDRESS")
		}
		switch t := s.Tunnel; {
		case t.Kind != "ipip" && t.Kind != "gue" && t.Kind != "gre":
			refuse("tunnel %q: none of ipip, gue and gre", t.Kind)
		case t.Kind == "gue" && t.Port == 0:
			refuse("tunnel gue: on which UDP port? --tunnel-port PORT")
		case t.Kind != "gue" && t.Port != 0:
			refuse("tunnel %s has no port", t.Kind)
		case t.Kind != "gre" && t.Checksum:
			refuse("tunnel %s: checksums need nothing on this host", t.Kind)
		}
		if s.MTU != 0 && (s.MTU < 1280 || s.MTU > 65535) {
			refuse("MTU %d is outside 1280..65535", s.MTU)
		}
	case NAT:
		if !s.Gateway.IsValid() || s.Interface == "" {
			refuse("mode nat: through which address of the director do replies go? --gateway ADDRESS")
		}
		if len(s.Ports) > 0 && (!s.Address.IsValid() || s.Address.Is6() != s.Gateway.Is6()) {
			refuse("mode nat: replies from which address of this host? --address ADDRESS, of the gateway's family")
		}
		if len(s.VIPs) > 0 {
			refuse("mode nat: no VIP is needed on the server")
		}
	default:
		refuse("mode %q: none of dr, tun and nat", s.Mode)
	}
	return errors.Join(errs...)
}
