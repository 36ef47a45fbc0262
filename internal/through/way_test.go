package through

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"poise/ipvsctl"
)

func way(vip, server string, m ipvsctl.Method) Way {
	return Way{VIP: netip.MustParseAddrPort(vip), Server: netip.MustParseAddrPort(server), Method: m}
}

// TestMarks: each way has one mark and a service that is its own, with its server at the port that the method keeps or chooses.
func TestMarks(t *testing.T) {
	dr := way("192.0.2.10:80", "10.0.0.7:80", ipvsctl.DR)
	tun := way("192.0.2.10:80", "10.0.0.7:80", ipvsctl.TUN)
	gue := tun
	gue.Tunnel = ipvsctl.Tunnel{Type: ipvsctl.GUE, Port: 6080}
	tun6 := way("[2001:db8::10]:80", "10.0.0.7:80", ipvsctl.TUN)
	nat := way("192.0.2.10:80", "10.0.0.7:8081", ipvsctl.NAT)
	servers := map[Way]string{dr: "10.0.0.7:0", tun: "10.0.0.7:0", gue: "10.0.0.7:0", tun6: "10.0.0.7:0", nat: "10.0.0.7:8081"}
	given, err := marks([]Way{dr, tun, dr, gue, tun6, nat})
	if err != nil || len(given) != len(servers) {
		t.Errorf("%v %v", given, err)
	}
	seen := make(map[uint32]bool)
	for w, mark := range given {
		if seen[mark] || mark < 0x50100001 || mark > 0x501fffff {
			t.Errorf("%+v has mark %#x", w, mark)
		}
		seen[mark] = true
		key, destinations := w.key(mark), w.service().Destinations
		if key.Mark != mark || key.IsIPv6() != w.VIP.Addr().Is6() {
			t.Errorf("%+v is %v", w, key)
		}
		want := ipvsctl.Destination{Method: w.Method, Weight: 1, Tunnel: w.Tunnel}
		if got := destinations[netip.MustParseAddrPort(servers[w])]; got != want || len(destinations) != 1 {
			t.Errorf("%+v goes to %+v", w, destinations)
		}
	}
	for _, w := range []Way{{}, way("192.0.2.10:0", "10.0.0.7:80", ipvsctl.DR), way("192.0.2.10:80", "10.0.0.7:0", ipvsctl.DR)} {
		if _, err := marks([]Way{w}); err == nil {
			t.Errorf("%+v is taken", w)
		}
	}
}

// TestSegment: the packets are whole: what a receiver sums up comes to all ones, and the port is where it is looked for.
func TestSegment(t *testing.T) {
	for _, tt := range []struct {
		from, to  string
		addresses int // offset
	}{
		{"203.0.113.113:40000", "192.0.2.10:80", 12},
		{"[100::1]:40000", "[2001:db8::10]:8080", 8},
	} {
		from, to := netip.MustParseAddrPort(tt.from), netip.MustParseAddrPort(tt.to)
		b := segment(from, to, tcpSYN, 7, 2)
		sum := uint32(6 + 20)
		for at := tt.addresses; at < len(b); at += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[at:]))
		}
		if sum>>16+sum&0xffff != 0xffff {
			t.Errorf("%s: checksum off: % x", tt.to, b)
		}
		if port, ok := destinationPort(b); !ok || port != to.Port() {
			t.Errorf("%s: goes to port %d %v", tt.to, port, ok)
		}
		for n := range len(b) {
			if port, ok := destinationPort(b[:n]); ok && port != to.Port() {
				t.Errorf("%s: %d bytes go to port %d", tt.to, n, port)
			}
		}
	}
}

// TestPorts: none comes again before all others.
func TestPorts(t *testing.T) {
	p := ports{first: 1000, count: 7, next: 3}
	seen := make(map[int]bool)
	for range p.count {
		port := p.take()
		if port < 1000 || port > 1006 || seen[port] {
			t.Errorf("port %d", port)
		}
		seen[port] = true
	}
	if again := p.take(); !seen[again] {
		t.Errorf("port %d", again)
	}
}

// FuzzPacket: what comes from the wire is read to its end and no further.
func FuzzPacket(f *testing.F) {
	from, to := netip.MustParseAddrPort("192.0.2.10:80"), netip.MustParseAddrPort("192.0.2.1:40000")
	b := segment(from, to, tcpSYN|0x10, 7, 64)
	f.Add(b)
	b[32] = 6 << 4 // with an option
	f.Add(append(b, 2, 4, 0x05, 0xb4))
	f.Add(segment(netip.MustParseAddrPort("[2001:db8::10]:80"), netip.MustParseAddrPort("[2001:db8::1]:40000"), tcpSYN, 7, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		destinationPort(b)
		if n := announced(b); n < 0 || n > 65535+60+20 {
			t.Errorf("%d", n)
		}
	})
}

func TestAnnounced(t *testing.T) {
	from, to := netip.MustParseAddrPort("192.0.2.10:80"), netip.MustParseAddrPort("192.0.2.1:40000")
	syn := func(flags byte, options ...byte) []byte {
		b := segment(from, to, flags, 7, 64)
		b[32] = byte(20+len(options)) / 4 << 4
		return append(b, options...)
	}
	for _, tt := range []struct {
		packet []byte
		want   int
	}{
		{syn(tcpSYN|0x10, 2, 4, 0x05, 0xb4), 1500},
		{syn(tcpSYN|0x10, 1, 1, 4, 2, 2, 4, 0x05, 0xa0), 1480},
		{syn(tcpSYN | 0x10), 0},
		{syn(0x10, 2, 4, 0x05, 0xb4), 0},               // no SYN
		{syn(tcpSYN, 0, 0, 0, 0, 2, 4, 0x05, 0xb4), 0}, // behind the end
		{syn(tcpSYN, 3, 0, 0, 0), 0},
	} {
		if got := announced(tt.packet); got != tt.want {
			t.Errorf("% x: %d, want %d", tt.packet, got, tt.want)
		}
	}
	six := segment(netip.MustParseAddrPort("[2001:db8::10]:80"), netip.MustParseAddrPort("[2001:db8::1]:40000"), tcpSYN, 7, 64)
	six[52] = 6 << 4
	if got := announced(append(six, 2, 4, 0x05, 0xa0)); got != 1500 {
		t.Errorf("IPv6: %d", got)
	}
}
