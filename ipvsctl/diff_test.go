package ipvsctl

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func key(addr string) ServiceKey { return ServiceKey{TCP, netip.MustParseAddrPort(addr)} }

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

// tables draws two tables over the same few identities, so that they overlap.
func tables(t *rapid.T) (have, want Table) {
	draw := func(label string) Table {
		table := Table{}
		for i := range 3 {
			if !rapid.Bool().Draw(t, fmt.Sprint(label, " has service ", i)) {
				continue
			}
			s := Service{
				Settings: Settings{
					Scheduler:   rapid.SampledFrom([]string{"rr", "wlc"}).Draw(t, "scheduler"),
					Persistence: rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "persistence"),
				},
				Destinations: map[netip.AddrPort]Destination{},
			}
			for j := range 4 {
				if rapid.Bool().Draw(t, fmt.Sprint(label, " has server ", j)) {
					addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(j)}), 80)
					s.Destinations[addr] = Destination{
						Method: rapid.SampledFrom([]Method{NAT, DR}).Draw(t, "method"),
						Weight: rapid.IntRange(0, 2).Draw(t, "weight"),
					}
				}
			}
			table[key(fmt.Sprintf("192.0.2.%d:80", i))] = s
		}
		return table
	}
	return draw("have"), draw("want")
}

// apply is what the kernel does with one change, and how it refuses.
func apply(table Table, op Op) error {
	s, exists := table[op.Service]
	_, hasServer := s.Destinations[op.Server]
	switch op.Kind {
	case AddService:
		if exists {
			return fmt.Errorf("%v: exists", op)
		}
		table[op.Service] = Service{op.Settings, map[netip.AddrPort]Destination{}}
		return nil
	case EditService:
		s.Settings = op.Settings
		table[op.Service] = s
	case RemoveService:
		delete(table, op.Service)
	case AddDestination:
		if hasServer {
			return fmt.Errorf("%v: exists", op)
		}
		s.Destinations[op.Server] = op.Destination
		hasServer = true
	case EditDestination:
		s.Destinations[op.Server] = op.Destination
	case RemoveDestination:
		delete(s.Destinations, op.Server)
	}
	if !exists || (op.Server.IsValid() && !hasServer) {
		return fmt.Errorf("%v: nothing there", op)
	}
	return nil
}

func clone(table Table) Table {
	c := maps.Clone(table)
	for k, s := range c {
		s.Destinations = maps.Clone(s.Destinations)
		c[k] = s
	}
	return c
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
		have, want := tables(t)
		if ops := Diff(want, want); len(ops) != 0 {
			t.Fatalf("a table differs from itself: %v", ops)
		}
		now := clone(have)
		for _, op := range Diff(have, want) {
			if err := apply(now, op); err != nil {
				t.Fatal(err)
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
		table[ServiceKey{TCP, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 80)}] = s
	}
	for b.Loop() {
		if ops := Diff(table, table); len(ops) != 0 {
			b.Fatal(ops)
		}
	}
}
