package host

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inNetns gives the test a network namespace of its own with lo and a wire from ifname to peer.
// It ends with the test: its thread stays locked, so the runtime throws it away. A subtest would
// run on another thread, outside.
func inNetns(t *testing.T, ifname string) {
	t.Helper()
	if err := NeedNetAdmin(); err != nil {
		if os.Getenv("POISE_LAB") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	wire := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: ifname}, PeerName: "peer"}
	if err := netlink.LinkAdd(wire); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", ifname, "peer"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNetnsAddresses(t *testing.T) {
	const ifname = "eth0.100"
	inNetns(t, ifname)
	for _, addr := range []string{"192.0.2.10/32", "192.0.2.11/24", "2001:db8::10/128"} {
		p := netip.MustParsePrefix(addr)
		shorter := netip.PrefixFrom(p.Addr(), p.Bits()-1)
		for _, step := range []struct {
			what string
			do   func(string, netip.Prefix) (bool, error)
			p    netip.Prefix
			want bool
		}{
			{"delete what is absent", DelAddr, p, false},
			{"add", AddAddr, p, true},
			{"add again", AddAddr, p, false},
			{"has", HasAddr, p, true},
			{"has with another length", HasAddr, shorter, false},
			{"delete", DelAddr, p, true},
			{"has after delete", HasAddr, p, false},
		} {
			if got, err := step.do(ifname, step.p); got != step.want || err != nil {
				t.Errorf("%s: %s: %v, %v, want %v", addr, step.what, got, err, step.want)
			}
		}
	}
}

func TestNetnsMissingInterface(t *testing.T) {
	inNetns(t, "eth0")
	for ifname, want := range map[string]bool{"eth0": true, "eth9": false} {
		if got, err := LinkExists(ifname); got != want || err != nil {
			t.Errorf("%s exists: %v, %v, want %v", ifname, got, err, want)
		}
	}
	_, err := AddAddr("eth9", netip.MustParsePrefix("192.0.2.10/32"))
	if want := "add 192.0.2.10/32 to eth9: no such interface"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestNetnsRoutes(t *testing.T) {
	inNetns(t, "eth0")
	if _, err := AddAddr("eth0", netip.MustParsePrefix("192.0.2.10/24")); err != nil {
		t.Fatal(err)
	}
	dsts := []netip.Addr{
		netip.MustParseAddr("192.0.2.11"),
		netip.MustParseAddr("192.0.2.12"),
		netip.MustParseAddr("198.51.100.1"), // no route
	}
	for _, local := range []string{"192.0.2.10", "::ffff:192.0.2.10"} {
		if got, err := Outgoing(append(dsts, netip.MustParseAddr(local))); !slices.Equal(got, []string{"eth0", "lo"}) || err != nil {
			t.Errorf("outgoing to the network and %s: %q, %v", local, got, err)
		}
	}
	if got, err := Outgoing(dsts[2:]); len(got) > 0 || err != nil {
		t.Errorf("outgoing without a route: %q, %v", got, err)
	}
}

func TestNetnsHolders(t *testing.T) {
	inNetns(t, "eth0")
	for _, a := range []struct{ ifname, prefix string }{
		{"peer", "192.0.2.10/32"},
		{"eth0", "192.0.2.10/24"},
		{"eth0", "192.0.2.10/32"},
		{"lo", "2001:db8::10/128"},
	} {
		if _, err := AddAddr(a.ifname, netip.MustParsePrefix(a.prefix)); err != nil {
			t.Fatal(err)
		}
	}
	linkDo(t, "peer", netlink.LinkSetARPOff)
	for addr, want := range map[string]struct{ holders, asked []string }{
		"192.0.2.10":   {[]string{"eth0", "peer"}, []string{"eth0"}},
		"2001:db8::10": {[]string{"lo"}, nil},
		"192.0.2.11":   {},
	} {
		holders, err := Holders(netip.MustParseAddr(addr))
		asked, errAsked := Asked(netip.MustParseAddr(addr))
		if !slices.Equal(holders, want.holders) || !slices.Equal(asked, want.asked) || err != nil || errAsked != nil {
			t.Errorf("%s: %q, %q, %v, %v, want %q", addr, holders, asked, err, errAsked, want)
		}
	}
}
