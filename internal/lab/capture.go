package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Capture is what passes a link of a host. Nothing runs for it: the frames wait in the kernel, stamped with their
// time, until somebody asks.
type Capture struct {
	host *Host

	mu     sync.Mutex
	fd     int
	frames []Frame
	err    error // why frames are missing
}

// Frame is one Ethernet frame.
type Frame struct {
	Time time.Time // when the kernel had it, by the wall clock
	Sent bool      // by the host itself; else received
	Data []byte    // from the destination's MAC on
}

// Bounds of a Capture: a test that needs more asks too late, or too much.
const (
	captureBuffer = 64 << 20 // bytes in the kernel, some 80000 small frames
	captureFrames = 1 << 19  // that were asked for
)

// Capture records the frames of a link, both directions, until Stop or the network's end.
func (h *Host) Capture(link string) *Capture {
	c := &Capture{host: h, fd: -1}
	h.net.must(h.wrap("capture "+link, c.open(link)))
	h.net.atEnd(func() error {
		c.Stop()
		return nil
	})
	return c
}

func (c *Capture) open(name string) error {
	link, err := c.host.links.LinkByName(name)
	if err != nil {
		return err
	}
	return c.host.Do(func() error {
		// Protocol 0 receives nothing until Bind names the link.
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		if err := awaitStamps(); err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // network byte order
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	})
}

// awaitStamps returns once packets are stamped when they come. The kernel begins to do so some time after the first
// socket has asked for it; before, a packet has the time at which it is read.
func awaitStamps() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	oob := make([]byte, 1<<8)
	for {
		if err := unix.Sendto(fd, nil, 0, self); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
		read := time.Now()
		_, n, _, _, err := unix.Recvmsg(fd, nil, oob, 0)
		if err != nil {
			return err
		}
		at, err := stamp(oob[:n])
		if err != nil || at.Before(read) {
			return err
		}
	}
}

// Stop ends the recording; what is recorded stays.
func (c *Capture) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		c.err = c.read()
		unix.Close(c.fd)
		c.fd = -1
	}
}

// Frames are all that passed so far, in order of time. That some are missing ends the test.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 && c.err == nil {
		c.err = c.read()
	}
	c.host.net.must(c.host.wrap("capture", c.err))
	frames := slices.Clone(c.frames)
	slices.SortStableFunc(frames, func(a, b Frame) int { return a.Time.Compare(b.Time) }) // processors race for the queue
	return frames
}

// read takes what waits in the socket.
func (c *Capture) read() error {
	buf, oob := make([]byte, 1<<16), make([]byte, 1<<8)
	for {
		n, oobn, _, from, err := unix.Recvmsg(c.fd, buf, oob, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EAGAIN:
			return c.missed()
		case unix.ENETDOWN, unix.EINTR:
			continue // said once when the link goes down; it may come up again
		default:
			return err
		}
		if len(c.frames) == captureFrames {
			return fmt.Errorf("more than %d frames", captureFrames)
		}
		at, err := stamp(oob[:oobn])
		if err != nil {
			return err
		}
		sent := from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING
		c.frames = append(c.frames, Frame{at, sent, slices.Clone(buf[:n])})
	}
}

func (c *Capture) missed() error {
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("%d frames missed", stats.Drops)
	}
	return err
}

// stamp is the time in a packet's control messages.
func stamp(oob []byte) (time.Time, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS {
			seconds, nanoseconds := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			return time.Unix(int64(seconds), int64(nanoseconds)), nil
		}
	}
	return time.Time{}, fmt.Errorf("no time on a frame")
}

// ARP is what a frame says about who has an IPv4 address, or what a neighbour advertisement says about an IPv6 one.
type ARP struct {
	Reply      bool // an answer; else a question. An advertisement to all is none of both, but gratuitous
	Gratuitous bool // a host tells all of itself
	Addr       netip.Addr
	MAC        string // who has Addr, or for a question, who asks: "02:42:c0:00:02:01"
}

// ARP reads ARP packets and neighbour advertisements; false for all other frames.
func (f Frame) ARP() (a ARP, ok bool) {
	const header = 14
	if len(f.Data) < header+28 {
		return ARP{}, false
	}
	b := f.Data[header:]
	switch binary.BigEndian.Uint16(f.Data[12:]) {
	case unix.ETH_P_ARP: // RFC 826: operation at 6, sender at 8 and 14, target at 24
		sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
		a = ARP{Reply: b[7] == 2, Gratuitous: sender == target, Addr: target, MAC: mac(b[8:])}
		if a.Reply {
			a.Addr = sender
		}
		return a, true
	case unix.ETH_P_IPV6: // RFC 4861 section 4.4: type 136; target at 8, its link-layer address in the first option
		if b[6] != unix.IPPROTO_ICMPV6 || len(b) < 40+32 || b[40] != 136 || b[64] != 2 {
			return ARP{}, false
		}
		toAll := b[24] == 0xff
		return ARP{!toAll, toAll, netip.AddrFrom16([16]byte(b[48:])), mac(b[66:])}, true
	}
	return ARP{}, false
}

func mac(b []byte) string { return net.HardwareAddr(b[:6]).String() }
