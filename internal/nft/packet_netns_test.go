package nft

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"poise/internal/lab"
)

// What a packet to address and port should get; protocols by their names in net.Dial.
type markTest struct {
	protocol, addr string
	port           uint16
	mark           uint32
}

func TestNetnsMarks(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	front, client, director := n.Switch("front"), n.Host("client"), n.Host("director")
	client.Connect(front, "192.0.2.1/24", "2001:db8::1/64")
	director.Connect(front, "192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64")
	c := open(t, director)
	err := c.Replace(Rules{Marks: map[Flow]uint32{
		flow(6, "192.0.2.10", 80, 80):         0x50000001,
		flow(6, "192.0.2.10", 8000, 8100):     0x50000002,
		flow(17, "192.0.2.10", 53, 53):        0x50000003,
		flow(17, "192.0.2.10", 8000, 8100):    0x50000004,
		flow(132, "192.0.2.10", 3868, 3868):   0x50000005,
		flow(6, "2001:db8::10", 80, 80):       0x50000006,
		flow(17, "2001:db8::10", 8000, 65535): 0x50000007,
		flow(132, "2001:db8::10", 1, 5):       0x50000008,
	}})
	if err != nil {
		t.Fatal(err)
	}
	// The witness stands behind ours, where packets come in, where IPVS takes them, and where the director's own go out.
	director.Run("nft", `
		table inet witness {
			set prerouting { type mark . inet_proto . inet_service; flags dynamic; size 1000; }
			set input { type mark . inet_proto . inet_service; flags dynamic; size 1000; }
			set output { type mark . inet_proto . inet_service; flags dynamic; size 1000; }
			chain p { type filter hook prerouting priority -140; update @prerouting { meta mark . meta l4proto . th dport }; }
			chain i { type filter hook input priority -10; update @input { meta mark . meta l4proto . th dport }; }
			chain o { type filter hook output priority -140; update @output { meta mark . meta l4proto . th dport }; }
		}`)

	tests := []markTest{
		{"tcp", "192.0.2.10", 79, 0},
		{"tcp", "192.0.2.10", 80, 0x50000001},
		{"tcp", "192.0.2.10", 81, 0},
		{"tcp", "192.0.2.11", 80, 0},
		{"tcp", "192.0.2.10", 7999, 0},
		{"tcp", "192.0.2.10", 8000, 0x50000002},
		{"tcp", "192.0.2.10", 8050, 0x50000002},
		{"tcp", "192.0.2.10", 8100, 0x50000002},
		{"tcp", "192.0.2.10", 8101, 0},
		{"tcp", "192.0.2.10", 53, 0},
		{"udp", "192.0.2.10", 53, 0x50000003},
		{"udp", "192.0.2.11", 53, 0},
		{"udp", "192.0.2.10", 80, 0},
		{"udp", "192.0.2.10", 8100, 0x50000004},
		{"sctp", "192.0.2.10", 3868, 0x50000005},
		{"sctp", "192.0.2.10", 3869, 0},
		{"tcp", "2001:db8::10", 80, 0x50000006},
		{"tcp", "2001:db8::10", 8000, 0},
		{"udp", "2001:db8::10", 7999, 0},
		{"udp", "2001:db8::10", 8000, 0x50000007},
		{"udp", "2001:db8::10", 65535, 0x50000007},
		{"sctp", "2001:db8::10", 5, 0x50000008},
		{"sctp", "2001:db8::10", 6, 0},
	}
	for _, tt := range []struct {
		name   string
		from   *lab.Host
		chains []string
	}{
		{"client", client, []string{"prerouting", "input"}},
		{"director", director, []string{"output", "prerouting", "input"}},
	} {
		for _, set := range []string{"prerouting", "input", "output"} {
			director.Run("nft", "flush", "set", "inet", "witness", set)
		}
		for _, test := range tests {
			if err := send(tt.from, test, 100); err != nil {
				t.Fatal(err)
			}
		}
		for _, chain := range tt.chains {
			seen := witnessed(t, director, chain)
			for _, test := range tests {
				// Another address may have the same port with another mark: only the one wanted must be there.
				if !seen[key(test.protocol, test.port, test.mark)] {
					t.Errorf("%s, %s: no packet to %s %s port %d with mark %#x", tt.name, chain, test.protocol, test.addr, test.port, test.mark)
				}
			}
			// Marks that no packet should have had.
			for k := range seen {
				if !wanted(tests, k) {
					t.Errorf("%s, %s: %s was not to be", tt.name, chain, k)
				}
			}
		}
	}

	// A datagram in fragments, only the first of which has ports, is whole and marked when it comes to IPVS.
	director.Run("nft", "flush", "set", "inet", "witness", "input")
	fragmented := markTest{"udp", "192.0.2.10", 8001, 0x50000004}
	if err := send(client, fragmented, 4000); err != nil {
		t.Fatal(err)
	}
	if seen := witnessed(t, director, "input"); !seen[key("udp", 8001, 0x50000004)] || len(seen) != 1 {
		t.Errorf("of a datagram in fragments the input chain saw %v", seen)
	}
}

func key(protocol string, port uint16, mark uint32) string {
	return fmt.Sprintf("%s port %d mark %#x", protocol, port, mark)
}

func wanted(tests []markTest, k string) bool {
	for _, test := range tests {
		if k == key(test.protocol, test.port, test.mark) {
			return true
		}
	}
	return false
}

// send sends one packet; nobody answers but with a refusal.
func send(from *lab.Host, to markTest, bytes int) error {
	addr := netip.MustParseAddr(to.addr)
	switch to.protocol {
	case "tcp":
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if c, err := from.Dial(ctx, "tcp", "", netip.AddrPortFrom(addr, to.port).String()); err == nil {
			c.Close()
		}
		return nil // refused: the packet has come
	case "udp":
		c, err := from.Dial(context.Background(), "udp", "", netip.AddrPortFrom(addr, to.port).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(make([]byte, bytes))
		return err
	}
	return from.Do(func() error {
		network := "ip6:132"
		if addr.Is4() {
			network = "ip4:132"
		}
		c, err := net.Dial(network, to.addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(append(append(portBytes(40000), portBytes(to.port)...), make([]byte, 8)...)) // SCTP's header
		return err
	})
}

// witnessed are the marks that a chain's witness saw, to the ports that the tests use: refusals go to those which
// Dial comes from, 10000 and above.
func witnessed(t *testing.T, h *lab.Host, set string) map[string]bool {
	t.Helper()
	var reply struct {
		Nftables []struct {
			Set struct{ Elem []json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(h.Run("nft", "-j", "list", "set", "inet", "witness", set)), &reply); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, object := range reply.Nftables {
		for _, e := range object.Set.Elem {
			var key3 struct{ Concat []any }
			if err := json.Unmarshal(e, &key3); err != nil {
				t.Fatalf("%v: %s", err, e)
			}
			mark, protocol, port := uint32(key3.Concat[0].(float64)), fmt.Sprint(key3.Concat[1]), uint16(key3.Concat[2].(float64))
			if strings.Contains("tcp udp sctp", protocol) && (port < 10000 || port == 65535) {
				seen[key(protocol, port, mark)] = true
			}
		}
	}
	return seen
}

// Only what came to a listed flow and goes to its listed server gets the director's address. IPVS is not in every kernel:
// the kernel's own destination NAT stands in for it, which nftables sees in the same way.
func TestNetnsMasquerade(t *testing.T) {
	lab.NeedRoot(t)
	n := lab.New(t)
	front, back := n.Switch("front"), n.Switch("back")
	client, director, server := n.Host("client"), n.Host("director"), n.Host("server")
	client.Connect(front, "192.0.2.1/24", "2001:db8::1/64")
	director.Connect(front, "192.0.2.10/24", "2001:db8::10/64")
	director.Connect(back, "10.0.0.1/24", "fd00::1/64")
	server.Connect(back, "10.0.0.7/24", "fd00::7/64")
	for _, route := range [][2]string{{"10.0.0.0/24", "192.0.2.10"}, {"fd00::/64", "2001:db8::10"}} {
		client.Route(route[0], route[1])
	}
	server.Route("default", "10.0.0.1")
	server.Route("2001:db8::/64", "fd00::1")
	director.Sysctl("net/ipv4/ip_forward", "1")
	director.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, port := range []string{":8080", ":8081", ":8005", ":8200", ":8300", ":8301"} {
		server.ServeHTTP(port)
	}
	server.ServeUDP("10.0.0.7:8080")
	director.Run("nft", `
		table inet other {
			chain marks {
				type filter hook prerouting priority mangle;
				tcp dport { 90, 91, 92, 8301 } meta mark set 0x60000001
			}
			chain prerouting {
				type nat hook prerouting priority dstnat;
				ip daddr 192.0.2.10 tcp dport { 80, 81 } dnat ip to 10.0.0.7:8080
				ip daddr 192.0.2.10 udp dport 80 dnat ip to 10.0.0.7:8080
				ip daddr 192.0.2.10 tcp dport 82 dnat ip to 10.0.0.7:8081
				ip daddr 192.0.2.10 tcp dport { 8005, 8200 } dnat ip to 10.0.0.7
				ip6 daddr 2001:db8::10 tcp dport { 80, 81 } dnat ip6 to [fd00::7]:8080
				ip daddr 192.0.2.10 tcp dport 90 dnat ip to 10.0.0.7:8300
				ip daddr 192.0.2.10 tcp dport 91 dnat ip to 10.0.0.7:8301
				ip daddr 192.0.2.10 tcp dport 93 dnat ip to 10.0.0.7:8300
				ip6 daddr 2001:db8::10 tcp dport 90 dnat ip6 to [fd00::7]:8300
				ip6 daddr 2001:db8::10 tcp dport 91 dnat ip6 to [fd00::7]:8301
				ip6 daddr 2001:db8::10 tcp dport 93 dnat ip6 to [fd00::7]:8300
			}
		}`)
	c := open(t, director)
	to := netip.MustParseAddrPort
	err := c.Replace(Rules{Masquerades: map[Masquerade]struct{}{
		{Flow: flow(6, "192.0.2.10", 80, 80), Server: to("10.0.0.7:8080")}:    {},
		{Flow: flow(6, "192.0.2.10", 82, 82), Server: to("10.0.0.7:8080")}:    {}, // goes to 8081
		{Flow: flow(6, "192.0.2.10", 8000, 8100), Server: to("10.0.0.7:0")}:   {},
		{Flow: flow(6, "2001:db8::10", 80, 80), Server: to("[fd00::7]:8080")}: {},
		{Mark: 0x60000001, Server: to("10.0.0.7:8300")}:                       {},
		{Mark: 0x60000001, Server: to("[fd00::7]:0")}:                         {},
	}})
	if err != nil {
		t.Fatal(err)
	}
	const (
		theClient, theDirector   = "192.0.2.1", "10.0.0.1"
		theClient6, theDirector6 = "2001:db8::1", "fd00::1"
	)
	for _, tt := range []struct{ name, to, from string }{
		{"listed", "192.0.2.10:80", theDirector},
		{"another port of the service", "192.0.2.10:81", theClient},
		{"another port of the server", "192.0.2.10:82", theClient},
		{"range", "192.0.2.10:8005", theDirector},
		{"outside the range", "192.0.2.10:8200", theClient},
		{"not to the service", "10.0.0.7:8080", theClient},
		{"listed, IPv6", "[2001:db8::10]:80", theDirector6},
		{"another port of the service, IPv6", "[2001:db8::10]:81", theClient6},
		{"marked", "192.0.2.10:90", theDirector},
		{"marked, to another port of the server", "192.0.2.10:91", theClient},
		{"not marked", "192.0.2.10:93", theClient},
		{"marked, IPv6", "[2001:db8::10]:90", theDirector6},
		{"marked, any port, IPv6", "[2001:db8::10]:91", theDirector6},
		{"not marked, IPv6", "[2001:db8::10]:93", theClient6},
		// As what is in a tunnel: with the mark, to the server, but from the beginning.
		{"marked and never to another address, IPv6", "[fd00::7]:8301", theClient6},
		{"not to the service, IPv6", "[fd00::7]:8080", theClient6},
	} {
		answer, err := client.Get("http://" + tt.to + "/")
		if err != nil || answer.Client.Addr().String() != tt.from {
			t.Errorf("%s: the server saw %v, error %v, want %s", tt.name, answer.Client, err, tt.from)
		}
	}
	udp, err := client.Dial(t.Context(), "udp", "", "192.0.2.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	udp.SetDeadline(time.Now().Add(5 * time.Second))
	var answer lab.Answer
	if _, err := udp.Write([]byte("who?")); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(udp).Decode(&answer); err != nil || answer.Client.Addr().String() != theClient {
		t.Errorf("another protocol: the server saw %v, error %v, want %s", answer.Client, err, theClient)
	}
}
