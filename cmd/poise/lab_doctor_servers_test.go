package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"poise/internal/finding"
	"poise/internal/lab"
)

// behind is a director with a server of each method, in both families, and everything that they need. Ports tell the methods apart.
type behind struct {
	*lab.LVS
	*daemon
	nat, dr, tun, full *lab.RealServer
	applied            map[*lab.RealServer][]string // what set a server up
}

const (
	natPort, drPort, tunPort, fullPort = 80, 81, 82, 83
	rangePort                          = 84 // the first of two, of a second service of the DR server
)

func newBehind(t *testing.T) *behind {
	t.Helper()
	l := newLVS6(t)
	b := &behind{LVS: l, nat: l.AddServer(lab.NAT), dr: l.AddServer(lab.DR), tun: l.AddServer(lab.TUN), full: l.AddServer(lab.FullNAT), applied: make(map[*lab.RealServer][]string)}
	for _, s := range []struct {
		*lab.RealServer
		args string
	}{
		{b.dr, vipsArgs},
		{b.tun, tunArgs + " --address " + b.tun.Addr.String()},
	} {
		b.applied[s.RealServer] = strings.Fields("realserver apply --runtime-dir " + t.TempDir() + " " + s.args)
		s.Run("poise", b.applied[s.RealServer]...)
	}
	config := ""
	for _, s := range []struct {
		server *lab.RealServer
		method lab.Method
		port   int
		ports  string
	}{
		{b.nat, lab.NAT, natPort, "80"},
		{b.dr, lab.DR, drPort, "81"},
		{b.tun, lab.TUN, tunPort, "82"},
		{b.full, lab.FullNAT, fullPort, "83"},
		{b.dr, lab.DR, rangePort, "84-85"},
	} {
		s.server.ServeHTTP(fmt.Sprintf(":%d", s.port))
		tun6 := s.server.Addr6
		if s.method == lab.TUN {
			tun6 = s.server.Addr // one tunnel for both
		}
		more := fmt.Sprintf("forward = %q\ncheck = { type = \"http\" }", s.method)
		config += block(fmt.Sprint(s.method, s.port), fmt.Sprintf("\"%s:%s\"", lab.VIP, s.ports), more, fmt.Sprintf("{ address = %q }", s.server.Addr))
		config += block(fmt.Sprint(s.method, s.port, "-6"), fmt.Sprintf("\"[%s]:%s\"", lab.VIP6, s.ports), more, fmt.Sprintf("{ address = %q }", tun6))
	}
	b.daemon = startDaemon(t, l.Director, config)
	b.allUp()
	return b
}

func (b *behind) examine(t *testing.T, h *lab.Host) []finding.Finding {
	t.Helper()
	return examined(t, h, "doctor", filepath.Join(b.dir, "poise.toml"), "--servers", "--runtime-dir", b.dir)
}

// TestLabDoctorServers: what a server's own address does not tell, a request through the virtual address does: each fault is found
// and named, and its remedy mends it; healthy servers of all methods and families have none. Nothing is left on the director.
func TestLabDoctorServers(t *testing.T) {
	b := newBehind(t)
	before := b.Director.Run("sh", "-c", "poise ipvs -Sn; nft list ruleset; sysctl -a 2>/dev/null | grep -e accept_local -e rp_filter")
	if wrong := b.examine(t, b.Director); len(wrong) > 0 {
		t.Fatalf("healthy servers: %+v", wrong)
	}
	for _, f := range []struct {
		name   string
		on     *lab.RealServer
		plant  string
		what   string // of the finding about IPv4, or else the first
		seen   string
		remedy string // what a person makes of it: the finding has this in it
	}{
		{"VIP missing on lo", b.dr, "ip address del 192.0.2.10/32 dev lo", "server 192.0.2.22 of \"dr81\" answers for 192.0.2.10:81", "answers directly, not for the VIP: ", "poise realserver apply --mode dr --vip 192.0.2.10"},
	} {
		f.on.Run("sh", "-c", f.plant)
		wrong := b.examine(t, b.Director)
		if len(wrong) == 0 || wrong[0].What != f.what || !strings.Contains(wrong[0].Seen, f.seen) || !strings.Contains(wrong[0].Remedy, f.remedy) {
			t.Fatalf("%s: found %+v", f.name, wrong)
		}
		f.on.Run("poise", b.applied[f.on]...)
		if wrong := b.examine(t, b.Director); len(wrong) > 0 {
			t.Fatalf("%s: mended, and still %+v", f.name, wrong)
		}
	}
	if after := b.Director.Run("sh", "-c", "poise ipvs -Sn; nft list ruleset; sysctl -a 2>/dev/null | grep -e accept_local -e rp_filter"); after != before {
		t.Errorf("the director is\n%swas\n%s", after, before)
	}
	_ = netip.Addr{}
}
