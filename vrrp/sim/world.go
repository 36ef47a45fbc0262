// Package sim proves the election in virtual time: real machines, filters and packets, on hosts and a network that
// misbehave as a seed says, while rules judge everything that happens.
//
//	seed ──▶ World ── crash, freeze, cut, hold, … ──▶ Node ── Event ──▶ vrrp.Machine
//	           │                                       │ ▲                   │
//	           │                                packets│ └───── Action ◀─────┘
//	           ▼                                       ▼
//	         rules ◀───── Trace: one line a Step ─── Network: delays, loses, repeats, cuts
//
// A World is a function of its seed: the same seed gives the same trace, byte by byte. [World.Run] stops at the
// first broken [Rule], and [World.Failure] shows what led to it.
//
//	go test ./vrrp/sim                          the scenarios, and 1000 random clusters
//	go test ./vrrp/sim -run Seeds -seeds 10000  more of them
//	go test ./vrrp/sim -run Seeds -seed 4711 -v one of them, with its transcript
//
// The names: D is how long a packet travels at most, E how late a timer is at most, and T how long an address takes
// at most to be added or deleted ([Noise]). A is a node's advert interval, MDI its master down interval.
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"poise/vrrp"
)

// Noise bounds what is normal. Within the bounds everything is random; zero is an ideal world, in which every
// time is exact.
type Noise struct {
	Delay time.Duration // D: of a packet
	Late  time.Duration // E: of a timer, and of the news that something has changed on the host
	Work  time.Duration // T: of an Add, Delete or Recheck
}

// Machine is what a node needs of a vrrp.Machine. Tests put broken ones in its place.
type Machine interface {
	Step(now time.Duration, e vrrp.Event) []vrrp.Action
	Deadline() time.Duration
	State() vrrp.State
}

// Filter is what a node needs of a vrrp.Filter.
type Filter interface {
	Judge(p vrrp.Packet, own func(addr netip.Addr) bool) (vrrp.Received, []vrrp.Oddity, error)
}

// World is one run: its nodes, the network between them, and the time.
type World struct {
	Noise
	Nodes []*Node
	Net   Network
	Trace Trace

	NewMachine func(vrrp.Config) Machine
	NewFilter  func(vrrp.Config) Filter

	now     time.Duration
	rand    *rand.Rand
	queue   queue
	count   int // of tasks
	ground  ground
	failure error
}

// New returns an empty world at time 0.
func New(seed uint64, noise Noise) *World {
	w := &World{
		Noise:      noise,
		NewMachine: func(c vrrp.Config) Machine { return vrrp.New(c) },
		NewFilter:  func(c vrrp.Config) Filter { return vrrp.NewFilter(c) },
		rand:       rand.New(rand.NewPCG(seed, 0)),
	}
	w.Net.w = w
	w.ground = ground{two: vrrp.Never, overlap: vrrp.Never}
	return w
}

// Now is the time since the world began.
func (w *World) Now() time.Duration { return w.now }

// After calls do in a while.
func (w *World) After(d time.Duration, do func()) {
	w.count++
	heap.Push(&w.queue, task{w.now + d, w.count, do})
}

// Run lets time pass until then, or until a rule is broken.
func (w *World) Run(until time.Duration) {
	w.observe() // what was done to it since
	for w.failure == nil && len(w.queue) > 0 && w.queue[0].at <= until {
		t := heap.Pop(&w.queue).(task)
		w.now = t.at
		w.judgeTime()
		t.do()
		w.observe()
	}
	if w.failure == nil {
		w.now = until
		w.judgeTime()
	}
}

// For lets d pass.
func (w *World) For(d time.Duration) { w.Run(w.now + d) }

// Failure is the first broken rule with the transcript that led to it, or nil.
func (w *World) Failure() error { return w.failure }

// fail ends the run.
func (w *World) fail(r Rule, n *Node, format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("%s\n%v %s: %s", r, w.now, n, fmt.Sprintf(format, args...))
	}
}

// upTo is a random time in [0, d].
func (w *World) upTo(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return time.Duration(w.rand.Int64N(int64(d) + 1))
}

// queue is what is still to happen: by time, and in the order of its coming where that is the same. It is a [heap.Interface].
type queue []task

type task struct {
	at time.Duration
	n  int
	do func()
}

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at || q[i].at == q[j].at && q[i].n < q[j].n }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(t any)        { *q = append(*q, t.(task)) }

func (q *queue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = task{}
	*q = (*q)[:last]
	return t
}
