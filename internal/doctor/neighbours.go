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

// holders asks on the wire who has each virtual address: one host must, and no real server. Directors waits for the MAC addresses of
// who sends adverts: a master may be a server, too, and has to answer.
func holders(ctx context.Context, cfg *config.Config, where map[string][]netip.Addr, directors func() []net.HardwareAddr) (findings []finding.Finding, _ error) {
	vips := addressesOf(cfg)
	local, err := host.Local(vips)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(slices.Collect(maps.Values(where))...)
	for _, vip := range vips {
		if !local[vip] && !slices.Contains(all, vip) {
			findings = append(findings, finding.Finding{
				How: finding.Computed, What: fmt.Sprintf("%v is on this host", vip), Severity: finding.Fault, Seen: "on no interface",
				Want: "on one", Remedy: fmt.Sprintf("ip address add %v dev INTERFACE: or a [[router]] that has it", netip.PrefixFrom(vip, vip.BitLen())),
				Page: "docs/config.md#routers",
			})
		}
	}
	servers := directServers(cfg)
	for _, ifname := range slices.Sorted(maps.Keys(where)) {
		if link, exists, err := host.Look(ifname); err != nil || !exists || !link.Up {
			continue // which is a finding of its own
		}
		asked := slices.Clone(where[ifname])
		for _, server := range servers {
			if slices.ContainsFunc(where[ifname], func(vip netip.Addr) bool { return vip.Is4() == server.Is4() }) {
				asked = append(asked, server)
			}
		}
		answers, err := host.WhoHas(ctx, ifname, asked, neighboursTime)
		if err != nil {
			findings = append(findings, finding.Finding{
				How: finding.Probed, What: "neighbours on " + ifname + " can be asked", Severity: finding.Warning, Seen: err.Error(),
				Want: "their answers", Remedy: "ip address show " + ifname + ": it needs an address of each family that it has virtual ones of",
			})
			continue
		}
		own, err := byInterface(ifname)
		if err != nil {
			return findings, err
		}
		for _, vip := range where[ifname] {
			if local[vip] {
				var also []finding.Finding
				answers[vip], also = judgeOwn(ifname, vip, answers[vip], own)
				findings = append(findings, also...)
			}
			silent := byMAC(servers, answers, vip.Is4())
			for _, mac := range directors() {
				delete(silent, mac.String())
			}
			findings = append(findings, judgeHolder(ifname, vip, local[vip], answers[vip], silent))
		}
	}
	return findings, nil
}

// byMAC returns the servers of a family by the MAC addresses that answered for them.
func byMAC(servers []netip.Addr, answers map[netip.Addr][]net.HardwareAddr, is4 bool) map[string]netip.Addr {
	names := make(map[string]netip.Addr)
	for _, server := range servers {
		if server.Is4() == is4 {
			for _, mac := range answers[server] {
				names[mac.String()] = server
			}
		}
	}
	return names
}

// byInterface returns this host's interfaces but for one, by their MAC addresses.
func byInterface(but string) (map[string]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for _, link := range links {
		if link.Name != but && len(link.HardwareAddr) > 0 {
			names[link.HardwareAddr.String()] = link.Name
		}
	}
	return names, nil
}

// judgeOwn takes out the answers that this host itself gave by another interface in the same network: by IPv4 each answers for all
// addresses of the host until it is told not to.
func judgeOwn(ifname string, vip netip.Addr, answers []net.HardwareAddr, own map[string]string) (others []net.HardwareAddr, also []finding.Finding) {
	for _, mac := range answers {
		name, is := own[mac.String()]
		if !is {
			others = append(others, mac)
			continue
		}
		also = append(also, finding.Finding{
			How: finding.Probed, What: fmt.Sprintf("this host answers for %v on %s alone", vip, ifname), Severity: finding.Warning,
			Seen: fmt.Sprintf("by %s (%v), too", name, mac), Want: "one interface that requests come in by", Remedy: fmt.Sprintf("sysctl -w %s=1", host.SysctlName("net", "ipv4", "conf", name, "arp_ignore")),
		})
	}
	return others, also
}

// judgeHolder says what the answers for a virtual address mean. servers are those of direct routing that must keep silent, by MAC.
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
	most := 1 // answers that are right
	switch f.Seen, f.Want = strings.Join(seen, ", ")+" answers", "one director"; {
	case local && len(seen) == 0:
		most, f.Seen = 0, "this host has it, nobody else answers"
	case local:
		most, f.Seen, f.Want = 0, "this host, and "+f.Seen, "this host alone"
	case len(seen) == 0:
		f.Seen = "nobody answers"
	}
	switch f.Severity, f.Page = finding.Fault, "docs/operations.md#why-is-there-no-traffic"; {
	case f.Remedy != "":
		f.Page = "docs/methods/dr.md"
	case len(seen) == most:
		return finding.Finding{How: f.How, What: f.What, Seen: f.Seen}
	case len(seen) == 0:
		f.Remedy = "poise status: on both directors, one of them has to be master"
	default:
		f.Remedy = fmt.Sprintf("ip address show: on both directors and every host that had %v before, only one may have it", vip)
	}
	return f
}

// addressesOf returns the virtual addresses, each once.
func addressesOf(cfg *config.Config) (vips []netip.Addr) {
	for _, r := range cfg.Routers {
		vips = append(vips, r.All()...)
	}
	for _, s := range cfg.Services {
		vips = append(vips, s.VIPs()...)
	}
	slices.SortFunc(vips, netip.Addr.Compare)
	return slices.Compact(vips)
}

// interfacesOf returns the virtual addresses by the interface on which clients or their router ask for them: the router's
// that has the address, else one that has it already. For those on lo or a dummy, which come routed, nobody asks.
func interfacesOf(cfg *config.Config) (map[string][]netip.Addr, error) {
	where := make(map[string][]netip.Addr)
	placed := make(map[netip.Addr]bool)
	for _, r := range cfg.Routers {
		for _, vip := range r.All() {
			placed[vip] = true
			where[r.InterfaceOf(vip)] = append(where[r.InterfaceOf(vip)], vip)
		}
	}
	for _, vip := range addressesOf(cfg) {
		if placed[vip] {
			continue
		}
		names, err := host.Asked(vip)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			where[name] = append(where[name], vip)
		}
	}
	return where, nil
}

// directServers are the servers of direct routing: they have a virtual address too, and must keep silent about it.
func directServers(cfg *config.Config) (servers []netip.Addr) {
	for _, s := range cfg.Services {
		for _, server := range s.Servers {
			if server.Forward.Method() == ipvsctl.DR && !slices.Contains(servers, server.Address) {
				servers = append(servers, server.Address)
			}
		}
	}
	return servers
}
