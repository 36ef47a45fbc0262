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
	"time"

	"poise/checker"
	"poise/ipvsctl"
	"poise/vrrp"
)

// Config is a whole, valid configuration: defaults are filled in and references hold.
// It is plain data, survives JSON unchanged, and is never modified after Load.
type Config struct {
	// Global is what belongs to the director as a whole.
	Global Global `toml:"global"`
	// Routers are the virtual routers, in the file's order: addresses that this director shares with others, and
	// has while it is their master.
	Routers []vrrp.Config `toml:"router"`
	// Services are the virtual services, in the file's order. Their addresses need not be those of a router.
	Services []Service `toml:"service"`
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
	// Listen is the address and port that clients use: exactly one.
	Listen []netip.AddrPort `toml:"listen,required"`
	// Protocol is what is balanced.
	Protocol ipvsctl.Protocol `toml:"protocol" default:"tcp"`
	// Scheduler is how the kernel picks a server for a new connection: "wlc" the one with the fewest
	// connections for its weight; ipvsadm(8) describes the others.
	Scheduler Scheduler `toml:"scheduler" default:"wlc"`
	// Forward is how packets reach the servers: "nat" rewrites their address, and the replies must pass the director;
	// "dr" and "tun" deliver them as they are, in the same network or through an IP tunnel, to the service's port.
	Forward ipvsctl.Method `toml:"forward,required"`
	// Persistence is how long a client stays with its server, in whole seconds; "0s" is not at all.
	Persistence time.Duration `toml:"persistence" default:"0s" range:"0s..744h"`
	// Quorum is the sum of the weights of usable servers below which the service counts as down.
	Quorum int `toml:"quorum" default:"1" range:"1..2147483647"`
	// QuorumHysteresis keeps the quorum from flapping: it is lost below quorum minus this,
	// and regained at quorum plus this. Below the quorum.
	QuorumHysteresis int `toml:"quorum_hysteresis" default:"0" range:"0..2147483646"`
	// SorryServer is the address and port of the server that answers while there is no quorum. It is reached by the
	// service's forwarding method. Without it, the servers that are left keep the service.
	SorryServer netip.AddrPort `toml:"sorry_server"`
	// Check is how servers are asked whether they may take traffic. Without it, they always may.
	Check *checker.Config `toml:"check"`
	// Servers are the real servers.
	Servers []Server `toml:"server,required"`
}

// Key is the service's identity in the kernel.
func (s Service) Key() ipvsctl.ServiceKey {
	return ipvsctl.ServiceKey{Protocol: s.Protocol, Addr: s.Listen[0]}
}

// CheckAddr is where srv, one of the service's servers, is asked when the service has a Check.
func (s Service) CheckAddr(srv Server) netip.AddrPort {
	return netip.AddrPortFrom(srv.Address, cmp.Or(s.Check.Port, srv.Port))
}

// Server is a real server of a service.
type Server struct {
	// Address is the server's address.
	Address netip.Addr `toml:"address,required"`
	// Port is where it serves. Without it, the service's port.
	Port uint16 `toml:"port" range:"1..65535"`
	// Weight is its share of new connections; with 0 it gets none, and those it has go on.
	Weight int `toml:"weight" default:"1" range:"0..2147483647"`
}

// Addr is the server's identity within its service.
func (s Server) Addr() netip.AddrPort { return netip.AddrPortFrom(s.Address, s.Port) }

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
