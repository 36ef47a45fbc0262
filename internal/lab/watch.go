package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reads are the IPVS commands that change nothing: GET_SERVICE, GET_DEST, GET_DAEMON,
// GET_CONFIG, GET_INFO.
var reads = []uint8{4, 8, 11, 13, 15}

// IPVSWatch counts the IPVS commands which any process sends on a host.
type IPVSWatch struct {
	host   *Host
	fd     int // packet socket on an nlmon link, which sees all netlink messages
	family uint16
	counts map[uint8]int // by command number
	last   time.Time     // of a command that changes something
	buf    []byte
}

// WatchIPVS starts to count. Only one watch a host is possible.
func (h *Host) WatchIPVS() *IPVSWatch {
	w := &IPVSWatch{host: h, fd: -1, counts: map[uint8]int{}, buf: make([]byte, 1<<20)}
	h.net.must(h.wrap("watch IPVS", w.open()))
	h.net.atEnd(func() error { return unix.Close(w.fd) })
	return w
}

func (w *IPVSWatch) open() error {
	family, err := w.host.links.GenlFamilyGet("IPVS")
	if err != nil {
		return err
	}
	if family.ID == 0 {
		return errors.New("no IPVS")
	}
	w.family = family.ID
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "nlmon"
	monitor := &netlink.GenericLink{LinkAttrs: attrs, LinkType: "nlmon"}
	if err := w.host.links.LinkAdd(monitor); err != nil {
		return err
	}
	if err := w.host.links.LinkSetUp(monitor); err != nil {
		return err
	}
	return w.host.Do(func() error {
		// Protocol 0 receives nothing until Bind names the link.
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		// Counts reads only when asked, so the buffer holds all that happens in between.
		if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		link, err := w.host.links.LinkByName(attrs.Name)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // network byte order
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	})
}

// Counts returns how often each command number was sent since WatchIPVS.
func (w *IPVSWatch) Counts() map[uint8]int {
	w.host.net.must(w.host.wrap("watch IPVS", w.read()))
	return maps.Clone(w.counts)
}

// Writes is the number of commands sent so far that change something.
func (w *IPVSWatch) Writes() int {
	n := 0
	for cmd, count := range w.Counts() {
		if !slices.Contains(reads, cmd) {
			n += count
		}
	}
	return n
}

// LastWrite is when the last of them was sent, zero when none was.
func (w *IPVSWatch) LastWrite() time.Time {
	w.Counts()
	return w.last
}

// read takes what is in the socket. The kernel puts a copy there before a sender's call
// returns, so nothing is missed.
func (w *IPVSWatch) read() error {
	oob := make([]byte, 1<<8)
	for {
		n, oobn, _, from, err := unix.Recvmsg(w.fd, w.buf, oob, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			return err
		}
		proto := binary.NativeEndian.AppendUint16(nil, from.(*unix.SockaddrLinklayer).Protocol)
		if binary.BigEndian.Uint16(proto) == unix.NETLINK_GENERIC {
			at, err := stamp(oob[:oobn])
			if err != nil {
				return err
			}
			w.count(w.buf[:n], at)
		}
	}
	stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return err
	}
	if stats.Drops > 0 {
		return fmt.Errorf("%d netlink messages missed", stats.Drops)
	}
	return nil
}

// count counts the requests to the family among the messages of one datagram. Answers
// carry the same command numbers, but not the request flag.
func (w *IPVSWatch) count(data []byte, at time.Time) {
	for len(data) >= unix.NLMSG_HDRLEN+unix.GENL_HDRLEN {
		size := int(binary.NativeEndian.Uint32(data))
		if size < unix.NLMSG_HDRLEN || size > len(data) {
			return
		}
		kind := binary.NativeEndian.Uint16(data[4:])
		flags := binary.NativeEndian.Uint16(data[6:])
		if kind == w.family && flags&unix.NLM_F_REQUEST != 0 {
			command := data[unix.NLMSG_HDRLEN]
			w.counts[command]++
			if !slices.Contains(reads, command) {
				w.last = at
			}
		}
		data = data[min(len(data), (size+3)&^3):]
	}
}
