package realserver

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"poise/internal/host"
	"poise/internal/nft"
)

var (
	clientIP = netip.MustParseAddr("192.0.2.1")
	serverIP = netip.MustParseAddr("192.0.2.21")
	vip      = netip.MustParseAddr("192.0.2.10")
)

// segment is a client and a server on one wire, each in its own network namespace. The test runs
// in the server's; a subtest would run on another thread, outside.
type segment struct {
	t        *testing.T
	clientHW net.HardwareAddr
	wire     int        // packet socket on the client's end: ARP frames in and out
	stranger netip.Addr // on the segment, known to nobody
}

// needNetAdmin skips the test without the privilege, or fails it where it was promised.
func needNetAdmin(t *testing.T) {
	t.Helper()
	if err := host.NeedNetAdmin(); err != nil {
		if os.Getenv("POISE_LAB") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	needNetAdmin(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	linkUp := func(name string) *netlink.LinkAttrs {
		t.Helper()
		link, err := netlink.LinkByName(name)
		check(err)
		check(netlink.LinkSetUp(link))
		return link.Attrs()
	}

	runtime.LockOSThread() // for good: the thread ends with the test, and the namespaces with it
	client, err := netns.New()
	check(err)
	t.Cleanup(func() { client.Close() })
	server, err := netns.New()
	check(err)
	t.Cleanup(func() { server.Close() })

	veth := netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(client)}
	check(netlink.LinkAdd(&veth))
	linkUp("lo")
	linkUp("eth0")
	_, err = host.AddAddr("eth0", netip.PrefixFrom(serverIP, 24))
	check(err)

	check(netns.Set(client))
	eth0 := linkUp("eth0")
	arp := binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(err)
	t.Cleanup(func() { unix.Close(wire) })
	check(unix.Bind(wire, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(arp), Ifindex: eth0.Index}))
	check(unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	check(netns.Set(server))

	s := &segment{t, eth0.HardwareAddr, wire, netip.MustParseAddr("192.0.2.100")}
	for range 5 { // a wire just made may lose the first frames
		s.ask(serverIP)
		if _, ok := s.receive(); ok {
			return s
		}
	}
	t.Fatal("the server does not answer ARP for its own address")
	return nil
}

// ask broadcasts the client's question who has addr.
func (s *segment) ask(addr netip.Addr) {
	s.t.Helper()
	frame := slices.Concat(
		slices.Repeat([]byte{0xff}, 6), s.clientHW, []byte{8, 6}, // to all, ARP
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, // Ethernet, IPv4, their sizes, request
		s.clientHW, clientIP.AsSlice(),
		make([]byte, 6), addr.AsSlice(),
	)
	if _, err := unix.Write(s.wire, frame); err != nil {
		s.t.Fatal(err)
	}
}

type arpPacket struct {
	request        bool
	sender, target netip.Addr
}

// receive returns the next ARP packet from the server; false when none comes for a second.
func (s *segment) receive() (arpPacket, bool) {
	s.t.Helper()
	frame := make([]byte, 60)
	n, err := unix.Read(s.wire, frame)
	if err == unix.EAGAIN {
		return arpPacket{}, false
	}
	if err != nil || n < 42 {
		s.t.Fatalf("ARP frame of %d bytes: %v", n, err)
	}
	sender, _ := netip.AddrFromSlice(frame[28:32])
	target, _ := netip.AddrFromSlice(frame[38:42])
	return arpPacket{frame[21] == 1, sender, target}, true
}

// answers tells whether the server answers ARP for the VIP. The wire keeps the order: an answer
// to a second question, for the server's own address, proves that none for the VIP is to come.
func (s *segment) answers() bool {
	s.t.Helper()
	s.ask(vip)
	s.ask(serverIP)
	for answered := false; ; {
		switch p, ok := s.receive(); {
		case !ok: // arp_ignore=8 silences that one as well
			return answered
		case p.request:
		case p.sender == vip:
			answered = true
		case p.sender == serverIP:
			return answered
		}
	}
}

// asksAs returns the address in whose name the server asks for a neighbour to send it a packet
// from the VIP.
func (s *segment) asksAs() netip.Addr {
	s.t.Helper()
	s.stranger = s.stranger.Next() // the kernel asks once for each
	from, to := netip.AddrPortFrom(vip, 0), netip.AddrPortFrom(s.stranger, 9)
	conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		s.t.Fatal(err)
	}
	for {
		p, ok := s.receive()
		if !ok {
			s.t.Fatalf("nobody asks for %s", to.Addr())
		}
		if p.request && p.target == s.stranger {
			return p.sender
		}
	}
}

// snapshot is all that realserver may touch on the server.
func (s *segment) snapshot() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	interfaces, err := kernel{}.interfaces()
	for _, ifname := range interfaces {
		for _, setting := range []string{"arp_ignore", "arp_announce"} {
			name := host.SysctlName("net", "ipv4", "conf", ifname, setting)
			all[name] = s.read(name)
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, a := range addrs {
		all[fmt.Sprintf("%v on link %d", a.IPNet, a.LinkIndex)] = present
	}
	return all
}

func (s *segment) read(sysctl string) string {
	s.t.Helper()
	value, err := host.Sysctls{}.Read(sysctl)
	if err != nil {
		s.t.Fatal(err)
	}
	return value
}

func (s *segment) write(sysctl, value string) {
	s.t.Helper()
	if err := (host.Sysctls{}).Write(sysctl, value); err != nil {
		s.t.Fatal(err)
	}
}

func (s *segment) addVIPByHand() {
	s.t.Helper()
	if _, err := host.AddAddr("lo", netip.PrefixFrom(vip, 32)); err != nil {
		s.t.Fatal(err)
	}
}

func TestNetnsDirectRouting(t *testing.T) {
	s := newSegment(t)
	s.write(ignore, "0")
	s.write(announce, "1")
	before := s.snapshot()

	s.addVIPByHand()
	if !s.answers() {
		t.Error("the VIP alone: silent, so the test sees nothing")
	}
	if got := s.asksAs(); got != vip {
		t.Errorf("the VIP alone: asks as %s, want %s", got, vip)
	}
	if _, err := host.DelAddr("lo", netip.PrefixFrom(vip, 32)); err != nil {
		t.Fatal(err)
	}

	dir := filepath.Join(t.TempDir(), "run")
	settings := Settings{Mode: DR, VIPs: []netip.Addr{vip}}
	if _, err := Apply(dir, settings); err != nil {
		t.Fatal(err)
	}
	if s.answers() {
		t.Error("applied: answers for the VIP")
	}
	if got := s.asksAs(); got != serverIP {
		t.Errorf("applied: asks as %s, want %s", got, serverIP)
	}
	states, err := Status(dir)
	if err != nil || len(states) != 3 || slices.ContainsFunc(states, func(s State) bool { return !s.OK() }) {
		t.Errorf("applied: status %+v, %v", states, err)
	}

	if _, err := Undo(dir, settings.VIPs...); err != nil {
		t.Fatal(err)
	}
	if after := s.snapshot(); !maps.Equal(after, before) {
		t.Errorf("undone: %v\nbefore: %v", after, before)
	}
}

// TestNetnsNotOnTheDirector: the server's own address stands for a VIP on the director's wire.
func TestNetnsNotOnTheDirector(t *testing.T) {
	s := newSegment(t)
	before := s.snapshot()
	_, err := Apply(t.TempDir(), Settings{Mode: DR, VIPs: []netip.Addr{vip, serverIP}})
	if got, want := errorText(err), "192.0.2.21 is an address of eth0: a real server has it on lo only; is this the director?"; got != want {
		t.Errorf("error %s, want %s", got, want)
	}
	if after := s.snapshot(); !maps.Equal(after, before) {
		t.Errorf("refused: %v\nbefore: %v", after, before)
	}
}

// TestNetnsKilledApply: the run before was killed between its first and its second step.
func TestNetnsKilledApply(t *testing.T) {
	s := newSegment(t)
	s.write(ignore, "0")
	before := s.snapshot()
	dir := t.TempDir()
	settings := Settings{Mode: DR, VIPs: []netip.Addr{vip}}
	for _, retried := range []bool{false, true} {
		rec, err := host.OpenRecord(recordPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := rec.Remember(ignore, "0"); err != nil {
			t.Fatal(err)
		}
		s.write(ignore, "1")

		if retried {
			if _, err := Apply(dir, settings); err != nil {
				t.Fatal(err)
			}
			s.addVIPByHand() // no change if Apply did it
			if s.answers() {
				t.Error("retried: answers for the VIP")
			}
		}
		if _, err := Undo(dir, settings.VIPs...); err != nil {
			t.Fatal(err)
		}
		if after := s.snapshot(); !maps.Equal(after, before) {
			t.Errorf("retried=%v, undone: %v\nbefore: %v", retried, after, before)
		}
	}
}

// TestNetnsWantedValues holds the plan's values against what this kernel does with each.
func TestNetnsWantedValues(t *testing.T) {
	s := newSegment(t)
	s.write(ignore, "0")
	s.addVIPByHand()
	for _, tc := range []struct {
		step   Step
		values int
		silent func() bool
	}{
		{Step{ignore, sysctl{ignore}.want()}, 10, func() bool { return !s.answers() }},
		{Step{announce, sysctl{announce}.want()}, 4, func() bool { return s.asksAs() == serverIP }},
	} {
		_, setting, _ := strings.Cut(tc.step.Key, ".all.")
		own := "net.ipv4.conf.eth0." + setting
		s.write(own, "0")
		for v := range tc.values {
			value := strconv.Itoa(v)
			s.write(tc.step.Key, value)
			if got, want := tc.silent(), slices.Contains(tc.step.Want, value); got != want {
				t.Errorf("%s = %s: silent %v, want %v", tc.step.Key, value, got, want)
			}
		}
		s.write(tc.step.Key, tc.step.Want[0])
		for v := range tc.values {
			s.write(own, strconv.Itoa(v))
			loud, err := overrides(kernel{}, []State{{Step: tc.step, Now: tc.step.Want[0]}})
			if got, want := tc.silent(), len(loud) == 0; got != want || err != nil {
				t.Errorf("%s = %d: silent %v, want %v, %v", own, v, got, want, err)
			}
		}
		s.write(own, "0")
	}
}

// TestProcessesTakeTurns: a record opened while another process changes it would lose its notes.
func TestProcessesTakeTurns(t *testing.T) {
	needNetAdmin(t)
	dir := t.TempDir()
	const processes = 20
	var wg sync.WaitGroup
	for i := range processes {
		wg.Go(func() {
			_, err := withRecord(dir, func(rec *host.Record) ([]Change, error) {
				return nil, rec.Remember(strconv.Itoa(i), "0")
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	rec, err := host.OpenRecord(recordPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(rec.All()); got != processes {
		t.Errorf("%d notes, want %d", got, processes)
	}
}

// TestNetnsAnotherMSS: a later apply may say that less fits into the tunnel. That is what must be then, and undo leaves nothing.
func TestNetnsAnotherMSS(t *testing.T) {
	newSegment(t)
	for _, sizes := range [][]uint16{{1440, 1240}, {1440, 1240, 1440}} {
		path := filepath.Join(t.TempDir(), "realserver.json")
		open := func() *host.Record {
			rec, err := host.OpenRecord(path)
			if err != nil {
				t.Fatal(err)
			}
			return rec
		}
		for _, mss := range sizes {
			c := clamped{vip, mss}
			if _, err := apply(kernel{}, open(), []Step{{c.key(), c.want()}}); err != nil {
				t.Fatal(err)
			}
			steps, err := recorded(open())
			if err != nil || len(steps) != 1 || steps[0].Key != c.key() {
				t.Errorf("MSS %d of %v: must be %v, %v", mss, sizes, steps, err)
			}
			if now, err := c.get(); now != present || err != nil {
				t.Errorf("MSS %d of %v: %s, %v", mss, sizes, now, err)
			}
		}
		changes, err := undo(kernel{}, open(), nil)
		if left, _, errRead := nft.ReadClamp(); len(left) > 0 || err != nil || errRead != nil {
			t.Errorf("%v undone: %v in %v, %v, %v", sizes, left, changes, err, errRead)
		}
	}
}
