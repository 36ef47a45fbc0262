package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"poise/vrrp"
)

// Rule is something that must always hold. I are invariants: what must never be. L is liveness: what must be in time.
type Rule string

// The rules. All but I5, which [World.Junk] puts to the test, are watched in every run.
const (
	I1 Rule = "I1: only a master sends adverts, the last when it yields; priority 0 when it leaves otherwise, at most twice"
	I2 Rule = "I2: only a master announces, and only what it has installed and keeps"
	I3 Rule = "I3: when all operations are done, a master has all addresses and the others have none"
	I4 Rule = "I4: who is not in the election sends and holds nothing"
	I5 Rule = "I5: what the filter refuses has no effect"
	I6 Rule = "I6: a step is bounded, nothing is due after a timer, and a timer before the deadline does nothing"
	I7 Rule = "I7: the priority of adverts is the configured one"
	I8 Rule = "I8: in peace there is one master, and an address is on one host"
	I9 Rule = "I9: no takeover unless the master was silent for MDI or released it a skew ago, and the host was awake to hear it"
	L1 Rule = "L1: a backup takes over when it has heard nothing for MDI"
	L2 Rule = "L2: a backup takes over a skew after a release, and the addresses stay until then"
	L3 Rule = "L3: a better backup takes over after MDI, or the preemption delay and MDI"
	L4 Rule = "L4: of two masters who hear each other the better one remains, and says so at once"
	L5 Rule = "L5: a router whose faults are over is in the election again"
	L6 Rule = "L6: a master that slept judges first what was said meanwhile, and looks at its host if nothing was"
	L7 Rule = "L7: a master sends every A"
	L8 Rule = "L8: a master announces what it has added"
)

// ground is what the rules remember of the world.
type ground struct {
	peace   time.Duration // since when nothing was done to it
	two     time.Duration // since when there is more than one master, or Never
	overlap time.Duration // since when an address is on more than one host, or Never
	owed    *debt
}

// debt is an announcement that the better of two masters owes to the neighbours, who may believe the other one.
type debt struct {
	by       *Node
	from     *Node
	at, till time.Duration
}

// owe notes that a node has yielded to another one. They may have been masters side by side for long, without a way
// between them: the neighbours must hear the right one last.
func (w *World) owe(from *Node, to netip.Addr) {
	i := slices.IndexFunc(w.Nodes, func(n *Node) bool { return n.source == to && n.State() == vrrp.Master })
	if i >= 0 {
		wait := from.Config.Interval + 1100*time.Millisecond + 2*w.Delay + 2*w.Late + w.Work
		w.ground.owed = &debt{by: w.Nodes[i], from: from, at: w.now, till: w.now + wait}
	}
}

// Disturb says that something is done to the world: what was peace is no more, and begins anew.
func (w *World) Disturb(format string, args ...any) { w.disturb(nil, format, args...) }

func (w *World) disturb(n *Node, format string, args ...any) {
	if w.failure == nil {
		w.Trace.add(Line{At: w.now, Node: n, Done: "-- " + fmt.Sprintf(format, args...)})
		w.ground.peace = w.now
	}
}

// war tells that something is being done to the world.
func (w *World) war() bool {
	return w.Net.broken() || slices.ContainsFunc(w.Nodes, func(n *Node) bool { return n.frozen || n.Refuse })
}

// longest is the longest advert interval of the nodes.
func (w *World) longest() time.Duration {
	var a time.Duration
	for _, n := range w.Nodes {
		a = max(a, n.Config.Interval)
	}
	return a
}

// observe notes what is so now.
func (w *World) observe() {
	since := func(t *time.Duration, is bool) {
		switch {
		case !is:
			*t = vrrp.Never
		case *t == vrrp.Never:
			*t = w.now
		}
	}
	since(&w.ground.two, len(w.Masters()) > 1)
	since(&w.ground.overlap, w.overlaps())
}

// Masters are the nodes that think they are.
func (w *World) Masters() []*Node {
	var masters []*Node
	for _, n := range w.Nodes {
		if n.State() == vrrp.Master {
			masters = append(masters, n)
		}
	}
	return masters
}

// overlaps tells whether another host has an address of a master too. That of a killed daemon is nobody's fault.
func (w *World) overlaps() bool {
	for _, master := range w.Nodes {
		for _, n := range w.Nodes {
			if n != master && master.State() == vrrp.Master && n.Runs() &&
				slices.ContainsFunc(n.Has(), func(a netip.Addr) bool { return slices.Contains(master.kernel, a) }) {
				return true
			}
		}
	}
	return false
}

// judgeTime looks at what should have been by now.
func (w *World) judgeTime() {
	if w.war() {
		w.ground.peace = w.now
	}
	settled := w.ground.peace + w.longest() + 2*w.Delay + 2*w.Late
	if g := w.ground; g.two != vrrp.Never && w.now > max(settled, g.two+w.Delay+w.Late) {
		w.fail(I8, nil, "%v are masters since %v", w.Masters(), g.two)
	} else if g.overlap != vrrp.Never && w.now > max(settled+w.Work, g.overlap+w.Delay+w.Late+2*w.Work) {
		w.fail(I8, nil, "an address is on two hosts since %v", g.overlap)
	}
	if d := w.ground.owed; d != nil && (w.ground.peace > d.at || d.by.State() != vrrp.Master || d.by.announcedAt > d.from.announcedAt) {
		w.ground.owed = nil
	} else if d != nil && w.now > d.till {
		w.fail(L4, d.by, "has not announced since %v, but %v did at %v", d.by.announcedAt, d.from, d.from.announcedAt)
	}
	for _, n := range w.Nodes {
		if n.Runs() && !n.frozen {
			n.judgeTime()
		}
	}
}

// judgeRest looks at a cluster that nothing was done to for so long that all must be decided.
func (w *World) judgeRest() {
	candidates := slices.DeleteFunc(slices.Clone(w.Nodes), func(n *Node) bool {
		fresh := n.State() == vrrp.Backup && w.now-n.enteredAt < n.Config.PreemptDelay+6*w.longest()
		return !n.Runs() || n.held || n.stopAt != vrrp.Never || n.State() == vrrp.Fault || fresh
	})
	masters := w.Masters()
	switch {
	case len(candidates) == 0 && len(masters) == 0:
		return
	case len(masters) != 1:
		w.fail(L4, nil, "%d masters of %v after all that time: %v", len(masters), candidates, masters)
		return
	}
	for _, n := range candidates {
		if n.Config.Preempt && n.Config.Priority > masters[0].Config.Priority {
			w.fail(L3, n, "is better than the master %v, and has not taken over", masters[0])
		}
	}
}
