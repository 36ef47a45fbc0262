package main

import (
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

// run runs a command on the machine of the test.
func run(t *testing.T, words ...string) {
	t.Helper()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", words, err, out)
	}
}
