package config

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"
)

// Listen is an address that clients use, with a port or a range of ports. Port 0 by itself is all ports.
type Listen struct {
	Addr        netip.Addr
	First, Last uint16
}

// String is "192.0.2.10:80", "192.0.2.10:8000-8009", "[2001:db8::10]:80".
func (l Listen) String() string {
	text := netip.AddrPortFrom(l.Addr, l.First).String()
	if l.First != l.Last {
		text += fmt.Sprintf("-%d", l.Last)
	}
	return text
}

// MarshalText writes what UnmarshalText reads.
func (l Listen) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText accepts an address with a port, or with two ports and "-" between them.
func (l *Listen) UnmarshalText(text []byte) error {
	address, last := string(text), ""
	if colon := strings.LastIndexByte(address, ':'); colon >= 0 {
		if dash := strings.IndexByte(address[colon:], '-'); dash >= 0 {
			address, last = address[:colon+dash], address[colon+dash+1:]
		}
	}
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf(`not an address with port such as "192.0.2.10:80" or "192.0.2.10:8000-8009"`)
	}
	*l = Listen{addr.Addr(), addr.Port(), addr.Port()}
	if last == "" && address == string(text) {
		return nil
	}
	port, err := strconv.ParseUint(last, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is not the last port of a range", last)
	}
	l.Last = uint16(port)
	if l.First == 0 || l.First >= l.Last {
		return fmt.Errorf("from %d to %d is no range of ports", l.First, l.Last)
	}
	return nil
}

// overlaps reports whether some packet is for both.
func (l Listen) overlaps(o Listen) bool {
	if l.First == 0 || o.First == 0 { // a service of all ports gets what no other one takes
		return l == o
	}
	return l.Addr == o.Addr && l.First <= o.Last && o.First <= l.Last
}

// The firewall marks that poise sets itself: services that listen on more than one port have one of markBlock, and the probes
// through virtual addresses one of the next block. Whoever sets marks for something else leaves both alone.
const (
	markBlock = 0x50000000
	markMask  = 0xfff00000
	ourMarks  = 0xffe00000 // of both
)

// markOf is the firewall mark of the service with this name. It comes from the name alone, so that all directors agree and
// connections that one has synchronised belong to the same service on another.
func markOf(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	sum := h.Sum32()
	return markBlock | (sum^sum>>20)&^markMask
}
