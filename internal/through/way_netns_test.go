package through

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"poise/internal/host"
	"poise/internal/lab"
	"poise/ipvsctl"
)

// TestNetnsPath: from which address a way is asked, and what keeps it from being so, on the master and on the backup.
func TestNetnsPath(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	h := n.Host("director")
	for _, addr := range []string{"192.0.2.1/24", "10.0.0.1/24", "198.51.100.1/24"} { // outside, inside, nobody's
		h.Connect(n.Switch("switch"+addr[:3]), addr)
	}
	h.Route("default", "192.0.2.254")
	vip := netip.MustParseAddr("192.0.2.10")
	const near, far = "192.0.2.21:80", "10.0.0.21:80"
	for _, tt := range []struct {
		name   string
		holder string // of the virtual address
		filter int    // rp_filter
		server string
		method ipvsctl.Method
		want   string // the source, or what is wrong
	}{
		{"master, strict", "eth0", 1, near, ipvsctl.DR, "192.0.2.1"},
		{"master, strict, another interface", "eth0", 1, far, ipvsctl.DR, "rp_filter is 1 on eth1, which drops answers from 192.0.2.10, an address on another interface of this host: 2 does not"},
		{"master, loose", "eth0", 2, far, ipvsctl.TUN, "10.0.0.1"},
		{"master, nat", "eth0", 1, far, ipvsctl.NAT, "192.0.2.1"},
		{"on lo, nat", "lo", 1, far, ipvsctl.NAT, "192.0.2.1"},
		{"without ARP, nat", "eth2", 1, far, ipvsctl.NAT, "192.0.2.1"},
		{"backup, strict", "", 1, near, ipvsctl.DR, "192.0.2.1"},
		{"backup, strict, another interface", "", 1, far, ipvsctl.DR, "rp_filter is 1 on eth1, which drops answers from 192.0.2.10, which this host asks through eth0: 2 does not"},
		{"backup, strict, tunnel through another interface", "", 1, far, ipvsctl.TUN, "rp_filter is 1 on eth1"},
		{"backup, loose", "", 2, far, ipvsctl.DR, "10.0.0.1"},
		{"backup, no check", "", 0, far, ipvsctl.DR, "10.0.0.1"},
		{"backup, nat", "", 1, far, ipvsctl.NAT, "10.0.0.1"}, // comes from the server's own address
	} {
		h.Run("sh", "-c", fmt.Sprintf("ip link set eth2 arp off; sysctl -qw net.ipv4.conf.all.rp_filter=%d", tt.filter))
		if tt.holder != "" {
			h.AddAddr(tt.holder, vip.String()+"/32")
		}
		var p *path
		err := h.Do(func() error {
			around := survey{virtual: map[netip.Addr]bool{vip: true}, local: map[netip.Addr]bool{vip: tt.holder != ""}, links: make(map[string]host.Interface)}
			p = around.path(way(vip.String()+":80", tt.server, tt.method))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got := p.source.String()
		if p.err != nil {
			got = p.err.Error()
		}
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if tt.holder != "" {
			h.DelAddr(tt.holder, vip.String()+"/32")
		}
	}
}
