package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"poise/internal/finding"
	"poise/internal/lab"
)

// fault is something that goes wrong on a real server.
type fault struct {
	name  string
	plant []string // commands, or sysctls as "net/… value"
	found string   // in what is found
	seen  string
}

// TestNetnsVerify: each fault is found, named, and mended by its remedy; a healthy host has none.
func TestNetnsVerify(t *testing.T) {
	lab.NeedRoot(t)
	dr := []fault{
		{"VIP missing on lo", []string{"ip address del 192.0.2.10/32 dev lo"}, "192.0.2.10/32 on lo", "absent"},
		{"VIP on eth0 too", []string{"ip address add 192.0.2.10/32 dev eth0"}, "192.0.2.10 is where nobody asks by ARP", "on eth0, lo"},
		{"wrong prefix", []string{"ip address del 192.0.2.10/32 dev lo", "ip address add 192.0.2.10/24 dev lo"}, "192.0.2.10 stands on lo by itself", "192.0.2.10/24"},
		{"arp_ignore 0", []string{"net/ipv4/conf/all/arp_ignore 0"}, "eth0 leaves ARP for 192.0.2.10 to the director", "arp_ignore 0 in force: it answers"},
		{"arp_ignore on lo only", []string{"net/ipv4/conf/all/arp_ignore 0", "net/ipv4/conf/lo/arp_ignore 1"}, "eth0 leaves ARP for 192.0.2.10 to the director", "arp_ignore 0 in force: it answers"},
		{"arp_announce 0", []string{"net/ipv4/conf/all/arp_announce 0"}, "eth0 leaves ARP for 192.0.2.10 to the director", "arp_announce 0 in force: it asks in the name of 192.0.2.10"},
		{"arp_ignore 3 of the interface's own", []string{"net/ipv4/conf/eth0/arp_ignore 3"}, "eth0 leaves ARP for 192.0.2.10 to the director", "arp_ignore 3 in force: it answers"},
		{"IPv6 VIP missing on lo", []string{"ip address del 2001:db8:2::10/128 dev lo"}, "2001:db8:2::10/128 on lo", "absent"},
	}
	for _, c := range []struct {
		args   string
		faults []fault
	}{
		{"--vip 192.0.2.10 --vip 2001:db8:2::10", dr},
		{"--vip 192.0.2.10 --arp-filter", []fault{
			{"flushed", []string{"nft flush chain arp poise output"}, "192.0.2.10 silent by nftables", "altered"},
			{"gone", []string{"nft delete table arp poise"}, "192.0.2.10 silent by nftables", "absent"},
		}},
		{"--mode nat --gateway 192.0.2.1", []fault{
			{"gateway past the director", []string{"ip route replace default via 192.0.2.254"}, "IPv4 replies pass the director", "through 192.0.2.254 on eth0"},
			{"no way at all", []string{"ip route del default"}, "IPv4 replies pass the director", "network is unreachable"},
		}},
		{"--mode nat --gateway 192.0.2.1 --port 80", []fault{
			{"rule lost", []string{"ip rule del pref 5055"}, "replies from 192.0.2.21 tcp port 80 pass the director", "through 192.0.2.254 on eth0"},
		}},
		{"-c testdata/nat-families.toml", []fault{
			{"IPv6 rule lost", []string{"ip -6 rule del pref 5055"}, "replies from 2001:db8:2::21 tcp port 8080 pass the director", "network is unreachable"},
		}},
	} {
		n := lab.New(t)
		h := n.Host("server")
		h.Connect(n.Switch("net"), "192.0.2.21/24", "2001:db8:2::21/64")
		h.Route("default", "192.0.2.254")
		verifyFaults(t, h, strings.Fields(c.args), c.faults)
	}
}

// Another gateway takes the first one's place, in the table for replies as well as in what must be.
func TestNetnsAnotherGateway(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	h := n.Host("server")
	h.Connect(n.Switch("net"), "192.0.2.21/24")
	h.Route("default", "192.0.2.254")
	dir := t.TempDir()
	for _, gateway := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.1"} {
		h.Run("poise", "realserver", "apply", "--mode", "nat", "--gateway", gateway, "--port", "80", "--runtime-dir", dir)
		if w := examined(t, h, "realserver", "verify", "--listen", "0s", "--runtime-dir", dir); len(w) > 0 {
			t.Errorf("gateway %s: %+v", gateway, w)
		}
		h.Run("poise", "realserver", "status", "--runtime-dir", dir)
	}
}

// A router advertises itself beside the way that was applied: poise could not make its route again, so it says so and
// leaves it, and all else is examined and undone.
func TestNetnsAdvertisedRouter(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	h := n.Host("server")
	h.Connect(n.Switch("net"), "192.0.2.21/24", "2001:db8:2::21/64")
	dir := t.TempDir()
	run := func(args string) string {
		var out bytes.Buffer
		cmd := exec.Command("poise", append(strings.Fields(args), "--runtime-dir", dir)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = h.Start(cmd).Wait()
		return regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
	}
	expect := func(args, want string) {
		t.Helper()
		if got := run(args); got != want {
			t.Errorf("poise %s:\n%swant\n%s", args, got, want)
		}
	}
	run("realserver apply --vip 192.0.2.10")
	run("realserver apply --mode nat --gateway 2001:db8:2::1")
	advertised := strings.Fields("ip -6 route add default via fe80::99 dev eth0 metric 512 expires 600 proto ra")
	h.Run(advertised[0], advertised[1:]...)
	const odd = `"default via fe80::99 dev eth0 proto ra metric 512" has an end (of a router's advertisement), and could not be made again`
	expect("realserver status", `net.ipv4.conf.all.arp_ignore 1 ok was 0
net.ipv4.conf.all.arp_announce 2 ok was 0
192.0.2.10/32 on lo present ok was absent
default route via 2001:db8:2::1 dev eth0 `+odd+` must be via 2001:db8:2::1 dev eth0 was absent
poise: 1 of 4 settings are not as they must be: see poise realserver apply
`)
	wrong := examined(t, h, "realserver", "verify", "--listen", "0s", "--runtime-dir", dir)
	if len(wrong) != 2 || wrong[0].Seen != odd || wrong[1].What != "IPv6 replies pass the director" {
		t.Errorf("found wrong: %+v", wrong)
	}
	expect("realserver undo", `192.0.2.10/32 on lo present → absent
net.ipv4.conf.all.arp_announce 2 → 0
net.ipv4.conf.all.arp_ignore 1 → 0
poise: default route via 2001:db8:2::1 dev eth0, before absent: left: default routes of IPv6 table main: `+odd+`
`)
	h.Run("ip", "-6", "route", "del", "default", "via", "fe80::99")
	expect("realserver undo", "default route via 2001:db8:2::1 dev eth0 via 2001:db8:2::1 dev eth0 metric 1024 → absent\n")
}

// TestLabVerify is the same for tunnels.
func TestLabVerify(t *testing.T) {
	lab.NeedIPVS(t)
	n := lab.New(t)
	h := n.Host("server")
	h.Connect(n.Switch("net"), "192.0.2.21/24")
	verifyFaults(t, h, strings.Fields("--mode tun --vip 192.0.2.10 --address 192.0.2.21 --tunnel gue --tunnel-port 6080"), []fault{
		{"ipip down", []string{"ip link set poise-ip4 down"}, "tunnel poise-ip4 to 192.0.2.21", "down"},
		{"ipip gone", []string{"ip link del poise-ip4"}, "tunnel poise-ip4 to 192.0.2.21", "absent"},
		{"strict reverse paths", []string{"net/ipv4/conf/poise-ip4/rp_filter 1"}, "poise-ip4 lets packets of all clients through", "rp_filter 1 in force"},
		{"GUE port closed", []string{"ip fou del port 6080 gue"}, "GUE to UDP port 6080 of IPv4", "absent"},
		{"no clamp", []string{"nft delete table inet poise_realserver"}, "192.0.2.10 with MSS 1420 by nftables", "absent"},
	})
}

func verifyFaults(t *testing.T, h *lab.Host, args []string, faults []fault) {
	t.Helper()
	dir := t.TempDir()
	apply := append([]string{"realserver", "apply", "--runtime-dir", dir}, args...)
	do := func(command string) {
		t.Helper()
		words := strings.Fields(command)
		switch name, isSysctl := strings.CutPrefix(command, "net/"); {
		case isSysctl:
			name, value, _ := strings.Cut(name, " ")
			h.Sysctl("net/"+name, value)
		case words[0] == "poise":
			h.Run("poise", apply...)
		default:
			h.Run(words[0], words[1:]...)
		}
	}
	wrong := func() []finding.Finding {
		t.Helper()
		return examined(t, h, "realserver", "verify", "--listen", "0s", "--runtime-dir", dir)
	}
	h.Run("poise", apply...)
	if w := wrong(); len(w) > 0 {
		t.Fatalf("a healthy host: %+v", w)
	}
	for _, f := range faults {
		for _, command := range f.plant {
			do(command)
		}
		found := false
		var remedies []string
		for _, w := range wrong() {
			found = found || w.What == f.found && strings.Contains(w.Seen, f.seen)
			remedies = append(remedies, w.Remedy)
		}
		if !found {
			t.Errorf("%s: not found in %+v", f.name, wrong())
		}
		for _, remedy := range remedies {
			command, _, _ := strings.Cut(remedy, ":")
			if name, value, ok := strings.Cut(strings.TrimPrefix(command, "sysctl -w "), "="); ok {
				command = strings.ReplaceAll(name, ".", "/") + " " + value
			}
			if strings.HasPrefix(command, "ip ") && len(wrong()) == 0 {
				continue // another remedy has done it
			}
			do(command)
		}
		if w := wrong(); len(w) > 0 {
			t.Errorf("%s: after %q still %+v", f.name, remedies, w)
			h.Run("poise", apply...)
		}
	}
}

// examined is what poise finds wrong on a host, which its exit status must tell, too.
func examined(t *testing.T, h *lab.Host, args ...string) []finding.Finding {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("poise", append(args, "--json")...)
	cmd.Stdout = &out
	failed := h.Start(cmd).Wait() != nil
	var all []finding.Finding
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		t.Fatalf("%v in %s", err, out.Bytes())
	}
	wrong := slices.DeleteFunc(all, func(f finding.Finding) bool { return f.Severity == finding.OK })
	if failed != (len(wrong) > 0) {
		t.Errorf("exit status and findings differ: %v", wrong)
	}
	for _, f := range wrong {
		if f.Want == "" || f.Remedy == "" || f.Page == "" {
			t.Errorf("no remedy or page: %+v", f)
		}
	}
	return wrong
}
