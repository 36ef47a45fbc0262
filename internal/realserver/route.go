package realserver

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"poise/internal/host"
)

// replyTable is the routing table for replies alone, and the priority of the rules that lead to it.
const replyTable = 5055

// wayBack has replies go through the director, which must see them: everything by the default route, or only what is
// sent from some ports.
func (s Settings) wayBack() []thing {
	if len(s.Ports) == 0 {
		return []thing{defaultRoute{s.Gateway, s.Interface, unix.RT_TABLE_MAIN}}
	}
	things := []thing{defaultRoute{s.Gateway, s.Interface, replyTable}}
	for _, p := range s.Ports {
		things = append(things, replies{s.Address, p})
	}
	return things
}

// defaultRoute is the default route of a table, or all it has. Its value is as host.DefaultRoutes says it.
type defaultRoute struct {
	gateway netip.Addr
	ifname  string
	table   int
}

func readDefaultRoute(parts []string) (thing, error) {
	gateway, err := netip.ParseAddr(parts[0])
	return defaultRoute{gateway, parts[1], unix.RT_TABLE_MAIN}, err
}

func readReplyRoute(parts []string) (thing, error) {
	gateway, err := netip.ParseAddr(parts[0])
	return defaultRoute{gateway, parts[1], replyTable}, err
}

func (d defaultRoute) key() string {
	if d.table == replyTable {
		return fmt.Sprintf("replies through %v dev %s", d.gateway, d.ifname)
	}
	return fmt.Sprintf("default route via %v dev %s", d.gateway, d.ifname)
}

func (d defaultRoute) want() []string {
	return []string{fmt.Sprintf("via %v dev %s", d.gateway, d.ifname)}
}

func (d defaultRoute) get() (string, error) {
	text, err := host.DefaultRoutes(d.table, d.gateway.Is6())
	if text == "" && err == nil {
		text = absent
	}
	return text, err
}

func (d defaultRoute) set(value string) error {
	if value == absent {
		value = ""
	}
	return host.SetDefaultRoutes(d.table, d.gateway.Is6(), value)
}

// restored is the value without our route and with the former ones. Where somebody else has made routes since, they are
// what the host goes by: then only ours goes, and others is true.
func (d defaultRoute) restored(now, former string) (value string, others bool) {
	var left []string
	for r := range strings.SplitSeq(now, host.BetweenRoutes) {
		is := slices.Contains(strings.Split(former, host.BetweenRoutes), r)
		switch {
		case is:
			left = append(left, r)
		case !d.is(r) && r != absent:
			left, others = append(left, r), true
		}
	}
	if !others {
		return former, false
	}
	return strings.Join(left, host.BetweenRoutes), true
}

// is tells whether a route is exactly the one that set makes. For IPv6 the kernel gives it a metric (IP6_RT_PRIO_USER in
// linux/ipv6_route.h).
func (d defaultRoute) is(route string) bool {
	made := d.want()[0]
	return route == made || d.gateway.Is6() && route == made+" metric 1024"
}

// isWayBack tells whether a key is about the way of NAT's replies.
func isWayBack(key string) bool {
	t, err := thingOf(key)
	if err != nil {
		return false
	}
	switch t.(type) {
	case defaultRoute, replies:
		return true
	}
	return false
}

// replies are what is sent from a port, by the table for replies.
type replies struct {
	from netip.Addr
	Port
}

func (p Port) protocol() uint8 {
	switch p.Protocol {
	case "tcp":
		return unix.IPPROTO_TCP
	case "udp":
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	}
	return 0
}

func readReplies(parts []string) (thing, error) {
	from, err := netip.ParseAddr(parts[0])
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(parts[2], 10, 16)
	return replies{from, Port{parts[1], uint16(port)}}, err
}

func (r replies) key() string {
	return fmt.Sprintf("replies from %v %s port %d", r.from, r.Protocol, r.Number)
}
func (r replies) want() []string { return []string{present} }

func (r replies) rule() host.Rule {
	return host.Rule{From: r.from, Protocol: r.protocol(), SourcePort: r.Number, Table: replyTable, Priority: replyTable}
}

func (r replies) get() (string, error) {
	has, err := host.HasRule(r.rule())
	return presence(has), err
}

func (r replies) set(value string) (err error) {
	if value == present {
		_, err = host.AddRule(r.rule())
	} else {
		_, err = host.DelRule(r.rule())
	}
	return err
}
