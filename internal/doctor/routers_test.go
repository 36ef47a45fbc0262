package doctor

import (
	"net/netip"
	"strings"
	"testing"

	"poise/internal/finding"
	"poise/vrrp"
)

// TestMasters: who is master at the end, of what was heard. Each letter is an advert, lower case one of priority 0.
func TestMasters(t *testing.T) {
	from := map[rune]netip.Addr{'O': {}, 'A': netip.MustParseAddr("192.0.2.1"), 'B': netip.MustParseAddr("192.0.2.2")}
	for words, want := range map[string]string{
		"":      "",
		"AAA":   "A",
		"OOO":   "O",
		"ABABA": "AB", // the second hears nothing of the first
		"AAB":   "B",  // a hand-over
		"AaB":   "B",
		"AAa":   "",  // who leaves, before another comes
		"AABAB": "B", // who yields has a last word
		"OOAOA": "A",
		"OAOAO": "OA",
	} {
		var h heard
		for _, r := range words {
			s := said{priority: 100}
			if r >= 'a' {
				s.priority, r = vrrp.PriorityRelease, r-'a'+'A'
			}
			s.from = from[r]
			h.adverts = append(h.adverts, s)
		}
		got := ""
		for _, s := range h.masters() {
			for name, addr := range from {
				if addr == s.from {
					got += string(name)
				}
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", words, got, want)
		}
	}
}

// TestJudgeHeard: each thing that can be wrong with a router's adverts has its finding, and nothing else has one.
func TestJudgeHeard(t *testing.T) {
	c := vrrp.Config{Name: "public", Interface: "eth0", VRID: 51, Version: 3, Interval: 1e9, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	own := []said{{priority: 100}, {priority: 100}}
	for _, tt := range []struct {
		name  string
		heard heard
		local bool
		wrong string // seen, of each
	}{
		{"master", heard{adverts: own}, true, ""},
		{"backup", heard{adverts: []said{{a, 150}}, delivered: map[netip.Addr]bool{a: true}}, false, ""},
		{"dropped", heard{adverts: []said{{a, 150}}}, false, "those of 192.0.2.1 do not"},
		{"one of two dropped", heard{adverts: []said{{a, 150}, {b, 90}}, delivered: map[netip.Addr]bool{b: true}}, false, "those of 192.0.2.1 do not"},
		{"two masters", heard{adverts: []said{{a, 150}, {b, 90}, {a, 150}, {b, 90}, {a, 150}, {b, 90}}, delivered: map[netip.Addr]bool{a: true, b: true}}, false, "192.0.2.1 with priority 150, 192.0.2.2 with priority 90"},
		{"nobody", heard{}, false, "no advert in 3s"},
		{"mute", heard{}, true, "this host has the addresses and sends no adverts"},
		{"another's master", heard{adverts: []said{{a, 150}}, delivered: map[netip.Addr]bool{a: true}}, true, "192.0.2.1 with priority 150, while this host has the addresses"},
		{"stranger", heard{adverts: own, strange: map[netip.Addr]refusal{b: {finding.Fault, "adverts of version 2 instead of 3", "remedy"}}}, true, "192.0.2.2: adverts of version 2 instead of 3"},
	} {
		var wrong []string
		for _, f := range tt.heard.judge(c, tt.local) {
			if f.Severity != finding.OK {
				wrong = append(wrong, f.Seen)
				if f.Want == "" || f.Remedy == "" {
					t.Errorf("%s: no remedy: %+v", tt.name, f)
				}
			}
		}
		if got := strings.Join(wrong, "; "); got != tt.wrong {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.wrong)
		}
	}
}

// TestFamilies: two routers of one VRID, one of each family, are nothing to each other.
func TestFamilies(t *testing.T) {
	c := vrrp.Config{Name: "six", VRID: 51, Version: 3, Interval: 1e9, Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::10")}}
	from, to := netip.MustParseAddr("192.0.2.1"), vrrp.GroupIPv4
	four := vrrp.Config{VRID: 51, Version: 3, Interval: 1e9, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
	p := vrrp.Packet{Src: from, Dst: to, TTL: 255, Payload: four.Advert(100).Append(nil, from, to, vrrp.PseudoHeader)}
	for _, own := range []bool{true, false} {
		h := heard{strange: make(map[netip.Addr]refusal)}
		h.note(c, vrrp.NewFilter(c), p, own)
		if len(h.adverts)+len(h.strange) > 0 {
			t.Errorf("own %v: %+v", own, h)
		}
		h.note(four, vrrp.NewFilter(four), p, own)
		if len(h.adverts) != 1 {
			t.Errorf("own %v, its own family: %+v", own, h)
		}
	}
}
