package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"poise/internal/finding"
	"poise/internal/host"
	"poise/internal/lab"
)

// behind is a director with a server of each method, in both families, and everything that they need. Ports tell the methods apart.
type behind struct {
	*lab.LVS
	*daemon
	nat, dr, tun, full *lab.RealServer
	applied            map[*lab.RealServer][]string // what set a server up
	serving            map[int]*lab.Server          // by port
}

const (
	natPort, drPort, tunPort, fullPort = 80, 81, 82, 83
	rangePort                          = 84 // the first of two, of a second service of the DR server
	ownPort                            = 86 // of the director itself
)

func newBehind(t *testing.T) *behind {
	t.Helper()
	l := newLVS6(t)
	b := &behind{LVS: l, nat: l.AddServer(lab.NAT), dr: l.AddServer(lab.DR), tun: l.AddServer(lab.TUN), full: l.AddServer(lab.FullNAT), applied: make(map[*lab.RealServer][]string), serving: make(map[int]*lab.Server)}
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
		b.serving[s.port] = s.server.ServeHTTP(fmt.Sprintf(":%d", s.port))
		tun6 := s.server.Addr6
		if s.method == lab.TUN {
			tun6 = s.server.Addr // one tunnel for both
		}
		more := fmt.Sprintf("forward = %q\ncheck = { type = \"http\" }", s.method)
		config += block(fmt.Sprint(s.method, s.port), fmt.Sprintf("\"%s:%s\"", lab.VIP, s.ports), more, fmt.Sprintf("{ address = %q }", s.server.Addr))
		config += block(fmt.Sprint(s.method, s.port, "-6"), fmt.Sprintf("\"[%s]:%s\"", lab.VIP6, s.ports), more, fmt.Sprintf("{ address = %q }", tun6))
	}
	l.Director.ServeHTTP(fmt.Sprintf(":%d", ownPort))
	config += block("own", fmt.Sprintf("\"%s:%d\"", lab.VIP, ownPort), `forward = "dr"`, fmt.Sprintf("{ address = %q }", lab.DirectorIP))
	config += block("own-nat-6", fmt.Sprintf("\"[%s]:%d\"", lab.VIP6, ownPort), `forward = "nat"`, fmt.Sprintf("{ address = %q }", lab.DirectorIP6))
	b.daemon = startDaemon(t, l.Director, config)
	b.allUp()
	return b
}

func (b *behind) examine(t *testing.T, h *lab.Host) []finding.Finding {
	t.Helper()
	return examined(t, h, "doctor", b.file, "--servers", "--runtime-dir", b.dir)
}

// TestLabDoctorServers: what a server's own address does not tell, a request through the virtual address does: each fault is found
// and named, and its remedy mends it; healthy servers of all methods and families have none. Nothing is left on the director.
func TestLabDoctorServers(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	state := func() string { // without weights, which checks change
		return b.Director.Run("sh", "-c", "poise ipvs -Sn | sed 's/ -w [0-9]*//'; nft list ruleset; sysctl -a 2>/dev/null | grep -e accept_local -e rp_filter")
	}
	before := state()
	if wrong := b.examine(t, b.Director); len(wrong) > 0 {
		t.Fatalf("healthy servers: %+v", wrong)
	}
	b.AddBypass()
	b.Director.Run("ip", "link", "set", "eth0", "gso_max_segs", "1") // packets, as on a cable: else several go as one of any size
	apply := func(s *lab.RealServer, more ...string) string {
		return "poise " + strings.Join(append(b.applied[s], more...), " ")
	}
	mended := "" // what was found last
	for _, f := range []struct {
		name   string
		on     *lab.RealServer
		plant  string
		what   string
		seen   string
		remedy string // is part of what the finding says
		mend   string // what a person makes of it
		mild   bool   // a warning
	}{
		{
			name: "the tunnel has less room than the server tells clients", on: b.tun, plant: "nft delete table inet poise_realserver",
			what: `server 192.0.2.23 of "tun82-6" answers for [2001:db8:2::10]:82`, seen: "takes packets of 1500 bytes, of which 1480 fit into the tunnel",
			remedy: "poise realserver apply --mode tun --address 192.0.2.23 --vip 2001:db8:2::10: on 192.0.2.23", mend: apply(b.tun), mild: true,
		},
		{
			"VIP missing on lo", b.dr, "ip address del 192.0.2.10/32 dev lo",
			`server 192.0.2.22 of "dr81" answers for 192.0.2.10:81`, "answers directly, not for the VIP: ",
			"poise realserver apply --mode dr --vip 192.0.2.10: on 192.0.2.22", apply(b.dr), false,
		},
		{
			"VIP of IPv6 missing on lo", b.dr, "ip address del 2001:db8:2::10/128 dev lo",
			`server 2001:db8:2::22 of "dr84-6" answers for [2001:db8:2::10]:84`, "answers directly, not for the VIP: ",
			"poise realserver apply --mode dr --vip 2001:db8:2::10: on 2001:db8:2::22", apply(b.dr), false,
		},
		{
			"the packet filter drops the VIP", b.dr, "nft add table ip filter; nft 'add chain ip filter in { type filter hook input priority 0; }'; nft add rule ip filter in ip daddr 192.0.2.10 tcp dport 81 drop",
			`server 192.0.2.22 of "dr81" answers for 192.0.2.10:81`, "answers directly, not for the VIP: no answer within 1s",
			"its packet filter has to let it in, nft list ruleset", "nft insert rule ip filter in tcp dport 81 accept", false,
		},
		{
			"the way carries less than the tunnel takes it to", b.tun, "ip link set eth0 mtu 1400",
			`server 192.0.2.23 of "tun82" answers for 192.0.2.10:82`, "answers, but no request of 4000 bytes: ",
			"poise realserver apply --mode tun --address 192.0.2.23 --vip 192.0.2.10 --mtu N: on 192.0.2.23", apply(b.tun, "--mtu", "1380"), false,
		},
		{
			"the director is the gateway", b.dr, "ip route replace default via 192.0.2.1",
			"replies of 192.0.2.22 for 192.0.2.10:81 to clients pass this host by", "one came back by eth0, from ",
			"ip route replace default via ROUTER: on 192.0.2.22", "ip route replace default via 192.0.2.254", false,
		},
		{
			"the director is the gateway of IPv6", b.dr, "ip route replace default via 2001:db8:2::1",
			"replies of 2001:db8:2::22 for [2001:db8:2::10]:81 to clients pass this host by", "one came back by eth0, from ",
			"ip route replace default via ROUTER: on 2001:db8:2::22", "ip route replace default via 2001:db8:2::254", true, // clients have their answers
		},
		{
			"the gateway is past the director", b.nat, "ip route replace default via 10.0.0.253",
			"replies of 10.0.0.21 for 192.0.2.10:80 to clients come back here", "one to 203.0.113.113 did not",
			"poise realserver apply --mode nat --gateway 10.0.0.1: on 10.0.0.21", "poise realserver apply --mode nat --gateway 10.0.0.1 --runtime-dir " + t.TempDir(), false,
		},
		{
			"strict reverse paths at the tunnel's end", b.tun, "echo 1 > /proc/sys/net/ipv4/conf/poise-ip4/rp_filter",
			`server 192.0.2.23 of "tun82" answers for 192.0.2.10:82`, "answers directly, not for the VIP: no answer within 1s",
			"poise realserver apply --mode tun --address 192.0.2.23 --vip 192.0.2.10: on 192.0.2.23", apply(b.tun), false,
		},
		{
			"no way back at all", b.nat, "ip route del default",
			`server 10.0.0.21 of "nat80" answers for 192.0.2.10:80`, "answers directly, not for the VIP: no answer within 1s",
			"poise realserver apply --mode nat --gateway 10.0.0.1: on 10.0.0.21", "poise realserver apply --mode nat --gateway 10.0.0.1 --runtime-dir " + t.TempDir(), false,
		},
		{
			"tunnel down", b.tun, "ip link set poise-ip4 down",
			`server 192.0.2.23 of "tun82" answers for 192.0.2.10:82`, "answers directly, not for the VIP: ",
			"poise realserver apply --mode tun --address 192.0.2.23 --vip 192.0.2.10: on 192.0.2.23", apply(b.tun), false,
		},
	} {
		f.on.Run("sh", "-c", f.plant)
		wrong := b.examine(t, b.Director)
		found := func(what string) int {
			return slices.IndexFunc(wrong, func(w finding.Finding) bool { return w.What == what })
		}
		severity := finding.Fault
		if f.mild {
			severity = finding.Warning
		}
		if at := found(f.what); at < 0 || wrong[at].Severity != severity || !strings.HasPrefix(wrong[at].Seen, f.seen) || !strings.Contains(wrong[at].Remedy, f.remedy) {
			t.Errorf("%s: found %+v", f.name, wrong)
		}
		if found(mended) >= 0 {
			t.Errorf("%s: the fault before it was mended, and is still found: %+v", f.name, wrong)
		}
		f.on.Run("sh", "-c", f.mend)
		mended = f.what
	}

	b.serving[drPort].Kill()
	own := b.dr.ServeHTTP(netip.AddrPortFrom(b.dr.Addr, drPort).String())
	wrong := b.examine(t, b.Director)
	if len(wrong) != 3 || wrong[1].What != `server 192.0.2.22 of "dr81" answers for 192.0.2.10:81` ||
		!strings.HasPrefix(wrong[1].Seen, "answers directly, not for the VIP: ") || !strings.Contains(wrong[1].Remedy, "something has to listen on 192.0.2.10:81 there, ss -ltn") {
		t.Errorf("nothing listens on the virtual address: found %+v", wrong) // and nothing at all for IPv6
	}
	own.Kill()

	// The server may hand requests on to a container.
	b.dr.Run("sh", "-c", "sysctl -qw net.ipv4.ip_forward=1; nft add table ip nat; nft 'add chain ip nat pre { type nat hook prerouting priority dstnat; }'; nft 'add chain ip nat post { type nat hook postrouting priority srcnat; }'; "+
		fmt.Sprintf("nft add rule ip nat pre ip daddr 192.0.2.10 tcp dport %d dnat to %v:%d; nft add rule ip nat post ip daddr %v masquerade", drPort, b.full.Addr, fullPort, b.full.Addr))
	for _, f := range b.examine(t, b.Director) {
		if f.What == `server 192.0.2.22 of "dr81" answers for 192.0.2.10:81` && f.Severity == finding.Fault {
			t.Errorf("a container behind the server: %+v", f)
		}
	}
	b.dr.Run("nft", "delete", "table", "ip", "nat")
	b.serving[drPort].Restart()
	if wrong := b.examine(t, b.Director); len(wrong) > 0 {
		t.Errorf("all is mended, and still %+v", wrong)
	}
	if after := state(); after != before {
		t.Errorf("the director is\n%swas\n%s", after, before)
	}

	// Interrupted, when it has changed something and waits for an answer.
	b.dr.Run("sh", "-c", "ip address del 192.0.2.10/32 dev lo")
	p := b.Director.Start(exec.Command("poise", "doctor", b.file, "--servers", "--runtime-dir", b.dir))
	lab.Eventually(t, patience, func() error {
		return b.Director.Do(func() error { // state would take longer than it waits
			accepts, err := host.Sysctls{}.Read("net.ipv4.conf.eth0.accept_local")
			if err == nil && accepts != "1" {
				err = errors.New("accept_local is not set")
			}
			return err
		})
	})
	p.Signal(os.Interrupt)
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("interrupted: %v", err)
	}
	if after := state(); after != before {
		t.Errorf("interrupted, the director is\n%swas\n%s", after, before)
	}
}

// TestLabDoctorBackup: the same on the director that has not the virtual addresses. A server without its virtual address that
// forwards gives the question to who has the address: that one's answer is not the server's.
func TestLabDoctorBackup(t *testing.T) {
	t.Parallel()
	b := newBehind(t)
	master := b.AddNeighbour()
	for _, vip := range []string{lab.VIP + "/32", lab.VIP6 + "/128"} {
		b.Director.Run("ip", "address", "del", vip, "dev", "eth0")
		master.Run("ip", "address", "add", vip, "dev", "eth0", "nodad")
	}
	master.ServeHTTP(fmt.Sprintf(":%d", drPort))
	master.ServeHTTP(fmt.Sprintf(":%d", tunPort))
	examine := func() []finding.Finding {
		t.Helper()
		return slices.DeleteFunc(b.examine(t, b.Director), func(f finding.Finding) bool {
			return !strings.HasPrefix(f.What, "server ") && !strings.HasPrefix(f.What, "replies ")
		})
	}
	if wrong := examine(); len(wrong) > 0 {
		t.Fatalf("healthy servers: %+v", wrong)
	}
	b.dr.Run("sh", "-c", "ip address del 192.0.2.10/32 dev lo; ip address del 2001:db8:2::10/128 dev lo; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	b.tun.Run("sh", "-c", "ip address del 192.0.2.10/32 dev poise-ip4; sysctl -qw net.ipv4.ip_forward=1")
	wrong := examine()
	for _, want := range []string{
		`server 192.0.2.22 of "dr81" answers for 192.0.2.10:81`, `server 2001:db8:2::22 of "dr81-6" answers for [2001:db8:2::10]:81`,
		`server 192.0.2.23 of "tun82" answers for 192.0.2.10:82`,
	} {
		if !slices.ContainsFunc(wrong, func(f finding.Finding) bool { return f.What == want && f.Severity == finding.Fault }) {
			t.Errorf("no %q in %+v", want, wrong)
		}
	}
}

// TestLabDoctorBackupOnly: from a director that balances nothing as long as it is a backup nobody is asked, and no server is blamed.
func TestLabDoctorBackupOnly(t *testing.T) {
	l := newLVS(t)
	l.Director.DelAddr("eth0", lab.VIP+"/32")
	l.AddNeighbour().AddAddr("eth0", lab.VIP+"/32") // the master, where nothing listens
	server := l.AddServer(lab.DR)
	server.Run("poise", "realserver", "apply", "--vip", lab.VIP, "--runtime-dir", t.TempDir())
	server.ServeHTTP(":80")
	d := startDaemon(t, l.Director, block("dr", fmt.Sprintf("\"%s:80\"", lab.VIP), `forward = "dr"`, fmt.Sprintf("{ address = %q }", server.Addr))+
		"[ipvs.sysctl]\nbackup_only = 1\n[ipvs.sync]\nrole = \"backup\"\ninterface = \"eth0\"\nid = 1\n")
	wrong := slices.DeleteFunc(examined(t, l.Director, "doctor", d.file, "--servers", "--runtime-dir", d.dir), func(f finding.Finding) bool {
		return !strings.HasPrefix(f.What, "server")
	})
	if len(wrong) != 1 || wrong[0].Severity != finding.Warning || !strings.HasPrefix(wrong[0].Seen, "nobody was asked: net.ipv4.vs.backup_only is 1") {
		t.Errorf("found %+v", wrong)
	}
}
