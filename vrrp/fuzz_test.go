package vrrp

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// FuzzPacket reads bytes as an IPv4 packet and as a message of either family. Every receiver has a verdict on them, and
// what decodes is written again as it was.
func FuzzPacket(f *testing.F) {
	for _, v := range vectors(f) {
		if v.kind == "frame" {
			f.Add(v.ip())
		}
		if p, err := v.packet(); err == nil {
			f.Add(p.Payload)
		}
	}
	nodes := receivers()
	reasons := Reasons()
	check := func(t *testing.T, err error) {
		if d, ok := errors.AsType[*Drop](err); !ok || !slices.Contains(reasons, d.Reason) {
			t.Errorf("%#v is no Drop with a reason", err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		packets := []Packet{
			{netip.MustParseAddr("192.0.2.1"), GroupIPv4, 255, b},
			{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), 64, b},
			{netip.MustParseAddr("fe80::1"), GroupIPv6, 255, b},
			{netip.MustParseAddr("fd00:99::1"), netip.MustParseAddr("fd00:99::2"), 64, b},
		}
		if p, err := ParseIPv4(b); err != nil {
			check(t, err)
		} else {
			packets = append(packets, p)
			again, err := ParseIPv4(AppendIPv4(nil, p.Src, p.Dst, 1, p.Payload))
			if p.TTL = ttl; err != nil || !reflect.DeepEqual(again, p) {
				t.Errorf("%+v %v, want %+v", again, err, p)
			}
		}
		if p, err := parseIPv6(b); err != nil {
			check(t, err)
		} else {
			packets = append(packets, p)
		}
		for _, p := range packets {
			for _, node := range nodes {
				if _, _, err := NewFilter(node.config).Judge(p, node.own); err != nil {
					check(t, err)
				}
			}
			a, form, err := Decode(p.Payload, p.Src, p.Dst)
			if err != nil {
				check(t, err)
				continue
			}
			msg := a.Append(nil, p.Src, p.Dst, form)
			again, againForm, err := Decode(msg, p.Src, p.Dst)
			if err != nil || !reflect.DeepEqual(again, a) || againForm != form {
				t.Errorf("%+v %s %v, want %+v %s", again, againForm, err, a, form)
			}
			reserved := a.Version == 3 && p.Payload[4]&0xf0 != 0                       // not kept
			zero := p.Payload[6] == 0xff && p.Payload[7] == 0xff && msg[6]|msg[7] == 0 // one's complement has two zeros
			if !reserved && !zero && !bytes.Equal(msg, p.Payload) {
				t.Errorf("%x, want %x", msg, p.Payload)
			}
		}
	})
}
