package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a machine of its own as far as the network goes: links, addresses, routes,
// sockets, sysctls below net, IPVS and nftables. Files and processes are the machine's.
// Links are added by one goroutine at a time; all else may be called from several.
type Host struct {
	Name      string // as given
	Namespace string // as `ip netns exec` wants it

	net    *Network
	ns     netns.NsHandle
	links  *netlink.Handle
	ports  int           // links made by Connect
	dialed atomic.Uint32 // ports that Dial has come from
}

// Switch joins the hosts connected to it on the link layer.
type Switch struct {
	host   *Host
	bridge netlink.Link
	ports  int
}

// Host makes a host with nothing but its loopback link up.
func (n *Network) Host(name string) *Host {
	h := &Host{Name: name, Namespace: n.prefix + name, net: n}
	n.must(h.create())
	return h
}

// Switch makes a switch, a bridge in a namespace of its own.
func (n *Network) Switch(name string) *Switch {
	h := n.Host(name)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "switch"
	s := &Switch{host: h, bridge: &netlink.Bridge{LinkAttrs: attrs}}
	n.must(h.wrap("add bridge", h.links.LinkAdd(s.bridge)))
	h.SetLink(attrs.Name, true)
	return s
}

func (h *Host) create() (err error) {
	// The new namespace is first that of a thread which then ends: no thread of others sees it.
	err = onOwnThread(func() error {
		h.ns, err = netns.NewNamed(h.Namespace)
		return h.wrap("new namespace", err)
	})
	if err != nil {
		return err
	}
	h.net.atEnd(func() error {
		return errors.Join(h.ns.Close(), h.wrap("delete namespace", netns.DeleteNamed(h.Namespace)))
	})
	if h.links, err = netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE, unix.NETLINK_GENERIC); err != nil {
		return h.wrap("netlink", err)
	}
	h.net.atEnd(func() error {
		h.links.Close()
		return nil
	})
	return h.setLink("lo", true)
}

// Connect plugs the host into s by its next link, eth0 first, with addresses like "192.0.2.1/24".
// It returns the link's name.
func (h *Host) Connect(s *Switch, addrs ...string) string {
	name := fmt.Sprintf("eth%d", h.ports)
	h.ports++
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("port%d", s.ports)
	attrs.MasterIndex = s.bridge.Attrs().Index
	s.ports++
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(h.ns)}
	h.net.must(h.wrap("connect "+name, s.host.links.LinkAdd(cable)))
	s.host.SetLink(attrs.Name, true)
	h.SetLink(name, true)
	for _, addr := range addrs {
		h.AddAddr(name, addr)
	}
	return name
}

// SetLink puts a link up or down. Down is how a host dies for the network at once.
func (h *Host) SetLink(link string, up bool) { h.net.must(h.setLink(link, up)) }

func (h *Host) setLink(name string, up bool) error {
	link, err := h.links.LinkByName(name)
	if err != nil {
		return h.wrap("link "+name, err)
	}
	if up {
		return h.wrap("link "+name+" up", h.links.LinkSetUp(link))
	}
	return h.wrap("link "+name+" down", h.links.LinkSetDown(link))
}

// AddAddr adds an address like "192.0.2.10/32" to a link, usable at once.
func (h *Host) AddAddr(link, prefix string) {
	h.net.must(h.wrap("add "+prefix+" to "+link, h.changeAddr(h.links.AddrAdd, link, prefix)))
}

// DelAddr removes an address from a link.
func (h *Host) DelAddr(link, prefix string) {
	h.net.must(h.wrap("delete "+prefix+" from "+link, h.changeAddr(h.links.AddrDel, link, prefix)))
}

func (h *Host) changeAddr(change func(netlink.Link, *netlink.Addr) error, link, prefix string) error {
	on, err := h.links.LinkByName(link)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD // no second of waiting for a duplicate
	}
	return change(on, addr)
}

// Route sends what goes to dst, a prefix or "default", by way of the neighbour via.
func (h *Host) Route(dst, via string) {
	h.net.must(h.wrap("route "+dst+" via "+via, h.addRoute(dst, via)))
}

func (h *Host) addRoute(dst, via string) error {
	gw, err := netip.ParseAddr(via)
	if err != nil {
		return err
	}
	route := &netlink.Route{Gw: gw.AsSlice()}
	if dst != "default" {
		if _, route.Dst, err = net.ParseCIDR(dst); err != nil {
			return err
		}
	}
	return h.links.RouteAdd(route)
}

// Sysctl sets a value below /proc/sys, for example "net/ipv4/ip_forward".
func (h *Host) Sysctl(name, value string) {
	h.net.must(h.Do(func() error {
		return h.wrap("set "+name, os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0))
	}))
}

// ReadSysctl returns a value below /proc/sys, without the line's end.
func (h *Host) ReadSysctl(name string) (value string) {
	h.net.must(h.Do(func() error {
		data, err := os.ReadFile(filepath.Join("/proc/sys", name))
		value = string(bytes.TrimSpace(data))
		return h.wrap("read "+name, err)
	}))
	return value
}

// Do runs f on a thread inside the host and returns its error. Sockets which f opens stay
// the host's; goroutines which f starts do not run inside it. f must not end the test.
func (h *Host) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return h.wrap("enter namespace", err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread which ends afterwards: whatever f does to it harms nobody.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends such a thread with its goroutine
		defer close(result)
		result <- f()
	}()
	err, returned := <-result
	if !returned {
		return errors.New("ended the test from a host's thread")
	}
	return err
}

// wrap says on which host an action met err.
func (h *Host) wrap(action string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("host %s: %s: %w", h.Name, action, err)
}
