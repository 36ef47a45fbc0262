package director

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"poise/internal/host"
	"poise/internal/status"
	"poise/vrrp"
)

// router is one virtual router and what it needs of this host. It belongs to the elector's loop.
type router struct {
	*vrrp.Instance
	e       *elector
	beat    *beat
	hold    *status.Hold
	started bool
	leaving bool // was told to stop
	stopped bool

	seen   map[string]host.Interface // its interfaces as they were seen last; with index 0 where there is none
	since  time.Time                 // when the state was reached
	source netip.Addr                // that the sockets are bound to
	unable string                    // why they cannot be bound, "" when they can or need not
	late   status.Histogram
	unsaid string // the last trouble with announcements that was said
}

func (e *elector) newRouter(c vrrp.Config) *router {
	r := &router{e: e, seen: make(map[string]host.Interface)}
	r.Instance = vrrp.NewInstance(c, now, r.own, r.do)
	return r
}

// main is the interface of the adverts.
func (r *router) main() host.Interface { return r.seen[r.Config().Interface] }

// own tells whether an address is this host's, on the interface where adverts are heard.
func (r *router) own(addr netip.Addr) bool {
	return slices.ContainsFunc(r.main().Addrs, func(a host.Address) bool { return a.Addr() == addr })
}

// see takes note of what an interface is now, and of who has the virtual addresses.
func (r *router) see(name string, i host.Interface, there bool) {
	if !there {
		i = host.Interface{Name: name}
	}
	before := r.seen[name]
	r.seen[name] = i
	if name == r.Config().Interface {
		r.bind(sourceOf(r.Config(), i, r.e.virtual))
		if r.FD() >= 0 && i.Up && !before.Up {
			r.e.rejoin(name)
		}
	}
	if !r.sawAll() {
		return
	}
	r.Step(vrrp.Link{Up: len(r.down()) == 0})
	r.Step(vrrp.Source{Addr: r.source})
	r.begin()
	for _, addr := range r.Config().All() {
		switch has := r.has(addr); r.Expects(addr) {
		case vrrp.Yes:
			if !has {
				r.Step(vrrp.Missing{Addr: addr})
			}
		case vrrp.No:
			if has {
				r.Step(vrrp.Foreign{Addr: addr})
			}
		}
	}
}

// sawAll tells whether each of the interfaces was looked at.
func (r *router) sawAll() bool {
	return !slices.ContainsFunc(r.Config().Interfaces(), func(name string) bool { _, ok := r.seen[name]; return !ok })
}

// down are the interfaces that are not up.
func (r *router) down() []string {
	return slices.DeleteFunc(r.Config().Interfaces(), func(name string) bool { return r.seen[name].Up })
}

// has tells whether its interface has a virtual address. That of an owner is the host's own as well, with
// the network's prefix length, and then does not count.
func (r *router) has(addr netip.Addr) bool {
	return slices.ContainsFunc(r.seen[r.Config().InterfaceOf(addr)].Addrs, func(a host.Address) bool {
		return a.Addr() == addr && (a.IsSingleIP() || !r.Config().Owner())
	})
}

// bind opens, replaces or closes the sockets, as interface and source want it.
func (r *router) bind(source netip.Addr) {
	if !source.IsValid() {
		r.unbind("")
		return
	}
	if r.FD() >= 0 && r.main().Index == r.e.bound[r] {
		if source != r.source {
			r.SetSource(source)
			r.source = source
		}
		return
	}
	if err := r.Bind(r.main().Index, source); err != nil {
		r.unbind(err.Error())
		return
	}
	r.source, r.unable, r.e.bound[r] = source, "", r.main().Index
}

func (r *router) unbind(why string) {
	r.Unbind()
	r.source = netip.Addr{}
	delete(r.e.bound, r)
	if why != "" && why != r.unable {
		r.tell(slog.LevelError, "adverts can neither be sent nor heard", why)
	}
	r.unable = why
}

// sourceOf is the address that adverts of c come from: one on the interface that is usable and not virtual; invalid when
// there is none.
func sourceOf(c vrrp.Config, i host.Interface, virtual func(netip.Addr) bool) netip.Addr {
	for _, a := range i.Addrs {
		addr := a.Addr()
		switch {
		case !a.Usable || addr.Is6() != c.IPv6():
		case c.Source.IsValid():
			if addr == c.Source {
				return addr
			}
		case virtual(addr) && !(c.Owner() && !a.IsSingleIP()):
		case addr.Is4() || addr.IsLinkLocalUnicast():
			return addr
		}
	}
	return netip.Addr{}
}

// begin starts the election once that is allowed and the interfaces have been looked at.
func (r *router) begin() {
	if r.started || r.leaving || !r.sawAll() || !r.e.ready {
		return
	}
	r.started = true
	resume := r.e.beats != nil && r.e.beats.resumable(r.Config(), now())
	if r.e.beats != nil {
		r.beat = r.e.beats.take(r.Config())
	}
	r.Step(vrrp.Start{Resume: resume})
}

// reload replaces the configuration by one of the same router.
func (r *router) reload(c vrrp.Config) {
	if r.started && r.e.beats != nil {
		r.beat.drop()
		r.beat = r.e.beats.take(c)
	}
	r.Step(vrrp.Reload{Config: c})
}

// drain reads what waits in the sockets.
func (r *router) drain() {
	if err := r.Drain(); err != nil {
		r.unbind(err.Error())
		r.Step(vrrp.Source{})
		r.e.look(r.Config().Interface, nil)
	}
}

// do carries out what the machine decides, or has it carried out: nothing here waits.
func (r *router) do(a vrrp.Action) {
	switch a := a.(type) {
	case vrrp.Add:
		r.work(a.Op, a.Addrs, func(i host.Interface, addrs []netip.Addr) error {
			if i.Index == 0 {
				return fmt.Errorf("there is no interface %s", i.Name)
			}
			return host.AddVirtual(i.Index, addrs)
		})
	case vrrp.Delete:
		evict := a.Evict && !r.Config().Owner()
		r.work(a.Op, a.Addrs, func(i host.Interface, addrs []netip.Addr) error {
			switch {
			case i.Index == 0:
				return nil // they went with the interface
			case !evict:
				return host.DelVirtual(i.Index, addrs)
			}
			var errs []error
			for _, addr := range addrs {
				errs = append(errs, host.Evict(i.Index, addr))
			}
			return errors.Join(errs...)
		})
	case vrrp.Announce:
		for _, addr := range a.Addrs {
			r.e.pacer.add(r.Config().InterfaceOf(addr), announcement{r, addr, a.Round})
		}
		r.e.announce() // what may leave at once does
	case vrrp.CancelAnnounce:
		r.e.pacer.cancel(r)
	case vrrp.Recheck:
		r.e.lookFor(r, func() { r.Step(vrrp.Checked{}) })
	case vrrp.Became:
		r.since = time.Now()
		r.e.tellMasters()
		if a.To != vrrp.Master {
			r.beat.note(0)
		}
		switch a.To {
		case vrrp.Fault:
			r.tell(slog.LevelError, "router is at fault", a.Why)
		case vrrp.Init:
			r.tell(slog.LevelInfo, "router leaves the election", a.Why)
		default:
			r.tell(slog.LevelInfo, "router is "+a.To.String(), a.Why)
		}
	case vrrp.Note:
		r.tell(a.Level, a.What, a.Cause)
	case vrrp.Sent:
		r.late.Observe(a.Late)
		if r.Status().State == vrrp.Master {
			r.beat.note(now())
		}
	case vrrp.Stopped:
		r.stopped = true
		r.beat.drop()
		r.Unbind()
		r.e.routerStopped()
	}
}

// work has the hands change the addresses of each interface, and tells the machine the outcome.
func (r *router) work(op uint64, addrs []netip.Addr, change func(host.Interface, []netip.Addr) error) {
	c := r.Config()
	var on []host.Interface
	for _, name := range c.Interfaces() {
		i := r.seen[name]
		i.Name = name
		on = append(on, i)
	}
	r.e.hands.give(func() {
		var errs []error
		for _, i := range on {
			there := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return c.InterfaceOf(a) != i.Name })
			if len(there) > 0 {
				errs = append(errs, change(i, there))
			}
		}
		err := errors.Join(errs...)
		r.e.inbox.post(func() { r.Step(vrrp.Done{Op: op, Err: err}) })
	})
}

// announce sends one announcement, if its address is still this router's.
func (r *router) announce(a announcement) {
	if r.Status().State != vrrp.Master || r.Expects(a.addr) != vrrp.Yes {
		return
	}
	trouble := ""
	if err := r.e.announcer.Announce(r.seen[r.Config().InterfaceOf(a.addr)], a.addr); err != nil {
		trouble = err.Error()
	}
	if trouble != "" && trouble != r.unsaid {
		r.tell(slog.LevelError, "address not announced", trouble)
	}
	r.unsaid = trouble
}

func (r *router) tell(level slog.Level, what, cause string) {
	r.e.emit(status.Event{Level: level, What: what, Router: r.Config().Name, Cause: cause})
}

// snapshot is what is known of the router.
func (r *router) snapshot() status.Router {
	c, s, books := r.Config(), r.Status(), r.Stats()
	out := status.Router{
		Name: c.Name, Interface: c.Interface, VRID: c.VRID, Version: c.Version,
		State: s.State, Since: r.since, Why: s.Why,
		Priority: c.Priority, Addresses: c.Addresses, Excluded: c.Excluded, ExcludedInterface: c.ExcludedInterface, Serving: s.Serving, Source: r.source,
		Master: s.Master, MasterPriority: s.MasterPriority,
		Sent: books.Sent, Received: books.Received, Dropped: books.Dropped, Transitions: books.Transitions,
		Hold: r.hold, Lateness: r.late,
	}
	if !r.started {
		out.Waiting = "for the services' table and first checks"
	}
	if s.State == vrrp.Fault {
		out.Faults = s.Faults.String()
		if down := r.down(); len(down) > 0 {
			out.Faults += " (" + strings.Join(down, ", ") + ")"
		}
		if r.unable != "" {
			out.Faults += ": " + r.unable
		}
	}
	for _, o := range r.Speakers() {
		out.Speakers = append(out.Speakers, status.Speaker{
			Addr: o.Addr, Priority: o.Priority, Interval: o.Interval, LastHeard: wallClock(o.Heard), Problem: o.Problem,
		})
	}
	return out
}

// wallClock turns a time since boot into one that people read.
func wallClock(t time.Duration) time.Time { return time.Now().Add(t - now()) }
