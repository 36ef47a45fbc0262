package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"poise/internal/host"
	"poise/internal/lab"
)

// realServer is a way to serve behind a director.
type realServer struct {
	name   string
	method lab.Method
	by     string   // how the director sends to it, as "poise ipvs -a" has it
	args   []string // what "poise realserver apply" is given
	ipv6   bool     // the director's address of the server, of TUN
}

const (
	vipsArgs = "--vip " + lab.VIP + " --vip " + lab.VIP6
	tunArgs  = "--mode tun " + vipsArgs
)

var realServers = []realServer{
	{"dr", lab.DR, "-g", strings.Fields(vipsArgs), false},
	{"dr, nftables", lab.DR, "-g", strings.Fields(vipsArgs + " --arp-filter"), false},
	{"tun, ipip", lab.TUN, "-i", strings.Fields(tunArgs + " --address 192.0.2.21"), false},
	{"tun, ipip over IPv6", lab.TUN, "-i", strings.Fields(tunArgs + " --address 2001:db8:2::21"), true},
	{"tun, gue", lab.TUN, "-i --tun-type gue --tun-port 6080", strings.Fields(tunArgs + " --address 192.0.2.21 --tunnel gue --tunnel-port 6080"), false},
	{"tun, gre", lab.TUN, "-i --tun-type gre", strings.Fields(tunArgs + " --address 192.0.2.21 --tunnel gre"), false},
	{"tun, gre with checksums", lab.TUN, "-i --tun-type gre --tun-csum", strings.Fields(tunArgs + " --address 192.0.2.21 --tunnel gre --tunnel-checksum"), false},
}

// TestLabRealserver takes a fresh host through its life as a real server: it does not serve, is applied and does, loses all at a
// reboot and gets it back from the unit, and is after undo what it was before, to the last setting.
func TestLabRealserver(t *testing.T) {
	t.Parallel()
	for _, r := range realServers {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			l := newLVS6(t)
			s := l.AddServer(r.method)
			s.ServeHTTP(":80")
			addr := [2]string{s.Addr.String(), "[" + s.Addr6.String() + "]:80"}
			if r.method == lab.TUN { // both services by one tunnel
				if addr[1] = addr[0]; r.ipv6 {
					addr = [2]string{"[" + s.Addr6.String() + "]:80", "[" + s.Addr6.String() + "]:80"}
				}
			}
			for i, service := range []string{lab.VIP + ":80", "[" + lab.VIP6 + "]:80"} {
				ipvsadm(t, l.Director, "-A -t "+service, "-a -t "+service+" -r "+addr[i]+" "+r.by)
			}
			life{t, s.Host, r.args}.lives(func(serves bool) {
				t.Helper()
				for _, g := range vips(l, "http", 80) {
					if serves {
						g.ask(t, 2)
					} else {
						silent(t, g.host, g.addr)
					}
				}
				if serves {
					onlyAnsweredBy(t, l, l.Director)
				}
			})
		})
	}
}

// TestLabRealserverNAT is the same for the way back by the director: all of it, or that of the service alone.
func TestLabRealserverNAT(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"--mode nat --gateway 10.0.0.1",
		"--mode nat --gateway fd00:10::1",
		"--mode nat --gateway 10.0.0.1 --port 80 --port 53/udp",
		"--mode nat --gateway fd00:10::1 --port 80",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			l := newLVS6(t)
			l.Director.Sysctl("net/ipv4/ip_forward", "1")
			l.Director.Sysctl("net/ipv6/conf/all/forwarding", "1")
			s := l.AddServer(lab.NAT)
			s.ServeHTTP(":80")
			// The network has another way out, of which the server knows so far.
			s.Run("ip", "route", "replace", "default", "via", "10.0.0.254", "dev", "eth0", "proto", "static", "metric", "100", "src", s.Addr.String())
			s.Run("ip", "route", "del", "default", "via", "10.0.0.1")
			s.Run("ip", "-6", "route", "add", "default", "via", "fd00:10::254", "dev", "eth0", "proto", "static", "metric", "2000")
			s.Run("ip", "-6", "route", "del", "default", "via", "fd00:10::1")
			ipvsadm(
				t, l.Director,
				"-A -t 192.0.2.10:80", "-a -t 192.0.2.10:80 -m -r "+s.Addr.String(),
				"-A -t ["+lab.VIP6+"]:80", "-a -t ["+lab.VIP6+"]:80 -m -r ["+s.Addr6.String()+"]:80",
			)
			g := vips(l, "http", 80)[0]
			if strings.Contains(args, "fd00") {
				g = vips(l, "http", 80)[1]
			}
			life{t, s.Host, strings.Fields(args)}.lives(func(serves bool) {
				t.Helper()
				if serves {
					g.ask(t, 2)
				} else {
					silent(t, g.host, g.addr)
				}
			})
		})
	}
}

// life is that of a real server.
type life struct {
	t    *testing.T
	host *lab.Host
	args []string
}

// lives takes the host through it. expect looks whether requests are answered.
func (l life) lives(expect func(serves bool)) {
	l.t.Helper()
	t, dir, units := l.t, l.t.TempDir(), l.t.TempDir()
	realserver := func(command string, args ...string) string {
		t.Helper()
		return l.host.Run("poise", append([]string{"realserver", command, "--runtime-dir", dir}, args...)...)
	}
	l.host.Run("modprobe", "-a", "sit", "ip6_tunnel", "ip_gre", "ip6_gre", "fou") // as they stay loaded
	before := everything(t, l.host)
	expect(false)

	planned := realserver("plan", l.args...)
	expect(false)
	applied := realserver("apply", append(l.args, "--persist", "--unit-dir", units)...)
	if !strings.HasPrefix(applied, planned) {
		t.Errorf("planned\n%sapplied\n%s", planned, applied)
	}
	expect(true)
	realserver("status")
	t.Logf("%s", realserver("verify", "--listen", "1s"))
	if again := realserver("apply", l.args...); strings.Contains(again, "→") {
		t.Errorf("applied again:\n%s", again)
	}

	// A reboot leaves of all this the unit and nothing else.
	realserver("undo", "--unit-dir", t.TempDir())
	expect(false)
	unit, err := os.ReadFile(filepath.Join(units, "multi-user.target.wants", unitName))
	if err != nil {
		t.Fatal(err)
	}
	start := regexp.MustCompile(`(?m)^ExecStart=\S+ (.*)$`).FindSubmatch(unit)
	l.host.Run("poise", strings.Fields(string(start[1]))...)
	expect(true)

	realserver("undo", "--unit-dir", units)
	if after := everything(t, l.host); after != before {
		t.Errorf("undo left something:\n%s", difference(before, after))
	}
	expect(false)
	if left, _ := filepath.Glob(units + "/*/*"); left != nil {
		t.Errorf("undo left %v", left)
	}
}

// silent checks that a connection is not answered.
func silent(t *testing.T, h *lab.Host, addr netip.AddrPort) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := h.Dial(ctx, "tcp", "", addr.String()); err == nil {
		c.Close()
		t.Errorf("%v answers", addr)
	}
}

// onlyAnsweredBy asks on the director's network who has the virtual addresses.
func onlyAnsweredBy(t *testing.T, l *lab.LVS, h *lab.Host) {
	t.Helper()
	vips := []netip.Addr{netip.MustParseAddr(lab.VIP), netip.MustParseAddr(lab.VIP6)}
	var want string
	var got map[netip.Addr][]net.HardwareAddr
	err := h.Do(func() error {
		link, _, err := host.Look("eth0")
		want = fmt.Sprint([]net.HardwareAddr{link.MAC})
		return err
	})
	if err == nil {
		err = l.Router.Do(func() (err error) {
			got, err = host.WhoHas(t.Context(), "eth1", vips, time.Second)
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, vip := range vips {
		if answered := fmt.Sprint(got[vip]); answered != want {
			t.Errorf("%v is answered for by %s, want the director %s", vip, answered, want)
		}
	}
}

// changing is what is never twice the same.
var changing = regexp.MustCompile(`"(handle|index|ifindex|preferred_life_time|valid_life_time|expires|used)":\s*-?\d+,?|"metainfo":\s*\{[^}]*\}`)

// everything is all of a host's network that can be set.
func everything(t *testing.T, h *lab.Host) string {
	t.Helper()
	var b strings.Builder
	err := h.Do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if value, err := os.ReadFile(path); err == nil && !strings.HasSuffix(path, "/stable_secret") {
				fmt.Fprintf(&b, "%s = %s\n", path, strings.TrimSpace(string(value)))
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return network(t, h) + b.String()
}

// network is everything but for most sysctls.
func network(t *testing.T, h *lab.Host) string {
	t.Helper()
	var b strings.Builder
	for _, command := range []string{
		"ip -j address", "ip -j -4 route show table all", "ip -j -6 route show table all", "ip -j -4 rule", "ip -j -6 rule", "ip -j link",
		"ip fou show", "ip -6 fou show", "nft -j list ruleset",
	} {
		words := strings.Fields(command)
		out := changing.ReplaceAllString(h.Run(words[0], words[1:]...), "")
		fmt.Fprintf(&b, "%s: %s\n", command, strings.ReplaceAll(out, "},{", "},\n{"))
	}
	for _, name := range []string{"arp_ignore", "arp_announce"} {
		fmt.Fprintf(&b, "%s: %s\n", name, h.ReadSysctl("net/ipv4/conf/all/"+name))
	}
	return b.String()
}

// difference are the lines that are in one text only.
func difference(before, after string) string {
	var b strings.Builder
	in := func(text string) map[string]bool {
		lines := make(map[string]bool)
		for line := range strings.Lines(text) {
			lines[line] = true
		}
		return lines
	}
	for _, side := range []struct{ sign, text, other string }{{"-", before, after}, {"+", after, before}} {
		other := in(side.other)
		for line := range strings.Lines(side.text) {
			if !other[line] {
				b.WriteString(side.sign + " " + line)
			}
		}
	}
	return b.String()
}
