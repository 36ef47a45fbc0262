package realserver

import (
	"net/netip"
	"slices"

	"poise/internal/host"
	"poise/internal/nft"
)

// silence keeps IPv4 addresses on lo out of ARP. IPv6 needs nothing: its neighbour discovery answers only for addresses
// of the interface where the question came in.
func (s Settings) silence() (things []thing) {
	for _, vip := range s.VIPs {
		switch {
		case vip.Is6():
		case s.ARPFilter:
			things = append(things, silent{vip})
		case len(things) == 0:
			// The value in force is the larger one of all's and the interface's own, so setting all covers interfaces still
			// to come.
			things = []thing{sysctl{"net.ipv4.conf.all.arp_ignore"}, sysctl{"net.ipv4.conf.all.arp_announce"}}
		}
	}
	return things
}

// silent is an IPv4 address for which table arp poise lets no answer out, nor questions in its name.
type silent struct{ vip netip.Addr }

func readSilent(parts []string) (thing, error) {
	vip, err := netip.ParseAddr(parts[0])
	return silent{vip}, err
}

func (s silent) key() string    { return s.vip.String() + " silent by nftables" }
func (s silent) want() []string { return []string{present} }

// altered is the value of what somebody else has changed.
const altered = "altered"

func (s silent) get() (string, error) {
	vips, _, err := nft.ReadSilence(nil)
	if err != nil || !slices.Contains(vips, s.vip) {
		return absent, err
	}
	own, err := ownAddresses(vips)
	if err != nil {
		return "", err
	}
	vips, differences, err := nft.ReadSilence(own)
	switch {
	case err != nil || !slices.Contains(vips, s.vip):
		return absent, err
	case len(differences) > 0:
		return altered, nil
	}
	return present, nil
}

func (s silent) set(value string) error {
	vips, _, err := nft.ReadSilence(nil)
	if err != nil {
		return err
	}
	vips = slices.DeleteFunc(vips, func(a netip.Addr) bool { return a == s.vip })
	if value == present {
		vips = append(vips, s.vip)
	}
	own, err := ownAddresses(vips)
	if err != nil {
		return err
	}
	return nft.SetSilence(vips, own)
}

// ownAddresses are those by which this host may be known in ARP: of each interface the first that is not virtual.
func ownAddresses(vips []netip.Addr) (map[string]netip.Addr, error) {
	links, err := links()
	if err != nil {
		return nil, err
	}
	own := make(map[string]netip.Addr)
	for _, link := range links {
		i := slices.IndexFunc(link.Addrs, func(a host.Address) bool { return a.Addr().Is4() && !slices.Contains(vips, a.Addr()) })
		if i >= 0 && !link.NoARP {
			own[link.Name] = link.Addrs[i].Addr()
		}
	}
	return own, nil
}
