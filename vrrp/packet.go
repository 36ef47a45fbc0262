package vrrp

import (
	"net/netip"
	"time"
)

// Advert is one VRRP advertisement (RFC 9568 section 5.2, RFC 3768 section 5.3).
type Advert struct {
	Version  int
	VRID     uint8
	Priority uint8
	Interval time.Duration // whole seconds in version 2, steps of 10 ms in version 3
	AuthType uint8         // version 2: 0 none, 1 plain-text password
	AuthData [8]byte       // version 2
	Addrs    []netip.Addr
}
