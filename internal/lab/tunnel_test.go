package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Each kind of tunnel, set up by ipvsadm, brings requests of both families to either address of a server, and is on
// the wire what it says.
func TestLabTunnels(t *testing.T) {
	NeedIPVS(t)
	gue := fmt.Sprintf("--tun-type gue --tun-port %d ", GUEPort)
	for _, tt := range []struct {
		kind    Tunnel
		options []string // of ipvsadm, each with a port of its own
		wire    []byte   // IP protocols
	}{
		{IPIP, []string{""}, []byte{unix.IPPROTO_IPIP, unix.IPPROTO_IPV6}},
		{GUE, []string{gue + "--tun-nocsum", gue + "--tun-csum", gue + "--tun-remcsum"}, []byte{unix.IPPROTO_UDP}},
		{GRE, []string{"--tun-type gre --tun-nocsum"}, []byte{unix.IPPROTO_GRE}},
		{GREChecksum, []string{"--tun-type gre --tun-csum"}, []byte{unix.IPPROTO_GRE}},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			l := NewLVS(t)
			addVIPs(l.Director)
			s := l.AddServer(TUN)
			wire := s.Capture("eth0")
			var table, services []string
			for i, to := range []netip.Addr{s.Addr, s.Addr6} {
				s.Unwrap(tt.kind, to, VIP, VIP6)
				for j, options := range tt.options {
					port := fmt.Sprint(80 + i + 2*j)
					s.ServeHTTP(":" + port)
					for _, vip := range []string{VIP, VIP6} {
						service := net.JoinHostPort(vip, port)
						table = append(table, "-A -t "+service, "-a -t "+service+" -r "+net.JoinHostPort(to.String(), port)+" -i "+options)
						services = append(services, service)
					}
				}
			}
			ipvsadm(l.Director, table)
			for i, service := range services {
				a, err := l.Client.Get("http://" + service + "/")
				if err != nil {
					t.Errorf("%s: %v", table[2*i+1], err)
					continue
				}
				if want := clientOf(service); a.Client.Addr() != want {
					t.Errorf("%s: server saw the client as %v, want %v", service, a.Client, want)
				}
			}
			if got := received(wire.Frames()); !slices.Equal(got, tt.wire) {
				t.Errorf("received IP protocols %d, want %d", got, tt.wire)
			}
		})
	}
}

// addVIPs gives a director both virtual addresses. The IPv6 one is deprecated: no tunnel may start from it.
func addVIPs(director *Host) {
	director.AddAddr("eth0", VIP+"/32")
	director.Run("ip", "addr", "add", VIP6+"/128", "dev", "eth0", "nodad", "preferred_lft", "0")
}

// ipvsadm runs many commands as one process, which an emulated processor is grateful for.
func ipvsadm(h *Host, commands []string) {
	cmd := exec.Command("ipvsadm", "-R")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	h.net.must(h.wrap("ipvsadm -R", h.Start(cmd).Wait()))
}

// clientOf is the address of the LVS network's client that asks at a virtual address and port.
func clientOf(service string) netip.Addr {
	if netip.MustParseAddrPort(service).Addr().Is6() {
		return netip.MustParseAddr(ClientAddr6)
	}
	return netip.MustParseAddr(ClientAddr)
}

// received returns the IP protocols of the frames that a host got for itself, in order and each once.
func received(frames []Frame) []byte {
	var protocols []byte
	for _, f := range frames {
		multicast := f.Data[0]&1 == 1
		if f.Sent || multicast {
			continue
		}
		switch {
		case f.Data[12] == 0x08 && f.Data[13] == 0x00:
			protocols = append(protocols, f.Data[14+9])
		case f.Data[12] == 0x86 && f.Data[13] == 0xdd && f.Data[14+6] != unix.IPPROTO_ICMPV6: // neighbours
			protocols = append(protocols, f.Data[14+6])
		}
	}
	slices.Sort(protocols)
	return slices.Compact(protocols)
}
