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
