package vrrp

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// How many addresses fit an advert. The count is one byte, and a packet must fit an MTU of 1500 beside the headers
// of IPv6 and VRRP; keepalived subtracts Ethernet's as well, and so its limit is the lower one.
const (
	mostIPv4 = 255
	mostIPv6 = (1500 - 14 - 40 - 8) / 16
)

// longestInterval of version 3 is 12 bits of centiseconds (RFC 9568 section 5.2.7).
const longestInterval = 4095 * centisecond

// Validate reports what the field tags cannot say: the rules about several keys, and the form of texts and addresses.
// An element of a list is reported with its index: "peers[1]". Validate passes over a zero field, which is how a
// value with a mistake of its own arrives here.
func (c *Config) Validate(report func(key, rule string)) {
	if !isInterface(c.Interface) {
		report("interface", "not the name of an interface")
	}
	switch {
	case !isInterface(c.ExcludedInterface):
		report("excluded_interface", "not the name of an interface")
	case c.ExcludedInterface != "" && len(c.Excluded) == 0:
		report("excluded_interface", "has no meaning without excluded_addresses")
	}
	switch {
	case c.Version == 2 && c.Interval%time.Second != 0:
		report("advert_interval", "version 2 counts in whole seconds")
	case c.Version == 3 && c.Interval%centisecond != 0:
		report("advert_interval", "not in steps of 10ms")
	case c.Version == 3 && c.Interval > longestInterval:
		report("advert_interval", fmt.Sprintf("version 3 has at most %v", longestInterval))
	}
	v6, known := c.family()
	if known && v6 && c.Version == 2 {
		report("version", "version 2 is for IPv4 only")
	}
	if c.Checksum == MessageOnly && (c.Version == 2 || v6) {
		report("checksum", "has a meaning only with version 3 over IPv4")
	}
	c.validateAddresses(v6, report)
	if known {
		c.validateNodes(v6, report)
	}
	c.validatePreemption(report)
	switch {
	case c.Password != "" && c.Version == 3:
		report("password", "has no meaning with version = 3")
	case len(c.Password) > len(Advert{}.AuthData):
		report("password", fmt.Sprintf("longer than %d bytes", len(Advert{}.AuthData)))
	case strings.ContainsFunc(c.Password, func(r rune) bool { return r < ' ' || r > '~' }):
		report("password", "holds a character that is not printable ASCII")
	}
}

// isInterface follows dev_valid_name in the kernel's net/core/dev.c, but passes over an empty name.
func isInterface(name string) bool {
	return len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r")
}

// family tells whether the first sound address is IPv6, and whether there is one.
func (c *Config) family() (v6, known bool) {
	first := slices.IndexFunc(c.Addresses, netip.Addr.IsValid)
	return first >= 0 && c.Addresses[first].Is6(), first >= 0
}

// validateAddresses applies the rules about the virtual addresses.
func (c *Config) validateAddresses(v6 bool, report func(key, rule string)) {
	most := mostIPv4
	if v6 {
		most = mostIPv6
	}
	switch n := len(c.Addresses); {
	case c.Addresses != nil && n == 0:
		report("addresses", "at least one is required")
	case n > most:
		report("addresses", fmt.Sprintf("%d are more than the %d that fit an advert over %s: others can be excluded_addresses", n, most, familyName(v6)))
	}
	seen := map[netip.Addr]bool{}
	for key, addr := range sound("addresses", c.Addresses) {
		switch rule := unicast(addr); {
		case rule != "":
			report(key, rule)
		case addr.Is6() != v6:
			report(key, fmt.Sprintf("the first address is %s, and adverts carry one family: others can be excluded_addresses", familyName(v6)))
		case seen[addr]:
			report(key, "stands here twice")
		}
		seen[addr] = true
	}
	for key, addr := range sound("excluded_addresses", c.Excluded) {
		switch rule := unicast(addr); {
		case rule != "":
			report(key, rule)
		case seen[addr]:
			report(key, "already a virtual address of this router")
		}
		seen[addr] = true
	}
}

// validateNodes applies the rules about the addresses that the nodes themselves have.
func (c *Config) validateNodes(v6 bool, report func(key, rule string)) {
	node := func(key string, addr netip.Addr) {
		switch rule := unicast(addr); {
		case rule != "":
			report(key, rule)
		case addr.Is6() != v6:
			report(key, fmt.Sprintf("adverts go over %s, as the addresses are", familyName(v6)))
		case slices.Contains(c.Addresses, addr), slices.Contains(c.Excluded, addr):
			report(key, "a virtual address, which is not always on the same node")
		}
	}
	if c.Source.IsValid() {
		node("source", c.Source)
	} else if v6 && len(c.Peers) > 0 {
		report("source", "required with peers over IPv6")
	}
	seen := map[netip.Addr]bool{}
	for key, peer := range sound("peers", c.Peers) {
		switch {
		case peer == c.Source:
			report(key, "this node itself, by its source")
		case seen[peer]:
			report(key, "stands here twice")
		default:
			node(key, peer)
		}
		seen[peer] = true
	}
}

// validatePreemption applies the rules about taking over from a living master. What is wrong is said of preempt where
// that was written: a mistake in it leaves false.
func (c *Config) validatePreemption(report func(key, rule string)) {
	switch {
	case c.Owner() && !c.Preempt:
		report("preempt", "the owner of the addresses (priority = 255) always takes over")
	case !c.Preempt && c.PreemptDelay != 0:
		report("preempt", "leaves nothing for preempt_delay to delay")
	}
	if c.Owner() && c.PreemptDelay != 0 {
		report("preempt_delay", "the owner of the addresses (priority = 255) does not wait")
	}
}

// sound walks the valid ones of addrs, which stand under key.
func sound(key string, addrs []netip.Addr) iter.Seq2[string, netip.Addr] {
	return func(yield func(string, netip.Addr) bool) {
		for i, addr := range addrs {
			if addr.IsValid() && !yield(fmt.Sprintf("%s[%d]", key, i), addr) {
				return
			}
		}
	}
}

// unicast returns the rule that a breaks if it is not the address of one host, and else "".
func unicast(a netip.Addr) string {
	switch {
	case a.Is4In6():
		return "IPv4 in the form of IPv6"
	case a.Zone() != "":
		return "an interface (%) does not belong to the address"
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not the address of one host in the network"
	}
	return ""
}

func familyName(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}
