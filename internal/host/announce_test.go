package host

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// The frames that keepalived sends for the same addresses.
func TestAnnouncementFrames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		addr   string
		router bool
		want   string
	}{
		{"gratuitous ARP", "192.0.2.100", false, "ffffffffffff020000000a0108060001080006040001020000000a01c0000264ffffffffffffc0000264"},
		{"another address", "192.0.2.102", false, "ffffffffffff020000000a0108060001080006040001020000000a01c0000266ffffffffffffc0000266"},
		{"link-local, host", "fe80::100", false, "333300000001020000000a0186dd6000000000203afffe800000000000000000000000000100ff02000000000000000000000000000188004b9d20000000fe8000000000000000000000000001000201020000000a01"},
		{"global, host", "fd00:99::100", false, "333300000001020000000a0186dd6000000000203afffd000099000000000000000000000100ff02000000000000000000000000000188004d6b20000000fd0000990000000000000000000001000201020000000a01"},
		{"link-local, router", "fe80::100", true, "333300000001020000000a0186dd6000000000203afffe800000000000000000000000000100ff0200000000000000000000000000018800cb9ca0000000fe8000000000000000000000000001000201020000000a01"},
		{"global, router", "fd00:99::100", true, "333300000001020000000a0186dd6000000000203afffd000099000000000000000000000100ff0200000000000000000000000000018800cd6aa0000000fd0000990000000000000000000001000201020000000a01"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mac := net.HardwareAddr{2, 0, 0, 0, 10, 1}
			addr := netip.MustParseAddr(tt.addr)
			var got []byte
			var err error
			if addr.Is4() {
				got, err = GratuitousARP(mac, addr)
			} else {
				got, err = NeighborAdvertisement(mac, addr, tt.router)
			}
			if hex.EncodeToString(got) != tt.want || err != nil {
				t.Errorf("got  %x, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

func TestAnnouncementWithoutEthernet(t *testing.T) {
	infiniband := make(net.HardwareAddr, 20)
	for _, mac := range []net.HardwareAddr{nil, infiniband} {
		if f, err := GratuitousARP(mac, netip.MustParseAddr("192.0.2.10")); err == nil {
			t.Errorf("gratuitous ARP from %q: %x", mac, f)
		}
		if f, err := NeighborAdvertisement(mac, netip.MustParseAddr("fe80::10"), true); err == nil {
			t.Errorf("neighbour advertisement from %q: %x", mac, f)
		}
	}
}

// neighbour is what a host knows of an address in its network.
type neighbour struct {
	mac    string
	router bool
}

func lookup(h *lab.Host, addr netip.Addr) (n neighbour, err error) {
	err = h.Do(func() error {
		known, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, k := range known {
			if k.IP.Equal(addr.AsSlice()) {
				n = neighbour{k.HardwareAddr.String(), k.Flags&unix.NTF_ROUTER != 0}
			}
		}
		return err
	})
	return n, err
}

func TestNetnsAnnounce(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	s := n.Switch("switch")
	master, client := n.Host("master"), n.Host("client")
	master.Connect(s, "192.0.2.1/24", "fd00:99::1/64")
	client.Connect(s, "192.0.2.2/24", "fd00:99::2/64")

	var a *Announcer
	var i Interface
	if err := master.Do(func() (err error) {
		if a, err = OpenAnnouncer(); err != nil {
			return err
		}
		i, _, err = Look("eth0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer a.Close()

	for _, tt := range []struct {
		addr       string
		forwarding string
		again      bool // the announcer does not look at the sysctl again
		router     bool
	}{
		{"192.0.2.10", "0", false, false},
		{"fd00:99::10", "0", false, false},
		{"fd00:99::11", "1", true, false},
		{"fd00:99::12", "1", false, true},
		{"fe80::10", "1", false, true},
	} {
		addr := netip.MustParseAddr(tt.addr)
		client.Run("ip", "neigh", "replace", tt.addr, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
		master.Sysctl("net/ipv6/conf/eth0/forwarding", tt.forwarding)
		if !tt.again {
			for index, r := range a.routers {
				r.seen = r.seen.Add(-5 * time.Second)
				a.routers[index] = r
			}
		}
		if err := master.Do(func() error { return a.Announce(i, addr) }); err != nil {
			t.Fatal(err)
		}
		want := neighbour{i.MAC.String(), tt.router}
		lab.Eventually(t, 5*time.Second, func() error {
			if got, err := lookup(client, addr); got != want || err != nil {
				return fmt.Errorf("client knows %s as %+v, %v, want %+v", addr, got, err, want)
			}
			return nil
		})
	}

	addr := netip.MustParseAddr("192.0.2.10")
	if err := a.Announce(Interface{Name: "tun0", NoARP: true}, addr); err != nil {
		t.Errorf("without ARP: %v", err)
	}
	err := a.Announce(Interface{Name: "eth9", Index: 999, MAC: i.MAC}, addr)
	if want := "announce 192.0.2.10 on eth9: no such device or address"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	err = master.Do(func() error {
		return a.Announce(Interface{Name: "eth9", Index: 999, MAC: i.MAC}, netip.IPv6Unspecified())
	})
	if err == nil || !strings.HasPrefix(err.Error(), "announce :: on eth9: net.ipv6.conf.eth9.forwarding: ") {
		t.Errorf("error %v", err)
	}
}
