package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"poise/config"
	"poise/internal/director"
	"poise/internal/finding"
	"poise/internal/host"
	"poise/internal/through"
	"poise/ipvsctl"
)

// links looks at the interfaces through which packets come and go.
func links(cfg *config.Config, where map[string][]netip.Addr) (findings []finding.Finding, _ error) {
	names, err := interfaces(cfg, where)
	if err != nil {
		return nil, err
	}
	ofServices := make(map[netip.Addr]bool) // others may be the servers' gateway, where no clients are
	for _, s := range cfg.Services {
		for _, vip := range s.VIPs() {
			ofServices[vip] = true
		}
	}
	for _, name := range names {
		up, err := linkUp(name)
		if err != nil {
			return findings, err
		}
		findings = append(findings, up)
		if up.Severity != finding.OK || len(cfg.Services) == 0 {
			continue
		}
		large, err := largeReceive(name)
		if err != nil {
			return findings, err
		}
		findings = append(findings, large)
		following, err := followers(name, where[name])
		if err != nil {
			return findings, err
		}
		findings = append(findings, following...)
		vips := slices.DeleteFunc(slices.Clone(where[name]), func(vip netip.Addr) bool { return !vip.Is4() || !ofServices[vip] })
		if len(vips) > 0 {
			findings = append(findings, reversePath(host.Sysctls{}, name, vips))
		}
	}
	return findings, nil
}

// interfaces are all that the configuration needs, each once.
func interfaces(cfg *config.Config, where map[string][]netip.Addr) ([]string, error) {
	names, err := director.Facing(cfg)
	if err != nil {
		return nil, err
	}
	names = slices.Clone(names)
	for _, r := range cfg.Routers {
		names = append(names, r.Interfaces()...)
	}
	for name := range where {
		names = append(names, name)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "lo" })
	slices.Sort(names)
	return slices.Compact(names), nil
}

func linkUp(name string) (finding.Finding, error) {
	link, exists, err := host.Look(name)
	if err != nil {
		return finding.Finding{}, err
	}
	f := finding.Finding{How: finding.Computed, What: name + " can send and receive", Seen: "up, with a carrier"}
	switch {
	case !exists:
		f.Severity, f.Seen, f.Want, f.Remedy = finding.Fault, "there is none", "an interface of this name", "ip link show: and the right name in the configuration"
	case !link.Up:
		f.Severity, f.Seen, f.Want, f.Remedy = finding.Fault, "down", "up, with a carrier", fmt.Sprintf("ip link set %s up: and look at the cable", name)
	}
	return f, nil
}

// largeReceive: a network card that merges what it receives (LRO) makes packets that are too large to be sent on. The kernel
// turns this off where it forwards, but not on every kind of interface.
func largeReceive(name string) (finding.Finding, error) {
	on, err := host.LargeReceive(name)
	f := finding.Finding{How: finding.Computed, What: name + " receives packets as they were sent", Seen: "large receive offload is off"}
	if on {
		f.Severity, f.Seen, f.Want = finding.Fault, "large receive offload is on: what it merges cannot be forwarded", "off"
		f.Remedy = fmt.Sprintf("ethtool -K %s lro off", name)
	}
	return f, err
}

// reversePath: with the strict check a packet is dropped if the way back to its sender leaves through another interface. Who
// the clients are nobody knows; most are behind the default route.
func reversePath(s host.Sysctls, name string, vips []netip.Addr) finding.Finding {
	f := finding.Finding{How: finding.Computed, What: name + " lets packets of all clients in"}
	filter, err := s.InForce(name, "rp_filter")
	switch f.Seen = fmt.Sprintf("rp_filter %d in force", filter); {
	case err != nil:
		f.Severity, f.Seen, f.Want, f.Remedy = finding.Warning, err.Error(), "a number", "sysctl net.ipv4.conf shows it"
	case filter == strict:
		leaves := wayToClients(name, vips)
		if leaves == name {
			break
		}
		f.Severity, f.Want = finding.Warning, "0 or 2"
		f.Seen += fmt.Sprintf(", while the way to clients leaves through %s", leaves)
		f.Remedy = fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", name)
	}
	return f
}

// wayToClients is another interface than this through which the way from one of the virtual addresses to clients leaves, or else
// this one.
func wayToClients(name string, vips []netip.Addr) string {
	for _, vip := range vips {
		// By rules for its source, too; as long as it is another director's, the kernel does not take it for one.
		_, leaves, err := host.RouteTo(through.Somebody(false), vip, uint8(ipvsctl.TCP), 0, 0)
		if err != nil {
			_, leaves, err = host.RouteTo(through.Somebody(false), netip.Addr{}, uint8(ipvsctl.TCP), 0, 0)
		}
		if err == nil && leaves != name {
			return leaves
		}
	}
	return name
}

// followers: a virtual address with the prefix of the interface's first one goes when that one is deleted. Those that poise
// sets are by themselves.
func followers(name string, vips []netip.Addr) (findings []finding.Finding, _ error) {
	link, _, err := host.Look(name)
	if err != nil {
		return nil, err
	}
	for _, a := range link.Addrs {
		if !a.Secondary || !slices.Contains(vips, a.Addr()) {
			continue
		}
		promote, err := host.Sysctls{}.InForce(name, "promote_secondaries")
		if err != nil {
			return findings, err
		}
		f := finding.Finding{How: finding.Computed, What: fmt.Sprintf("%v stays on %s without the other addresses there", a, name), Seen: fmt.Sprintf("promote_secondaries %d in force", promote)}
		if promote == 0 {
			f.Severity, f.Seen, f.Want = finding.Warning, f.Seen+": it goes with the first address of its network", "1, or a prefix of its own"
			f.Remedy = fmt.Sprintf("sysctl -w net.ipv4.conf.%s.promote_secondaries=1: or have it as %v", name, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// strict is the value of rp_filter that drops what did not come the way it would go (RFC 3704 section 2.2).
const strict = 1
