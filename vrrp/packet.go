package vrrp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Protocol is VRRP's number in the IP header.
const Protocol = 112

// The groups that routers without peers send to (RFC 9568 sections 5.1.1.2 and 5.1.2.2).
var (
	GroupIPv4 = netip.AddrFrom4([4]byte{224, 0, 0, 18})
	GroupIPv6 = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x12})
)

// OldUnicast is a checksum form that is accepted but never sent: the pseudo-header names the group although the
// advert goes to a peer. Keepalived before 1.3.7 sends it.
const OldUnicast Checksum = "old-unicast"

const (
	ttl         = 255                   // what routers do not pass on (RFC 9568 section 5.1.1.3)
	typeAdvert  = 1                     // the only type there is
	headerLen   = 8                     // before the addresses
	ipv4Header  = 20                    // without options
	centisecond = 10 * time.Millisecond // version 3 counts in them
)

// Advert is one VRRP advertisement (RFC 9568 section 5.2, RFC 3768 section 5.3).
type Advert struct {
	Version  int
	VRID     uint8
	Priority uint8
	Interval time.Duration // version 2: whole seconds up to 255; version 3: steps of 10 ms up to 40.95 s
	AuthType uint8         // version 2: 0 none, 1 plain-text password
	AuthData [8]byte       // version 2: on the wire with every type
	Addrs    []netip.Addr  // at most 255, of the family of the packet
}

// Advert is what this router sends with a priority.
func (c Config) Advert(priority uint8) Advert {
	a := Advert{Version: c.Version, VRID: c.VRID, Priority: priority, Interval: c.Interval, Addrs: c.Addresses}
	if c.Version == 2 && c.Password != "" {
		a.AuthType = 1
		copy(a.AuthData[:], c.Password)
	}
	return a
}

// Append appends the message to b, with its checksum. Only that of version 3 over IPv4 depends on form; with peers
// it differs from peer to peer.
func (a Advert) Append(b []byte, src, dst netip.Addr, form Checksum) []byte {
	start := len(b)
	b = append(b, byte(a.Version)<<4|typeAdvert, a.VRID, a.Priority, byte(len(a.Addrs)))
	if a.Version == 2 {
		b = append(b, a.AuthType, byte(a.Interval/time.Second))
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(a.Interval/centisecond))
	}
	b = append(b, 0, 0)
	for _, addr := range a.Addrs {
		b = append(b, addr.AsSlice()...)
	}
	if a.Version == 2 {
		b = append(b, a.AuthData[:]...)
	}
	msg := b[start:]
	binary.BigEndian.PutUint16(msg[6:], ^checksum(msg, src, dst, wireForm(form, a.Version, dst)))
	return b
}

// Decode reads a whole VRRP message and tells which form its checksum has. The error is a [*Drop] with reason length,
// version, type, count or checksum. Reserved bits are ignored; whose the message is, is not looked at.
func Decode(msg []byte, src, dst netip.Addr) (Advert, Checksum, error) {
	if len(msg) < headerLen {
		return Advert{}, "", drop(src, DropLength, "of only %d bytes", len(msg))
	}
	a := Advert{Version: int(msg[0] >> 4), VRID: msg[1], Priority: msg[2]}
	count, size, want := int(msg[3]), dst.BitLen()/8, headerLen
	switch {
	case a.Version == 2 && dst.Is4():
		a.AuthType = msg[4]
		a.Interval = time.Duration(msg[5]) * time.Second
		want += len(a.AuthData)
	case a.Version == 3:
		a.Interval = time.Duration(binary.BigEndian.Uint16(msg[4:])&0x0fff) * centisecond
	default:
		return Advert{}, "", drop(src, DropVersion, "of version %d over IPv%d", a.Version, ipVersion(dst))
	}
	if kind := msg[0] & 0x0f; kind != typeAdvert {
		return Advert{}, "", drop(src, DropType, "of type %d instead of %d", kind, typeAdvert)
	}
	if count == 0 { // RFC 9568 erratum 8299
		return Advert{}, "", drop(src, DropCount, "without addresses")
	}
	if want += count * size; len(msg) != want {
		return Advert{}, "", drop(src, DropLength, "of %d bytes instead of the %d for %d addresses", len(msg), want, count)
	}
	forms := wireForms(a.Version, dst)
	form := slices.IndexFunc(forms, func(f Checksum) bool { return checksum(msg, src, dst, f) == 0xffff })
	if form < 0 {
		return Advert{}, "", drop(src, DropChecksum, "with a wrong checksum")
	}
	a.Addrs = make([]netip.Addr, count)
	for i := range a.Addrs {
		a.Addrs[i], _ = netip.AddrFromSlice(msg[headerLen+i*size:][:size])
	}
	if a.Version == 2 {
		copy(a.AuthData[:], msg[headerLen+count*size:])
	}
	return a, forms[form], nil
}

// wireForms are the forms a checksum may have. Only for version 3 over IPv4 the RFCs can be read in several ways.
func wireForms(version int, dst netip.Addr) []Checksum {
	switch {
	case version == 2:
		return []Checksum{MessageOnly}
	case dst.Is6():
		return []Checksum{PseudoHeader}
	}
	return []Checksum{PseudoHeader, MessageOnly, OldUnicast}
}

// wireForm is the wish where it is possible.
func wireForm(wish Checksum, version int, dst netip.Addr) Checksum {
	possible := wireForms(version, dst)
	if slices.Contains(possible, wish) {
		return wish
	}
	return possible[0]
}

// checksum sums what form covers, the checksum field included. In a message that arrives, it is 0xffff.
func checksum(msg []byte, src, dst netip.Addr, form Checksum) uint16 {
	sum := onesSum(msg)
	if form == MessageOnly {
		return fold(sum)
	}
	if form == OldUnicast {
		dst = GroupIPv4
	}
	// The pseudo-headers of IPv4 and IPv6 differ in the width of their numbers only, and a sum does not see that.
	return fold(sum + onesSum(src.AsSlice()) + onesSum(dst.AsSlice()) + Protocol + uint32(len(msg)))
}

// onesSum sums 16-bit numbers. What is summed here has an even length, of at most a few KiB.
func onesSum(b []byte) uint32 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

// fold makes a one's complement sum of 16 bits (RFC 1071).
func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// Packet is what a socket delivered. The addresses have no zone, and IPv4 ones are not mapped into IPv6.
type Packet struct {
	Src, Dst netip.Addr
	TTL      int    // or hop limit
	Payload  []byte // the VRRP message
}

// ParseIPv4 reads what a raw IPv4 socket delivers: the IP header with its options, then the message. What follows
// the packet, such as padding of the link, is cut. The error is a [*Drop] with reason length or protocol.
func ParseIPv4(b []byte) (Packet, error) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return Packet{}, drop(netip.Addr{}, DropLength, "without an IPv4 header")
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	header, total := int(b[0]&0x0f)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4Header || total < header+headerLen || total > len(b) {
		return Packet{}, drop(src, DropLength, "cut short: %d bytes with a header of %d and a total length of %d", len(b), header, total)
	}
	if b[9] != Protocol {
		return Packet{}, drop(src, DropProtocol, "of IP protocol %d instead of %d", b[9], Protocol)
	}
	return Packet{Src: src, Dst: dst, TTL: int(b[8]), Payload: b[header:total]}, nil
}

// AppendIPv4 appends a whole IPv4 packet for a socket with IP_HDRINCL: TTL 255, network control traffic, no options.
func AppendIPv4(b []byte, src, dst netip.Addr, id uint16, payload []byte) []byte {
	start := len(b)
	b = append(b, 4<<4|ipv4Header/4, 0xc0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipv4Header+len(payload)))
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(b, 0, 0, ttl, Protocol, 0, 0) // no fragment; the checksum follows
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	header := b[start:]
	binary.BigEndian.PutUint16(header[10:], ^fold(onesSum(header)))
	return append(b, payload...)
}

// ipVersion is 4 or 6.
func ipVersion(addr netip.Addr) int {
	if addr.Is4() {
		return 4
	}
	return 6
}
