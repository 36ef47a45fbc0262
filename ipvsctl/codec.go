package ipvsctl

import (
	"encoding/binary"
	"errors"
	"fmt"
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
	cmdNewDaemon  = 9
	cmdDelDaemon  = 10
	cmdGetDaemon  = 11
	cmdGetInfo    = 15
	cmdZero       = 16

	attrService = 1
	attrDest    = 2
	attrDaemon  = 3

	infoVersion   = 1 // of GetInfo's answer, where they stand for other things than above
	infoTableSize = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcMark      = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9
	svcEngine    = 11
	svcStats64   = 12

	destAddr       = 1
	destPort       = 2
	destMethod     = 3
	destWeight     = 4
	destUpper      = 5
	destLower      = 6
	destActive     = 7
	destInactive   = 8
	destPersistent = 9
	destFamily     = 11
	destStats64    = 12
	destTunType    = 13
	destTunPort    = 14
	destTunFlags   = 15

	daemonRole      = 1
	daemonInterface = 2
	daemonID        = 3
	daemonMaxLen    = 4
	daemonGroup     = 5
	daemonGroup6    = 6
	daemonPort      = 7
	daemonTTL       = 8

	statsConnections    = 1
	statsInPackets      = 2
	statsOutPackets     = 3
	statsInBytes        = 4
	statsOutBytes       = 5
	statsConnectionRate = 6
	statsInPacketRate   = 7
	statsOutPacketRate  = 8
	statsInByteRate     = 9
	statsOutByteRate    = 10

	flagPersistent = 1
	flagHashed     = 2 // set by the kernel on every service it knows

	attrKindMask = 0x3fff // the two bits above are NLA_F_NESTED and NLA_F_NET_BYTEORDER

	methodMask = 7 // the other bits of a forwarding method belong to connections
)

var native = binary.NativeEndian

// beginMessage appends a netlink and a generic netlink header (struct nlmsghdr, struct genlmsghdr). endMessage fills
// in the length.
func beginMessage(b []byte, family, flags uint16, seq uint32, command uint8) []byte {
	b = append(b, 0, 0, 0, 0)
	b = native.AppendUint16(b, family)
	b = native.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = native.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0) // the sender, which the kernel knows better
	return append(b, command, familyVersion, 0, 0)
}

// endMessage fills in the length of the message that begins at start. Attributes keep it aligned.
func endMessage(b []byte, start int) []byte {
	native.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// opCommands are the messages that carry out the kinds of Op.
var opCommands = [...]uint8{
	AddService: cmdNewService, EditService: cmdSetService, RemoveService: cmdDelService,
	AddDestination: cmdNewDest, EditDestination: cmdSetDest, RemoveDestination: cmdDelDest,
}

// appendOp appends the attributes of the message that carries out op.
func appendOp(b []byte, op *Op) []byte {
	switch op.Kind {
	case AddService, EditService:
		return appendService(b, op.Service, &op.Settings)
	case RemoveService:
		return appendService(b, op.Service, nil)
	case AddDestination, EditDestination:
		return appendDest(appendService(b, op.Service, nil), op.Server, &op.Destination)
	case RemoveDestination:
		return appendDest(appendService(b, op.Service, nil), op.Server, nil)
	}
	panic(fmt.Sprintf("ipvsctl: no message for %v", op))
}

// appendService appends the SERVICE attribute: the identity, and with s the settings.
func appendService(b []byte, key ServiceKey, s *Settings) []byte {
	b, nest := beginNest(b, attrService)
	addr := key.Addr.Addr()
	b = append16(b, svcFamily, familyOf(addr))
	if key.Mark != 0 { // sent as 0 it would be an identity, too
		b = append32(b, svcMark, key.Mark)
	} else {
		b = append16(b, svcProtocol, uint16(key.Protocol))
		b = appendAddr(b, svcAddr, addr)
		b = appendPort(b, svcPort, key.Addr.Port())
	}
	if s == nil {
		return endNest(b, nest)
	}
	flags := uint32(s.Flags)
	if s.Persistence > 0 {
		flags |= flagPersistent
	}
	b = appendText(b, svcScheduler, s.Scheduler)
	b = append(appendHeader(b, svcFlags, 8), 0, 0, 0, 0, 0, 0, 0, 0)
	native.PutUint32(b[len(b)-8:], flags)
	native.PutUint32(b[len(b)-4:], ^uint32(flagHashed)) // the mask: all of them are meant
	b = append32(b, svcTimeout, uint32(s.Persistence/time.Second))
	b = append32(b, svcNetmask, netmask(addr, s.ClientMask))
	if s.Engine != "" { // absent means none, also when editing
		b = appendText(b, svcEngine, s.Engine)
	}
	return endNest(b, nest)
}

// appendDest appends the DEST attribute: the identity, and with d the settings.
func appendDest(b []byte, server netip.AddrPort, d *Destination) []byte {
	b, nest := beginNest(b, attrDest)
	// Without its own family the kernel would read the address as one of the service's.
	b = append16(b, destFamily, familyOf(server.Addr()))
	b = appendAddr(b, destAddr, server.Addr())
	b = appendPort(b, destPort, server.Port())
	if d == nil {
		return endNest(b, nest)
	}
	b = append32(b, destMethod, uint32(d.Method))
	b = append32(b, destWeight, uint32(d.Weight))
	b = append32(b, destUpper, d.Upper)
	b = append32(b, destLower, d.Lower)
	if d.Tunnel != (Tunnel{}) { // absent is IPIP, also when editing
		b = append8(b, destTunType, uint8(d.Tunnel.Type))
		b = appendPort(b, destTunPort, d.Tunnel.Port)
		b = append16(b, destTunFlags, uint16(d.Tunnel.Checksum))
	}
	return endNest(b, nest)
}

// appendDaemon appends the DAEMON attribute. What is zero is left to the kernel.
func appendDaemon(b []byte, d Daemon) []byte {
	b, nest := beginNest(b, attrDaemon)
	b = append32(b, daemonRole, uint32(d.Role))
	b = appendText(b, daemonInterface, d.Interface)
	b = append32(b, daemonID, uint32(d.ID))
	if d.MaxLen != 0 {
		b = append16(b, daemonMaxLen, d.MaxLen)
	}
	switch {
	case d.Group.Is4():
		b = appendAddr(b, daemonGroup, d.Group)
	case d.Group.Is6():
		b = appendAddr(b, daemonGroup6, d.Group)
	}
	if d.Port != 0 {
		b = append16(b, daemonPort, d.Port) // unlike all other ports in host order
	}
	if d.TTL != 0 {
		b = append8(b, daemonTTL, d.TTL)
	}
	return endNest(b, nest)
}

func familyOf(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// netmask is a mask as the kernel wants it: the bits that count in network order for IPv4, a prefix length for IPv6.
func netmask(addr netip.Addr, m ClientMask) uint32 {
	if addr.Is4() {
		mask := m.IPv4().As4()
		return native.Uint32(mask[:])
	}
	return uint32(m.IPv6())
}

// appendHeader appends the header of an attribute with a value of size bytes (struct nlattr).
func appendHeader(b []byte, kind uint16, size int) []byte {
	b = native.AppendUint16(b, uint16(4+size))
	return native.AppendUint16(b, kind)
}

func append8(b []byte, kind uint16, v uint8) []byte {
	return append(appendHeader(b, kind, 1), v, 0, 0, 0)
}

func append16(b []byte, kind, v uint16) []byte {
	return append(native.AppendUint16(appendHeader(b, kind, 2), v), 0, 0)
}

func append32(b []byte, kind uint16, v uint32) []byte {
	return native.AppendUint32(appendHeader(b, kind, 4), v)
}

func appendPort(b []byte, kind, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(appendHeader(b, kind, 2), port), 0, 0)
}

func appendAddr(b []byte, kind uint16, addr netip.Addr) []byte {
	if addr.Is4() {
		a := addr.As4()
		return append(appendHeader(b, kind, len(a)), a[:]...)
	}
	a := addr.As16()
	return append(appendHeader(b, kind, len(a)), a[:]...)
}

// appendText appends a string with the NUL at its end that the kernel insists on.
func appendText(b []byte, kind uint16, text string) []byte {
	b = append(append(appendHeader(b, kind, len(text)+1), text...), 0)
	for len(b)%4 != 0 { // messages begin at a multiple of four
		b = append(b, 0)
	}
	return b
}

// beginNest appends the header of an attribute that holds others; endNest fills in its length.
func beginNest(b []byte, kind uint16) (_ []byte, start int) { return appendHeader(b, kind, 0), len(b) }

func endNest(b []byte, start int) []byte {
	native.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

var errMalformed = errors.New("malformed IPVS message from the kernel")

// decodeService reads the attributes of one message of a GET_SERVICE answer, without the destinations.
func decodeService(b []byte) (ServiceKey, Settings, ServiceStats, error) {
	var (
		key                       ServiceKey
		s                         Settings
		counted                   ServiceStats
		family, port              uint16
		flags, timeout            uint32
		addr, mask, stats, engine []byte
	)
	nest, err := entry(b, attrService)
	if err != nil {
		return key, s, counted, err
	}
	err = walk(nest, func(kind uint16, v []byte) {
		switch kind {
		case svcFamily:
			family = u16(v)
		case svcProtocol:
			key.Protocol = Protocol(u16(v))
		case svcAddr:
			addr = v
		case svcPort:
			port = portOf(v)
		case svcMark:
			key.Mark = u32(v)
		case svcScheduler:
			s.Scheduler = name(v)
		case svcFlags:
			flags = u32(v) // the first half; the second is the mask
		case svcTimeout:
			timeout = u32(v)
		case svcNetmask:
			mask = v
		case svcEngine:
			engine = v
		case svcStats64:
			stats = v
		}
	})
	if err != nil {
		return key, s, counted, err
	}
	if key.Mark != 0 {
		key = ByMark(key.Mark, family == unix.AF_INET6)
	} else {
		a, err := addrOf(addr, family)
		if err != nil {
			return key, s, counted, err
		}
		key.Addr = netip.AddrPortFrom(a, port)
	}
	s.Flags = Flags(flags &^ (flagPersistent | flagHashed))
	// The kernel remembers timeout and mask of a service that is not persistent; they mean nothing then.
	if flags&flagPersistent != 0 {
		s.Persistence = time.Duration(timeout) * time.Second
		s.ClientMask = clientMask(key.Addr.Addr(), mask)
	}
	s.Engine = name(engine)
	counted.Counters, counted.Rates, err = decodeStats(stats)
	return key, s, counted, err
}

// clientMask reads what netmask writes.
func clientMask(addr netip.Addr, mask []byte) ClientMask {
	switch {
	case len(mask) < 4:
		return 0
	case addr.Is4():
		return ClientMask(^binary.BigEndian.Uint32(mask))
	}
	return PrefixMask(int(native.Uint32(mask)), true)
}

// decodeDest reads the attributes of one message of a GET_DEST answer about a service of the family given.
func decodeDest(b []byte, family uint16) (netip.AddrPort, Destination, DestinationStats, error) {
	var (
		d           Destination
		counted     DestinationStats
		addr, stats []byte
		port        uint16
	)
	nest, err := entry(b, attrDest)
	if err != nil {
		return netip.AddrPort{}, d, counted, err
	}
	err = walk(nest, func(kind uint16, v []byte) {
		switch kind {
		case destAddr:
			addr = v
		case destPort:
			port = portOf(v)
		case destMethod:
			d.Method = Method(u32(v) & methodMask)
		case destWeight:
			d.Weight = int(u32(v))
		case destUpper:
			d.Upper = u32(v)
		case destLower:
			d.Lower = u32(v)
		case destActive:
			counted.Active = u32(v)
		case destInactive:
			counted.Inactive = u32(v)
		case destPersistent:
			counted.Persistent = u32(v)
		case destFamily:
			family = u16(v)
		case destTunType:
			d.Tunnel.Type = TunnelType(u8(v))
		case destTunPort:
			d.Tunnel.Port = portOf(v)
		case destTunFlags:
			d.Tunnel.Checksum = Checksum(u16(v))
		case destStats64:
			stats = v
		}
	})
	if err != nil {
		return netip.AddrPort{}, d, counted, err
	}
	a, err := addrOf(addr, family)
	if err != nil {
		return netip.AddrPort{}, d, counted, err
	}
	counted.Counters, counted.Rates, err = decodeStats(stats)
	return netip.AddrPortFrom(a, port), d, counted, err
}

// decodeDaemon reads the attributes of one message of a GET_DAEMON answer.
func decodeDaemon(b []byte) (Daemon, error) {
	var d Daemon
	nest, err := entry(b, attrDaemon)
	if err != nil {
		return d, err
	}
	err = walk(nest, func(kind uint16, v []byte) {
		switch kind {
		case daemonRole:
			d.Role = Role(u32(v))
		case daemonInterface:
			d.Interface = unix.ByteSliceToString(v)
		case daemonID:
			d.ID = uint8(u32(v))
		case daemonMaxLen:
			d.MaxLen = u16(v)
		case daemonGroup:
			d.Group, _ = addrOf(v, unix.AF_INET) // zero when it is too short
		case daemonGroup6:
			d.Group, _ = addrOf(v, unix.AF_INET6)
		case daemonPort:
			d.Port = u16(v)
		case daemonTTL:
			d.TTL = u8(v)
		}
	})
	return d, err
}

// decodeInfo reads the attributes of a GET_INFO answer.
func decodeInfo(b []byte) (Info, error) {
	var i Info
	err := walk(b, func(kind uint16, v []byte) {
		switch kind {
		case infoVersion:
			n := u32(v)
			i.Version = [3]uint8{uint8(n >> 16), uint8(n >> 8), uint8(n)}
		case infoTableSize:
			i.TableSize = u32(v)
		}
	})
	return i, err
}

// decodeStats reads the 64-bit counters and rates, which every kernel since 4.1 sends.
func decodeStats(b []byte) (c Counters, r Rates, _ error) {
	err := walk(b, func(kind uint16, v []byte) {
		switch kind {
		case statsConnections:
			c.Connections = u64(v)
		case statsInPackets:
			c.InPackets = u64(v)
		case statsOutPackets:
			c.OutPackets = u64(v)
		case statsInBytes:
			c.InBytes = u64(v)
		case statsOutBytes:
			c.OutBytes = u64(v)
		case statsConnectionRate:
			r.Connections = u64(v)
		case statsInPacketRate:
			r.InPackets = u64(v)
		case statsOutPacketRate:
			r.OutPackets = u64(v)
		case statsInByteRate:
			r.InBytes = u64(v)
		case statsOutByteRate:
			r.OutBytes = u64(v)
		}
	})
	return c, r, err
}

// walk visits the attributes in b.
func walk(b []byte, visit func(kind uint16, value []byte)) error {
	for len(b) >= 4 {
		length := int(native.Uint16(b))
		if length < 4 || length > len(b) {
			return errMalformed
		}
		visit(native.Uint16(b[2:])&attrKindMask, b[4:length])
		b = b[min((length+3)&^3, len(b)):]
	}
	return nil
}

// entry returns the attributes within the one that a message is about.
func entry(b []byte, kind uint16) (nest []byte, err error) {
	err = walk(b, func(k uint16, v []byte) {
		if k == kind {
			nest = v
		}
	})
	if err == nil && nest == nil {
		err = errMalformed
	}
	return nest, err
}

// A value that is too short reads as zero: none of ours may panic on what a kernel sends.

func u8(v []byte) uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}

func u16(v []byte) uint16 {
	if len(v) < 2 {
		return 0
	}
	return native.Uint16(v)
}

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return native.Uint32(v)
}

func u64(v []byte) uint64 {
	if len(v) < 8 {
		return 0
	}
	return native.Uint64(v)
}

func portOf(v []byte) uint16 {
	if len(v) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

// name reads the name of a scheduler or an engine. Those of Schedulers are not allocated anew for each service.
func name(v []byte) string {
	for _, s := range Schedulers {
		if len(v) == len(s)+1 && string(v[:len(s)]) == s {
			return s
		}
	}
	return unix.ByteSliceToString(v)
}

// addrOf reads an address: the kernel always sends 16 bytes, an IPv4 address in the first four.
func addrOf(v []byte, family uint16) (netip.Addr, error) {
	switch {
	case family == unix.AF_INET && len(v) >= 4:
		return netip.AddrFrom4([4]byte(v)), nil
	case family == unix.AF_INET6 && len(v) >= 16:
		return netip.AddrFrom16([16]byte(v)), nil
	}
	return netip.Addr{}, errMalformed
}
