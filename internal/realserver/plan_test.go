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
			s:    Settings{"dr", addrs("192.0.2.11", "192.0.2.10")},
			want: []string{"net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce", "192.0.2.11/32 on lo", "192.0.2.10/32 on lo"},
		},
		{
			name: "no address",
			s:    Settings{Mode: "dr"},
			errs: []string{"no VIP: name it: --vip ADDRESS"},
		},
		{
			name: "all mistakes at once",
			s:    Settings{"tun", addrs("192.0.2.10", "2001:db8::1", "127.0.0.1", "0.0.0.0", "224.0.0.18", "192.0.2.10")},
			errs: []string{
				`mode "tun": only dr is supported`,
				"VIP 2001:db8::1: only IPv4 is supported",
				"VIP 127.0.0.1: not a unicast address that routers forward",
				"VIP 0.0.0.0: not a unicast address that routers forward",
				"VIP 224.0.0.18: not a unicast address that routers forward",
				"VIP 192.0.2.10: named twice",
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

func TestKeysAreReadBack(t *testing.T) {
	steps, err := Plan(Settings{"dr", addrs("192.0.2.10")})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range steps {
		got, err := stepOf(want.Key)
		if err != nil || got.Key != want.Key || !slices.Equal(got.Want, want.Want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	for _, key := range []string{"", "net.ipv4.ip_forward", "192.0.2.10 on lo", " on lo"} {
		if step, err := stepOf(key); err == nil {
			t.Errorf("%q is taken for %v", key, step)
		}
	}
}
