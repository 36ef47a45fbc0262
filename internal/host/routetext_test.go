package host

import (
	"slices"
	"strings"
	"testing"
)

func TestDefaultRoutesText(t *testing.T) {
	const v4, v6 = false, true
	for _, tt := range []struct {
		name string
		ipv6 bool
		text string
		want string // "" where it is the text
	}{
		{"none", v4, "", ""},
		{"gateway", v4, "via 10.0.0.1 dev eth0", ""},
		{"all words", v4, "via 10.0.0.1 dev eth0 proto static scope link metric 100 src 10.0.0.5 onlink mtu 1400 advmss 1360", ""},
		{"any order", v4, "advmss 1360 metric 100 onlink dev eth0 via 10.0.0.1", "via 10.0.0.1 dev eth0 metric 100 onlink advmss 1360"},
		{"more blanks", v4, " via  10.0.0.1 dev\teth0 ", "via 10.0.0.1 dev eth0"},
		{"the usual, said", v4, "via 10.0.0.1 dev eth0 proto boot scope global metric 0", "via 10.0.0.1 dev eth0"},
		{"the usual without a gateway", v4, "dev ppp0 scope link", "dev ppp0"},
		{"names as numbers", v4, "dev ppp0 proto 16 scope 254", "dev ppp0 proto dhcp scope host"},
		{"numbers without names", v4, "dev ppp0 proto 186 scope 200", ""},
		{"none made it", v4, "dev ppp0 proto 0", ""},
		{"zeros in front", v4, "dev ppp0 metric 007", "dev ppp0 metric 7"},
		{"interface called as a word", v4, "dev metric metric 7", ""},
		{"sorted by metric", v4, "dev a metric 7; dev b; dev c metric 6; dev d", "dev b; dev d; dev c metric 6; dev a metric 7"},
		{"one gateway from two sources", v4, "via 10.0.0.1 dev eth0 src 10.0.0.5; via 10.0.0.1 dev eth0 src 10.0.0.6", ""},
		{"IPv6", v6, "via fe80::1 dev eth0 proto ra metric 100 src 2001:db8::5 mtu 1400", ""},
		{"the usual metric of IPv6", v6, "via fe80::1 dev eth0", "via fe80::1 dev eth0 metric 1024"},
		{"one way of saying it", v6, "via FE80:0::0001 dev eth0 metric 1", "via fe80::1 dev eth0 metric 1"},
		{"IPv6 without a gateway", v6, "dev eth0 metric 1024 onlink; dev eth1 metric 1024; via fe80::1 dev eth0 metric 1024", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes, err := parseDefaultRoutes(tt.text, tt.ipv6)
			if tt.want == "" {
				tt.want = tt.text
			}
			if got := textOf(routes); got != tt.want || err != nil {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestDefaultRoutesTextErrors(t *testing.T) {
	const v4, v6 = false, true
	for _, tt := range []struct {
		name string
		ipv6 bool
		text string
		want string // in the error
	}{
		{"no interface", v4, "via 10.0.0.1", "it has no dev"},
		{"empty route", v4, "dev eth0; ", "it has no dev"},
		{"unknown word", v4, "dev eth0 initcwnd 10", "no word of a default route's: initcwnd"},
		{"no value", v4, "dev eth0 metric", "nothing follows metric"},
		{"twice", v4, "dev eth0 metric 1 metric 2", "metric stands twice"},
		{"flag twice", v4, "dev eth0 onlink onlink", "onlink stands twice"},
		{"other family", v4, "via fe80::1 dev eth0", "via fe80::1: not an address of IPv4"},
		{"other family's source", v6, "dev eth0 src 10.0.0.5", "src 10.0.0.5: not an address of IPv6"},
		{"mapped", v6, "via ::ffff:10.0.0.1 dev eth0", "not an address of IPv6"},
		{"zone", v6, "via fe80::1%eth0 dev eth0", "not an address of IPv6"},
		{"unspecified", v4, "via 0.0.0.0 dev eth0", "not an address of IPv4"},
		{"no address", v4, "via inet6 dev eth0", "via inet6: not an address"},
		{"long name", v4, "dev abcdefghijklmnop", "dev abcdefghijklmnop: not an interface's name"},
		{"semicolon", v4, "dev eth0;via", "not an interface's name"},
		{"negative", v4, "dev eth0 metric -1", "metric -1: not a number of 0 to 4294967295"},
		{"too large", v4, "dev eth0 metric 4294967296", "not a number of"},
		{"what the kernel makes smaller", v4, "dev eth0 mtu 65521", "mtu 65521: not a number of 1 to 65520"},
		{"mtu of none", v4, "dev eth0 mtu 0", "not a number of"},
		{"unknown maker", v4, "dev eth0 proto bgpd", "proto bgpd: not a number of 0 to 255"},
		{"unknown scope", v4, "dev eth0 scope 256", "scope 256: not a number of 0 to 255"},
		{"scope of IPv6", v6, "dev eth0 scope link", "IPv6 has no scopes"},
		{"maker that IPv6 lacks", v6, "dev eth0 proto 0", "proto 0: IPv6 has none such"},
		{"same", v4, "dev eth0; dev eth0", "the kernel keeps only one of them"},
		{"same to IPv6", v6, "dev eth0 mtu 1400; dev eth0", "the kernel keeps only one of them"},
		{"balanced", v6, "via fe80::1 dev eth0; via fe80::2 dev eth0", "two gateways of metric 1024 would be one route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes, err := parseDefaultRoutes(tt.text, tt.ipv6)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v, want an error with %q", routes, err, tt.want)
			}
		})
	}
}

func TestTooManyDefaultRoutes(t *testing.T) {
	var texts []string
	for n := range uint32(maxDefaultRoutes + 1) {
		texts = append(texts, "dev eth0 metric "+decimal(n))
	}
	if _, err := parseDefaultRoutes(strings.Join(texts[1:], BetweenRoutes), false); err != nil {
		t.Errorf("the most: %v", err)
	}
	if _, err := parseDefaultRoutes(strings.Join(texts, BetweenRoutes), false); err == nil {
		t.Error("one more than the most is taken")
	}
}

// FuzzDefaultRoutes: what is read from a text is read again from what it is said as, and said the same way.
func FuzzDefaultRoutes(f *testing.F) {
	f.Add("via 10.0.0.1 dev eth0 proto static scope link metric 100 src 10.0.0.5 onlink mtu 1400 advmss 1360", false)
	f.Add("dev a; metric 7; dev b;; dev c\u00a0d scope 253", false)
	f.Add("via fe80::1 dev eth0 proto ra; dev eth1 metric 1024; via FE80::2 dev eth0 metric 4294967295", true)
	f.Add("via fe80::1%eth0 dev eth0; dev dev metric 0", true)
	f.Fuzz(func(t *testing.T, text string, ipv6 bool) {
		routes, err := parseDefaultRoutes(text, ipv6)
		if err != nil {
			return
		}
		if len(routes) > maxDefaultRoutes {
			t.Fatalf("%d routes", len(routes))
		}
		said := textOf(routes)
		again, err := parseDefaultRoutes(said, ipv6)
		if !slices.Equal(again, routes) || err != nil {
			t.Errorf("%q became %+v, said as %q, which became %+v, %v", text, routes, said, again, err)
		}
	})
}

func TestRouteSteps(t *testing.T) {
	const v4, v6 = false, true
	for _, tt := range []struct {
		name string
		ipv6 bool
		have string
		want string
		text string // the steps
	}{
		{"nothing", v4, "", "", ""},
		{"right already", v4, "dev a; dev b metric 5", "dev a; dev b metric 5", ""},
		{"first", v4, "", "dev a", "append dev a"},
		{"last", v4, "dev a", "", "delete dev a"},
		{"same metric", v4, "dev a", "dev b", "replace dev b"},
		{"only its MTU", v4, "dev a", "dev a mtu 1400", "replace dev a mtu 1400"},
		{"other metric", v4, "dev a", "dev b metric 5", "append dev b metric 5, delete dev a"},
		{"other metric before", v4, "dev b metric 5", "dev a", "append dev a, delete dev b metric 5"},
		{"one stays", v4, "dev a; dev b metric 5", "dev b metric 5", "delete dev a"},
		{"one of a metric goes", v4, "dev a; dev b; dev c", "dev a; dev c", "delete dev b"},
		{"one of a metric comes", v4, "dev a", "dev a; dev b", "append dev b"},
		{"other order", v4, "dev a; dev b", "dev b; dev a", "delete dev a, append dev a"},
		{"others", v4, "dev a; dev b", "dev c; dev d", "append dev c, append dev d, delete dev a, delete dev b"},
		{"gateway", v6, "via fe80::1 dev a", "via fe80::2 dev a", "replace via fe80::2 dev a metric 1024"},
		{"gateway's source", v6, "via fe80::1 dev a", "via fe80::1 dev a proto ra", "replace via fe80::1 dev a proto ra metric 1024"},
		{"a gateway is not instead of none", v6, "dev a", "via fe80::1 dev a", "append via fe80::1 dev a metric 1024, delete dev a metric 1024"},
		{"what cannot be beside the new", v6, "dev a; dev b", "dev b mtu 1400; dev c", "delete dev b metric 1024, append dev b metric 1024 mtu 1400, append dev c metric 1024, delete dev a metric 1024"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have, err := parseDefaultRoutes(tt.have, tt.ipv6)
			if err != nil {
				t.Fatal(err)
			}
			want, err := parseDefaultRoutes(tt.want, tt.ipv6)
			if err != nil {
				t.Fatal(err)
			}
			var steps []string
			for _, s := range routeSteps(have, want) {
				steps = append(steps, s.String())
			}
			if got := strings.Join(steps, ", "); got != tt.text {
				t.Errorf("%s\nwant %s", got, tt.text)
			}
		})
	}
}
