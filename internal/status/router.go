package status

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"poise/vrrp"
)

// Line is the router on one line, for a person:
//
//	router public: MASTER since 2026-01-02 02:14:07 (no advert from 192.0.2.2 for 3.609s)  192.0.2.10 on eth0, priority 150
func (r *Router) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "router %s: %s", r.Name, strings.ToUpper(r.State.String()))
	if !r.Since.IsZero() {
		fmt.Fprintf(&b, " since %s", when(r.Since))
	}
	switch {
	case r.Waiting != "":
		fmt.Fprintf(&b, " (waits %s)", r.Waiting)
	case r.Hold != nil && r.State == vrrp.Backup:
		fmt.Fprintf(&b, ", %v", r.Hold)
	case r.Why != "":
		fmt.Fprintf(&b, " (%s)", r.Why)
	}
	fmt.Fprintf(&b, "  %s, priority %d", r.places(), r.Priority)
	switch {
	case r.Hold != nil:
		fmt.Fprintf(&b, "; %s", r.lastHeard())
	case r.State == vrrp.Backup && r.Master.IsValid():
		fmt.Fprintf(&b, "; master %v, priority %d", r.Master, r.MasterPriority)
	}
	switch {
	case r.State == vrrp.Master && !r.Serving:
		b.WriteString("; the addresses are not all here yet")
	case r.State != vrrp.Master && r.Serving:
		b.WriteString("; the addresses are still here")
	}
	return b.String()
}

// places tells which addresses are meant to be where: "192.0.2.10 on eth0, 10.0.0.254 on eth1".
func (r *Router) places() string {
	if r.ExcludedInterface == "" {
		return few(slices.Concat(r.Addresses, r.Excluded)) + " on " + r.Interface
	}
	return fmt.Sprintf("%s on %s, %s on %s", few(r.Addresses), r.Interface, few(r.Excluded), r.ExcludedInterface)
}

// master is the node whose advert was heard last, nil when none was.
func (r *Router) master() *Speaker {
	i := slices.IndexFunc(r.Speakers, func(s Speaker) bool { return s.Addr == r.Master })
	if i < 0 {
		return nil
	}
	return &r.Speakers[i]
}

// ServedBy is the other node that was master at now, by its adverts; invalid when none was.
func (r *Router) ServedBy(now time.Time) netip.Addr {
	m := r.master()
	if m == nil || now.Sub(m.LastHeard) > vrrp.MasterDown(r.Version, m.Interval, r.Priority) {
		return netip.Addr{}
	}
	return m.Addr
}

// lastHeard is for a router that is held: it does not notice a master's silence.
func (r *Router) lastHeard() string {
	m := r.master()
	if m == nil {
		return "no other node was heard"
	}
	return fmt.Sprintf("last heard %v, priority %d, %s", m.Addr, m.Priority, when(m.LastHeard))
}

// String completes "the router is": "held by root: kernel update".
func (h *Hold) String() string {
	s := "held by " + h.By
	if h.Reason != "" {
		s += ": " + h.Reason
	}
	return s
}

// problems adds what an operator should look at.
func (r *Router) problems(add func(format string, args ...any)) {
	if r.Faults != "" {
		add("router %s cannot serve: %s", r.Name, r.Faults)
	}
	if r.Hold != nil {
		add("router %s is %v, since %s (poise failover %s --undo)", r.Name, r.Hold, when(r.Hold.At), r.Name)
	}
	for _, s := range r.Speakers {
		if s.Problem != "" {
			priority := ""
			if s.Priority != 0 { // none of its adverts counted, or it leaves
				priority = fmt.Sprintf(", priority %d", s.Priority)
			}
			add("router %s: %v%s, last heard %s: %s", r.Name, s.Addr, priority, when(s.LastHeard), s.Problem)
		}
	}
}

// few names the first of many addresses.
func few(addrs []netip.Addr) string {
	const most = 4
	var words []string
	for _, a := range addrs[:min(len(addrs), most)] {
		words = append(words, a.String())
	}
	s := strings.Join(words, ", ")
	if more := len(addrs) - most; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}
