package vrrp

import (
	"bytes"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/vectors.txt
var vectorsFile string

// vector is an entry of testdata/vectors.txt.
type vector struct {
	name, kind, receiver, verdict string
	bytes                         []byte
	decodes                       bool
	advert                        Advert
	form                          Checksum
}

func vectors(t testing.TB) []vector {
	t.Helper()
	var all []vector
	var entry []string
	for line := range strings.Lines(vectorsFile + "\n") {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if line != "" {
			entry = append(entry, line)
			continue
		}
		if len(entry) > 0 {
			all = append(all, parseVector(t, entry))
		}
		entry = nil
	}
	return all
}

func parseVector(t testing.TB, lines []string) vector {
	t.Helper()
	var v vector
	if _, err := fmt.Sscan(lines[0], &v.name, &v.kind, &v.receiver, &v.verdict); err != nil {
		t.Fatalf("%q: %v", lines[0], err)
	}
	var err error
	if v.bytes, err = hex.DecodeString(lines[1]); err != nil {
		t.Fatalf("%s: %v", v.name, err)
	}
	if len(lines) < 3 {
		return v
	}
	v.decodes = true
	var interval, auth, addrs string
	if _, err := fmt.Sscan(lines[2], &v.advert.Version, &v.advert.VRID, &v.advert.Priority, &interval, &auth, &v.form, &addrs); err != nil {
		t.Fatalf("%s: %q: %v", v.name, lines[2], err)
	}
	if v.advert.Interval, err = time.ParseDuration(interval); err != nil {
		t.Fatalf("%s: %v", v.name, err)
	}
	kind, data, _ := strings.Cut(auth, ":")
	v.advert.AuthType = kind[0] - '0'
	copy(v.advert.AuthData[:], data)
	for addr := range strings.SplitSeq(addrs, ",") {
		first, last, _ := strings.Cut(addr, "-")
		a := netip.MustParseAddr(first)
		v.advert.Addrs = append(v.advert.Addrs, a)
		for last != "" && a.String() != last {
			a = a.Next()
			v.advert.Addrs = append(v.advert.Addrs, a)
		}
	}
	return v
}

// ip is the IP packet in the Ethernet frame of a vector.
func (v vector) ip() []byte { return v.bytes[14:] }

// packet is what a socket delivers of the vector. The kernel takes IPv6 headers off.
func (v vector) packet() (Packet, error) {
	switch {
	case v.kind == "vrrp4":
		return Packet{Src: netip.MustParseAddr("192.0.2.1"), Dst: GroupIPv4, TTL: 255, Payload: v.bytes}, nil
	case v.kind == "vrrp6":
		return Packet{Src: netip.MustParseAddr("fe80::1"), Dst: GroupIPv6, TTL: 255, Payload: v.bytes}, nil
	case v.bytes[12] == 0x08: // IPv4's Ethernet type is 0x0800, that of IPv6 0x86dd
		return ParseIPv4(v.ip())
	}
	ip := v.ip()
	return Packet{
		Src: netip.AddrFrom16([16]byte(ip[8:])), Dst: netip.AddrFrom16([16]byte(ip[24:])),
		TTL: int(ip[7]), Payload: ip[40:],
	}, nil
}

// receivers are the nodes that hear the vectors, and which address each has itself.
func receivers() map[string]receiver {
	v2 := Config{
		VRID: 51, Version: 2, Priority: 100, Interval: time.Second,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.100")},
	}
	v3 := v2
	v3.Version = 3
	fast := v3
	fast.Interval = 100 * time.Millisecond
	v6 := v3
	v6.Addresses = []netip.Addr{netip.MustParseAddr("fe80::100"), netip.MustParseAddr("fd00:99::100")}
	peer6 := v3
	peer6.Addresses = []netip.Addr{netip.MustParseAddr("fd00:99::100")}
	unicast := func(c Config, peer string) Config {
		c.Peers = []netip.Addr{netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr(peer)}
		return c
	}
	pass := func(c Config) Config {
		c.Password = "secret12"
		return c
	}
	return map[string]receiver{
		"v2":           {v2, "192.0.2.2"},
		"v2-pass":      {pass(v2), "192.0.2.2"},
		"v2-peer":      {unicast(v2, "192.0.2.1"), "192.0.2.2"},
		"v2-peer-pass": {unicast(pass(v2), "192.0.2.1"), "192.0.2.2"},
		"v3":           {v3, "192.0.2.2"},
		"v3-peer":      {unicast(v3, "192.0.2.1"), "192.0.2.2"},
		"v3-100ms":     {fast, "192.0.2.1"},
		"v6":           {v6, "fe80::2"},
		"v6-peer":      {unicast(peer6, "fd00:99::1"), "fd00:99::2"},
	}
}

type receiver struct {
	config Config
	addr   string
}

func (r receiver) own(a netip.Addr) bool { return a.String() == r.addr }

// hear tells what becomes of a packet in the words of vectors.txt.
func (r receiver) hear(p Packet) (string, Received) {
	received, odd, err := NewFilter(r.config).Judge(p, r.own)
	if err != nil {
		return reason(err), received
	}
	verdict := "accept"
	for _, o := range odd {
		verdict += map[string]string{OddAddresses: "+addresses", OddChecksum: "+checksum", OddInterval: "+interval"}[o.What]
	}
	return verdict, received
}

// reason is the label of a drop.
func reason(err error) string {
	if d, ok := errors.AsType[*Drop](err); ok {
		return string(d.Reason)
	}
	return fmt.Sprintf("not a Drop: %v", err)
}

// A change that loses entries of the list must not go unseen.
const vectorCount = 63

func TestVectorsJudged(t *testing.T) {
	all := vectors(t)
	if len(all) != vectorCount {
		t.Errorf("%d vectors, want %d", len(all), vectorCount)
	}
	for _, v := range all {
		t.Run(v.name, func(t *testing.T) {
			node, ok := receivers()[v.receiver]
			if !ok {
				t.Fatalf("no receiver %q", v.receiver)
			}
			p, err := v.packet()
			if err != nil {
				if got := reason(err); got != v.verdict {
					t.Errorf("%s (%v), want %s", got, err, v.verdict)
				}
				return
			}
			got, received := node.hear(p)
			if got != v.verdict {
				t.Fatalf("%s, want %s", got, v.verdict)
			}
			want := Received{}
			if strings.HasPrefix(v.verdict, "accept") {
				want = Received{From: p.Src, Advert: v.advert}
			}
			if !reflect.DeepEqual(received, want) {
				t.Errorf("%+v\nwant %+v", received, want)
			}
		})
	}
}

func TestVectorsDecode(t *testing.T) {
	for _, v := range vectors(t) {
		p, err := v.packet()
		if err != nil {
			continue // seen by TestVectorsJudged
		}
		advert, form, err := Decode(p.Payload, p.Src, p.Dst)
		clear(p.Payload) // the next packet comes into the same memory
		switch {
		case v.decodes && err != nil:
			t.Errorf("%s: %v", v.name, err)
		case !v.decodes && err == nil:
			t.Errorf("%s: decoded to %+v", v.name, advert)
		case v.decodes && (!reflect.DeepEqual(advert, v.advert) || form != v.form):
			t.Errorf("%s: %+v %s\nwant %+v %s", v.name, advert, form, v.advert, v.form)
		}
	}
}

// TestVectorsEncode writes what others sent: the same bytes, but for what we would never send.
func TestVectorsEncode(t *testing.T) {
	never := map[string]string{
		"v3-ucast-ttl64": "another TTL",
		"rx-v3-ttl254":   "another TTL",
		"rx-v3-df":       "another TOS, and DF",
		"rx-v3-ipopt":    "IP options",
		"rx-v3-rsv":      "reserved bits",
	}
	for _, v := range vectors(t) {
		if !v.decodes {
			continue
		}
		p, err := v.packet()
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		msg := v.advert.Append([]byte("before"), p.Src, p.Dst, v.form)
		msg, found := bytes.CutPrefix(msg, []byte("before"))
		if same := bytes.Equal(msg, p.Payload); !found || same != (v.name != "rx-v3-rsv") {
			t.Errorf("%s:\n%x\nwant\n%x", v.name, msg, p.Payload)
		}
		if v.kind != "frame" || !p.Src.Is4() {
			continue
		}
		id := uint16(v.ip()[4])<<8 | uint16(v.ip()[5])
		packet := AppendIPv4([]byte("before"), p.Src, p.Dst, id, msg)
		packet, found = bytes.CutPrefix(packet, []byte("before"))
		want := v.ip()[:min(len(v.ip()), len(packet))] // without the padding of Ethernet
		if same := bytes.Equal(packet, want); !found || same != (never[v.name] == "") {
			t.Errorf("%s:\n%x\nwant\n%x", v.name, packet, want)
		}
	}
}

// TestVectorsLength cuts the messages short at every length, and makes them longer: none of that is heard.
func TestVectorsLength(t *testing.T) {
	for _, v := range vectors(t) {
		p, err := v.packet()
		if err != nil || !v.decodes {
			continue
		}
		longer := slices.Concat(p.Payload, make([]byte, 4))
		for n := range len(longer) {
			if n == len(p.Payload) {
				continue
			}
			if _, _, err := Decode(longer[:n:n], p.Src, p.Dst); err == nil || reason(err) != "length" {
				t.Errorf("%s: %d of %d bytes: %v", v.name, n, len(p.Payload), err)
			}
		}
	}
}
