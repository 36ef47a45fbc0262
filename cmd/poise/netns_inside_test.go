package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"poise/internal/lab"
	"poise/internal/status"
	"poise/vrrp"
)

// TestNetnsPairInside: the address that is the servers' gateway moves with the public one, is announced where the servers
// are, and a link that is down there moves both.
func TestNetnsPairInside(t *testing.T) {
	const gateway = "10.0.0.254"
	p := newPair(t, keys{"advert_interval": "100ms", "excluded_addresses": []string{gateway}, "excluded_interface": "eth1"})
	inside, server := p.Switch("inside"), p.Host("server")
	macs := map[*node]string{}
	for i, n := range []*node{p.a, p.b} {
		n.Connect(inside, fmt.Sprintf("10.0.0.%d/24", i+1))
		if err := n.Do(func() error {
			link, err := netlink.LinkByName("eth1")
			macs[n] = link.Attrs().HardwareAddr.String()
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	server.Connect(inside, "10.0.0.9/24")
	seen := server.Capture("eth0")
	announced := func(by *node) {
		t.Helper()
		lab.Eventually(t, patience, func() error {
			if slices.ContainsFunc(gratuitous(seen, gateway), func(a arp) bool { return a.MAC == macs[by] }) {
				return nil
			}
			return fmt.Errorf("%s has not announced the gateway", by.Name)
		})
	}
	p.a.start()
	p.b.start()
	p.wantMaster(p.a)
	announced(p.a)

	p.a.SetLink("eth1", false)
	p.wantMaster(p.b)
	announced(p.b)
	p.a.wantRouter("a fault that names the link", func(r status.Router) bool {
		return r.State == vrrp.Fault && r.Faults == "interface not up (eth1)"
	})
	p.a.SetLink("eth1", true)
	p.wantMaster(p.a)
	for _, n := range []*node{p.a, p.b} {
		if n.has(gateway) {
			t.Errorf("%s has the gateway on eth0", n.Name)
		}
	}
}
