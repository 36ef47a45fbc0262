package lab

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNetnsCapture(t *testing.T) {
	client, _ := pair(t)
	before := time.Now()
	c := client.Capture("eth0")
	client.Run("ping", "-c", "1", "-W", "5", "192.0.2.2")
	frames := c.Frames()
	after := time.Now()

	var kinds []string
	last := before
	for _, f := range frames {
		if f.Time.Before(last) || f.Time.After(after) {
			t.Errorf("frame of %v, want it from %v on and before %v", f.Time, last, after)
		}
		last = f.Time
		switch a, ok := f.ARP(); {
		case ok && a.Addr.Is4():
			kinds = append(kinds, fmt.Sprintf("sent %v, reply %v, gratuitous %v: %v", f.Sent, a.Reply, a.Gratuitous, a.Addr))
		case f.Data[12] == 8 && f.Data[13] == 0 && f.Data[23] == 1: // ICMP; hosts also tell of groups
			kinds = append(kinds, fmt.Sprintf("sent %v, ICMP", f.Sent))
		}
	}
	want := []string{
		"sent true, reply false, gratuitous false: 192.0.2.2",
		"sent false, reply true, gratuitous false: 192.0.2.2",
		"sent true, ICMP",
		"sent false, ICMP",
	}
	kinds = slices.Compact(kinds) // the switch's ports may not be open yet when the first question comes
	if got, want := strings.Join(kinds, "\n"), strings.Join(want, "\n"); got != want {
		t.Errorf("frames:\n%s\nwant:\n%s", got, want)
	}

	c.Stop()
	n := len(c.Frames())
	client.Run("ping", "-c", "1", "-W", "5", "192.0.2.2")
	if more := len(c.Frames()); n == 0 || more != n {
		t.Errorf("%d frames after Stop, want still %d", more, n)
	}
}

func TestNetnsCaptureLinkDown(t *testing.T) {
	client, _ := pair(t)
	c := client.Capture("eth0")
	client.SetLink("eth0", false)
	client.SetLink("eth0", true)
	client.Run("ping", "-c", "1", "-W", "5", "192.0.2.2")
	if len(c.Frames()) == 0 {
		t.Error("no frames after the link was down")
	}
}

func TestFrameARP(t *testing.T) {
	const (
		to4   = "ffffffffffff02000000000a0806"
		to6   = "33330000000102000000000a86dd"
		vip6  = "fe800000000000000000000000000010"
		unsol = "6000000000203aff" + vip6 + "ff020000000000000000000000000001" + "8800ffff20000000" + vip6 + "020102000000000a"
		sol   = "6000000000203aff" + vip6 + "fe800000000000000000000000000099" + "8800ffff60000000" + vip6 + "020102000000000a"
	)
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("fe80::10")
	for _, tt := range []struct {
		name, frame string
		want        ARP
		ok          bool
	}{
		{"gratuitous", to4 + "0001080006040001" + "02000000000ac000020a" + "ffffffffffffc000020a", ARP{false, true, v4, "02:00:00:00:00:0a"}, true},
		{"question", to4 + "0001080006040001" + "02000000000cc0000203" + "000000000000c000020a", ARP{false, false, v4, "02:00:00:00:00:0c"}, true},
		{"answer", to4 + "0001080006040002" + "02000000000ac000020a" + "02000000000cc0000203", ARP{true, false, v4, "02:00:00:00:00:0a"}, true},
		{"advertisement to all", to6 + unsol, ARP{false, true, v6, "02:00:00:00:00:0a"}, true},
		{"advertisement to one", to6 + sol, ARP{true, false, v6, "02:00:00:00:00:0a"}, true},
		{"short ARP", to4 + "0001080006040001", ARP{}, false},
		{"short IPv6", to6 + unsol[:len(unsol)-16], ARP{}, false},
		{"IPv6 of another kind", to6 + strings.Replace(unsol, "8800ffff", "8700ffff", 1), ARP{}, false},
	} {
		data, err := hex.DecodeString(tt.frame)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := (Frame{Data: data}).ARP(); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %+v, %v, want %+v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}
