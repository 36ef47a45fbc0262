package adm

import (
	"net/netip"
	"strconv"
	"strings"

	"poise/ipvsctl"
)

// endpoint is an address as it was read, with a port if there was one.
type endpoint struct {
	addr    netip.Addr
	port    uint16
	hasPort bool
}

// parseEndpoint reads "address[:port]" as ipvsadm does: "[v6]:port", "v6", or "v4[:port]" where v4 is what inet_aton takes
// or a host's name, and port a number or the protocol's name for it. A number alone is no address.
func (n *names) parseEndpoint(text string, p ipvsctl.Protocol) (e endpoint, ok bool) {
	if isDigits(text) {
		return e, false
	}
	port, hasPort := "", false
	if inner, bracketed := strings.CutPrefix(text, "["); bracketed {
		if text, port, hasPort = strings.Cut(inner, "]:"); !hasPort || strings.Contains(text, "]") {
			return e, false
		}
	}
	if a, ok := parseIPv6(text); ok {
		e.addr = a
	} else {
		// Also within brackets, whose port is forgotten then.
		port, hasPort = "", false
		if i := strings.LastIndexByte(text, ':'); i >= 0 {
			text, port, hasPort = text[:i], text[i+1:], true
		}
		if e.addr, ok = n.parseIPv4(text); !ok {
			return e, false
		}
	}
	if e.hasPort = hasPort; hasPort {
		number, ok := parseNumber(port, 0, 65535)
		if !ok {
			if number, ok = n.port(port, p); !ok {
				return e, false
			}
		}
		e.port = uint16(number)
	}
	return e, true
}

func parseIPv6(text string) (netip.Addr, bool) {
	if strings.IndexByte(text, ':') == strings.LastIndexByte(text, ':') {
		return netip.Addr{}, false // most are IPv4 with a port
	}
	a, err := netip.ParseAddr(text)
	return a, err == nil && a.Is6() && a.Zone() == ""
}

// parseIPv4 reads an address in the forms of inet_aton, or a host's name.
func (n *names) parseIPv4(text string) (netip.Addr, bool) {
	if a, ok := parseDots(text); ok {
		return a, true
	}
	return n.host(text)
}

// parseDots is inet_aton: one to four numbers with dots between, decimal, octal after 0 or hexadecimal after 0x, of which
// the last fills all bytes that are left. What comes after white space does not count.
func parseDots(text string) (netip.Addr, bool) {
	if i := strings.IndexAny(text, " \t\n\v\f\r"); i >= 0 {
		text = text[:i]
	}
	var addr uint32
	for part := 0; ; part++ {
		number, rest, more := strings.Cut(text, ".")
		limit := uint64(0xff)
		if !more {
			limit = 0xffffffff >> (8 * part)
		}
		v, ok := parseC(number)
		if !ok || v > limit || part == 3 && more {
			return netip.Addr{}, false
		}
		if !more {
			addr |= uint32(v)
			return netip.AddrFrom4([4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)}), true
		}
		addr |= uint32(v) << (24 - 8*part)
		text = rest
	}
}

// parseC reads an unsigned number as C writes it.
func parseC(text string) (uint64, bool) {
	base := 10
	switch {
	case len(text) > 2 && (text[:2] == "0x" || text[:2] == "0X"):
		base, text = 16, text[2:]
	case len(text) > 1 && text[0] == '0':
		base = 8
	}
	if text == "" || text[0] == '+' || text[0] == '-' {
		return 0, false
	}
	v, err := strconv.ParseUint(text, base, 32)
	return v, err == nil
}

// parseNumber reads a decimal number from least to most as strtol does: after white space, with a sign.
func parseNumber(text string, least, most int64) (int64, bool) {
	v, err := strconv.ParseInt(strings.TrimLeft(text, " \t\n\v\f\r"), 10, 64)
	return v, err == nil && least <= v && v <= most
}

func isDigits(text string) bool {
	return strings.Trim(text, "0123456789") == ""
}
