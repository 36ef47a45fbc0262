package ipvsctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Commands and attributes of the generic netlink family "IPVS", version 1
// (include/uapi/linux/ip_vs.h; handled in net/netfilter/ipvs/ip_vs_ctl.c).
const (
	familyName    = "IPVS"
	familyVersion = 1

	cmdNewService = 1
	cmdSetService = 2
	cmdDelService = 3
	cmdGetService = 4
	cmdNewDest    = 5
	cmdSetDest    = 6
	cmdDelDest    = 7
	cmdGetDest    = 8

	attrService = 1
	attrDest    = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcFwmark    = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9
	svcEngine    = 11
	svcStats64   = 12

	destAddr     = 1
	destPort     = 2
	destMethod   = 3
	destWeight   = 4
	destUpper    = 5
	destLower    = 6
	destActive   = 7
	destInactive = 8
	destFamily   = 11
	destStats64  = 12

	statsConnections = 1
	statsInPackets   = 2
	statsOutPackets  = 3
	statsInBytes     = 4
	statsOutBytes    = 5

	flagPersistent = 1
	flagHashed     = 2 // set by the kernel on every service it knows

	attrKindMask = 0x3fff // the two bits above are NLA_F_NESTED and NLA_F_NET_BYTEORDER

	methodMask = 7 // the other bits of a forwarding method belong to connections
)

var native = binary.NativeEndian

// genlHeader is the payload's first four bytes (struct genlmsghdr).
func genlHeader(command uint8) []byte { return []byte{command, familyVersion, 0, 0} }

// encodeOp returns the payload of the message that carries out op.
func encodeOp(op Op) []byte {
	switch op.Kind {
	case AddService:
		return appendService(genlHeader(cmdNewService), op.Service, &op.Settings)
	case EditService:
		return appendService(genlHeader(cmdSetService), op.Service, &op.Settings)
	case RemoveService:
		return appendService(genlHeader(cmdDelService), op.Service, nil)
	case AddDestination:
		return appendDest(appendService(genlHeader(cmdNewDest), op.Service, nil), op.Server, &op.Destination)
	case EditDestination:
		return appendDest(appendService(genlHeader(cmdSetDest), op.Service, nil), op.Server, &op.Destination)
	case RemoveDestination:
		return appendDest(appendService(genlHeader(cmdDelDest), op.Service, nil), op.Server, nil)
	}
	panic(fmt.Sprintf("ipvsctl: no message for %v", op))
}

// appendService appends the SERVICE attribute: the identity, and with s the settings.
func appendService(b []byte, key ServiceKey, s *Settings) []byte {
	return appendNest(b, attrService, func(b []byte) []byte {
		addr := key.Addr.Addr()
		b = appendAttr(b, svcFamily, native.AppendUint16(nil, familyOf(addr)))
		b = appendAttr(b, svcProtocol, native.AppendUint16(nil, uint16(key.Protocol)))
		b = appendAttr(b, svcAddr, addr.AsSlice())
		b = appendAttr(b, svcPort, binary.BigEndian.AppendUint16(nil, key.Addr.Port()))
		if s == nil {
			return b
		}
		flags := uint32(s.Flags)
		if s.Persistence > 0 {
			flags |= flagPersistent
		}
		b = appendAttr(b, svcScheduler, append([]byte(s.Scheduler), 0))
		b = appendAttr(b, svcFlags, native.AppendUint32(native.AppendUint32(nil, flags), ^uint32(flagHashed)))
		b = appendAttr(b, svcTimeout, native.AppendUint32(nil, uint32(s.Persistence/time.Second)))
		b = appendAttr(b, svcNetmask, netmask(addr, s.ClientBits))
		if s.Engine != "" { // absent means none, also when editing
			b = appendAttr(b, svcEngine, append([]byte(s.Engine), 0))
		}
		return b
	})
}

// appendDest appends the DEST attribute: the identity, and with d the settings.
func appendDest(b []byte, server netip.AddrPort, d *Destination) []byte {
	return appendNest(b, attrDest, func(b []byte) []byte {
		// Without its own family the kernel would read the address as one of the service's.
		b = appendAttr(b, destFamily, native.AppendUint16(nil, familyOf(server.Addr())))
		b = appendAttr(b, destAddr, server.Addr().AsSlice())
		b = appendAttr(b, destPort, binary.BigEndian.AppendUint16(nil, server.Port()))
		if d == nil {
			return b
		}
		b = appendAttr(b, destMethod, native.AppendUint32(nil, uint32(d.Method)))
		b = appendAttr(b, destWeight, native.AppendUint32(nil, uint32(d.Weight)))
		b = appendAttr(b, destUpper, native.AppendUint32(nil, d.Upper))
		return appendAttr(b, destLower, native.AppendUint32(nil, d.Lower))
	})
}

func familyOf(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// netmask writes a prefix length as the kernel wants it: a mask in network order for IPv4,
// the length itself for IPv6. 0 bits stand for a whole address.
func netmask(addr netip.Addr, prefix int) []byte {
	if prefix == 0 {
		prefix = addr.BitLen()
	}
	if addr.Is4() {
		return binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-prefix))
	}
	return native.AppendUint32(nil, uint32(prefix))
}

// appendAttr appends one attribute, padded to four bytes (struct nlattr).
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = native.AppendUint16(b, uint16(4+len(value)))
	b = native.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func appendNest(b []byte, kind uint16, fill func([]byte) []byte) []byte {
	return appendAttr(b, kind, fill(nil))
}

var errMalformed = errors.New("malformed IPVS message from the kernel")

// errNotAddress marks a service that is a firewall mark or speaks a protocol poise does not configure.
// Such a service is not poise's.
var errNotAddress = errors.New("service without an address")

// decodeService reads one message of a GET_SERVICE answer, without the destinations.
func decodeService(payload []byte) (ServiceKey, Settings, Counters, error) {
	fail := func(err error) (ServiceKey, Settings, Counters, error) {
		return ServiceKey{}, Settings{}, Counters{}, err
	}
	attrs, err := entry(payload, attrService)
	if err != nil {
		return fail(err)
	}
	if _, isMark := attrs[svcFwmark]; isMark {
		return fail(errNotAddress)
	}
	addr, err := attrs.addr(svcAddr, attrs.u16(svcFamily))
	if err != nil {
		return fail(err)
	}
	key := ServiceKey{
		Protocol: Protocol(attrs.u16(svcProtocol)),
		Addr:     netip.AddrPortFrom(addr, attrs.port(svcPort)),
	}
	if _, known := protocolNames[key.Protocol]; !known {
		return fail(errNotAddress)
	}
	flags := attrs.u32(svcFlags) // the first half; the second is the mask
	s := Settings{
		Scheduler: attrs.text(svcScheduler),
		Flags:     Flags(flags &^ (flagPersistent | flagHashed)),
		Engine:    attrs.text(svcEngine),
	}
	// The kernel remembers timeout and mask of a service that is not persistent; they mean nothing then.
	if flags&flagPersistent != 0 {
		s.Persistence = time.Duration(attrs.u32(svcTimeout)) * time.Second
		s.ClientBits = clientBits(addr, attrs[svcNetmask])
	}
	stats, err := attrs.counters(svcStats64)
	return key, s, stats, err
}

// clientBits reads what netmask writes: 0 for a whole address, -1 for a mask that is no prefix.
func clientBits(addr netip.Addr, mask []byte) int {
	if len(mask) < 4 {
		return 0
	}
	prefix := int(native.Uint32(mask))
	if addr.Is4() {
		m := binary.BigEndian.Uint32(mask)
		prefix = bits.LeadingZeros32(^m)
		if m != ^uint32(0)<<(32-prefix) {
			return -1
		}
		if prefix == 0 {
			return -1 // all clients in one: no prefix length of ours says that
		}
	}
	if prefix == addr.BitLen() {
		return 0
	}
	return prefix
}

// decodeDest reads one message of a GET_DEST answer about a service of the family given.
func decodeDest(payload []byte, serviceFamily uint16) (netip.AddrPort, Destination, DestinationStats, error) {
	fail := func(err error) (netip.AddrPort, Destination, DestinationStats, error) {
		return netip.AddrPort{}, Destination{}, DestinationStats{}, err
	}
	attrs, err := entry(payload, attrDest)
	if err != nil {
		return fail(err)
	}
	family := serviceFamily
	if _, has := attrs[destFamily]; has {
		family = attrs.u16(destFamily)
	}
	addr, err := attrs.addr(destAddr, family)
	if err != nil {
		return fail(err)
	}
	d := Destination{
		Method: Method(attrs.u32(destMethod) & methodMask),
		Weight: int(attrs.u32(destWeight)),
		Upper:  attrs.u32(destUpper),
		Lower:  attrs.u32(destLower),
	}
	counters, err := attrs.counters(destStats64)
	stats := DestinationStats{
		Counters: counters,
		Active:   attrs.u32(destActive),
		Inactive: attrs.u32(destInactive),
	}
	return netip.AddrPortFrom(addr, attrs.port(destPort)), d, stats, err
}

// attributes are the values of one nest by kind. A value that is missing or too short reads as zero:
// older kernels send fewer attributes, and none of ours may panic on what a kernel sends.
type attributes map[uint16][]byte

// entry returns the attributes within the one top-level attribute that a message is about.
func entry(payload []byte, kind uint16) (attributes, error) {
	if len(payload) < 4 {
		return nil, errMalformed
	}
	top, err := parseAttributes(payload[4:])
	if err != nil {
		return nil, err
	}
	nest, ok := top[kind]
	if !ok {
		return nil, errMalformed
	}
	return parseAttributes(nest)
}

func parseAttributes(b []byte) (attributes, error) {
	attrs := make(attributes)
	for len(b) >= 4 {
		length := int(native.Uint16(b))
		if length < 4 || length > len(b) {
			return nil, errMalformed
		}
		attrs[native.Uint16(b[2:])&attrKindMask] = b[4:length]
		b = b[min((length+3)&^3, len(b)):]
	}
	return attrs, nil
}

func (a attributes) u16(kind uint16) uint16 {
	if v := a[kind]; len(v) >= 2 {
		return native.Uint16(v)
	}
	return 0
}

func (a attributes) u32(kind uint16) uint32 {
	if v := a[kind]; len(v) >= 4 {
		return native.Uint32(v)
	}
	return 0
}

func (a attributes) u64(kind uint16) uint64 {
	if v := a[kind]; len(v) >= 8 {
		return native.Uint64(v)
	}
	return 0
}

func (a attributes) port(kind uint16) uint16 {
	if v := a[kind]; len(v) >= 2 {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (a attributes) text(kind uint16) string { return unix.ByteSliceToString(a[kind]) }

// addr reads an address: the kernel always sends 16 bytes, an IPv4 address in the first four.
func (a attributes) addr(kind uint16, family uint16) (netip.Addr, error) {
	v := a[kind]
	switch {
	case family == unix.AF_INET && len(v) >= 4:
		return netip.AddrFrom4([4]byte(v)), nil
	case family == unix.AF_INET6 && len(v) >= 16:
		return netip.AddrFrom16([16]byte(v)), nil
	}
	return netip.Addr{}, errMalformed
}

// counters reads the 64-bit counters, which every kernel since 4.1 sends.
func (a attributes) counters(kind uint16) (Counters, error) {
	s, err := parseAttributes(a[kind])
	return Counters{
		Connections: s.u64(statsConnections),
		InPackets:   s.u64(statsInPackets),
		OutPackets:  s.u64(statsOutPackets),
		InBytes:     s.u64(statsInBytes),
		OutBytes:    s.u64(statsOutBytes),
	}, err
}
