package realserver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func TestPlan(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    Settings
		want []string // keys, or
		errs []string // lines of the error
	}{
		{
			name: "silence before the addresses",
			s:    Settings{Mode: DR, VIPs: addrs("192.0.2.11", "192.0.2.10")},
			want: []string{ignore, announce, "192.0.2.11/32 on lo", "192.0.2.10/32 on lo"},
		},
		{
			name: "IPv6 is silent by itself",
			s:    Settings{Mode: DR, VIPs: addrs("2001:db8::10")},
			want: []string{"2001:db8::10/128 on lo"},
		},
		{
			name: "both families, silent by nftables",
			s:    Settings{Mode: DR, VIPs: addrs("192.0.2.10", "2001:db8::10", "192.0.2.11"), ARPFilter: true},
			want: []string{"192.0.2.10 silent by nftables", "192.0.2.11 silent by nftables", "192.0.2.10/32 on lo", "2001:db8::10/128 on lo", "192.0.2.11/32 on lo"},
		},
		{
			name: "a tunnel, before what comes out of it",
			s:    Settings{Mode: TUN, VIPs: addrs("192.0.2.10", "2001:db8::10"), Address: netip.MustParseAddr("10.0.0.21"), Tunnel: Tunnel{Kind: "ipip"}, MTU: 1480},
			want: []string{
				ignore, announce, "tunnel poise-ip4 to 10.0.0.21", "net.ipv4.conf.poise-ip4.rp_filter",
				"192.0.2.10 with MSS 1440 by nftables", "2001:db8::10 with MSS 1420 by nftables", "192.0.2.10/32 on poise-ip4", "2001:db8::10/128 on poise-ip4",
			},
		},
		{
			name: "GUE over IPv6",
			s:    Settings{Mode: TUN, VIPs: addrs("2001:db8::10"), Address: netip.MustParseAddr("2001:db8::21"), Tunnel: Tunnel{Kind: "gue", Port: 6080}},
			want: []string{"tunnel poise-ip6 to 2001:db8::21", "GUE to UDP port 6080 of IPv6", "net.ipv4.conf.poise-ip6.rp_filter", "2001:db8::10/128 on poise-ip6"},
		},
		{
			name: "GRE with checksums",
			s:    Settings{Mode: TUN, VIPs: addrs("2001:db8::10"), Address: netip.MustParseAddr("10.0.0.21"), Tunnel: Tunnel{Kind: "gre", Checksum: true}},
			want: []string{"tunnel poise-gre4 to 10.0.0.21 with checksums", "net.ipv4.conf.poise-gre4.rp_filter", "2001:db8::10/128 on poise-gre4"},
		},
		{
			name: "everything by the director",
			s:    Settings{Mode: NAT, Gateway: netip.MustParseAddr("10.0.0.1"), Interface: "eth0"},
			want: []string{"default route via 10.0.0.1 dev eth0"},
		},
		{
			name: "replies by the director",
			s: Settings{
				Mode: NAT, Gateway: netip.MustParseAddr("10.0.0.1"), Interface: "eth0", Address: netip.MustParseAddr("10.0.0.21"),
				Ports: []Port{{"tcp", 80}, {"udp", 53}},
			},
			want: []string{"replies through 10.0.0.1 dev eth0", "replies from 10.0.0.21 tcp port 80", "replies from 10.0.0.21 udp port 53"},
		},
		{
			name: "no address",
			s:    Settings{Mode: DR},
			errs: []string{"no VIP: name it: --vip ADDRESS"},
		},
		{
			name: "all mistakes at once",
			s:    Settings{Mode: "fullnat", VIPs: addrs("192.0.2.10", "127.0.0.1", "0.0.0.0", "224.0.0.18", "192.0.2.10", "::ffff:192.0.2.1", "fe80::1")},
			errs: []string{
				"VIP 127.0.0.1: not a unicast address that routers forward",
				"VIP 0.0.0.0: not a unicast address that routers forward",
				"VIP 224.0.0.18: not a unicast address that routers forward",
				"VIP 192.0.2.10: named twice",
				"VIP ::ffff:192.0.2.1: not a unicast address that routers forward",
				"VIP fe80::1: not a unicast address that routers forward",
				`mode "fullnat": none of dr, tun and nat`,
			},
		},
		{
			name: "a tunnel without an end",
			s:    Settings{Mode: TUN, VIPs: addrs("192.0.2.10"), Tunnel: Tunnel{Kind: "gue", Checksum: true}, MTU: 100},
			errs: []string{
				"mode tun: where does the tunnel end? Name this host's address: --address ADDRESS",
				"tunnel gue: on which UDP port? --tunnel-port PORT",
				"MTU 100 is outside 1280..65535",
			},
		},
		{
			name: "a way back to nowhere",
			s:    Settings{Mode: NAT, VIPs: addrs("192.0.2.10"), Ports: []Port{{"tcp", 80}}},
			errs: []string{
				"mode nat: through which address of the director do replies go? --gateway ADDRESS",
				"mode nat: replies from which address of this host? --address ADDRESS, of the gateway's family",
				"mode nat: no VIP is needed on the server",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			steps, err := Plan(tc.s)
			var keys []string
			for _, s := range steps {
				keys = append(keys, s.Key)
			}
			if !slices.Equal(keys, tc.want) {
				t.Errorf("steps %q, want %q", keys, tc.want)
			}
			if got, want := errorText(err), strings.Join(tc.errs, "\n"); got != want {
				t.Errorf("error %s\nwant %s", got, want)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestKeysAreReadBack: undo and status know from the keys in the record what was set.
func TestKeysAreReadBack(t *testing.T) {
	steps, err := Plan(
		Settings{Mode: DR, VIPs: addrs("192.0.2.10")},
		Settings{Mode: DR, VIPs: addrs("192.0.2.10", "2001:db8::10"), ARPFilter: true},
		Settings{Mode: TUN, VIPs: addrs("192.0.2.10", "2001:db8::10"), Address: netip.MustParseAddr("10.0.0.21"), Tunnel: Tunnel{Kind: "gue", Port: 6080}, MTU: 1468},
		Settings{Mode: TUN, VIPs: addrs("192.0.2.10"), Address: netip.MustParseAddr("2001:db8::21"), Tunnel: Tunnel{Kind: "gre", Checksum: true}},
		Settings{Mode: TUN, VIPs: addrs("192.0.2.10"), Address: netip.MustParseAddr("2001:db8::21"), Tunnel: Tunnel{Kind: "ipip"}},
		Settings{Mode: NAT, Gateway: netip.MustParseAddr("10.0.0.1"), Interface: "eth0.5"},
		Settings{Mode: NAT, Gateway: netip.MustParseAddr("2001:db8::1"), Interface: "eth0", Address: netip.MustParseAddr("2001:db8::21"), Ports: []Port{{"sctp", 3868}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 21 {
		t.Errorf("%d steps: %v", len(steps), steps)
	}
	for _, want := range steps {
		got, err := thingOf(want.Key)
		if err != nil || got.key() != want.Key || !slices.Equal(got.want(), want.Want) {
			t.Errorf("%v is read back as %+v, %v", want, got, err)
		}
	}
	for _, key := range []string{"", "net.ipv4.ip_forward", "192.0.2.10 on lo", " on lo", "tunnel poise-ip4 to nowhere", "replies from 10.0.0.1 tcp port 70000"} {
		if got, err := thingOf(key); err == nil {
			t.Errorf("%q is taken for %v", key, got)
		}
	}
}

func TestFits(t *testing.T) {
	route := Step{"default route via 10.0.0.1 dev eth1", []string{"via 10.0.0.1 dev eth1"}}
	for value, want := range map[string]bool{
		"via 10.0.0.1 dev eth1": true, "via 10.0.0.1 dev eth1 proto static metric 5": true,
		"via 10.0.0.1 dev eth1; via 10.0.0.2 dev eth0 metric 9": false, "via 10.0.0.1 dev eth10": false, "absent": false, "via 10.0.0.11 dev eth1": false,
	} {
		if got := route.fits(value); got != want {
			t.Errorf("%q fits: %v", value, got)
		}
	}
}
