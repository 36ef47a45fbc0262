package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"poise/vrrp"
)

// Node is one host: its clock, its interface, and the daemon that drives a machine as the real one does.
type Node struct {
	Name   string
	Config vrrp.Config
	Addr   netip.Addr
	// Queue is how many packets wait for a daemon that does not run; those after them are lost.
	Queue int
	// Refuse lets the kernel refuse to add addresses.
	Refuse bool

	w *World

	// The host.
	boot   time.Duration // what its clock says when the world begins
	link   bool
	source netip.Addr   // invalid: it has none
	kernel []netip.Addr // virtual addresses on the interface
	wish   bool         // an operator's, that the router is held; every daemon is told

	// The daemon. What is under way when a life ends comes to nothing.
	life     int
	machine  Machine // nil: it does not run
	filter   Filter
	frozen   bool
	asleep   bool          // the host is, with everything
	waiting  []vrrp.Packet // for a frozen daemon
	overflow bool          // too many waited
	news     []func()      // other things that wait
	told     news          // what the machine knows of the host
	mine     []netip.Addr  // what the worker has put on the interface
	ops      []vrrp.Action // for the worker, one after the other
	working  bool
	armed    time.Duration // the deadline that a timer runs for
	timer    int           // which timer that is

	watch
}

// news is what a machine has been told of its host.
type news struct {
	link   bool
	source netip.Addr
}

var errRefused = errors.New("operation not permitted")

// Add adds a host, with link and source address, without a daemon.
func (w *World) Add(c vrrp.Config) *Node {
	i := len(w.Nodes)
	addr := hostAddr(c.IPv6(), i)
	n := &Node{Name: string(rune('a' + i)), Config: c, Addr: addr, Queue: 64, w: w, link: true, source: addr}
	n.boot = time.Hour + w.upTo(1000*w.Late)
	w.Nodes = append(w.Nodes, n)
	return n
}

// hostAddr is the address of the i-th node.
func hostAddr(six bool, i int) netip.Addr {
	if six {
		return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(i + 1)})
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
}

// String is the name; no node is the world.
func (n *Node) String() string {
	if n == nil {
		return "world"
	}
	return n.Name
}

// stranger is an address of no node.
func (n *Node) stranger() netip.Addr {
	b := n.Addr.AsSlice()
	b[len(b)-1] += 100
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func (n *Node) destinations() []netip.Addr {
	switch {
	case len(n.Config.Peers) > 0:
		return n.Config.Peers
	case n.Config.IPv6():
		return []netip.Addr{vrrp.GroupIPv6}
	}
	return []netip.Addr{vrrp.GroupIPv4}
}

func (n *Node) clock() time.Duration { return n.w.now + n.boot }

// State is the machine's, Init without a daemon.
func (n *Node) State() vrrp.State {
	if n.machine == nil {
		return vrrp.Init
	}
	return n.machine.State()
}

// Has are the addresses of this virtual router on the interface.
func (n *Node) Has() []netip.Addr {
	all := n.Config.All()
	return slices.DeleteFunc(slices.Clone(n.kernel), func(a netip.Addr) bool { return !slices.Contains(all, a) && !slices.Contains(n.mine, a) })
}

// Runs tells whether the node has a daemon, frozen or not.
func (n *Node) Runs() bool { return n.machine != nil }

// Start starts the daemon. With resume it goes on as master where a killed one was.
func (n *Node) Start(resume bool) {
	n.w.disturb(n, "daemon starts")
	n.run(resume, vrrp.Start{Resume: resume})
}

// GiveUp starts a daemon that only gives up what a killed one has left.
func (n *Node) GiveUp() {
	n.w.disturb(n, "daemon starts, only to leave")
	n.run(true, vrrp.Release{})
}

// run begins a life. What is on the interface is the daemon's own, or else it is told and takes it off before it starts.
func (n *Node) run(owns bool, first vrrp.Event) {
	n.life++
	n.machine, n.filter = n.w.NewMachine(n.Config), n.w.NewFilter(n.Config)
	n.frozen, n.waiting, n.overflow, n.news = false, nil, false, nil
	n.told, n.mine, n.ops, n.working, n.armed = news{}, nil, nil, false, vrrp.Never
	n.watch = newWatch(n.Config, n.w.now)
	if owns {
		n.mine = n.Has()
	}
	if n.wish {
		n.step(vrrp.Hold{On: true})
	}
	n.look()
	n.step(first)
}

// Stop asks the daemon to leave.
func (n *Node) Stop() {
	n.w.disturb(n, "is to stop")
	n.soon(0, func() { n.step(vrrp.Stop{}) })
}

// Kill ends the daemon at once. The host keeps what it has installed.
func (n *Node) Kill() {
	n.w.disturb(n, "daemon killed")
	n.end()
}

// PowerOff ends the whole host.
func (n *Node) PowerOff() {
	n.w.disturb(n, "power off")
	n.end()
	n.kernel, n.boot = nil, n.w.upTo(time.Hour)-n.w.now // its next boot is to come
}

func (n *Node) end() {
	n.life++
	n.machine, n.frozen, n.asleep = nil, false, false
}

// Freeze stops the daemon's process; what comes waits.
func (n *Node) Freeze() {
	n.w.disturb(n, "frozen")
	n.frozen = true
}

// Sleep suspends the host; what comes is lost, without a trace.
func (n *Node) Sleep() {
	n.w.disturb(n, "suspended")
	n.frozen, n.asleep = true, true
}

// Wake ends Freeze and Sleep: what waited comes first, in its order, and time last.
func (n *Node) Wake() {
	n.w.disturb(n, "wakes")
	n.frozen, n.asleep = false, false
	n.wakes()
	waiting, overflow, news := n.waiting, n.overflow, n.news
	n.waiting, n.overflow, n.news = nil, false, nil
	for _, p := range waiting {
		n.hear(p)
	}
	if overflow {
		n.step(vrrp.Overflow{})
	}
	for _, do := range news {
		do()
	}
	n.work()
	if n.machine != nil && n.machine.Deadline() <= n.clock() {
		n.tick()
	}
	n.arm()
}

// SetLink plugs the cable in or out.
func (n *Node) SetLink(up bool) {
	n.w.disturb(n, "link %s", map[bool]string{true: "up", false: "down"}[up])
	n.link = up
	n.lookSoon()
}

// SetSource changes the host's own address; invalid is none.
func (n *Node) SetSource(addr netip.Addr) {
	n.w.disturb(n, "own address is %v", addr)
	n.source = addr
	n.lookSoon()
}

// Steal takes a virtual address off the interface, as somebody else.
func (n *Node) Steal(addr netip.Addr) {
	n.w.disturb(n, "%v is removed by somebody", addr)
	n.excuse = max(n.excuse, n.w.now)
	n.kernel = slices.DeleteFunc(n.kernel, func(a netip.Addr) bool { return a == addr })
	n.lookSoon()
}

// Plant puts a virtual address on the interface, as somebody else.
func (n *Node) Plant(addr netip.Addr) {
	n.w.disturb(n, "%v is added by somebody", addr)
	n.excuse = max(n.excuse, n.w.now)
	if !slices.Contains(n.kernel, addr) {
		n.kernel = append(n.kernel, addr)
	}
	n.lookSoon()
}

// Reload gives the daemon another configuration of the same router.
func (n *Node) Reload(c vrrp.Config) {
	n.w.disturb(n, "is to reload")
	n.soon(0, func() {
		n.Config, n.filter = c, n.w.NewFilter(c)
		n.step(vrrp.Reload{Config: c})
		n.lookSoon() // its new addresses may be here
	})
}

// Hold is an operator's wish.
func (n *Node) Hold(on bool) {
	n.w.disturb(n, "is to be held: %t", on)
	n.wish = on
	n.soon(0, func() { n.step(vrrp.Hold{On: on}) })
}

// soon lets the daemon of this life do something in [0, d], or when it wakes.
func (n *Node) soon(d time.Duration, do func()) {
	life := n.life
	alive := func() {
		if n.life == life {
			do()
		}
	}
	n.w.After(n.w.upTo(d), func() {
		if n.frozen {
			n.news = append(n.news, alive)
		} else {
			alive()
		}
	})
}

// lookSoon lets the daemon notice what has changed on the host.
func (n *Node) lookSoon() { n.soon(n.w.Late, n.look) }

// look compares the host with what the machine knows. What the worker is about to do is looked at later.
func (n *Node) look() {
	if n.machine == nil {
		return
	}
	if n.link != n.told.link {
		n.told.link = n.link
		n.step(vrrp.Link{Up: n.link})
	}
	if n.source != n.told.source {
		n.told.source = n.source
		n.step(vrrp.Source{Addr: n.source})
	}
	if n.working || len(n.ops) > 0 {
		return
	}
	var changes []vrrp.Event
	for _, a := range n.Config.All() {
		switch has, mine := slices.Contains(n.kernel, a), slices.Contains(n.mine, a); {
		case has && !mine:
			changes = append(changes, vrrp.Foreign{Addr: a})
		case !has && mine:
			changes = append(changes, vrrp.Missing{Addr: a})
		}
	}
	for _, e := range changes {
		n.step(e)
	}
}

// arrive takes a packet off the network.
func (n *Node) arrive(p vrrp.Packet) {
	switch {
	case n.machine == nil || !n.link || n.asleep:
	case !n.frozen:
		n.hear(p)
		if n.w.Late > 0 && n.w.rand.IntN(16) == 0 {
			n.early()
		}
	case len(n.waiting) < n.Queue:
		n.waiting = append(n.waiting, p)
	default:
		n.overflow = true
	}
}

// hear gives the machine what passes the filter.
func (n *Node) hear(p vrrp.Packet) {
	if n.machine == nil {
		return
	}
	if got, _, err := n.filter.Judge(p, n.own); err == nil {
		n.step(got)
	}
}

// arriveJunk takes a packet off the network that the filter must refuse.
func (n *Node) arriveJunk(p vrrp.Packet) {
	if n.machine == nil || !n.link || n.asleep || n.frozen {
		return
	}
	if got, _, err := n.filter.Judge(p, n.own); err == nil {
		n.w.fail(I5, n, "heard %s in %+v", describe(got), p)
	}
}

func (n *Node) own(a netip.Addr) bool { return a == n.source || slices.Contains(n.kernel, a) }

// step gives the machine an event and does what it wants.
func (n *Node) step(e vrrp.Event) {
	if n.machine == nil || n.w.failure != nil {
		return
	}
	before := n.machine.State()
	actions := n.machine.Step(n.clock(), e)
	n.w.Trace.add(Line{At: n.w.now, Node: n, Event: e, Actions: actions})
	n.judge(e, before, actions)
	for _, a := range actions {
		n.do(a)
	}
	n.arm()
}

func (n *Node) do(a vrrp.Action) {
	switch a := a.(type) {
	case vrrp.Send:
		n.w.Net.advert(n, a.Priority)
	case vrrp.Add, vrrp.Delete:
		n.ops = append(n.ops, a)
		n.work()
	case vrrp.Recheck:
		n.soon(n.w.Work, func() {
			n.look()
			n.step(vrrp.Checked{})
		})
	case vrrp.Stopped:
		n.end()
	}
}

// work carries out one operation. The process may be frozen meanwhile: the kernel finishes what it has begun.
func (n *Node) work() {
	if n.working || len(n.ops) == 0 || n.frozen || n.machine == nil {
		return
	}
	n.working = true
	op := n.ops[0]
	n.ops = n.ops[1:]
	life := n.life
	n.w.After(n.w.upTo(n.w.Work), func() {
		if n.life != life {
			return
		}
		done := n.apply(op)
		n.soon(0, func() {
			n.working = false
			n.step(done)
			n.work()
			if len(n.ops) == 0 {
				n.look()
			}
		})
	})
}

func (n *Node) apply(op vrrp.Action) vrrp.Done {
	switch op := op.(type) {
	case vrrp.Add:
		if n.Refuse {
			return vrrp.Done{Op: op.Op, Err: fmt.Errorf("add %v: %w", op.Addrs, errRefused)}
		}
		for _, a := range op.Addrs {
			n.mine, n.kernel = with(n.mine, a), with(n.kernel, a)
		}
		return vrrp.Done{Op: op.Op}
	case vrrp.Delete:
		gone := func(a netip.Addr) bool { return slices.Contains(op.Addrs, a) }
		n.mine, n.kernel = slices.DeleteFunc(n.mine, gone), slices.DeleteFunc(n.kernel, gone)
		return vrrp.Done{Op: op.Op}
	}
	panic(fmt.Sprintf("%T is not the worker's", op))
}

// arm sets the timer for the machine's deadline, unless it runs for that already.
func (n *Node) arm() {
	if n.machine == nil || n.frozen {
		return
	}
	due := n.machine.Deadline()
	if due == n.armed {
		return
	}
	n.armed = due
	n.timer++
	if due == vrrp.Never {
		return
	}
	timer, life := n.timer, n.life
	n.w.After(max(0, due-n.clock())+n.w.upTo(n.w.Late), func() {
		if n.timer == timer && n.life == life && !n.frozen {
			n.tick()
		}
	})
}

// tick tells the machine the time. One time must be enough.
func (n *Node) tick() {
	n.armed = vrrp.Never
	n.step(vrrp.Timer{})
	if n.machine != nil && n.machine.Deadline() <= n.clock() {
		n.w.fail(I6, n, "is still due after a timer")
	}
}

// early tells the machine the time before it asked for it.
func (n *Node) early() {
	if n.machine == nil || n.machine.Deadline() <= n.clock() {
		return
	}
	due := n.machine.Deadline()
	if actions := n.machine.Step(n.clock(), vrrp.Timer{}); len(actions) > 0 || n.machine.Deadline() != due {
		n.w.Trace.add(Line{At: n.w.now, Node: n, Event: vrrp.Timer{}, Actions: actions})
		n.w.fail(I6, n, "does something before its deadline")
	}
}
