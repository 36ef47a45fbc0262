package vrrp

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestConfigAdvert(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.101"), netip.MustParseAddr("192.0.2.100")}
	config := func(version int, password string) Config {
		return Config{
			VRID: 7, Version: version, Priority: 100, Interval: 2 * time.Second, Password: password,
			Addresses: addrs, Excluded: []netip.Addr{netip.MustParseAddr("192.0.2.9")},
		}
	}
	advert := func(version int, authType uint8, authData [8]byte) Advert {
		return Advert{
			Version: version, VRID: 7, Priority: 120, Interval: 2 * time.Second,
			AuthType: authType, AuthData: authData, Addrs: addrs,
		}
	}
	for name, tt := range map[string]struct {
		config Config
		want   Advert
	}{
		"version 3":        {config(3, ""), advert(3, 0, [8]byte{})},
		"no password":      {config(2, ""), advert(2, 0, [8]byte{})},
		"short password":   {config(2, "abc"), advert(2, 1, [8]byte{'a', 'b', 'c'})},
		"longest password": {config(2, "secret12"), advert(2, 1, [8]byte([]byte("secret12")))},
	} {
		if got := tt.config.Advert(120); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

// TestChecksumForm: the wish counts only where the RFCs leave a choice.
func TestChecksumForm(t *testing.T) {
	group4, group6, peer := GroupIPv4, GroupIPv6, netip.MustParseAddr("192.0.2.2")
	src4, src6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")
	for _, tt := range []struct {
		version    int
		src, dst   netip.Addr
		wish, want Checksum
	}{
		{3, src4, group4, "", PseudoHeader},
		{3, src4, group4, PseudoHeader, PseudoHeader},
		{3, src4, group4, MessageOnly, MessageOnly},
		{3, src4, group4, OldUnicast, PseudoHeader}, // the same bytes
		{3, src4, peer, "", PseudoHeader},
		{3, src4, peer, MessageOnly, MessageOnly},
		{3, src4, peer, OldUnicast, OldUnicast},
		{3, src6, group6, "", PseudoHeader},
		{3, src6, group6, MessageOnly, PseudoHeader},
		{2, src4, group4, "", MessageOnly},
		{2, src4, group4, PseudoHeader, MessageOnly},
		{2, src4, peer, PseudoHeader, MessageOnly},
	} {
		a := Advert{Version: tt.version, VRID: 1, Interval: time.Second, Addrs: []netip.Addr{tt.src}}
		if _, form, err := Decode(a.Append(nil, tt.src, tt.dst, tt.wish), tt.src, tt.dst); form != tt.want || err != nil {
			t.Errorf("version %d to %v, asked for %q: %q %v, want %q", tt.version, tt.dst, tt.wish, form, err, tt.want)
		}
	}
}

// TestMostAddresses: the largest advert there is goes through whole, in both versions and families.
func TestMostAddresses(t *testing.T) {
	for _, tt := range []struct {
		version  int
		src, dst netip.Addr
		size     int
	}{
		{2, netip.MustParseAddr("192.0.2.1"), GroupIPv4, 8 + 255*4 + 8},
		{3, netip.MustParseAddr("192.0.2.1"), GroupIPv4, 8 + 255*4},
		{3, netip.MustParseAddr("fe80::1"), GroupIPv6, 8 + 255*16},
	} {
		a := Advert{Version: tt.version, VRID: 255, Priority: 254, Interval: time.Second}
		for addr := tt.src; len(a.Addrs) < 255; addr = addr.Next() {
			a.Addrs = append(a.Addrs, addr)
		}
		msg := a.Append(nil, tt.src, tt.dst, PseudoHeader)
		if len(msg) != tt.size {
			t.Errorf("version %d to %v: %d bytes, want %d", tt.version, tt.dst, len(msg), tt.size)
		}
		if got, _, err := Decode(msg, tt.src, tt.dst); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("version %d to %v: %+v %v", tt.version, tt.dst, got, err)
		}
	}
}

// TestChecksumEveryBit: no single bit of a message, or of an address it came with, can change unseen.
func TestChecksumEveryBit(t *testing.T) {
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	a := Advert{Version: 3, VRID: 51, Priority: 100, Interval: time.Second, Addrs: []netip.Addr{src, dst}}
	msg := a.Append(nil, src, dst, PseudoHeader)
	for bit := range len(msg) * 8 {
		msg[bit/8] ^= 1 << (bit % 8)
		if _, _, err := Decode(msg, src, dst); err == nil {
			t.Errorf("bit %d changed: accepted", bit)
		}
		msg[bit/8] ^= 1 << (bit % 8)
	}
	if _, _, err := Decode(msg, src.Next(), dst); err == nil || reason(err) != "checksum" {
		t.Errorf("from another source: %v", err)
	}
	if _, _, err := Decode(msg, src, dst.Next()); err == nil || reason(err) != "checksum" {
		t.Errorf("to another destination: %v", err)
	}
}

func TestDecodeVersion(t *testing.T) {
	for _, tt := range []struct {
		src, dst netip.Addr
		known    []int
	}{
		{netip.MustParseAddr("192.0.2.1"), GroupIPv4, []int{2, 3}},
		{netip.MustParseAddr("fe80::1"), GroupIPv6, []int{3}},
	} {
		for version := range 16 {
			a := Advert{Version: version, VRID: 51, Interval: time.Second, Addrs: []netip.Addr{tt.src}}
			_, _, err := Decode(a.Append(nil, tt.src, tt.dst, PseudoHeader), tt.src, tt.dst)
			if known := slices.Contains(tt.known, version); known && err != nil || !known && (err == nil || reason(err) != "version") {
				t.Errorf("version %d to %v: %v", version, tt.dst, err)
			}
		}
		if _, _, err := Decode(make([]byte, 7), tt.src, tt.dst); err == nil || reason(err) != "length" {
			t.Errorf("7 zeros to %v: %v", tt.dst, err)
		}
	}
}

func TestFold(t *testing.T) {
	for sum, want := range map[uint32]uint16{0: 0, 0xffff: 0xffff, 0x10000: 1, 0x1ffff: 1, 0x8000_ffff: 0x8000, 0xffff_ffff: 0xffff} {
		if got := fold(sum); got != want {
			t.Errorf("fold(%#x) is %#x, want %#x", sum, got, want)
		}
	}
}

func TestParseIPv4(t *testing.T) {
	src, dst := netip.MustParseAddr("192.0.2.1"), GroupIPv4
	msg := Config{Version: 3, VRID: 51, Interval: time.Second, Addresses: []netip.Addr{src}}.Advert(100).Append(nil, src, dst, PseudoHeader)
	change := func(at int, to byte) func([]byte) []byte {
		return func(b []byte) []byte {
			b[at] = to
			return b
		}
	}
	for name, tt := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"whole":                         {func(b []byte) []byte { return b }, ""},
		"padded":                        {func(b []byte) []byte { return append(b, 0, 0, 0) }, ""},
		"nothing":                       {func([]byte) []byte { return nil }, "length"},
		"19 bytes":                      {func(b []byte) []byte { return b[:19:19] }, "length"},
		"the header alone":              {func(b []byte) []byte { return b[:20:20] }, "length"},
		"the last byte missing":         {func(b []byte) []byte { return b[:len(b)-1] }, "length"},
		"IPv6":                          {change(0, 0x65), "length"},
		"header of 16 bytes":            {change(0, 0x44), "length"},
		"header longer than the packet": {change(0, 0x4f), "length"},
		"7 bytes of message":            {change(3, 27), "length"},
		"8 bytes of message":            {change(3, 28), ""},
		"total length of 0":             {change(3, 0), "length"},
		"total length of 288":           {change(2, 1), "length"},
		"AH":                            {change(9, 51), "protocol"},
	} {
		b := tt.change(AppendIPv4(nil, src, dst, 0, msg))
		p, err := ParseIPv4(b)
		if err != nil {
			if got := reason(err); got != tt.want {
				t.Errorf("%s: %s (%v), want %q", name, got, err, tt.want)
			}
			continue
		}
		if tt.want != "" {
			t.Errorf("%s: accepted", name)
		}
		want := Packet{Src: src, Dst: dst, TTL: 255, Payload: msg[:len(p.Payload)]}
		if !reflect.DeepEqual(p, want) {
			t.Errorf("%s: %+v, want %+v", name, p, want)
		}
	}
	if _, err := ParseIPv4(nil); err == nil || err.Error() != "adverts without an IPv4 header" {
		t.Errorf("nothing: %v", err)
	}
}
