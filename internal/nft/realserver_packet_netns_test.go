package nft

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
)

// realServer has virtual addresses on lo and is on two segments, each with a neighbour that takes the way to them by the
// server's own address there, as a director does.
type realServer struct {
	*lab.Host
	front, back *lab.Host
}

func newRealServer(t testing.TB) *realServer {
	n := lab.New(t)
	s := &realServer{n.Host("server"), n.Host("front"), n.Host("back")}
	front, back := n.Switch("frontswitch"), n.Switch("backswitch")
	s.front.Connect(front, "192.0.2.1/24", "2001:db8::1/64")
	s.Connect(front, "192.0.2.21/24", "2001:db8::21/64")
	s.back.Connect(back, "10.0.0.1/24")
	s.Connect(back, "10.0.0.21/24")
	for _, vip := range []string{"192.0.2.10/32", "192.0.2.11/32", "2001:db8::10/128", "2001:db8::11/128"} {
		s.AddAddr("lo", vip)
		if strings.Contains(vip, ":") {
			s.front.Route(vip, "2001:db8::21")
		} else {
			s.front.Route(vip, "192.0.2.21")
			s.back.Route(vip, "10.0.0.21")
		}
	}
	s.front.ServeUDP("192.0.2.1:53")
	s.back.ServeUDP("10.0.0.1:53")
	s.ServeHTTP(":80")
	s.front.ServeHTTP(":80")
	return s
}

// answers tells whether the server answers the front's question who has vip.
func (s *realServer) answers(t *testing.T, vip string) bool {
	t.Helper()
	seen := s.front.Capture("eth0")
	defer seen.Stop()
	told := func(addr string) bool {
		return slices.ContainsFunc(seen.Frames(), func(f lab.Frame) bool {
			a, ok := f.ARP()
			return ok && a.Reply && !f.Sent && a.Addr.String() == addr
		})
	}
	const own = "192.0.2.21" // it answers for that in any case
	lab.Eventually(t, 5*time.Second, func() error {
		if told(own) {
			return nil
		}
		return errors.Join(errors.New("no answer for "+own), askFrom(s.front, "192.0.2.1", vip, own))
	})
	time.Sleep(50 * time.Millisecond)
	return told(vip)
}

// askFrom sends ARP requests from a host's eth0.
func askFrom(h *lab.Host, sender string, targets ...string) error {
	return h.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, target := range targets {
			frame := slices.Concat(
				slices.Repeat([]byte{0xff}, 6), link.HardwareAddr, []byte{8, 6}, // to all, ARP
				[]byte{0, 1, 8, 0, 6, 4, 0, 1}, // Ethernet, IPv4, their sizes, request
				link.HardwareAddr, netip.MustParseAddr(sender).AsSlice(),
				make([]byte, 6), netip.MustParseAddr(target).AsSlice(),
			)
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
				return err
			}
		}
		return nil
	})
}

// asksAs has the server talk to a neighbour, which it has forgotten, from vip, and returns in whose name it asked for the
// neighbour. With no name it has not, and gets no answer.
func (s *realServer) asksAs(t *testing.T, vip string, neighbour *lab.Host, addr string) string {
	t.Helper()
	s.Run("ip", "neigh", "flush", "all")
	neighbour.Run("ip", "neigh", "flush", "all")
	seen := neighbour.Capture("eth0")
	defer seen.Stop()
	c, err := s.Dial(t.Context(), "udp", vip+":0", addr+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var answer lab.Answer
	for range 5 {
		c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Write([]byte("who?")); err != nil {
			continue // nobody is there
		}
		if json.NewDecoder(c).Decode(&answer) == nil {
			break
		}
	}
	senders := make(map[string]bool)
	for _, f := range seen.Frames() {
		if a, ok := f.ARP(); ok && !a.Reply && !f.Sent && a.Addr.String() == addr {
			senders[netip.AddrFrom4([4]byte(f.Data[28:])).String()] = true
		}
	}
	if got, want := answer.Client.Addr().String() == vip, len(senders) > 0; got != want {
		t.Errorf("from %s to %s: answered %v, asked for the neighbour %v", vip, addr, got, want)
	}
	return strings.Join(slices.Sorted(maps.Keys(senders)), " ")
}

func TestNetnsSilence(t *testing.T) {
	lab.NeedRoot(t)
	s := newRealServer(t)
	const vip, other = "192.0.2.10", "192.0.2.11"
	for _, tt := range []struct {
		name        string
		vips        []netip.Addr
		own         map[string]netip.Addr
		answers     bool
		front, back string // as whom the server asks there
	}{
		{"without a table", nil, nil, true, vip, vip},
		{"silent", addrs(vip), map[string]netip.Addr{"eth0": netip.MustParseAddr("192.0.2.21"), "eth1": netip.MustParseAddr("10.0.0.21")}, false, "192.0.2.21", "10.0.0.21"},
		{"without an own address behind", addrs(vip), map[string]netip.Addr{"eth0": netip.MustParseAddr("192.0.2.21")}, false, "192.0.2.21", ""},
		{"silent about another", addrs(other), map[string]netip.Addr{"eth0": netip.MustParseAddr("192.0.2.21")}, true, vip, vip},
		{"removed", nil, nil, true, vip, vip},
	} {
		setSilence(t, s.Host, tt.vips, tt.own)
		if got := s.answers(t, vip); got != tt.answers {
			t.Errorf("%s: answers for %s: %v, want %v", tt.name, vip, got, tt.answers)
		}
		if got, want := s.answers(t, other), !slices.Contains(tt.vips, netip.MustParseAddr(other)); got != want {
			t.Errorf("%s: answers for %s: %v, want %v", tt.name, other, got, want)
		}
		if got := s.asksAs(t, vip, s.front, "192.0.2.1"); got != tt.front {
			t.Errorf("%s: asks in the name of %s, want %s", tt.name, got, tt.front)
		}
		// Who is asked remembers who asked.
		learnt := strings.Contains(s.front.Run("ip", "neigh", "show", vip), "lladdr")
		if want := tt.front == vip; learnt != want {
			t.Errorf("%s: the neighbour has learnt where %s is: %v, want %v", tt.name, vip, learnt, want)
		}
		if got := s.asksAs(t, vip, s.back, "10.0.0.1"); got != tt.back {
			t.Errorf("%s: behind asks in the name of %s, want %s", tt.name, got, tt.back)
		}
		if got := s.asksAs(t, "192.0.2.21", s.front, "192.0.2.1"); got != "192.0.2.21" {
			t.Errorf("%s: from its own address asks in the name of %s", tt.name, got)
		}
		// What the director would bring it serves.
		if _, err := s.front.Get("http://" + vip + "/"); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// announced are the MSS in SYN and SYN-ACK, by whom they are from.
func announced(frames []lab.Frame) map[string]int {
	all := make(map[string]int)
	for _, f := range frames {
		var from netip.Addr
		b := f.Data[14:]
		switch binary.BigEndian.Uint16(f.Data[12:]) {
		case unix.ETH_P_IP:
			if b[9] != unix.IPPROTO_TCP {
				continue
			}
			from, b = netip.AddrFrom4([4]byte(b[12:])), b[b[0]&15*4:]
		case unix.ETH_P_IPV6:
			if b[6] != unix.IPPROTO_TCP {
				continue
			}
			from, b = netip.AddrFrom16([16]byte(b[8:])), b[40:]
		default:
			continue
		}
		if b[tcpFlags]&tcpSYN == 0 {
			continue
		}
		name := "SYN from " + from.String()
		if b[tcpFlags]&0x10 != 0 {
			name = "SYN-ACK from " + from.String()
		}
		for options := b[20 : b[12]>>4*4]; len(options) > 3; {
			switch options[0] {
			case tcpMSS:
				all[name] = int(binary.BigEndian.Uint16(options[2:]))
				options = nil
			case 1: // padding
				options = options[1:]
			default:
				options = options[max(2, options[1]):]
			}
		}
	}
	return all
}

func TestNetnsClamp(t *testing.T) {
	lab.NeedRoot(t)
	s := newRealServer(t)
	const vip, large, own, client = "192.0.2.10", "192.0.2.11", "192.0.2.21", "192.0.2.1"
	const vip6, large6, own6, client6 = "2001:db8::10", "2001:db8::11", "2001:db8::21", "2001:db8::1"
	mss := map[netip.Addr]uint16{
		netip.MustParseAddr(vip): 1400, netip.MustParseAddr(large): 9000,
		netip.MustParseAddr(vip6): 1380, netip.MustParseAddr(large6): 9000,
	}
	// The headers leave 1460 and 1440 bytes of 1500.
	plain := map[string]int{vip: 1460, large: 1460, own: 1460, vip6: 1440, large6: 1440, own6: 1440}
	clamped := maps.Clone(plain)
	clamped[vip], clamped[vip6] = 1400, 1380
	for _, tt := range []struct {
		name string
		mss  map[netip.Addr]uint16
		want map[string]int
	}{
		{"without a table", nil, plain},
		{"clamped", mss, clamped},
		{"removed", nil, plain},
	} {
		setClamp(t, s.Host, tt.mss)
		seen := s.front.Capture("eth0")
		want := make(map[string]int)
		for addr, size := range tt.want {
			host := netip.AddrPortFrom(netip.MustParseAddr(addr), 80).String()
			if _, err := s.front.Get("http://" + host + "/"); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if got := sends(t, s.front, host); got > size || got < size-100 {
				t.Errorf("%s: the client sends %d bytes at a time to %s, which announces %d", tt.name, got, addr, size)
			}
			to := client
			if strings.Contains(addr, ":") {
				to = client6
				want["SYN from "+client6], want["SYN-ACK from "+client6] = 1440, 1440
			} else {
				want["SYN from "+client], want["SYN-ACK from "+client] = 1460, 1460
			}
			c, err := s.Dial(t.Context(), "tcp", net.JoinHostPort(addr, "0"), net.JoinHostPort(to, "80"))
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			want["SYN from "+addr], want["SYN-ACK from "+addr] = size, size
		}
		seen.Stop()
		if got := announced(seen.Frames()); !maps.Equal(got, want) {
			t.Errorf("%s: announced is\n%v, want\n%v", tt.name, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}

// sends is the size of the segments in which a host sends there.
func sends(t *testing.T, h *lab.Host, to string) (size int) {
	t.Helper()
	c, err := h.Dial(t.Context(), "tcp", "", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	failed := raw.Control(func(fd uintptr) { size, err = syscall.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	if err := errors.Join(failed, err); err != nil {
		t.Fatal(err)
	}
	return size
}
