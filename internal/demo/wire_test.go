package main

import (
	"encoding/hex"
	"net/netip"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"poise/internal/lab"
)

func TestLook(t *testing.T) {
	const (
		lb1       = "02000000000a"
		vip       = "c000020a"
		arp       = "ffffffffffff" + lb1 + "0806" + "000108000604"
		adverts   = "01005e000012" + lb1 + "0800" + "45c000200001" + "0000ff700000" + "c0000201e0000012"
		adverts24 = "01005e000012" + lb1 + "0800" + "46c000240001" + "0000ff700000" + "c0000201e0000012" + "94040000"
	)
	for _, tt := range []struct {
		name, frame string
		want        sightings
	}{
		{"gratuitous", arp + "0001" + lb1 + vip + "ffffffffffff" + vip, sightings{{kind: announcement, by: "lb1"}}},
		{"answer", arp + "0002" + lb1 + vip + "02000000000cc0000203", sightings{{kind: answer, by: "lb1"}}},
		{"question", arp + "0001" + lb1 + "c0000201" + "000000000000" + vip, nil},
		{"about another address", arp + "0002" + lb1 + "c000020b" + "02000000000cc0000203", nil},
		{"advert", adverts + "3133960100640000" + vip, sightings{{kind: advert, by: "lb1", priority: 150}}},
		{"advert after options", adverts24 + "3133960100640000" + vip, sightings{{kind: advert, by: "lb1", priority: 150}}},
		{"version 2", adverts + "2133960100640000" + vip, sightings{{kind: advert, by: "lb1", priority: 150}}},
		{"release", adverts + "3133000100640000" + vip, sightings{{kind: release, by: "lb1"}}},
		{"another type", adverts + "3233960100640000" + vip, nil},
		{"cut short", adverts + "31339601006400", nil},
		{"another protocol", strings.Replace(adverts, "ff70", "ff01", 1) + "3133960100640000" + vip, nil},
		{"unknown host", strings.ReplaceAll(arp, lb1, "02000000000b") + "000202000000000b" + vip + "02000000000cc0000203", sightings{{kind: answer, by: "02:00:00:00:00:0b"}}},
	} {
		data, err := hex.DecodeString(tt.frame)
		if err != nil {
			t.Fatal(err)
		}
		got := look([]lab.Frame{{Data: data}}, netip.MustParseAddr(pairVIP), map[string]string{"02:00:00:00:00:0a": "lb1"})
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// The judgements about a hand-over fail for what must not be.
func TestOnly(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	left := sighting{at(1000), release, "lb1", 0}
	took := sighting{at(1609), advert, "lb2", 100}
	told := sighting{at(1610), announcement, "lb2", 0}
	for _, tt := range []struct {
		name string
		all  sightings
		want string // the error, "" for none
	}{
		{"good order", sightings{{at(500), announcement, "lb1", 0}, left, took, told}, ""},
		{
			"announced after it left",
			sightings{left, took, told, {at(1700), announcement, "lb1", 0}},
			"expected gratuitous ARP of lb2 alone, saw lb2, lb1",
		},
		{
			"announced in the moment it left",
			sightings{left, {at(1000), announcement, "lb1", 0}, took, told},
			"expected gratuitous ARP of lb2 alone, saw lb1, lb2",
		},
		{
			"a third host",
			sightings{left, took, told, {at(1700), announcement, "02:00:00:00:00:0b", 0}, {at(2700), announcement, "lb2", 0}},
			"expected gratuitous ARP of lb2 alone, saw lb2, 02:00:00:00:00:0b, lb2",
		},
	} {
		err := tt.all.since(left.at).only("lb2", announcement)
		if got := text(err); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestOnlyDuring(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)).UTC() }
	for _, tt := range []struct {
		begin, end int
		ok         bool
	}{
		{900, 999, false},
		{900, 1000, true},
		{1001, 1009, true},
		{1010, 2000, true},
		{900, 2000, true},
		{1011, 1012, false},
	} {
		failed := tally{requests: 1, failures: []failedRequest{{begin: at(tt.begin), end: at(tt.end)}}}
		if err := failed.onlyDuring(at(1000), at(1010)); (err == nil) != tt.ok {
			t.Errorf("failed from %d to %d: %v, want none: %v", tt.begin, tt.end, err, tt.ok)
		}
	}
}

func TestOutage(t *testing.T) {
	for _, tt := range []struct {
		answers string // one ping every 5 ms
		lost    int
		want    time.Duration
	}{
		{"", 0, 0},
		{"!!!!", 0, 0},
		{"!.!!", 1, 5 * time.Millisecond},
		{"!..!...!.", 6, 15 * time.Millisecond},
		{"!...", 3, 10 * time.Millisecond},
		{"...!", 3, 15 * time.Millisecond},
	} {
		var p pings
		for i, c := range tt.answers {
			p = append(p, ping{time.UnixMilli(int64(5 * i)), c == '!'})
		}
		if got := p.outage(); got != tt.want || p.lost() != tt.lost {
			t.Errorf("%q: %d lost, outage %v, want %d and %v", tt.answers, p.lost(), got, tt.lost, tt.want)
		}
	}
}

// The kernel checks what it is sent, and what it answers must be understood.
func TestNetnsPings(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.New(t).Host("alone")
	if p := keepPinging(h, "127.0.0.1")(); len(p) == 0 || p.lost() > 0 {
		t.Errorf("%d of %d pings lost", p.lost(), len(p))
	}
}

// A power failure ends what runs on its host, and neither another's processes nor this program, whose threads have been
// on the host as well.
func TestNetnsKill(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	one, other := &director{Host: n.Host("one")}, n.Host("other")
	var visits sync.WaitGroup
	for range 100 {
		visits.Go(func() { one.Do(func() error { time.Sleep(time.Millisecond); return nil }) })
	}
	visits.Wait()
	dies, lives := one.Start(exec.Command("sleep", "1000")), other.Start(exec.Command("sleep", "1000"))
	one.kill()
	<-dies.Done()
	if got := (&director{Host: other}).processes(); !slices.Equal(got, []int{lives.Pid()}) {
		t.Errorf("processes on the other host %v, want %d alone", got, lives.Pid())
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
