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
)

// watch is what the rules remember of a node. The times are the world's.
type watch struct {
	n *Node

	wokeAt    time.Duration
	enteredAt time.Duration // the current state
	changedAt time.Duration // the configuration
	stopAt    time.Duration // when it was told to stop, or Never
	held      bool

	// As Master.
	every       time.Duration // its interval
	lastSent    time.Duration
	answered    time.Duration // when it last sent as an answer to another's advert
	owes        time.Duration // when the answer must have been sent, or Never
	announcedAt time.Duration
	lost        bool // packets, since the last timer
	doubted     bool // a lower advert came while its own silence was long
	looked      bool // for the same silence

	// Leaving.
	zeros     int           // priority 0 sent since Master; 2 unless it left by sending one
	leaveTill time.Duration // when the addresses must go at last

	// As Backup: the down timer, reckoned anew. See due.
	master   netip.Addr
	interval time.Duration // the master's
	adopted  bool          // it is from an advert
	base     time.Duration
	released time.Duration // or Never
	listen   time.Duration
	patience time.Duration
	lower    bool // an advert of lower priority was discarded since base

	// Addresses.
	pending []vrrp.Action
	sure    []netip.Addr
	refused bool          // what was added last
	excuse  time.Duration // until when the addresses may be wrong, as somebody else meddles with them
}

func newWatch(n *Node) watch {
	return watch{n: n, wokeAt: n.w.now, enteredAt: n.w.now, zeros: 2, released: vrrp.Never, interval: n.Config.Interval, every: n.Config.Interval, excuse: n.w.now + n.w.Late, answered: -time.Hour, owes: vrrp.Never, stopAt: vrrp.Never}
}

// due is when a Backup takes over if it hears nothing (RFC 9568 section 6.4.2).
func (k *watch) due() time.Duration {
	c := k.n.Config
	d := k.base + vrrp.MasterDown(c.Version, k.interval, c.Priority)
	if k.released != vrrp.Never {
		d = min(d, k.released+vrrp.Skew(c.Version, k.interval, c.Priority))
	}
	return max(d, k.listen)
}

// await begins to wait for a master's silence.
func (k *watch) await() {
	k.base, k.released, k.listen, k.lower = k.n.w.now, vrrp.Never, 0, false
}

// awaitAnew begins to wait for a master of whom nothing is known.
func (k *watch) awaitAnew() {
	k.interval, k.adopted, k.patience = k.n.Config.Interval, false, 0
	k.await()
}

// hears follows the adverts that come to a Backup.
func (k *watch) hears(r vrrp.Received) {
	c, now := k.n.Config, k.n.w.now
	switch priority := r.Advert.Priority; {
	case priority == vrrp.PriorityRelease:
		if k.released == vrrp.Never && (r.From == k.master || !k.master.IsValid()) {
			k.released = now
		}
		return
	case priority >= c.Priority:
		k.patience = 0
	case c.Preempt && !k.held:
		if k.patience == 0 {
			k.patience = now + c.PreemptDelay
		}
		if now >= k.patience {
			k.lower = true
			return
		}
	}
	if c.Version == 3 {
		k.interval, k.adopted = r.Advert.Interval, true
	}
	k.await()
}

// silent tells that a master has sent nothing for so long that others may have taken over.
func (k *watch) silent() bool { return k.n.w.now-k.lastSent >= 2*k.every }

// woke notes that time has passed without the daemon.
func (k *watch) woke() {
	k.wokeAt = k.n.w.now
	if k.refused {
		k.tryAgain()
	}
	if k.silent() {
		k.owes = vrrp.Never
	}
}

// judge looks at one Step of a node.
func (n *Node) judge(e vrrp.Event, before vrrp.State, actions []vrrp.Action) {
	k, now, after := &n.watch, n.w.now, n.machine.State()
	wasSilent := before == vrrp.Master && k.silent()

	switch e := e.(type) {
	case vrrp.Stop:
		k.stopAt = now
	case vrrp.Hold:
		if k.held && !e.On && before == vrrp.Backup {
			k.awaitAnew()
		}
		k.held = e.On
	case vrrp.Overflow:
		k.lost = true
	case vrrp.Missing, vrrp.Foreign:
		k.excuse = max(k.excuse, now)
	case vrrp.Reload:
		k.reloads(e.Config)
	case vrrp.Done:
		k.done(e)
	case vrrp.Received:
		n.judgeReceived(e, before, after, wasSilent, actions)
	case vrrp.Timer:
		if before == vrrp.Master && wasSilent && k.lost && (after == vrrp.Master || sends(actions)) {
			n.w.fail(L6, n, "goes on although what was said meanwhile is lost")
		}
		k.lost = false
	}

	if before != after {
		n.judgeChange(e, before, after, actions)
	}
	if k.due() <= now && before == vrrp.Backup && after == vrrp.Backup && e == (vrrp.Timer{}) && now-k.due() >= n.Config.Interval {
		k.listen = now + k.interval // it was not awake to hear the master
	}
	if most := 8 + 4*len(n.Config.All()); len(actions) > most {
		n.w.fail(I6, n, "%d actions at once, more than %d", len(actions), most)
	}
	for _, a := range actions {
		n.judgeAction(e, a, before, after, wasSilent)
	}
	if r, ok := e.(vrrp.Received); ok {
		if after == vrrp.Backup {
			k.hears(r)
		}
		if r.Advert.Priority != vrrp.PriorityRelease {
			k.master = r.From
		}
	}
}

func sends(actions []vrrp.Action) bool {
	return slices.ContainsFunc(actions, func(a vrrp.Action) bool { _, ok := a.(vrrp.Send); return ok })
}

// judgeReceived looks at how a node takes an advert.
func (n *Node) judgeReceived(r vrrp.Received, before, after vrrp.State, wasSilent bool, actions []vrrp.Action) {
	k, now, c := &n.watch, n.w.now, n.Config
	if r.Advert.Priority != vrrp.PriorityRelease && k.leaveTill > now {
		k.leaveTill = now
	}
	if before != vrrp.Master {
		return
	}
	priority := r.Advert.Priority
	better := priority > c.Priority || priority == c.Priority && r.From.Compare(n.told.source) > 0
	switch {
	case better && after == vrrp.Master:
		n.w.fail(L4, n, "stays master although %v has %d", r.From, priority)
	case better:
	case wasSilent && priority != vrrp.PriorityRelease:
		k.doubted = true
	case wasSilent:
	case after != vrrp.Master:
		n.w.fail(L4, n, "leaves for %v with only %d", r.From, priority)
	default:
		// It answers soon, but does not let itself be made to flood. After a release, backups count a short time.
		pause := min(c.Interval/4, 250*time.Millisecond)
		if priority == vrrp.PriorityRelease {
			pause = min(c.Interval/4, 2*time.Millisecond)
		}
		if k.owes = min(k.owes, now+pause); !sends(actions) {
			return
		}
		if now-k.answered < pause {
			n.w.fail(L4, n, "answers %v again after only %v", r.From, now-k.answered)
		}
		k.answered = now
	}
}

// judgeChange looks at a change of state.
func (n *Node) judgeChange(e vrrp.Event, before, after vrrp.State, actions []vrrp.Action) {
	k, now, c := &n.watch, n.w.now, n.Config
	k.enteredAt = now
	switch after {
	case vrrp.Master:
		switch start, starts := e.(vrrp.Start); {
		case starts && (start.Resume || c.Owner()):
		case before != vrrp.Backup || e != vrrp.Timer{}:
			n.w.fail(I9, n, "is master after %s, from %v", describe(e), before)
		case k.held:
			n.w.fail(I9, n, "takes over although it is held")
		case now < k.due():
			n.w.fail(I9, n, "takes over %v too early", k.due()-now)
		case now-k.due() >= n.Config.Interval:
			n.w.fail(I9, n, "takes over %v late, as if it had been awake to hear the master", now-k.due())
		}
		k.zeros, k.leaveTill, k.doubted, k.looked, k.answered = 0, 0, false, false, -time.Hour
	case vrrp.Backup:
		k.awaitAnew()
	}
	if before != vrrp.Master {
		return
	}
	if r, ok := e.(vrrp.Received); ok && !k.silent() {
		for _, o := range n.w.Nodes {
			if o.source == r.From && o.State() == vrrp.Master {
				n.w.ground.owed = &debt{by: o, from: n, at: now, till: now + c.Interval + 1100*time.Millisecond + 2*n.w.Delay + 2*n.w.Late + n.w.Work}
			}
		}
	}
	// An announcement that waits would steal the address from the next master.
	i := slices.IndexFunc(actions, func(a vrrp.Action) bool {
		switch a.(type) {
		case vrrp.CancelAnnounce, vrrp.Send, vrrp.Delete:
			return true
		}
		return false
	})
	if i < 0 || actions[i] != (vrrp.CancelAnnounce{}) {
		n.w.fail(I2, n, "leaves without ending its announcements first")
	}
	k.leaveTill, k.owes = now, vrrp.Never
	switch e.(type) {
	case vrrp.Stop, vrrp.Hold:
		k.leaveTill = now + max(c.Interval, time.Second)*11/10
	}
	if _, yields := e.(vrrp.Received); yields || !sends(actions) {
		k.zeros = 2
	}
}

// judgeAction looks at one action.
func (n *Node) judgeAction(e vrrp.Event, a vrrp.Action, before, after vrrp.State, wasSilent bool) {
	k, now := &n.watch, n.w.now
	switch a := a.(type) {
	case vrrp.Send:
		n.judgeSend(e, a.Priority, before, after, wasSilent)
	case vrrp.Announce:
		k.announcedAt = now
		if wasSilent && k.silent() {
			n.w.fail(L6, n, "announces before it knows whether it is still master")
		}
		for _, addr := range a.Addrs {
			going := slices.ContainsFunc(k.pending, func(p vrrp.Action) bool {
				d, ok := p.(vrrp.Delete)
				return ok && slices.Contains(d.Addrs, addr)
			})
			if after != vrrp.Master || going || !slices.Contains(k.sure, addr) {
				n.w.fail(I2, n, "announces %v: %v, being deleted: %t, added: %v", addr, after, going, k.sure)
			}
		}
	case vrrp.Recheck:
		k.looked = true
	case vrrp.Add:
		k.pending = append(k.pending, a)
		if after != vrrp.Master {
			n.w.fail(I3, n, "adds addresses as %v", after)
		}
	case vrrp.Delete:
		k.pending = append(k.pending, a)
		k.sure = without(k.sure, a.Addrs)
		switch e.(type) {
		case vrrp.Stop, vrrp.Hold, vrrp.Timer:
			if now < k.leaveTill {
				n.w.fail(L2, n, "deletes addresses before another node has them")
			}
		}
	case vrrp.Stopped:
		if k.stopAt == vrrp.Never || after != vrrp.Init || len(k.pending) > 0 {
			n.w.fail(I4, n, "says that it has stopped: asked at %v, %v, %d operations pending", k.stopAt, after, len(k.pending))
		}
		if len(n.mine) > 0 {
			n.w.fail(I4, n, "says that it has stopped, and has left %v", n.mine)
		}
	}
}

func (n *Node) judgeSend(e vrrp.Event, priority uint8, before, after vrrp.State, wasSilent bool) {
	k, now, c := &n.watch, n.w.now, n.Config
	if priority == vrrp.PriorityRelease {
		k.zeros++
		if leaves := before == vrrp.Master && after != vrrp.Master; after == vrrp.Master || k.zeros > 2 || k.zeros == 1 && !leaves {
			n.w.fail(I1, n, "sends priority 0 as %v, the %d. since it left", after, k.zeros)
		}
		if k.zeros == 2 && (after == vrrp.Fault || k.leaveTill <= now) {
			n.w.fail(I4, n, "sends a second priority 0 without an address")
		}
		return
	}
	switch e.(type) {
	case vrrp.Timer, vrrp.Checked:
		if wasSilent && !k.doubted && !k.looked {
			n.w.fail(L6, n, "sends after a silence without having looked at its host")
		}
	default:
		if wasSilent {
			n.w.fail(L6, n, "sends before it knows whether it is still master")
		}
	}
	_, received := e.(vrrp.Received)
	switch yields := before == vrrp.Master && received; {
	case after != vrrp.Master && !yields:
		n.w.fail(I1, n, "sends priority %d as %v", priority, after)
	case priority != c.Priority:
		n.w.fail(I7, n, "sends %d, not %d", priority, c.Priority)
	}
	k.lastSent, k.owes, k.doubted, k.looked = now, vrrp.Never, false, false
}

// reloads follows a new configuration. A running down timer keeps its base.
func (k *watch) reloads(c vrrp.Config) {
	if c.Version == 2 || !k.adopted {
		k.interval = c.Interval
	}
	k.changedAt, k.every = k.n.w.now, c.Interval
	k.excuse = max(k.excuse, k.n.w.now)
}

// done follows the answer to an operation.
func (k *watch) done(d vrrp.Done) {
	i := slices.IndexFunc(k.pending, func(a vrrp.Action) bool {
		switch a := a.(type) {
		case vrrp.Add:
			return a.Op == d.Op
		case vrrp.Delete:
			return a.Op == d.Op
		}
		return false
	})
	a := k.pending[i]
	k.pending = slices.Delete(k.pending, i, i+1)
	if add, ok := a.(vrrp.Add); ok {
		if k.refused = d.Err != nil; k.refused {
			k.tryAgain()
			return
		}
		for _, addr := range add.Addrs {
			k.sure = with(k.sure, addr)
		}
	}
}

// tryAgain gives a master the time to add an address that the kernel has refused.
func (k *watch) tryAgain() { k.excuse = k.n.w.now + 100*time.Millisecond + k.n.w.Work }

func without(s, gone []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(s), func(a netip.Addr) bool { return slices.Contains(gone, a) })
}

// judgeTime looks at what should have been by now.
func (n *Node) judgeTime() {
	k, w, now, state := &n.watch, n.w, n.w.now, n.State()
	switch {
	case state == vrrp.Backup && !k.held && now > max(k.due(), k.changedAt)+w.Late:
		rule := L1
		switch {
		case k.released != vrrp.Never:
			rule = L2
		case k.lower:
			rule = L3
		}
		w.fail(rule, n, "is backup although it was due at %v", k.due())
	case state == vrrp.Master && now > max(k.lastSent+n.Config.Interval, k.wokeAt+w.Work)+w.Late:
		w.fail(L7, n, "has sent nothing since %v", k.lastSent)
	case k.owes != vrrp.Never && now > max(k.owes, k.wokeAt)+w.Late:
		w.fail(L4, n, "has not answered another node's advert by %v", k.owes)
	case state == vrrp.Fault && n.told.link && n.told.source.IsValid() && now > max(k.enteredAt+30*time.Second, k.wokeAt)+w.Late:
		w.fail(L5, n, "has a fault since %v", k.enteredAt)
	case k.stopAt != vrrp.Never && now > max(k.stopAt, k.leaveTill, k.wokeAt)+w.Late+4*w.Work:
		w.fail(I4, n, "was asked to stop, and has not yet")
	}
	if !n.working && len(n.ops) == 0 && now > max(k.excuse, k.leaveTill, k.wokeAt)+w.Late {
		all := n.Config.All()
		has := n.Has()
		if state != vrrp.Master {
			all = nil
		}
		if more, less := without(has, all), without(all, has); len(more)+len(less) > 0 {
			w.fail(I3, n, "is %v, and has %v too much and lacks %v", state, more, less)
		}
	}
}

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
