package director

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"poise/config"
	"poise/internal/host"
	"poise/internal/status"
	"poise/ipvsctl"
)

const (
	ipForward          = "net.ipv4.ip_forward"
	ip6Forward         = "net.ipv6.conf.all.forwarding"
	allAcceptRedirects = "net.ipv4.conf.all.accept_redirects"
	vsPrefix           = "net.ipv4.vs."
)

// Sysctls are the kernel settings, with the value wanted, that a director with cfg needs and keeps on this host.
func Sysctls(cfg *config.Config) ([]status.Sysctl, error) {
	interfaces, err := Facing(cfg)
	return forwardingPlan(cfg, interfaces), err
}

// forwardingPlan returns the kernel settings that the configured services need, in the order to write
// them. interfaces are those over which redirects would be sent.
func forwardingPlan(cfg *config.Config, interfaces []string) []status.Sysctl {
	var plan []status.Sysctl
	want := func(name, value string) { plan = append(plan, status.Sysctl{Name: name, Want: value}) }
	// First, because the kernel resets settings of every interface when it changes. Only NAT needs it: with
	// the others the replies do not come back through the director.
	if natsServers(cfg, false) {
		want(ipForward, "1")
	}
	if natsServers(cfg, true) {
		want(ip6Forward, "1")
	}
	// A redirect tells clients of the same segment to bypass the director. The value in force is
	// "all" or the interface's, so both must be off; "default" is for interfaces yet to come.
	for _, name := range append([]string{"all", "default"}, interfaces...) {
		want(host.SysctlName("net", "ipv4", "conf", name, "send_redirects"), "0")
	}
	vs := map[string]string{
		// Without these a removed server swallows the packets of its old connections for as long as they try,
		// and a persistent client stays with a server that gets no new connections.
		"expire_nodest_conn":        "1",
		"expire_quiescent_template": "1",
	}
	if cfg.UsesFullNAT() { // nftables rewrites no packet whose connection is not tracked
		vs["conntrack"] = "1"
	}
	maps.Copy(vs, cfg.IPVS.Sysctl.Values())
	for _, name := range slices.Sorted(maps.Keys(vs)) {
		want(vsPrefix+name, vs[name])
	}
	return plan
}

// natsServers tells whether replies of some server of the family have to be forwarded.
func natsServers(cfg *config.Config, ipv6 bool) bool {
	return slices.ContainsFunc(cfg.Services, func(s config.Service) bool {
		return s.IsIPv6() == ipv6 && (s.Forward.Method() == ipvsctl.NAT || slices.ContainsFunc(s.Servers, func(srv config.Server) bool {
			return srv.Forward.Method() == ipvsctl.NAT
		}))
	})
}

// missingInterfaces is an error when the file names an interface that this host has not.
func missingInterfaces(cfg *config.Config) error {
	missing := func(where, name string) error {
		exists, err := host.LinkExists(name)
		if err == nil && !exists {
			err = fmt.Errorf("%s: this host has no interface %q (\"ip link\" lists those it has)", where, name)
		}
		return err
	}
	for _, name := range cfg.Global.Interfaces {
		if err := missing("global: interfaces", name); err != nil {
			return err
		}
	}
	if cfg.IPVS.Sync != nil {
		return missing("ipvs.sync: interface", cfg.IPVS.Sync.Interface)
	}
	return nil
}

// Facing are the interfaces that face clients and servers: those that the file names, else those through which the servers are reached.
func Facing(cfg *config.Config) ([]string, error) {
	if len(cfg.Global.Interfaces) > 0 {
		return cfg.Global.Interfaces, nil
	}
	servers := make(map[netip.Addr]bool) // the same ones are often behind many services
	for _, service := range cfg.Services {
		for _, server := range service.Servers {
			servers[server.Address] = true
		}
		if service.SorryServer.IsValid() {
			servers[service.SorryServer.Addr()] = true
		}
	}
	// A server without a route is no reason to stop: its checks will fail and say so.
	names, err := host.Outgoing(slices.Collect(maps.Keys(servers)))
	return slices.DeleteFunc(names, func(name string) bool { return name == "lo" }), err
}

// sysctls is what forwarding needs of host.Sysctls.
type sysctls interface {
	Read(name string) (string, error)
	Write(name, value string) error
	Writable(name string) error
	List(name string) ([]string, error)
}

// forwarding keeps the kernel settings as planned and remembers what they were.
type forwarding struct {
	sysctls sysctls
	record  *host.Record
	emit    func(status.Event)
	totals  *status.Totals

	plan    []status.Sysctl   // with the last value seen and the last problem
	became  map[string]string // what the kernel made of a value that it writes otherwise: of "0,1" it makes "0-1"
	settled bool              // the plan was in force once: a difference since then is somebody else's
	unsaved lasting
}

// check tells, without changing anything, whether the plan can be carried out: a setting that is right
// already need not be writable.
func (f *forwarding) check(plan []status.Sysctl) error {
	var errs []error
	for _, s := range plan {
		value, err := f.sysctls.Read(s.Name)
		if err == nil && value != s.Want {
			err = f.sysctls.Writable(s.Name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w, and it must be %s", err, s.Want))
		}
	}
	return errors.Join(errs...)
}

// setPlan replaces what is wanted.
func (f *forwarding) setPlan(plan []status.Sysctl) {
	f.plan, f.settled, f.became = plan, false, make(map[string]string)
}

// keep makes every setting what the plan says.
func (f *forwarding) keep() {
	// Where the disk refuses, traffic is worth more than a way back that survives this process.
	f.unsaved.set(f.remember(), f.emit, "former sysctls not recorded", "former sysctls recorded")
	for i := range f.plan {
		s := &f.plan[i]
		was, err := f.sysctls.Read(s.Name)
		if err == nil && !f.asWanted(s, was) {
			if err = f.sysctls.Write(s.Name, s.Want); err == nil {
				f.say(s, was)
				was, err = f.sysctls.Read(s.Name)
				f.became[s.Name] = was
			}
		}
		s.Value = was
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if problem != s.Problem && problem != "" {
			f.emit(status.Event{Level: slog.LevelError, What: "sysctl not set", Cause: problem})
		}
		s.Problem = problem
	}
	f.settled = true
}

// asWanted reports whether a value is what s wants, as the kernel writes it.
func (f *forwarding) asWanted(s *status.Sysctl, value string) bool {
	switch s.Name {
	case vsPrefix + "drop_entry", vsPrefix + "drop_packet", vsPrefix + "secure_tcp":
		if s.Want == "1" && value == "2" { // automatic, and memory is short (update_defense_level in ip_vs_ctl.c)
			return true
		}
	}
	return value == s.Want || value == f.became[s.Name]
}

func (f *forwarding) say(s *status.Sysctl, was string) {
	change := fmt.Sprintf("%s = %s (was %s)", s.Name, s.Want, was)
	if !f.settled {
		f.emit(status.Event{Level: slog.LevelInfo, What: "sysctl set", Cause: change})
		return
	}
	f.totals.Drift++
	f.emit(status.Event{Level: slog.LevelWarn, What: "drift", Cause: "changed by somebody else, put back: " + change})
}

// remember notes what the settings are that are about to change, and behind each what changes with it, which will be
// restored after it.
func (f *forwarding) remember() error {
	if err := f.record.Sync(); err != nil {
		return err
	}
	for _, s := range f.plan {
		value, err := f.sysctls.Read(s.Name)
		if err != nil || value == s.Want {
			continue // keep will say what is wrong
		}
		if err := f.record.Remember(s.Name, value); err != nil {
			return err
		}
		names, err := f.dependents(s.Name)
		if err != nil {
			return err
		}
		for _, name := range names {
			value, err := f.sysctls.Read(name)
			if err != nil {
				return err
			}
			if err := f.record.Remember(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// dependents are the settings that the kernel overwrites when it switches forwarding: those of each interface and, with IPv4,
// all.accept_redirects (inet_forward_change in net/ipv4/devinet.c, addrconf_fixup_forwarding in net/ipv6/addrconf.c).
func (f *forwarding) dependents(name string) (names []string, err error) {
	family := "ipv4"
	switch name {
	default:
		return nil, nil
	case ipForward:
		names = append(names, allAcceptRedirects)
	case ip6Forward:
		family = "ipv6"
	}
	interfaces, err := f.sysctls.List("net." + family + ".conf")
	for _, i := range interfaces {
		if i != "all" { // which is the switch itself
			names = append(names, host.SysctlName("net", family, "conf", i, "forwarding"))
		}
	}
	return names, err
}

// undo puts back what was there before the first run.
func (f *forwarding) undo() error {
	var errs []error
	for _, former := range f.record.All() {
		value, err := f.sysctls.Read(former.Key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the interface is gone
		case err != nil:
			errs = append(errs, err)
			continue
		case value != former.Value:
			if err := f.sysctls.Write(former.Key, former.Value); err != nil {
				errs = append(errs, err)
				continue
			}
			f.emit(status.Event{Level: slog.LevelInfo, What: "sysctl restored", Cause: fmt.Sprintf("%s = %s (was %s)", former.Key, former.Value, value)})
		}
		errs = append(errs, f.record.Forget(former.Key))
	}
	return errors.Join(errs...)
}
