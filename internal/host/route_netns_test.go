package host

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routesNetns has two interfaces with networks of both families, on which nothing happens by itself.
func routesNetns(t *testing.T) {
	t.Helper()
	inNetns(t, "eth0")
	linkDo(t, "eth0", netlink.LinkDel)
	for name, value := range map[string]string{"accept_dad": "0", "addr_gen_mode": "1", "router_solicitations": "0"} {
		if err := (Sysctls{}).Write("net.ipv6.conf.default."+name, value); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, "link", "add", "eth0", "type", "veth", "peer", "peer")
	w := watch(t)
	for _, name := range []string{"eth0", "peer"} {
		linkDo(t, name, netlink.LinkSetUp)
	}
	for _, name := range []string{"eth0", "peer"} {
		until(t, w, name, "up", func(i Interface) bool { return i.Up })
	}
	for _, a := range [][]string{
		{"10.0.0.5/24", "dev", "eth0"},
		{"10.0.0.6/24", "dev", "eth0"},
		{"10.1.0.5/24", "dev", "peer"},
		{"fd00::5/64", "dev", "eth0"},
		{"fd01::5/64", "dev", "peer"},
	} {
		ip(t, append([]string{"addr", "add"}, a...)...)
	}
}

func family(ipv6 bool) string {
	if ipv6 {
		return "-6"
	}
	return "-4"
}

// richRoutes are default routes with all that the text can say of them.
var richRoutes = map[bool]struct {
	commands []string // of `ip route`
	text     string
}{
	false: {
		[]string{
			"append default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.6 metric 100 mtu 1400 advmss 1360",
			"append default via 10.0.0.2 dev eth0 metric 100",
			"append default via 10.0.0.1 dev eth0 proto dhcp metric 100",
			"append default via 192.0.2.1 dev eth0 onlink proto static metric 200",
			"append default dev peer metric 300",
			"append default dev peer scope global metric 400",
			"append default via 10.1.0.1",
			"append default via 10.1.0.2 proto 186 metric 4294967295",
		},
		"via 10.1.0.1 dev peer; " +
			"via 10.0.0.1 dev eth0 proto dhcp metric 100 src 10.0.0.6 mtu 1400 advmss 1360; via 10.0.0.2 dev eth0 metric 100; via 10.0.0.1 dev eth0 proto dhcp metric 100; " +
			"via 192.0.2.1 dev eth0 proto static metric 200 onlink; dev peer metric 300; dev peer scope global metric 400; " +
			"via 10.1.0.2 dev peer proto 186 metric 4294967295",
	},
	true: {
		[]string{
			"append default via fe80::1 dev eth0 proto ra src fd00::5 metric 100 mtu 1400 advmss 1340",
			"append default dev peer metric 100",
			"append default dev eth0 metric 100 proto static",
			"append default via fd02::1 dev eth0 onlink metric 200",
			"append default via fd01::1",
		},
		"via fe80::1 dev eth0 proto ra metric 100 src fd00::5 mtu 1400 advmss 1340; dev peer metric 100; dev eth0 proto static metric 100; " +
			"via fd02::1 dev eth0 metric 200 onlink; via fd01::1 dev peer metric 1024",
	},
}

// What was there comes back exactly, whatever was there instead.
func TestNetnsDefaultRoutesRestored(t *testing.T) {
	for _, table := range []int{0, 254, 100, 5055} {
		for ipv6, rich := range richRoutes {
			routesNetns(t)
			for _, command := range rich.commands {
				args := append([]string{family(ipv6), "route"}, strings.Fields(command)...)
				ip(t, append(args, "table", fmt.Sprint(tableNumber(table)))...)
			}
			routes := func() string { return ip(t, "-j", "-d", family(ipv6), "route", "show", "table", "all") }
			before := routes()
			text, err := DefaultRoutes(table, ipv6)
			if text != rich.text || err != nil {
				t.Errorf("%s: %q, %v\nwant %q", tableName(table, ipv6), text, err, rich.text)
			}
			director := map[bool]string{false: "via 10.0.0.9 dev eth0", true: "via fd00::9 dev eth0 metric 1024"}[ipv6]
			for _, other := range []string{director, "", "dev peer metric 100", text} {
				if err := SetDefaultRoutes(table, ipv6, other); err != nil {
					t.Fatal(err)
				}
				if got, err := DefaultRoutes(table, ipv6); got != other || err != nil {
					t.Errorf("%s: %q, %v, want %q", tableName(table, ipv6), got, err, other)
				}
				witness := ip(t, family(ipv6), "route", "show", "table", fmt.Sprint(tableNumber(table)), "root", "default", "exact", "default")
				if n := strings.Count(witness, "default"); other == director && (n != 1 || !strings.Contains(witness, director)) {
					t.Errorf("%s: %s", director, witness)
				}
			}
			if after := routes(); after != before {
				t.Errorf("%s\nwas    %s\nbecame %s", tableName(table, ipv6), before, after)
			}
		}
	}
}

// From whatever routes to whatever others: the kernel has those in the end.
func TestNetnsDefaultRoutesAtRandom(t *testing.T) {
	some := rand.New(rand.NewPCG(5055, 1))
	for _, ipv6 := range []bool{false, true} {
		routesNetns(t)
		gateways := map[bool][]string{false: {"10.0.0.1", "10.0.0.2"}, true: {"fd00::1", "fe80::2"}}[ipv6]
		pick := func(words ...string) string { return words[some.IntN(len(words))] }
		before := ""
		for range 300 {
			var texts []string
			for range some.IntN(5) {
				way := pick("dev eth0", "dev peer")
				if some.IntN(2) > 0 {
					way = "via " + pick(gateways...) + " dev eth0"
				}
				texts = append(texts, way+pick("", " metric 7")+pick("", "", "", " proto static")+pick("", "", "", " mtu 1400"))
			}
			text := strings.Join(texts, BetweenRoutes)
			want, err := parseDefaultRoutes(text, ipv6)
			if err != nil {
				continue // which the kernel would not keep, either
			}
			if err := SetDefaultRoutes(0, ipv6, text); err != nil {
				t.Fatalf("from %q\nto %q: %v", before, textOf(want), err)
			}
			before = textOf(want)
		}
	}
}

// routeNews are what the kernel tells of default routes' changes.
func routeNews(t *testing.T) func() []string {
	t.Helper()
	socket, err := subscribe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_IPV4_ROUTE),
			unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_IPV6_ROUTE),
		)
	}); err != nil {
		t.Fatal(err)
	}
	return func() (news []string) {
		// The kernel tells of a change before the call that makes it returns.
		socket.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		for {
			var message [4096]byte
			if _, err := socket.Read(message[:]); err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				return news
			}
			const typeAt, dstLenAt = 4, 16 + 1
			switch {
			case message[dstLenAt] != 0: // one that comes by itself
			case message[typeAt] == unix.RTM_NEWROUTE:
				news = append(news, "new")
			case message[typeAt] == unix.RTM_DELROUTE:
				news = append(news, "deleted")
			}
		}
	}
}

// There is always a route, and one that is right is not touched.
func TestNetnsDefaultRoutesWithoutGap(t *testing.T) {
	routesNetns(t)
	for _, tt := range []struct {
		ipv6 bool
		from string
		to   string
		news string
	}{
		{false, "via 10.0.0.1 dev eth0", "via 10.0.0.1 dev eth0", ""},
		{false, "via 10.0.0.1 dev eth0", "via 10.0.0.9 dev eth0", "new"},
		{false, "via 10.0.0.1 dev eth0 metric 100", "via 10.0.0.9 dev eth0", "new deleted"},
		{false, "via 10.0.0.1 dev eth0 metric 100; dev peer metric 200", "via 10.0.0.9 dev eth0; dev peer metric 200", "new deleted"},
		{true, "via fd00::1 dev eth0", "via fd00::1 dev eth0", ""},
		{true, "via fd00::1 dev eth0", "via fd00::9 dev eth0", "new"},
		{true, "via fd00::1 dev eth0 metric 100", "via fd00::9 dev eth0", "new deleted"},
		{true, "via fd00::1 dev eth0", "dev eth0", "new deleted"},
	} {
		for _, ipv6 := range []bool{false, true} { // those of the case before
			if err := SetDefaultRoutes(0, ipv6, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := SetDefaultRoutes(0, tt.ipv6, tt.from); err != nil {
			t.Fatal(err)
		}
		news := routeNews(t)
		if err := SetDefaultRoutes(0, tt.ipv6, tt.to); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(news(), " "); got != tt.news {
			t.Errorf("from %q to %q: %q, want %q", tt.from, tt.to, got, tt.news)
		}
	}
}

// A route which the text cannot say is an error that names it, and stays.
func TestNetnsDefaultRoutesUnsayable(t *testing.T) {
	routesNetns(t)
	ip(t, "nexthop", "add", "id", "5", "via", "10.0.0.1", "dev", "eth0")
	for _, tt := range []struct {
		ipv6  bool
		route string // of `ip route`
		want  string // in the error
	}{
		{false, "default nexthop via 10.0.0.1 nexthop via 10.0.0.2", "several gateways"},
		{false, "default nhid 5", "nhid"},
		{false, "default via 10.0.0.1 encap ip id 5 dst 192.0.2.1", "encap"},
		{false, "default via inet6 fe80::1 dev eth0", "a gateway of the other family"},
		{false, "default via 10.0.0.1 initcwnd 10", "initcwnd"},
		{false, "default via 10.0.0.1 mtu lock 1400", "lock"},
		{false, "default via 10.0.0.1 congctl reno", "congctl"},
		{false, "default via 10.0.0.1 realm 3", "realm"},
		{false, "default via 10.0.0.1 tos 0x10", "tos 16"},
		{false, "unreachable default metric 5", "type unreachable"},
		{true, "default nexthop via fd00::1 nexthop via fd00::2", "several gateways"},
		{true, "default via fd00::1 expires 100", "an end (of a router's advertisement)"},
		{true, "default via fd00::1 hoplimit 5 initrwnd 10", "hoplimit, initrwnd"},
		{true, "default via fd00::1 pref high", "pref"},
		{true, "blackhole default", "type blackhole"},
	} {
		route := strings.Fields(tt.route)
		ip(t, append([]string{family(tt.ipv6), "route", "add"}, route...)...)
		before := ip(t, family(tt.ipv6), "route", "show")
		_, err := DefaultRoutes(0, tt.ipv6)
		if want := "has " + tt.want + ", and could not be made again"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", tt.route, err, want)
		}
		if err := SetDefaultRoutes(0, tt.ipv6, ""); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: deleted: %v", tt.route, err)
		}
		if after := ip(t, family(tt.ipv6), "route", "show"); after != before {
			t.Errorf("%s: touched: %s", tt.route, after)
		}
		if text, err := DefaultRoutes(5055, tt.ipv6); text != "" || err != nil {
			t.Errorf("%s: another table has %q, %v", tt.route, text, err)
		}
		ip(t, append([]string{family(tt.ipv6), "route", "del"}, route...)...)
	}
}

func TestNetnsDefaultRoutesErrors(t *testing.T) {
	routesNetns(t)
	ip(t, "link", "add", "semi;colon", "type", "veth", "peer", "semi")
	ip(t, "link", "set", "semi;colon", "up")
	ip(t, "route", "add", "default", "dev", "semi;colon", "table", "7")
	_, odd := DefaultRoutes(7, false)
	for _, tt := range []struct {
		what string
		err  error
		want string
	}{
		{"no interface", SetDefaultRoutes(0, false, "dev eth9"), "set default routes of IPv4 table main: append dev eth9: interface eth9: no such interface"},
		{"gateway elsewhere", SetDefaultRoutes(9, false, "via 192.0.2.1 dev eth0"), "set default routes of IPv4 table 9: append via 192.0.2.1 dev eth0: network is unreachable"},
		{"source of others", SetDefaultRoutes(0, false, "dev eth0 src 192.0.2.1"), "set default routes of IPv4 table main: append dev eth0 src 192.0.2.1: invalid argument"},
		{"no route's text", SetDefaultRoutes(0, true, "absent"), `set default routes of IPv6 table main: default route "absent": nothing follows absent`},
		{"odd name", odd, "default routes of IPv4 table 7: dev semi;colon: not an interface's name without blanks and semicolons"},
	} {
		if tt.err == nil || tt.err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.what, tt.err, tt.want)
		}
	}
}
