package config

import (
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"poise/checker"
	"poise/ipvsctl"
)

// checkServices applies the rules about services, and those about several of them: what is one in the kernel, or
// in commands, belongs to one of them.
func (b *binder) checkServices(c *Config, read func(path string) ([]byte, error)) {
	names := map[string]*object{}
	keys := map[ipvsctl.ServiceKey]*object{}
	for i := range c.Services {
		s := &c.Services[i]
		o := b.objects[s]
		b.checkListen(o, s)
		b.checkScheduling(o, s)
		b.checkServers(o, s)
		b.checkQuorum(o, s)
		if s.Check != nil {
			b.readCA(o, s.Check, read)
		}
		b.checkName(o, s.Name, names)
		if o.sound("listen", "fwmark", "family", "protocol") && (!s.Marked() || o.sound("name")) {
			key := s.Key()
			first, taken := keys[key]
			switch {
			case !taken:
				keys[key] = o
			case s.Marked():
				b.report(o, "name", "makes the same firewall mark, %#x, as that of %s on line %d: call one of them otherwise", key.Mark, first, first.mark.line)
			case s.Fwmark != 0:
				b.report(o, "fwmark", "already the mark of %s on line %d", first, first.mark.line)
			default:
				b.report(o, "listen", "already the address of %s on line %d", first, first.mark.line)
			}
		}
	}
	b.checkOverlaps(c.Services)
}

// checkListen applies the rules about what packets are for the service.
func (b *binder) checkListen(o *object, s *Service) {
	_, hasFamily := o.mark.at("family")
	_, hasProtocol := o.mark.at("protocol")
	switch {
	case s.Fwmark != 0 && len(s.Listen) > 0:
		b.report(o, "fwmark", "either this or listen says which packets are the service's")
	case s.Fwmark != 0 && hasProtocol:
		b.report(o, "protocol", "has no meaning with fwmark: what carries the mark is balanced")
	case s.Fwmark&ourMarks == markBlock&ourMarks:
		b.report(o, "fwmark", "marks from %#x to %#x are set by poise itself", markBlock, markBlock|^uint32(ourMarks))
	case len(s.Listen) > 0 && hasFamily:
		b.report(o, "family", "has no meaning without fwmark")
	case s.Fwmark == 0 && len(s.Listen) == 0 && o.sound("fwmark", "listen") && !b.excused(o, "listen") && !b.excused(o, "fwmark"):
		b.report(o, "listen", "required")
	}
	if !o.sound("listen") {
		return
	}
	list, _ := o.mark.at("listen")
	for i, l := range s.Listen {
		rule := unicast(l.Addr)
		switch {
		case rule != "":
		case l.Addr.Is6() != s.IsIPv6():
			rule = "not of the family of the first one: that would be another service"
		case l.First == 0 && len(s.Listen) > 1:
			rule = "port 0 is all ports, and stands alone"
		case l.First == 0 && o.sound("persistence") && s.Persistence == 0:
			rule = "port 0 is all ports, and needs persistence"
		}
		if rule != "" {
			b.add(o, "listen", list.index(i), rule)
		}
	}
}

// checkOverlaps refuses a packet that would be for two services, or for one twice.
func (b *binder) checkOverlaps(services []Service) {
	type place struct {
		ipvsctl.Protocol
		netip.Addr
	}
	type claim struct {
		service *object
		listen  Listen
		mark    *mark
		alone   bool // a service has nothing but this: two alike are reported as that
	}
	claims := map[place][]claim{}
	marked := map[place]bool{}
	for i := range services {
		s := &services[i]
		o := b.objects[s]
		if !o.sound("listen", "protocol") {
			continue
		}
		list, _ := o.mark.at("listen")
		for j, l := range s.Listen {
			p := place{s.Protocol, l.Addr}
			claims[p] = append(claims[p], claim{o, l, list.index(j), !s.Marked()})
			marked[p] = marked[p] || s.Marked()
		}
	}
	for p := range marked {
		if !marked[p] {
			continue
		}
		for i, c := range claims[p] {
			for _, first := range claims[p][:i] {
				if c.listen.overlaps(first.listen) && !(c.alone && first.alone) {
					b.add(c.service, "listen", c.mark, fmt.Sprintf("overlaps %v of %s on line %d", first.listen, first.service, first.mark.line))
				}
			}
		}
	}
}

// checkScheduling applies the rules about how clients are spread.
func (b *binder) checkScheduling(o *object, s *Service) {
	if o.sound("scheduler", "scheduler_flags") {
		list, _ := o.mark.at("scheduler_flags")
		for i, f := range s.SchedulerFlags {
			if of, _, _ := strings.Cut(string(f), "-"); of != string(s.Scheduler) {
				b.add(o, "scheduler_flags", list.index(i), fmt.Sprintf("has no meaning with scheduler = %q", s.Scheduler))
			}
		}
	}
	if s.OnePacket && s.Fwmark == 0 && s.Protocol != ipvsctl.UDP && o.sound("protocol") {
		b.report(o, "one_packet", "has no meaning with protocol = %q", s.Protocol)
	}
	if s.Persistence%time.Second != 0 {
		b.report(o, "persistence", "not in whole seconds")
	}
	persistent := s.Persistence != 0 || !o.sound("persistence")
	if s.PersistenceGranularity != "" && o.sound("persistence_granularity", "listen", "family") {
		if _, rule := clientMask(s.PersistenceGranularity, s.IsIPv6()); rule != "" {
			b.report(o, "persistence_granularity", "%s", rule)
		} else if !persistent {
			b.report(o, "persistence_granularity", "has no meaning without persistence")
		}
	}
	if s.PersistenceEngine != "" {
		switch {
		case !persistent:
			b.report(o, "persistence_engine", "has no meaning without persistence")
		case len(s.PersistenceEngine) > 15: // IP_VS_PENAME_MAXLEN in include/uapi/linux/ip_vs.h, and a NUL
			b.report(o, "persistence_engine", "longer than 15 letters")
		case strings.ContainsAny(s.PersistenceEngine, "/. \t\n"): // it becomes the name of a module
			b.report(o, "persistence_engine", "not the name of an engine")
		case s.PersistenceEngine == "sip" && s.Fwmark == 0 && s.Protocol != ipvsctl.UDP && o.sound("protocol"):
			// ip_vs_sip_fill_param refuses others, and then their packets are dropped.
			b.report(o, "persistence_engine", `needs protocol = "udp"`)
		}
	}
}

// checkKernel refuses what the kernel cannot do.
func (b *binder) checkKernel(c *Config, kernel Kernel) {
	for i := range c.Services {
		s := &c.Services[i]
		o := b.objects[s]
		if o.sound("scheduler") {
			if err := kernel.Scheduler(string(s.Scheduler)); err != nil {
				b.report(o, "scheduler", "%s", err)
			}
		}
		if s.PersistenceEngine != "" && o.sound("persistence_engine") {
			if err := kernel.Engine(s.PersistenceEngine); err != nil {
				b.report(o, "persistence_engine", "%s", err)
			}
		}
	}
}

// clientMask is what text says of which clients stay together, "" being each by itself; or the
// rule that text breaks.
func clientMask(text string, ipv6 bool) (m ipvsctl.ClientMask, rule string) {
	n, longest := 0, 32
	if ipv6 {
		longest = 128
	}
	length, isLength := strings.CutPrefix(text, "/")
	mask, err := netip.ParseAddr(text)
	switch {
	case text == "":
		return 0, ""
	case isLength:
		n, err = strconv.Atoi(length)
		if err != nil || n < 1 || n > longest {
			return 0, fmt.Sprintf("not a prefix length from /1 to /%d", longest)
		}
	case ipv6:
		return 0, `not a prefix length such as "/64"`
	case err != nil || !mask.Is4():
		return 0, `neither a netmask such as "255.255.255.0" nor a prefix length such as "/24"`
	default:
		ones := binary.BigEndian.Uint32(mask.AsSlice())
		n = bits.LeadingZeros32(^ones)
		if n == 0 || ones != ^uint32(0)<<(32-n) {
			return 0, "not a netmask: ones, and then zeros"
		}
	}
	return ipvsctl.PrefixMask(n, ipv6), ""
}

// checkServers applies the rules about the real servers, of which the sorry server is one.
func (b *binder) checkServers(o *object, s *Service) {
	known := o.sound("listen", "fwmark", "family") // the family and the port
	_, hasTunnel := o.mark.at("tunnel")
	tunnelled := false
	seen := map[netip.AddrPort]*object{}
	for i := range s.Servers {
		srv := &s.Servers[i]
		so := b.objects[srv]
		if srv.Forward == "" && so.sound("forward") {
			srv.Forward = s.Forward
		}
		tunnelled = tunnelled || srv.Forward == TUN || srv.Forward == ""
		if srv.Port == 0 && so.sound("port") && known {
			srv.Port = s.port()
		}
		b.checkServer(so, o, s, srv)
		if so.sound("address", "port") {
			if first, ok := seen[srv.Addr()]; ok {
				b.report(so, "address", "already a server of this service, on line %d", first.mark.line)
			} else {
				seen[srv.Addr()] = so
			}
		}
	}
	if hasTunnel && !tunnelled && s.Forward != TUN && o.sound("forward", "tunnel", "server") {
		b.report(o, "tunnel", `has no meaning with forward = %q`, s.Forward)
	}
	noPort := slices.ContainsFunc(s.Servers, func(srv Server) bool { return srv.Port == 0 })
	if s.Check != nil && s.Check.Port == 0 && known && noPort && o.sound("check.port") {
		if s.Fwmark != 0 {
			b.report(o, "check.port", "required with fwmark")
		} else if s.Listen[0].First == 0 {
			b.report(o, "check.port", "required where all ports are balanced")
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
	case !known || !o.sound("forward"):
	case sorry.Addr().Is6() != s.IsIPv6() && s.Forward != TUN:
		b.report(o, "sorry_server", otherFamily)
	case sorry.Port() != s.port() && b.keepsPort(o, s, s.Forward):
		b.report(o, "sorry_server", "%s", keepsPort(s.Forward, s.port()))
	case sorry.Port() == 0 && s.port() != 0:
		b.report(o, "sorry_server", "port 0 is outside 1..65535")
	case isServer:
		b.report(o, "sorry_server", "already a server of this service, on line %d", first.mark.line)
	}
}

const otherFamily = `not of the service's family, which only forward = "tun" can bridge`

// keepsPort reports whether packets arrive with the port that they were sent to. A client that stays with its server from
// one port to another keeps it too: ip_vs_sched_persist looks at a server's port only where the service has the same one.
func (b *binder) keepsPort(o *object, s *Service, forward Forward) bool {
	return forward.Method().KeepsPort() || s.port() == 0 && s.Persistence != 0 && o.sound("persistence")
}

// keepsPort is the rule about a server's port then.
func keepsPort(forward Forward, port uint16) string {
	switch {
	case port != 0:
		return fmt.Sprintf("with forward = %q packets keep the service's port %d", forward, port)
	case !forward.Method().KeepsPort():
		return "with persistence packets keep the port that the client asked for: none, or 0"
	}
	return fmt.Sprintf("with forward = %q packets keep the port that the client asked for: none, or 0", forward)
}

// checkServer applies the rules about srv, which is so in the file, within its service.
func (b *binder) checkServer(so, o *object, s *Service, srv *Server) {
	known := o.sound("listen", "fwmark", "family")
	forward := so.sound("forward") && o.sound("forward")
	if so.sound("address") {
		if rule := unicast(srv.Address); rule != "" {
			b.report(so, "address", "%s", rule)
		} else if known && forward && srv.Address.Is6() != s.IsIPv6() && srv.Forward != TUN {
			b.report(so, "address", otherFamily)
		}
	}
	if known && forward && so.sound("port") && srv.Port != s.port() && b.keepsPort(o, s, srv.Forward) {
		b.report(so, "port", "%s", keepsPort(srv.Forward, s.port()))
	}
	if _, has := so.mark.at("tunnel"); has && forward && srv.Forward != TUN {
		b.report(so, "tunnel", "has no meaning with forward = %q", srv.Forward)
	}
	if so.sound("upper_threshold", "lower_threshold") && srv.LowerThreshold > srv.UpperThreshold {
		b.report(so, "lower_threshold", "above the upper threshold, %d", srv.UpperThreshold)
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

// unicast returns the rule that a breaks if it is not the address of one host, and else "".
func unicast(a netip.Addr) string {
	switch {
	case a.Is4In6():
		return "an IPv4 address is written " + a.Unmap().String()
	case a.Zone() != "" || a.IsLinkLocalUnicast() && a.Is6():
		return "an address of one link only, which IPVS does not balance"
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not the address of one host"
	}
	return ""
}
