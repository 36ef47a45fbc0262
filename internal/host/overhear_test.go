package host

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
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
