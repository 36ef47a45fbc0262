package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"poise/internal/finding"
	"poise/vrrp"
)

// TestNetnsDoctor: what is wrong between two directors is found on the one and the other, and gone after the remedy.
func TestNetnsDoctor(t *testing.T) {
	t.Parallel()
	p := running(t, "200ms", keys{"addresses": []string{"192.0.2.10"}, "excluded_addresses": []string{"2001:db8::10"}})
	examine := func(n *node) []finding.Finding { return examined(t, n.Host, "doctor", n.file, "--runtime-dir", n.dir) }
	healthy := func(after string) {
		t.Helper()
		p.wantMaster(p.a)
		for _, n := range []*node{p.a, p.b} {
			if wrong := examine(n); len(wrong) > 0 {
				t.Errorf("%s: %s: %+v", after, n.addr, wrong)
			}
		}
	}
	has := func(wrong []finding.Finding, what, seen, remedy string) {
		t.Helper()
		for _, f := range wrong {
			if f.Severity == finding.Fault && f.What == what && strings.Contains(f.Seen, seen) && strings.Contains(f.Remedy, remedy) {
				return
			}
		}
		t.Errorf("no %q with %q in %+v", what, seen, wrong)
	}
	healthy("at first")

	// The master may be a server, too.
	both := filepath.Join(t.TempDir(), "poise.toml")
	config := p.b.config() + block("web", `"192.0.2.10:80"`, `forward = "dr"`, `{ address = "192.0.2.1" }, { address = "192.0.2.2" }`) +
		block("web6", `"[2001:db8::10]:80"`, `forward = "dr"`, `{ address = "2001:db8::1" }, { address = "2001:db8::2" }`)
	if err := os.WriteFile(both, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range examined(t, p.b.Host, "doctor", both, "--runtime-dir", p.b.dir) {
		if strings.HasPrefix(f.What, "one director answers") {
			t.Errorf("a master that is a server: %+v", f)
		}
	}

	stop := p.speak(vrrp.Advert{Version: 3, VRID: 51, Priority: 50, Interval: time.Second, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.99")}})
	for _, n := range []*node{p.a, p.b} {
		wrong := examine(n)
		has(wrong, "VRID 51 on eth0 is this router's alone", "192.0.2.3: adverts for [192.0.2.99], none of which is ours", "another vrid")
	}
	stop()
	healthy("after a stranger with our VRID")

	stop = p.speak(vrrp.Advert{Version: 3, VRID: 52, Priority: 50, Interval: time.Second, Addrs: []netip.Addr{netip.MustParseAddr(vip)}})
	if wrong := examine(p.b); len(wrong) != 1 {
		t.Errorf("another VRID with our address: %+v", wrong)
	} else {
		has(wrong, "VRID 51 on eth0 is this router's alone", "192.0.2.3: adverts ", "")
	}
	stop()

	// The backup hears nothing, and becomes master beside the other.
	p.b.Run("nft", "add table inet firewall")
	p.b.Run("nft", "add chain inet firewall in { type filter hook input priority 0; }")
	p.b.Run("nft", "add rule inet firewall in meta l4proto 112 drop")
	p.b.wantAddr(vip, true)
	wrong := examine(p.b)
	has(wrong, "adverts on eth0 get past the packet filter", "those of 192.0.2.1 do not", "nft list ruleset")
	has(wrong, `one master of router "public"`, "this host with priority 100", "packet filter")
	has(wrong, "one director answers for 192.0.2.10 on eth0", "this host, and ", "")
	has(examine(p.a), `one master of router "public"`, "192.0.2.2 with priority 100", "packet filter")
	p.b.Run("nft", "insert rule inet firewall in meta l4proto 112 accept")
	healthy("after the packet filter")

	// The master is not heard, and knows nothing of it.
	p.b.stop()
	p.a.Run("nft", "add table inet firewall")
	p.a.Run("nft", "add chain inet firewall out { type filter hook output priority 0; }")
	p.a.Run("nft", "add rule inet firewall out meta l4proto 112 drop")
	has(examine(p.a), `one master of router "public"`, "this host has the addresses and sends no adverts", "112 out of this host")
	p.a.Run("nft", "delete table inet firewall")
	p.b.start()
	healthy("after a master that was not heard")

	// Another interface of the master's answers, too.
	second := p.a.Connect(p.sw, "192.0.2.77/24")
	wrong = examine(p.a)
	if len(wrong) != 1 || wrong[0].Severity != finding.Warning || wrong[0].What != "this host answers for 192.0.2.10 on eth0 alone" || !strings.HasPrefix(wrong[0].Seen, "by "+second) {
		t.Fatalf("two interfaces in one network: %+v", wrong)
	}
	p.a.Run("sh", "-c", wrong[0].Remedy)
	healthy("after the second interface")

	p.b.stop()
	p.a.powerOff()
	has(examine(p.b), `one master of router "public"`, "no advert in 600ms", "systemctl start poise")
	p.b.Run("ip", "link", "set", "eth0", "down")
	has(examine(p.b), "eth0 can send and receive", "down", "ip link set eth0 up")
}

// speak has the client send an advert ten times a second.
func (p *pair) speak(a vrrp.Advert) (stop func()) {
	from := netip.MustParseAddr("192.0.2.3")
	message := a.Append(nil, from, vrrp.GroupIPv4, vrrp.PseudoHeader)
	done := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for tick := time.Tick(100 * time.Millisecond); ; {
			p.inject(from.String(), message)
			select {
			case <-done:
				return
			case <-tick:
			}
		}
	})
	return func() {
		close(done)
		sender.Wait()
	}
}
