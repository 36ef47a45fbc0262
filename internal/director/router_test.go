package director

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"poise/config"
	"poise/internal/host"
	"poise/vrrp"
)

func addrs(all ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestSourceOf(t *testing.T) {
	on := func(all ...string) (i host.Interface) {
		for _, a := range all {
			i.Addrs = append(i.Addrs, host.Address{Prefix: netip.MustParsePrefix(a), Usable: true})
		}
		return i
	}
	tentative := on("fe80::1/64")
	tentative.Addrs[0].Usable = false
	v4 := vrrp.Config{Addresses: addrs("192.0.2.100")}
	v6 := vrrp.Config{Addresses: addrs("fe80::100", "2001:db8::100")}
	fixed := vrrp.Config{Addresses: addrs("192.0.2.100"), Source: netip.MustParseAddr("192.0.2.2")}
	owner := vrrp.Config{Addresses: addrs("192.0.2.1"), Priority: 255}
	for _, test := range []struct {
		name string
		c    vrrp.Config
		i    host.Interface
		want string
	}{
		{"the first", v4, on("192.0.2.1/24", "192.0.2.2/24"), "192.0.2.1"},
		{"never a virtual one", v4, on("192.0.2.100/32", "192.0.2.101/32", "192.0.2.1/24"), "192.0.2.1"},
		{"none", v4, on("192.0.2.100/32", "fe80::1/64"), ""},
		{"the configured one", fixed, on("192.0.2.1/24", "192.0.2.2/24"), "192.0.2.2"},
		{"the configured one is not there", fixed, on("192.0.2.1/24"), ""},
		{"link-local", v6, on("2001:db8::1/64", "192.0.2.1/24", "fe80::100/128", "fe80::1/64"), "fe80::1"},
		{"link-local, not usable yet", v6, tentative, ""},
		{"an owner's address is its own", owner, on("192.0.2.1/24", "192.0.2.1/32"), "192.0.2.1"},
		{"no interface", v4, host.Interface{}, ""},
	} {
		virtual := func(a netip.Addr) bool { return slices.Contains(test.c.All(), a) || a.String() == "192.0.2.101" }
		got := ""
		if a := sourceOf(test.c, test.i, virtual); a.IsValid() {
			got = a.String()
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestLosesAddress(t *testing.T) {
	of := func(all ...string) *config.Config {
		return &config.Config{Routers: []vrrp.Config{{Addresses: addrs(all...)}}}
	}
	for _, test := range []struct {
		before, after *config.Config
		want          bool
	}{
		{of("192.0.2.1"), of("192.0.2.1", "192.0.2.2"), false},
		{of("192.0.2.1", "192.0.2.2"), of("192.0.2.1"), true},
		{of("192.0.2.1"), &config.Config{}, true},
		{&config.Config{}, of("192.0.2.1"), false},
	} {
		if got := losesAddress(test.before, test.after); got != test.want {
			t.Errorf("from %v to %v: %v", test.before.Routers, test.after.Routers, got)
		}
	}
}

func TestLeftFile(t *testing.T) {
	dir := t.TempDir()
	if left, err := loadLeft(dir); left != nil || err != nil {
		t.Fatalf("without a file: %v, %v", left, err)
	}
	want := []vrrp.Config{{Name: "public", Interface: "eth0", VRID: 51, Version: 3, Checksum: vrrp.PseudoHeader, Addresses: addrs("192.0.2.100", "192.0.2.101")}}
	if err := saveLeft(dir, want); err != nil {
		t.Fatal(err)
	}
	left, err := loadLeft(dir)
	if err != nil || len(left) != 1 || !left[0].SameRouter(want[0]) || !slices.Equal(left[0].All(), want[0].All()) {
		t.Errorf("reads back as %v, %v", left, err)
	}
	if err := saveLeft(dir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftFile(dir)); !os.IsNotExist(err) {
		t.Errorf("the file is there although nothing is left: %v", err)
	}
	if err := saveLeft(dir, nil); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(leftFile(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadLeft(dir); err == nil {
		t.Error("a damaged file is no error")
	}
}
