package director

import (
	"net/netip"
	"testing"
	"time"

	"poise/vrrp"
)

// TestBeats: an elector resumes what the one before was master of, for as long as no backup can have missed it, and
// nothing else.
func TestBeats(t *testing.T) {
	f, err := newBeats()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, err := mapBeats(f)
	if err != nil {
		t.Fatal(err)
	}
	c := vrrp.Config{Name: "public", VRID: 51, Interval: time.Second, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
	other := c
	other.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.11")}
	const sent = time.Hour
	backup, master := before.take(other), before.take(c)
	master.note(sent)

	after, err := mapBeats(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		c    vrrp.Config
		now  time.Duration
		want bool
	}{
		{"at once", c, sent, true},
		{"just in time", c, sent + 2*c.Interval - 1, true},
		{"too late", c, sent + 2*c.Interval, false},
		{"before it was sent", c, sent - 1, false},
		{"backup", other, sent, false},
		{"unknown", vrrp.Config{Name: "other"}, sent, false},
	} {
		if got := after.resumable(test.c, test.now); got != test.want {
			t.Errorf("%s: resumable is %v", test.name, got)
		}
	}
	if again := after.take(c); again.sent.Load() != int64(sent) {
		t.Error("a router that comes again has not the slot it had")
	}
	master.note(0)
	if after.resumable(c, sent) {
		t.Error("resumable although it is master no more")
	}
	master.note(sent)
	master.drop()
	backup.drop()
	if after.resumable(c, sent) {
		t.Error("resumable although its slot is free")
	}
	for range maxBeats {
		other.VRID++
		other.Priority += other.VRID / 255
		other.Interval++
		if after.take(other) == nil {
			t.Fatal("a free slot was not found")
		}
	}
	if b := after.take(c); b != nil {
		t.Error("there are more slots than there is room")
	}
	var none *beat // what a router has then
	none.note(sent)
	none.drop()
}
