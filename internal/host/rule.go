package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Rule sends packets of this host that match to a routing table, as `ip rule` does.
type Rule struct {
	From       netip.Addr
	Protocol   uint8  // an IP protocol's number, 0 for all
	SourcePort uint16 // 0 for all; the kernel takes no rule for 65535
	Table      int    // 0 for main
	Priority   int    // the lower, the earlier: the main table is asked at 32766
}

func (r Rule) String() string {
	s := fmt.Sprintf("rule %d: from %v", r.Priority, r.From)
	if r.Protocol != 0 {
		s += fmt.Sprintf(" ipproto %d", r.Protocol)
	}
	if r.SourcePort != 0 {
		s += fmt.Sprintf(" sport %d", r.SourcePort)
	}
	return s + fmt.Sprintf(" lookup %d", tableNumber(r.Table))
}

// AddRule adds a rule. It reports false when there was such a one.
func AddRule(r Rule) (added bool, err error) {
	has, err := hasRule(r)
	if err == nil && !has {
		added = true
		err = netlink.RuleAdd(r.netlink())
	}
	if err != nil {
		return false, fmt.Errorf("add %v: %w", r, err)
	}
	return added, nil
}

// DelRule deletes a rule. It reports false when there was none such.
func DelRule(r Rule) (deleted bool, err error) {
	has, err := hasRule(r)
	if err == nil && has {
		deleted = true
		err = netlink.RuleDel(r.netlink())
	}
	if err != nil {
		return false, fmt.Errorf("delete %v: %w", r, err)
	}
	return deleted, nil
}

// HasRule tells whether there is a rule for just this, whoever made it.
func HasRule(r Rule) (bool, error) {
	has, err := hasRule(r)
	if err != nil {
		return false, fmt.Errorf("%v: %w", r, err)
	}
	return has, nil
}

func (r Rule) netlink() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = familyOf(r.From.Is6())
	rule.Src = &net.IPNet{IP: r.From.AsSlice(), Mask: net.CIDRMask(r.From.BitLen(), r.From.BitLen())}
	rule.IPProto = int(r.Protocol)
	if r.SourcePort != 0 {
		rule.Sport = netlink.NewRulePortRange(r.SourcePort, r.SourcePort)
	}
	rule.Table, rule.Priority = int(tableNumber(r.Table)), r.Priority
	return rule
}

// hasRule reads messages for itself: the library drops what it does not know of a rule, and what the rule does.
func hasRule(want Rule) (bool, error) {
	if !ofHost(want.From) {
		return false, fmt.Errorf("%v is no address of a host", want.From)
	}
	want.Table = int(tableNumber(want.Table))
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(want.From.Is6()))}}
	messages, err := dump(unix.RTM_GETRULE, header, unix.RTM_NEWRULE)
	if err != nil {
		return false, err
	}
	for _, m := range messages {
		r, is, err := parseRule(m)
		if err != nil {
			return false, err
		}
		if is && r == want {
			return true, nil
		}
	}
	return false, nil
}

// What the library and x/sys lack of linux/fib_rules.h.
const (
	fraSourcePortMask = 28
	actionToTable     = 1
)

// parseRule returns what the kernel tells of a rule, and whether a [Rule] says all of it.
func parseRule(message []byte) (r Rule, is bool, err error) {
	header := nl.DeserializeRtMsg(message) // has the shape of struct fib_rule_hdr, whose action is the type
	attrs, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return Rule{}, false, err
	}
	is = header.Tos == 0 && header.Type == actionToTable && header.Flags == 0
	for _, a := range attrs {
		switch a.Attr.Type & nl.NLA_TYPE_MASK {
		case unix.FRA_SRC:
			r.From, _ = netip.AddrFromSlice(a.Value)
		case unix.FRA_IP_PROTO:
			r.Protocol = a.Value[0]
		case unix.FRA_SPORT_RANGE:
			first, last := binary.NativeEndian.Uint16(a.Value), binary.NativeEndian.Uint16(a.Value[2:])
			r.SourcePort = first
			is = is && first == last
		case fraSourcePortMask:
			is = is && binary.NativeEndian.Uint16(a.Value) == 1<<16-1
		case unix.FRA_TABLE:
			r.Table = int(binary.NativeEndian.Uint32(a.Value))
		case unix.FRA_PRIORITY:
			r.Priority = int(binary.NativeEndian.Uint32(a.Value))
		case unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
			is = is && binary.NativeEndian.Uint32(a.Value) == 1<<32-1 // none
		case unix.FRA_PROTOCOL, unix.FRA_PAD: // who made it
		default:
			is = false
		}
	}
	return r, is && int(header.Src_len) == r.From.BitLen(), nil
}

// RouteTo returns how a packet of this host's leaves: the gateway, not valid where the destination is a neighbour, and
// the interface. It is the kernel that looks this up, by source, protocol and ports, too; each of them may be zero. Of
// protocols it takes only TCP, UDP and ICMP, and for IPv4 only sources that the host has now.
func RouteTo(dst, src netip.Addr, protocol uint8, sport, dport uint16) (gateway netip.Addr, ifname string, err error) {
	if gateway, ifname, err = routeTo(dst.Unmap(), src.Unmap(), protocol, sport, dport); err != nil {
		from := ""
		if src.IsValid() {
			from = " from " + src.String()
		}
		return netip.Addr{}, "", fmt.Errorf("route to %v%s: %w", dst, from, err)
	}
	return gateway, ifname, nil
}

// routeTo asks for itself, as the library has no protocols and ports.
func routeTo(dst, src netip.Addr, protocol uint8, sport, dport uint16) (gateway netip.Addr, ifname string, err error) {
	if !dst.IsValid() {
		return netip.Addr{}, "", errors.New("where to?")
	}
	header := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(dst.Is6())), Dst_len: uint8(dst.BitLen())}}
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	request.AddData(header)
	request.AddData(nl.NewRtAttr(unix.RTA_DST, dst.AsSlice()))
	if src.IsValid() {
		if src.Is6() != dst.Is6() {
			return netip.Addr{}, "", errors.New("they are of two families")
		}
		header.Src_len = uint8(src.BitLen())
		request.AddData(nl.NewRtAttr(unix.RTA_SRC, src.AsSlice()))
	}
	if protocol != 0 {
		request.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{protocol}))
	}
	for kind, port := range map[int]uint16{unix.RTA_SPORT: sport, unix.RTA_DPORT: dport} {
		if port != 0 {
			request.AddData(nl.NewRtAttr(kind, binary.BigEndian.AppendUint16(nil, port)))
		}
	}
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return netip.Addr{}, "", err
	}
	if len(messages) != 1 {
		return netip.Addr{}, "", fmt.Errorf("%d answers of the kernel", len(messages))
	}
	return parseHop(messages[0])
}

// parseHop reads where a packet goes next.
func parseHop(message []byte) (gateway netip.Addr, ifname string, err error) {
	header := nl.DeserializeRtMsg(message)
	attrs, err := nl.ParseRouteAttr(message[header.Len():])
	if err != nil {
		return netip.Addr{}, "", err
	}
	switch header.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW: // IPv6 answers with such a route
		return netip.Addr{}, "", fmt.Errorf("the route is of type %s", typeNames[int(header.Type)])
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_GATEWAY:
			gateway, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_VIA: // of the other family, which stands before it
			gateway, _ = netip.AddrFromSlice(a.Value[2:])
		case unix.RTA_OIF:
			index := int(binary.NativeEndian.Uint32(a.Value))
			link, err := netlink.LinkByIndex(index)
			if err != nil {
				return netip.Addr{}, "", fmt.Errorf("interface %d: %w", index, err)
			}
			ifname = link.Attrs().Name
		}
	}
	return gateway, ifname, nil
}
