package vrrp_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poise/internal/lab"
	"poise/vrrp"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// connHost is a host whose eth0 has 192.0.2.N, 2001:db8::N and fe80::N.
type connHost struct {
	*lab.Host
	ifindex           int
	v4, v6, linkLocal netip.Addr
}

// connHosts are hosts 1 to count on one switch.
func connHosts(t testing.TB, count int) []*connHost {
	t.Helper()
	lab.NeedRoot(t)
	n := lab.New(t)
	s := n.Switch("switch")
	var hosts []*connHost
	for i := range count {
		h := &connHost{
			Host:      n.Host(fmt.Sprintf("node%d", i+1)),
			v4:        netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i+1)),
			v6:        netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1)),
			linkLocal: netip.MustParseAddr(fmt.Sprintf("fe80::%d", i+1)),
		}
		link := h.Connect(s, h.v4.String()+"/24", h.v6.String()+"/64", h.linkLocal.String()+"/64")
		h.ifindex = h.index(t, link)
		hosts = append(hosts, h)
	}
	// What is sent before links and switch are ready is lost without a word.
	for _, h := range hosts[1:] {
		for _, addr := range []netip.Addr{h.v4, h.v6} {
			lab.Eventually(t, patience, func() error {
				c, err := hosts[0].Dial(t.Context(), "tcp", "", netip.AddrPortFrom(addr, 9).String())
				if err == nil {
					return c.Close()
				}
				if errors.Is(err, unix.ECONNREFUSED) {
					return nil
				}
				return err
			})
		}
	}
	return hosts
}

func (h *connHost) index(t testing.TB, link string) (index int) {
	t.Helper()
	err := h.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err == nil {
			index = i.Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func (h *connHost) listen(t testing.TB, c vrrp.Config, source netip.Addr) *vrrp.Conn {
	t.Helper()
	return h.listenOn(t, c, h.ifindex, source)
}

func (h *connHost) listenOn(t testing.TB, c vrrp.Config, ifindex int, source netip.Addr) (conn *vrrp.Conn) {
	t.Helper()
	err := h.Do(func() (err error) {
		conn, err = vrrp.Listen(c, ifindex, source)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// capture returns a function that waits for the next frame at eth0, in either direction, that match accepts.
func (h *connHost) capture(t testing.TB) (next func(match func(frame []byte) bool) []byte) {
	t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	var fd int
	err := h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: h.ifindex})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	frame := make([]byte, 2048)
	return func(match func(frame []byte) bool) []byte {
		t.Helper()
		for start := time.Now(); ; {
			waitReadable(t, fd, patience-time.Since(start))
			n, err := unix.Read(fd, frame)
			if err != nil {
				t.Fatal(err)
			}
			if match(frame[:n]) {
				return frame[:n]
			}
		}
	}
}

// vrrpFrame accepts frames of IPv4 and IPv6 that carry VRRP.
func vrrpFrame(frame []byte) bool {
	const protocol, nextHeader = 14 + 9, 14 + 6
	return bytes.HasPrefix(frame[12:], []byte{0x08, 0x00}) && frame[protocol] == vrrp.Protocol ||
		bytes.HasPrefix(frame[12:], []byte{0x86, 0xdd}) && frame[nextHeader] == vrrp.Protocol
}

func waitReadable(t testing.TB, fd int, limit time.Duration) {
	t.Helper()
	if !readable(t, fd, max(limit, 0)) {
		t.Fatalf("nothing to read after %v", limit)
	}
}

// readable waits until limit at most for poll to find a file readable, or in error.
func readable(t testing.TB, fd int, limit time.Duration) bool {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(limit.Milliseconds()))
		if err == unix.EINTR {
			continue // the runtime's own signals
		}
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
}

// receive waits for the next packet.
func receive(t testing.TB, c *vrrp.Conn) vrrp.Packet {
	t.Helper()
	waitReadable(t, c.FD(), patience)
	p, ok, err := c.Receive()
	if !ok || err != nil {
		t.Fatalf("readable, but Receive returns %v, %v", ok, err)
	}
	return p
}

// wantPriority waits for the next packet, which must be the advert with a priority.
func wantPriority(t testing.TB, c *vrrp.Conn, want uint8) {
	t.Helper()
	if got := receive(t, c).Payload[2]; got != want {
		t.Errorf("heard the advert with priority %d, want %d", got, want)
	}
}

// wantSilence is for when everything that was sent has arrived.
func wantSilence(t testing.TB, c *vrrp.Conn) {
	t.Helper()
	if p, ok, err := c.Receive(); ok || err != nil {
		t.Errorf("Receive returns %v, %v, %v: want nothing", p, ok, err)
	}
}

func send(t testing.TB, c *vrrp.Conn, a vrrp.Advert) {
	t.Helper()
	if err := c.Send(a, vrrp.PseudoHeader); err != nil {
		t.Fatal(err)
	}
}

// connConfig is a router without peers: with those it is unicast.
func connConfig(version int, address string, peers ...netip.Addr) vrrp.Config {
	return vrrp.Config{
		Name: "public", Interface: "eth0", VRID: 51, Version: version, Interval: time.Second,
		Addresses: []netip.Addr{netip.MustParseAddr(address)}, Peers: peers, Checksum: vrrp.PseudoHeader,
	}
}

const (
	vip4 = "192.0.2.100"
	vip6 = "2001:db8::100"
)

// What one node sends all others hear, as it was sent, and the node itself does not.
func TestNetnsConnDelivers(t *testing.T) {
	hosts := connHosts(t, 3)
	v4 := func(h *connHost) netip.Addr { return h.v4 }
	v6 := func(h *connHost) netip.Addr { return h.v6 }
	linkLocal := func(h *connHost) netip.Addr { return h.linkLocal }
	for _, tt := range []struct {
		name    string
		version int
		vip     string
		source  func(*connHost) netip.Addr
		group   netip.Addr
		mac     string
	}{
		{"version 2", 2, vip4, v4, vrrp.GroupIPv4, "01005e000012"},
		{"version 2 to peers", 2, vip4, v4, netip.Addr{}, ""},
		{"version 3", 3, vip4, v4, vrrp.GroupIPv4, "01005e000012"},
		{"version 3 to peers", 3, vip4, v4, netip.Addr{}, ""},
		{"IPv6", 3, vip6, linkLocal, vrrp.GroupIPv6, "333300000012"},
		{"IPv6 to peers", 3, vip6, v6, netip.Addr{}, ""},
		{"IPv6 to peers on the link", 3, vip6, linkLocal, netip.Addr{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var conns []*vrrp.Conn
			var advert vrrp.Advert
			for _, h := range hosts {
				c := connConfig(tt.version, tt.vip)
				for _, peer := range hosts {
					if !tt.group.IsValid() && peer != h {
						c.Peers = append(c.Peers, tt.source(peer))
					}
				}
				conns = append(conns, h.listen(t, c, tt.source(h)))
				advert = c.Advert(100)
			}
			next := hosts[1].capture(t)
			src := tt.source(hosts[0])
			send(t, conns[0], advert)
			for i, h := range hosts[1:] {
				dst := tt.group
				if !dst.IsValid() {
					dst = tt.source(h)
				}
				p := receive(t, conns[1+i])
				if p.Src != src || p.Dst != dst || p.TTL != 255 {
					t.Errorf("%s: from %v to %v with TTL %d, want from %v to %v with 255", h.Name, p.Src, p.Dst, p.TTL, src, dst)
				}
				if want := advert.Append(nil, src, dst, vrrp.PseudoHeader); !bytes.Equal(p.Payload, want) {
					t.Errorf("%s: heard\n%x, want\n%x", h.Name, p.Payload, want)
				}
				wantSilence(t, conns[1+i])
			}

			frame := next(vrrpFrame)
			if mac := hex.EncodeToString(frame[:6]); tt.mac != "" && mac != tt.mac {
				t.Errorf("sent to %s, want %s", mac, tt.mac)
			}
			class := frame[15]
			if src.Is6() {
				class = frame[14]<<4 | frame[15]>>4
			}
			if class != 0xc0 {
				t.Errorf("traffic class %#x, want 0xc0", class)
			}

			other := advert
			other.Priority = 7
			send(t, conns[1], other)
			wantPriority(t, conns[0], 7) // not its own, which was first
			wantPriority(t, conns[2], 7)
			wantSilence(t, conns[1])
		})
	}
}

// The whole frame is what keepalived 2.2.7 sends for the same router.
func TestNetnsConnWire(t *testing.T) {
	const want = "01005e000012" + "020000000a01" + "0800" +
		"45c000200001" + "0000" + "ff70" + "1899" + "c0000201" + "e0000012" + "313396010064" + "d371" + "c0000264"
	hosts := connHosts(t, 2)
	hosts[0].Run("ip", "link", "set", "eth0", "address", "02:00:00:00:0a:01")
	// Whatever the routes say, the group is on the link.
	hosts[0].Run("ip", "route", "add", "blackhole", "224.0.0.0/4")
	hosts[0].Run("ip", "route", "add", "default", "via", "192.0.2.2")
	next := hosts[1].capture(t)
	c := connConfig(3, vip4)
	send(t, hosts[0].listen(t, c, hosts[0].v4), c.Advert(150))
	if got := hex.EncodeToString(next(vrrpFrame)); got != want {
		t.Errorf("sent\n%s, want\n%s", got, want)
	}
}

// On its way out of this host an advert has the highest priority.
func TestNetnsConnPriority(t *testing.T) {
	h := connHosts(t, 1)[0]
	for vip, source := range map[string]netip.Addr{vip4: h.v4, vip6: h.linkLocal} {
		before := openFiles(t)
		conn := h.listen(t, connConfig(3, vip), source)
		for _, fd := range openedSince(t, before) {
			priority, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY)
			if err != nil || fd != conn.FD() && priority != 6 {
				t.Errorf("%s: priority %d, %v; want 6", vip, priority, err)
			}
		}
	}
}

// A router with peers and one with the group do not hear each other's, whatever their source.
func TestNetnsConnKeepsModesApart(t *testing.T) {
	hosts := connHosts(t, 2)
	for _, tt := range []struct {
		vip     string
		sources [2]netip.Addr
	}{
		{vip4, [2]netip.Addr{hosts[0].v4, hosts[1].v4}},
		{vip6, [2]netip.Addr{hosts[0].linkLocal, hosts[1].linkLocal}},
	} {
		t.Run(tt.vip, func(t *testing.T) {
			group, peers := connConfig(3, tt.vip), connConfig(3, tt.vip, tt.sources[1])
			toGroup, toPeers := hosts[0].listen(t, group, tt.sources[0]), hosts[0].listen(t, peers, tt.sources[0])
			peers = connConfig(3, tt.vip, tt.sources[0])
			byGroup, byPeers := hosts[1].listen(t, group, tt.sources[1]), hosts[1].listen(t, peers, tt.sources[1])
			anywhere := hosts[1].listen(t, peers, netip.Addr{})

			send(t, toPeers, peers.Advert(1))
			send(t, toGroup, peers.Advert(2))
			send(t, toPeers, peers.Advert(3))
			send(t, toGroup, peers.Advert(4))
			wantPriority(t, byGroup, 2)
			wantPriority(t, byGroup, 4)
			wantSilence(t, byGroup)
			wantPriority(t, byPeers, 1)
			wantPriority(t, byPeers, 3)
			wantSilence(t, byPeers)
			if !peers.IPv6() { // where a source is required
				wantPriority(t, anywhere, 1)
				wantPriority(t, anywhere, 3)
				wantSilence(t, anywhere)
			}
		})
	}
}

// Routers on one interface are independent. What is on another interface they do not hear.
func TestNetnsConnTwoRouters(t *testing.T) {
	hosts := connHosts(t, 2)
	s := lab.New(t).Switch("back")
	for _, h := range hosts {
		h.Connect(s, "198.51.100."+h.v4.String()[len("192.0.2."):]+"/24")
	}
	c51 := connConfig(3, vip4)
	c52 := c51
	c52.VRID = 52
	a51, a52 := hosts[0].listen(t, c51, hosts[0].v4), hosts[0].listen(t, c52, hosts[0].v4)
	back := hosts[0].listenOn(t, c51, hosts[0].index(t, "eth1"), netip.MustParseAddr("198.51.100.1"))
	b51, b52 := hosts[1].listen(t, c51, hosts[1].v4), hosts[1].listen(t, c52, hosts[1].v4)

	send(t, back, c51.Advert(1))
	send(t, a51, c51.Advert(2))
	send(t, a52, c52.Advert(3))
	for _, c := range []*vrrp.Conn{b51, b52} {
		wantPriority(t, c, 2)
		wantPriority(t, c, 3)
		wantSilence(t, c)
	}
	if err := b51.Close(); err != nil {
		t.Error(err)
	}
	send(t, a52, c52.Advert(4))
	wantPriority(t, b52, 4)

	// A host has its addresses on all its interfaces, for the kernel.
	toPeer := connConfig(3, vip4, hosts[1].v4)
	byPeer := connConfig(3, vip4, hosts[0].v4)
	front := hosts[1].listen(t, byPeer, hosts[1].v4)
	behind := hosts[1].listenOn(t, byPeer, hosts[1].index(t, "eth1"), hosts[1].v4)
	send(t, hosts[0].listenOn(t, toPeer, hosts[0].index(t, "eth1"), hosts[0].v4), toPeer.Advert(5))
	wantPriority(t, behind, 5)
	wantSilence(t, front)
}

// A tap is for one interface: what a VLAN of it carries is another one's, whether it comes in or goes out.
func TestNetnsTapOfTrunk(t *testing.T) {
	hosts := connHosts(t, 2)
	src, c := hosts[0].v4, connConfig(3, vip4)
	hosts[1].listen(t, c, hosts[1].v4) // joins the group
	var taps []*vrrp.Tap
	for _, h := range hosts {
		err := h.Do(func() error {
			tap, err := vrrp.OpenTap(h.ifindex)
			if err == nil {
				t.Cleanup(func() { tap.Close() })
				taps = append(taps, tap)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	next := hosts[1].capture(t)
	conn := hosts[0].listen(t, c, src)
	send(t, conn, c.Advert(0))
	plain := bytes.Clone(next(vrrpFrame))
	tagged := func(vlan byte, priority uint8) []byte {
		frame := slices.Concat(plain[:12], []byte{0x81, 0x00, 0xc0, vlan}, plain[12:14+20])
		return c.Advert(priority).Append(frame, src, vrrp.GroupIPv4, vrrp.PseudoHeader)
	}
	err := hosts[0].Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, frame := range [][]byte{tagged(100, 1), tagged(0, 2)} {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: hosts[0].ifindex, Protocol: 0x0081}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	send(t, conn, c.Advert(3))
	for i, want := range [][]uint8{{0, 3}, {0, 2, 3}} { // the frames with a tag that it sends itself are not told apart
		var heard []uint8
		for !slices.Contains(heard, 3) {
			waitReadable(t, taps[i].FD(), patience)
			if p, from, ok, err := taps[i].Receive(); err != nil || ok && (from.Own != (i == 0) || !bytes.Equal(from.MAC, plain[6:12])) {
				t.Fatalf("from %+v, %v", from, err)
			} else if ok {
				heard = append(heard, p.Payload[2])
			}
		}
		if !slices.Equal(heard, want) {
			t.Errorf("%s: heard the adverts with priority %v, want %v", hosts[i].Name, heard, want)
		}
	}
}

// While a router opens its sockets nothing reaches them that is not for it.
func TestNetnsConnHearsNothingEarly(t *testing.T) {
	h := connHosts(t, 1)[0]
	c := connConfig(3, vip4)
	var raw int
	err := h.Do(func() (err error) {
		raw, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, vrrp.Protocol)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := unix.Sendto(raw, make([]byte, 12), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	err = h.Do(func() error {
		for range 300 {
			conn, err := vrrp.Listen(c, h.ifindex, h.v4)
			if err != nil {
				return err
			}
			wantSilence(t, conn)
			if err := conn.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	close(stop)
	flood.Wait()
	if err != nil {
		t.Error(err)
	}
}

// A full queue keeps the oldest packets; the number of the others is known as soon as they are lost.
func TestNetnsConnLost(t *testing.T) {
	const sent = 3000
	hosts := connHosts(t, 2)
	c := connConfig(3, vip4)
	from, to := hosts[0].listen(t, c, hosts[0].v4), hosts[1].listen(t, c, hosts[1].v4)
	if n := to.Lost(); n != 0 {
		t.Errorf("lost %d at first", n)
	}
	for i := range sent {
		send(t, from, c.Advert(uint8(i)))
	}
	received := 0
	lab.Eventually(t, patience, func() error {
		for ; ; received++ {
			p, ok, err := to.Receive()
			if !ok || err != nil {
				break
			}
			if p.Payload[2] != uint8(received) {
				t.Fatalf("packet %d is %d", received, p.Payload[2])
			}
		}
		if lost := to.Lost(); lost == 0 || lost != to.Lost() || received+int(lost) != sent {
			return fmt.Errorf("sent %d, received %d, lost %d", sent, received, lost)
		}
		return nil
	})
	t.Logf("the queue holds %d packets", received)
	if received < 400 { // fewer would be the kernel's default
		t.Errorf("the queue holds %d packets only", received)
	}
}

// What is no advert is not an error of the socket, and does not hide what comes next.
func TestNetnsConnJunk(t *testing.T) {
	hosts := connHosts(t, 2)
	for _, tt := range []struct {
		vip    string
		source netip.Addr
		family int
		to     unix.Sockaddr
	}{
		{vip4, hosts[1].v4, unix.AF_INET, &unix.SockaddrInet4{Addr: hosts[1].v4.As4()}},
		{vip6, hosts[1].v6, unix.AF_INET6, &unix.SockaddrInet6{Addr: hosts[1].v6.As16()}},
	} {
		t.Run(tt.vip, func(t *testing.T) {
			conn := hosts[1].listen(t, connConfig(3, tt.vip, tt.source), tt.source)
			lengths := []int{0, 1, 7, 20000, 8}
			err := hosts[0].Do(func() error {
				fd, err := unix.Socket(tt.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, vrrp.Protocol)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				for _, length := range lengths {
					if err := unix.Sendto(fd, make([]byte, length), 0, tt.to); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			filter := vrrp.NewFilter(connConfig(3, tt.vip, tt.source))
			for _, length := range lengths[:len(lengths)-1] {
				p := receive(t, conn)
				_, _, err := filter.Judge(p, func(netip.Addr) bool { return false })
				if drop, ok := errors.AsType[*vrrp.Drop](err); !ok {
					t.Errorf("%d bytes of junk count as %v", length, drop)
				}
			}
			if p := receive(t, conn); len(p.Payload) != 8 {
				t.Errorf("then %d bytes, want 8", len(p.Payload))
			}
		})
	}
}

// Rejoin makes switches that snoop forward the group here.
func TestNetnsConnRejoin(t *testing.T) {
	for _, tt := range []struct {
		vip    string
		report func(frame []byte) bool
		quick  string // shortens the time in which reports are repeated
	}{
		{vip4, func(f []byte) bool {
			return bytes.HasPrefix(f[12:], []byte{0x08, 0x00}) && f[14+9] == unix.IPPROTO_IGMP &&
				bytes.Contains(f, vrrp.GroupIPv4.AsSlice())
		}, "net/ipv4/conf/eth0/igmpv3_unsolicited_report_interval"},
		{vip6, func(f []byte) bool {
			const afterRouterAlert = 14 + 40 + 8
			return bytes.HasPrefix(f[12:], []byte{0x86, 0xdd}) && len(f) > afterRouterAlert && f[afterRouterAlert] == 143 &&
				bytes.Contains(f, vrrp.GroupIPv6.AsSlice())
		}, "net/ipv6/conf/eth0/mldv2_unsolicited_report_interval"},
	} {
		t.Run(tt.vip, func(t *testing.T) {
			hosts := connHosts(t, 2)
			hosts[0].Sysctl(tt.quick, "100")
			next := hosts[1].capture(t)
			source := map[string]netip.Addr{vip4: hosts[0].v4, vip6: hosts[0].linkLocal}[tt.vip]
			conn := hosts[0].listen(t, connConfig(3, tt.vip), source)
			other := connConfig(3, tt.vip)
			other.VRID++
			second := hosts[0].listen(t, other, source) // the group is left when the last of the interface has left it
			const repeated = 2                          // each change is reported twice (RFC 3376 section 8.1, RFC 3810 section 9.14.1)
			for range repeated {
				next(tt.report)
			}
			if err := vrrp.Rejoin(conn, second); err != nil {
				t.Fatal(err)
			}
			next(tt.report)
		})
	}
}

// After Rejoin the group is heard as before.
func TestNetnsConnHearsAfterRejoin(t *testing.T) {
	hosts := connHosts(t, 2)
	for vip, source := range map[string]func(*connHost) netip.Addr{
		vip4: func(h *connHost) netip.Addr { return h.v4 },
		vip6: func(h *connHost) netip.Addr { return h.linkLocal },
	} {
		c := connConfig(3, vip)
		from, to := hosts[0].listen(t, c, source(hosts[0])), hosts[1].listen(t, c, source(hosts[1]))
		if err := vrrp.Rejoin(to); err != nil {
			t.Error(err)
		}
		send(t, from, c.Advert(1))
		wantPriority(t, to, 1)
		unicast := hosts[1].listen(t, connConfig(3, vip, source(hosts[0])), source(hosts[1]))
		if err := vrrp.Rejoin(unicast); err != nil {
			t.Errorf("with peers: %v", err)
		}
	}
}

// The source of what is sent changes, and with peers also where we are reached.
func TestNetnsConnSetSource(t *testing.T) {
	hosts := connHosts(t, 2)
	for _, tt := range []struct{ vip, from, old, changed string }{
		{vip4, "192.0.2.1", "192.0.2.2", "192.0.2.22"},
		{vip6, "2001:db8::1", "2001:db8::2", "2001:db8::22"},
	} {
		t.Run(tt.vip, func(t *testing.T) {
			from, old, changed := netip.MustParseAddr(tt.from), netip.MustParseAddr(tt.old), netip.MustParseAddr(tt.changed)
			both := hosts[0].listen(t, connConfig(3, tt.vip, old, changed), from)
			c := connConfig(3, tt.vip, from)
			conn := hosts[1].listen(t, c, old)
			conn.SetSource(netip.Addr{})
			if err := conn.Send(c.Advert(1), vrrp.PseudoHeader); err == nil {
				t.Error("sends without a source")
			}
			conn.SetSource(changed) // before the address is there
			hosts[1].AddAddr("eth0", netip.PrefixFrom(changed, changed.BitLen()).String())
			send(t, conn, c.Advert(2))
			if p := receive(t, both); p.Src != changed || p.Payload[2] != 2 {
				t.Errorf("heard %d from %v, want 2 from %v", p.Payload[2], p.Src, changed)
			}
			send(t, both, c.Advert(3))
			if p := receive(t, conn); p.Dst != changed {
				t.Errorf("heard what was sent to %v, want %v", p.Dst, changed)
			}
			wantSilence(t, conn)
		})
	}
}

// Peers that are dead do not keep adverts from the living, however short the interval.
func TestNetnsConnDeadPeers(t *testing.T) {
	hosts := connHosts(t, 2)
	for vip, addrs := range map[string][]string{
		vip4: {"192.0.2.97", "192.0.2.98", "192.0.2.99", "192.0.2.2"},
		vip6: {"2001:db8::97", "2001:db8::98", "2001:db8::99", "2001:db8::2"},
	} {
		var peers []netip.Addr
		for _, a := range addrs {
			peers = append(peers, netip.MustParseAddr(a))
		}
		c, living := connConfig(3, vip, peers...), peers[len(peers)-1]
		source := map[string]netip.Addr{vip4: hosts[0].v4, vip6: hosts[0].v6}[vip]
		from, to := hosts[0].listen(t, c, source), hosts[1].listen(t, connConfig(3, vip, source), living)
		for i := range 2000 {
			send(t, from, c.Advert(uint8(i)))
			wantPriority(t, to, uint8(i))
		}
	}
}

// An error with one peer is said, and the others get their advert.
func TestNetnsConnRefusedPeer(t *testing.T) {
	hosts := connHosts(t, 2)
	for _, tt := range []struct {
		vip, source, refused, living string
		err                          error
	}{
		{vip4, "192.0.2.1", "192.0.2.255", "192.0.2.2", unix.EACCES}, // a broadcast address
		{vip6, "2001:db8::1", "2001:db8:ffff::1", "2001:db8::2", unix.ENETUNREACH},
	} {
		source, refused, living := netip.MustParseAddr(tt.source), netip.MustParseAddr(tt.refused), netip.MustParseAddr(tt.living)
		c := connConfig(3, tt.vip, refused, living)
		to := hosts[1].listen(t, connConfig(3, tt.vip, source), living)
		err := hosts[0].listen(t, c, source).Send(c.Advert(1), vrrp.PseudoHeader)
		if !errors.Is(err, tt.err) || strings.Count(err.Error(), "send advert") != 1 || !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("error %v, want %v for %s only", err, tt.err, tt.refused)
		}
		wantPriority(t, to, 1)
	}
}

// A link that is slower than we are for a moment costs time, not adverts.
func TestNetnsConnWaitsForRoom(t *testing.T) {
	hosts := connHosts(t, 2)
	hosts[0].Run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "8mbit", "burst", "2kb", "limit", "10mb")
	c := connConfig(3, vip4)
	from := hosts[0].listen(t, c, hosts[0].v4)
	start := time.Now()
	const sent, onWire = 4000, 8 * 46 * time.Second / 8_000_000
	refused := 0 // where this machine is so busy that the link's turn does not come within the millisecond
	for range sent {
		if err := from.Send(c.Advert(100), vrrp.PseudoHeader); errors.Is(err, unix.EAGAIN) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// The send buffer holds less than half of it.
	if took := time.Since(start); took < sent/2*onWire || refused > sent/10 {
		t.Errorf("took only %v, refused %d of %d", took, refused, sent)
	}
}

// When the kernel has no room after a millisecond either, that is an error which says for whom.
func TestNetnsConnNoRoom(t *testing.T) {
	h := connHosts(t, 1)[0]
	h.Sysctl("net/ipv4/neigh/eth0/unres_qlen_bytes", "100000000")
	c := connConfig(3, vip4, netip.MustParseAddr("192.0.2.99"))
	conn := h.listen(t, c, h.v4)
	for range 10000 {
		start := time.Now()
		err := conn.Send(c.Advert(100), vrrp.PseudoHeader)
		if err == nil {
			continue
		}
		if took := time.Since(start); took < time.Millisecond {
			t.Errorf("gave up after %v", took)
		}
		if !errors.Is(err, unix.EAGAIN) || !strings.Contains(err.Error(), "192.0.2.99") {
			t.Errorf("error %q, want EAGAIN for 192.0.2.99", err)
		}
		return
	}
	t.Error("the kernel took everything")
}

// Without its interface a router cannot send. It hears nothing, which does not wake its owner.
func TestNetnsConnInterfaceDeleted(t *testing.T) {
	hosts := connHosts(t, 1)
	h := hosts[0]
	var conns []*vrrp.Conn
	var configs []vrrp.Config
	for vip, source := range map[string]netip.Addr{vip4: h.v4, vip6: h.linkLocal} {
		for _, c := range []vrrp.Config{connConfig(3, vip), connConfig(3, vip, source.Next())} {
			configs = append(configs, c)
			conns = append(conns, h.listen(t, c, source))
		}
	}
	h.Run("ip", "link", "del", "eth0")
	for i, conn := range conns {
		c := configs[i]
		if err := conn.Send(c.Advert(100), vrrp.PseudoHeader); !errors.Is(err, unix.ENODEV) {
			t.Errorf("send %v %v: %v, want ENODEV", c.Addresses, c.Peers, err)
		}
		if err := vrrp.Rejoin(conn); (err == nil) != (c.Peers != nil) {
			t.Errorf("rejoin %v %v: %v", c.Addresses, c.Peers, err)
		}
		if readable(t, conn.FD(), 0) {
			t.Errorf("%v %v is readable", c.Addresses, c.Peers)
		}
		wantSilence(t, conn)
	}
}

// Both sockets stay in this process and end with Close, and when Listen cannot complete. Only one hears.
func TestNetnsConnClose(t *testing.T) {
	hosts := connHosts(t, 2)
	h := hosts[0]
	c := connConfig(3, vip4)
	before := openFiles(t)
	conn := h.listen(t, c, h.v4)
	opened := openedSince(t, before)
	if len(opened) != 2 || !slices.Contains(opened, conn.FD()) {
		t.Fatalf("opened %v, want two with %d", opened, conn.FD())
	}
	for _, fd := range opened {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("file %d: %v, flags %x: want close-on-exec", fd, err, flags)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("file %d: %v, flags %x: want nonblocking", fd, err, flags)
		}
	}
	other := hosts[1].listen(t, c, hosts[1].v4)
	send(t, other, c.Advert(1))
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	wantPriority(t, conn, 1)
	for _, fd := range opened {
		if n, err := unix.Read(fd, make([]byte, 100)); err != unix.EAGAIN {
			t.Errorf("file %d: read %d, %v: want nothing", fd, n, err)
		}
	}
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := conn.Receive(); err == nil {
		t.Error("receives after Close")
	}
	if err := conn.Send(c.Advert(100), vrrp.PseudoHeader); err == nil {
		t.Error("sends after Close")
	}

	for nowhere, c := range map[int]vrrp.Config{0: connConfig(3, vip4, h.v4.Next()), 1 << 30: c} {
		err := h.Do(func() error {
			_, err := vrrp.Listen(c, nowhere, h.v4)
			return err
		})
		if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), `router "public": adverts on eth0: `) {
			t.Errorf("on interface %d: %v", nowhere, err)
		}
	}
	if left := openedSince(t, before); len(left) != 0 {
		t.Errorf("files %v are left open", left)
	}
}

// openFiles are this process's file descriptors.
func openFiles(t *testing.T) (fds []int) {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := os.Readlink(name); err != nil {
			continue // that of the listing itself
		}
		fd, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	return fds
}

// openedSince are the files that are open now and were not before.
func openedSince(t *testing.T, before []int) []int {
	t.Helper()
	return slices.DeleteFunc(openFiles(t), func(fd int) bool { return slices.Contains(before, fd) })
}

// Neither direction makes garbage.
func TestNetnsConnAllocates(t *testing.T) {
	hosts := connHosts(t, 2)
	for vip, sources := range map[string][2]netip.Addr{
		vip4: {hosts[0].v4, hosts[1].v4},
		vip6: {hosts[0].linkLocal, hosts[1].linkLocal},
	} {
		c := connConfig(3, vip)
		a := c.Advert(100)
		from, to := hosts[0].listen(t, c, sources[0]), hosts[1].listen(t, c, sources[1])
		send(t, from, a) // makes the buffers
		receive(t, to)
		const runs = 100
		if n := testing.AllocsPerRun(runs, func() { send(t, from, a) }); n != 0 {
			t.Errorf("%s: %v allocations a Send", vip, n)
		}
		for range runs {
			receive(t, to) // all have arrived
		}
		receive(t, to)
		for range runs + 1 {
			send(t, from, a)
		}
		if n := testing.AllocsPerRun(runs, func() {
			for ok := false; !ok; {
				var err error
				if _, ok, err = to.Receive(); err != nil {
					t.Fatal(err)
				}
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a Receive", vip, n)
		}
		if n := testing.AllocsPerRun(runs, func() { wantSilence(t, to) }); n != 0 {
			t.Errorf("%s: %v allocations a Receive of nothing", vip, n)
		}
		if n := testing.AllocsPerRun(runs, func() { to.Lost() }); n != 0 {
			t.Errorf("%s: %v allocations a Lost", vip, n)
		}
	}
}

// A Send goes all the way into the other host, whose queue overflows: the price of a Send is its upper bound.
func BenchmarkConn(b *testing.B) {
	hosts := connHosts(b, 2)
	for vip, sources := range map[string][2]netip.Addr{
		vip4: {hosts[0].v4, hosts[1].v4},
		vip6: {hosts[0].linkLocal, hosts[1].linkLocal},
	} {
		c := connConfig(3, vip)
		a := c.Advert(100)
		from, to := hosts[0].listen(b, c, sources[0]), hosts[1].listen(b, c, sources[1])
		b.Run("Send/"+vip, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				send(b, from, a)
			}
		})
		b.Run("Receive/"+vip, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, ok, err := to.Receive()
				if err != nil {
					b.Fatal(err)
				}
				if !ok {
					b.StopTimer()
					for range 500 {
						send(b, from, a)
					}
					b.StartTimer()
				}
			}
		})
	}
}
