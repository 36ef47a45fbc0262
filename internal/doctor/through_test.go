package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"poise/checker"
	"poise/config"
	"poise/internal/finding"
	"poise/internal/through"
	"poise/ipvsctl"
)

// someClient asks 192.0.2.21 by a method.
func someClient(m ipvsctl.Method) *client {
	return &client{
		service: "web", gateway: "10.0.0.1", direct: true,
		way: through.Way{VIP: netip.MustParseAddrPort("192.0.2.10:80"), Server: netip.MustParseAddrPort("192.0.2.21:80"), Method: m},
	}
}

func TestJudgeClient(t *testing.T) {
	lost := errors.New("no answer within 1s")
	cannot := fmt.Errorf("%w: rp_filter is 1 on eth0", through.ErrCannot)
	for _, tt := range []struct {
		name   string
		method ipvsctl.Method
		spoil  func(*client)
		silent bool
		want   finding.Severity
		seen   string
		remedy string
	}{
		{"healthy", ipvsctl.DR, func(c *client) {}, false, finding.OK, "also directly", ""},
		{"healthy tunnel", ipvsctl.TUN, func(c *client) { c.askedLarger, c.room, c.segment = true, 1480, 1480 }, false, finding.OK, "also directly, and requests of 4000 bytes", ""},
		{"not for the VIP", ipvsctl.DR, func(c *client) { c.errThrough = lost }, false, finding.Fault, "answers directly, not for the VIP: no answer within 1s", "poise realserver apply --mode dr --vip 192.0.2.10: on 192.0.2.21; then"},
		{"no way back", ipvsctl.NAT, func(c *client) { c.errThrough = lost }, false, finding.Fault, "answers directly, not for the VIP: no answer within 1s", "poise realserver apply --mode nat --gateway 10.0.0.1: on 192.0.2.21"},
		{"gue", ipvsctl.TUN, func(c *client) {
			c.errThrough, c.way.Tunnel = lost, ipvsctl.Tunnel{Type: ipvsctl.GUE, Port: 6080}
		}, false, finding.Fault, "answers directly", "poise realserver apply --mode tun --address 192.0.2.21 --vip 192.0.2.10 --tunnel gue --tunnel-port 6080: on 192.0.2.21"},
		{"gre", ipvsctl.TUN, func(c *client) {
			c.errThrough, c.way.Tunnel = lost, ipvsctl.Tunnel{Type: ipvsctl.GRE, Checksum: ipvsctl.FullChecksum}
		}, false, finding.Fault, "answers directly", "--vip 192.0.2.10 --tunnel gre --tunnel-checksum: on 192.0.2.21"},
		{"full NAT", ipvsctl.NAT, func(c *client) { c.errThrough, c.fullNAT = lost, true }, false, finding.Fault, "answers directly", "poise status: whether net.ipv4.vs.conntrack is 1"},
		{"nobody answers", ipvsctl.DR, func(c *client) { c.errThrough = lost }, true, finding.Fault, "answers directly", "also the packet filter of this host, which must let answers from 192.0.2.10:80 in"},
		{"nobody answers by NAT", ipvsctl.NAT, func(c *client) { c.errThrough = lost }, true, finding.Fault, "answers directly", "also the packet filter of this host, which must let answers from 192.0.2.21:80 in"},
		{"dead", ipvsctl.DR, func(c *client) { c.errThrough, c.errDirect = lost, errors.New("connection refused") }, false, finding.Fault, "answers neither for it: no answer within 1s; nor directly: connection refused", "ss -ltn"},
		{"on the VIP alone", ipvsctl.DR, func(c *client) { c.errDirect, c.direct = lost, false }, false, finding.OK, "for that alone", ""},
		{"on the VIP alone, and checked", ipvsctl.DR, func(c *client) { c.errDirect = lost }, false, finding.Warning, "answers for it, not directly: no answer within 1s", "have it listen on 192.0.2.21:80, too"},
		{"small only", ipvsctl.TUN, func(c *client) { c.askedLarger, c.errLarge = true, lost }, false, finding.Fault, "answers, but no request of 4000 bytes: no answer within 1s", "--mtu N: on 192.0.2.21"},
		{"by ICMP only", ipvsctl.TUN, func(c *client) { c.askedLarger, c.room, c.segment = true, 1480, 1500 }, false, finding.Warning, "takes packets of 1500 bytes, of which 1480 fit into the tunnel", "poise realserver apply --mode tun"},
		{"cannot", ipvsctl.DR, func(c *client) { c.errThrough = cannot }, true, finding.Warning, "cannot ask through the virtual address: rp_filter is 1 on eth0", "mend what it says"},
	} {
		c := someClient(tt.method)
		tt.spoil(c)
		f := c.judge(tt.silent, true)
		if f.Severity != tt.want || !strings.HasPrefix(f.Seen, tt.seen) || !strings.Contains(f.Remedy, tt.remedy) || (f.Remedy == "") != (tt.want == finding.OK) {
			t.Errorf("%s: %+v", tt.name, f)
		}
	}
	c := someClient(ipvsctl.DR)
	c.errThrough = lost
	if f := c.judge(false, false); !strings.Contains(f.Remedy, "ask from the master") {
		t.Errorf("on a backup: %+v", f)
	}
}

func TestJudgeReturn(t *testing.T) {
	here, elsewhere := through.Return{Here: true, Link: "eth1"}, through.Return{}
	sentOn := through.Return{Here: true, Link: "eth1", SentOn: true}
	for _, tt := range []struct {
		name   string
		method ipvsctl.Method
		full   bool
		r      through.Return
		local  bool
		want   string // severities
	}{
		{"nat", ipvsctl.NAT, false, here, true, "ok"},
		{"nat, past the director", ipvsctl.NAT, false, elsewhere, true, "FAULT"},
		{"nat on the backup: the master's business", ipvsctl.NAT, false, elsewhere, false, ""},
		{"full NAT has this host's address", ipvsctl.NAT, true, elsewhere, true, ""},
		{"dr", ipvsctl.DR, false, elsewhere, true, "ok"},
		{"dr through the director", ipvsctl.DR, false, here, true, "FAULT"},
		{"dr through the director, and on", ipvsctl.DR, false, sentOn, true, "warning"},
		{"tun through the backup", ipvsctl.TUN, false, here, false, "FAULT"},
	} {
		c := someClient(tt.method)
		c.fullNAT = tt.full
		got := ""
		for _, f := range c.judgeReturn(tt.r, tt.local) {
			got += f.Severity.String()
			if (f.Remedy == "") != (f.Severity == finding.OK) || (f.Page == "") != (f.Severity == finding.OK) {
				t.Errorf("%s: %+v", tt.name, f)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestClientsOf: whom --servers asks, by which address and port.
func TestClientsOf(t *testing.T) {
	cfg, err := config.Parse("poise.toml", []byte(`
[[service]]
name = "web"
listen = ["127.0.0.10:80", "127.0.0.11:8000-8009"]
forward = "dr"
check = { type = "http", path = "/a?b" }
sorry_server = "127.0.0.9:0"
server = [{ address = "127.0.0.7" }]
[[service]]
name = "dns"
listen = ["127.0.0.10:53"]
protocol = "udp"
forward = "nat"
server = [{ address = "127.0.0.7" }]
[[service]]
name = "nat"
listen = ["127.0.0.10:81"]
forward = "nat"
check = { type = "http", port = 9000 }
server = [{ address = "127.0.0.7", port = 8081 }]
[[service]]
name = "elsewhere"
listen = ["127.0.0.10:82"]
forward = "dr"
check = { type = "http", port = 9000 }
server = [{ address = "127.0.0.7" }]
[[service]]
name = "mark"
fwmark = 7
forward = "dr"
server = [{ address = "127.0.0.7" }]
`), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range clientsOf(cfg) {
		got = append(got, fmt.Sprintf("%s %v %v %v direct=%v %s %s", c.service, c.way.VIP, c.way.Server, c.way.Method, c.direct, c.check.Type, c.check.Host))
	}
	want := []string{
		"web 127.0.0.10:80 127.0.0.7:80 dr direct=true http 127.0.0.7:80",
		"web 127.0.0.11:8000 127.0.0.7:8000 dr direct=true http 127.0.0.7:8000",
		"web 127.0.0.10:80 127.0.0.9:80 dr direct=false tcp ",
		"web 127.0.0.11:8000 127.0.0.9:8000 dr direct=false tcp ",
		"nat 127.0.0.10:81 127.0.0.7:8081 nat direct=true tcp ",
		"elsewhere 127.0.0.10:82 127.0.0.7:82 dr direct=false tcp ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if long := larger(checker.Config{Path: "/a?b"}); len(long.Path) < largeRequest || !strings.HasPrefix(long.Path, "/a?b&xxx") {
		t.Errorf("a larger request for %.20s", long.Path)
	}
}

func TestSilentServices(t *testing.T) {
	lost := errors.New("lost")
	var all []*client
	for _, c := range []struct {
		service string
		err     error
	}{{"silent", lost}, {"one", lost}, {"silent", lost}, {"late", lost}, {"late", nil}, {"late", lost}, {"well", nil}, {"well", lost}} {
		all = append(all, &client{service: c.service, errThrough: c.err})
	}
	for service, want := range map[string]bool{"silent": true, "one": true, "late": false, "well": false} {
		if got := silentServices(all)[service]; got != want {
			t.Errorf("%s: %v", service, got)
		}
	}
}
