package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"poise/internal/lab"
)

// newLVS6 is newLVS with the VIP of each family on the director. That of IPv6 is deprecated, as poise's own routers
// have theirs: else packets in a tunnel would leave with it as their source.
func newLVS6(t *testing.T) *lab.LVS {
	t.Helper()
	l := newLVS(t)
	l.Director.Run("ip", "addr", "add", lab.VIP6+"/128", "dev", "eth0", "nodad", "preferred_lft", "0")
	return l
}

// target is where a client asks: a VIP with a port, and from where the servers see it come.
type target struct {
	host   *lab.Host
	scheme string
	addr   netip.AddrPort
	seen   string
}

// vips are targets for the client's requests to a port of both VIPs.
func vips(l *lab.LVS, scheme string, port int) []target {
	return []target{
		{l.Client, scheme, netip.AddrPortFrom(netip.MustParseAddr(lab.VIP), uint16(port)), lab.ClientAddr},
		{l.Client, scheme, netip.AddrPortFrom(netip.MustParseAddr(lab.VIP6), uint16(port)), lab.ClientAddr6},
	}
}

// ask makes n requests and counts the answers by server.
func (g target) ask(t *testing.T, n int) map[string]int {
	t.Helper()
	answers := make(map[string]int)
	for range n {
		a, err := g.host.Get(fmt.Sprintf("%s://%v/", g.scheme, g.addr))
		if err != nil {
			t.Fatalf("%v: %v", g.addr, err)
		}
		if a.Client.Addr().Unmap().String() != g.seen {
			t.Errorf("%v: %s saw the client as %v, want %s", g.addr, a.Server, a.Client, g.seen)
		}
		answers[a.Server]++
	}
	return answers
}

// block writes a service. listen and servers are in TOML, without the brackets.
func block(name, listen, more, servers string) string {
	return fmt.Sprintf("[[service]]\nname = %q\nlisten = [%s]\n%s\nserver = [%s]\n\n", name, listen, more, servers)
}

// NAT and DR serve IPv6 as they do IPv4.
func TestLabForwarding6(t *testing.T) {
	l := newLVS6(t)
	var config string
	for method, port := range map[lab.Method]int{lab.NAT: 80, lab.DR: 81} {
		var servers []string
		for i := range 2 {
			s := l.AddServer(method)
			s.ServeHTTP(fmt.Sprintf("[::]:%d", port))
			if method == lab.DR {
				s.AddAddr("lo", lab.VIP6+"/128")
			}
			servers = append(servers, fmt.Sprintf("{ address = %q, weight = %d }", s.Addr6, 2*i+1))
		}
		config += block(string(method), fmt.Sprintf("\"[%s]:%d\"", lab.VIP6, port), fmt.Sprintf("scheduler = \"wrr\"\nforward = %q", method), strings.Join(servers, ","))
	}
	startDaemon(t, l.Director, config)
	for _, port := range []int{80, 81} {
		got := slices.Sorted(maps.Values(vips(l, "http", port)[1].ask(t, 8)))
		if !slices.Equal(got, []int{2, 6}) {
			t.Errorf("port %d: answers %v, want 2 and 6", port, got)
		}
	}
}

// Every kind of tunnel carries both families, to servers of both families.
func TestLabTunnels(t *testing.T) {
	l := newLVS6(t)
	var config strings.Builder
	want := make(map[int]string) // who answers on a port
	port := 80
	for _, kind := range []struct {
		unwrap lab.Tunnel
		config string
	}{
		{lab.IPIP, ""},
		{lab.GUE, fmt.Sprintf(`tunnel = { type = "gue", port = %d }`, lab.GUEPort)},
		{lab.GUE, fmt.Sprintf(`tunnel = { type = "gue", port = %d, checksum = "full" }`, lab.GUEPort)},
		{lab.GUE, fmt.Sprintf(`tunnel = { type = "gue", port = %d, checksum = "remote" }`, lab.GUEPort)},
		{lab.GRE, `tunnel = { type = "gre" }`},
		{lab.GREChecksum, `tunnel = { type = "gre", checksum = "full" }`},
	} {
		s := l.AddServer(lab.TUN)
		s.Unwrap(kind.unwrap, s.Addr, lab.VIP, lab.VIP6)
		s.Unwrap(kind.unwrap, s.Addr6)
		for _, addr := range []netip.Addr{s.Addr, s.Addr6} { // to the one, and to the other
			s.ServeHTTP(fmt.Sprintf(":%d", port))
			want[port] = s.Name
			server := fmt.Sprintf("{ address = %q }", addr)
			config.WriteString(block(fmt.Sprint("ipv4-", port), fmt.Sprintf("\"%s:%d\"", lab.VIP, port), "forward = \"tun\"\n"+kind.config, server))
			config.WriteString(block(fmt.Sprint("ipv6-", port), fmt.Sprintf("\"[%s]:%d\"", lab.VIP6, port), "forward = \"tun\"\n"+kind.config, server))
			port++
		}
	}
	startDaemon(t, l.Director, config.String())
	for port, name := range want {
		for _, target := range vips(l, "http", port) {
			if got := target.ask(t, 1); got[name] != 1 {
				t.Errorf("%v: answers %v, want one of %s", target.addr, got, name)
			}
		}
	}
}

// Full NAT: a client beside the servers is served, and one elsewhere, though nobody's replies are routed past the director. What
// is beside it, by direct routing and tunnel to the same VIP, still shows the client's address.
func TestLabFullNAT(t *testing.T) {
	l := newLVS6(t)
	neighbour := l.AddNeighbour()
	full := []*lab.RealServer{l.AddServer(lab.FullNAT), l.AddServer(lab.FullNAT)}
	for _, s := range full {
		for _, port := range []int{8080, 90, 8000, 8001} {
			s.ServeHTTP(fmt.Sprintf("[::]:%d", port))
		}
	}
	dr, tun := l.AddServer(lab.DR), l.AddServer(lab.TUN)
	dr.Run("poise", "realserver", "apply", "--vip", lab.VIP, "--runtime-dir", t.TempDir())
	dr.AddAddr("lo", lab.VIP6+"/128")
	dr.ServeHTTP("[::]:81")
	tun.Unwrap(lab.IPIP, tun.Addr, lab.VIP)
	tun.Unwrap(lab.IPIP, tun.Addr6, lab.VIP6)
	tun.ServeHTTP("[::]:82")

	var config string
	for family, vip := range []string{lab.VIP, "[" + lab.VIP6 + "]"} {
		of := func(s *lab.RealServer) string {
			return fmt.Sprintf("{ address = %q }", []netip.Addr{s.Addr, s.Addr6}[family])
		}
		both := func(port string) string {
			return strings.ReplaceAll(of(full[0])+", "+of(full[1]), " }", port+" }")
		}
		name := []string{"v4-", "v6-"}[family]
		config += block(name+"full", fmt.Sprintf("\"%s:80\"", vip), `forward = "fullnat"`, both(", port = 8080")) +
			// Of one service some servers may be reached otherwise.
			block(name+"mixed", fmt.Sprintf("\"%s:90\"", vip), "forward = \"dr\"\nscheduler = \"rr\"", of(full[0])[:len(of(full[0]))-1]+`, forward = "fullnat" }`) +
			block(name+"ranges", fmt.Sprintf("\"%s:8000-8001\"", vip), `forward = "fullnat"`, both("")) +
			block(name+"dr", fmt.Sprintf("\"%s:81\"", vip), `forward = "dr"`, of(dr)) +
			block(name+"tun", fmt.Sprintf("\"%s:82\"", vip), `forward = "tun"`, of(tun))
	}
	d := startDaemon(t, l.Director, config)
	for _, client := range []*lab.Host{l.Client, neighbour} {
		for _, port := range []int{80, 90, 8000, 8001, 81, 82} {
			for family, target := range vips(l, "http", port) {
				target.host = client
				switch {
				case port != 81 && port != 82:
					target.seen = []string{lab.DirectorIP, lab.DirectorIP6}[family]
				case client == neighbour:
					target.seen = []string{lab.NeighbourAddr, lab.NeighbourAddr6}[family]
				}
				target.ask(t, 2)
			}
		}
	}
	if s := d.status(); s.NFTProblem != "" {
		t.Error(s.NFTProblem)
	}

	// Without full NAT nothing is left of it.
	d.reload(block("dr", `"192.0.2.10:81"`, `forward = "dr"`, `{ address = "`+dr.Addr.String()+`" }`))
	if out := l.Director.Run("nft", "list", "ruleset"); strings.Contains(out, "poise") {
		t.Errorf("nftables still has\n%s", out)
	}
	vips(l, "http", 81)[0].ask(t, 1)
}

// Several ports and ranges are one service: with persistence a client stays with its server from one to the other, TLS included.
func TestLabMarks(t *testing.T) {
	l := newLVS6(t)
	var nat, dr []string
	for i := range 4 {
		method := []lab.Method{lab.NAT, lab.DR}[i%2]
		s := l.AddServer(method)
		for _, port := range []string{"80", "8000", "8005", "8009"} {
			s.ServeHTTP("[::]:" + port)
		}
		s.ServeHTTPS("[::]:443", lab.VIP, lab.VIP6)
		if method == lab.NAT {
			nat = append(nat, s.Addr.String(), s.Addr6.String())
			continue
		}
		s.Run("poise", "realserver", "apply", "--vip", lab.VIP, "--runtime-dir", t.TempDir())
		s.AddAddr("lo", lab.VIP6+"/128")
		dr = append(dr, s.Addr.String(), s.Addr6.String())
	}
	listen := func(vip string) string {
		return fmt.Sprintf(`"%[1]s:80", "%[1]s:443", "%[1]s:8000-8009"`, vip)
	}
	server := func(a, b string) string { return fmt.Sprintf("{ address = %q }, { address = %q }", a, b) }
	config := func(more string) string {
		return block("v4", listen(lab.VIP), "scheduler = \"rr\"\nforward = \"dr\"\n"+more, server(dr[0], dr[2])) +
			block("v6", listen("["+lab.VIP6+"]"), "scheduler = \"rr\"\nforward = \"nat\"\n"+more, server(nat[1], nat[3]))
	}
	d := startDaemon(t, l.Director, config(""))
	everywhere := func(family int) (all []target) {
		for _, port := range []int{80, 8000, 8005, 8009} {
			all = append(all, vips(l, "http", port)[family])
		}
		return append(all, vips(l, "https", 443)[family])
	}
	for family := range 2 {
		// One round robin over all ports.
		answers := make(map[string]int)
		for range 2 {
			for _, target := range everywhere(family) {
				for name, n := range target.ask(t, 1) {
					answers[name] += n
				}
			}
		}
		if got := slices.Collect(maps.Values(answers)); !slices.Equal(got, []int{5, 5}) {
			t.Errorf("answers %v, want 5 and 5", answers)
		}
	}
	// The director itself is a client of its services, too. NAT to itself it can be, DR cannot.
	if a, err := l.Director.Get(fmt.Sprintf("http://[%s]:8005/", lab.VIP6)); err != nil {
		t.Errorf("from the director itself: %v", err)
	} else if !strings.HasPrefix(a.Server, "nat") {
		t.Errorf("the director is answered by %+v", a)
	}

	d.reload(config(`persistence = "5m"`))
	for family := range 2 {
		answers := make(map[string]int)
		for _, target := range everywhere(family) {
			for name, n := range target.ask(t, 2) {
				answers[name] += n
			}
		}
		if len(answers) != 1 {
			t.Errorf("one client is answered by %v", answers)
		}
	}
	if text := d.must("status"); !strings.Contains(text, "v4 192.0.2.10:80 192.0.2.10:443 192.0.2.10:8000-8009 (mark 0x5") {
		t.Errorf("status says\n%s", text)
	}
}

// A mark that the user's own rules give is balanced, in each family by itself.
func TestLabFwmark(t *testing.T) {
	l := newLVS6(t)
	var servers []*lab.RealServer
	for range 2 {
		s := l.AddServer(lab.FullNAT)
		s.ServeHTTP("[::]:80")
		s.ServeHTTPS("[::]:443", lab.VIP, lab.VIP6)
		servers = append(servers, s)
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		vip := map[string]string{"iptables": lab.VIP, "ip6tables": lab.VIP6}[program]
		l.Director.Run(program, "-t", "mangle", "-A", "PREROUTING", "-d", vip, "-p", "tcp", "-m", "multiport", "--dports", "80,443", "-j", "MARK", "--set-mark", "666")
	}
	service := func(name, family string, addrs ...netip.Addr) string {
		return fmt.Sprintf("[[service]]\nname = %q\nfwmark = 666\nfamily = %q\nscheduler = \"rr\"\nforward = \"fullnat\"\nserver = [{ address = %q }, { address = %q }]\n",
			name, family, addrs[0], addrs[1])
	}
	startDaemon(t, l.Director, service("v4", "ipv4", servers[0].Addr, servers[1].Addr)+service("v6", "ipv6", servers[0].Addr6, servers[1].Addr6))
	for family := range 2 {
		answers := make(map[string]int)
		for range 2 {
			for _, target := range []target{vips(l, "http", 80)[family], vips(l, "https", 443)[family]} {
				target.seen = []string{lab.DirectorIP, lab.DirectorIP6}[family]
				for name, n := range target.ask(t, 1) {
					answers[name] += n
				}
			}
		}
		if got := slices.Collect(maps.Values(answers)); !slices.Equal(got, []int{2, 2}) {
			t.Errorf("answers %v, want 2 and 2", answers)
		}
	}
}
