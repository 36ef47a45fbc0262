package host

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"poise/internal/lab"
)

func tunnel(name string, kind TunnelKind, local string, checksum bool) Tunnel {
	return Tunnel{name, kind, netip.MustParseAddr(local), checksum}
}

func TestNetnsNoTunnels(t *testing.T) {
	inNetns(t, "eth0")
	if is, up, exists, err := LookTunnel("poise-ip4"); is != (Tunnel{}) || up || exists || err != nil {
		t.Errorf("absent tunnel: %v, %v, %v, %v", is, up, exists, err)
	}
	if deleted, err := DelTunnel("poise-ip4"); deleted || err != nil {
		t.Errorf("absent tunnel deleted: %v, %v", deleted, err)
	}
	const other = "this interface of type veth is not one that unwraps all that arrives for one address"
	_, _, _, see := LookTunnel("eth0")
	_, del := DelTunnel("eth0")
	_, add := AddTunnel(tunnel("eth0", IPIP, "192.0.2.1", false))
	for _, tt := range []struct {
		err  error
		want string
	}{
		{see, "tunnel eth0: " + other},
		{del, "delete tunnel eth0: " + other},
		{add, "add tunnel eth0: " + other},
	} {
		if tt.err == nil || tt.err.Error() != tt.want {
			t.Errorf("%v, want %s", tt.err, tt.want)
		}
	}
	look(t, "eth0")
	for want, bad := range map[string]Tunnel{
		"add tunnel : a name has 1 to 15 bytes":                 tunnel("", IPIP, "192.0.2.1", false),
		"add tunnel a123456789012345: a name has 1 to 15 bytes": tunnel("a123456789012345", IPIP, "192.0.2.1", false),
		"add tunnel t: 0.0.0.0 is no address of a host":         tunnel("t", IPIP, "0.0.0.0", false),
		"add tunnel t: invalid IP is no address of a host":      {Name: "t", Kind: GRE},
		"add tunnel t: ipip has no checksums":                   tunnel("t", IPIP, "192.0.2.1", true),
		`add tunnel t: tunnels of kind "gue" are unknown`:       tunnel("t", "gue", "192.0.2.1", false),
	} {
		if _, err := AddTunnel(bad); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

var tunnels = []Tunnel{
	tunnel("poise-ip4", IPIP, "192.0.2.1", false),
	tunnel("poise-ip6", IPIP, "2001:db8::1", false),
	tunnel("poise-gre4", GRE, "192.0.2.1", false),
	tunnel("poise-gre6", GRE, "2001:db8::1", false),
	tunnel("poise-gre4", GRE, "192.0.2.1", true),
	tunnel("poise-gre6", GRE, "2001:db8::1", true),
}

// The interface is what ip(8) makes by its own words.
func TestLabTunnelInterfaces(t *testing.T) {
	lab.NeedRoot(t)
	inNetns(t, "eth0")
	commands := []string{
		"type sit mode any local 192.0.2.1",
		"type ip6tnl mode any local 2001:db8::1",
		"type gre local 192.0.2.1",
		"type ip6gre local 2001:db8::1",
		"type gre local 192.0.2.1 icsum",
		"type ip6gre local 2001:db8::1 icsum",
	}
	for i, want := range tunnels {
		ip(t, append([]string{"link", "add", want.Name}, strings.Fields(commands[i])...)...)
		if got, up, exists, err := LookTunnel(want.Name); got != want || up || !exists || err != nil {
			t.Errorf("%s: %+v, %v, %v, %v", commands[i], got, up, exists, err)
		}
		byHand := linkData(t, want.Name)
		ip(t, "link", "del", want.Name)

		if changed, err := AddTunnel(want); !changed || err != nil {
			t.Errorf("add %v: %v, %v", want, changed, err)
		}
		if got := linkData(t, want.Name); got != byHand {
			t.Errorf("%s: is\n%s\nwant\n%s", want.Name, got, byHand)
		}
		for _, changed := range []bool{false, true} { // the second time it is switched off
			if got, err := AddTunnel(want); got != changed || err != nil {
				t.Errorf("add %v again: %v, %v, want %v", want, got, err, changed)
			}
			if got, up, exists, err := LookTunnel(want.Name); got != want || !up || !exists || err != nil {
				t.Errorf("%v: %+v, %v, %v, %v", want, got, up, exists, err)
			}
			ip(t, "link", "set", want.Name, "down")
		}
		if _, up, _, err := LookTunnel(want.Name); up || err != nil {
			t.Errorf("%v switched off: %v, %v", want, up, err)
		}

		other := want
		other.Local = want.Local.Next()
		_, err := AddTunnel(other)
		if want := fmt.Sprintf("add tunnel %s: the interface takes %v, not %v", want.Name, want, other); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		other = want
		other.Name = "poise-other"
		_, err = AddTunnel(other)
		if want := fmt.Sprintf("add tunnel poise-other: file exists: %s takes %v", want.Name, want); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		for _, deleted := range []bool{true, false} {
			if got, err := DelTunnel(want.Name); got != deleted || err != nil {
				t.Errorf("delete %v: %v, %v, want %v", want, got, err, deleted)
			}
		}
	}
}

// toSend is what matters only to those who send through a tunnel.
var toSend = regexp.MustCompile(`,"(ttl|pmtudisc|encap_limit)":\w+`)

// linkData is what makes a tunnel's interface what it is.
func linkData(t *testing.T, name string) string {
	t.Helper()
	var links []struct {
		Link     *string
		Linkinfo json.RawMessage
	}
	out := ip(t, "-j", "-d", "link", "show", name)
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		t.Fatalf("%s: %v", out, err)
	}
	return toSend.ReplaceAllString(string(links[0].Linkinfo), "")
}

// An interface that takes less than all for one address is none of ours.
func TestLabOtherTunnels(t *testing.T) {
	lab.NeedRoot(t)
	inNetns(t, "eth0")
	for _, other := range []string{
		"sit mode ip6ip local 192.0.2.1", // IPv6 only
		"sit mode any local 192.0.2.1 remote 192.0.2.2",
		"sit mode any local 192.0.2.1 dev eth0",
		"sit mode any remote 192.0.2.2",
		"ipip local 192.0.2.1", // IPv4 only
		"ip6tnl mode ip6ip6 local 2001:db8::1",
		"ip6tnl mode any local 2001:db8::1 remote 2001:db8::2",
		"ip6tnl mode any local 2001:db8::1 dev eth0",
		"ip6tnl external",
		"gre local 192.0.2.1 remote 192.0.2.2",
		"gre local 192.0.2.1 dev eth0",
		"gre local 192.0.2.1 ikey 5",
		"gre local 192.0.2.1 iseq",
		"gre local 192.0.2.1 ikey 0",
		"gre external",
		"ip6gre local 2001:db8::1 remote 2001:db8::2",
		"ip6gre local 2001:db8::1 ikey 5 icsum",
		"gretap local 192.0.2.1",
	} {
		ip(t, append([]string{"link", "add", "poise-t", "type"}, strings.Fields(other)...)...)
		if is, _, _, err := LookTunnel("poise-t"); err == nil {
			t.Errorf("%s is taken for %v", other, is)
		}
		if deleted, err := DelTunnel("poise-t"); deleted || err == nil {
			t.Errorf("%s is deleted", other)
		}
		ip(t, "link", "del", "poise-t")
	}
}

func TestLabGUE(t *testing.T) {
	lab.NeedRoot(t)
	inNetns(t, "eth0")
	shown := func() string { return ip(t, "fou", "show") }
	for _, ipv6 := range []bool{false, true} {
		for _, step := range []struct {
			what string
			do   func(uint16, bool) (bool, error)
			want bool
		}{
			{"delete what is absent", DelGUE, false},
			{"has none", HasGUE, false},
			{"add", AddGUE, true},
			{"add again", AddGUE, false},
			{"has", HasGUE, true},
			{"delete", DelGUE, true},
			{"delete again", DelGUE, false},
		} {
			if got, err := step.do(6080, ipv6); got != step.want || err != nil {
				t.Errorf("IPv6 %v: %s: %v, %v, want %v", ipv6, step.what, got, err, step.want)
			}
			if step.what != "has" {
				continue
			}
			want := "port 6080 gue"
			if ipv6 {
				want += " -6"
			}
			if got := strings.TrimSpace(shown()); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			for _, other := range []bool{ipv6, !ipv6} {
				port := uint16(6081)
				if other != ipv6 {
					port = 6080
				}
				if has, err := HasGUE(port, other); has || err != nil {
					t.Errorf("IPv6 %v port %d: %v, %v", other, port, has, err)
				}
			}
		}
	}
	if got := shown(); got != "" {
		t.Errorf("left: %s", got)
	}

	ip(t, "addr", "add", "192.0.2.1/32", "dev", "lo")
	ip(t, "fou", "add", "port", "6080", "ipproto", "4")
	ip(t, "fou", "add", "port", "6081", "gue", "local", "192.0.2.1")
	before := shown()
	const taken = "the port is taken: the kernel unwraps there, but not all GUE"
	for port, name := range map[uint16]string{6080: "UDP port 6080 of IPv4: ", 6081: "UDP port 6081 of IPv4: "} {
		for what, do := range map[string]func(uint16, bool) (bool, error){"GUE to ": HasGUE, "add GUE to ": AddGUE, "delete GUE from ": DelGUE} {
			if got, err := do(port, false); got || err == nil || err.Error() != what+name+taken {
				t.Errorf("%v, %v, want %s", got, err, what+name+taken)
			}
		}
	}
	if after := shown(); after != before {
		t.Errorf("%s\nwas\n%s", after, before)
	}
	c, err := net.ListenPacket("udp4", ":6082")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if added, err := AddGUE(6082, false); added || err == nil || err.Error() != "add GUE to UDP port 6082 of IPv4: address already in use" {
		t.Errorf("a program's port: %v, %v", added, err)
	}
}

// What a director wraps, whatever way and of both families, a server answers, and only then.
func TestLabUnwrapping(t *testing.T) {
	lab.NeedIPVS(t)
	l := lab.NewLVS(t)
	l.Director.AddAddr("eth0", lab.VIP+"/32")
	// Deprecated: no tunnel may start from it.
	l.Director.Run("ip", "addr", "add", lab.VIP6+"/128", "dev", "eth0", "nodad", "preferred_lft", "0")
	const gue = "--tun-type gue --tun-port 6080 --tun-nocsum"
	for _, tt := range []struct {
		name     string
		kind     TunnelKind
		checksum bool
		options  string // of ipvsadm
	}{
		{"ipip", IPIP, false, ""},
		{"gue", IPIP, false, gue},
		{"gre", GRE, false, "--tun-type gre --tun-nocsum"},
		{"gre with checksums", GRE, true, "--tun-type gre --tun-csum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := l.AddServer(lab.TUN)
			s.Sysctl("net/ipv4/conf/all/arp_ignore", "1")
			s.Sysctl("net/ipv4/conf/all/arp_announce", "2")
			s.ServeHTTP(":80")
			s.ServeHTTP(":81")
			table := []string{"-C"}
			var services []string
			for i, to := range []netip.Addr{s.Addr, s.Addr6} {
				for _, vip := range []string{lab.VIP, lab.VIP6} {
					port := fmt.Sprint(80 + i)
					service := net.JoinHostPort(vip, port)
					table = append(table, "-A -t "+service, "-a -t "+service+" -r "+net.JoinHostPort(to.String(), port)+" -i "+tt.options)
					services = append(services, service)
				}
			}
			restore := exec.Command("ipvsadm", "-R")
			restore.Stdin = strings.NewReader(strings.Join(table, "\n") + "\n")
			if err := l.Director.Start(restore).Wait(); err != nil {
				t.Fatal(err)
			}
			ends := []Tunnel{{"poise-t4", tt.kind, s.Addr, tt.checksum}, {"poise-t6", tt.kind, s.Addr6, tt.checksum}}
			if err := s.Do(func() error {
				for _, end := range ends {
					if _, err := AddTunnel(end); err != nil {
						return err
					}
					if tt.options == gue {
						if _, err := AddGUE(6080, end.Local.Is6()); err != nil {
							return err
						}
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			for _, end := range ends {
				// Of an interface without an address 2 lets nothing in (__fib_validate_source in net/ipv4/fib_frontend.c).
				s.AddAddr(end.Name, lab.VIP+"/32")
				s.AddAddr(end.Name, lab.VIP6+"/128")
				s.Sysctl("net/ipv4/conf/"+end.Name+"/rp_filter", "2")
			}
			for i, service := range services {
				a, err := l.Client.Get("http://" + service + "/")
				if err != nil {
					t.Errorf("%s: %v", table[2*i+2], err)
				} else if a.Server != s.Name {
					t.Errorf("%s: %+v", service, a)
				}
			}

			// Without the interfaces nothing is unwrapped: it was they.
			if err := s.Do(func() error {
				for _, end := range ends {
					if deleted, err := DelTunnel(end.Name); !deleted || err != nil {
						return fmt.Errorf("deleted: %v, %w", deleted, err)
					}
				}
				links, err := netlink.LinkList()
				if slices.ContainsFunc(links, func(l netlink.Link) bool { return strings.HasPrefix(l.Attrs().Name, "poise") }) {
					t.Error("interfaces are left")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for _, service := range services {
				if c, err := l.Client.Dial(withTimeout(t), "tcp", "", service); err == nil {
					c.Close()
					t.Errorf("%s: answered without a tunnel", service)
				}
			}
		})
	}
}

func withTimeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}
