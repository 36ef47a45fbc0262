package host

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

func TestNetnsRules(t *testing.T) {
	inNetns(t, "eth0")
	for _, from := range []string{"192.0.2.10", "2001:db8::10"} {
		addr := netip.MustParseAddr(from)
		rules := func() string { return ip(t, family(addr.Is6()), "rule", "show") }
		before := rules()
		for _, tt := range []struct {
			Rule
			want string // as `ip rule` shows it
		}{
			{Rule{addr, unix.IPPROTO_TCP, 80, 5055, 5055}, "5055: from " + from + " ipproto tcp sport 80 lookup 5055"},
			{Rule{addr, unix.IPPROTO_SCTP, 65534, 100, 1}, "1: from " + from + " ipproto sctp sport 65534 lookup 100"},
			{Rule{addr, unix.IPPROTO_UDP, 0, 0, 5055}, "5055: from " + from + " ipproto udp lookup main"},
			{Rule{addr, 0, 53, 254, 5055}, "5055: from " + from + " sport 53 lookup main"},
			{Rule{addr, 0, 0, 5055, 5055}, "5055: from " + from + " lookup 5055"},
		} {
			var others []Rule
			for _, change := range []func(*Rule){
				func(r *Rule) { r.From = r.From.Next() },
				func(r *Rule) { r.Protocol ^= 1 },
				func(r *Rule) { r.SourcePort ^= 1 },
				func(r *Rule) { r.Table = 300 },
				func(r *Rule) { r.Priority++ },
			} {
				r := tt.Rule
				change(&r)
				others = append(others, r)
			}
			for _, step := range []struct {
				what string
				do   func(Rule) (bool, error)
				want bool
			}{
				{"delete what is absent", DelRule, false},
				{"has none", HasRule, false},
				{"add", AddRule, true},
				{"add again", AddRule, false},
				{"has", HasRule, true},
				{"delete", DelRule, true},
				{"delete again", DelRule, false},
			} {
				if got, err := step.do(tt.Rule); got != step.want || err != nil {
					t.Errorf("%v: %s: %v, %v, want %v", tt.Rule, step.what, got, err, step.want)
				}
				if shown := strings.Contains(strings.ReplaceAll(rules(), "\t", " "), tt.want+"\n"); step.what == "has" && !shown {
					t.Errorf("no %s in\n%s", tt.want, rules())
				}
				for _, r := range others {
					if has, err := HasRule(r); has || err != nil {
						t.Errorf("%s %v: has %v: %v, %v", step.what, tt.Rule, r, has, err)
					}
				}
			}
			if after := rules(); after != before {
				t.Errorf("%v: left\n%s", tt.Rule, after)
			}
		}
	}
}

// Rules for more or less than ours are others; who made one does not matter.
func TestNetnsRulesOfOthers(t *testing.T) {
	inNetns(t, "eth0")
	r := Rule{netip.MustParseAddr("192.0.2.10"), unix.IPPROTO_TCP, 80, 100, 50}
	const same = "from 192.0.2.10 ipproto tcp sport 80 table 100 priority 50"
	other := func(was, is string) string { return strings.Replace(same, was, is, 1) }
	for rule, want := range map[string]bool{
		same:                              true,
		same + " protocol static":         true,
		same + " iif eth0":                false,
		same + " oif eth0":                false,
		same + " to 198.51.100.0/24":      false,
		same + " tos 0x10":                false,
		same + " fwmark 1":                false,
		same + " dport 80":                false,
		same + " uidrange 0-0":            false,
		same + " suppress_prefixlength 0": false,
		same + " realms 3":                false,
		"not " + same:                     false,

		other("80", "80-81"):                       false,
		other("2.10", "2.10/31"):                   false,
		other("table 100", "blackhole"):            false,
		other("table 100", "goto 32766"):           false,
		other("from 192.0.2.10", "from 0.0.0.0/0"): false,
	} {
		ip(t, append([]string{"rule", "add"}, strings.Fields(rule)...)...)
		if has, err := HasRule(r); has != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", rule, has, err, want)
		}
		ip(t, append([]string{"rule", "del"}, strings.Fields(rule)...)...)
	}
}

func TestNetnsRuleErrors(t *testing.T) {
	inNetns(t, "eth0")
	for _, tt := range []struct {
		from string
		want string
	}{
		{"0.0.0.0", "add rule 50: from 0.0.0.0 sport 80 lookup 100: 0.0.0.0 is no address of a host"},
		{"::ffff:192.0.2.10", "add rule 50: from ::ffff:192.0.2.10 sport 80 lookup 100: ::ffff:192.0.2.10 is no address of a host"},
	} {
		_, err := AddRule(Rule{From: netip.MustParseAddr(tt.from), SourcePort: 80, Table: 100, Priority: 50})
		if err == nil || err.Error() != tt.want {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}

// The same packets leave the same way as `ip route get` says.
func TestNetnsRouteTo(t *testing.T) {
	routesNetns(t)
	for _, command := range []string{
		"addr add 192.0.2.10/32 dev lo",
		"addr add 2001:db8::10/128 dev lo",
		"-4 route add default via 10.0.0.1",
		"-4 route add default via 10.1.0.2 table 5055",
		"-4 route add 198.51.100.0/24 via inet6 fe80::4 dev eth0",
		"-4 route add prohibit 203.0.113.128/25",
		"-6 route add default via fd00::1",
		"-6 route add default via fe80::2 dev peer table 5055",
		"-6 route add unreachable 2001:db8:dead::/48",
		"-4 rule add from 192.0.2.10 ipproto tcp sport 80 table 5055",
		"-4 rule add ipproto udp dport 53 table 5055",
		"-6 rule add from 2001:db8::10 ipproto tcp sport 80 table 5055",
	} {
		ip(t, strings.Fields(command)...)
	}
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	for _, tt := range []struct {
		dst, src     string
		protocol     uint8
		sport, dport uint16
		gateway      string
		ifname       string
		err          string
	}{
		{dst: "203.0.113.2", gateway: "10.0.0.1", ifname: "eth0"},
		{dst: "203.0.113.2", src: "192.0.2.10", gateway: "10.0.0.1", ifname: "eth0"},
		{dst: "203.0.113.2", src: "192.0.2.10", protocol: tcp, sport: 80, dport: 40000, gateway: "10.1.0.2", ifname: "peer"},
		{dst: "203.0.113.2", src: "192.0.2.10", protocol: tcp, sport: 81, gateway: "10.0.0.1", ifname: "eth0"},
		{dst: "203.0.113.2", src: "192.0.2.10", protocol: udp, sport: 80, gateway: "10.0.0.1", ifname: "eth0"},
		{dst: "203.0.113.2", src: "10.0.0.5", protocol: tcp, sport: 80, gateway: "10.0.0.1", ifname: "eth0"},
		{dst: "203.0.113.2", protocol: udp, dport: 53, gateway: "10.1.0.2", ifname: "peer"},
		{dst: "10.1.0.9", ifname: "peer"},
		{dst: "::ffff:10.1.0.9", src: "::ffff:192.0.2.10", ifname: "peer"},
		{dst: "10.0.0.5", ifname: "lo"},
		{dst: "198.51.100.1", gateway: "fe80::4", ifname: "eth0"},
		{dst: "2001:db8:9::2", gateway: "fd00::1", ifname: "eth0"},
		{dst: "2001:db8:9::2", src: "2001:db8::10", protocol: tcp, sport: 80, dport: 40000, gateway: "fe80::2", ifname: "peer"},
		{dst: "2001:db8:9::2", src: "2001:db8::10", protocol: tcp, sport: 81, gateway: "fd00::1", ifname: "eth0"},
		{dst: "fd01::9", ifname: "peer"},
		{dst: "203.0.113.130", err: "route to 203.0.113.130: permission denied"},
		{dst: "2001:db8:dead::1", src: "fd00::5", err: "route to 2001:db8:dead::1 from fd00::5: no route to host"},
		{dst: "203.0.113.2", src: "fd00::5", err: "route to 203.0.113.2 from fd00::5: they are of two families"},
	} {
		dst := netip.MustParseAddr(tt.dst)
		var src netip.Addr
		get := []string{"-j", "route", "get", dst.Unmap().String()}
		if tt.src != "" {
			src = netip.MustParseAddr(tt.src)
			get = append(get, "from", src.Unmap().String())
		}
		if tt.protocol != 0 {
			get = append(get, "ipproto", map[uint8]string{tcp: "tcp", udp: "udp"}[tt.protocol])
		}
		if tt.sport != 0 {
			get = append(get, "sport", fmt.Sprint(tt.sport))
		}
		if tt.dport != 0 {
			get = append(get, "dport", fmt.Sprint(tt.dport))
		}
		gateway, ifname, err := RouteTo(dst, src, tt.protocol, tt.sport, tt.dport)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%v: %v, want %s", get, err, tt.err)
			}
			continue
		}
		want, _ := netip.ParseAddr(tt.gateway)
		if gateway != want || ifname != tt.ifname || err != nil {
			t.Errorf("%v: via %v dev %s, %v, want via %v dev %s", get, gateway, ifname, err, want, tt.ifname)
		}
		var witness []struct {
			Dev     string
			Gateway netip.Addr
			Via     struct{ Host netip.Addr }
		}
		if err := json.Unmarshal([]byte(ip(t, get...)), &witness); err != nil || len(witness) != 1 {
			t.Fatalf("%v: %+v, %v", get, witness, err)
		}
		if w := witness[0]; w.Dev != ifname || w.Gateway != gateway && w.Via.Host != gateway {
			t.Errorf("%v: via %v dev %s, but ip(8) says %+v", get, gateway, ifname, w)
		}
	}
	if _, _, err := RouteTo(netip.Addr{}, netip.Addr{}, 0, 0, 0); err == nil {
		t.Error("there is a route to nowhere")
	}
}

// What a server sends from a port goes the way that the rule for it leads, and all else does not.
func TestNetnsRepliesByRule(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	outside, inside := n.Switch("outside"), n.Switch("inside")
	client, director, server := n.Host("client"), n.Host("director"), n.Host("server")
	for _, h := range []*lab.Host{client, director, server} {
		h.Sysctl("net/ipv6/conf/default/accept_dad", "0") // link-local addresses are usable at once
	}
	client.Connect(outside, "203.0.113.2/24", "2001:db8:113::2/64")
	director.Connect(outside, "203.0.113.1/24", "2001:db8:113::1/64")
	director.Connect(inside, "10.0.0.1/24", "fd00:10::1/64")
	server.Connect(inside, "10.0.0.21/24", "fd00:10::21/64")
	director.Sysctl("net/ipv4/ip_forward", "1")
	director.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, tt := range []struct{ server, director, elsewhere, client, back string }{
		{"10.0.0.21", "10.0.0.1", "10.0.0.99", "203.0.113.2", "203.0.113.1"},
		{"fd00:10::21", "fd00:10::1", "fd00:10::99", "2001:db8:113::2", "2001:db8:113::1"},
	} {
		addr := netip.MustParseAddr(tt.server)
		client.Route("default", tt.back)
		for _, port := range []uint16{80, 81} {
			server.ServeHTTP(netip.AddrPortFrom(addr, port).String())
		}
		rule := Rule{From: addr, Protocol: unix.IPPROTO_TCP, SourcePort: 80, Table: 5055, Priority: 5055}
		if err := server.Do(func() error {
			if err := SetDefaultRoutes(0, addr.Is6(), "via "+tt.elsewhere+" dev eth0"); err != nil {
				return err
			}
			if err := SetDefaultRoutes(rule.Table, addr.Is6(), "via "+tt.director+" dev eth0"); err != nil {
				return err
			}
			_, err := AddRule(rule)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		answers := func(port uint16) bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c, err := client.Dial(ctx, "tcp", "", netip.AddrPortFrom(addr, port).String())
			if err == nil {
				c.Close()
			}
			return err == nil
		}
		if !answers(80) {
			t.Errorf("%v port 80: no reply comes back", addr)
		}
		if answers(81) {
			t.Errorf("%v port 81: a reply comes back without a rule for it", addr)
		}
		if err := server.Do(func() error { _, err := DelRule(rule); return err }); err != nil {
			t.Fatal(err)
		}
		if answers(80) {
			t.Errorf("%v port 80: a reply comes back without the rule", addr)
		}
	}
}
