package config

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"poise/vrrp"
)

// Names become metric labels, command arguments and parts of a URL's path.
var goodName = lazily(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const nameRule = `not a letter or digit, and then up to 63 of A-Z, a-z, 0-9, ".", "_" and "-"`

// checkAll applies the rules that no single field's tags can say. It also fills in what
// depends on another key: servers' ports, and the content of named files.
func (b *binder) checkAll(file *object, c *Config, read func(path string) ([]byte, error)) {
	b.checkGlobal(file, c.Global)
	if len(c.Services)+len(c.Routers) == 0 && !b.excused(file, "service") && !b.excused(file, "router") {
		b.add(file, "", &mark{line: file.mark.line}, "neither a [[router]] nor a [[service]]")
	}
	b.checkRouters(c.Routers)
	b.checkServices(c, read)
	b.checkIPVS(file, c)
}

func (b *binder) checkGlobal(file *object, g Global) {
	if g.Node != "" && !goodName().MatchString(g.Node) {
		b.report(file, "global.node", nameRule)
	}
	if g.API.IsValid() && g.API.Port() == 0 {
		b.report(file, "global.api", "needs a port")
	}
	interfaces, _ := file.mark.at("global.interfaces")
	for i, name := range g.Interfaces {
		if !isInterface(name) {
			b.add(file, "global.interfaces", interfaces.index(i), notInterface)
		}
	}
}

const notInterface = "not the name of an interface"

// isInterface is dev_valid_name in the kernel's net/core/dev.c.
func isInterface(name string) bool {
	return len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r")
}

// checkName applies the rules about names, and notes in names that o has this one.
func (b *binder) checkName(o *object, name string, names map[string]*object) {
	if !o.sound("name") {
		return
	}
	first, taken := names[name]
	switch {
	case !goodName().MatchString(name):
		b.report(o, "name", nameRule)
	case taken:
		b.report(o, "name", "already the name of the %s on line %d", o.kind, first.mark.line)
	default:
		names[name] = o
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
		b.checkName(o, r.Name, names)
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

// checkIPVS applies the rules about IPVS as a whole, and fills in what depends on a router.
func (b *binder) checkIPVS(file *object, c *Config) {
	if _, has := file.mark.at("ipvs"); has && len(c.Services) == 0 && !b.excused(file, "service") {
		b.report(file, "ipvs", "has no meaning without a [[service]]")
	}
	sysctl := &c.IPVS.Sysctl
	if n := sysctl.SyncPorts; n != nil && bits.OnesCount(uint(*n)) != 1 {
		b.report(file, "ipvs.sysctl.sync_ports", "not a power of two")
	}
	if n := sysctl.SyncThreshold; n != nil && (len(n) != 2 || n[1] != 0 && n[0] >= n[1]) {
		b.report(file, "ipvs.sysctl.sync_threshold", "not two numbers such as [3, 50], the first below the second")
	}
	if n := sysctl.Conntrack; n != nil && *n == 0 && c.UsesFullNAT() {
		b.report(file, "ipvs.sysctl.conntrack", "fullnat needs 1")
	}
	for key, n := range map[string]*int{"drop_entry": sysctl.DropEntry, "drop_packet": sysctl.DropPacket, "secure_tcp": sysctl.SecureTCP} {
		if n != nil && *n == 2 {
			b.report(file, "ipvs.sysctl."+key, "the kernel makes 2 of 1 by itself, and back")
		}
	}
	if sync := c.IPVS.Sync; sync != nil {
		b.checkSync(file, sync, c)
	}
}

func (b *binder) checkSync(file *object, sync *Sync, c *Config) {
	if file.sound("ipvs.sync.interface") && !isInterface(sync.Interface) {
		b.report(file, "ipvs.sync.interface", notInterface)
	}
	if g := sync.Group; g.IsValid() && (!g.IsMulticast() || g.Is4In6() || g.Zone() != "") {
		b.report(file, "ipvs.sync.group", "not a multicast address")
	}
	i := slices.IndexFunc(c.Routers, func(r vrrp.Config) bool { return r.Name == sync.Router })
	switch {
	case !file.sound("ipvs.sync.router", "ipvs.sync.role"):
	case sync.Router != "" && sync.Role != "":
		b.report(file, "ipvs.sync.role", "the daemon follows router %q", sync.Router)
	case sync.Router == "" && sync.Role == "":
		b.report(file, "ipvs.sync.router", "required, or a role")
	case sync.Router != "" && i < 0:
		var names []string
		for _, r := range c.Routers {
			names = append(names, r.Name)
		}
		_, hint := didYouMean(sync.Router, names)
		b.report(file, "ipvs.sync.router", "there is no such [[router]]%s", hint)
	case sync.ID == nil && file.sound("ipvs.sync.id"):
		sync.ID = new(uint8(0))
		if i >= 0 {
			*sync.ID = c.Routers[i].VRID
		}
	}
	// The kernel asks whether there is a daemon for the backup, not whether that is all (sysctl_backup_only in include/net/ip_vs.h).
	if n := c.IPVS.Sysctl.BackupOnly; n != nil && *n == 1 && sync.Role == SyncBoth {
		b.report(file, "ipvs.sysctl.backup_only", "with the role \"both\" in [ipvs.sync] this director would serve nothing")
	}
	// The kernel refuses either while there is the other.
	for i := range c.Services {
		s := &c.Services[i]
		if !b.objects[s].sound("listen", "fwmark", "family") {
			continue
		}
		line, _ := file.mark.at("ipvs.sync")
		for j := range s.Servers {
			so := b.objects[&s.Servers[j]]
			if so.sound("address") && s.Servers[j].Address.Is6() != s.IsIPv6() {
				b.report(so, "address", "not of the service's family, while connections are synchronised ([ipvs.sync] on line %d)", line.line)
			}
		}
		if s.SorryServer.IsValid() && s.SorryServer.Addr().Is6() != s.IsIPv6() && b.objects[s].sound("sorry_server") {
			b.report(b.objects[s], "sorry_server", "not of the service's family, while connections are synchronised ([ipvs.sync] on line %d)", line.line)
		}
	}
}
