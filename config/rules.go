package config

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"poise/checker"
	"poise/ipvsctl"
	"poise/vrrp"
)

// Names become metric labels, command arguments and parts of a URL's path.
var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const nameRule = `not a letter or digit, and then up to 63 of A-Z, a-z, 0-9, ".", "_" and "-"`

// checkAll applies the rules that no single field's tags can say. It also fills in what
// depends on another key: servers' ports, and the content of named files.
func (b *binder) checkAll(file *object, c *Config, read func(path string) ([]byte, error)) {
	b.checkGlobal(file, c.Global)
	if len(c.Services)+len(c.Routers) == 0 && !b.excused(file, "service") && !b.excused(file, "router") {
		b.add(file, "", &mark{line: file.mark.line}, "neither a [[router]] nor a [[service]]")
	}
	b.checkRouters(c.Routers)
	names := map[string]*object{}
	keys := map[ipvsctl.ServiceKey]*object{}
	for i := range c.Services {
		s := &c.Services[i]
		o := b.objects[s]
		b.checkService(o, s)
		b.checkServers(o, s)
		b.checkQuorum(o, s)
		if s.Check != nil {
			b.readCA(o, s.Check, read)
		}
		if o.sound("name") {
			if first, ok := names[s.Name]; ok {
				b.report(o, "name", "already the name of the service on line %d", first.mark.line)
			} else {
				names[s.Name] = o
			}
		}
		if o.sound("listen", "protocol") {
			if first, ok := keys[s.Key()]; ok {
				b.report(o, "listen", "already the address of %s on line %d", first, first.mark.line)
			} else {
				keys[s.Key()] = o
			}
		}
	}
}

func (b *binder) checkGlobal(file *object, g Global) {
	if g.Node != "" && !goodName.MatchString(g.Node) {
		b.report(file, "global.node", nameRule)
	}
	if g.API.IsValid() && g.API.Port() == 0 {
		b.report(file, "global.api", "needs a port")
	}
	interfaces, _ := file.mark.at("global.interfaces")
	for i, name := range g.Interfaces {
		// dev_valid_name in the kernel's net/core/dev.c
		if len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\v\f\r") {
			b.add(file, "global.interfaces", interfaces.index(i), "not the name of an interface")
		}
	}
}

// checkRouters applies the rules about several routers: what is one in the network, or one here, belongs to one of them.
func (b *binder) checkRouters(routers []vrrp.Config) {
	type election struct {
		iface string
		ipv6  bool
		vrid  uint8
	}
	names, elections := map[string]*object{}, map[election]*object{}
	owners := map[netip.Addr]*object{}
	for i := range routers {
		r := &routers[i]
		o := b.objects[r]
		if o.sound("name") {
			first, taken := names[r.Name]
			switch {
			case !goodName.MatchString(r.Name):
				b.report(o, "name", nameRule)
			case taken:
				b.report(o, "name", "already the name of the router on line %d", first.mark.line)
			default:
				names[r.Name] = o
			}
		}
		if o.sound("interface", "vrid", "addresses") {
			e := election{r.Interface, r.IPv6(), r.VRID}
			if first, taken := elections[e]; taken {
				b.report(o, "vrid", "already that of %s on line %d, with this interface and family", first, first.mark.line)
			} else {
				elections[e] = o
			}
		}
		b.checkOwners(o, "addresses", r.Addresses, owners)
		b.checkOwners(o, "excluded_addresses", r.Excluded, owners)
	}
}

// checkOwners notes in owners that o, a router, has addrs, which stand under key, and refuses what another one has.
func (b *binder) checkOwners(o *object, key string, addrs []netip.Addr, owners map[netip.Addr]*object) {
	if !o.sound(key) {
		return
	}
	list, _ := o.mark.at(key)
	for i, addr := range addrs {
		if first, taken := owners[addr]; taken {
			b.add(o, key, list.index(i), fmt.Sprintf("already an address of %s on line %d", first, first.mark.line))
		} else {
			owners[addr] = o
		}
	}
}

func (b *binder) checkService(o *object, s *Service) {
	if o.sound("name") && !goodName.MatchString(s.Name) {
		b.report(o, "name", nameRule)
	}
	if o.sound("listen") {
		if len(s.Listen) != 1 {
			b.report(o, "listen", "not exactly one address")
		} else if rule := unicast(s.Listen[0].Addr()); rule != "" {
			b.report(o, "listen", "%s", rule)
		} else if s.Listen[0].Port() == 0 {
			b.report(o, "listen", "port 0 is outside 1..65535")
		}
	}
	if s.Persistence%time.Second != 0 {
		b.report(o, "persistence", "not in whole seconds")
	}
}

// checkServers applies the rules about the real servers, of which the sorry server is one.
func (b *binder) checkServers(o *object, s *Service) {
	port := uint16(0) // that packets keep, 0 = any
	if o.sound("listen", "forward") && s.Forward.KeepsPort() {
		port = s.Listen[0].Port()
	}
	const keeps = "with forward = %q packets keep the service's port %d"

	seen := map[netip.AddrPort]*object{}
	for i := range s.Servers {
		srv := &s.Servers[i]
		so := b.objects[srv]
		if rule := unicast(srv.Address); rule != "" && so.sound("address") {
			b.report(so, "address", "%s", rule)
		}
		if srv.Port == 0 && so.sound("port") && o.sound("listen") {
			srv.Port = s.Listen[0].Port()
		}
		if port != 0 && so.sound("port") && srv.Port != port {
			b.report(so, "port", keeps, s.Forward, port)
		}
		if so.sound("address", "port") {
			if first, ok := seen[srv.Addr()]; ok {
				b.report(so, "address", "already a server of this service, on line %d", first.mark.line)
			} else {
				seen[srv.Addr()] = so
			}
		}
	}

	sorry := s.SorryServer
	if !sorry.IsValid() {
		return
	}
	first, isServer := seen[sorry]
	rule := unicast(sorry.Addr())
	switch {
	case rule != "":
		b.report(o, "sorry_server", "%s", rule)
	case sorry.Port() == 0:
		b.report(o, "sorry_server", "port 0 is outside 1..65535")
	case port != 0 && sorry.Port() != port:
		b.report(o, "sorry_server", keeps, s.Forward, port)
	case isServer:
		b.report(o, "sorry_server", "already a server of this service, on line %d", first.mark.line)
	}
}

// checkQuorum refuses a quorum that all servers together could not reach.
func (b *binder) checkQuorum(o *object, s *Service) {
	if !o.sound("quorum", "quorum_hysteresis", "server") {
		return
	}
	if s.QuorumHysteresis >= s.Quorum {
		b.report(o, "quorum_hysteresis", "not below the quorum, %d", s.Quorum)
		return
	}
	sum := 0
	for i := range s.Servers {
		if !b.objects[&s.Servers[i]].sound("weight") {
			return
		}
		sum += s.Servers[i].Weight
	}
	switch {
	case s.Quorum > sum:
		b.report(o, "quorum", "above the sum of the servers' weights, %d", sum)
	case s.Quorum+s.QuorumHysteresis > sum:
		b.report(o, "quorum_hysteresis", "with quorum = %d above the sum of the servers' weights, %d: once lost, never regained", s.Quorum, sum)
	}
}

// readCA fetches the certificates that c names.
func (b *binder) readCA(o *object, c *checker.Config, read func(path string) ([]byte, error)) {
	if c.CAFile == "" || c.Type != checker.KindHTTPS {
		return
	}
	var err error
	if c.CA, err = read(c.CAFile); err != nil {
		b.report(o, "check.ca_file", "%s", err)
	} else if !x509.NewCertPool().AppendCertsFromPEM(c.CA) {
		b.report(o, "check.ca_file", "holds no PEM certificate")
	}
}

// unicast returns the rule that a breaks if it is not the IPv4 address of one host, and else "".
func unicast(a netip.Addr) string {
	switch {
	case !a.Is4():
		return "not IPv4"
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not the address of one host"
	}
	return ""
}
