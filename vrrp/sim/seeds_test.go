package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"poise/vrrp"
)

var (
	seeds   = flag.Int("seeds", 1000, "how many random clusters TestSeeds runs")
	oneSeed = flag.Uint64("seed", 0, "the one random cluster that TestSeeds runs, with its transcript")
)

// TestSeeds lets random clusters live through random mishaps.
func TestSeeds(t *testing.T) {
	if *oneSeed != 0 {
		w := life(*oneSeed, 0, nil)
		t.Logf("\n%s", w.Trace.Last(1<<30))
		if err := w.Failure(); err != nil {
			t.Error(err)
		}
		return
	}
	for seed := range uint64(*seeds) {
		if err := life(seed+1, 200, nil).report(seed + 1); err != nil {
			t.Fatal(err)
		}
	}
}

// report is the failure of a world with everything that helps to find the cause.
func (w *World) report(seed uint64) error {
	if w.Failure() == nil {
		return nil
	}
	return fmt.Errorf("seed %d: %w\n\n%s\nAgain, with all of the transcript: go test ./vrrp/sim -run Seeds -seed %d", seed, w.Failure(), w.Trace.Last(60), seed)
}

// TestSameSeed runs seeds twice: any difference would make failures unrepeatable.
func TestSameSeed(t *testing.T) {
	for seed := range uint64(20) {
		a, b := life(seed+1, 0, nil), life(seed+1, 0, nil)
		if a.Trace.Last(1<<30) != b.Trace.Last(1<<30) {
			t.Fatalf("seed %d: two runs differ", seed+1)
		}
	}
}

// TestJunk runs seeds with and without packets that must have no effect.
func TestJunk(t *testing.T) {
	for seed := range uint64(20) {
		clean := life(seed+1, 0, nil)
		full := life(seed+1, 0, func(w *World) { w.Junk(seed, w.longest()/20) })
		if err := full.report(seed + 1); err != nil {
			t.Fatal(err)
		}
		if clean.Trace.Last(1<<30) != full.Trace.Last(1<<30) {
			t.Fatalf("%s\nseed %d: the traces differ", I5, seed+1)
		}
	}
}

// mishap is something that may happen to a random cluster.
type mishap func(w *World, r *rand.Rand, n *Node, a time.Duration)

// life is the whole run of a random cluster.
func life(seed uint64, keep int, change func(*World)) *World {
	r := rand.New(rand.NewPCG(seed, 2))
	c, noise := cluster(r)
	w := New(seed, noise)
	w.Trace.Keep = keep
	for _, c := range c {
		w.Add(c)
	}
	a := w.longest()
	if change != nil {
		change(w)
	}
	for _, n := range w.Nodes {
		w.After(time.Duration(r.IntN(3))*a/2, func() { n.Start(false) })
	}
	w.For(5 * a)
	for range 50 + r.IntN(50) {
		mishaps[r.IntN(len(mishaps))](w, r, w.Nodes[r.IntN(len(w.Nodes))], a)
		switch r.IntN(4) {
		case 0: // the next one comes on top of it
			w.For(upTo(r, a))
		case 1, 2:
			w.For(upTo(r, 5*a))
		case 3: // the cluster comes to rest
			w.For(upTo(r, 12*a))
		}
	}
	w.mend(r)
	w.rest()
	return w
}

// cluster chooses configurations.
func cluster(r *rand.Rand) ([]vrrp.Config, Noise) {
	version, a := 3, []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second, 3 * time.Second}[r.IntN(4)]
	if r.IntN(4) == 0 {
		version, a = 2, time.Duration(1+r.IntN(3))*time.Second
	}
	six := version == 3 && r.IntN(4) == 0
	nodes := 2 + r.IntN(3)
	equal, owner, mixed, peers := r.IntN(6) == 0, r.IntN(8) == 0, version == 3 && r.IntN(6) == 0, r.IntN(4) == 0
	var configs []vrrp.Config
	for i := range nodes {
		c := vrrp.Config{
			Name: "r", Interface: "eth0", VRID: 51, Version: version, Priority: uint8(1 + r.IntN(254)), Interval: a, Preempt: r.IntN(4) > 0,
		}
		if mixed && r.IntN(2) == 0 {
			c.Interval = 2 * a
		}
		if equal {
			c.Priority = 100
		}
		if c.Preempt && r.IntN(4) == 0 {
			c.PreemptDelay = upTo(r, 5*a)
		}
		if owner && i == 0 {
			c.Priority, c.Preempt, c.PreemptDelay = 255, true, 0
		}
		if version == 2 && r.IntN(2) == 0 {
			c.Password = "secret"
		}
		for i := range 1 + r.IntN(3) {
			c.Addresses = append(c.Addresses, virtual(six, i))
		}
		if r.IntN(4) == 0 {
			c.Excluded = append(c.Excluded, virtual(!six, 9))
		}
		if peers {
			for j := range nodes {
				if j != i {
					c.Peers = append(c.Peers, hostAddr(six, j))
				}
			}
		}
		configs = append(configs, c)
	}
	for i := range configs { // what must be the same on all
		configs[i].Addresses, configs[i].Excluded, configs[i].Password = configs[0].Addresses, configs[0].Excluded, configs[0].Password
	}
	noise := Noise{Delay: a / 40, Late: a / 40, Work: a / 20}
	return configs, noise
}

func virtual(six bool, i int) netip.Addr {
	if six {
		return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 13: 1, 15: byte(i)})
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(200 + i)})
}

// For what lasts, undo comes by itself.
var mishaps = []mishap{
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // the daemon dies, and another may go on at once
		if !n.Runs() {
			return
		}
		resume, sent := n.State() == vrrp.Master, n.lastSent
		n.Kill()
		if resume && r.IntN(4) == 0 {
			resume = false
			n.GiveUp()
		}
		n.restart(r, a, func() bool { return resume && w.now-sent < 2*n.Config.Interval })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // the host dies
		n.PowerOff()
		n.restart(r, a, func() bool { return false })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // in good order
		n.Stop()
		n.restart(r, a, func() bool { return false })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) {
		n.Hold(true)
		w.After(upTo(r, 6*a), func() { n.Hold(false) })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) {
		w.pause(n, r, a)
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // all at once
		for _, n := range w.Nodes {
			w.pause(n, r, a)
		}
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // a partition
		side := slices.DeleteFunc(slices.Clone(w.Nodes), func(*Node) bool { return r.IntN(2) == 0 })
		w.Part(side, true)
		w.After(upTo(r, 8*a), func() { w.Part(side, false) })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // in one direction
		o := w.Nodes[r.IntN(len(w.Nodes))]
		if o != n {
			w.Cut(n, o, true)
			w.After(upTo(r, 8*a), func() { w.Cut(n, o, false) })
		}
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // a bad cable
		w.Disturb("loss")
		w.Net.Loss, w.Net.Dup = r.Float64(), r.Float64()
		w.After(upTo(r, 8*a), func() {
			w.Disturb("no more loss")
			w.Net.Loss = 0
		})
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) {
		w.Replay(r.IntN(64))
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) {
		n.SetLink(false)
		w.After(upTo(r, 5*a), func() { n.SetLink(true) })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) {
		if other := n.stranger(); len(n.Config.Peers) == 0 && r.IntN(2) == 0 {
			n.SetSource(other)
		} else {
			n.SetSource(netip.Addr{})
		}
		w.After(upTo(r, 2*a), func() { n.SetSource(n.Addr) })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) {
		addr := n.Config.All()[0]
		if slices.Contains(n.Has(), addr) {
			n.Steal(addr)
		} else if n.Runs() {
			n.Plant(addr)
		}
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // the kernel refuses
		w.Disturb("%s refuses addresses", n)
		n.Refuse = true
		w.After(upTo(r, 6*a), func() { n.Refuse = false })
	},
	func(w *World, r *rand.Rand, n *Node, a time.Duration) { // another configuration
		c := n.Config
		switch r.IntN(4) {
		case 0:
			if !c.Owner() {
				c.Priority = uint8(1 + r.IntN(254))
			}
		case 1:
			if c.Version == 3 {
				c.Interval = a * time.Duration(1+r.IntN(2))
			}
		case 2:
			c.Preempt = c.Owner() || !c.Preempt
			c.PreemptDelay = 0
		case 3:
			c.Addresses = slices.Clone(c.Addresses)
			c.Addresses = append(c.Addresses[:len(c.Addresses)-1], virtual(c.IPv6(), r.IntN(6)+3))
		}
		if n.Runs() {
			n.Reload(c)
		}
	},
}

// restart starts a daemon in a while, unless it does not end, or somebody else does.
func (n *Node) restart(r *rand.Rand, a time.Duration, resume func() bool) {
	n.w.After(upTo(r, 4*a), func() {
		if !n.Runs() {
			n.Start(resume())
		}
	})
}

func upTo(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

// pause stops a node's process, or its whole host, for a while.
func (w *World) pause(n *Node, r *rand.Rand, a time.Duration) {
	if !n.Runs() || n.frozen {
		return
	}
	n.Queue = 64
	switch r.IntN(4) {
	case 0:
		n.Queue = r.IntN(4)
		n.Freeze()
	case 1:
		n.Sleep()
	default:
		n.Freeze()
	}
	life := n.life
	w.After(upTo(r, 8*a), func() {
		if n.life == life {
			n.Wake()
		}
	})
}

// mend ends all mishaps.
func (w *World) mend(r *rand.Rand) {
	w.For(8 * w.longest()) // until everything that lasts is over
	for _, n := range w.Nodes {
		n.Hold(false)
		if !n.Runs() {
			n.Start(false)
		}
	}
}

// rest waits until a healthy cluster has come to rest, and looks whether it has.
func (w *World) rest() {
	var wait time.Duration
	for _, n := range w.Nodes {
		wait = max(wait, n.Config.PreemptDelay)
	}
	a := w.longest()
	w.For(wait + 12*a + 2*time.Second)
	w.judgeRest()
}
