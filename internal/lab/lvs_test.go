package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"
)

// weights of the two servers of TestLabMethods.
var weights = []int{1, 3}

// Each method, set up by ipvsadm, serves the client through the director, and the real
// servers see the client's address.
func TestLabMethods(t *testing.T) {
	NeedIPVS(t)
	for method, flag := range map[Method]string{NAT: "-m", DR: "-g", TUN: "-i"} {
		t.Run(string(method), func(t *testing.T) {
			l := NewLVS(t)
			l.Director.AddAddr("eth0", VIP+"/32")
			l.Director.Sysctl("net/ipv4/ip_forward", "1")
			l.Director.Run("ipvsadm", "-A", "-t", VIP+":80", "-s", "rr")
			want := map[string]int{}
			for _, weight := range weights {
				s := l.AddServer(method)
				switch method {
				case DR:
					s.Sysctl("net/ipv4/conf/all/arp_ignore", "1")
					s.Sysctl("net/ipv4/conf/all/arp_announce", "2")
					s.AddAddr("lo", VIP+"/32")
				case TUN:
					s.AcceptTunnel(VIP)
				}
				s.ServeHTTP(":80")
				l.Director.Run("ipvsadm", "-a", "-t", VIP+":80", "-r", s.Addr.String()+":80", flag, "-w", fmt.Sprint(weight))
				want[s.Name] = 4
			}
			got := map[string]int{}
			for range 8 {
				a, err := l.Client.Get("http://" + VIP + "/")
				if err != nil {
					t.Fatal(err)
				}
				if a.Client.Addr().String() != ClientAddr {
					t.Errorf("%s saw the client as %v, want %s", a.Server, a.Client, ClientAddr)
				}
				got[a.Server]++
			}
			if !maps.Equal(got, want) {
				t.Errorf("answers %v, want %v", got, want)
			}

			Eventually(t, 10*time.Second, func() error { return sameAsSet(l.Director.IPVS(), method) })
		})
	}
}

// sameAsSet compares what moby/ipvs reads with what TestLabMethods set and sent.
func sameAsSet(got []Service, method Method) error {
	if len(got) != 1 || len(got[0].Destinations) != 2 {
		return fmt.Errorf("kernel has %+v, want one service with two destinations", got)
	}
	s := got[0]
	if s.Protocol != 6 || s.Addr != netip.MustParseAddrPort(VIP+":80") || s.Scheduler != "rr" || s.Counters.Connections != 8 {
		return fmt.Errorf("service %+v, want TCP %s:80, rr, 8 connections", s, VIP)
	}
	for i, d := range s.Destinations {
		if d.Method != method || d.Weight != weights[i] || d.Counters.Connections != 4 {
			return fmt.Errorf("destination %+v, want %s, weight %d, 4 connections", d, method, weights[i])
		}
	}
	return nil
}

// Without IPVS the LVS network is one of plain routes, in both families: servers are reached from the client, and
// what NAT servers answer comes through the director.
func TestNetnsLVS(t *testing.T) {
	NeedRoot(t)
	l := NewLVS(t)
	for _, method := range []Method{NAT, DR, TUN, FullNAT} {
		s := l.AddServer(method)
		s.ServeHTTP("[::]:80")
		if method == NAT {
			l.Director.Sysctl("net/ipv4/ip_forward", "1")
			l.Director.Sysctl("net/ipv6/conf/all/forwarding", "1")
			l.Router.Route("10.0.0.0/24", DirectorIP)
			l.Router.Route("fd00:10::/64", DirectorIP6)
		} else {
			l.Director.SetLink("eth0", false)
		}
		for _, addr := range []netip.Addr{s.Addr, s.Addr6} {
			service := netip.AddrPortFrom(addr, 80).String()
			a, err := l.Client.Get("http://" + service + "/")
			if err != nil {
				t.Errorf("%s server: %v", method, err)
			} else if a.Server != s.Name || a.Client.Addr() != clientOf(service) || a.Host != service {
				t.Errorf("%s server: %+v", method, a)
			}
		}
	}
}

// A neighbour and servers reach each other by themselves, in both families.
func TestNetnsNeighbour(t *testing.T) {
	NeedRoot(t)
	l := NewLVS(t)
	client, server := l.AddNeighbour(), l.AddServer(FullNAT)
	server.ServeHTTP(":80")
	for _, h := range []*Host{l.Director, l.Router} {
		h.SetLink("eth0", false)
		h.SetLink("eth1", false)
	}
	for addr, want := range map[netip.Addr]string{server.Addr: NeighbourAddr, server.Addr6: NeighbourAddr6} {
		a, err := client.Get("http://" + netip.AddrPortFrom(addr, 80).String() + "/")
		if err != nil || a.Client.Addr().String() != want {
			t.Errorf("answer %+v, error %v, want client %s", a, err, want)
		}
	}
}

// Full NAT by hand: the director is the client of servers which route elsewhere or could answer directly.
func TestLabFullNAT(t *testing.T) {
	NeedIPVS(t)
	l := NewLVS(t)
	addVIPs(l.Director)
	l.Director.Sysctl("net/ipv4/ip_forward", "1")
	l.Director.Sysctl("net/ipv6/conf/all/forwarding", "1")
	l.Director.Sysctl("net/ipv4/vs/conntrack", "1")
	l.Director.Run("nft", `table inet lab {
		chain postrouting {
			type nat hook postrouting priority srcnat
			ct original ip daddr `+VIP+` masquerade
			ct original ip6 daddr `+VIP6+` masquerade
		}
	}`)
	s := l.AddServer(FullNAT)
	s.ServeHTTP(":8080")
	ipvsadm(l.Director, []string{
		"-A -t " + VIP + ":80", "-a -m -t " + VIP + ":80 -r " + s.Addr.String() + ":8080",
		"-A -t [" + VIP6 + "]:80", "-a -m -t [" + VIP6 + "]:80 -r [" + s.Addr6.String() + "]:8080",
	})
	for _, client := range []*Host{l.Client, l.AddNeighbour()} {
		for url, want := range map[string]string{"http://" + VIP: DirectorIP, "http://[" + VIP6 + "]": DirectorIP6} {
			a, err := client.Get(url)
			if err != nil || a.Client.Addr().String() != want {
				t.Errorf("%s: %s: answer %+v, error %v, want client %s", client.Name, url, a, err, want)
			}
		}
	}
}

// A mark, set by iptables, joins HTTP and HTTPS in both families: a client stays with its server.
func TestLabMark(t *testing.T) {
	NeedIPVS(t)
	l := NewLVS(t)
	addVIPs(l.Director)
	l.Director.Sysctl("net/ipv4/ip_forward", "1")
	l.Director.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for program, vip := range map[string]string{"iptables": VIP, "ip6tables": VIP6} {
		l.Director.Run(program, "-t", "mangle", "-A", "PREROUTING", "-d", vip, "-p", "tcp",
			"-m", "multiport", "--dports", "80,443", "-j", "MARK", "--set-mark", "1")
	}
	table := []string{"-A -f 1 -s rr -p 60 -M 255.255.255.0", "-A -f 1 -6 -s rr -p 60 -M 64"}
	for range 2 {
		s := l.AddServer(NAT)
		s.ServeHTTP(":80")
		s.ServeHTTPS(":443", VIP, VIP6)
		table = append(table, "-a -m -f 1 -r "+s.Addr.String()+" -x 9 -y 3", "-a -m -f 1 -6 -r "+s.Addr6.String()+" -x 9 -y 3")
	}
	ipvsadm(l.Director, table)
	for _, host := range []string{VIP, "[" + VIP6 + "]"} {
		servers := map[string]bool{}
		for _, url := range []string{"http://" + host, "https://" + host, "http://" + host} {
			a, err := l.Client.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			servers[a.Server] = true
		}
		if len(servers) != 1 {
			t.Errorf("%s: answers of %v, want one server", host, servers)
		}
	}
	services := l.Director.IPVS()
	if len(services) != 2 {
		t.Fatalf("kernel has %+v, want two services", services)
	}
	for i, want := range []Service{{Family: 4, PrefixLen: 24}, {Family: 6, PrefixLen: 64}} {
		s := services[i]
		if s.Mark != 1 || s.Family != want.Family || s.PrefixLen != want.PrefixLen || len(s.Destinations) != 2 {
			t.Errorf("service %+v, want mark 1, IPv%d, /%d, two destinations", s, want.Family, want.PrefixLen)
		}
		for _, d := range s.Destinations {
			if d.Upper != 9 || d.Lower != 3 {
				t.Errorf("destination %+v, want thresholds 9 and 3", d)
			}
		}
	}
}

func TestLabWatchIPVS(t *testing.T) {
	NeedIPVS(t)
	h := New(t).Host("director")
	other := h.net.Host("other")
	w := h.WatchIPVS()
	h.Run("ipvsadm", "-L", "-n")
	other.Run("ipvsadm", "-A", "-t", VIP+":80")
	if w.Writes() != 0 || len(w.Counts()) == 0 {
		t.Errorf("after listing: %v, want reads only", w.Counts())
	}
	const newService, delService = 1, 3
	h.Run("ipvsadm", "-A", "-t", VIP+":80")
	h.Run("ipvsadm", "-L", "-n") // the answer carries command 1 too
	h.Run("ipvsadm", "-D", "-t", VIP+":80")
	if c := w.Counts(); c[newService] != 1 || c[delService] != 1 || w.Writes() != 2 {
		t.Errorf("after an addition and a deletion: %v", c)
	}
}
