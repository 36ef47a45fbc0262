package vrrp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn sends and receives the adverts of one virtual router on one interface. It never blocks, except as Send says,
// and is not safe for concurrent use.
//
//	group, or each peer ◀── talk   hears nothing
//	            Receive ◀── ear    bound to the interface, and to the group or the source
//
// Neither socket is ever connected: an ICMP error from a peer that is not up would become an error of the next Send.
type Conn struct {
	ipv6    bool
	ifindex int
	group   netip.Addr // invalid with peers
	source  netip.Addr
	to      []target

	ear, talk int
	lost      uint64

	id              uint16 // of the last IPv4 packet
	message, packet []byte // what is sent is built here,
	in              []byte // and what is received is read to here
	pktinfo         []byte // IPv6: source and interface, for the kernel
	control         []byte // IPv6: hop limit and destination, from the kernel
}

// target is where adverts go.
type target struct {
	addr     netip.Addr
	sockaddr unix.Sockaddr
}

// option is a socket option whose value is a number.
type option struct {
	name              string
	level, opt, value int
}

const (
	networkControl  = 0xc0 // traffic class of routing protocols (RFC 2474 section 4.2.2.2)
	controlPriority = 6    // TC_PRIO_CONTROL of linux/pkt_sched.h

	// The longest advert, of 255 IPv6 addresses, has 4088 bytes. The end of anything longer is cut off.
	mostBytes = 8 << 10

	earBuffer    = 256 << 10 // several hundred adverts: those of a pause, and what others send to the group
	targetBuffer = 256 << 10 // more than the kernel holds back for a neighbour it searches: see open
)

// Listen opens the sockets of a router with a valid configuration, in the network namespace of the calling thread. From
// now on packets are queued. The source may be invalid: then Send is an error, and peers are heard at any address of the
// interface, until SetSource. It needs CAP_NET_RAW, and Linux 5.1.
func Listen(c Config, ifindex int, source netip.Addr) (*Conn, error) {
	if ifindex <= 0 { // 0 would be any interface
		return nil, fmt.Errorf("router %q: adverts on %s: interface number %d: %w", c.Name, c.Interface, ifindex, unix.ENODEV)
	}
	conn := &Conn{ipv6: c.IPv6(), ifindex: ifindex, ear: -1, talk: -1, in: make([]byte, mostBytes)}
	conn.control = make([]byte, unix.CmsgSpace(unix.SizeofInet6Pktinfo)+unix.CmsgSpace(4))
	targets := c.Peers
	if len(targets) == 0 {
		conn.group = GroupIPv4
		if conn.ipv6 {
			conn.group = GroupIPv6
		}
		targets = []netip.Addr{conn.group}
	}
	for _, addr := range targets {
		conn.to = append(conn.to, target{addr, conn.sockaddr(addr)})
	}
	if err := conn.open(source); err != nil {
		return nil, errors.Join(fmt.Errorf("router %q: adverts on %s: %w", c.Name, c.Interface, err), conn.Close())
	}
	return conn, nil
}

func (c *Conn) open(source netip.Addr) (err error) {
	ear, talk := c.options()
	if c.ear, err = c.socket(ear); err != nil {
		return err
	}
	if err := setBuffer(c.ear, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, earBuffer); err != nil {
		return fmt.Errorf("receive buffer: %w", err)
	}
	if c.group.IsValid() {
		// Bound to the group it gets nothing that was sent to an address of ours, and the reverse.
		if err := unix.Bind(c.ear, c.sockaddr(c.group)); err != nil {
			return fmt.Errorf("bind to %v: %w", c.group, err)
		}
		if err := c.join(); err != nil {
			return err
		}
	}
	if c.talk, err = c.socket(talk); err != nil {
		return err
	}
	// Packets for a neighbour that does not answer count against the buffer until the search for it ends, after
	// seconds. Each peer may be dead: with room for one only, it would silence us for the living.
	if err := setBuffer(c.talk, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, (1+len(c.to))*targetBuffer); err != nil {
		return fmt.Errorf("send buffer: %w", err)
	}
	c.SetSource(source)
	// It is bound: only what came before its filter was on is not for us.
	for err == nil {
		_, err = unix.Read(c.ear, c.in)
	}
	if err := unix.SetsockoptInt(c.ear, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
		return fmt.Errorf("SO_DETACH_FILTER: %w", err)
	}
	return nil
}

// options are those of the two sockets. The one that talks is bound to the interface: it needs neither a route to the
// group nor IP_MULTICAST_IF (net/ipv4/route.c, net/ipv6/raw.c).
func (c *Conn) options() (ear, talk []option) {
	ear = []option{
		// By number: what is called eth0 may be another interface tomorrow.
		{"SO_BINDTOIFINDEX", unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, c.ifindex},
	}
	talk = []option{
		{"SO_BINDTOIFINDEX", unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, c.ifindex},
		// Adverts go first on a congested link: the traffic class alone does not reach the first band of pfifo_fast.
		{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, controlPriority},
	}
	if !c.ipv6 {
		return append(ear,
				// With peers: what other programs here have joined is not for us.
				option{"IP_MULTICAST_ALL", unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0},
				// With peers: the source may be gone for a moment, and come back.
				option{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
			), append(talk,
				// The source is ours to choose, not the kernel's.
				option{"IP_HDRINCL", unix.IPPROTO_IP, unix.IP_HDRINCL, 1},
				// We do not hear ourselves.
				option{"IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0},
			)
	}
	return append(ear,
			option{"IPV6_MULTICAST_ALL", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0},
			option{"IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
			// A raw IPv6 socket delivers no header: these two are what we need of it.
			option{"IPV6_RECVHOPLIMIT", unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			option{"IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		), append(talk,
			option{"IPV6_MULTICAST_LOOP", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
			// Proves to the receiver that no router was between (RFC 9568 section 5.1.2.3); the default is 1.
			option{"IPV6_MULTICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ttl},
			// The same to peers, whose check may be the same.
			option{"IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl},
			// As in the header that we write for IPv4.
			option{"IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, networkControl},
		)
}

// socket opens a raw socket with options. A filter keeps it deaf, for before it is bound it would hear VRRP on every
// interface.
func (c *Conn) socket(options []option) (int, error) {
	family := unix.AF_INET
	if c.ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, Protocol)
	if err != nil {
		return -1, fmt.Errorf("raw socket: %w", err)
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}); err != nil {
		return fd, fmt.Errorf("SO_ATTACH_FILTER: %w", err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			return fd, fmt.Errorf("%s = %d: %w", o.name, o.value, err)
		}
	}
	return fd, nil
}

// setBuffer sets the size of a buffer. Without CAP_NET_ADMIN that is what the sysctls rmem_max and wmem_max allow.
func setBuffer(fd, force, polite, size int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size)
	if err == unix.EPERM {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, polite, size)
	}
	return err
}

// FD is readable while packets wait.
func (c *Conn) FD() int { return c.ear }

// Receive returns the next packet, or false when none waits. Its payload is valid until the next call. A packet that is
// too short or too long for an advert comes without a payload, or with the beginning of it: an error means that the
// socket does not work. It does not notice that its interface is gone, which only Send says.
func (c *Conn) Receive() (Packet, bool, error) {
	p, err := c.receive()
	switch {
	case err == unix.EAGAIN:
		return Packet{}, false, nil
	case err != nil:
		return Packet{}, false, fmt.Errorf("receive adverts: %w", err)
	}
	return p, true, nil
}

func (c *Conn) receive() (Packet, error) {
	if c.ipv6 {
		return c.receiveIPv6()
	}
	n, err := unix.Read(c.ear, c.in)
	if err != nil {
		return Packet{}, err
	}
	p, _ := ParseIPv4(c.in[:n]) // else it is empty, which the Filter counts
	return p, nil
}

// receiveIPv6 puts a packet together from sender, message and control messages. The functions of package unix would
// allocate the first and the last.
func (c *Conn) receiveIPv6() (Packet, error) {
	var from unix.RawSockaddrInet6
	iov := unix.Iovec{Base: &c.in[0]}
	iov.SetLen(len(c.in))
	msg := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&from)), Namelen: unix.SizeofSockaddrInet6, Iov: &iov, Control: &c.control[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(c.control))
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(c.ear), uintptr(unsafe.Pointer(&msg)), 0)
	if errno != 0 {
		return Packet{}, errno
	}
	p := Packet{Src: netip.AddrFrom16(from.Addr), Payload: c.in[:n]}
	for rest := c.control[:msg.Controllen]; len(rest) > 0; {
		hdr, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return Packet{}, err
		}
		switch hdr.Type { // all are of IPPROTO_IPV6: nothing else was asked for
		case unix.IPV6_HOPLIMIT:
			p.TTL = int(binary.NativeEndian.Uint32(data))
		case unix.IPV6_PKTINFO:
			p.Dst = netip.AddrFrom16([16]byte(data))
		}
		rest = next
	}
	return p, nil
}

// Lost counts the packets that the kernel dropped because the queue was full, so far. It is true at once, while
// SO_RXQ_OVFL would tell with the first packet that comes after the loss: a full queue keeps the oldest.
func (c *Conn) Lost() uint64 {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(c.ear), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno == 0 {
		c.lost += uint64(info[unix.SK_MEMINFO_DROPS] - uint32(c.lost)) // the kernel's number wraps
	}
	return c.lost
}

// Send sends an advert to the group, or to every peer even if another cannot be reached. If the kernel has no room it
// waits once for 1 ms. The error says who gets nothing.
func (c *Conn) Send(a Advert, sum Checksum) error {
	if !c.source.IsValid() {
		return errors.New("send advert: no source address")
	}
	var errs []error
	waited := false
	for i := range c.to {
		err := c.sendTo(&c.to[i], a, sum)
		if err == unix.EAGAIN || err == unix.ENOBUFS {
			if !waited {
				time.Sleep(time.Millisecond)
				waited = true
			}
			err = c.sendTo(&c.to[i], a, sum)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("send advert from %v to %v: %w", c.source, c.to[i].addr, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Conn) sendTo(to *target, a Advert, sum Checksum) error {
	c.message = a.Append(c.message[:0], c.source, to.addr, sum)
	if c.ipv6 {
		_, err := unix.SendmsgN(c.talk, c.message, c.pktinfo, to.sockaddr, 0)
		return err
	}
	c.id++
	c.packet = AppendIPv4(c.packet[:0], c.source, to.addr, c.id, c.message)
	return unix.Sendto(c.talk, c.packet, 0, to.sockaddr)
}

// SetSource changes where adverts come from, and with peers where theirs are heard. Without a source nothing is sent, and
// peers are heard where they were.
func (c *Conn) SetSource(source netip.Addr) {
	c.source = source
	if !source.IsValid() {
		return
	}
	if c.ipv6 {
		c.pktinfo = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16(), Ifindex: uint32(c.ifindex)})
	}
	if !c.group.IsValid() {
		unix.Bind(c.ear, c.sockaddr(source)) // fails only without the interface, and Send says that
	}
}

// Rejoin has all of conns leave their groups and join them again, so that switches which snoop hear of it: after the link
// came up, for instance. The kernel counts members, and only the last to leave an interface is heard: conns are
// all that there are on it. Without a group there is nothing to do.
func Rejoin(conns ...*Conn) error {
	for _, c := range conns {
		if c.group.IsValid() {
			c.leave() // where this fails, join fails too or there was nothing to leave
		}
	}
	var errs []error
	for _, c := range conns {
		if c.group.IsValid() {
			errs = append(errs, c.join())
		}
	}
	return errors.Join(errs...)
}

func (c *Conn) join() error {
	if err := c.membership(unix.IP_ADD_MEMBERSHIP, unix.IPV6_JOIN_GROUP); err != nil {
		return fmt.Errorf("join %v: %w", c.group, err)
	}
	return nil
}

func (c *Conn) leave() error { return c.membership(unix.IP_DROP_MEMBERSHIP, unix.IPV6_LEAVE_GROUP) }

func (c *Conn) membership(optIPv4, optIPv6 int) error {
	if c.ipv6 {
		return unix.SetsockoptIPv6Mreq(c.ear, unix.IPPROTO_IPV6, optIPv6,
			&unix.IPv6Mreq{Multiaddr: c.group.As16(), Interface: uint32(c.ifindex)})
	}
	return unix.SetsockoptIPMreqn(c.ear, unix.IPPROTO_IP, optIPv4,
		&unix.IPMreqn{Multiaddr: c.group.As4(), Ifindex: int32(c.ifindex)})
}

// sockaddr names the interface too, which link-local addresses need and others ignore.
func (c *Conn) sockaddr(a netip.Addr) unix.Sockaddr {
	if c.ipv6 {
		return &unix.SockaddrInet6{Addr: a.As16(), ZoneId: uint32(c.ifindex)}
	}
	return &unix.SockaddrInet4{Addr: a.As4()}
}

// Close closes both sockets. A second Close does nothing.
func (c *Conn) Close() error {
	var errs []error
	for _, fd := range []*int{&c.ear, &c.talk} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
			*fd = -1 // the number may soon be another's
		}
	}
	return errors.Join(errs...)
}
