package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"poise/internal/finding"
	"poise/internal/lab"
	"poise/internal/lab/guest"
)

// TestLabDoctor: each fault on a director and around it is found and named, and its remedy mends it; a healthy one has none.
func TestLabDoctor(t *testing.T) {
	l := newLVS6(t)
	server, neighbour := l.AddServer(lab.DR), l.AddNeighbour()
	dir := t.TempDir()
	apply := []string{"realserver", "apply", "--vip", lab.VIP, "--vip", lab.VIP6, "--runtime-dir", dir}
	server.Run("poise", apply...)
	full := l.AddServer(lab.FullNAT)
	server.ServeHTTP(":80")
	full.ServeHTTP(":81")
	d := startDaemon(t, l.Director, block("dr", fmt.Sprintf("\"%s:80\"", lab.VIP), `forward = "dr"`, fmt.Sprintf("{ address = %q }", server.Addr))+
		block("dr6", fmt.Sprintf("\"[%s]:80\"", lab.VIP6), `forward = "dr"`, fmt.Sprintf("{ address = %q }", server.Addr6))+
		block("full", fmt.Sprintf("\"%s:81\"", lab.VIP), `forward = "fullnat"`, fmt.Sprintf("{ address = %q }", full.Addr)))
	file := filepath.Join(d.dir, "poise.toml")
	examine := func() []finding.Finding {
		t.Helper()
		return examined(t, l.Director, "doctor", file)
	}
	if wrong := examine(); len(wrong) > 0 {
		t.Fatalf("a healthy director: %+v", wrong)
	}
	d.stop() // it would put settings back by itself
	for _, f := range []struct {
		name   string
		on     *lab.Host
		plant  string
		what   string
		seen   string
		remedy string // what a person makes of the remedy
	}{
		{"ip_forward 0", l.Director, "sysctl -qw net.ipv4.ip_forward=0", "net.ipv4.ip_forward", "0", ""},
		{"send_redirects 1", l.Director, "sysctl -qw net.ipv4.conf.eth0.send_redirects=1", "net.ipv4.conf.eth0.send_redirects", "1", ""},
		{"conntrack 0 with full NAT", l.Director, "sysctl -qw net.ipv4.vs.conntrack=0", "net.ipv4.vs.conntrack", "0", ""},
		{"a second holder", neighbour, "ip address add 192.0.2.10/32 dev eth0", "one director answers for 192.0.2.10 on eth0", "this host, and ", "ip address del 192.0.2.10/32 dev eth0"},
		{"a second holder of IPv6", neighbour, "ip address add 2001:db8:2::10/128 dev eth0 nodad", "one director answers for 2001:db8:2::10 on eth0", "this host, and ", "ip address del 2001:db8:2::10/128 dev eth0"},
		{"a server answers", server.Host, "sysctl -qw net.ipv4.conf.all.arp_ignore=0", "one director answers for 192.0.2.10 on eth0", "server 192.0.2.21 (", "poise " + strings.Join(apply, " ")},
		{
			"strict reverse paths", l.Director, "ip route replace default dev eth1; sysctl -qw net.ipv4.conf.eth0.rp_filter=1",
			"eth0 lets packets of all clients in", "rp_filter 1 in force, while the way to clients leaves through eth1", "",
		},
		{
			"an address that follows", l.Director, "ip address del 192.0.2.10/32 dev eth0; ip address add 192.0.2.10/24 dev eth0",
			"192.0.2.10/24 stays on eth0 without the other addresses there", "promote_secondaries 0 in force", "",
		},
		{"VIP lost", l.Director, "ip address del 192.0.2.10/24 dev eth0", "192.0.2.10 is on this host", "on no interface", "ip address add 192.0.2.10/32 dev eth0"},
	} {
		f.on.Run("sh", "-c", f.plant)
		wrong := examine()
		if len(wrong) != 1 || wrong[0].What != f.what || !strings.Contains(wrong[0].Seen, f.seen) {
			t.Fatalf("%s: found %+v", f.name, wrong)
		}
		remedy := f.remedy
		if remedy == "" {
			remedy, _, _ = strings.Cut(wrong[0].Remedy, ":")
		}
		f.on.Run("sh", "-c", remedy)
		if wrong := examine(); len(wrong) > 0 {
			t.Fatalf("%s: after %q still %+v", f.name, remedy, wrong)
		}
	}

	l.Director.Run("sh", "-c", "sysctl -qw net.ipv4.conf.eth0.rp_filter=1; ip route add default via 192.0.2.254 table 100; ip rule add from 192.0.2.10 lookup 100")
	if wrong := examine(); len(wrong) > 0 {
		t.Errorf("a way back that is the address's own: found %+v", wrong)
	}
	// Packets for an address on a dummy come routed: who is asked for it there, and which way back clients have, does not matter.
	l.Director.Run("sh", "-c", "ip address del 192.0.2.10/32 dev eth0; ip link add dummy0 type dummy; ip link set dummy0 up; "+
		"ip address add 192.0.2.10/32 dev dummy0; sysctl -qw net.ipv4.conf.dummy0.rp_filter=1")
	if wrong := examine(); len(wrong) > 0 {
		t.Errorf("an address on a dummy: found %+v", wrong)
	}

	// A full table drops connections, those of this examination among them.
	if _, inGuest := os.LookupEnv(guest.BackendVar); !inGuest {
		return // it is the same for the whole machine
	}
	const setting = "net/netfilter/nf_conntrack_max"
	former := l.Director.ReadSysctl(setting)
	defer func() { run(t, "sysctl", "-qw", setting+"="+former) }()
	run(t, "sysctl", "-qw", setting+"="+l.Director.ReadSysctl("net/netfilter/nf_conntrack_count"))
	wrong := examine()
	at := slices.IndexFunc(wrong, func(f finding.Finding) bool { return f.What == "the table of tracked connections has room" })
	if at < 0 || wrong[at].Severity != finding.Fault {
		t.Fatalf("a full table: found %+v", wrong)
	}
	remedy, _, _ := strings.Cut(wrong[at].Remedy, ":")
	run(t, strings.Fields(remedy)...)
	if wrong := examine(); len(wrong) > 0 {
		t.Errorf("a full table: after %q still %+v", remedy, wrong)
	}
}

// TestLabDoctorTrunk: a router on an interface and one on a VLAN of it have nothing to do with each other, whatever their VRIDs.
func TestLabDoctorTrunk(t *testing.T) {
	p := newPair(t, keys{"advert_interval": "200ms"})
	for i, n := range []*node{p.a, p.b} {
		n.Run("sh", "-c", fmt.Sprintf("ip link add link eth0 name eth0.100 type vlan id 100; ip link set eth0.100 up; ip address add 198.51.100.%d/24 dev eth0.100", i+1))
		vlan := keys{"name": "vlan", "interface": "eth0.100", "vrid": 51, "priority": 100 + 50*i, "addresses": []string{"198.51.100.10"}, "advert_interval": "200ms"}
		n.routers = append(n.routers, vlan)
		n.start()
	}
	p.wantMaster(p.a)
	lab.Eventually(t, patience, func() error {
		a, b := p.a.Run("ip", "address", "show", "dev", "eth0.100"), p.b.Run("ip", "address", "show", "dev", "eth0.100")
		if strings.Contains(a, "198.51.100.10/32") || !strings.Contains(b, "198.51.100.10/32") {
			return errors.New(a + b)
		}
		return nil
	})
	for _, n := range []*node{p.a, p.b} {
		if wrong := examined(t, n.Host, "doctor", n.file, "--runtime-dir", n.dir); len(wrong) > 0 {
			t.Errorf("%s: found %+v", n.addr, wrong)
		}
	}
}

// run runs a command on the machine of the test.
func run(t *testing.T, words ...string) {
	t.Helper()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", words, err, out)
	}
}
