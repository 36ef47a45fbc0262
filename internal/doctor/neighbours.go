package doctor

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"poise/config"
	"poise/internal/finding"
	"poise/internal/host"
	"poise/ipvsctl"
)

// holders asks on the wire who has each virtual address: one host must, and no real server.
func holders(ctx context.Context, cfg *config.Config) (findings []finding.Finding, _ error) {
	where, nowhere, err := interfacesOf(cfg)
	if err != nil {
		return nil, err
	}
	for _, vip := range nowhere {
		findings = append(findings, finding.Finding{
			How: finding.Computed, What: fmt.Sprintf("%v is on this host", vip), Severity: finding.Fault, Seen: "on no interface",
			Want: "on one", Remedy: fmt.Sprintf("ip address add %v dev INTERFACE: or a [[router]] that has it", netip.PrefixFrom(vip, vip.BitLen())),
			Page: "docs/config.md#routers",
		})
	}
	for _, ifname := range slices.Sorted(maps.Keys(where)) {
		vips := where[ifname]
		local, err := host.Local(vips)
		if err != nil {
			return findings, err
		}
		servers := slices.DeleteFunc(routedServers(cfg), func(server netip.Addr) bool {
			return !slices.ContainsFunc(vips, func(vip netip.Addr) bool { return vip.Is4() == server.Is4() })
		})
		answers, err := host.WhoHas(ctx, ifname, slices.Concat(vips, servers), neighboursTime)
		if err != nil {
			return findings, err
		}
		for _, vip := range vips {
			names := make(map[string]netip.Addr) // of servers, by MAC
			for _, server := range servers {
				for _, mac := range answers[server] {
					if server.Is4() == vip.Is4() {
						names[mac.String()] = server
					}
				}
			}
			findings = append(findings, judgeHolder(ifname, vip, local[vip], answers[vip], names))
		}
	}
	return findings, nil
}

// judgeHolder says what the answers for a virtual address mean. servers are those of direct routing, by MAC.
func judgeHolder(ifname string, vip netip.Addr, local bool, answers []net.HardwareAddr, servers map[string]netip.Addr) finding.Finding {
	f := finding.Finding{How: finding.Probed, What: fmt.Sprintf("one director answers for %v on %s", vip, ifname)}
	var seen []string
	for _, mac := range answers {
		text := mac.String()
		if server, ok := servers[text]; ok {
			f.Remedy = fmt.Sprintf("poise realserver apply --mode dr --vip %v: on %v, which answers for an address of the director", vip, server)
			text = fmt.Sprintf("server %v (%s)", server, text)
		}
		seen = append(seen, text)
	}
	f.Seen = strings.Join(seen, ", ") + " answers"
	others := 1
	if local {
		others = 0
		f.Seen = "this host, and " + f.Seen
		if len(answers) == 0 {
			f.Seen = "this host has it, nobody else answers"
		}
	} else if len(answers) == 0 {
		f.Seen = "nobody answers"
	}
	if f.Remedy == "" && len(answers) == others {
		return f
	}
	f.Severity, f.Page = finding.Fault, "docs/operations.md#why-is-there-no-traffic"
	switch {
	case local:
		f.Want = "this host alone"
	default:
		f.Want = "one director"
	}
	switch {
	case f.Remedy != "":
		f.Page = "docs/methods/dr.md"
	case len(answers) == 0:
		f.Remedy = "poise status: on both directors, one of them has to be master"
	default:
		f.Remedy = fmt.Sprintf("ip address show: on both directors and every host that had %v before, only one may have it", vip)
	}
	return f
}

// interfacesOf returns the virtual addresses by the interface on which clients or their router ask for them: the router's
// that has the address, else one that has it already. Those on lo come routed, and nobody asks. Nowhere are those that no
// router has, and no interface.
func interfacesOf(cfg *config.Config) (where map[string][]netip.Addr, nowhere []netip.Addr, _ error) {
	where = make(map[string][]netip.Addr)
	routed := make(map[netip.Addr]bool)
	for _, r := range cfg.Routers {
		for _, vip := range r.All() {
			routed[vip] = true
			where[r.InterfaceOf(vip)] = append(where[r.InterfaceOf(vip)], vip)
		}
	}
	for _, s := range cfg.Services {
		for _, vip := range s.VIPs() {
			if routed[vip] {
				continue
			}
			routed[vip] = true
			local, err := host.Local([]netip.Addr{vip})
			if err != nil {
				return nil, nil, err
			}
			names, err := host.Holders(vip)
			if err != nil {
				return nil, nil, err
			}
			if !local[vip] {
				nowhere = append(nowhere, vip)
			}
			for _, name := range names {
				if name != "lo" {
					where[name] = append(where[name], vip)
				}
			}
		}
	}
	return where, nowhere, nil
}

// routedServers are the servers of direct routing: they have a virtual address too, and must keep silent about it.
func routedServers(cfg *config.Config) (servers []netip.Addr) {
	for _, s := range cfg.Services {
		for _, server := range s.Servers {
			if server.Forward.Method() == ipvsctl.DR && !slices.Contains(servers, server.Address) {
				servers = append(servers, server.Address)
			}
		}
	}
	return servers
}
