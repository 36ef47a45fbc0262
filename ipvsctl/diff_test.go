package ipvsctl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func key(addr string) ServiceKey {
	return ServiceKey{Protocol: TCP, Addr: netip.MustParseAddrPort(addr)}
}

// service builds a service from "10.0.0.1:80=nat/3"-like words.
func service(scheduler string, servers ...string) Service {
	s := Service{Settings: Settings{Scheduler: scheduler}, Destinations: map[netip.AddrPort]Destination{}}
	for _, word := range servers {
		addr, rest, _ := strings.Cut(word, "=")
		method, weight, _ := strings.Cut(rest, "/")
		var d Destination
		if err := d.Method.UnmarshalText([]byte(method)); err != nil {
			panic(err)
		}
		fmt.Sscan(weight, &d.Weight)
		s.Destinations[netip.MustParseAddrPort(addr)] = d
	}
	return s
}

func TestDiff(t *testing.T) {
	web := key("192.0.2.10:80")
	tests := []struct {
		name       string
		have, want Table
		ops        []string
	}{
		{
			"equal tables need nothing",
			Table{web: service("wlc", "10.0.0.7:80=nat/1")},
			Table{web: service("wlc", "10.0.0.7:80=nat/1")},
			nil,
		},
		{
			"a service comes before its servers",
			Table{},
			Table{web: service("wlc", "10.0.0.8:80=nat/2", "10.0.0.7:80=dr/1")},
			[]string{
				"add 192.0.2.10:80 scheduler wlc",
				"add 192.0.2.10:80 10.0.0.7:80 dr weight 1",
				"add 192.0.2.10:80 10.0.0.8:80 nat weight 2",
			},
		},
		{
			"a weight is an edit",
			Table{web: service("wlc", "10.0.0.7:80=nat/1")},
			Table{web: service("wlc", "10.0.0.7:80=nat/0")},
			[]string{"set 192.0.2.10:80 10.0.0.7:80 nat weight 0"},
		},
		{
			"capacity is added before it is taken away",
			Table{web: service("wlc", "10.0.0.1:80=nat/1", "10.0.0.2:80=nat/0", "10.0.0.3:80=nat/1")},
			Table{web: service("rr", "10.0.0.1:80=nat/0", "10.0.0.2:80=nat/1", "10.0.0.4:80=nat/1")},
			[]string{
				"set 192.0.2.10:80 scheduler rr",
				"add 192.0.2.10:80 10.0.0.4:80 nat weight 1",
				"set 192.0.2.10:80 10.0.0.2:80 nat weight 1",
				"set 192.0.2.10:80 10.0.0.1:80 nat weight 0",
				"remove 192.0.2.10:80 10.0.0.3:80",
			},
		},
		{
			"a service that moves is there before the old one goes",
			Table{key("192.0.2.99:80"): service("wlc")},
			Table{web: service("wlc")},
			[]string{"add 192.0.2.10:80 scheduler wlc", "remove 192.0.2.99:80"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, op := range Diff(tt.have, tt.want) {
				got = append(got, op.String())
			}
			if !slices.Equal(got, tt.ops) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tt.ops, "\n\t"))
			}
		})
	}
}

func TestOpChange(t *testing.T) {
	have := Table{key("192.0.2.10:80"): service("wlc", "10.0.0.1:80=nat/3", "10.0.0.2:80=nat/1"), key("192.0.2.11:80"): service("rr")}
	persistent := service("rr", "10.0.0.1:80=dr/0", "10.0.0.3:80=dr/1")
	persistent.Persistence = 5 * time.Minute
	want := Table{key("192.0.2.10:80"): persistent, key("192.0.2.12:80"): service("sh")}
	var got []string
	for _, op := range Diff(have, want) {
		got = append(got, op.Service.Addr.Addr().String()[8:]+": "+op.Change())
	}
	wanted := []string{
		"10: scheduler wlc → rr, persistence 0s → 5m0s",
		"10: 10.0.0.3:80 added, weight 1",
		"10: 10.0.0.1:80 weight 3 → 0, method nat → dr",
		"10: 10.0.0.2:80 removed",
		"12: added, scheduler sh",
		"11: removed",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(wanted, "\n\t"))
	}
}

// drawTables draws two tables over the same few identities, so that they overlap: every one of them is a table that a
// kernel takes, with all that a service and a server can have.
func drawTables(t *rapid.T) (have, want Table) {
	keys := []ServiceKey{
		key("192.0.2.10:80"),
		{Protocol: UDP, Addr: netip.MustParseAddrPort("192.0.2.10:80")},
		key("[2001:db8::10]:80"),
		ByMark(66, false), ByMark(66, true),
	}
	draw := func(label string) Table {
		table := Table{}
		for i, k := range keys {
			if !rapid.Bool().Draw(t, fmt.Sprint(label, " has service ", i)) {
				continue
			}
			s := Service{
				Settings: Settings{
					Scheduler: rapid.SampledFrom([]string{"rr", "wlc"}).Draw(t, "scheduler"),
					Flags:     rapid.SampledFrom([]Flags{0, Fallback, SourcePort}).Draw(t, "flags"),
				},
				Destinations: map[netip.AddrPort]Destination{},
			}
			if rapid.Bool().Draw(t, "persistent") {
				s.Persistence = rapid.SampledFrom([]time.Duration{time.Minute, time.Hour}).Draw(t, "persistence")
				masks := []ClientMask{0, 0xff, ^ClientMask(0)}
				if k.IsIPv6() {
					masks = []ClientMask{0, PrefixMask(64, true)}
				}
				s.ClientMask = rapid.SampledFrom(masks).Draw(t, "client mask")
			}
			for j := range 5 {
				if !rapid.Bool().Draw(t, fmt.Sprint(label, " has server ", j)) {
					continue
				}
				d := Destination{
					Method: rapid.SampledFrom([]Method{NAT, DR, TUN}).Draw(t, "method"),
					Weight: rapid.SampledFrom([]int{0, 0, 1, 2, 1<<31 - 1}).Draw(t, "weight"),
				}
				if rapid.Bool().Draw(t, "limited") {
					d.Upper = rapid.Uint32Range(1, 9).Draw(t, "upper")
					d.Lower = rapid.Uint32Range(0, d.Upper).Draw(t, "lower")
				}
				other := j == 4 // the last one is of the other family
				if other {
					d.Method = TUN
				}
				if d.Method == TUN {
					d.Tunnel = rapid.SampledFrom([]Tunnel{{}, {Type: GUE, Port: 6080}, {Type: GRE, Checksum: FullChecksum}}).Draw(t, "tunnel")
				}
				addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(j)})
				if k.IsIPv6() != other {
					addr = netip.AddrFrom16([16]byte{0xfd, 15: byte(j)})
				}
				s.Destinations[netip.AddrPortFrom(addr, 80)] = d
			}
			table[k] = s
		}
		return table
	}
	return draw("have"), draw("want")
}

func usable(s Service) bool {
	for _, d := range s.Destinations {
		if d.Weight > 0 {
			return true
		}
	}
	return false
}

func TestDiffProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := drawTables(t)
		if ops := Diff(want, want.Clone()); len(ops) != 0 {
			t.Fatalf("a table differs from itself: %v", ops)
		}
		now := have.Clone()
		for _, op := range Diff(have, want) {
			if op.doneIn(now) {
				t.Fatalf("%q changes nothing", op)
			}
			if err := now.Apply(op); err != nil {
				t.Fatalf("%v: %v", op, err)
			}
			if !op.doneIn(now) {
				t.Fatalf("%q is done and does not know it", op)
			}
			for k := range want {
				if usable(have[k]) && usable(want[k]) && !usable(now[k]) {
					t.Fatalf("after %q the service has no usable server", op)
				}
			}
		}
		if ops := Diff(now, want); len(ops) != 0 || len(Diff(want, now)) != 0 {
			t.Fatalf("after all changes still %v", ops)
		}
	})
}

func BenchmarkDiffUnchanged(b *testing.B) {
	table := Table{}
	for i := range 1000 {
		s := Service{Settings: Settings{Scheduler: "wlc"}, Destinations: map[netip.AddrPort]Destination{}}
		for j := range 10 {
			addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)})
			s.Destinations[netip.AddrPortFrom(addr, 80)] = Destination{Weight: 1}
		}
		table[ServiceKey{Protocol: TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 80)}] = s
	}
	other := table.Clone()
	for b.Loop() {
		if ops := Diff(table, other); len(ops) != 0 {
			b.Fatal(ops)
		}
	}
}
