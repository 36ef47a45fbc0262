package realserver

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"poise/internal/finding"
	"poise/internal/host"
)

// Verify looks whether this host serves as the settings say, or with none, as was applied: what its settings come to, and what
// it says to its neighbours while it is listened to. It changes nothing.
func Verify(ctx context.Context, dir string, listen time.Duration, all ...Settings) ([]finding.Finding, error) {
	states, err := Status(dir, all...)
	if err != nil {
		return nil, err
	}
	var keys []string
	var findings []finding.Finding
	for _, s := range states {
		keys = append(keys, s.Key)
		findings = append(findings, s.finding())
	}
	vips := vipsOf(keys)
	for _, look := range []func([]State, []netip.Addr) ([]finding.Finding, error){whereVIPsStand, whatARPDoes, whatTunnelsLetThrough, howRepliesLeave} {
		found, err := look(states, vips)
		if err != nil {
			return findings, err
		}
		findings = append(findings, found...)
	}
	found, err := whatIsSaid(ctx, listen, vips)
	findings = append(findings, found...)
	finding.Refer(findings, "docs/methods/README.md#poise-realserver")
	return findings, err
}

const applyAgain = "poise realserver apply, with the same arguments"

func (s State) finding() finding.Finding {
	f := finding.Finding{How: finding.Computed, What: s.Key, Severity: finding.FaultUnless(s.OK()), Seen: s.Now}
	if f.Severity != finding.OK {
		f.Want, f.Remedy = s.Want[0], applyAgain
	}
	switch {
	case s.own:
		f.Remedy = sysctlRemedy(s.Key, s.Want[0])
	case s.odd != nil:
		f.Remedy = "remove that route, then " + applyAgain
	}
	return f
}

func sysctlRemedy(name, value string) string { return fmt.Sprintf("sysctl -w %s=%s", name, value) }

// whereVIPsStand: a virtual address is on lo or at a tunnel's end, and by itself. On another interface it is answered for in ARP; with a
// shorter prefix than its length, its whole network is this host.
func whereVIPsStand(_ []State, vips []netip.Addr) (findings []finding.Finding, _ error) {
	for _, vip := range vips {
		holders, err := host.Holders(vip)
		if err != nil {
			return nil, err
		}
		f := finding.Finding{How: finding.Computed, What: fmt.Sprintf("%v is where nobody asks by ARP", vip), Seen: "on " + strings.Join(holders, ", ")}
		if len(holders) == 0 {
			f.Seen = "on no interface"
		}
		others := slices.DeleteFunc(slices.Clone(holders), quiet)
		f.Severity = finding.FaultUnless(len(holders) > 0 && len(others) == 0)
		if f.Severity != finding.OK {
			f.Want, f.Remedy = "on lo or the end of a tunnel, and nowhere else", applyAgain
		}
		if len(others) > 0 {
			link, _, err := host.Look(others[0])
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(link.Addrs, func(a host.Address) bool { return a.Addr() == vip })
			if i >= 0 {
				f.Remedy = fmt.Sprintf("ip address del %v dev %s", link.Addrs[i].Prefix, link.Name)
			}
		}
		findings = append(findings, f)
		if slices.Contains(holders, "lo") {
			lo, _, err := host.Look("lo")
			if err != nil {
				return nil, err
			}
			for _, a := range lo.Addrs {
				if a.Addr() == vip && a.Bits() != vip.BitLen() {
					findings = append(findings, finding.Finding{
						How: finding.Computed, What: fmt.Sprintf("%v stands on lo by itself", vip), Severity: finding.Fault, Seen: a.Prefix.String(),
						Want: netip.PrefixFrom(vip, vip.BitLen()).String(), Remedy: fmt.Sprintf("ip address del %v dev lo: all of %v is this host", a.Prefix, a.Masked()),
					})
				}
			}
		}
	}
	return findings, nil
}

// whatARPDoes works out for each interface whether the kernel would answer for a virtual address on lo, and in whose name
// it asks: the larger of the interface's value and all's is in force (arp_ignore and arp_announce in
// Documentation/networking/ip-sysctl.rst).
func whatARPDoes(states []State, vips []netip.Addr) (findings []finding.Finding, _ error) {
	own, err := ownAddresses(vips)
	if err != nil {
		return nil, err
	}
	for name := range own {
		ignore, err := host.Sysctls{}.InForce(name, "arp_ignore")
		if err != nil {
			return nil, err
		}
		announce, err := host.Sysctls{}.InForce(name, "arp_announce")
		if err != nil {
			return nil, err
		}
		for _, vip := range vips {
			if vip.Is6() {
				continue // neighbour discovery answers for addresses of the receiving interface only
			}
			filtered := slices.ContainsFunc(states, func(s State) bool { return s.Key == silent{vip}.key() && s.OK() })
			remedy := func(setting, value string) string {
				own := host.SysctlName("net", "ipv4", "conf", name, setting)
				if slices.ContainsFunc(states, func(s State) bool { return s.own && s.Key == own }) {
					return sysctlRemedy(own, "0")
				}
				return "poise realserver apply, or " + sysctlRemedy("net.ipv4.conf.all."+setting, value) + " (on lo alone it does nothing)"
			}
			f := finding.Finding{How: finding.Computed, What: fmt.Sprintf("%s leaves ARP for %v to the director", name, vip), Severity: finding.Fault}
			switch {
			case filtered:
				f.Severity, f.Seen = finding.OK, "nftables lets no ARP for it out"
			case ignore != 1 && ignore != 2 && ignore != 8:
				f.Seen = fmt.Sprintf("arp_ignore %d in force: it answers", ignore)
				f.Want, f.Remedy = "arp_ignore 1", remedy("arp_ignore", "1")
			case announce != 2:
				f.Seen = fmt.Sprintf("arp_announce %d in force: it asks in the name of %v", announce, vip)
				f.Want, f.Remedy = "arp_announce 2", remedy("arp_announce", "2")
			default:
				f.Severity, f.Seen = finding.OK, fmt.Sprintf("arp_ignore %d, arp_announce %d in force", ignore, announce)
			}
			findings = append(findings, f)
		}
	}
	slices.SortFunc(findings, func(a, b finding.Finding) int { return strings.Compare(a.What, b.What) })
	return findings, nil
}

// whatTunnelsLetThrough: strict reverse path filtering drops what comes out of a tunnel, as other interfaces lead to clients.
func whatTunnelsLetThrough(states []State, _ []netip.Addr) (findings []finding.Finding, _ error) {
	for _, s := range states {
		t, err := thingOf(s.Key)
		if err != nil {
			continue // an interface's own setting
		}
		end, ok := t.(tunnelEnd)
		if !ok || !s.OK() {
			continue
		}
		local, err := host.Holders(end.Local)
		if err != nil {
			return nil, err
		}
		f := finding.Finding{How: finding.Computed, What: fmt.Sprintf("%s ends at an address of this host", end.Name), Severity: finding.FaultUnless(len(local) > 0), Seen: fmt.Sprintf("%v is on %s", end.Local, strings.Join(local, ", "))}
		if f.Severity != finding.OK {
			f.Seen, f.Want, f.Remedy = fmt.Sprintf("%v is on no interface", end.Local), "an address to which the director sends", "poise realserver undo, then apply --address ADDRESS"
		}
		findings = append(findings, f)
		filter, err := host.Sysctls{}.InForce(end.Name, "rp_filter")
		if err != nil {
			return nil, err
		}
		f = finding.Finding{How: finding.Computed, What: fmt.Sprintf("%s lets packets of all clients through", end.Name), Severity: finding.FaultUnless(filter != 1), Seen: fmt.Sprintf("rp_filter %d in force", filter)}
		if f.Severity != finding.OK {
			f.Want, f.Remedy = "rp_filter 2 or 0", fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", end.Name)
		}
		findings = append(findings, f)
	}
	return findings, nil
}

// someClient is somewhere in the world, by the addresses for documentation (RFC 5737, RFC 3849).
func someClient(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.MustParseAddr("2001:db8:ffff::1")
	}
	return netip.MustParseAddr("198.51.100.1")
}

// howRepliesLeave asks the kernel's routing where a reply to some client goes.
func howRepliesLeave(states []State, _ []netip.Addr) (findings []finding.Finding, _ error) {
	ask := func(what string, through defaultRoute, from netip.Addr, p Port) {
		gateway, ifname, err := host.RouteTo(someClient(through.gateway.Is6()), from, p.protocol(), p.Number, 40000)
		f := finding.Finding{How: finding.Computed, What: what, Severity: finding.FaultUnless(err == nil && gateway == through.gateway), Seen: fmt.Sprintf("through %v on %s", gateway, ifname)}
		if err != nil {
			f.Seen = err.Error()
		}
		if f.Severity != finding.OK {
			f.Want, f.Remedy = fmt.Sprintf("through %v on %s", through.gateway, through.ifname), applyAgain
		}
		findings = append(findings, f)
	}
	var things []thing
	through := make(map[bool]defaultRoute) // by whether it is of IPv6: the one for replies alone
	for _, s := range states {
		t, err := thingOf(s.Key)
		if err != nil {
			continue // an interface's own setting
		}
		things = append(things, t)
		if d, ok := t.(defaultRoute); ok && d.table == replyTable {
			through[d.gateway.Is6()] = d
		}
	}
	for _, t := range things {
		switch t := t.(type) {
		case defaultRoute:
			if t.table == replyTable {
				continue // the rules that lead to it are asked
			}
			ask(fmt.Sprintf("IPv%s replies pass the director", familyDigit(t.gateway.Is6())), t, netip.Addr{}, Port{})
		case replies:
			if t.Protocol == "sctp" {
				continue // the kernel has rules for it, but answers no question
			}
			ask(fmt.Sprintf("replies from %v %s port %d pass the director", t.from, t.Protocol, t.Number), through[t.from.Is6()], t.from, t.Port)
		}
	}
	return findings, nil
}

// whatIsSaid listens to what this host itself says about virtual addresses.
func whatIsSaid(ctx context.Context, listen time.Duration, vips []netip.Addr) ([]finding.Finding, error) {
	if listen <= 0 || len(vips) == 0 {
		return nil, nil
	}
	end, cancel := context.WithTimeout(ctx, listen)
	defer cancel()
	said := make(map[netip.Addr]string)
	err := host.Overhear(end, func(c host.Claim) {
		if c.Own && said[c.Addr] == "" {
			said[c.Addr] = fmt.Sprintf("%s on %s", c.Kind, c.Interface)
		}
	})
	if err = cmp.Or(err, context.Cause(ctx)); err != nil {
		return nil, err // who has not listened to the end has not heard silence
	}
	var findings []finding.Finding
	for _, vip := range vips {
		f := finding.Finding{How: finding.Observed, What: fmt.Sprintf("nothing is said about %v", vip), Severity: finding.FaultUnless(said[vip] == ""), Seen: fmt.Sprintf("nothing in %v", listen)}
		if f.Severity != finding.OK {
			f.Seen, f.Want, f.Remedy = said[vip], "silence", applyAgain
		}
		findings = append(findings, f)
	}
	return findings, nil
}
