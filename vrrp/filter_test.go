package vrrp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFilterOrder starts with a packet in which everything is wrong and repairs it step by step: each time the next
// defect is named. Tallies of an operator with one problem must not show another.
func TestFilterOrder(t *testing.T) {
	node := receivers()["v2-pass"]
	seen := map[Reason]bool{}
	// Defects of the advert are under a right checksum; those of the packet are made afterwards.
	defects := []struct {
		reason Reason
		says   string
		advert func(*Advert)
		packet func(*Packet)
	}{
		{DropLength, "adverts of only 7 bytes from 192.0.2.2", nil, func(p *Packet) { p.Payload = p.Payload[:7] }},
		{DropTTL, "adverts with TTL 254 instead of 255 from 192.0.2.2", nil, func(p *Packet) { p.TTL = 254 }},
		{DropOwnSource, "adverts as if by this node from 192.0.2.2", nil, func(p *Packet) { p.Src = netip.MustParseAddr(node.addr) }},
		{DropVRID, "adverts of another virtual router from 192.0.2.7", nil, func(p *Packet) { p.Payload[1] = 52 }},
		{DropVersion, "adverts of version 3 instead of 2 from 192.0.2.7", nil, func(p *Packet) { p.Payload[0] |= 3 << 4 }},
		{DropType, "adverts of type 9 instead of 1 from 192.0.2.7", nil, func(p *Packet) { p.Payload[0] |= 9 }},
		{DropCount, "adverts without addresses from 192.0.2.7", nil, func(p *Packet) { p.Payload[3] = 0 }},
		{
			DropLength, "adverts of 21 bytes instead of the 20 for 1 addresses from 192.0.2.7", nil,
			func(p *Packet) { p.Payload = append(p.Payload, 0) },
		},
		{DropChecksum, "adverts with a wrong checksum from 192.0.2.7", nil, func(p *Packet) { p.Payload[6] ^= 1 }},
		{DropAuth, "adverts with authentication type 2 instead of 1 from 192.0.2.7", func(a *Advert) { a.AuthType = 2 }, nil},
		{DropAuth, "adverts with another password from 192.0.2.7", func(a *Advert) { a.AuthData[7] = 0 }, nil},
		{DropInterval, "adverts with interval 2s instead of 1s from 192.0.2.7", func(a *Advert) { a.Interval = 2 * time.Second }, nil},
		{DropDestination, "adverts to 224.0.0.5 instead of 224.0.0.18 from 192.0.2.7", nil, func(p *Packet) { p.Dst = netip.MustParseAddr("224.0.0.5") }},
		{"", "", nil, nil},
	}
	for i, d := range defects {
		a := node.config.Advert(200)
		p := Packet{Src: netip.MustParseAddr("192.0.2.7"), Dst: GroupIPv4, TTL: 255}
		for _, left := range defects[i:] {
			if left.advert != nil {
				left.advert(&a)
			}
		}
		p.Payload = a.Append(nil, p.Src, p.Dst, "")
		for _, left := range slices.Backward(defects[i:]) { // the first last, as it cuts the others off
			if left.packet != nil {
				left.packet(&p)
			}
		}
		_, _, err := NewFilter(node.config).Judge(p, node.own)
		if d.reason == "" {
			if err != nil {
				t.Errorf("all repaired: %v", err)
			}
			continue
		}
		if err == nil || err.Error() != d.says || reason(err) != string(d.reason) {
			t.Errorf("%v, want %s: %s", err, d.reason, d.says)
		}
		seen[d.reason] = true
	}
	// TestFilterMode, TestParseIPv4 and TestFilterWrongNumber have the others.
	seen[DropPeer], seen[DropProtocol], seen[DropOurAddress] = true, true, true
	for _, r := range Reasons() {
		if !seen[r] {
			t.Errorf("%s is never a reason", r)
		}
		delete(seen, r)
	}
	if len(seen) > 0 {
		t.Errorf("not listed: %v", seen)
	}
}

// TestFilterWrongNumber: another router's adverts are no news, unless they are about an address of ours.
func TestFilterWrongNumber(t *testing.T) {
	node := receivers()["v3"]
	for addr, want := range map[string]string{
		"192.0.2.100": "adverts of [192.0.2.100] with VRID 52 instead of 51 from 192.0.2.7",
		"192.0.2.99":  "adverts of another virtual router from 192.0.2.7",
	} {
		a := node.config.Advert(200)
		a.VRID, a.Addrs = 52, []netip.Addr{netip.MustParseAddr(addr)}
		p := Packet{Src: netip.MustParseAddr("192.0.2.7"), Dst: GroupIPv4, TTL: 255}
		p.Payload = a.Append(nil, p.Src, p.Dst, "")
		if _, _, err := NewFilter(node.config).Judge(p, node.own); err == nil || err.Error() != want {
			t.Errorf("of %s: %v, want %s", addr, err, want)
		}
	}
}

// TestFilterMode: routers with peers and routers without do not hear each other.
func TestFilterMode(t *testing.T) {
	for _, tt := range []struct {
		name, receiver, src, dst string
		ttl                      int
		want                     string
	}{
		{"group", "v3", "192.0.2.3", "224.0.0.18", 255, "accept"},
		{"group, through a router", "v3", "192.0.2.3", "224.0.0.18", 254, "ttl"},
		{"group, another one", "v3", "192.0.2.3", "224.0.0.5", 255, "destination"},
		{"group, unicast", "v3", "192.0.2.3", "192.0.2.2", 255, "destination"},
		{"group, unicast through a router", "v3", "192.0.2.3", "192.0.2.2", 64, "destination"},
		{"group, of the other family", "v6", "192.0.2.3", "224.0.0.18", 255, "destination"},
		{"IPv6 group", "v6", "fe80::3", "ff02::12", 255, "accept"},
		{"IPv6 group, through a router", "v6", "fe80::3", "ff02::12", 64, "ttl"},
		{"IPv6 group, another one", "v6", "fe80::3", "ff02::5", 255, "destination"},
		{"IPv6 group, own", "v6", "fe80::2", "ff02::12", 255, "own_source"},
		{"peer", "v3-peer", "192.0.2.1", "192.0.2.2", 255, "accept"},
		{"peer, through routers", "v3-peer", "192.0.2.1", "192.0.2.2", 1, "accept"},
		{"the other peer", "v3-peer", "192.0.2.77", "192.0.2.2", 255, "accept"},
		{"peer, own", "v3-peer", "192.0.2.2", "192.0.2.2", 255, "own_source"},
		{"no peer", "v3-peer", "192.0.2.3", "192.0.2.2", 255, "peer"},
		{"peer, to the group", "v3-peer", "192.0.2.1", "224.0.0.18", 255, "destination"},
		{"IPv6 peer", "v6-peer", "fd00:99::1", "fd00:99::2", 64, "accept"},
		{"IPv6 no peer", "v6-peer", "fd00:99::3", "fd00:99::2", 64, "peer"},
		{"IPv6 peer, to the group", "v6-peer", "fd00:99::1", "ff02::12", 255, "destination"},
	} {
		node := receivers()[tt.receiver]
		p := Packet{Src: netip.MustParseAddr(tt.src), Dst: netip.MustParseAddr(tt.dst), TTL: tt.ttl}
		a := node.config.Advert(200)
		if p.Src.Is4() != a.Addrs[0].Is4() {
			a.Addrs = []netip.Addr{p.Src}
		}
		p.Payload = a.Append(nil, p.Src, p.Dst, "")
		if got, _ := node.hear(p); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestFilterPassword(t *testing.T) {
	for _, tt := range []struct{ ours, theirs, want string }{
		{"", "", "accept"},
		{"secret12", "secret12", "accept"},
		{"abc", "abc", "accept"},
		{"secret12", "", "auth"},
		{"", "secret12", "auth"},
		{"secret12", "secret1", "auth"},
		{"secret1", "secret12", "auth"},
		{"secret12", "Secret12", "auth"},
	} {
		node := receivers()["v2"]
		node.config.Password = tt.ours
		peer := node.config
		peer.Password = tt.theirs
		p := Packet{Src: netip.MustParseAddr("192.0.2.1"), Dst: GroupIPv4, TTL: 255}
		p.Payload = peer.Advert(200).Append(nil, p.Src, p.Dst, "")
		if got, _ := node.hear(p); got != tt.want {
			t.Errorf("%q hears %q: %s, want %s", tt.ours, tt.theirs, got, tt.want)
		}
	}
}

func TestOddities(t *testing.T) {
	addrs := func(list string) []netip.Addr {
		var all []netip.Addr
		for s := range strings.FieldsSeq(list) {
			all = append(all, netip.MustParseAddr(s))
		}
		return all
	}
	const both = "192.0.2.100 192.0.2.101"
	for _, tt := range []struct {
		name         string
		ours, theirs string
		ourForm      Checksum
		theirForm    Checksum
		interval     time.Duration
		want         []Oddity
	}{
		{"none", both, both, PseudoHeader, PseudoHeader, time.Second, nil},
		{"another order", both, "192.0.2.101 192.0.2.100", PseudoHeader, PseudoHeader, time.Second, nil},
		{"one twice", "192.0.2.100", "192.0.2.100 192.0.2.100", PseudoHeader, PseudoHeader, time.Second, nil},
		{
			"more", "192.0.2.100", both, PseudoHeader, PseudoHeader, time.Second,
			[]Oddity{{OddAddresses, "192.0.2.7 has [192.0.2.101] that we have not, and lacks []: keepalived before 2.3.3 rejects our adverts for that, and may be master too"}},
		},
		{
			"less", both, "192.0.2.101", PseudoHeader, PseudoHeader, time.Second,
			[]Oddity{{OddAddresses, "192.0.2.7 has [] that we have not, and lacks [192.0.2.100]: keepalived before 2.3.3 rejects our adverts for that, and may be master too"}},
		},
		{
			"others", both, "192.0.2.8 192.0.2.100 192.0.2.9", PseudoHeader, PseudoHeader, time.Second,
			[]Oddity{{OddAddresses, "192.0.2.7 has [192.0.2.8 192.0.2.9] that we have not, and lacks [192.0.2.101]: keepalived before 2.3.3 rejects our adverts for that, and may be master too"}},
		},
		{"both sum the message", both, both, MessageOnly, MessageOnly, time.Second, nil},
		{"the default form", both, both, "", PseudoHeader, time.Second, nil},
		{
			"we sum the message", both, both, MessageOnly, PseudoHeader, time.Second,
			[]Oddity{{OddChecksum, "192.0.2.7 has pseudo-header, we send message"}},
		},
		{
			"all at once", "192.0.2.100", "192.0.2.101", PseudoHeader, MessageOnly, 40950 * time.Millisecond,
			[]Oddity{
				{OddAddresses, "192.0.2.7 has [192.0.2.101] that we have not, and lacks [192.0.2.100]: keepalived before 2.3.3 rejects our adverts for that, and may be master too"},
				{OddChecksum, "192.0.2.7 has message, we send pseudo-header"},
				{OddInterval, "192.0.2.7 has 40.95s, we have 1s"},
			},
		},
	} {
		c := receivers()["v3"].config
		c.Addresses, c.Checksum = addrs(tt.ours), tt.ourForm
		peer := c
		peer.Addresses, peer.Interval = addrs(tt.theirs), tt.interval
		p := Packet{Src: netip.MustParseAddr("192.0.2.7"), Dst: GroupIPv4, TTL: 255}
		p.Payload = peer.Advert(200).Append(nil, p.Src, p.Dst, tt.theirForm)
		_, odd, err := NewFilter(c).Judge(p, receivers()["v3"].own)
		if err != nil || !slices.Equal(odd, tt.want) {
			t.Errorf("%s: %q %v\nwant %q", tt.name, odd, err, tt.want)
		}
		if !slices.Equal(c.Addresses, addrs(tt.ours)) {
			t.Errorf("%s: our addresses became %v", tt.name, c.Addresses)
		}
	}
}
