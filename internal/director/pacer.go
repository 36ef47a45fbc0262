package director

import (
	"net/netip"
	"slices"
	"time"

	"poise/vrrp"
)

// pacer spreads announcements in time: switches and neighbours drop what comes in one flood. It is a value without a
// clock: one queue for an interface.
type pacer struct {
	waiting map[string][]announcement // by interface
	next    map[string]time.Duration  // when the interface may have the next
	burst   map[string]int            // how many went without a pause
}

// announcement is one address that is to be announced once.
type announcement struct {
	router *router
	addr   netip.Addr
	round  int
}

const (
	maxBurst = 64 // announcements without a pause
	// The first round is what moves traffic here; the later ones are for those who missed it.
	firstPause = 50 * time.Microsecond
	laterPause = time.Millisecond
)

func newPacer() *pacer {
	return &pacer{make(map[string][]announcement), make(map[string]time.Duration), make(map[string]int)}
}

func (p *pacer) add(ifname string, all ...announcement) {
	p.waiting[ifname] = append(p.waiting[ifname], all...)
}

// cancel forgets what is still to be announced for r.
func (p *pacer) cancel(r *router) {
	for ifname := range p.waiting {
		p.waiting[ifname] = slices.DeleteFunc(p.waiting[ifname], func(a announcement) bool { return a.router == r })
	}
}

// due takes out what may be announced at now.
func (p *pacer) due(now time.Duration) []announcement {
	var all []announcement
	for ifname, waiting := range p.waiting {
		for len(waiting) > 0 && p.next[ifname] <= now {
			a := waiting[0]
			waiting = waiting[1:]
			all = append(all, a)
			if p.burst[ifname]++; p.burst[ifname] >= maxBurst {
				p.next[ifname] = now + firstPause
				if a.round > 0 {
					p.next[ifname] = now + laterPause
				}
			}
		}
		p.waiting[ifname] = waiting
		if len(waiting) == 0 && p.next[ifname] <= now {
			delete(p.waiting, ifname)
			delete(p.next, ifname)
			delete(p.burst, ifname)
		}
	}
	return all
}

// deadline is when something is due, or vrrp.Never.
func (p *pacer) deadline() time.Duration {
	d := vrrp.Never
	for ifname, waiting := range p.waiting {
		if len(waiting) > 0 {
			d = min(d, p.next[ifname])
		}
	}
	return d
}
