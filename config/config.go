// Package config turns the configuration file into a Config, or says everything that is wrong with it.
//
//	      ┌─ toml.Decode ─▶ tables ─┐
//	text ─┤                         ├─▶ bind ─▶ Config ─▶ rules ─▶ the Config, or every error with its line
//	      └─ scan ────────▶ marks ──┘
//
// The decoder knows what each key means and the marks where it stands; bind walks both at once. The struct
// tags are the file's rules: toml names the key (",required" demands it), default is its value when
// it is absent, range is what is accepted. docs/config.md is generated from them.
package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"poise/checker"
	"poise/ipvsctl"
	"poise/vrrp"
)

// Config is a whole, valid configuration: defaults are filled in and references hold.
// It is plain data, survives JSON unchanged, and is never modified after Load. The daemon's processes hand it on as JSON:
// what is there ten thousand times and mostly zero is left out.
type Config struct {
	// Global is what belongs to the director as a whole.
	Global Global `toml:"global"`
	// Routers are the virtual routers, in the file's order: addresses that this director shares with others, and
	// has while it is their master.
	Routers []vrrp.Config `toml:"router"`
	// Services are the virtual services, in the file's order. Their addresses need not be those of a router.
	Services []Service `toml:"service"`
	// IPVS is what belongs to the kernel's IPVS as a whole.
	IPVS IPVS `toml:"ipvs"`
}

// Global is what belongs to the director as a whole.
type Global struct {
	// Node is this director's name in status and metrics. Without it, the host name.
	Node string `toml:"node"`
	// API is the address that serves metrics and read-only status. Without it, nothing is served.
	// A reload that changes it binds the new address before it lets go of the old one.
	API netip.AddrPort `toml:"api"`
	// OnStop is what becomes of the kernel's table when poise stops: "leave" keeps it balancing, with the last
	// weights and unchecked; "remove" takes our entries out and restores the sysctls.
	OnStop OnStop `toml:"on_stop" default:"leave"`
	// Interfaces are those that face clients and servers: ICMP redirects are switched off on them.
	// Without it, those through which the servers are reached.
	Interfaces []string `toml:"interfaces"`
}

// Service is a virtual service: an address that clients use, and the servers that answer for it.
type Service struct {
	// Name is what commands, logs and metrics call the service: a letter or digit, then up to 63 of A-Z, a-z, 0-9,
	// ".", "_" and "-".
	Name string `toml:"name,required"`
	// Listen are the addresses that clients use, of one family: with a port, a range of ports such as
	// "192.0.2.10:8000-8009", or with persistence port 0 for all ports. With more than one port, poise gives their packets a
	// firewall mark (nftables, table inet poise) by which the kernel sees one service. Either this or fwmark.
	Listen []Listen `toml:"listen"`
	// Fwmark is a firewall mark that rules of your own give to the packets to be balanced, instead of listen. The address must be
	// local to the director all the same.
	Fwmark uint32 `toml:"fwmark" range:"1..4294967295" json:",omitzero"`
	// Family is that of the packets with fwmark.
	Family Family `toml:"family" default:"ipv4"`
	// Protocol is what is balanced. With fwmark it is up to your rules.
	Protocol ipvsctl.Protocol `toml:"protocol" default:"tcp"`
	// Scheduler is how the kernel picks a server for a new connection: "wlc" the one with the fewest
	// connections for its weight; ipvsadm(8) describes the others.
	Scheduler Scheduler `toml:"scheduler" default:"wlc"`
	// SchedulerFlags are for the schedulers "sh" and "mh", by whose names they begin: with "sh-port" a client's port counts
	// as well as its address, with "sh-fallback" one whose server takes no connections is given another.
	SchedulerFlags []SchedulerFlag `toml:"scheduler_flags" json:",omitzero"`
	// Forward is how packets reach the servers: "nat" rewrites their address, and the replies must pass the director;
	// "dr" and "tun" deliver them as they are, in the same network or through a tunnel, to the service's port; "fullnat" is nat
	// that rewrites the client's address as well, so that replies come back from anywhere.
	Forward Forward `toml:"forward,required"`
	// Tunnel is what packets travel in with forward = "tun". Without it, IP in IP.
	Tunnel *ipvsctl.Tunnel `toml:"tunnel" json:",omitzero"`
	// OnePacket schedules each datagram by itself, with protocol = "udp".
	OnePacket bool `toml:"one_packet" default:"false" json:",omitzero"`
	// Persistence is how long a client stays with its server, in whole seconds; "0s" is not at all.
	Persistence time.Duration `toml:"persistence" default:"0s" range:"0s..744h" json:",omitzero"`
	// PersistenceGranularity has clients stay together whose addresses share this netmask ("255.255.255.0") or
	// prefix length ("/24"). Without it, each is by itself.
	PersistenceGranularity string `toml:"persistence_granularity" json:",omitzero"`
	// PersistenceEngine is what a client is told by instead of its address: "sip" the call of a SIP message, over UDP.
	PersistenceEngine string `toml:"persistence_engine" json:",omitzero"`
	// Quorum is the sum of the weights of usable servers below which the service counts as down.
	Quorum int `toml:"quorum" default:"1" range:"1..2147483647"`
	// QuorumHysteresis keeps the quorum from flapping: it is lost below quorum minus this,
	// and regained at quorum plus this. Below the quorum.
	QuorumHysteresis int `toml:"quorum_hysteresis" default:"0" range:"0..2147483646" json:",omitzero"`
	// SorryServer is the address and port of the server that answers while there is no quorum. It is reached by the
	// service's forwarding method. Without it, the servers that are left keep the service.
	SorryServer netip.AddrPort `toml:"sorry_server" json:",omitzero"`
	// Check is how servers are asked whether they may take traffic. Without it, they always may.
	Check *checker.Config `toml:"check" json:",omitzero"`
	// Servers are the real servers.
	Servers []Server `toml:"server,required"`
}

// Key is the service's identity in the kernel: its address where there is one, else its firewall mark.
func (s Service) Key() ipvsctl.ServiceKey {
	switch {
	case s.Fwmark != 0:
		return ipvsctl.ByMark(s.Fwmark, s.IsIPv6())
	case s.Marked():
		return ipvsctl.ByMark(markOf(s.Name), s.IsIPv6())
	}
	return ipvsctl.ServiceKey{Protocol: s.Protocol, Addr: netip.AddrPortFrom(s.Listen[0].Addr, s.Listen[0].First)}
}

// SameService reports whether both are for the same packets, whatever they are called.
func (s Service) SameService(o Service) bool {
	if s.Fwmark != 0 || o.Fwmark != 0 {
		return s.Fwmark == o.Fwmark && s.Family == o.Family
	}
	return s.Protocol == o.Protocol && slices.Equal(s.Listen, o.Listen)
}

// UsesFullNAT reports whether some server gets requests from the director's own address.
func (c *Config) UsesFullNAT() bool {
	return slices.ContainsFunc(c.Services, func(s Service) bool {
		return s.SorryServer.IsValid() && s.Forward == FullNAT ||
			slices.ContainsFunc(s.Servers, func(srv Server) bool { return srv.Forward == FullNAT })
	})
}

// Marked reports whether poise gives the service's packets a firewall mark.
func (s Service) Marked() bool {
	return len(s.Listen) > 1 || len(s.Listen) == 1 && s.Listen[0].First != s.Listen[0].Last
}

// IsIPv6 reports the service's family.
func (s Service) IsIPv6() bool {
	if len(s.Listen) > 0 {
		return s.Listen[0].Addr.Is6()
	}
	return s.Family == IPv6
}

// VIPs are the service's addresses, each once. One by fwmark has none that poise knows of.
func (s Service) VIPs() []netip.Addr {
	var all []netip.Addr
	for _, l := range s.Listen {
		if !slices.Contains(all, l.Addr) {
			all = append(all, l.Addr)
		}
	}
	return all
}

// port is where the service's servers take requests that keep their port, 0 where that is up to the request.
func (s Service) port() uint16 {
	if s.Fwmark != 0 || s.Marked() {
		return 0
	}
	return s.Listen[0].First
}

// Settings is how the service stands in the kernel.
func (s Service) Settings() ipvsctl.Settings {
	settings := ipvsctl.Settings{Scheduler: string(s.Scheduler), Persistence: s.Persistence, Engine: s.PersistenceEngine}
	for _, f := range s.SchedulerFlags {
		settings.Flags |= f.kernel()
	}
	if s.OnePacket {
		settings.Flags |= ipvsctl.OnePacket
	}
	settings.ClientMask, _ = clientMask(s.PersistenceGranularity, s.IsIPv6()) // the rules have looked at it
	return settings
}

// Destination is how srv, one of the service's servers, stands in the kernel with a weight.
func (s Service) Destination(srv Server, weight int) ipvsctl.Destination {
	d := ipvsctl.Destination{Method: srv.Forward.Method(), Weight: weight, Upper: srv.UpperThreshold, Lower: srv.LowerThreshold}
	if t := cmp.Or(srv.Tunnel, s.Tunnel); t != nil && srv.Forward == TUN {
		d.Tunnel = *t
	}
	return d
}

// Sorry is the sorry server, which is reached as the service's others are.
func (s Service) Sorry() Server {
	return Server{Address: s.SorryServer.Addr(), Port: s.SorryServer.Port(), Forward: s.Forward}
}

// All are the service's servers, the sorry one last.
func (s Service) All() []Server {
	if !s.SorryServer.IsValid() {
		return s.Servers
	}
	return append(slices.Clone(s.Servers), s.Sorry())
}

// CheckAddr is where srv, one of the service's servers, is asked when the service has a Check.
func (s Service) CheckAddr(srv Server) netip.AddrPort {
	port := cmp.Or(s.Check.Port, srv.Port)
	if port == 0 {
		port = s.Listen[0].First
	}
	return netip.AddrPortFrom(srv.Address, port)
}

// Server is a real server of a service.
type Server struct {
	// Address is the server's address. It may be of the other family than the service's behind a tunnel.
	Address netip.Addr `toml:"address,required"`
	// Port is where it serves. Without it, the service's port; where that has several, the port that the client asked for.
	Port uint16 `toml:"port" range:"1..65535"`
	// Weight is its share of new connections; with 0 it gets none, and those it has go on.
	Weight int `toml:"weight" default:"1" range:"0..2147483647"`
	// Forward is how packets reach this server. Without it, as they reach the service's others.
	Forward Forward `toml:"forward"`
	// Tunnel is what packets to this server travel in, where it is not the service's.
	Tunnel *ipvsctl.Tunnel `toml:"tunnel" json:",omitzero"`
	// UpperThreshold is the number of connections, those that linger for minutes after their end among them, from which on
	// the server gets no new ones; 0 is without limit.
	UpperThreshold uint32 `toml:"upper_threshold" default:"0" range:"0..2147483647" json:",omitzero"`
	// LowerThreshold is the number below which it gets new ones again; 0 is three quarters of the upper one.
	LowerThreshold uint32 `toml:"lower_threshold" default:"0" range:"0..2147483647" json:",omitzero"`
}

// Addr is the server's identity within its service.
func (s Server) Addr() netip.AddrPort { return netip.AddrPortFrom(s.Address, s.Port) }

// Forward is how packets reach a real server.
type Forward string

// The ways.
const (
	NAT     Forward = "nat"
	DR      Forward = "dr"
	TUN     Forward = "tun"
	FullNAT Forward = "fullnat"
)

// UnmarshalText accepts "nat", "dr", "tun" and "fullnat".
func (f *Forward) UnmarshalText(text []byte) error { return oneOf(f, text, NAT, DR, TUN, FullNAT) }

// Method is what IPVS does. Full NAT is its masquerading; the source is rewritten by nftables.
func (f Forward) Method() ipvsctl.Method {
	switch f {
	case DR:
		return ipvsctl.DR
	case TUN:
		return ipvsctl.TUN
	}
	return ipvsctl.NAT
}

// Family is an address family.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// UnmarshalText accepts "ipv4" and "ipv6".
func (f *Family) UnmarshalText(text []byte) error { return oneOf(f, text, IPv4, IPv6) }

// SchedulerFlag is a switch of one of the schedulers sh and mh.
type SchedulerFlag string

// UnmarshalText accepts the flags' names.
func (f *SchedulerFlag) UnmarshalText(text []byte) error {
	return oneOf(f, text, "sh-port", "sh-fallback", "mh-port", "mh-fallback")
}

// kernel is the switch itself, which both schedulers share.
func (f SchedulerFlag) kernel() ipvsctl.Flags {
	if strings.HasSuffix(string(f), "-port") {
		return ipvsctl.SourcePort
	}
	return ipvsctl.Fallback
}

// OnStop is what becomes of the kernel's table when poise stops.
type OnStop string

// The two ways to stop.
const (
	Leave  OnStop = "leave"
	Remove OnStop = "remove"
)

// UnmarshalText accepts "leave" and "remove".
func (o *OnStop) UnmarshalText(text []byte) error { return oneOf(o, text, Leave, Remove) }

// Scheduler is one of ipvsctl.Schedulers.
type Scheduler string

// UnmarshalText accepts the names in ipvsctl.Schedulers.
func (s *Scheduler) UnmarshalText(text []byte) error {
	return oneOf((*string)(s), text, ipvsctl.Schedulers...)
}

func oneOf[T ~string](v *T, text []byte, known ...T) error {
	if !slices.Contains(known, T(text)) {
		return fmt.Errorf("%q is none of %q", text, known)
	}
	*v = T(text)
	return nil
}
