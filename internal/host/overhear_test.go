package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestParseClaim(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	arp, err := GratuitousARP(mac, v4)
	if err != nil {
		t.Fatal(err)
	}
	na, err := NeighborAdvertisement(mac, v6, false)
	if err != nil {
		t.Fatal(err)
	}
	reply := bytes.Clone(arp)
	reply[21] = 2
	probe := bytes.Clone(arp)
	copy(probe[28:32], []byte{0, 0, 0, 0})
	for _, c := range []struct {
		name  string
		frame []byte
		kind  ClaimKind
		addr  netip.Addr
	}{
		{"gratuitous ARP", arp, ARPRequest, v4},
		{"ARP reply", reply, ARPReply, v4},
		{"ARP probe", probe, "", netip.Addr{}},
		{"neighbour advertisement", na, Advertisement, v6},
		{"short ARP", arp[:41], "", netip.Addr{}},
		{"short advertisement", na[:77], "", netip.Addr{}},
		{"IPv4", append(bytes.Clone(arp[:12]), 8, 0, 0x45, 0), "", netip.Addr{}},
		{"nothing", nil, "", netip.Addr{}},
	} {
		got, ok := parseClaim(c.frame)
		if ok != (c.kind != "") || ok && (got.Kind != c.kind || got.Addr != c.addr || !bytes.Equal(got.MAC, mac)) {
			t.Errorf("%s: got %+v, %v", c.name, got, ok)
		}
	}
}

// What a trunk's VLAN carries is no claim on the trunk.
func TestNetnsClaimOfVLAN(t *testing.T) {
	inNetns(t, "eth0")
	peer, err := netlink.LinkByName("peer")
	if err != nil {
		t.Fatal(err)
	}
	tap, err := OpenTap(unix.SOCK_RAW, claims)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for addr, tag := range map[string][]byte{"192.0.2.100": {0x81, 0, 0, 100}, "192.0.2.10": {0x81, 0, 0xc0, 0}, "192.0.2.11": nil} {
		frame, err := GratuitousARP(net.HardwareAddr{2, 0, 0, 0, 0, 7}, netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		frame = slices.Concat(frame[:12], tag, frame[12:])
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: peer.Attrs().Index, Protocol: binary.NativeEndian.Uint16(frame[12:])}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var heard []string
	if err := tap.Hear(ctx, claimsTo(func(c Claim) {
		if c.Interface == "eth0" {
			heard = append(heard, c.Addr.String())
		}
	})); err != nil {
		t.Fatal(err)
	}
	slices.Sort(heard)
	if want := []string{"192.0.2.10", "192.0.2.11"}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

func FuzzParseClaim(f *testing.F) {
	arp, _ := GratuitousARP(net.HardwareAddr{2, 0, 0, 0, 0, 7}, netip.MustParseAddr("192.0.2.10"))
	na, _ := NeighborAdvertisement(net.HardwareAddr{2, 0, 0, 0, 0, 7}, netip.MustParseAddr("2001:db8::10"), true)
	f.Add(arp)
	f.Add(na)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if c, ok := parseClaim(frame); ok && (!c.Addr.IsValid() || len(c.MAC) != 6 || c.Kind == "") {
			t.Fatalf("%x: %+v", frame, c)
		}
	})
}
