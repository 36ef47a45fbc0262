package through

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"poise/internal/host"
	"poise/ipvsctl"
)

// Way is how the packets of clients come to one real server: to the virtual address, and on by a method. It is TCP.
type Way struct {
	VIP    netip.AddrPort // what clients ask
	Server netip.AddrPort // its own address, and the port where it serves
	Method ipvsctl.Method
	Tunnel ipvsctl.Tunnel // of TUN
}

// destination is how the hidden service of a way names the server.
func (w Way) destination() netip.AddrPort {
	if w.Method.KeepsPort() {
		return netip.AddrPortFrom(w.Server.Addr(), 0) // any
	}
	return w.Server
}

func (w Way) key(mark uint32) ipvsctl.ServiceKey { return ipvsctl.ByMark(mark, w.VIP.Addr().Is6()) }

// service is the hidden service of a way.
func (w Way) service() ipvsctl.Service {
	return ipvsctl.Service{
		Settings: ipvsctl.Settings{Scheduler: "rr"},
		Destinations: map[netip.AddrPort]ipvsctl.Destination{
			w.destination(): {Method: w.Method, Weight: 1, Tunnel: w.Tunnel},
		},
	}
}

// path is a way as it is from this host: which is found out once, before the first probe.
type path struct {
	mark   uint32
	gate   sync.Mutex // one probe at a time has this mark
	source netip.Addr // what servers answer to
	link   string     // where their answers come in
	local  bool       // this host has the virtual address
	own    bool       // this host is the server
	hops   int        // how far packets may go, 0 is as usual
	err    error      // why there can be no probe
}

// survey finds paths.
type survey struct {
	virtual map[netip.Addr]bool       // come and go, and so are nobody's source
	local   map[netip.Addr]bool       // are this host's
	links   map[string]host.Interface // looked at so far
}

// path finds that of a way.
func (s *survey) path(w Way) *path {
	p := &path{local: s.local[w.VIP.Addr()]}
	gateway, towards, err := host.RouteTo(w.Server.Addr(), netip.Addr{}, 0, 0, 0)
	if err != nil {
		p.err = err
		return p
	}
	p.link = towards
	if p.own = towards == "lo"; p.own && w.Server.Addr().Is4() == w.VIP.Addr().Is4() {
		p.source = w.Server.Addr()
		return p
	}
	if !p.local { // IPVS sees only what has somewhere to go
		if _, _, p.err = host.RouteTo(w.VIP.Addr(), netip.Addr{}, 0, 0, 0); p.err != nil {
			return p
		}
	}
	near := w.Server.Addr()
	if w.Method == ipvsctl.NAT && p.local {
		// From the outside, so that the way back is the one that clients need: the server has to send its replies here.
		if p.link, err = outside(w.VIP.Addr()); err != nil {
			p.err = err
			return p
		}
		near = w.VIP.Addr()
	}
	if w.Method.KeepsPort() && !gateway.IsValid() {
		// As far as the server, and no further: one without the virtual address that forwards would hand the probe on to who
		// has it, and somebody else's answer would be taken for this one's. Where that is this host, which does not answer
		// itself, the server may hand it on once: to a container.
		p.hops = 2
		if p.local {
			p.hops = 3
		}
	}
	if p.source, p.err = s.sourceOn(p.link, w.VIP.Addr(), near); p.err != nil {
		return p
	}
	if w.Method.KeepsPort() && w.VIP.Addr().Is4() {
		p.err = p.reversePath(w.VIP.Addr())
	}
	return p
}

// outside is the interface where clients ask for a virtual address that this host has.
func outside(vip netip.Addr) (string, error) {
	names, err := host.Asked(vip)
	if err != nil {
		return "", err
	}
	if len(names) > 0 {
		return names[0], nil
	}
	_, name, err := host.RouteTo(Somebody(vip.Is6()), netip.Addr{}, 0, 0, 0)
	return name, err
}

// sourceOn is this host's own address on an interface, of the family of vip: the one in the network of near, or else the first.
func (s *survey) sourceOn(ifname string, vip, near netip.Addr) (_ netip.Addr, err error) {
	link, seen := s.links[ifname]
	if !seen {
		if link, _, err = host.Look(ifname); err != nil {
			return netip.Addr{}, err
		}
		s.links[ifname] = link
	}
	var own []host.Address
	for _, a := range link.Addrs {
		addr := a.Addr()
		if a.Usable && addr.Is4() == vip.Is4() && addr.IsLinkLocalUnicast() == vip.IsLinkLocalUnicast() && !s.virtual[addr] {
			own = append(own, a)
		}
	}
	if len(own) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address of its own to ask for %v from", ifname, vip)
	}
	if i := slices.IndexFunc(own, func(a host.Address) bool { return a.Masked().Contains(near) }); i >= 0 {
		return own[i].Addr(), nil
	}
	return own[0].Addr(), nil
}

// reversePath is why an answer from a virtual address would be dropped, although local sources are accepted: the strict check wants
// it to come in where the address is, or where the way to it leaves.
func (p *path) reversePath(vip netip.Addr) error {
	var where []string
	var err error
	whose := "an address on another interface of this host"
	if p.local {
		where, err = host.Holders(vip)
	} else {
		where = make([]string, 1)
		_, where[0], err = host.RouteTo(vip, p.source, 0, 0, 0)
		whose = "which this host asks through " + where[0]
	}
	if err != nil || slices.Contains(where, p.link) {
		return err
	}
	filter, err := host.Sysctls{}.InForce(p.link, "rp_filter")
	if err != nil || filter != 1 {
		return err
	}
	return fmt.Errorf("rp_filter is 1 on %s, which drops answers from %v, %s: 2 does not", p.link, vip, whose)
}

// Somebody stands for a client from afar: an address that nobody has (RFC 5737 section 3, RFC 6666 section 4).
func Somebody(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.AddrFrom16([16]byte{0: 1, 15: 1})
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, 113})
}

// marks gives each way a firewall mark.
func marks(ways []Way) (map[Way]uint32, error) {
	given := make(map[Way]uint32)
	for _, w := range ways {
		if !w.VIP.IsValid() || !w.Server.IsValid() || w.VIP.Port() == 0 || w.Server.Port() == 0 {
			return nil, fmt.Errorf("way to %v by %v: an address or port is missing", w.Server, w.VIP)
		}
		if _, ok := given[w]; !ok {
			given[w] = firstMark + uint32(len(given))
		}
	}
	if len(given) > mostMarks {
		return nil, errors.New("more ways to servers than there are marks for probes")
	}
	return given, nil
}
