package sim

import (
	"net/netip"
	"slices"
	"time"

	"poise/vrrp"
)

// watch is what the rules remember of a node's daemon. The times are the world's.
type watch struct {
	reckoning

	wokeAt    time.Duration
	enteredAt time.Duration // the current state
	changedAt time.Duration // the configuration
	stopAt    time.Duration // when it was told to stop, or Never

	// As Master.
	lastSent    time.Duration
	answered    time.Duration // when it last sent as an answer to another's advert
	owes        time.Duration // when an answer must have been sent, or Never
	announcedAt time.Duration
	lost        bool // packets, since the last Timer
	suspect     bool // it was silent for long
	doubted     bool // and then a lower advert came
	looked      bool // or it looked at its host

	// Leaving.
	zeros     int           // how often priority 0 was sent; 2 when it did not leave by that
	leaveTill time.Duration // when the addresses must go at last

	// Addresses.
	pending []vrrp.Action // an Add or Delete each
	sure    []netip.Addr  // added
	sureAt  time.Duration
	told    []netip.Addr  // and announced
	refused bool          // what was to be added last
	excuse  time.Duration // until when they may be wrong, as somebody else meddles with them
}

func newWatch(c vrrp.Config, now time.Duration) watch {
	k := watch{wokeAt: now, enteredAt: now, stopAt: vrrp.Never, owes: vrrp.Never, zeros: 2, excuse: now}
	k.config = c
	k.begin(now)
	return k
}

// silent tells that a master has sent nothing for so long that others may have taken over, and not yet since.
func (k *watch) silent(now time.Duration) bool {
	k.suspect = k.suspect || now-k.lastSent >= 2*k.config.Interval
	return k.suspect
}

// wakes notes that time has passed without the daemon.
func (n *Node) wakes() {
	k := &n.watch
	k.wokeAt = n.w.now
	if k.refused {
		n.mayRetry()
	}
	if n.State() == vrrp.Master && k.silent(n.w.now) {
		k.owes = vrrp.Never
	}
}

// step is one Step of a node, as the rules see it.
type step struct {
	event         vrrp.Event
	before, after vrrp.State
	actions       []vrrp.Action
	silent        bool // it was a master of whom nothing was heard for long
}

// is tells whether an action is of a type.
func is[A vrrp.Action](a vrrp.Action) bool {
	_, ok := a.(A)
	return ok
}

// has tells whether there is an action of a type.
func has[A vrrp.Action](s step) bool { return slices.ContainsFunc(s.actions, is[A]) }

// judge looks at one Step.
func (n *Node) judge(e vrrp.Event, before vrrp.State, actions []vrrp.Action) {
	k, now := &n.watch, n.w.now
	s := step{e, before, n.machine.State(), actions, before == vrrp.Master && k.silent(now)}
	if most := 8 + 4*len(n.Config.All()); len(actions) > most {
		n.w.fail(I6, n, "%d actions at once, more than %d", len(actions), most)
	}
	switch e := e.(type) {
	case vrrp.Stop:
		k.stopAt = now
	case vrrp.Release:
		k.stopAt, k.leaveTill, k.zeros = now, now, 0
		if n.healthy() {
			k.leaveTill = now + 800*time.Millisecond // nothing vouches for what is behind the addresses
		}
	case vrrp.Hold:
		if k.held && !e.On && before == vrrp.Backup {
			k.begin(now)
		}
		k.held = e.On
	case vrrp.Overflow:
		k.lost = true
	case vrrp.Link, vrrp.Source:
		if !n.healthy() {
			k.leaveTill = min(k.leaveTill, now)
		}
	case vrrp.Missing:
		k.excuse = max(k.excuse, now)
		k.forget([]netip.Addr{e.Addr})
	case vrrp.Foreign:
		k.excuse = max(k.excuse, now)
	case vrrp.Reload:
		k.excuse, k.changedAt = max(k.excuse, now), now
		k.reloads(e.Config)
	case vrrp.Done:
		n.judgeDone(e)
	case vrrp.Received:
		n.judgeReceived(e, s)
	case vrrp.Timer:
		n.judgeTimer(s)
	}
	if s.before != s.after {
		k.enteredAt = now
		n.judgeEntry(s)
		n.judgeLeave(s)
	}
	for _, a := range actions {
		n.judgeAction(a, s)
	}
	if r, ok := e.(vrrp.Received); ok {
		if s.after == vrrp.Backup {
			k.hears(now, r)
		}
		if r.Advert.Priority != vrrp.PriorityRelease {
			k.master = r.From
		}
	}
}

// healthy tells whether the daemon knows of no fault of its host.
func (n *Node) healthy() bool { return n.told.link && n.told.source.IsValid() }

// judgeTimer looks at what a node does when it is time.
func (n *Node) judgeTimer(s step) {
	k := &n.watch
	stays := s.before == vrrp.Master && s.after == vrrp.Master
	switch {
	case stays && s.silent && k.lost, s.silent && k.lost && has[vrrp.Send](s):
		n.w.fail(L6, n, "goes on although what was said meanwhile is lost")
	case s.before == vrrp.Master && s.after == vrrp.Backup && !(s.silent && k.lost):
		n.w.fail(L6, n, "leaves without a reason")
	case s.before == vrrp.Backup && s.after == vrrp.Backup:
		k.stays(n.w.now)
	}
	k.lost = false
}

// judgeReceived looks at how a node takes an advert.
func (n *Node) judgeReceived(r vrrp.Received, s step) {
	k, now, c := &n.watch, n.w.now, n.Config
	priority := r.Advert.Priority
	if priority != vrrp.PriorityRelease {
		k.leaveTill = min(k.leaveTill, now)
	}
	if s.before != vrrp.Master {
		return
	}
	better := priority > c.Priority || priority == c.Priority && r.From.Compare(n.told.source) > 0
	switch yields := s.after != vrrp.Master; {
	case better && !yields:
		n.w.fail(L4, n, "stays master although %v has %d", r.From, priority)
	case better:
	case s.silent && priority != vrrp.PriorityRelease:
		k.doubted = true
		if yields == c.Preempt {
			n.w.fail(L6, n, "is %v after a silence and an advert %d, with preempt=%t", s.after, priority, c.Preempt)
		}
	case s.silent:
	case yields:
		n.w.fail(L4, n, "leaves for %v with only %d", r.From, priority)
	default:
		n.judgeAnswer(r, s)
	}
}

// judgeAnswer looks at how a master answers one who should not be. It answers soon, but does not let itself be made to
// flood; to a release at once, as there are backups that count a short time from it.
func (n *Node) judgeAnswer(r vrrp.Received, s step) {
	k, now := &n.watch, n.w.now
	pause := min(n.Config.Interval/4, 250*time.Millisecond)
	if r.Advert.Priority == vrrp.PriorityRelease {
		pause = min(n.Config.Interval/4, 2*time.Millisecond)
	}
	k.owes = min(k.owes, now+pause)
	if !has[vrrp.Send](s) {
		return
	}
	if k.answered > k.enteredAt && now-k.answered < pause {
		n.w.fail(L4, n, "answers %v again after only %v", r.From, now-k.answered)
	}
	k.answered = now
}

// judgeEntry looks at how a node comes into a state.
func (n *Node) judgeEntry(s step) {
	k, now := &n.watch, n.w.now
	if s.after == vrrp.Backup {
		k.begin(now)
	}
	if s.after != vrrp.Master {
		return
	}
	switch start, starts := s.event.(vrrp.Start); {
	case k.held:
		n.w.fail(I9, n, "takes over although it is held")
	case starts && (start.Resume || n.Config.Owner()):
	case s.before != vrrp.Backup || s.event != vrrp.Timer{}:
		n.w.fail(I9, n, "is master after %s, from %v", describe(s.event), s.before)
	case now < k.due():
		n.w.fail(I9, n, "takes over %v too early", k.due()-now)
	case now-k.due() >= n.Config.Interval:
		n.w.fail(I9, n, "takes over %v late, as if it had been awake to hear the master", now-k.due())
	}
	k.zeros, k.leaveTill, k.told, k.refused = 0, 0, nil, false
}

// judgeLeave looks at how a node ceases to be Master.
func (n *Node) judgeLeave(s step) {
	k, now := &n.watch, n.w.now
	if s.before != vrrp.Master {
		return
	}
	// What still waits to be announced would take the address from the next master.
	for _, a := range s.actions {
		if is[vrrp.CancelAnnounce](a) {
			break
		}
		if is[vrrp.Send](a) || is[vrrp.Delete](a) || is[vrrp.Became](a) {
			n.w.fail(I2, n, "leaves without ending its announcements first")
		}
	}
	k.leaveTill, k.owes = now, vrrp.Never
	switch e := s.event.(type) {
	case vrrp.Stop, vrrp.Hold:
		k.leaveTill = now + serves(n.Config)
	case vrrp.Received:
		k.zeros = 2
		if !s.silent {
			n.w.owe(n, e.From)
		}
	}
	if !has[vrrp.Send](s) {
		k.zeros = 2
	}
}

// serves is how long a node that leaves keeps the addresses when no other one takes them: a bit more than the longest skew, and
// a second at least.
func serves(c vrrp.Config) time.Duration {
	if c.Version == 2 {
		return 1100 * time.Millisecond
	}
	return max(c.Interval, time.Second) * 11 / 10
}

// judgeAction looks at one action.
func (n *Node) judgeAction(a vrrp.Action, s step) {
	k, now := &n.watch, n.w.now
	switch a := a.(type) {
	case vrrp.Send:
		if a.Priority == vrrp.PriorityRelease {
			n.judgeRelease(s)
		} else {
			n.judgeAdvert(a.Priority, s)
		}
	case vrrp.Announce:
		n.judgeAnnounce(a, s)
	case vrrp.Recheck:
		k.looked = true
	case vrrp.Add:
		k.pending = append(k.pending, a)
		k.forget(a.Addrs)
		if s.after != vrrp.Master {
			n.w.fail(I3, n, "adds addresses as %v", s.after)
		}
	case vrrp.Delete:
		k.pending = append(k.pending, a)
		k.forget(a.Addrs)
		switch s.event.(type) {
		case vrrp.Stop, vrrp.Hold, vrrp.Release, vrrp.Timer:
			if now < k.leaveTill {
				n.w.fail(L2, n, "deletes addresses before another node has them")
			}
		}
	case vrrp.Stopped:
		if k.stopAt == vrrp.Never || s.after != vrrp.Init || len(k.pending) > 0 || len(n.mine) > 0 {
			n.w.fail(I4, n, "says that it has stopped: asked at %v, %v, %d operations pending, has %v", k.stopAt, s.after, len(k.pending), n.mine)
		}
	}
}

func (n *Node) judgeRelease(s step) {
	k := &n.watch
	leaves := s.before == vrrp.Master && s.after != vrrp.Master || s.event == vrrp.Release{}
	if k.zeros++; s.after == vrrp.Master || k.zeros > 2 || k.zeros == 1 && !leaves {
		n.w.fail(I1, n, "sends priority 0 as %v, for the %d. time", s.after, k.zeros)
	}
	if k.zeros == 2 && k.leaveTill <= n.w.now {
		n.w.fail(I4, n, "sends a second priority 0 without its addresses")
	}
}

func (n *Node) judgeAdvert(priority uint8, s step) {
	k := &n.watch
	switch s.event.(type) {
	case vrrp.Timer, vrrp.Checked:
		if s.silent && !k.doubted && !k.looked {
			n.w.fail(L6, n, "sends after a silence without having looked at its host")
		}
	default:
		if s.silent {
			n.w.fail(L6, n, "sends before it knows whether it is still master")
		}
	}
	_, received := s.event.(vrrp.Received)
	switch yields := received && s.before == vrrp.Master; {
	case s.after != vrrp.Master && !yields:
		n.w.fail(I1, n, "sends priority %d as %v", priority, s.after)
	case priority != n.Config.Priority:
		n.w.fail(I7, n, "sends %d, not %d", priority, n.Config.Priority)
	}
	k.lastSent, k.owes, k.suspect, k.doubted, k.looked = n.w.now, vrrp.Never, false, false, false
}

func (n *Node) judgeAnnounce(a vrrp.Announce, s step) {
	k, now := &n.watch, n.w.now
	if s.silent && k.silent(now) {
		n.w.fail(L6, n, "announces before it knows whether it is still master")
	}
	for _, addr := range a.Addrs {
		if s.after != vrrp.Master || k.changing(addr) || !slices.Contains(k.sure, addr) {
			n.w.fail(I2, n, "announces %v: %v, changing: %t, added: %v", addr, s.after, k.changing(addr), k.sure)
		}
		k.told = with(k.told, addr)
	}
	k.announcedAt = now
}

// judgeDone follows the answer to an operation.
func (n *Node) judgeDone(d vrrp.Done) {
	k := &n.watch
	i := slices.IndexFunc(k.pending, func(a vrrp.Action) bool { return operation(a) == d.Op })
	a := k.pending[i]
	k.pending = slices.Delete(k.pending, i, i+1)
	add, ok := a.(vrrp.Add)
	switch {
	case !ok:
	case d.Err == nil:
		k.refused, k.sureAt = false, n.w.now
		for _, addr := range add.Addrs {
			if !k.changing(addr) {
				k.sure = with(k.sure, addr)
			}
		}
	case !k.refused:
		k.refused = true
		n.mayRetry()
	}
}

// changing tells whether an address is being added or deleted.
func (k *watch) changing(addr netip.Addr) bool {
	return slices.ContainsFunc(k.pending, func(a vrrp.Action) bool {
		switch a := a.(type) {
		case vrrp.Add:
			return slices.Contains(a.Addrs, addr)
		case vrrp.Delete:
			return slices.Contains(a.Addrs, addr)
		}
		return false
	})
}

// forget notes that addresses are not there, or may not be.
func (k *watch) forget(addrs []netip.Addr) {
	k.sure, k.told = without(k.sure, addrs), without(k.told, addrs)
}

// mayRetry gives a master the time to add again three times what the kernel has refused.
func (n *Node) mayRetry() {
	n.excuse = n.w.now + 100*time.Millisecond + 4*(n.w.Work+n.w.Late)
}

// operation is the number of an Add or Delete.
func operation(a vrrp.Action) uint64 {
	switch a := a.(type) {
	case vrrp.Add:
		return a.Op
	case vrrp.Delete:
		return a.Op
	}
	return 0
}

// judgeTime looks at what should have been by now.
func (n *Node) judgeTime() {
	k, w, now, state := &n.watch, n.w, n.w.now, n.State()
	switch {
	case state == vrrp.Backup && !k.held && now > max(k.due(), k.changedAt)+w.Late:
		w.fail(k.overdue(), n, "is backup although it was due at %v", k.due())
	case state == vrrp.Master && now > max(k.lastSent+n.Config.Interval, k.wokeAt+w.Work)+w.Late:
		w.fail(L7, n, "has sent nothing since %v", k.lastSent)
	case state == vrrp.Master && now > max(k.sureAt, k.wokeAt+w.Work)+w.Late && len(without(k.sure, k.told)) > 0:
		w.fail(L8, n, "has announced only %v of %v, added at %v", k.told, k.sure, k.sureAt)
	case k.owes != vrrp.Never && now > max(k.owes, k.wokeAt)+w.Late:
		w.fail(L4, n, "has not answered another node's advert by %v", k.owes)
	case state == vrrp.Fault && n.healthy() && now > max(k.enteredAt+30*time.Second, k.wokeAt)+w.Late:
		w.fail(L5, n, "has a fault since %v", k.enteredAt)
	case k.stopAt != vrrp.Never && now > max(k.stopAt, k.leaveTill, k.wokeAt)+w.Late+4*w.Work:
		w.fail(I4, n, "was told to stop at %v, and has not yet", k.stopAt)
	case !n.working && len(n.ops) == 0 && now > max(k.excuse, k.leaveTill, k.wokeAt)+w.Late:
		var want []netip.Addr
		if state == vrrp.Master {
			want = n.Config.All()
		}
		if more, less := without(n.Has(), want), without(want, n.Has()); len(more)+len(less) > 0 {
			w.fail(I3, n, "is %v, and has %v too much and lacks %v", state, more, less)
		}
	}
}

// overdue is the rule that a Backup breaks which should have taken over.
func (k *reckoning) overdue() Rule {
	switch {
	case k.released != vrrp.Never:
		return L2
	case k.lower:
		return L3
	}
	return L1
}

// with and without are for sets that are too small for a map.
func with(s []netip.Addr, a netip.Addr) []netip.Addr {
	if slices.Contains(s, a) {
		return s
	}
	return append(s, a)
}

func without(s, gone []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(s), func(a netip.Addr) bool { return slices.Contains(gone, a) })
}
