package vrrp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestInstanceTells: what a stranger sends cannot fill the log, and nothing else is kept back for it.
func TestInstanceTells(t *testing.T) {
	now := time.Hour
	var said []string
	c := Config{Name: "public", VRID: 51, Version: 3, Priority: 100, Interval: time.Second, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.100")}}
	i := NewInstance(c, func() time.Duration { return now }, func(netip.Addr) bool { return false }, func(a Action) {
		said = append(said, a.(Note).What+": "+a.(Note).Cause)
	})
	junk := func(payload ...byte) {
		i.judge(Packet{Src: netip.MustParseAddr("192.0.2.66"), Dst: GroupIPv4, TTL: 255, Payload: payload})
	}
	for n := range 500 {
		junk(make([]byte, n%2)...) // two kinds of nonsense in turn: each is news
	}
	if len(said) != maxTold {
		t.Errorf("%d notes about 500 packets, want %d", len(said), maxTold)
	}
	i.tell(Note{slog.LevelError, "something else", ""})
	if len(said) != maxTold+1 {
		t.Error("another note is kept back")
	}
	now += tellPeriod
	junk()
	junk(0)
	if last := said[len(said)-2]; len(said) != maxTold+3 || !strings.HasSuffix(last, fmt.Sprintf("(and %d more since the last)", 500-maxTold)) {
		t.Errorf("a minute later: %q", last)
	}
	if len(i.Speakers()) != 1 || i.Stats().Dropped[DropLength] != 502 {
		t.Errorf("speakers %v, dropped %v", i.Speakers(), i.Stats().Dropped)
	}
	for n := range 100 {
		i.judge(Packet{Src: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), Dst: GroupIPv4, TTL: 255})
		now++
	}
	if s := i.Speakers(); len(s) != maxSpeakers || s[maxSpeakers-1].Addr.String() != "192.0.2.99" {
		t.Errorf("%d speakers are remembered, want the latest %d", len(s), maxSpeakers)
	}
}
