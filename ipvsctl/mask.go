package ipvsctl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// ClientMask is what of a client's address does not count when clients are kept with a server: clients that differ only
// there stay together. Of IPv4 it is the bits themselves, any of them, as the kernel takes any; of IPv6 how many bits at
// the end, 0..127. The zero value is each client by itself.
type ClientMask uint32

// PrefixMask keeps clients together whose addresses have this many bits at the beginning in common: 0..32, or of IPv6 1..128.
func PrefixMask(bits int, ipv6 bool) ClientMask {
	if ipv6 {
		return ClientMask(128 - bits)
	}
	return ClientMask(^uint32(0) >> bits)
}

// MaskOf keeps clients together that are equal in the bits which an IPv4 address has set.
func MaskOf(counting netip.Addr) ClientMask {
	a := counting.As4()
	return ClientMask(^binary.BigEndian.Uint32(a[:]))
}

// IPv4 is m as a mask of bits that count: 255.255.255.0.
func (m ClientMask) IPv4() netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], ^uint32(m))
	return netip.AddrFrom4(a)
}

// IPv6 is m as a prefix length.
func (m ClientMask) IPv6() int { return 128 - int(m) }

// Text is m for a service of one family: "255.255.255.0", "64".
func (m ClientMask) Text(ipv6 bool) string {
	if ipv6 {
		return fmt.Sprint(m.IPv6())
	}
	return m.IPv4().String()
}
