package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Tunnel is an interface that unwraps what arrives for one of this host's addresses in a tunnel, from anywhere,
// packets of both families.
type Tunnel struct {
	Name     string
	Kind     TunnelKind
	Local    netip.Addr // the address that the tunnel's packets are for
	Checksum bool       // of GRE: takes only packets with checksums, without it only those that have none
}

// TunnelKind is how packets are wrapped.
type TunnelKind string

// The kinds of tunnels. What GUE leaves is IP in IP: see [AddGUE].
const (
	IPIP TunnelKind = "ipip"
	GRE  TunnelKind = "gre"
)

// TunnelHeaders is how many bytes a director's tunnel of a kind, "ipip", "gue" or "gre", adds to a packet: the outer header, and of
// GUE those of UDP, GUE and with remote checksums its private option, of GRE its own with or without a checksum
// (ip_vs_tunnel_xmit in net/netfilter/ipvs/ip_vs_xmit.c). IPv6 is the family of the outer one.
func TunnelHeaders(kind string, checksum, ipv6 bool) int {
	bytes := 20
	if ipv6 {
		bytes = 40
	}
	switch {
	case kind == "gue":
		bytes += 20
	case kind == "gre" && checksum:
		bytes += 8
	case kind == "gre":
		bytes += 4
	}
	return bytes
}

// String says what arrives.
func (t Tunnel) String() string {
	s := fmt.Sprintf("%s to %v", t.Kind, t.Local)
	if t.Checksum {
		s += " with checksums"
	}
	return s
}

// AddTunnel makes a tunnel's interface and switches it on. It reports false when it was there, and on. An interface of
// that name that is something else is an error, and is left alone.
func AddTunnel(t Tunnel) (changed bool, err error) {
	if changed, err = addTunnel(t); err != nil {
		return false, fmt.Errorf("add tunnel %s: %w", t.Name, err)
	}
	return changed, nil
}

func addTunnel(t Tunnel) (changed bool, err error) {
	want, err := t.link()
	if err != nil {
		return false, err
	}
	link, is, err := lookTunnel(t.Name)
	switch {
	case errors.Is(err, errNoInterface):
	case err != nil:
		return false, err
	case is != t:
		return false, fmt.Errorf("the interface takes %v, not %v", is, t)
	case isOn(link):
		return false, nil
	default:
		return true, netlink.LinkSetUp(link)
	}
	err = netlink.LinkAdd(want)
	switch {
	case errors.Is(err, unix.EEXIST):
		// The kernel has one interface for what arrives; GRE with checksums and without is the same to it.
		return false, fmt.Errorf("%w: %s", err, sameTunnel(t))
	case errors.Is(err, unix.EOPNOTSUPP):
		return false, fmt.Errorf("this kernel has no interfaces of type %s: %w", want.Type(), err)
	}
	return err == nil, err
}

// link is the interface in the library's words. It is on as soon as it is there.
func (t Tunnel) link() (netlink.Link, error) {
	// The library takes a longer name for one of the alternative ones, and an empty one for a question after all.
	if len(t.Name) < 1 || len(t.Name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("a name has 1 to %d bytes", unix.IFNAMSIZ-1)
	}
	if !ofHost(t.Local) {
		return nil, fmt.Errorf("%v is no address of a host", t.Local)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = t.Name, net.FlagUp
	local := net.IP(t.Local.AsSlice())
	switch {
	case t.Kind == GRE:
		link := &netlink.Gretun{LinkAttrs: attrs, Local: local}
		if t.Checksum {
			link.IFlags = nl.GRE_CSUM
		}
		return link, nil
	case t.Kind != IPIP:
		return nil, fmt.Errorf("tunnels of kind %q are unknown", t.Kind)
	case t.Checksum:
		return nil, errors.New("ipip has no checksums")
	case t.Local.Is6():
		return &netlink.Ip6tnl{LinkAttrs: attrs, Local: local}, nil // protocol 0: both families
	default:
		// An interface of type ipip takes only IPv4 inside.
		return &netlink.Sittun{LinkAttrs: attrs, Local: local}, nil
	}
}

// DelTunnel deletes a tunnel's interface. It reports false when there was none of this name. An interface that is no
// such tunnel is an error, and is left alone.
func DelTunnel(name string) (deleted bool, err error) {
	link, _, err := lookTunnel(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.Is(err, errNoInterface) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete tunnel %s: %w", name, err)
	}
	return true, nil
}

// LookTunnel returns the tunnel of this name, and whether it is switched on. An interface that is no such tunnel is an
// error.
func LookTunnel(name string) (t Tunnel, up, exists bool, err error) {
	link, t, err := lookTunnel(name)
	if errors.Is(err, errNoInterface) {
		return Tunnel{}, false, false, nil
	}
	if err != nil {
		return Tunnel{}, false, false, fmt.Errorf("tunnel %s: %w", name, err)
	}
	return t, isOn(link), true, nil
}

func lookTunnel(name string) (netlink.Link, Tunnel, error) {
	link, err := linkByName(name)
	if err != nil {
		return nil, Tunnel{}, err
	}
	t, is := tunnelOf(link)
	if !is {
		return nil, Tunnel{}, fmt.Errorf("this interface of type %s is not one that unwraps all that arrives for one address", link.Type())
	}
	return link, t, nil
}

// tunnelOf reads an interface as a tunnel if it is one: no packets are left out that arrive for the address.
func tunnelOf(link netlink.Link) (Tunnel, bool) {
	t := Tunnel{Name: link.Attrs().Name}
	var local, remote net.IP
	all := link.Attrs().ParentIndex == 0 // whatever interface they came in by
	switch link := link.(type) {
	case *netlink.Sittun:
		t.Kind, local, remote = IPIP, link.Local, link.Remote
		all = all && link.Proto == 0
	case *netlink.Ip6tnl:
		t.Kind, local, remote = IPIP, link.Local, link.Remote
		all = all && link.Proto == 0 && !link.FlowBased
	case *netlink.Gretun:
		t.Kind, local, remote = GRE, link.Local, link.Remote
		all = all && link.IFlags&^nl.GRE_CSUM == 0 && !link.FlowBased // no key, no sequence
		t.Checksum = link.IFlags == nl.GRE_CSUM
	default:
		return Tunnel{}, false
	}
	t.Local, _ = netip.AddrFromSlice(local)
	from, _ := netip.AddrFromSlice(remote)
	return t, all && t.Local.IsValid() && !t.Local.IsUnspecified() && (!from.IsValid() || from.IsUnspecified())
}

// sameTunnel says which interface takes what t would.
func sameTunnel(t Tunnel) string {
	links, err := netlink.LinkList()
	if err != nil {
		return err.Error()
	}
	for _, link := range links {
		if is, _ := tunnelOf(link); is.Kind == t.Kind && is.Local == t.Local {
			return fmt.Sprintf("%s takes %v", is.Name, is)
		}
	}
	return "another interface is for the same"
}

func isOn(link netlink.Link) bool { return link.Attrs().RawFlags&unix.IFF_UP != 0 }

// AddGUE has the kernel unwrap GUE which arrives at a UDP port for this host's addresses of one family; what is inside
// goes on to a [Tunnel] to the same address. It reports false when it was so.
func AddGUE(port uint16, ipv6 bool) (added bool, err error) {
	g := gue(port, ipv6)
	has, err := hasGUE(g)
	if err == nil && !has {
		added = true
		err = addGUE(g)
	}
	if err != nil {
		return false, fmt.Errorf("add GUE to %s: %w", gueName(port, ipv6), err)
	}
	return added, nil
}

func addGUE(g netlink.Fou) error {
	loaded, err := fouLoaded()
	if err == nil && !loaded {
		// Unlike links' modules this one is never loaded by the kernel itself. Only what is there afterwards counts.
		exec.Command("modprobe", "-q", netlink.FOU_GENL_NAME).Run()
		loaded, err = fouLoaded()
	}
	switch {
	case err != nil:
		return err
	case !loaded:
		return errors.New("this kernel has no module fou (CONFIG_NET_FOU), or it could not be loaded")
	}
	return sendGUE(g)
}

// sendGUE is netlink.FouAdd but for that function's IP protocol 0, which kernels have come to refuse: GUE says itself what is in it.
func sendGUE(g netlink.Fou) error {
	family, err := netlink.GenlFamilyGet(netlink.FOU_GENL_NAME)
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddData(&nl.Genlmsg{Command: netlink.FOU_CMD_ADD, Version: 1})
	request.AddData(nl.NewRtAttr(netlink.FOU_ATTR_PORT, binary.BigEndian.AppendUint16(nil, uint16(g.Port))))
	request.AddData(nl.NewRtAttr(netlink.FOU_ATTR_AF, nl.Uint8Attr(uint8(g.Family))))
	request.AddData(nl.NewRtAttr(netlink.FOU_ATTR_TYPE, nl.Uint8Attr(uint8(g.EncapType))))
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

// DelGUE leaves GUE alone which arrives at a UDP port. It reports false when that was so.
func DelGUE(port uint16, ipv6 bool) (deleted bool, err error) {
	g := gue(port, ipv6)
	has, err := hasGUE(g)
	if err == nil && has {
		deleted = true
		err = netlink.FouDel(g)
	}
	if err != nil {
		return false, fmt.Errorf("delete GUE from %s: %w", gueName(port, ipv6), err)
	}
	return deleted, nil
}

// HasGUE tells whether GUE is unwrapped which arrives at a UDP port. A port where the kernel unwraps something else, or
// not for all addresses and from anywhere, is an error.
func HasGUE(port uint16, ipv6 bool) (bool, error) {
	has, err := hasGUE(gue(port, ipv6))
	if err != nil {
		return false, fmt.Errorf("GUE to %s: %w", gueName(port, ipv6), err)
	}
	return has, nil
}

func hasGUE(want netlink.Fou) (bool, error) {
	loaded, err := fouLoaded()
	if err != nil || !loaded {
		return false, err
	}
	var all []netlink.Fou
	for range 10 { // the list starts again when it changed under the dump
		all, err = netlink.FouList(want.Family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return false, err
	}
	for _, f := range all { // of both families, whatever is asked
		if f.Family != want.Family || f.Port != want.Port {
			continue
		}
		bound := func(ip net.IP) bool { return len(ip) > 0 && !ip.IsUnspecified() }
		if f.EncapType != want.EncapType || f.IfIndex != 0 || bound(f.Local) || bound(f.Peer) {
			return false, errors.New("the port is taken: the kernel unwraps there, but not all GUE")
		}
		return true, nil
	}
	return false, nil
}

// fouLoaded tells whether the kernel knows foo-over-UDP, of which GUE is a part.
func fouLoaded() (bool, error) {
	_, err := netlink.GenlFamilyGet(netlink.FOU_GENL_NAME)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

func gue(port uint16, ipv6 bool) netlink.Fou {
	return netlink.Fou{Family: familyOf(ipv6), Port: int(port), EncapType: netlink.FOU_ENCAP_GUE}
}

func gueName(port uint16, ipv6 bool) string {
	return fmt.Sprintf("UDP port %d of %s", port, familyName(ipv6))
}

func familyOf(ipv6 bool) int {
	if ipv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}
