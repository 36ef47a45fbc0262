package realserver

import (
	"net/netip"
	"strconv"
	"strings"

	"poise/internal/host"
	"poise/internal/nft"
)

// tunnelPrefix begins the names of our interfaces.
const tunnelPrefix = "poise-"

// unwrapping is what takes packets out of the director's tunnel, of both families, and has clients send no larger ones
// than fit.
func (s Settings) unwrapping() (things []thing) {
	end := tunnelEnd{host.Tunnel{Name: s.tunnelName(), Kind: host.IPIP, Local: s.Address}}
	if s.Tunnel.Kind == "gre" {
		end.Kind, end.Checksum = host.GRE, s.Tunnel.Checksum
	}
	things = append(things, end)
	if s.Tunnel.Kind == "gue" { // within which is IP in IP
		things = append(things, gue{s.Tunnel.Port, s.Address.Is6()})
	}
	things = append(things, sysctl{host.SysctlName("net", "ipv4", "conf", end.Name, "rp_filter")})
	for _, vip := range s.VIPs {
		if s.MTU == 0 {
			break
		}
		headers := 40 // IPv4 and TCP
		if vip.Is6() {
			headers = 60
		}
		things = append(things, clamped{vip, uint16(s.MTU - headers)})
	}
	return things
}

func (s Settings) tunnelName() string {
	kind := "ip" // also within GUE
	if s.Tunnel.Kind == "gre" {
		kind = "gre"
	}
	return tunnelPrefix + kind + familyDigit(s.Address.Is6())
}

func familyDigit(ipv6 bool) string {
	if ipv6 {
		return "6"
	}
	return "4"
}

// tunnelEnd is an interface that unwraps what comes to an address of this host.
type tunnelEnd struct{ host.Tunnel }

func readTunnelEnd(parts []string) (thing, error) {
	local, err := netip.ParseAddr(parts[1])
	end := tunnelEnd{host.Tunnel{Name: parts[0], Kind: host.IPIP, Local: local, Checksum: parts[2] != ""}}
	if parts[0] == tunnelPrefix+"gre4" || parts[0] == tunnelPrefix+"gre6" {
		end.Kind = host.GRE
	}
	return end, err
}

func (e tunnelEnd) key() string {
	key := "tunnel " + e.Name + " to " + e.Local.String()
	if e.Checksum {
		key += " with checksums"
	}
	return key
}

func (e tunnelEnd) want() []string { return []string{present} }

func (e tunnelEnd) get() (string, error) {
	is, up, exists, err := host.LookTunnel(e.Name)
	switch {
	case err != nil || !exists:
		return absent, err
	case is != e.Tunnel:
		return altered, nil
	case !up:
		return "down", nil
	}
	return present, nil
}

func (e tunnelEnd) set(value string) (err error) {
	if value == absent {
		_, err = host.DelTunnel(e.Name)
	} else {
		_, err = host.AddTunnel(e.Tunnel)
	}
	return err
}

// gue is a UDP port where GUE is unwrapped.
type gue struct {
	port uint16
	ipv6 bool
}

func readGUE(parts []string) (thing, error) {
	port, err := strconv.ParseUint(parts[0], 10, 16)
	return gue{uint16(port), parts[1] == "6"}, err
}

func (g gue) key() string {
	return "GUE to UDP port " + strconv.Itoa(int(g.port)) + " of IPv" + familyDigit(g.ipv6)
}
func (g gue) want() []string { return []string{present} }

func (g gue) get() (string, error) {
	has, err := host.HasGUE(g.port, g.ipv6)
	return presence(has), err
}

func (g gue) set(value string) (err error) {
	if value == present {
		_, err = host.AddGUE(g.port, g.ipv6)
	} else {
		_, err = host.DelGUE(g.port, g.ipv6)
	}
	return err
}

// clamped is a virtual address whose TCP connections have segments of no more than so many bytes.
type clamped struct {
	vip netip.Addr
	mss uint16
}

func readClamped(parts []string) (thing, error) {
	vip, err := netip.ParseAddr(parts[0])
	if err != nil {
		return nil, err
	}
	mss, err := strconv.ParseUint(parts[1], 10, 16)
	return clamped{vip, uint16(mss)}, err
}

func (c clamped) key() string {
	return c.vip.String() + " with MSS " + strconv.Itoa(int(c.mss)) + " by nftables"
}
func (c clamped) want() []string { return []string{present} }

func (c clamped) get() (string, error) {
	all, differences, err := nft.ReadClamp()
	switch {
	case err != nil || all[c.vip] == 0:
		return absent, err
	case len(differences) > 0:
		return altered, nil
	case all[c.vip] != c.mss:
		return otherMSS + strconv.Itoa(int(all[c.vip])), nil
	}
	return present, nil
}

// otherMSS begins the value of one that is not as wanted.
const otherMSS = "MSS "

func (c clamped) set(value string) error {
	all, _, err := nft.ReadClamp()
	if err != nil {
		return err
	}
	if all == nil {
		all = make(map[netip.Addr]uint16)
	}
	delete(all, c.vip)
	if value == present {
		all[c.vip] = c.mss
	} else if other, is := strings.CutPrefix(value, otherMSS); is {
		mss, err := strconv.ParseUint(other, 10, 16)
		if err != nil {
			return err
		}
		all[c.vip] = uint16(mss)
	}
	return nft.SetClamp(all)
}
