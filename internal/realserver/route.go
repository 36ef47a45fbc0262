package realserver

import (
	"fmt"
	"net/netip"
	"strconv"

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
